//! How fast peers are told: a token bucket for each, and one for all.

use super::config::{Config, as_usize};
use crate::PeerId;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Most peers whose buckets are remembered. One is forgotten once it is full again, which takes ten
/// seconds by default, so only who was told lately is here. 100 bytes each: 0.8 MB.
const MAX_PEERS: usize = 8192;

/// A rate, as a bucket that holds `burst` and gains one each `each`.
#[derive(Clone, Copy, Debug)]
struct Rate {
    each: Duration,
    burst: u32,
}

impl Rate {
    fn new(per_second: u32, burst: u32) -> Self {
        Self { each: Duration::from_secs(1) / per_second.max(1), burst }
    }

    fn time_for(&self, n: u32) -> Duration {
        self.each.saturating_mul(n)
    }

    /// What a bucket holds that is full at `full_at`.
    fn available(&self, full_at: Option<Instant>, now: Instant) -> usize {
        let missing = full_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        let missing = missing.as_nanos().div_ceil(self.each.as_nanos().max(1));
        as_usize(self.burst).saturating_sub(usize::try_from(missing).unwrap_or(usize::MAX))
    }

    /// When a bucket that is full at `full_at` holds `n`.
    fn ready_at(&self, full_at: Option<Instant>, n: usize, now: Instant) -> Instant {
        let spare = u32::try_from(n).map_or(0, |n| self.burst.saturating_sub(n));
        let ready = full_at.and_then(|at| at.checked_sub(self.time_for(spare)));
        ready.map_or(now, |ready| ready.max(now))
    }

    /// When a bucket is full from which `n` are taken now.
    fn take(&self, full_at: Option<Instant>, n: usize, now: Instant) -> Instant {
        let n = u32::try_from(n).unwrap_or(u32::MAX);
        full_at.map_or(now, |at| at.max(now)) + self.time_for(n)
    }
}

/// The buckets.
#[derive(Debug)]
pub(super) struct Pace {
    unbound: Rate,
    bound: Rate,
    is_bound: bool,
    all: Rate,
    all_full_at: Option<Instant>,
    /// When each peer's bucket is full again.
    peers: HashMap<PeerId, Instant>,
}

