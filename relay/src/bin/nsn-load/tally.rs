//! What viewers count. Every viewer adds to the same numbers without waiting.

use nsn_relay::wire::Source;
use serde_json::{Value, json};
use std::{
    array,
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// What is counted, one number each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    /// Connections made.
    Connected,
    /// Of these, the ones that were lost.
    Lost,
    /// Requests that were answered whole.
    Requests,
    /// Bytes of bodies.
    Bytes,
    /// Times a player had nothing to play.
    Stalls,
    /// Jumps to another place.
    Seeks,
    /// Answers that the service had in memory.
    Memory,
    /// Answers that it had on its disk.
    Disk,
    /// Answers that it fetched.
    Upstream,
}

const COUNTS: [(Count, &str); 9] = [
    (Count::Connected, "connected"),
    (Count::Lost, "lost"),
    (Count::Requests, "requests"),
    (Count::Bytes, "bytes"),
    (Count::Stalls, "stalls"),
    (Count::Seeks, "seeks"),
    (Count::Memory, "from_memory"),
    (Count::Disk, "from_disk"),
    (Count::Upstream, "from_upstream"),
];

/// Buckets of latencies: sixteen for each power of two of microseconds, up to 2^32 (72 minutes), so
/// a quantile is right to 6 %.
const BUCKETS: usize = 16 * 29;
/// Different troubles that are told apart; the rest is `other`.
const TROUBLES: usize = 32;

/// All numbers: about 8 KiB, and the names of troubles.
pub(crate) struct Tally {
    counts: [AtomicU64; COUNTS.len()],
    first_bytes: Latencies,
    seeks: Latencies,
    troubles: Mutex<BTreeMap<String, u64>>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            counts: array::from_fn(|_| AtomicU64::new(0)),
            first_bytes: Latencies::default(),
            seeks: Latencies::default(),
            troubles: Mutex::default(),
        }
    }
}

impl Tally {
    pub(crate) fn add(&self, count: Count, n: u64) {
        if let Some(counter) = self.counts.get(count as usize) {
            counter.fetch_add(n, Relaxed);
        }
    }

    /// How long a request waited for its first byte.
    pub(crate) fn first_byte(&self, seek: bool, took: Duration) {
        if seek { &self.seeks } else { &self.first_bytes }.add(took);
    }

    /// Where the service had an answer from.
    pub(crate) fn source(&self, source: Option<Source>) {
        match source {
            Some(Source::Memory) => self.add(Count::Memory, 1),
            Some(Source::Disk) => self.add(Count::Disk, 1),
            Some(Source::Upstream) => self.add(Count::Upstream, 1),
            None => {}
        }
    }

    /// Something that went wrong: what, and in which words.
    pub(crate) fn trouble(&self, what: &str, words: &str) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("{what}: {words}");
        let known = troubles.contains_key(&name) || troubles.len() < TROUBLES;
        *troubles.entry(if known { name } else { "other".into() }).or_default() += 1;
    }

    /// The counts of this moment.
    pub(crate) fn counts(&self) -> Counts {
        Counts(array::from_fn(|n| self.counts.get(n).map_or(0, |count| count.load(Relaxed))))
    }

    /// The latencies and troubles so far.
    pub(crate) fn rest(&self) -> Value {
        let troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        json!({
            "first_byte_ms": self.first_bytes.told(),
            "seek_first_byte_ms": self.seeks.told(),
            "troubles": *troubles,
        })
    }
}

/// Counts of a moment, or of the time between two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts([u64; COUNTS.len()]);

impl Counts {
    pub(crate) fn since(&self, before: &Self) -> Self {
        let both = self.0.iter().zip(&before.0);
        let mut between = Self::default();
        for (to, (now, before)) in between.0.iter_mut().zip(both) {
            *to = now.saturating_sub(*before);
        }
        between
    }

    pub(crate) fn get(&self, count: Count) -> u64 {
        self.0.get(count as usize).copied().unwrap_or_default()
    }

    pub(crate) fn told(&self) -> Value {
        COUNTS.iter().map(|(count, name)| ((*name).to_owned(), json!(self.get(*count)))).collect()
    }
}

/// How long things took.
struct Latencies([AtomicU64; BUCKETS]);

impl Default for Latencies {
    fn default() -> Self {
        Self(array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Latencies {
    fn add(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if let Some(counter) = self.0.get(bucket(us)) {
            counter.fetch_add(1, Relaxed);
        }
    }

    /// Quantiles in milliseconds; null of nothing.
    fn told(&self) -> Value {
        let counts: Vec<u64> = self.0.iter().map(|count| count.load(Relaxed)).collect();
        let all: u64 = counts.iter().sum();
        if all == 0 {
            return Value::Null;
        }
        let quantile = |part: f64| {
            let mut below = 0;
            let at = counts.iter().position(|count| {
                below += count;
                below as f64 >= part * all as f64
            });
            upper(at.unwrap_or(BUCKETS - 1)) as f64 / 1000.0
        };
        json!({
            "count": all,
            "p50": quantile(0.5),
            "p95": quantile(0.95),
            "p99": quantile(0.99),
            "p999": quantile(0.999),
            "max": quantile(1.0),
        })
    }
}

/// The bucket of a number of microseconds: below 16 one each, then sixteen a power of two.
fn bucket(us: u64) -> usize {
    if us < 16 {
        return usize::try_from(us).unwrap_or_default();
    }
    let power = us.ilog2();
    let part = usize::try_from((us >> (power - 4)) & 15).unwrap_or_default();
    let power = usize::try_from(power).unwrap_or_default();
    ((power - 3) * 16 + part).min(BUCKETS - 1)
}

/// The least number of microseconds of the next bucket: what is in this one is below.
fn upper(bucket: usize) -> u64 {
    let next = bucket + 1;
    let at = |n: usize| u64::try_from(n).unwrap_or_default();
    if next < 16 { at(next) } else { at(16 + next % 16) << (next / 16 - 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_lies_below_the_end_of_its_bucket_and_within_a_sixteenth_of_it() {
        for us in (0..100_000).chain([1 << 20, (1 << 31) - 1]) {
            let end = upper(bucket(us));
            assert!(us < end, "{us}");
            assert!(end - us <= us / 16 + 1, "{us} {end}");
            assert!(bucket(us) == 0 || upper(bucket(us) - 1) <= us, "{us}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_those_of_what_was_added() {
        let latencies = Latencies::default();
        for ms in 1..=1000 {
            latencies.add(Duration::from_millis(ms));
        }
        let told = latencies.told();
        for (name, expected) in [("p50", 500.0), ("p99", 990.0), ("max", 1000.0)] {
            let value = told[name].as_f64().unwrap();
            assert!((value / expected - 1.0).abs() < 0.07, "{name}: {value}");
        }
        assert_eq!(Latencies::default().told(), Value::Null);
    }

    #[test]
    fn troubles_of_a_server_that_says_ever_new_things_are_bounded() {
        let tally = Tally::default();
        for n in 0..1000 {
            tally.trouble("failed", &n.to_string());
        }
        let troubles = tally.troubles.lock().unwrap();
        assert!(troubles.len() <= TROUBLES + 1);
        assert_eq!(troubles.values().sum::<u64>(), 1000);
    }
}
