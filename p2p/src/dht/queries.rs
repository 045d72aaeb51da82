//! Who waits for which lookup, and what is known without one.
//!
//! Callers that ask for the same share one lookup; a bounded number of lookups is in flight, a
//! bounded number of callers waits. Each caller is answered as soon as as many peers are known as it
//! asked for. What a lookup has found is remembered for a short time.
//!
//! `W` is a waiting caller; the driver uses a channel, tests use numbers.

use super::{Config, Key, cache::Cache};
use crate::PeerId;
use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Query {
    /// The providers of a key.
    Find(Key),
    /// The peers nearest to a key.
    Closest(Key),
}

/// What becomes of a caller that asked.
#[derive(Debug, PartialEq, Eq)]
pub enum Ask<W> {
    /// The lookup is to be started now, for as many peers.
    Start(usize),
    /// Another caller's lookup, in flight or waiting for its turn, will answer this one too; it is to
    /// find as many peers.
    Joined(usize),
    /// The lookup waits for its turn.
    Queued,
    /// What is known suffices.
    Ready(W, Vec<PeerId>),
    /// Too many callers wait.
    Refused(W),
}

struct Lookup<W> {
    found: Vec<PeerId>,
    waiters: Vec<(usize, W)>,
}

impl<W> Default for Lookup<W> {
    fn default() -> Self {
        Self { found: Vec::new(), waiters: Vec::new() }
    }
}

impl<W> Lookup<W> {
    /// How many peers the one wants who wants most.
    fn wanted(&self) -> usize {
        self.waiters.iter().map(|(limit, _)| *limit).max().unwrap_or(1)
    }
}

/// Lookups in flight, those waiting for their turn, their callers, and what was found of late.
pub struct Queries<W> {
    max_in_flight: usize,
    max_waiting: usize,
    max_providers: usize,
    max_closest: usize,
    lookups: HashMap<Query, Lookup<W>>,
    /// Those of the lookups that wait for their turn.
    queue: VecDeque<Query>,
    waiting: usize,
    cache: Cache,
}

impl<W> Queries<W> {
    /// No lookups; see the fields of [`Config`] of the same names.
    pub fn new(config: &Config) -> Self {
        Self {
            max_in_flight: config.max_queries,
            max_waiting: config.max_waiting,
            max_providers: config.max_providers,
            max_closest: config.replication,
            lookups: HashMap::new(),
            queue: VecDeque::new(),
            waiting: 0,
            cache: Cache::new(config.cache, config.cache_found, config.cache_nothing),
        }
    }

    /// A caller wants up to `limit` peers.
    pub fn ask(&mut self, query: Query, limit: usize, waiter: W, now: Instant) -> Ask<W> {
        let limit = limit.clamp(1, self.most(&query));
        if let Some(lookup) = self.lookups.get(&query) {
            if lookup.found.len() >= limit {
                return Ask::Ready(waiter, first(&lookup.found, limit));
            }
        } else if let Some(known) = self.cache.get(&query, limit, now) {
            return Ask::Ready(waiter, known);
        }
        if self.waiting >= self.max_waiting {
            return Ask::Refused(waiter);
        }
        self.waiting += 1;
        let in_flight = self.in_flight();
        let known = self.lookups.contains_key(&query);
        let lookup = self.lookups.entry(query).or_default();
        lookup.waiters.push((limit, waiter));
        if known {
            Ask::Joined(lookup.wanted())
        } else if in_flight < self.max_in_flight {
            Ask::Start(limit)
        } else {
            self.queue.push_back(query);
            Ask::Queued
        }
    }

    /// A peer could not be reached, or its connection broke: what named it is looked for again.
    pub fn lost(&mut self, peer: &PeerId, now: Instant) {
        self.cache.lost(peer, now);
    }

    /// The most peers that answer a question.
    fn most(&self, query: &Query) -> usize {
        match query {
            Query::Find(_) => self.max_providers,
            Query::Closest(_) => self.max_closest,
        }
    }

    /// Whether a lookup may start.
    pub fn is_due(&self) -> bool {
        !self.queue.is_empty() && self.in_flight() < self.max_in_flight
    }

