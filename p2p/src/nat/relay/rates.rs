//! How often somebody may ask. Pure: no clock.

use lru::LruCache;
use std::{
    hash::Hash,
    num::NonZeroUsize,
    time::{Duration, Instant},
};

const MINUTE: Duration = Duration::from_secs(60);

/// Counts by whoever asks. At any time a minute's worth may be taken at once, and grows back evenly.
#[derive(Debug)]
pub(super) struct Rates<K: Hash + Eq> {
    step: Duration,
    /// When the budget of each will be whole again.
    whole_at: LruCache<K, Instant>,
}

impl<K: Hash + Eq> Rates<K> {
    pub(super) fn new(per_minute: u32, remembered: usize) -> Self {
        let remembered = NonZeroUsize::new(remembered).unwrap_or(NonZeroUsize::MIN);
        Self { step: MINUTE / per_minute.max(1), whole_at: LruCache::sparse(remembered) }
    }

    /// Takes one.
    pub(super) fn take(&mut self, who: K, now: Instant) -> bool {
        let whole_at = self.whole_at.peek(&who).map_or(now, |at| (*at).max(now)) + self.step;
        if whole_at > now + MINUTE {
            return false;
        }
        self.whole_at.push(who, whole_at);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However it is asked: nobody gets more than a burst and what has grown back since, and the
        /// table keeps its bound.
        #[test]
        fn nobody_takes_more_than_a_minutes_worth_and_what_grew_back(
            asks in proptest::collection::vec((0u8..6, 0u64..5_000), 1..200),
            per_minute in 1u32..100,
        ) {
            let start = Instant::now();
            let (mut now, mut taken) = (start, [0f64; 6]);
            let mut rates = Rates::new(per_minute, 6);
            for (who, wait) in asks {
                now += Duration::from_millis(wait);
                if rates.take(who, now) {
                    taken[usize::from(who)] += 1.0;
                }
                let minutes = (now - start).as_secs_f64() / 60.0;
                let most = f64::from(per_minute) * (1.0 + minutes) + 1e-3;
                prop_assert!(taken.iter().all(|taken| *taken <= most));
                prop_assert!(rates.whole_at.len() <= 6);
            }
        }
    }

    #[test]
    fn one_who_asks_too_often_costs_nobody_else() {
        let now = Instant::now();
        let mut rates = Rates::new(2, 10);
        assert!(rates.take(1, now) && rates.take(1, now) && !rates.take(1, now));
        assert!(rates.take(2, now));
        assert!(rates.take(1, now + Duration::from_secs(30)));
    }
}
