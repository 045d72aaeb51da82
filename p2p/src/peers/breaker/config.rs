//! Settings of the breakers.

use crate::BuildError;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Settings of how long peers that could not be reached are left alone. Durations are written like
/// `10s` or `5m`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Failures in a row after which a peer is not dialled for a while. Default 2: the first may
    /// have been an old address, which the directory then corrects.
    pub failures: u32,
    /// The first wait, doubled with each failure after it. Default 1 s.
    #[serde(with = "humantime_serde")]
    pub base: Duration,
    /// Longest wait. Default 10 min.
    #[serde(with = "humantime_serde")]
    pub max: Duration,
    /// Longest wait that comes of failures while this node is connected to nobody: it may be the
    /// node's own network that is down. Default 60 s.
    #[serde(with = "humantime_serde")]
    pub max_alone: Duration,
    /// How long a connection must last to count as a success; one that the other side ends sooner is
    /// a failure. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub settle: Duration,
    /// How long after its last failure a peer is forgotten. Default 1 h.
    #[serde(with = "humantime_serde")]
    pub forget_after: Duration,
    /// Peers whose failures are remembered, those that failed longest ago leaving first. Default
    /// 10,000. Worst case: 10,000 * 256 bytes = 2.5 MB.
    pub peers: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            failures: 2,
            base: Duration::from_secs(1),
            max: Duration::from_secs(600),
            max_alone: Duration::from_secs(60),
            settle: Duration::from_secs(5),
            forget_after: Duration::from_secs(3600),
            peers: 10_000,
        }
    }
}

impl Config {
    pub(crate) fn validate(&self) -> Result<(), BuildError> {
        let fail = |setting, problem: &str| {
            Err(BuildError::Setting { setting, problem: problem.to_owned() })
        };
        if self.failures == 0 {
            return fail("peers.breaker.failures", "must be above zero");
        }
        if self.peers == 0 {
            return fail("peers.breaker.peers", "must be above zero");
        }
        if self.base.is_zero() || self.base > self.max_alone || self.max_alone > self.max {
            return fail(
                "peers.breaker.base",
                "must be above zero, at most max_alone, and that max",
            );
        }
        if self.forget_after <= self.max || self.forget_after > Duration::from_secs(7 * 86_400) {
            return fail("peers.breaker.forget_after", "must be above max and at most 7days");
        }
        Ok(())
    }

    /// The wait after so many failures; none if they are too few.
    pub(super) fn wait(&self, failures: u32, alone: bool) -> Option<Duration> {
        let beyond = failures.checked_sub(self.failures)?;
        let doubled = 1u32.checked_shl(beyond).unwrap_or(u32::MAX);
        let max = if alone { self.max_alone } else { self.max };
        Some(self.base.saturating_mul(doubled).min(max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        let base = Config::default();
        let bad = [
            Config { failures: 0, ..base.clone() },
            Config { peers: 0, ..base.clone() },
            Config { base: Duration::ZERO, ..base.clone() },
            Config { base: base.max_alone + Duration::from_secs(1), ..base.clone() },
            Config { max: base.max_alone - Duration::from_secs(1), ..base.clone() },
            Config { forget_after: base.max, ..base.clone() },
            Config { forget_after: Duration::MAX, ..base.clone() },
        ];
        for config in bad {
            assert!(config.validate().is_err(), "{config:?}");
        }
        base.validate().unwrap();
    }
}
