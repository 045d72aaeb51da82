//! What is remembered about sources, and in which order it makes us ask them.
//!
//! Decisions only. What is seen here stays here: it is never reported to the chain.

use super::{
    Config, Source,
    breaker::{Breaker, BreakerConfig, Fault, Stand, ejected},
    measured::{Assumed, Forecast, Measured},
};
use crate::content::BlobId;
use libp2p::PeerId;
use lru::LruCache;
use std::{
    num::NonZeroUsize,
    time::{Duration, Instant},
};

/// Groups of the blob by which sources are compared: 1 MiB, the usual shard.
pub(super) const USUAL_GROUPS: u32 = 64;

/// Sources of which one is expected to need this much more time than the other are not alike.
pub(super) const ALIKE: f64 = 1.25;

/// Who may have the blob, and why that is thought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) source: Source,
    /// It said that it holds the blob, or the directory did. Otherwise it is a guess.
    pub(super) named: bool,
}

/// A source to be asked, and what is expected of it.
#[derive(Clone, Debug)]
pub(super) struct Ranked {
    pub(super) candidate: Candidate,
    pub(super) forecast: Forecast,
    /// Its breaker is open; it is here for want of others.
    pub(super) open: bool,
}

/// What is known about one source.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    measured: Measured,
    breaker: Breaker,
    /// Attempts that are under way.
    running: u32,
    /// How often another was quicker since it last delivered. What it would have taken is not known
    /// then, only that it was too long.
    outrun: u32,
}

/// The sources used last.
pub(super) struct Book {
    assumed: Assumed,
    breaker: BreakerConfig,
    /// Bounded; at the default of 1,024 entries of about 500 bytes, 512 KiB. One that falls out is
    /// unknown again.
    entries: LruCache<PeerId, Entry>,
}

/// The order among sources that may be asked. Less is sooner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// It stays open for want of others.
    open: Option<Instant>,
    /// It failed last time.
    failing: bool,
    /// No account answers for it.
    unbound: bool,
    /// What it is expected to cost, in steps of [`ALIKE`].
    cost: i64,
    /// Among those alike, by blob and source: so a blob is asked of the same source again, which
    /// then has it at hand, and many blobs are spread over all of them.
    spread: [u8; 8],
}

