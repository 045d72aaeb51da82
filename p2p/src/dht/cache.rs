//! What lookups have found of late, so that who asks again is answered at once.

use super::queries::Query;
use crate::{
    OverlayKey, PeerId,
    identity::{key_of, peer_id_of},
};
use lru::LruCache;
use std::{
    num::NonZeroUsize,
    time::{Duration, Instant},
};

/// What one lookup has found.
struct Found {
    /// Held as keys, which take 32 bytes and not 80.
    peers: Box<[OverlayKey]>,
    /// Whether the lookup came to its end, so that there are no others.
    all: bool,
    at: Instant,
    until: Instant,
}

/// Peers that are remembered because they could not be reached: 1,024 * 100 bytes.
const LOST: usize = 1024;

/// Answers kept for a short time, the least recently used leaving first.
///
/// Worst case 4,096 answers * (64 peers * 32 bytes + 200) = 9 MB with the usual settings.
pub(super) struct Cache {
    found: LruCache<Query, Found>,
    /// Peers that could not be reached, and when: who found them before should look again, for they
    /// may be elsewhere, or have gone.
    lost: LruCache<OverlayKey, Instant>,
    /// How long providers or peers are remembered, and that there are none.
    positive: Duration,
    negative: Duration,
}

impl Cache {
    /// Of `size` answers; none are kept if it is 0.
    pub(super) fn new(size: usize, positive: Duration, negative: Duration) -> Self {
        let found = NonZeroUsize::new(size).map_or_else(LruCache::unbounded, LruCache::sparse);
        // Nothing is ever kept where there is no time to keep it for.
        let keeps = |time| if size == 0 { Duration::ZERO } else { time };
        let lost = LruCache::sparse(NonZeroUsize::new(LOST).unwrap_or(NonZeroUsize::MIN));
        Self { found, lost, positive: keeps(positive), negative: keeps(negative) }
    }

    /// What is known, if it is enough for one who wants `limit` peers.
    pub(super) fn get(&mut self, query: &Query, limit: usize, now: Instant) -> Option<Vec<PeerId>> {
        let found = self.found.get(query)?;
        let since = |peer: &OverlayKey| self.lost.peek(peer).is_some_and(|lost| *lost >= found.at);
        if found.until <= now || found.peers.iter().any(since) {
            self.found.pop(query);
            return None;
        }
        let enough = found.all || found.peers.len() >= limit;
        enough.then(|| found.peers.iter().take(limit).filter_map(peer_id_of).collect())
    }

    /// A lookup has found these, and `all` there are or only enough.
    pub(super) fn put(&mut self, query: Query, peers: &[PeerId], all: bool, now: Instant) {
        if peers.is_empty() && !all {
            return;
        }
        let time = if peers.is_empty() { self.negative } else { self.positive };
        if time.is_zero() {
            return;
        }
        let peers = peers.iter().filter_map(key_of).collect();
        self.found.push(query, Found { peers, all, at: now, until: now + time });
    }

    /// A peer could not be reached, or its connection broke.
    pub(super) fn lost(&mut self, peer: &PeerId, now: Instant) {
        if let Some(key) = key_of(peer) {
            self.lost.push(key, now);
        }
    }

    /// What was known no longer counts.
    pub(super) fn forget(&mut self, query: &Query) {
        self.found.pop(query);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dht::Key;

    const MINUTE: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_secs(5);

    fn peers(count: u8) -> Vec<PeerId> {
        (1..=count).map(|n| peer_id_of(&[n; 32]).unwrap()).collect()
    }

    fn find(n: u32) -> Query {
        Query::Find(Key::test(n))
    }

    #[test]
    fn that_there_is_nobody_is_remembered_for_a_shorter_time() {
        let now = Instant::now();
        let mut cache = Cache::new(10, MINUTE, SHORT);
        cache.put(find(1), &peers(2), true, now);
        cache.put(find(2), &[], true, now);
        let just_before = |time| now + time - Duration::from_millis(1);
        assert_eq!(cache.get(&find(2), 9, just_before(SHORT)), Some(vec![]));
        assert_eq!(cache.get(&find(2), 9, now + SHORT), None);
        assert_eq!(cache.get(&find(1), 9, just_before(MINUTE)), Some(peers(2)));
        assert_eq!(cache.get(&find(1), 9, now + MINUTE), None);
        assert!(cache.found.is_empty(), "what is too old takes no place");
    }

    #[test]
    fn who_wants_more_than_a_lookup_was_made_for_gets_a_new_one() {
        let now = Instant::now();
        let mut cache = Cache::new(10, MINUTE, SHORT);
        cache.put(find(1), &peers(2), false, now);
        assert_eq!(cache.get(&find(1), 1, now), Some(peers(1)));
        assert_eq!(cache.get(&find(1), 2, now), Some(peers(2)));
        assert_eq!(cache.get(&find(1), 3, now), None);
        cache.put(find(2), &[], false, now);
        assert_eq!(cache.get(&find(2), 1, now), None, "a lookup cut short tells nothing");
        assert_eq!(cache.get(&Query::Closest(Key::test(1)), 1, now), None, "another question");
    }

    #[test]
    fn it_holds_no_more_than_it_may() {
        let now = Instant::now();
        let mut cache = Cache::new(2, MINUTE, SHORT);
        for n in 1..4 {
            cache.put(find(n), &peers(1), true, now);
            cache.get(&find(1), 1, now);
        }
        assert!(cache.get(&find(1), 1, now).is_some(), "it was used");
        assert!(cache.get(&find(2), 1, now).is_none());
        let mut none = Cache::new(0, MINUTE, SHORT);
        none.put(find(1), &peers(1), true, now);
        assert!(none.found.is_empty());
    }

    #[test]
    fn who_was_found_and_then_lost_is_looked_for_again() {
        let now = Instant::now();
        let mut cache = Cache::new(10, MINUTE, SHORT);
        cache.put(find(1), &peers(2), true, now);
        cache.put(find(2), &peers(1), true, now);
        cache.lost(&peers(2)[1], now + SHORT);
        assert_eq!(cache.get(&find(1), 2, now + SHORT), None);
        assert_eq!(cache.get(&find(2), 2, now + SHORT), Some(peers(1)), "another peer");
        cache.put(find(1), &peers(2), true, now + 2 * SHORT);
        assert_eq!(cache.get(&find(1), 2, now + 2 * SHORT), Some(peers(2)), "found since");
    }

    #[test]
    fn what_is_forgotten_is_asked_again() {
        let now = Instant::now();
        let mut cache = Cache::new(2, MINUTE, SHORT);
        cache.put(find(1), &peers(1), true, now);
        cache.forget(&find(1));
        assert_eq!(cache.get(&find(1), 1, now), None);
    }
}
