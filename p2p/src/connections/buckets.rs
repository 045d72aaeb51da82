//! How fast connections may come in: a bucket of tokens for all of them, and one for each source.
//!
//! A connection takes a token from its source's bucket and one from the whole, or none from either.
//! So a source has an entry only because a connection of it was *admitted*, and only until its
//! bucket is full again: the rate in all bounds the table, and whoever sends from a million
//! addresses fills it no faster than whoever sends from one. A source without an entry has a full
//! bucket. Should the table be full all the same (by unusual settings), the whole alone decides
//! about a source that is not in it; nobody's entry is thrown out for another's.
//!
//! The upper half of the whole is for everybody, the lower half for known sources. Strangers who
//! come faster than it fills stay at the middle, and known sources find the rest.

use super::{Config, Refused};
use crate::address::Source;
use std::{collections::HashMap, time::Instant};

/// What a bucket holds, and how fast it fills.
#[derive(Clone, Copy, Debug)]
struct Size {
    burst: f64,
    per_second: f64,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn full(size: Size, now: Instant) -> Self {
        Self { tokens: size.burst, at: now }
    }

    /// What it holds by now.
    fn level(&self, size: Size, now: Instant) -> f64 {
        let filled = now.saturating_duration_since(self.at).as_secs_f64() * size.per_second;
        (self.tokens + filled).min(size.burst)
    }

    /// Less one token.
    fn less_one(&self, size: Size, now: Instant) -> Self {
        Self { tokens: self.level(size, now) - 1.0, at: now.max(self.at) }
    }
}

#[derive(Debug)]
pub(super) struct Buckets {
    whole: Bucket,
    whole_size: Size,
    sources: HashMap<Source, Bucket>,
    source_size: Size,
    max_sources: usize,
}

impl Buckets {
    pub(super) fn new(config: &Config, now: Instant) -> Self {
        let whole_size = Size { burst: config.burst.into(), per_second: config.rate.into() };
        Self {
            whole: Bucket::full(whole_size, now),
            whole_size,
            sources: HashMap::new(),
            source_size: Size {
                burst: config.source_burst.into(),
                per_second: config.source_rate.into(),
            },
            max_sources: config.max_sources,
        }
    }

    /// What strangers may not touch.
    fn reserve(&self) -> f64 {
        self.whole_size.burst / 2.0
    }

    fn of(&self, source: Source, now: Instant) -> Bucket {
        self.sources.get(&source).copied().unwrap_or(Bucket::full(self.source_size, now))
    }

    /// Whether one connection may come in, or which bucket is empty.
    pub(super) fn check(&self, source: Source, known: bool, now: Instant) -> Result<(), Refused> {
        if self.of(source, now).level(self.source_size, now) < 1.0 {
            return Err(Refused::SourceRate);
        }
        let kept = if known { 0.0 } else { self.reserve() };
        if self.level(now) - kept < 1.0 {
            return Err(Refused::Rate);
        }
        Ok(())
    }

    /// Lets one connection in, if it may.
    pub(super) fn take(
        &mut self,
        source: Source,
        known: bool,
        now: Instant,
    ) -> Result<(), Refused> {
        self.check(source, known, now)?;
        let (size, bucket) = (self.source_size, self.of(source, now));
        self.whole = self.whole.less_one(self.whole_size, now);
        if self.sources.len() < self.max_sources || self.sources.contains_key(&source) {
            self.sources.insert(source, bucket.less_one(size, now));
        }
        Ok(())
    }

    /// Whether connections come fast enough that their addresses should be proved: strangers have
    /// used half of their share, or this source half of its own.
    pub(super) fn pressed(&self, source: Source, now: Instant) -> bool {
        let size = self.source_size;
        self.of(source, now).level(size, now) <= size.burst / 2.0
            || self.level(now) <= (self.whole_size.burst + self.reserve()) / 2.0
    }

    /// Forgets the sources that may have their whole burst again.
    pub(super) fn expire(&mut self, now: Instant) {
        let size = self.source_size;
        self.sources.retain(|_, bucket| bucket.level(size, now) < size.burst);
        self.sources.shrink_to(2 * self.sources.len());
    }

    /// How many connections could come in at once by now, all from known sources.
    pub(super) fn level(&self, now: Instant) -> f64 {
        self.whole.level(self.whole_size, now)
    }