impl Book {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            assumed: Assumed::of(config),
            breaker: config.breaker.clone(),
            entries: LruCache::sparse(NonZeroUsize::new(config.book).unwrap_or(NonZeroUsize::MIN)),
        }
    }

    /// The order in which to ask for a blob: those that work before those that failed, those an
    /// account answers for before the others, then by the time that a blob is expected to take,
    /// weighed by reputation, load, and whether the source is known to have it. Sources with an open
    /// breaker are left out, as far as [`ejected`] does.
    pub(super) fn rank(&self, id: BlobId, candidates: Vec<Candidate>, now: Instant) -> Vec<Ranked> {
        let mut ranked: Vec<_> = candidates
            .into_iter()
            .map(|candidate| {
                let entry = self.entries.peek(&candidate.source.peer).copied().unwrap_or_default();
                let forecast = entry.measured.forecast(&self.assumed, now);
                let place = self.place(id, &candidate, &entry, &forecast, now);
                let open = place.open.is_some();
                (place, Ranked { candidate, forecast, open })
            })
            .collect();
        let peer = |ranked: &Ranked| ranked.candidate.source.peer;
        ranked.sort_by(|(a, ra), (b, rb)| (peer(ra), a).cmp(&(peer(rb), b)));
        ranked.dedup_by(|(_, a), (_, b)| peer(a) == peer(b));
        let open: Vec<_> = ranked.iter().map(|(place, _)| place.open).collect();
        let mut out = ejected(&open).into_iter();
        ranked.retain(|_| !out.next().unwrap_or(false));
        ranked.sort_by(|(a, ra), (b, rb)| (a, peer(ra)).cmp(&(b, peer(rb))));
        ranked.into_iter().map(|(_, ranked)| ranked).collect()
    }

    /// An attempt begins.
    pub(super) fn began(&mut self, peer: PeerId) {
        let entry = self.entry(peer);
        entry.running = entry.running.saturating_add(1);
    }

    /// An attempt has ended, however.
    pub(super) fn ended(&mut self, peer: PeerId) {
        let entry = self.entry(peer);
        entry.running = entry.running.saturating_sub(1);
    }

    /// A source needed this long to its first group, or has needed as long and not delivered one.
    pub(super) fn first(&mut self, peer: PeerId, took: Duration, now: Instant) {
        self.entry(peer).measured.first(took, now);
    }

    /// A source answered a question after this long, which is the least that its first group takes.
    pub(super) fn answered(&mut self, peer: PeerId, took: Duration, now: Instant) {
        let entry = self.entry(peer);
        entry.breaker.answered(now);
        if !entry.measured.is_known() {
            entry.measured.first(took, now);
        }
    }

    /// A source needed this long for each group.
    pub(super) fn pace(&mut self, peer: PeerId, took: Duration, now: Instant) {
        self.entry(peer).measured.group(took, now);
    }

    /// A source delivered what was asked of it.
    pub(super) fn succeeded(&mut self, peer: PeerId, now: Instant) {
        let entry = self.entry(peer);
        entry.breaker.succeeded(now);
        entry.outrun = 0;
    }

    /// Another source was quicker.
    pub(super) fn outrun(&mut self, peer: PeerId) {
        let entry = self.entry(peer);
        entry.outrun = entry.outrun.saturating_add(1);
    }

    /// A source did not deliver.
    pub(super) fn failed(&mut self, peer: PeerId, fault: Fault, now: Instant) {
        let Self { breaker, entries, .. } = self;
        entries.get_or_insert_mut(peer, Entry::default).breaker.failed(fault, now, breaker);
    }

    /// Breakers that are open.
    pub(super) fn open(&self, now: Instant) -> usize {
        let open = |entry: &Entry| matches!(entry.breaker.stand(now), Stand::Open(_));
        self.entries.iter().filter(|(_, entry)| open(entry)).count()
    }

    fn place(
        &self,
        id: BlobId,
        candidate: &Candidate,
        entry: &Entry,
        forecast: &Forecast,
        now: Instant,
    ) -> Place {
        let Candidate { source, named } = candidate;
        let stand = entry.breaker.stand(now);
        // Twice the time for one of no reputation, against one that has all there is.
        let score = source.seeder_score.unwrap_or(0).min(1000);
        let reputation = 2.0 - f64::from(score) / 1000.0;
        let load = 1.0 + f64::from(source.load.unwrap_or(0)) / 255.0;
        let ours = 1.0 + f64::from(entry.running) / 8.0;
        let outrun = f64::from(1u32 << entry.outrun.min(5));
        // A guess that fails costs a round trip.
        let guess = if *named { 1.0 } else { 2.0 };
        let cost = forecast.micros(USUAL_GROUPS) * reputation * load * ours * outrun * guess;
        let mut spread = blake3::Hasher::new();
        spread.update(&id.0).update(&source.peer.to_bytes());
        let [a, b, c, d, e, f, g, h, ..] = *spread.finalize().as_bytes();
        Place {
            open: match stand {
                Stand::Open(until) => Some(until),
                Stand::Closed | Stand::HalfOpen => None,
            },
            failing: stand == Stand::HalfOpen || entry.breaker.failing(now, &self.breaker),
            unbound: source.seeder_score.is_none(),
            cost: steps(cost),
            spread: [a, b, c, d, e, f, g, h],
        }
    }

    fn entry(&mut self, peer: PeerId) -> &mut Entry {
        self.entries.get_or_insert_mut(peer, Entry::default)
    }
}