impl Pace {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            unbound: Rate::new(config.peer_rate, config.peer_burst),
            bound: Rate::new(config.bound_peer_rate, config.bound_peer_burst),
            is_bound: false,
            all: Rate::new(config.rate, config.rate),
            all_full_at: None,
            peers: HashMap::new(),
        }
    }

    /// Whether this node is bound to an account, by which others admit more of its records.
    pub(super) fn set_bound(&mut self, is_bound: bool) {
        self.is_bound = is_bound;
    }

    fn of_peer(&self) -> &Rate {
        if self.is_bound { &self.bound } else { &self.unbound }
    }

    /// How many records the peer may be told now.
    pub(super) fn available(&self, peer: &PeerId, now: Instant) -> usize {
        let full_at = self.peers.get(peer).copied();
        if full_at.is_none() && self.peers.len() >= MAX_PEERS {
            return 0;
        }
        let of_peer = self.of_peer().available(full_at, now);
        of_peer.min(self.all.available(self.all_full_at, now))
    }

    /// When the peer may be told `n` records, if nobody else is told any until then.
    pub(super) fn ready_at(&self, peer: &PeerId, n: usize, now: Instant) -> Instant {
        let full_at = self.peers.get(peer).copied();
        let mut ready = self.of_peer().ready_at(full_at, n, now);
        if full_at.is_none() && self.peers.len() >= MAX_PEERS {
            // The next bucket to be forgotten makes room.
            ready = self.peers.values().min().map_or(now, |first| (*first).max(now));
        }
        ready.max(self.all.ready_at(self.all_full_at, n, now))
    }

    /// Forgets peers whose buckets are full again, if they are many.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.peers.len() >= MAX_PEERS / 2 {
            self.peers.retain(|_, full_at| *full_at > now);
        }
    }

    /// The peer is told `n` records now.
    pub(super) fn take(&mut self, peer: &PeerId, n: usize, now: Instant) {
        let full_at = self.of_peer().take(self.peers.get(peer).copied(), n, now);
        self.peers.insert(*peer, full_at);
        self.all_full_at = Some(self.all.take(self.all_full_at, n, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::peer_id_of;
    use proptest::prelude::*;

    fn config() -> Config {
        Config {
            batch: 5,
            peer_rate: 10,
            peer_burst: 20,
            bound_peer_rate: 100,
            bound_peer_burst: 50,
            rate: 30,
            ..Config::default()
        }
    }

    fn peer(n: u8) -> PeerId {
        peer_id_of(&[n; 32]).unwrap()
    }

    #[test]
    fn a_bound_node_may_tell_more() {
        let (mut pace, now) = (Pace::new(&config()), Instant::now());
        assert_eq!(pace.available(&peer(1), now), 20);
        pace.set_bound(true);
        assert_eq!(pace.available(&peer(1), now), 30, "all together may be told no more");
    }

    #[test]
    fn what_was_taken_comes_back_with_time() {
        let (mut pace, now) = (Pace::new(&config()), Instant::now());
        pace.take(&peer(1), 20, now);
        assert_eq!(pace.available(&peer(1), now), 0);
        assert_eq!(pace.available(&peer(2), now), 10, "30 in all");
        let later = pace.ready_at(&peer(1), 5, now);
        assert_eq!(later - now, Duration::from_millis(500));
        assert_eq!(pace.available(&peer(1), later), 5);
        assert_eq!(pace.available(&peer(1), now + Duration::from_secs(60)), 20);
    }

    #[test]
    fn buckets_are_forgotten_once_full_and_bounded_before() {
        let config = Config { rate: 1_000_000, ..config() };
        let (mut pace, now) = (Pace::new(&config), Instant::now());
        let nth = |n: u32| {
            let mut secret = [0; 32];
            secret[..4].copy_from_slice(&n.to_le_bytes());
            crate::Identity::from_secret(secret).unwrap().peer_id()
        };
        for n in 0..u32::try_from(MAX_PEERS).unwrap() {
            pace.take(&nth(n), 1, now);
        }
        assert_eq!(pace.available(&peer(200), now), 0);
        let ready = pace.ready_at(&peer(200), 1, now);
        assert_eq!(ready - now, Duration::from_millis(100));
        pace.expire(ready);
        assert_eq!(pace.peers.len(), 0);
        assert_eq!(pace.available(&peer(200), ready), 20);
    }

    proptest! {
        /// In no stretch of time is a peer told more than its burst and what the rate adds.
        #[test]
        fn no_peer_is_told_faster_than_allowed(
            steps in proptest::collection::vec((0u8..3, 1usize..8, 0u64..400), 1..200),
        ) {
            let start = Instant::now();
            let (mut pace, mut now) = (Pace::new(&config()), start);
            let mut told: Vec<(Instant, u8, usize)> = Vec::new();
            for (n, records, wait) in steps {
                now += Duration::from_millis(wait);
                let records = records.min(pace.available(&peer(n), now));
                if records > 0 {
                    pace.take(&peer(n), records, now);
                    told.push((now, n, records));
                }
            }
            for (i, (from, _, _)) in told.iter().enumerate() {
                for who in [Some(0), Some(1), Some(2), None] {
                    let mut sum = 0;
                    for (at, n, records) in &told[i..] {
                        if who.is_none_or(|who| who == *n) {
                            sum += records;
                        }
                        let (rate, burst) = if who.is_some() { (10, 20) } else { (30, 30) };
                        let ms = usize::try_from((*at - *from).as_millis()).unwrap();
                        prop_assert!(sum <= burst + ms * rate / 1000 + 1);
                    }
                }
            }
        }
    }
}
