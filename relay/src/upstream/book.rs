//! What is remembered about sources, and in which order it makes us ask them.
//!
//! Decisions only. What is seen here stays here: it is never reported to the chain.

use super::{Config, Source};
use libp2p::PeerId;
use lru::LruCache;
use std::{
    cmp::Reverse,
    num::NonZeroUsize,
    time::{Duration, Instant},
};

/// How an attempt at a source ended badly, as far as the next choice is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It delivered bytes that are not the blob.
    Corrupt,
    /// It could not be reached, stalled, or broke the protocol.
    Failed,
}

/// What is known about one source.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    latency: Option<Duration>,
    penalised_until: Option<Instant>,
}

/// The sources used last.
pub(super) struct Book {
    assumed_latency: Duration,
    stagger_min: Duration,
    stagger_max: Duration,
    corrupt_penalty: Duration,
    failure_penalty: Duration,
    /// Bounded; at the default of 1,024 entries of about 150 bytes, 150 KiB. One that falls out is
    /// unknown again.
    entries: LruCache<PeerId, Entry>,
}

/// A source to be asked, and how long to wait for it before the next is asked beside it.
#[derive(Clone, Debug)]
pub(super) struct Ranked {
    pub(super) source: Source,
    pub(super) stagger: Duration,
}

impl Book {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            assumed_latency: config.assumed_latency,
            stagger_min: config.stagger_min,
            stagger_max: config.stagger_max,
            corrupt_penalty: config.corrupt_penalty,
            failure_penalty: config.failure_penalty,
            entries: LruCache::sparse(NonZeroUsize::new(config.book).unwrap_or(NonZeroUsize::MIN)),
        }
    }

    /// The order in which to ask: those without a penalty first, then those an account answers for,
    /// then by reputation in steps of 100, then the quickest.
    pub(super) fn rank(&self, sources: Vec<Source>, now: Instant) -> Vec<Ranked> {
        let mut ranked: Vec<_> = sources
            .into_iter()
            .map(|source| {
                let entry = self.entries.peek(&source.peer).copied().unwrap_or_default();
                let penalised = entry.penalised_until.is_some_and(|until| now < until);
                let score = source.seeder_score.map(|score| score / 100);
                let latency = entry.latency.unwrap_or(self.assumed_latency);
                let key = (penalised, Reverse(score), latency, source.peer);
                let stagger = (latency * 2).clamp(self.stagger_min, self.stagger_max);
                (key, Ranked { source, stagger })
            })
            .collect();
        ranked.sort_unstable_by_key(|(key, _)| *key);
        ranked.dedup_by_key(|(key, _)| key.3);
        ranked.into_iter().map(|(_, ranked)| ranked).collect()
    }

    /// A source delivered a blob after `latency`.
    pub(super) fn delivered(&mut self, peer: PeerId, latency: Duration) {
        let entry = self.entries.get_or_insert_mut(peer, Entry::default);
        // One quarter new: follows a change within a few blobs, shrugs at a single slow one.
        entry.latency = Some(entry.latency.map_or(latency, |old| (old * 3 + latency) / 4));
        entry.penalised_until = None;
    }

    /// A source did not deliver.
    pub(super) fn failed(&mut self, peer: PeerId, fault: Fault, now: Instant) {
        let penalty = match fault {
            Fault::Corrupt => self.corrupt_penalty,
            Fault::Failed => self.failure_penalty,
        };
        let entry = self.entries.get_or_insert_mut(peer, Entry::default);
        let until = now + penalty;
        entry.penalised_until = Some(entry.penalised_until.map_or(until, |old| old.max(until)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn peers<const N: usize>() -> [PeerId; N] {
        let mut peers = std::array::from_fn(|_| PeerId::random());
        peers.sort();
        peers
    }

    fn source(peer: PeerId, seeder_score: Option<u16>) -> Source {
        Source { peer, addrs: vec![], seeder_score }
    }

    fn order(book: &Book, sources: Vec<Source>, now: Instant) -> Vec<PeerId> {
        book.rank(sources, now).into_iter().map(|ranked| ranked.source.peer).collect()
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn reputation_first_then_latency_and_the_unknown_in_the_middle() {
        let [a, b, c, d] = peers();
        let mut book = Book::new(&Config::default());
        let now = Instant::now();
        book.delivered(a, 900 * MS);
        book.delivered(b, 10 * MS);
        let sources =
            vec![source(a, Some(550)), source(b, Some(510)), source(c, None), source(d, Some(500))];
        assert_eq!(order(&book, sources.clone(), now), [b, d, a, c]);
        let better = [sources, vec![source(a, Some(700))]].concat().split_off(1);
        assert_eq!(order(&book, better, now), [a, b, d, c]);
    }

    #[test]
    fn a_penalty_puts_a_source_last_until_it_expires_or_delivers() {
        let [a, b] = peers();
        let config = Config::default();
        let mut book = Book::new(&config);
        let now = Instant::now();
        let sources = || vec![source(a, Some(900)), source(b, None)];
        assert_eq!(order(&book, sources(), now), [a, b]);
        book.failed(a, Fault::Corrupt, now);
        // A milder fault does not shorten it.
        book.failed(a, Fault::Failed, now);
        assert_eq!(order(&book, sources(), now + config.failure_penalty), [b, a]);
        assert_eq!(order(&book, sources(), now + config.corrupt_penalty), [a, b]);
        book.failed(a, Fault::Failed, now);
        book.delivered(a, MS);
        assert_eq!(order(&book, sources(), now), [a, b]);
    }

    #[test]
    fn the_stagger_follows_the_latency_within_its_bounds() {
        let [a] = peers();
        let config = Config::default();
        let mut book = Book::new(&config);
        let stagger = |book: &Book| book.rank(vec![source(a, None)], Instant::now())[0].stagger;
        book.delivered(a, config.stagger_min);
        assert_eq!(stagger(&book), config.stagger_min * 2);
        book.delivered(a, Duration::from_secs(60));
        assert_eq!(stagger(&book), config.stagger_max);
        let mut book = Book::new(&config);
        book.delivered(a, MS);
        assert_eq!(stagger(&book), config.stagger_min);
    }

    proptest! {
        #[test]
        fn ranking_keeps_every_source_once_and_the_book_is_bounded(
            scores in prop::collection::vec(any::<Option<u16>>(), 0..40),
            faults in prop::collection::vec((0usize..40, 0u64..5000, any::<bool>()), 0..80),
        ) {
            let mut book = Book::new(&Config { book: 8, ..Config::default() });
            let now = Instant::now();
            let sources: Vec<_> =
                scores.into_iter().map(|score| source(PeerId::random(), score)).collect();
            for (at, ms, good) in faults {
                if let Some(source) = sources.get(at) {
                    match good {
                        true => book.delivered(source.peer, Duration::from_millis(ms)),
                        false => book.failed(source.peer, Fault::Failed, now),
                    }
                }
            }
            prop_assert!(book.entries.len() <= 8);
            let twice = [sources.clone(), sources.clone()].concat();
            let mut ranked = order(&book, twice, now);
            ranked.sort();
            let mut expected: Vec<_> = sources.iter().map(|source| source.peer).collect();
            expected.sort();
            prop_assert_eq!(ranked, expected);
        }
    }
}
