//! Settings of how peers are reached.

use super::Strategy;
use crate::BuildError;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How a peer is reached. Durations are written like `300ms` or `10s`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What is preferred, the best first: each begins `head_start` after the one before it, at once
    /// if that cannot be tried or has failed, and takes the place of what comes after it. What is
    /// left out is not tried. Default `["direct", "punch", "turn", "relay"]`. (Over a connection through
    /// a relay holes are punched and meetings at TURN servers agreed on, so without `relay` there is
    /// no `punch` and no `turn`.)
    pub order: Vec<Strategy>,
    /// Default 300 ms.
    #[serde(with = "humantime_serde")]
    pub head_start: Duration,
    /// How long TCP waits for QUIC, where a peer is dialled at addresses of both and QUIC has not
    /// failed: whoever is connected over QUIC is told the port that others may dial and punch to.
    /// Default 250 ms, the Connection Attempt Delay of RFC 8305, section 5.
    #[serde(with = "humantime_serde")]
    pub tcp_after: Duration,
    /// How long after one relay the next is tried, unless the first has failed already. Default 2 s.
    #[serde(with = "humantime_serde")]
    pub next_relay: Duration,
    /// Attempts to reach one peer under way at the same time; others wait for one to end. Default 8.
    pub max_attempts: usize,
    /// Longest time of an attempt at one of a peer's own addresses. Default 5 s: ten round trips of the
    /// slowest kind, and a peer that has moved is not looked for where it was for longer.
    #[serde(with = "humantime_serde")]
    pub direct_timeout: Duration,
    /// Longest time of an attempt to punch a hole to one address. Default 5 s. Three are made, one
    /// after the other.
    #[serde(with = "humantime_serde")]
    pub punch_timeout: Duration,
    /// Longest time of an attempt through one relay. Default 6 s.
    #[serde(with = "humantime_serde")]
    pub relay_timeout: Duration,
    /// Longest time of an attempt at an address at a TURN server. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub turn_timeout: Duration,
    /// Addresses to which holes are punched at the same time for one peer, which names them. Default
    /// 20, as many as libp2p names: those it was seen at last come last.
    pub max_punched_addresses: usize,
    /// How long a better connection has to last until a worse one to the same peer is closed. What is
    /// under way on that goes on until then. Default 2 s.
    #[serde(with = "humantime_serde")]
    pub upgrade_after: Duration,
    /// How long after failed attempts at a peer's own addresses others get no head start over it.
    /// Default 5 min.
    #[serde(with = "humantime_serde")]
    pub forget_failure: Duration,
    /// Wait until a peer that is reached through a relay alone is tried at its own addresses,
    /// doubled with each time. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub retry: Duration,
    /// Longest such wait. Default 10 min.
    #[serde(with = "humantime_serde")]
    pub retry_max: Duration,
    /// How often that is tried while the connection lasts. Default 10.
    pub retries: u32,
    /// Peers of which attempts and relays are remembered, the one heard of longest ago leaving first.
    /// Default 1,024. Worst case: 1,024 * 4 KB = 4 MB.
    pub max_peers: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            order: Strategy::ALL.to_vec(),
            head_start: Duration::from_millis(300),
            tcp_after: Duration::from_millis(250),
            next_relay: Duration::from_secs(2),
            max_attempts: 8,
            direct_timeout: Duration::from_secs(5),
            punch_timeout: Duration::from_secs(5),
            relay_timeout: Duration::from_secs(6),
            turn_timeout: Duration::from_secs(10),
            max_punched_addresses: 20,
            upgrade_after: Duration::from_secs(2),
            forget_failure: Duration::from_secs(300),
            retry: Duration::from_secs(30),
            retry_max: Duration::from_secs(600),
            retries: 10,
            max_peers: 1024,
        }
    }
}

impl Config {
    pub(crate) fn validate(&self) -> Result<(), BuildError> {
        let fail = |setting, problem: &str| {
            Err(BuildError::Setting { setting, problem: problem.to_owned() })
        };
        let mut seen = Vec::new();
        for strategy in &self.order {
            if seen.contains(strategy) {
                return fail("nat.strategies.order", "names one twice");
            }
            seen.push(*strategy);
        }
        if !seen.contains(&Strategy::Direct) {
            return fail("nat.strategies.order", "must name direct: relays are reached so");
        }
        let over_relays = seen.iter().any(|s| matches!(s, Strategy::Punch | Strategy::Turn));
        if over_relays && !seen.contains(&Strategy::Relay) {
            return fail("nat.strategies.order", "cannot have punch or turn without relay");
        }
        for (setting, value) in [
            ("nat.strategies.direct_timeout", self.direct_timeout),
            ("nat.strategies.punch_timeout", self.punch_timeout),
            ("nat.strategies.relay_timeout", self.relay_timeout),
            ("nat.strategies.turn_timeout", self.turn_timeout),
            ("nat.strategies.retry", self.retry),
        ] {
            if value.is_zero() || value > Duration::from_secs(120) {
                return fail(setting, "must be above zero and at most 2 minutes");
            }
        }
        for (setting, value) in [
            ("nat.strategies.max_attempts", self.max_attempts),
            ("nat.strategies.max_punched_addresses", self.max_punched_addresses),
            ("nat.strategies.max_peers", self.max_peers),
        ] {
            if value == 0 {
                return fail(setting, "must be above zero");
            }
        }
        if self.max_attempts > 64 {
            return fail("nat.strategies.max_attempts", "must be at most 64");
        }
        if self.retry_max < self.retry {
            return fail("nat.strategies.retry_max", "must be at least nat.strategies.retry");
        }
        Ok(())
    }

    /// How soon a strategy is preferred; nothing if it is not used.
    pub(super) fn rank(&self, strategy: Strategy) -> Option<usize> {
        self.order.iter().position(|known| *known == strategy)
    }

    /// Longest time of one attempt.
    pub(super) fn timeout(&self, strategy: Strategy) -> Duration {
        match strategy {
            Strategy::Direct => self.direct_timeout,
            Strategy::Punch => self.punch_timeout,
            Strategy::Turn => self.turn_timeout,
            Strategy::Relay => self.relay_timeout,
        }
    }

    /// The wait after so many attempts.
    pub(super) fn retry_after(&self, times: u32) -> Duration {
        let doubled = 1u32.checked_shl(times).unwrap_or(u32::MAX);
        self.retry.saturating_mul(doubled).min(self.retry_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_what_cannot_work_is_named() {
        Config::default().validate().unwrap();
        let problem = |order: &[Strategy]| {
            let config = Config { order: order.to_vec(), ..Config::default() };
            config.validate().unwrap_err().to_string()
        };
        use Strategy::{Direct, Punch, Relay};
        assert!(problem(&[Relay]).contains("direct"));
        assert!(problem(&[Direct, Direct]).contains("twice"));
        assert!(problem(&[Direct, Punch]).contains("without relay"));
        let config = Config { relay_timeout: Duration::from_secs(121), ..Config::default() };
        assert!(config.validate().unwrap_err().to_string().contains("relay_timeout"));
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let config = Config::default();
        let waits = [0, 1, 4, 5, 40].map(|times| config.retry_after(times).as_secs());
        assert_eq!(waits, [30, 60, 480, 600, 600]);
    }
}