    /// The next lookup that may start, and for how many peers.
    pub fn next_queued(&mut self) -> Option<(Query, usize)> {
        if self.in_flight() >= self.max_in_flight {
            return None;
        }
        let query = self.queue.pop_front()?;
        Some((query, self.lookups.get(&query).map_or(1, Lookup::wanted)))
    }

    /// A lookup has come upon peers, perhaps known ones. Who has enough now.
    pub fn found(
        &mut self,
        query: &Query,
        peers: impl IntoIterator<Item = PeerId>,
    ) -> Vec<(W, Vec<PeerId>)> {
        let most = self.most(query);
        let Some(lookup) = self.lookups.get_mut(query) else { return Vec::new() };
        for peer in peers {
            if lookup.found.len() >= most {
                break;
            }
            if !lookup.found.contains(&peer) {
                lookup.found.push(peer);
            }
        }
        let enough = |limit: usize| lookup.found.len() >= limit;
        let waiters = std::mem::take(&mut lookup.waiters);
        let (answered, waiting) = waiters.into_iter().partition(|(limit, _)| enough(*limit));
        lookup.waiters = waiting;
        let answered: Vec<(usize, W)> = answered;
        self.waiting -= answered.len();
        answered.into_iter().map(|(limit, w)| (w, first(&lookup.found, limit))).collect()
    }

    /// A lookup has ended, and has found `all` there are or only enough. Who still waits, with what
    /// was found.
    pub fn ended(&mut self, query: &Query, all: bool, now: Instant) -> Vec<(W, Vec<PeerId>)> {
        let Some(lookup) = self.remove(query) else { return Vec::new() };
        self.cache.put(*query, &lookup.found, all, now);
        answers(lookup)
    }

    /// A lookup has failed. Who still waits, with what was found until then.
    pub fn failed(&mut self, query: &Query) -> Vec<(W, Vec<PeerId>)> {
        self.remove(query).map(answers).unwrap_or_default()
    }

    fn remove(&mut self, query: &Query) -> Option<Lookup<W>> {
        let lookup = self.lookups.remove(query)?;
        self.waiting -= lookup.waiters.len();
        Some(lookup)
    }

    /// This node provides a key from now on, or no longer: what was found before does not count.
    pub fn changed(&mut self, key: &Key) {
        self.cache.forget(&Query::Find(*key));
    }

    /// Lookups in flight.
    pub fn in_flight(&self) -> usize {
        self.lookups.len() - self.queue.len()
    }

    /// Callers that wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }
}

fn answers<W>(lookup: Lookup<W>) -> Vec<(W, Vec<PeerId>)> {
    let found = lookup.found;
    lookup.waiters.into_iter().map(|(limit, w)| (w, first(&found, limit))).collect()
}