/// How many steps of [`ALIKE`] a cost in microseconds is above 1.
#[allow(clippy::cast_possible_truncation)] // Of a logarithm, which is far below what fits.
fn steps(cost: f64) -> i64 {
    (cost.max(1.0).ln() / ALIKE.ln()).floor() as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);
    const ID: BlobId = BlobId([7; 32]);

    fn peers<const N: usize>() -> [PeerId; N] {
        std::array::from_fn(|_| PeerId::random())
    }

    fn named(peer: PeerId, seeder_score: Option<u16>) -> Candidate {
        let source = Source { peer, addrs: vec![], seeder_score, load: None };
        Candidate { source, named: true }
    }

    fn order(book: &Book, candidates: Vec<Candidate>, now: Instant) -> Vec<PeerId> {
        let ranked = book.rank(ID, candidates, now);
        ranked.into_iter().map(|ranked| ranked.candidate.source.peer).collect()
    }

    fn delivers(book: &mut Book, peer: PeerId, first: Duration, group: Duration, now: Instant) {
        book.first(peer, first, now);
        book.pace(peer, group, now);
        book.succeeded(peer, now);
    }

    #[test]
    fn the_quickest_is_asked_first_and_strangers_in_between() {
        let [slow, quick, stranger] = peers();
        let mut book = Book::new(&Config::default());
        let now = Instant::now();
        delivers(&mut book, slow, 800 * MS, 20 * MS, now);
        delivers(&mut book, quick, 40 * MS, MS, now);
        let all = || [slow, stranger, quick].map(|peer| named(peer, Some(500))).to_vec();
        assert_eq!(order(&book, all(), now), [quick, stranger, slow]);
        // Much later it is all forgotten, but never turned around.
        let later = now + Duration::from_secs(1200);
        assert_eq!(order(&book, all(), later).last(), Some(&slow));
    }

    #[test]
    fn reputation_load_and_knowledge_weigh_and_an_unbound_one_comes_after_all_bound() {
        let [good, poor, busy, guess, unbound] = peers();
        let mut book = Book::new(&Config::default());
        let now = Instant::now();
        delivers(&mut book, unbound, MS, MS, now);
        let mut candidates = vec![
            named(unbound, None),
            named(poor, Some(200)),
            named(good, Some(1000)),
            named(busy, Some(1000)),
            named(guess, Some(1000)),
        ];
        candidates[3].source.load = Some(64);
        candidates[4].named = false;
        assert_eq!(order(&book, candidates, now), [good, busy, poor, guess, unbound]);
    }

    #[test]
    fn our_own_attempts_count_as_load() {
        let [a, b] = peers();
        let mut book = Book::new(&Config::default());
        let now = Instant::now();
        let all = || vec![named(a, Some(500)), named(b, Some(500))];
        let first = order(&book, all(), now)[0];
        for _ in 0..8 {
            book.began(first);
        }
        assert_ne!(order(&book, all(), now)[0], first);
        for _ in 0..9 {
            book.ended(first);
        }
        assert_eq!(order(&book, all(), now)[0], first);
    }

    #[test]
    fn one_that_was_outrun_is_not_asked_first_again_until_it_delivers() {
        let [a, b] = peers();
        let mut book = Book::new(&Config::default());
        let now = Instant::now();
        let all = || vec![named(a, Some(500)), named(b, Some(500))];
        let first = order(&book, all(), now)[0];
        book.outrun(first);
        assert_ne!(order(&book, all(), now)[0], first);
        book.succeeded(first, now);
        assert_eq!(order(&book, all(), now)[0], first);
    }

    #[test]
    fn one_that_failed_is_asked_last_and_one_with_an_open_breaker_not_at_all() {
        let [a, b, c] = peers();
        let config = Config::default();
        let mut book = Book::new(&config);
        let now = Instant::now();
        let all = || vec![named(a, Some(900)), named(b, None), named(c, Some(100))];
        assert_eq!(order(&book, all(), now), [a, c, b]);
        book.failed(a, Fault::Failed, now);
        assert_eq!(order(&book, all(), now), [c, b, a]);
        book.succeeded(a, now);
        assert_eq!(order(&book, all(), now), [a, c, b]);
        book.failed(a, Fault::Corrupt, now);
        assert_eq!((order(&book, all(), now), book.open(now)), (vec![c, b], 1));
        // Not more than half may be left out: of three one, and of one none.
        book.failed(c, Fault::Corrupt, now + MS);
        assert_eq!(order(&book, all(), now + MS), [b, a]);
        assert_eq!(order(&book, vec![named(c, None)], now + MS), [c]);
        let later = now + config.breaker.corrupt_for + MS;
        assert_eq!(order(&book, all(), later), [b, a, c], "half open: after those that work");
    }

    #[test]
    fn among_equals_a_blob_has_its_own_first_source_and_blobs_are_spread() {
        let peers: [PeerId; 4] = peers();
        let book = Book::new(&Config::default());
        let now = Instant::now();
        let all = || peers.map(|peer| named(peer, Some(500))).to_vec();
        let first = |n: u8| {
            let ranked = book.rank(BlobId([n; 32]), all(), now);
            ranked[0].candidate.source.peer
        };
        assert_eq!(first(1), first(1));
        for peer in peers {
            let share = (0..=255).filter(|n| first(*n) == peer).count();
            assert!((20..130).contains(&share), "{share} of 256");
        }
    }

    proptest! {
        #[test]
        fn ranking_keeps_every_source_that_is_not_ejected_once_and_the_book_is_bounded(
            scores in prop::collection::vec(any::<Option<u16>>(), 0..40),
            faults in prop::collection::vec((0usize..40, 0u64..5000, 0u8..3), 0..80),
        ) {
            let mut book = Book::new(&Config { book: 8, ..Config::default() });
            let now = Instant::now();
            let all: Vec<_> =
                scores.into_iter().map(|score| named(PeerId::random(), score)).collect();
            for (at, ms, event) in faults {
                if let Some(candidate) = all.get(at) {
                    let peer = candidate.source.peer;
                    match event {
                        0 => book.first(peer, Duration::from_millis(ms), now),
                        1 => book.failed(peer, Fault::Failed, now),
                        _ => book.failed(peer, Fault::Corrupt, now),
                    }
                }
            }
            prop_assert!(book.entries.len() <= 8);
            let twice = [all.clone(), all.clone()].concat();
            let mut ranked = order(&book, twice, now);
            prop_assert_eq!(ranked.len(), all.len() - book.open(now).min(all.len() / 2));
            ranked.sort();
            ranked.dedup();
            prop_assert_eq!(ranked.len(), all.len() - book.open(now).min(all.len() / 2));
        }
    }
}
