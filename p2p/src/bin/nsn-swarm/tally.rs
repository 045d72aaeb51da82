//! What a swarm counts. Every peer adds to the same numbers without waiting.

use serde::Serialize;
use std::{
    array,
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Why something went wrong, as the node sees to it or as it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The connection could not be made, or not in time.
    Dial,
    /// It was made, and closed before gossip could be spoken on it: refused.
    Refused,
    /// The other side closed it later.
    Closed,
    /// The stream that this side writes to was closed or reset, the connection was not.
    Stream,
    /// What came is no gossip.
    Malformed,
}

impl Trouble {
    const ALL: [Self; 5] = [Self::Dial, Self::Refused, Self::Closed, Self::Stream, Self::Malformed];

    fn label(self) -> &'static str {
        match self {
            Self::Dial => "dial",
            Self::Refused => "refused",
            Self::Closed => "closed",
            Self::Stream => "stream",
            Self::Malformed => "malformed",
        }
    }
}

/// What is counted, one number each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    /// Attempts to connect.
    Attempts,
    /// Connections on which gossip was spoken.
    Connects,
    /// Of these, the ones that have ended.
    Ended,
    /// Honest messages sent.
    Published,
    /// Frames of misbehaviour sent.
    Abuse,
    /// Messages that came from the node.
    Delivered,
    /// Bytes of frames that came.
    Received,
    /// Times taken into a mesh, put out of one, asked for a message.
    Grafts,
    Prunes,
    Wanted,
}

/// How many there are of [`Count`].
const COUNTS: usize = 10;

/// Buckets of the latencies: eight for each power of two of microseconds, up to 2^32 (72 minutes).
const BUCKETS: usize = 8 * 31;

/// All counters: 263 numbers of 8 bytes.
pub(crate) struct Tally {
    counts: [AtomicU64; COUNTS],
    troubles: [AtomicU64; Trouble::ALL.len()],
    latencies: [AtomicU64; BUCKETS],
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            counts: array::from_fn(|_| AtomicU64::new(0)),
            troubles: array::from_fn(|_| AtomicU64::new(0)),
            latencies: array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl Tally {
    pub(crate) fn add(&self, count: Count, n: u64) {
        if let Some(counter) = self.counts.get(count as usize) {
            counter.fetch_add(n, Relaxed);
        }
    }

    pub(crate) fn trouble(&self, trouble: Trouble) {
        if let Some(counter) = self.troubles.get(trouble as usize) {
            counter.fetch_add(1, Relaxed);
        }
    }

    /// How long a message took from its author to a peer.
    pub(crate) fn latency(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if let Some(counter) = self.latencies.get(bucket(us)) {
            counter.fetch_add(1, Relaxed);
        }
    }

    /// All numbers as they are now.
    pub(crate) fn now(&self) -> Numbers {
        let read = |counters: &[AtomicU64]| counters.iter().map(|c| c.load(Relaxed)).collect();
        Numbers {
            counts: read(&self.counts),
            troubles: read(&self.troubles),
            latencies: read(&self.latencies),
        }
    }
}

/// The bucket of a number of microseconds: below 8 one each, then eight a power of two.
fn bucket(us: u64) -> usize {
    if us < 8 {
        return usize::try_from(us).unwrap_or_default();
    }
    let power = us.ilog2();
    let eighth = usize::try_from((us >> (power - 3)) & 7).unwrap_or_default();
    let power = usize::try_from(power).unwrap_or_default();
    ((power - 2) * 8 + eighth).min(BUCKETS - 1)
}

/// The least number of microseconds of the bucket after this one: what is in it is below.
fn upper(bucket: usize) -> u64 {
    let next = bucket + 1;
    let at = |n: usize| u64::try_from(n).unwrap_or_default();
    if next < 8 { at(next) } else { at(8 + next % 8) << (next / 8 - 1) }
}

/// The numbers of a moment, or of the time between two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Numbers {
    counts: Vec<u64>,
    troubles: Vec<u64>,
    latencies: Vec<u64>,
}

/// Times in milliseconds that this part of all messages stayed within.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Latencies {
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

/// One line of output.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Line {
    /// `second` or `summary`.
    event: &'static str,
    /// Seconds since the start.
    at: f64,
    /// Connections now.
    connected: u64,
    attempts: u64,
    connects: u64,
    published: u64,
    abuse: u64,
    delivered: u64,
    received_bytes: u64,
    grafts: u64,
    prunes: u64,
    wanted: u64,
    /// Of messages from their author to a light peer that got them from the node.
    latency_ms: Latencies,
    /// By kind, the ones that happened.
    errors: BTreeMap<&'static str, u64>,
}