fn first(found: &[PeerId], limit: usize) -> Vec<PeerId> {
    found.iter().take(limit).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::peer_id_of;
    use proptest::prelude::*;
    use std::time::Duration;

    fn queries() -> Queries<u32> {
        Queries::new(&Config {
            max_queries: 2,
            max_waiting: 4,
            max_providers: 3,
            ..Config::default()
        })
    }

    fn peer(n: u8) -> PeerId {
        peer_id_of(&[n; 32]).unwrap()
    }

    fn find(n: u32) -> Query {
        Query::Find(Key::test(n))
    }

    #[test]
    fn identical_lookups_share_one_and_each_is_answered_when_it_has_enough() {
        let now = Instant::now();
        let mut queries = queries();
        assert_eq!(queries.ask(find(1), 1, 10, now), Ask::Start(1));
        assert_eq!(queries.ask(find(1), 2, 20, now), Ask::Joined(2));
        let other = Query::Closest(Key::test(1));
        assert_eq!(queries.ask(other, 1, 40, now), Ask::Start(1), "another question");
        assert_eq!(queries.found(&find(1), [peer(1), peer(1)]), [(10, vec![peer(1)])]);
        assert_eq!(queries.ask(find(1), 1, 30, now), Ask::Ready(30, vec![peer(1)]));
        assert_eq!(queries.found(&find(1), [peer(2)]), [(20, vec![peer(1), peer(2)])]);
        assert!(queries.ended(&find(1), false, now).is_empty());
        assert_eq!((queries.in_flight(), queries.waiting()), (1, 1));
        assert_eq!(
            queries.ask(find(1), 2, 50, now),
            Ask::Ready(50, vec![peer(1), peer(2)]),
            "it is remembered"
        );
    }

    #[test]
    fn the_end_answers_with_what_there_is() {
        let now = Instant::now();
        let mut queries = queries();
        queries.ask(find(1), 3, 10, now);
        queries.found(&find(1), [peer(1)]);
        assert_eq!(queries.ended(&find(1), true, now), [(10, vec![peer(1)])]);
        assert_eq!(
            queries.ask(find(1), 3, 11, now),
            Ask::Ready(11, vec![peer(1)]),
            "all there are"
        );
    }

    #[test]
    fn a_failure_is_not_remembered() {
        let now = Instant::now();
        let mut queries = queries();
        queries.ask(find(1), 3, 10, now);
        queries.found(&find(1), [peer(1)]);
        assert_eq!(queries.failed(&find(1)), [(10, vec![peer(1)])]);
        assert_eq!(queries.ask(find(1), 1, 11, now), Ask::Start(1));
    }

    #[test]
    fn what_this_node_does_itself_counts_at_once() {
        let now = Instant::now();
        let mut queries = queries();
        queries.ask(find(1), 1, 10, now);
        queries.ended(&find(1), true, now);
        assert_eq!(queries.ask(find(1), 1, 11, now), Ask::Ready(11, vec![]));
        queries.changed(&Key::test(1));
        assert_eq!(queries.ask(find(1), 1, 12, now), Ask::Start(1));
    }

    #[test]
    fn what_is_too_much_waits_and_what_is_far_too_much_is_refused() {
        let now = Instant::now();
        let mut queries = queries();
        for n in 0..2 {
            assert_eq!(queries.ask(find(n), 1, n, now), Ask::Start(1));
        }
        assert_eq!(queries.ask(find(2), 1, 2, now), Ask::Queued);
        assert_eq!(queries.ask(find(2), 3, 3, now), Ask::Joined(3));
        assert_eq!(queries.ask(find(4), 1, 4, now), Ask::Refused(4));
        assert_eq!(queries.next_queued(), None);
        queries.failed(&find(0));
        assert_eq!(queries.next_queued(), Some((find(2), 3)), "for all that wait");
        assert_eq!(queries.next_queued(), None);
    }

    #[test]
    fn a_limit_beyond_the_most_is_the_most() {
        let mut queries = queries();
        assert_eq!(queries.ask(find(1), usize::MAX, 1, Instant::now()), Ask::Start(3));
        let found = queries.found(&find(1), (1..9).map(peer));
        assert_eq!(found[0].1.len(), 3);
    }

    proptest! {
        /// Every caller is answered once, refused once, or still waits; bounds hold.
        #[test]
        fn nobody_is_forgotten(
            ops in proptest::collection::vec((0u8..6, 0u32..5, 1usize..4), 0..200),
        ) {
            let mut now = Instant::now();
            let mut queries = queries();
            let (mut asked, mut answered) = (0usize, 0usize);
            let mut running: Vec<Query> = Vec::new();
            for (what, n, limit) in ops {
                match what {
                    0 | 1 => {
                        asked += 1;
                        match queries.ask(find(n), limit, n, now) {
                            Ask::Start(_) => running.push(find(n)),
                            Ask::Ready(..) | Ask::Refused(_) => answered += 1,
                            Ask::Joined(_) | Ask::Queued => {}
                        }
                    }
                    2 => if let Some(query) = running.first() {
                        answered += queries.found(query, [peer(n.to_le_bytes()[0])]).len();
                    },
                    3 => if !running.is_empty() {
                        answered += queries.failed(&running.remove(0)).len();
                    },
                    4 => if !running.is_empty() {
                        answered += queries.ended(&running.remove(0), n % 2 == 0, now).len();
                    },
                    _ => now += Duration::from_secs(n.into()),
                }
                while let Some((query, _)) = queries.next_queued() {
                    running.push(query);
                }
                prop_assert_eq!(asked, answered + queries.waiting());
                prop_assert!(queries.in_flight() <= 2 && queries.waiting() <= 4);
                prop_assert_eq!(running.len(), queries.in_flight());
            }
        }
    }
}