    /// Sources that are remembered.
    pub(super) fn sources(&self) -> usize {
        self.sources.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn source(n: u32) -> Source {
        Source::of(n.to_be_bytes().into())
    }

    fn config() -> Config {
        Config { rate: 20, burst: 20, source_rate: 2, source_burst: 4, ..Config::default() }
    }

    #[test]
    fn a_source_has_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let mut buckets = Buckets::new(&config(), start);
        for _ in 0..4 {
            assert_eq!(buckets.take(source(1), true, start), Ok(()));
        }
        assert_eq!(buckets.take(source(1), true, start), Err(Refused::SourceRate));
        assert_eq!(buckets.take(source(2), true, start), Ok(()));
        let later = start + Duration::from_secs(1);
        assert_eq!(buckets.take(source(1), true, later), Ok(()));
        assert_eq!(buckets.take(source(1), true, later), Ok(()));
        assert_eq!(buckets.take(source(1), true, later), Err(Refused::SourceRate));
    }

    #[test]
    fn strangers_leave_half_of_the_whole_to_known_sources() {
        let start = Instant::now();
        let mut buckets = Buckets::new(&config(), start);
        let admitted = (0..1000).filter(|n| buckets.take(source(*n), false, start).is_ok()).count();
        assert_eq!(admitted, 10);
        assert_eq!(buckets.take(source(5000), false, start), Err(Refused::Rate));
        let admitted =
            (2000..3000).filter(|n| buckets.take(source(*n), true, start).is_ok()).count();
        assert_eq!(admitted, 10);
        assert_eq!(buckets.take(source(5000), true, start), Err(Refused::Rate));
    }

    #[test]
    fn a_full_table_shuts_nobody_out() {
        let start = Instant::now();
        let config = Config { max_sources: 3, ..config() };
        let mut buckets = Buckets::new(&config, start);
        for n in 0..8 {
            assert_eq!(buckets.take(source(n), false, start), Ok(()));
        }
        assert_eq!(buckets.sources(), 3);
        for _ in 0..3 {
            assert_eq!(buckets.take(source(0), true, start), Ok(()));
        }
        assert_eq!(buckets.take(source(0), true, start), Err(Refused::SourceRate), "still judged");
    }

    #[test]
    fn pressure_shows_before_anything_is_refused() {
        let start = Instant::now();
        let mut buckets = Buckets::new(&config(), start);
        assert!(!buckets.pressed(source(1), start));
        buckets.take(source(1), false, start).unwrap();
        buckets.take(source(1), false, start).unwrap();
        assert!(buckets.pressed(source(1), start) && !buckets.pressed(source(2), start));
        for n in 2..5 {
            buckets.take(source(n), false, start).unwrap();
        }
        assert!(buckets.pressed(source(9), start));
        assert!(!buckets.pressed(source(9), start + Duration::from_secs(1)));
    }

    proptest! {
        /// Whatever comes when, no more is let in than burst and rate allow, in all and by source;
        /// the table keeps its bound, and is empty once everything is full again.
        #[test]
        fn never_more_than_the_burst_and_the_rate(
            arrivals in prop::collection::vec((0u64..400, 0u32..20, any::<bool>()), 1..400),
            max_sources in 1usize..30,
        ) {
            let config = Config { max_sources, ..config() };
            let start = Instant::now();
            let mut buckets = Buckets::new(&config, start);
            let mut now = start;
            let (mut all, mut by_source) = (0u32, HashMap::<u32, u32>::new());
            for (wait_ms, n, known) in arrivals {
                now += Duration::from_millis(wait_ms);
                if buckets.take(source(n), known, now).is_ok() {
                    all += 1;
                    *by_source.entry(n).or_default() += 1;
                }
                let secs = (now - start).as_secs_f64();
                prop_assert!(f64::from(all) <= 20.0 + 20.0 * secs + 1e-6);
                prop_assert!(buckets.sources() <= max_sources);
                if max_sources >= 20 {
                    for admitted in by_source.values() {
                        prop_assert!(f64::from(*admitted) <= 4.0 + 2.0 * secs + 1e-6);
                    }
                }
            }
            buckets.expire(now + Duration::from_secs(2));
            prop_assert_eq!(buckets.sources(), 0);
            prop_assert!(buckets.level(now + Duration::from_secs(1)) >= 20.0 - 1e-6);
        }
    }
}
