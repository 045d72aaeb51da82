//! How fast records may come from one provider: a bucket of tokens for each.
//!
//! A provider has an entry until its bucket is full again; without one its bucket is full. When the
//! table is, whoever is not in it shares one bucket with all others that are not: a flood of new keys
//! gets the rate of one of them, and throws out nobody.

use super::{Limits, Rank};
use crate::OverlayKey;
use std::{collections::HashMap, time::Instant};

/// What a bucket holds, and how fast it fills.
#[derive(Clone, Copy, Debug)]
struct Size {
    burst: f64,
    per_second: f64,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// What was taken out and has not filled up again.
    taken: f64,
    at: Instant,
}

impl Bucket {
    fn taken(&self, size: Size, now: Instant) -> f64 {
        let filled = now.saturating_duration_since(self.at).as_secs_f64() * size.per_second;
        (self.taken - filled).max(0.0)
    }

    fn take(&mut self, size: Size, now: Instant) -> bool {
        let taken = self.taken(size, now) + 1.0;
        let allowed = taken <= size.burst;
        if allowed {
            *self = Self { taken, at: now.max(self.at) };
        }
        allowed
    }
}

/// The rates of all providers.
#[derive(Debug)]
pub(super) struct Rates {
    unbound: Size,
    bound: Size,
    max: usize,
    providers: HashMap<OverlayKey, (Bucket, Rank)>,
    shared: Option<Bucket>,
}

impl Rates {
    pub(super) fn new(limits: &Limits) -> Self {
        let size = |burst: u32, rate: u32| Size { burst: burst.into(), per_second: rate.into() };
        Self {
            unbound: size(limits.burst, limits.rate),
            bound: size(limits.bound_burst, limits.bound_rate),
            max: limits.rates,
            providers: HashMap::new(),
            shared: None,
        }
    }

    fn size(&self, rank: Rank) -> Size {
        if rank == Rank::Bound { self.bound } else { self.unbound }
    }

    /// Whether one more record may come from the provider now.
    pub(super) fn take(&mut self, provider: &OverlayKey, rank: Rank, now: Instant) -> bool {
        let (size, untouched) = (self.size(rank), Bucket { taken: 0.0, at: now });
        if let Some((bucket, known)) = self.providers.get_mut(provider) {
            *known = rank;
            return bucket.take(size, now);
        }
        if self.providers.len() < self.max {
            let mut bucket = untouched;
            let allowed = bucket.take(size, now);
            self.providers.insert(*provider, (bucket, rank));
            return allowed;
        }
        self.shared.get_or_insert(untouched).take(self.unbound, now)
    }

    /// Forgets the providers whose buckets are full again.
    pub(super) fn expire(&mut self, now: Instant) {
        let (bound, unbound) = (self.bound, self.unbound);
        self.providers.retain(|_, (bucket, rank)| {
            let size = if *rank == Rank::Bound { bound } else { unbound };
            bucket.taken(size, now) > 0.0
        });
        self.providers.shrink_to(2 * self.providers.len());
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.providers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn rates(max: usize) -> Rates {
        Rates::new(&Limits {
            rate: 10,
            burst: 20,
            bound_rate: 100,
            bound_burst: 200,
            rates: max,
            ..Limits::default()
        })
    }

    fn taken(rates: &mut Rates, n: u8, rank: Rank, now: Instant) -> usize {
        (0..1000).filter(|_| rates.take(&[n; 32], rank, now)).count()
    }

    #[test]
    fn a_provider_has_its_burst_and_then_its_rate() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let mut rates = rates(10);
        assert_eq!(taken(&mut rates, 1, Rank::Unbound, now), 20);
        assert_eq!(taken(&mut rates, 1, Rank::Unbound, now + second), 10);
        assert_eq!(taken(&mut rates, 2, Rank::Bound, now), 200);
        assert_eq!(taken(&mut rates, 2, Rank::Bound, now + second), 100);
        rates.expire(now + 2 * second);
        assert_eq!(rates.len(), 2);
        rates.expire(now + 10 * second);
        assert_eq!(rates.len(), 0);
    }

    #[test]
    fn beyond_the_table_all_share_the_rate_of_one() {
        let now = Instant::now();
        let mut rates = rates(2);
        let all: usize = (0..100).map(|n| taken(&mut rates, n, Rank::Unbound, now)).sum();
        assert_eq!((all, rates.len()), (60, 2));
        assert_eq!(taken(&mut rates, 0, Rank::Unbound, now + Duration::from_secs(1)), 10);
    }

    proptest! {
        #[test]
        fn never_more_than_the_burst_and_the_rate(
            arrivals in prop::collection::vec((0u64..500, 0u8..6), 1..300),
        ) {
            let start = Instant::now();
            let (mut now, mut rates) = (start, rates(4));
            let mut taken: HashMap<u8, f64> = HashMap::new();
            for (wait_ms, n) in arrivals {
                now += Duration::from_millis(wait_ms);
                if rates.take(&[n; 32], Rank::Unbound, now) {
                    *taken.entry(n).or_default() += 1.0;
                }
                let most = 20.0 + 10.0 * (now - start).as_secs_f64() + 1e-6;
                prop_assert!(taken.values().all(|taken| *taken <= most));
                prop_assert!(rates.len() <= 4);
            }
        }
    }
}