impl Numbers {
    /// What has come since an earlier moment.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let less = |now: &[u64], then: &[u64]| {
            now.iter().zip(then).map(|(now, then)| now.saturating_sub(*then)).collect()
        };
        Self {
            counts: less(&self.counts, &earlier.counts),
            troubles: less(&self.troubles, &earlier.troubles),
            latencies: less(&self.latencies, &earlier.latencies),
        }
    }

    pub(crate) fn count(&self, count: Count) -> u64 {
        self.counts.get(count as usize).copied().unwrap_or_default()
    }

    /// Connections that have begun and not ended.
    pub(crate) fn connected(&self) -> u64 {
        self.count(Count::Connects).saturating_sub(self.count(Count::Ended))
    }

    /// The time in milliseconds that `part` (0..=1) of all messages stayed within, to an eighth; 0
    /// if there were none.
    fn quantile(&self, part: f64) -> f64 {
        let total: u64 = self.latencies.iter().sum();
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a rank, between 1 and the total"
        )]
        let rank = ((total as f64 * part).ceil() as u64).clamp(1, total.max(1));
        let mut seen = 0;
        for (bucket, count) in self.latencies.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_micros(upper(bucket)).as_secs_f64() * 1e3;
            }
        }
        0.0
    }

    /// As a line of output; `connected` is what is connected at its end.
    pub(crate) fn line(&self, event: &'static str, at: Duration, connected: u64) -> Line {
        let errors = Trouble::ALL
            .into_iter()
            .zip(&self.troubles)
            .filter(|(_, count)| **count > 0)
            .map(|(trouble, count)| (trouble.label(), *count))
            .collect();
        Line {
            event,
            at: (at.as_secs_f64() * 1e3).round() / 1e3,
            connected,
            attempts: self.count(Count::Attempts),
            connects: self.count(Count::Connects),
            published: self.count(Count::Published),
            abuse: self.count(Count::Abuse),
            delivered: self.count(Count::Delivered),
            received_bytes: self.count(Count::Received),
            grafts: self.count(Count::Grafts),
            prunes: self.count(Count::Prunes),
            wanted: self.count(Count::Wanted),
            latency_ms: Latencies {
                p50: self.quantile(0.5),
                p95: self.quantile(0.95),
                p99: self.quantile(0.99),
                max: self.quantile(1.0),
            },
            errors,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_tells_what_came_since_the_one_before() {
        let tally = Tally::default();
        tally.add(Count::Connects, 3);
        tally.trouble(Trouble::Dial);
        let then = tally.now();
        tally.add(Count::Connects, 2);
        tally.add(Count::Ended, 1);
        tally.trouble(Trouble::Refused);
        let now = tally.now();
        assert_eq!(now.connected(), 4);
        let line = now.since(&then).line("second", Duration::from_millis(1500), now.connected());
        assert_eq!((line.connected, line.connects, line.at), (4, 2, 1.5));
        assert_eq!(line.errors, BTreeMap::from([("refused", 1)]));
        assert_eq!(line.latency_ms, Latencies { p50: 0.0, p95: 0.0, p99: 0.0, max: 0.0 });
    }

    /// The exact quantile: the `part`th of a sorted list.
    fn exact(sorted: &[u64], part: f64) -> u64 {
        let beyond = |at: &usize| (at + 1) as f64 >= sorted.len() as f64 * part;
        let rank = (0..sorted.len()).find(beyond).unwrap();
        sorted[rank]
    }

    proptest! {
        #[test]
        fn a_bucket_is_an_eighth_wide_at_most(us in 0..1u64 << 32) {
            let bound = upper(bucket(us));
            prop_assert!(us < bound && bound <= us + us / 8 + 1, "{us} {bound}");
        }

        #[test]
        fn larger_numbers_are_in_later_buckets(a: u64, b: u64) {
            prop_assert_eq!(bucket(a.min(b)) <= bucket(a.max(b)), true);
        }

        #[test]
        fn quantiles_are_those_of_a_sorted_list(
            mut micros in prop::collection::vec(0..1u64 << 32, 1..200), part in 0.0..=1.0f64,
        ) {
            let tally = Tally::default();
            for us in &micros {
                tally.latency(Duration::from_micros(*us));
            }
            micros.sort_unstable();
            let exact = exact(&micros, part) as f64 / 1e3;
            let told = tally.now().quantile(part);
            prop_assert!(told > exact && told <= exact * 1.125 + 0.001, "{told} {exact}");
        }
    }
}
