//! Who waits for which lookup.
//!
//! Callers that ask for the same key share one lookup; a bounded number of lookups is in flight, a
//! bounded number of callers waits. Each caller is answered as soon as as many providers are known
//! as it asked for, and a lookup that nobody waits for any more is to be finished.
//!
//! `Id` names a lookup in flight and `W` is a waiting caller; the driver uses kad's query id and a
//! channel, tests use numbers.

use super::Key;
use crate::PeerId;
use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

/// What becomes of a caller that asked.
#[derive(Debug, PartialEq, Eq)]
pub enum Ask<W> {
    /// The key's lookup is to be started now; tell its id with [`Queries::started`].
    Start,
    /// Another caller's lookup, in flight or waiting for its turn, will answer this one too.
    Joined,
    /// The lookup waits for its turn.
    Queued,
    /// What another caller's lookup has found suffices.
    Ready(W, Vec<PeerId>),
    /// Too many callers wait.
    Refused(W),
}

/// Callers to answer now, and whether the lookup is to be finished.
#[derive(Debug, PartialEq, Eq)]
pub struct Found<W> {
    /// Each with the providers it gets.
    pub answered: Vec<(W, Vec<PeerId>)>,
    /// Nobody waits for the lookup any more.
    pub finish: bool,
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

/// Lookups in flight, those waiting for their turn, and their callers.
pub struct Queries<Id, W> {
    max_in_flight: usize,
    max_waiting: usize,
    max_providers: usize,
    lookups: HashMap<Key, Lookup<W>>,
    in_flight: HashMap<Id, Key>,
    queue: VecDeque<Key>,
    /// Started but not yet told the id of.
    starting: usize,
    waiting: usize,
}

impl<Id: Copy + Eq + Hash, W> Queries<Id, W> {
    /// No lookups; see the fields of [`Config`](super::Config) of the same names.
    pub fn new(config: &super::Config) -> Self {
        Self {
            max_in_flight: config.max_queries,
            max_waiting: config.max_waiting,
            max_providers: config.max_providers,
            lookups: HashMap::new(),
            in_flight: HashMap::new(),
            queue: VecDeque::new(),
            starting: 0,
            waiting: 0,
        }
    }

    /// A caller wants up to `limit` providers of a key.
    pub fn ask(&mut self, key: Key, limit: usize, waiter: W) -> Ask<W> {
        let limit = limit.clamp(1, self.max_providers);
        if let Some(lookup) = self.lookups.get(&key)
            && lookup.found.len() >= limit
        {
            return Ask::Ready(waiter, first(&lookup.found, limit));
        }
        if self.waiting >= self.max_waiting {
            return Ask::Refused(waiter);
        }
        self.waiting += 1;
        let known = self.lookups.contains_key(&key);
        self.lookups.entry(key).or_default().waiters.push((limit, waiter));
        if known {
            Ask::Joined
        } else if self.in_flight.len() + self.starting < self.max_in_flight {
            self.starting += 1;
            Ask::Start
        } else {
            self.queue.push_back(key);
            Ask::Queued
        }
    }

    /// The lookup of a key is in flight.
    pub fn started(&mut self, key: Key, id: Id) {
        self.starting = self.starting.saturating_sub(1);
        self.in_flight.insert(id, key);
    }

    /// A lookup found providers, perhaps known ones.
    pub fn found(&mut self, id: &Id, providers: impl IntoIterator<Item = PeerId>) -> Found<W> {
        let mut result = Found { answered: Vec::new(), finish: false };
        let Some(key) = self.in_flight.get(id).copied() else { return result };
        let Some(lookup) = self.lookups.get_mut(&key) else { return result };
        for provider in providers {
            if lookup.found.len() >= self.max_providers {
                break;
            }
            if !lookup.found.contains(&provider) {
                lookup.found.push(provider);
            }
        }
        let mut waiting = Vec::new();
        for (limit, waiter) in lookup.waiters.drain(..) {
            if lookup.found.len() >= limit {
                result.answered.push((waiter, first(&lookup.found, limit)));
            } else {
                waiting.push((limit, waiter));
            }
        }
        lookup.waiters = waiting;
        result.finish = lookup.waiters.is_empty();
        if result.finish {
            self.lookups.remove(&key);
            self.in_flight.remove(id);
        }
        self.waiting -= result.answered.len();
        result
    }

    /// A lookup has ended: who still waits, with what was found.
    pub fn ended(&mut self, id: &Id) -> Vec<(W, Vec<PeerId>)> {
        let Some(key) = self.in_flight.remove(id) else { return Vec::new() };
        let Some(lookup) = self.lookups.remove(&key) else { return Vec::new() };
        self.waiting -= lookup.waiters.len();
        let found = lookup.found;
        lookup.waiters.into_iter().map(|(limit, w)| (w, first(&found, limit))).collect()
    }

