//! Settings of the sweep.

use crate::BuildError;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// When a key counts as announced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quorum {
    /// One peer took its record.
    One,
    /// More than half of the peers nearest to it took its record: of `replication`, or of all that
    /// are known if they are fewer.
    #[default]
    Majority,
}

impl Quorum {
    /// How many of `holders` peers must have taken a record; at least one.
    pub(crate) fn of(self, holders: usize) -> usize {
        match self {
            Self::One => 1,
            Self::Majority => holders / 2 + 1,
        }
    }
}

/// How what this node provides is announced. Durations are written like `500ms` or `12h`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long new keys are collected, so that those of one region are announced together. Default
    /// 500 ms.
    #[serde(with = "humantime_serde")]
    pub collect: Duration,
    /// Keys due within this time are renewed with others of their region that are due now. Default
    /// 3 h: a region is visited at most four times in the 12 h between renewals, whenever its keys
    /// were first provided.
    #[serde(with = "humantime_serde")]
    pub renew_ahead: Duration,
    /// Visits of regions at the same time, at least 2: new keys and renewals each leave the other
    /// one. Default 5. A visit takes at most 0.8 MB, see `visit_keys`, so all of them 4 MB.
    pub visits: usize,
    /// Most keys of one visit. Default 2,000. Each takes 72 bytes, 64 for the order of its peers and
    /// 32 places of 4 bytes in their queues, twice that while these grow: 2,000 * 392 bytes = 0.8 MB.
    pub visit_keys: usize,
    /// Lookups in flight that explore regions. Default 4.
    pub lookups: usize,
    /// Peers that are told at the same time. Default 32. A batch takes `batch` * 32 bytes, so 32 of
    /// them 0.5 MB.
    pub tells: usize,
    /// Most records that one peer is told in one go. Default 500.
    pub batch: usize,
    /// Records a second that one peer is told. Default 80: a peer takes 100 a second of a provider
    /// that is not bound to an account.
    pub peer_rate: u32,
    /// Records that one peer is told at once after a pause. Default 800, of the 1,000 it takes.
    pub peer_burst: u32,
    /// `peer_rate` while this node is bound to an account. Default 800, of the 1,000 that are taken.
    pub bound_peer_rate: u32,
    /// `peer_burst` while this node is bound to an account. Default 8,000, of the 10,000 that are
    /// taken.
    pub bound_peer_burst: u32,
    /// Records a second that all peers together are told, and as many at once after a pause. Default
    /// 4,000: at 150 bytes each 600 KB/s.
    pub rate: u32,
    /// Times that a peer is tried within a visit before the next nearest takes its place. Default 2.
    pub attempts: u32,
    /// When a key counts as announced: `one` or `majority`. Default `majority`.
    pub quorum: Quorum,
    /// Random keys that are read back from random holders after a visit. Default 3.
    pub read_backs: usize,
    /// How long the peers of an explored region are remembered, so that more keys of it need no
    /// further lookups. Default 5 min.
    #[serde(with = "humantime_serde")]
    pub remember: Duration,
    /// Longest wait after peers were reached and refused a key's records; `retry_max` is that after
    /// none was reached. Default 1 h.
    #[serde(with = "humantime_serde")]
    pub refused_max: Duration,
    /// How long after the start a key that was provided before is kept in mind, until it is provided
    /// again. Until then it is neither announced nor answered for. Default 1 h.
    #[serde(with = "humantime_serde")]
    pub claim_within: Duration,
    /// How long this node has to have other addresses than its records tell until keys are announced
    /// anew. Default 2 s.
    #[serde(with = "humantime_serde")]
    pub moved_settle: Duration,
    /// Time within which keys are announced anew three times at most. Default 1 min.
    #[serde(with = "humantime_serde")]
    pub moved_apart: Duration,
    /// Keys that are announced anew then, at random. A peer keeps the addresses of a provider once for
    /// all its records, so where there are no more than as many peers hold any, all of them hear of
    /// the move; others with the next renewals. Default 256: up to 5,120 peers.
    pub moved_keys: usize,
}

