//! Settings of admission: who is let in, and how fast.

use crate::{AddressPolicy, BuildError};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Longest time that a source stays known.
const MAX_KNOWN_LIFETIME: Duration = Duration::from_secs(30 * 86_400);

/// Settings of admission. How many connections there may be is `peers.max_connections`,
/// `peers.max_per_peer` and `peers.max_pending_inbound`. A *source* is an IPv4 address or the /64
/// of an IPv6 address; an *IP group* is a /16 of IPv4 or a /32 of IPv6. The in-process transport
/// has no addresses, so rates and caps do not apply to it. Durations are written like `60s` or
/// `24h`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Places kept for connections that this node opens, in percent of `peers.max_connections`,
    /// rounded up: whoever fills all others still chooses none of these. Default 20.
    pub outbound_reserve: usize,
    /// New inbound connections a second, in all. Default 100.
    pub rate: u32,
    /// How many may come at once after a quiet time, in all. Half of them are kept for sources that
    /// are known. Default 100.
    pub burst: u32,
    /// New inbound connections a second from one source. Default 10.
    pub source_rate: u32,
    /// How many may come at once from one source after a quiet time. Default 10.
    pub source_burst: u32,
    /// Sources whose rate is remembered. A source is remembered from an admitted connection until
    /// it may have its whole burst again, so with the defaults there are never more than 300;
    /// beyond the bound the rate in all alone decides. Default 10,000. Worst case: 10,000 * 56
    /// bytes = 560 KB.
    pub max_sources: usize,
    /// Most inbound connections of one source that are still shaking hands. Default 16.
    pub max_pending_per_source: usize,
    /// Most connections that this node is opening at the same time. Default 256. Worst case: a QUIC
    /// handshake takes about 60 KB, so 16 MB.
    pub max_pending_outbound: usize,
    /// Whether inbound connections are capped by source and IP group. Default `auto`: on where
    /// `address_policy` is `global`, off on dev and local chains, whose nodes share one address.
    pub caps_by_address: Caps,
    /// Most inbound connections of one source, if capped. Default 8.
    pub max_per_ip: usize,
    /// Most inbound connections of one IP group, if capped. Default 32.
    pub max_per_ip_group: usize,
    /// How long a peer is connected before its source is known. Default 60 s.
    #[serde(with = "humantime_serde")]
    pub known_after: Duration,
    /// How long a source stays known after its last peer has left. Default 24 h, at most 30 days.
    #[serde(with = "humantime_serde")]
    pub known_lifetime: Duration,
    /// Known sources, the one not seen for longest leaving first. Default 4,096. Worst case:
    /// 4,096 * 96 bytes = 400 KB.
    pub max_known: usize,
    /// Connections that a peer may have beyond `peers.max_per_peer` while it is dialled back, dials
    /// back, or punches a hole. Default 2.
    pub extra_per_peer: usize,
    /// How long after such a dial was asked for they are allowed. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub extra_for: Duration,
    /// Bans, of peers and of addresses together. Default 10,000. Worst case: 10,000 * 400 bytes = 4
    /// MB, and as much on disk.
    pub max_bans: usize,
}

/// When inbound connections are capped by where they come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Caps {
    /// As `address_policy` suggests.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

impl Caps {
    pub(crate) fn apply(self, policy: AddressPolicy) -> bool {
        match self {
            Self::Auto => policy == AddressPolicy::Global,
            Self::On => true,
            Self::Off => false,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            outbound_reserve: 20,
            rate: 100,
            burst: 100,
            source_rate: 10,
            source_burst: 10,
            max_sources: 10_000,
            max_pending_per_source: 16,
            max_pending_outbound: 256,
            caps_by_address: Caps::Auto,
            max_per_ip: 8,
            max_per_ip_group: 32,
            known_after: Duration::from_secs(60),
            known_lifetime: Duration::from_secs(86_400),
            max_known: 4096,
            extra_per_peer: 2,
            extra_for: Duration::from_secs(30),
            max_bans: 10_000,
        }
    }
}

impl Config {
    pub(crate) fn validate(&self) -> Result<(), BuildError> {
        let fail = |setting, problem: &str| {
            Err(BuildError::Setting { setting, problem: problem.to_owned() })
        };
        for (setting, value) in [
            ("admission.rate", self.rate),
            ("admission.source_rate", self.source_rate),
            ("admission.source_burst", self.source_burst),
        ] {
            if value == 0 {
                return fail(setting, "must be above zero");
            }
        }
        for (setting, value) in [
            ("admission.max_sources", self.max_sources),
            ("admission.max_pending_per_source", self.max_pending_per_source),
            ("admission.max_pending_outbound", self.max_pending_outbound),
            ("admission.max_per_ip", self.max_per_ip),
            ("admission.max_per_ip_group", self.max_per_ip_group),
            ("admission.max_known", self.max_known),
            ("admission.max_bans", self.max_bans),
        ] {
            if value == 0 {
                return fail(setting, "must be above zero");
            }
        }
        if self.burst < 2 {
            return fail("admission.burst", "must be at least 2: half of it is for known sources");
        }
        // 16 MiB is the largest file that is read back; a ban takes at most 700 bytes in it.
        if self.max_bans > 20_000 {
            return fail("admission.max_bans", "must be at most 20000");
        }
        if self.outbound_reserve > 90 {
            return fail("admission.outbound_reserve", "must be at most 90 percent");
        }
        if self.known_lifetime > MAX_KNOWN_LIFETIME {
            return fail("admission.known_lifetime", "must be at most 30 days");
        }
        Ok(())
    }

    /// How many of `total` connections may be inbound.
    pub(crate) fn inbound_of(&self, total: usize) -> usize {
        total.saturating_sub(total.saturating_mul(self.outbound_reserve).div_ceil(100))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_least_a_fifth_of_the_places_is_kept_for_outbound_connections() {
        let config = Config::default();
        for (total, inbound) in [(256, 204), (10, 8), (5, 4), (1, 0), (0, 0)] {
            assert_eq!(config.inbound_of(total), inbound, "{total}");
            assert!((total - inbound) * 5 >= total);
        }
        let open = Config { outbound_reserve: 0, ..config };
        assert_eq!(open.inbound_of(256), 256);
    }

    #[test]
    fn caps_follow_the_address_policy_unless_they_are_set() {
        assert!(Caps::Auto.apply(AddressPolicy::Global));
        assert!(!Caps::Auto.apply(AddressPolicy::Any));
        assert!(Caps::On.apply(AddressPolicy::Any));
        assert!(!Caps::Off.apply(AddressPolicy::Global));
    }
}