    /// The next queued key whose lookup may start; tell its id with [`Self::started`].
    pub fn next_queued(&mut self) -> Option<Key> {
        if self.in_flight.len() + self.starting >= self.max_in_flight {
            return None;
        }
        let key = self.queue.pop_front()?;
        self.starting += 1;
        Some(key)
    }

    /// Lookups in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Callers that wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }
}

fn first(found: &[PeerId], limit: usize) -> Vec<PeerId> {
    found.iter().take(limit).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dht::Config, identity::peer_id_of};
    use proptest::prelude::*;

    fn queries() -> Queries<u32, u32> {
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

    #[test]
    fn identical_lookups_share_one_and_end_when_all_have_enough() {
        let mut queries = queries();
        let key = Key::test(1);
        assert_eq!(queries.ask(key, 1, 10), Ask::Start);
        queries.started(key, 1);
        assert_eq!(queries.ask(key, 2, 20), Ask::Joined);
        let found = queries.found(&1, [peer(1), peer(1)]);
        assert_eq!(found.answered, [(10, vec![peer(1)])]);
        assert!(!found.finish);
        assert_eq!(queries.ask(key, 1, 30), Ask::Ready(30, vec![peer(1)]));
        let found = queries.found(&1, [peer(2)]);
        assert_eq!(found.answered, [(20, vec![peer(1), peer(2)])]);
        assert!(found.finish);
        assert_eq!((queries.in_flight(), queries.waiting()), (0, 0));
        assert!(queries.ended(&1).is_empty());
    }

    #[test]
    fn the_end_answers_with_what_there_is() {
        let mut queries = queries();
        let key = Key::test(1);
        queries.ask(key, 3, 10);
        queries.started(key, 1);
        queries.found(&1, [peer(1)]);
        assert_eq!(queries.ended(&1), [(10, vec![peer(1)])]);
        assert_eq!(queries.ask(key, 3, 11), Ask::Start);
    }

    #[test]
    fn what_is_too_much_waits_and_what_is_far_too_much_is_refused() {
        let mut queries = queries();
        for n in 0..2 {
            assert_eq!(queries.ask(Key::test(n), 1, n), Ask::Start);
            queries.started(Key::test(n), n);
        }
        assert_eq!(queries.ask(Key::test(2), 1, 2), Ask::Queued);
        assert_eq!(queries.ask(Key::test(2), 1, 3), Ask::Joined);
        assert_eq!(queries.ask(Key::test(4), 1, 4), Ask::Refused(4));
        assert_eq!(queries.next_queued(), None);
        queries.ended(&0);
        assert_eq!(queries.next_queued(), Some(Key::test(2)));
        assert_eq!(queries.next_queued(), None);
    }

    #[test]
    fn a_limit_beyond_the_most_is_the_most() {
        let mut queries = queries();
        queries.ask(Key::test(1), usize::MAX, 1);
        queries.started(Key::test(1), 1);
        let found = queries.found(&1, (1..9).map(peer));
        assert_eq!(found.answered[0].1.len(), 3);
    }

    proptest! {
        /// Every caller is answered once, refused once, or still waits; bounds hold.
        #[test]
        fn nobody_is_forgotten(ops in proptest::collection::vec((0u8..4, 0u32..5, 1usize..4), 0..200)) {
            let mut queries = queries();
            let (mut asked, mut answered, mut ids) = (0usize, 0usize, 0u32);
            let mut running: Vec<u32> = Vec::new();
            for (what, n, limit) in ops {
                match what {
                    0 | 1 => {
                        asked += 1;
                        match queries.ask(Key::test(n), limit, n) {
                            Ask::Start => {
                                ids += 1;
                                queries.started(Key::test(n), ids);
                                running.push(ids);
                            }
                            Ask::Ready(..) | Ask::Refused(_) => answered += 1,
                            Ask::Joined | Ask::Queued => {}
                        }
                    }
                    2 => if let Some(id) = running.first() {
                        let found = queries.found(id, [peer(n.to_le_bytes()[0])]);
                        answered += found.answered.len();
                        if found.finish { running.remove(0); }
                    },
                    _ => if !running.is_empty() {
                        answered += queries.ended(&running.remove(0)).len();
                    },
                }
                while let Some(key) = queries.next_queued() {
                    ids += 1;
                    queries.started(key, ids);
                    running.push(ids);
                }
                prop_assert_eq!(asked, answered + queries.waiting());
                prop_assert!(queries.in_flight() <= 2 && queries.waiting() <= 4);
                prop_assert!(queries.queue.len() + queries.in_flight() == queries.lookups.len());
            }
        }
    }
}
