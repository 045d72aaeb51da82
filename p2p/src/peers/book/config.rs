//! Settings of the peer book.

use crate::BuildError;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Settings of the peer book, `peers.json` in the overlay's folder. Durations are written like `60s`
/// or `30days`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Most peers. Default 1,000. Worst case with four addresses each: 1,000 * (4 * 400 + 300 bytes)
    /// = 2 MB in memory and as much on disk; a usual peer takes 500 bytes.
    pub peers: usize,
    /// Most addresses of each peer. Default 4.
    pub addresses: usize,
    /// Largest share of a full book that one network (IPv4 /16, IPv6 /32) keeps, in percent. Default
    /// 10.
    pub group_percent: u8,
    /// Failed dials in a row after which a peer counts no more than one never dialled. Default 10.
    pub max_failures: u32,
    /// How long after it was last connected a peer is forgotten. Default 30 days.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
    /// How often the file is written, if anything has changed; it is written at shutdown too.
    /// Default 60 s.
    #[serde(with = "humantime_serde")]
    pub save_every: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            peers: 1000,
            addresses: 4,
            group_percent: 10,
            max_failures: 10,
            max_age: Duration::from_secs(30 * 86_400),
            save_every: Duration::from_secs(60),
        }
    }
}

impl Config {
    pub(crate) fn validate(&self) -> Result<(), BuildError> {
        let fail = |setting, problem: &str| {
            Err(BuildError::Setting { setting, problem: problem.to_owned() })
        };
        // 4,000 peers with all addresses at their longest still fit into the 16 MiB that are read.
        if !(1..=4000).contains(&self.peers) {
            return fail("peers.book.peers", "must be 1 to 4000");
        }
        if !(1..=8).contains(&self.addresses) {
            return fail("peers.book.addresses", "must be 1 to 8");
        }
        if !(1..=100).contains(&self.group_percent) {
            return fail("peers.book.group_percent", "must be 1 to 100");
        }
        if self.max_failures == 0 {
            return fail("peers.book.max_failures", "must be above zero");
        }
        if self.save_every.is_zero() || self.save_every > Duration::from_secs(86_400) {
            return fail("peers.book.save_every", "must be above zero and at most 24h");
        }
        Ok(())
    }

    /// Most peers of one network in a full book; at least one.
    pub(super) fn group_share(&self) -> usize {
        (self.peers * usize::from(self.group_percent) / 100).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let base = Config::default();
        let bad = [
            Config { peers: 0, ..base.clone() },
            Config { peers: 4001, ..base.clone() },
            Config { addresses: 0, ..base.clone() },
            Config { group_percent: 101, ..base.clone() },
            Config { max_failures: 0, ..base.clone() },
            Config { save_every: Duration::ZERO, ..base.clone() },
            Config { save_every: Duration::MAX, ..base.clone() },
        ];
        for config in bad {
            assert!(config.validate().is_err(), "{config:?}");
        }
        base.validate().unwrap();
        assert_eq!(Config { peers: 3, ..base }.group_share(), 1);
    }
}
