//! Sources that a good peer was seen at lately. Before the handshake nothing is known of who comes
//! but the address, so this is what tells a returning peer from a stranger.

use crate::address::Source;
use lru::LruCache;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug)]
struct Seen {
    at: Instant,
    bound: bool,
}

/// Bounded, by time seen: the one not seen for longest leaves first. Whoever is connected is seen
/// with every tick, so a crowd of newcomers pushes out only sources that are away.
#[derive(Debug)]
pub(super) struct Known {
    /// In the order they were last seen.
    sources: LruCache<Source, Seen>,
    max: usize,
    lifetime: Duration,
}

impl Known {
    pub(super) fn new(max: usize, lifetime: Duration) -> Self {
        // Unbounded for the library, which would take all its memory at once.
        Self { sources: LruCache::unbounded(), max, lifetime }
    }

    /// A good peer is at this source; `bound` if an account in good standing answers for it.
    pub(super) fn saw(&mut self, source: Source, bound: bool, now: Instant) {
        let before = self.standing(source, now).unwrap_or(false);
        self.sources.put(source, Seen { at: now, bound: bound || before });
        if self.sources.len() > self.max {
            self.sources.pop_lru();
        }
    }

    /// Nothing if the source is not known, else whether a bound peer was seen there.
    pub(super) fn standing(&self, source: Source, now: Instant) -> Option<bool> {
        let seen = self.sources.peek(&source)?;
        (now.saturating_duration_since(seen.at) < self.lifetime).then_some(seen.bound)
    }

    pub(super) fn forget(&mut self, source: Source) {
        self.sources.pop(&source);
    }

    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((_, oldest)) = self.sources.peek_lru()
            && now.saturating_duration_since(oldest.at) >= self.lifetime
        {
            self.sources.pop_lru();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.sources.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(n: u8) -> Source {
        Source::of([9, 9, 9, n].into())
    }

    #[test]
    fn a_source_is_known_until_it_was_not_seen_for_its_lifetime() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut known = Known::new(10, Duration::from_secs(100));
        assert_eq!(known.standing(source(1), start), None);
        known.saw(source(1), true, start);
        known.saw(source(2), false, at(50));
        known.saw(source(1), false, at(60));
        assert_eq!(known.standing(source(1), at(159)), Some(true), "it was bound once");
        assert_eq!(known.standing(source(2), at(149)), Some(false));
        assert_eq!(known.standing(source(2), at(150)), None);
        known.expire(at(150));
        assert_eq!(known.len(), 1);
        known.expire(at(160));
        assert_eq!(known.len(), 0);
    }

    #[test]
    fn the_one_not_seen_for_longest_makes_room() {
        let now = Instant::now();
        let mut known = Known::new(2, Duration::from_secs(100));
        known.saw(source(1), false, now);
        known.saw(source(2), false, now);
        known.saw(source(1), false, now);
        known.saw(source(3), false, now);
        assert_eq!(known.len(), 2);
        assert_eq!(known.standing(source(2), now), None);
        assert_eq!(known.standing(source(1), now), Some(false));
        known.forget(source(1));
        assert_eq!(known.standing(source(1), now), None);
    }
}
