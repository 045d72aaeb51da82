//! Settings of circuit relays.

use super::super::When;
use crate::BuildError;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Longest time a circuit or a reservation may last: libp2p tells it in 32 bits of seconds.
const MAX_LASTS: Duration = Duration::from_secs(7 * 86_400);

/// Circuit relays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Being a relay for others.
    pub server: Server,
    /// Being reached through others.
    pub client: Client,
}

/// What this node carries for others. It is offered only while this node is told to be reached
/// directly, so not from behind a NAT. Durations are written like `2m` or `1h`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Whether it is offered at all. Default on.
    pub enabled: bool,
    /// Peers that may hold a reservation. Default 256. Worst case: 256 * 1 KB.
    pub max_reservations: usize,
    /// How long a reservation lasts unless it is renewed. Default 1 h.
    #[serde(with = "humantime_serde")]
    pub reservation_lasts: Duration,
    /// Circuits at the same time, in all. Default 512. Worst case: 512 * (2 * 8 KiB of buffers + 4
    /// KB) = 10 MB.
    pub max_circuits: usize,
    /// Of these, circuits that one peer opens or is reached by, counted when it opens one. Default 32.
    pub max_circuits_per_peer: usize,
    /// Bytes that one circuit may carry, both ways together. Default 256 MiB.
    pub max_circuit_bytes: u64,
    /// How long one circuit may last. Default 2 h.
    #[serde(with = "humantime_serde")]
    pub max_circuit_lasts: Duration,
    /// Circuits that one source (an IPv4 address, or the /64 of an IPv6 address) may open a minute;
    /// as many may be opened at once. Default 120: many peers share an address behind one NAT.
    pub source_per_minute: u32,
    /// The same for one peer. Default 60.
    pub peer_per_minute: u32,
    /// Reservations that one source may ask for a minute, renewals too. Default 60.
    pub reservations_per_minute: u32,
    /// Sources and peers whose rates are remembered, those that asked longest ago leaving first.
    /// Default 4,096. Worst case: 3 tables of 4,096 * 120 bytes = 1.5 MB.
    pub max_remembered: usize,
}

/// Being reached through relays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Client {
    /// When reservations are held. Default `auto`: while this node has no address at which it is
    /// told to be reached directly.
    pub enabled: Use,
    /// Reservations, at different relays. Default 2, at most 4.
    pub reservations: usize,
    /// Whether only peers are asked that an account in good standing answers for, and bootnodes,
    /// which the operator chose. Default `auto`: where `address_policy` is `global`.
    pub bound_only: When,
    /// How long this node has to be without such an address until relays are asked. Default 0 s: what
    /// it provides is announced soon after it has come, with the addresses that it has by then.
    #[serde(with = "humantime_serde")]
    pub ask_after: Duration,
    /// How long this node has to be reached directly until reservations are given back. Default 5
    /// min.
    #[serde(with = "humantime_serde")]
    pub release_after: Duration,
    /// Longest time a relay may take to answer until another is asked. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Wait until a relay is asked again that refused or failed, doubled with each time. Default 10
    /// s.
    #[serde(with = "humantime_serde")]
    pub retry: Duration,
    /// Longest such wait. Default 10 min.
    #[serde(with = "humantime_serde")]
    pub retry_max: Duration,
    /// Relays that are remembered, the unconnected one not heard of for longest leaving first.
    /// Default 64. Worst case: 64 * 600 bytes = 38 KB.
    pub max_relays: usize,
}

/// When reservations are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Use {
    /// While this node is not told to be reached directly.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            enabled: true,
            max_reservations: 256,
            reservation_lasts: Duration::from_secs(3600),
            max_circuits: 512,
            max_circuits_per_peer: 32,
            max_circuit_bytes: 256 << 20,
            max_circuit_lasts: Duration::from_secs(2 * 3600),
            source_per_minute: 120,
            peer_per_minute: 60,
            reservations_per_minute: 60,
            max_remembered: 4096,
        }
    }
}

impl Default for Client {
    fn default() -> Self {
        Self {
            enabled: Use::Auto,
            reservations: 2,
            bound_only: When::Auto,
            ask_after: Duration::ZERO,
            release_after: Duration::from_secs(300),
            timeout: Duration::from_secs(5),
            retry: Duration::from_secs(10),
            retry_max: Duration::from_secs(600),
            max_relays: 64,
        }
    }
}

impl Config {
    pub(crate) fn validate(&self) -> Result<(), BuildError> {
        let fail = |setting, problem: &str| {
            Err(BuildError::Setting { setting, problem: problem.to_owned() })
        };
        let Self { server, client } = self;
        for (setting, value) in [
            ("nat.relay.server.max_circuits_per_peer", server.max_circuits_per_peer),
            ("nat.relay.server.max_remembered", server.max_remembered),
            ("nat.relay.client.max_relays", client.max_relays),
        ] {
            if value == 0 {
                return fail(setting, "must be above zero");
            }
        }
        for (setting, value) in [
            ("nat.relay.server.source_per_minute", server.source_per_minute),
            ("nat.relay.server.peer_per_minute", server.peer_per_minute),
            ("nat.relay.server.reservations_per_minute", server.reservations_per_minute),
        ] {
            if value == 0 {
                return fail(setting, "must be above zero; enabled = false carries nothing");
            }
        }
        for (setting, value) in [
            ("nat.relay.server.reservation_lasts", server.reservation_lasts),
            ("nat.relay.server.max_circuit_lasts", server.max_circuit_lasts),
        ] {
            if value < Duration::from_secs(60) || value > MAX_LASTS {
                return fail(setting, "must be 1 minute to 7 days");
            }
        }
        if server.max_circuit_bytes == 0 {
            return fail("nat.relay.server.max_circuit_bytes", "must be above zero");
        }
        if !(1..=4).contains(&client.reservations) {
            return fail("nat.relay.client.reservations", "must be 1 to 4");
        }
        for (setting, value) in
            [("nat.relay.client.timeout", client.timeout), ("nat.relay.client.retry", client.retry)]
        {
            if value.is_zero() {
                return fail(setting, "must be above zero");
            }
        }
        if client.retry_max < client.retry {
            return fail("nat.relay.client.retry_max", "must be at least nat.relay.client.retry");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_what_cannot_work_is_named() {
        Config::default().validate().unwrap();
        let problem = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert!(problem(|c| c.server.max_circuit_bytes = 0).contains("max_circuit_bytes"));
        assert!(problem(|c| c.server.max_circuit_lasts = Duration::MAX).contains("7 days"));
        assert!(problem(|c| c.client.reservations = 5).contains("1 to 4"));
        assert!(problem(|c| c.client.retry_max = Duration::ZERO).contains("retry_max"));
        assert!(problem(|c| c.server.peer_per_minute = 0).contains("peer_per_minute"));
    }
}