impl Default for Config {
    fn default() -> Self {
        const HOUR: u64 = 3600;
        Self {
            collect: Duration::from_millis(500),
            renew_ahead: Duration::from_secs(3 * HOUR),
            visits: 5,
            visit_keys: 2_000,
            lookups: 4,
            tells: 32,
            batch: 500,
            peer_rate: 80,
            peer_burst: 800,
            bound_peer_rate: 800,
            bound_peer_burst: 8_000,
            rate: 4_000,
            attempts: 2,
            quorum: Quorum::default(),
            read_backs: 3,
            remember: Duration::from_secs(300),
            refused_max: Duration::from_secs(HOUR),
            claim_within: Duration::from_secs(HOUR),
            moved_settle: Duration::from_secs(2),
            moved_apart: Duration::from_secs(60),
            moved_keys: 256,
        }
    }
}

impl Config {
    /// Checks what types cannot say, next to the directory's `renew_after` and `retry_base`.
    pub(crate) fn validate(
        &self,
        renew_after: Duration,
        retry_base: Duration,
    ) -> Result<(), BuildError> {
        let fail = |setting, problem: &str| {
            Err(BuildError::Setting { setting, problem: problem.to_owned() })
        };
        for (setting, value) in [
            ("dht.sweep.lookups", self.lookups),
            ("dht.sweep.tells", self.tells),
            ("dht.sweep.batch", self.batch),
            ("dht.sweep.peer_rate", as_usize(self.peer_rate)),
            ("dht.sweep.bound_peer_rate", as_usize(self.bound_peer_rate)),
            ("dht.sweep.rate", as_usize(self.rate)),
            ("dht.sweep.attempts", as_usize(self.attempts)),
            ("dht.sweep.moved_keys", self.moved_keys),
        ] {
            if value == 0 {
                return fail(setting, "must be above zero");
            }
        }
        for (setting, time) in
            [("dht.sweep.remember", self.remember), ("dht.sweep.claim_within", self.claim_within)]
        {
            if time.is_zero() {
                return fail(setting, "must be above zero");
            }
        }
        if self.read_backs > MAX_READ_BACKS {
            return fail("dht.sweep.read_backs", "must be at most 100");
        }
        if self.refused_max < retry_base {
            return fail("dht.sweep.refused_max", "must be at least dht.retry_base");
        }
        if self.visits < 2 {
            return fail("dht.sweep.visits", "must be at least 2");
        }
        if !(1..=MAX_VISIT_KEYS).contains(&self.visit_keys) {
            return fail("dht.sweep.visit_keys", "must be 1 to 65,535");
        }
        for (setting, burst) in [
            ("dht.sweep.peer_burst", self.peer_burst),
            ("dht.sweep.bound_peer_burst", self.bound_peer_burst),
            ("dht.sweep.rate", self.rate),
        ] {
            if as_usize(burst) < self.batch {
                return fail(setting, "must be at least dht.sweep.batch");
            }
        }
        if self.renew_ahead >= renew_after {
            return fail("dht.sweep.renew_ahead", "must be below dht.renew_after");
        }
        Ok(())
    }
}

/// Keys of a visit, which are counted in 16 bits.
const MAX_VISIT_KEYS: usize = 65_535;

/// Records read back after a visit, all asked for at once.
const MAX_READ_BACKS: usize = 100;

/// A count from the configuration.
pub(super) fn as_usize(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const BASE: Duration = Duration::from_secs(2);

    #[test]
    fn a_majority_is_more_than_half_and_never_nobody() {
        assert_eq!([0, 1, 2, 3, 20].map(|n| Quorum::Majority.of(n)), [1, 1, 2, 2, 11]);
        assert_eq!(Quorum::One.of(20), 1);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        Config::default().validate(DAY, BASE).unwrap();
        let refused = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.validate(DAY, BASE).unwrap_err().to_string()
        };
        assert!(refused(|c| c.visits = 1).contains("dht.sweep.visits"));
        assert!(refused(|c| c.visit_keys = 0).contains("dht.sweep.visit_keys"));
        assert!(refused(|c| c.peer_burst = 499).contains("dht.sweep.peer_burst"));
        assert!(refused(|c| c.rate = 499).contains("dht.sweep.rate"));
        assert!(refused(|c| c.tells = 0).contains("dht.sweep.tells"));
        assert!(refused(|c| c.remember = Duration::ZERO).contains("dht.sweep.remember"));
        assert!(refused(|c| c.read_backs = 101).contains("dht.sweep.read_backs"));
        assert!(refused(|c| c.refused_max = Duration::ZERO).contains("dht.sweep.refused_max"));
        assert!(refused(|c| c.renew_ahead = DAY).contains("dht.sweep.renew_ahead"));
    }
}
