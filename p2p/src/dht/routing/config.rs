//! Settings of keeping the routing table in order.

use crate::BuildError;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Settings of keeping the routing table in order. Durations are written like `10s` or `5min`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long after it was last heard of a peer in the table is dialled, to see whether it is still
    /// there. Default 10 min.
    #[serde(with = "humantime_serde")]
    pub stale_after: Duration,
    /// Wait before one that could not be reached is dialled again. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub stale_retry: Duration,
    /// Failures in a row with which a peer leaves the table. Default 3.
    pub max_failures: u32,
    /// How long a peer that this node has reached counts as reachable when it comes back by itself.
    /// Default 1 h.
    #[serde(with = "humantime_serde")]
    pub reachable_for: Duration,
    /// Peers dialled at the same time to see whether they can be reached. Default 8.
    pub checks: usize,
    /// Such dials a second. Default 10.
    pub check_rate: u32,
    /// Such dials at once, after none for a while. Default 64.
    pub check_burst: u32,
    /// Peers that wait for such a dial; more are not let in until they identify themselves again.
    /// Default 512. Worst case: 512 * 1 KB = 512 KB.
    pub check_queue: usize,
    /// Peers of each bucket that are remembered to take the place of one that leaves. Default 4.
    /// Worst case: 256 buckets * 4 * 800 bytes = 800 KB; a usual table has 20 buckets.
    pub replacements: usize,
    /// Pause between two lookups of one refresh, so that they do not come at once. Default 2 s.
    #[serde(with = "humantime_serde")]
    pub refresh_pause: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            stale_after: Duration::from_secs(600),
            stale_retry: Duration::from_secs(30),
            max_failures: 3,
            reachable_for: Duration::from_secs(3600),
            checks: 8,
            check_rate: 10,
            check_burst: 64,
            check_queue: 512,
            replacements: 4,
            refresh_pause: Duration::from_secs(2),
        }
    }
}

impl Config {
    pub(crate) fn validate(&self) -> Result<(), BuildError> {
        let fail = |setting, problem: &str| {
            Err(BuildError::Setting { setting, problem: problem.to_owned() })
        };
        for (setting, value) in [
            ("dht.table.checks", self.checks),
            ("dht.table.check_queue", self.check_queue),
            ("dht.table.check_rate", usize::try_from(self.check_rate).unwrap_or(usize::MAX)),
            ("dht.table.check_burst", usize::try_from(self.check_burst).unwrap_or(usize::MAX)),
            ("dht.table.max_failures", usize::try_from(self.max_failures).unwrap_or(usize::MAX)),
        ] {
            if value == 0 {
                return fail(setting, "must be above zero");
            }
        }
        for (setting, value) in [
            ("dht.table.stale_after", self.stale_after),
            ("dht.table.stale_retry", self.stale_retry),
        ] {
            if value.is_zero() {
                return fail(setting, "must be above zero");
            }
        }
        if self.replacements > 20 {
            return fail("dht.table.replacements", "must be at most 20");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let base = Config::default();
        let bad = [
            Config { checks: 0, ..base.clone() },
            Config { check_queue: 0, ..base.clone() },
            Config { check_rate: 0, ..base.clone() },
            Config { check_burst: 0, ..base.clone() },
            Config { max_failures: 0, ..base.clone() },
            Config { stale_after: Duration::ZERO, ..base.clone() },
            Config { stale_retry: Duration::ZERO, ..base.clone() },
            Config { replacements: 21, ..base.clone() },
        ];
        for config in bad {
            assert!(config.validate().is_err(), "{config:?}");
        }
        base.validate().unwrap();
    }
}
