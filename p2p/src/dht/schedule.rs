//! When to announce what this node provides.
//!
//! kad's own republishing is off: it forgets over a restart and sends everything at once. Here each
//! key has the instant it is due next; the driver asks for due ones and reports how each went.

use super::{Config, Key};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};
use thiserror::Error;

/// The keys this node provides, each with the time it is announced next.
///
/// At most `max_provided` keys: 32 bytes in each of two tables, an instant in both and tree and
/// table overhead make about 400 bytes a key.
#[derive(Debug)]
pub struct Schedule {
    renew_after: Duration,
    retry_base: Duration,
    retry_max: Duration,
    max_keys: usize,
    max_in_flight: usize,
    entries: HashMap<Key, Entry>,
    /// Entries that are not in flight, by when they are due.
    due: BTreeSet<(Instant, Key)>,
    /// Also holds keys that were removed while in flight.
    in_flight: HashSet<Key>,
}

#[derive(Debug)]
struct Entry {
    due: Instant,
    failures: u32,
    announced: bool,
}

/// What [`Schedule::insert`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// The key is new and due now.
    New,
    /// The key was there, but was not announced yet.
    Waiting,
    /// The key was there and is announced.
    Announced,
}

/// The schedule holds as many keys as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("this node already provides {0} keys, the most it may")]
pub struct Full(pub usize);

impl Schedule {
    /// An empty schedule.
    pub fn new(config: &Config) -> Self {
        Self {
            renew_after: config.renew_after,
            retry_base: config.retry_base,
            retry_max: config.retry_max,
            max_keys: config.max_provided,
            max_in_flight: config.announce_parallelism,
            entries: HashMap::new(),
            due: BTreeSet::new(),
            in_flight: HashSet::new(),
        }
    }

    /// Adds a key, due at once.
    pub fn insert(&mut self, key: Key, now: Instant) -> Result<Inserted, Full> {
        if let Some(entry) = self.entries.get(&key) {
            return Ok(if entry.announced { Inserted::Announced } else { Inserted::Waiting });
        }
        if self.entries.len() >= self.max_keys {
            return Err(Full(self.max_keys));
        }
        self.entries.insert(key, Entry { due: now, failures: 0, announced: false });
        // A key removed and added again while in flight waits for the announcement under way.
        if !self.in_flight.contains(&key) {
            self.due.insert((now, key));
        }
        Ok(Inserted::New)
    }

    /// Takes a key out. Whether it was there.
    pub fn remove(&mut self, key: &Key) -> bool {
        match self.entries.remove(key) {
            Some(entry) => {
                self.due.remove(&(entry.due, *key));
                true
            }
            None => false,
        }
    }

    /// The next key to announce, if one is due and not too many are in flight. It counts as in
    /// flight until [`Self::announced`] or [`Self::failed`].
    pub fn next(&mut self, now: Instant) -> Option<Key> {
        if self.in_flight.len() >= self.max_in_flight {
            return None;
        }
        let first = *self.due.first().filter(|(due, _)| *due <= now)?;
        self.due.remove(&first);
        self.in_flight.insert(first.1);
        Some(first.1)
    }

    /// The announcement of a key is done.
    pub fn announced(&mut self, key: &Key, now: Instant) {
        if !self.in_flight.remove(key) {
            return;
        }
        if let Some(entry) = self.entries.get_mut(key) {
            entry.announced = true;
            entry.failures = 0;
            entry.due = now + self.renew_after;
            self.due.insert((entry.due, *key));
        }
    }

    /// The announcement of a key reached nobody.
    pub fn failed(&mut self, key: &Key, now: Instant) {
        if !self.in_flight.remove(key) {
            return;
        }
        if let Some(entry) = self.entries.get_mut(key) {
            let doubled = 1u32.checked_shl(entry.failures).unwrap_or(u32::MAX);
            let wait = self.retry_base.saturating_mul(doubled).min(self.retry_max);
            entry.failures = entry.failures.saturating_add(1);
            entry.due = now + wait;
            self.due.insert((entry.due, *key));
        }
    }

    /// Makes all keys whose last announcement failed due now. For when the first peers appear.
    pub fn retry_failed(&mut self, now: Instant) {
        for (key, entry) in &mut self.entries {
            if entry.failures > 0 && entry.due > now && self.due.remove(&(entry.due, *key)) {
                entry.failures = 0;
                entry.due = now;
                self.due.insert((now, *key));
            }
        }
    }

    /// Whether the key is provided.
    pub fn contains(&self, key: &Key) -> bool {
        self.entries.contains_key(key)
    }

    /// Keys provided.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is provided.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keys provided that no other peer has been told of yet.
    pub fn unannounced(&self) -> usize {
        self.entries.values().filter(|e| !e.announced).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config() -> Config {
        Config {
            announce_parallelism: 2,
            max_provided: 4,
            retry_base: Duration::from_secs(2),
            retry_max: Duration::from_secs(10),
            ..Config::default()
        }
    }

    #[test]
    fn a_key_is_due_at_once_and_again_when_it_must_be_renewed() {
        let now = Instant::now();
        let mut schedule = Schedule::new(&config());
        let key = Key::test(1);
        assert_eq!(schedule.insert(key, now), Ok(Inserted::New));
        assert_eq!(schedule.next(now), Some(key));
        assert_eq!(schedule.next(now), None);
        schedule.announced(&key, now);
        assert_eq!(schedule.insert(key, now), Ok(Inserted::Announced));
        let renewal = now + Config::default().renew_after;
        assert_eq!(schedule.next(renewal - Duration::from_millis(1)), None);
        assert_eq!(schedule.next(renewal), Some(key));
    }

    #[test]
    fn failures_wait_longer_each_time_up_to_a_limit() {
        let mut now = Instant::now();
        let mut schedule = Schedule::new(&config());
        let key = Key::test(1);
        schedule.insert(key, now).unwrap();
        for wait in [2, 4, 8, 10, 10] {
            assert_eq!(schedule.next(now), Some(key));
            schedule.failed(&key, now);
            assert_eq!(schedule.next(now + Duration::from_secs(wait - 1)), None);
            now += Duration::from_secs(wait);
        }
        assert_eq!(schedule.insert(key, now), Ok(Inserted::Waiting));
        assert_eq!(schedule.unannounced(), 1);
    }

    #[test]
    fn peers_that_appear_wake_what_failed_and_nothing_else() {
        let now = Instant::now();
        let mut schedule = Schedule::new(&config());
        let (failed, fresh) = (Key::test(1), Key::test(2));
        schedule.insert(failed, now).unwrap();
        schedule.insert(fresh, now).unwrap();
        while let Some(key) = schedule.next(now) {
            if key == failed {
                schedule.failed(&key, now);
            } else {
                schedule.announced(&key, now);
            }
        }
        assert_eq!(schedule.next(now), None);
        schedule.retry_failed(now);
        assert_eq!(schedule.next(now), Some(failed));
        assert_eq!(schedule.next(now), None);
    }

    #[test]
    fn no_more_than_allowed_are_in_flight_or_held() {
        let now = Instant::now();
        let mut schedule = Schedule::new(&config());
        for n in 0..4 {
            schedule.insert(Key::test(n), now).unwrap();
        }
        assert_eq!(schedule.insert(Key::test(9), now), Err(Full(4)));
        assert_eq!(schedule.insert(Key::test(0), now), Ok(Inserted::Waiting));
        let first = schedule.next(now).unwrap();
        assert!(schedule.next(now).is_some());
        assert_eq!(schedule.next(now), None);
        schedule.announced(&first, now);
        assert!(schedule.next(now).is_some());
    }

    #[test]
    fn a_key_removed_in_flight_is_not_renewed() {
        let now = Instant::now();
        let mut schedule = Schedule::new(&config());
        let key = Key::test(1);
        schedule.insert(key, now).unwrap();
        schedule.next(now).unwrap();
        assert!(schedule.remove(&key));
        schedule.announced(&key, now);
        assert!(schedule.is_empty());
        assert_eq!(schedule.next(now + Duration::from_secs(1_000_000)), None);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u32),
        Remove(u32),
        Next,
        Announced(u32),
        Failed(u32),
        Retry,
        Wait(u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u32..6).prop_map(Step::Insert),
            (0u32..6).prop_map(Step::Remove),
            Just(Step::Next),
            (0u32..6).prop_map(Step::Announced),
            (0u32..6).prop_map(Step::Failed),
            Just(Step::Retry),
            any::<u16>().prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// Whatever happens, every key held is either due some time or in flight, never both.
        #[test]
        fn no_key_is_forgotten_or_doubled(steps in proptest::collection::vec(step(), 0..200)) {
            let mut now = Instant::now();
            let mut schedule = Schedule::new(&config());
            for step in steps {
                match step {
                    Step::Insert(n) => { let _ = schedule.insert(Key::test(n), now); }
                    Step::Remove(n) => { schedule.remove(&Key::test(n)); }
                    Step::Next => { schedule.next(now); }
                    Step::Announced(n) => schedule.announced(&Key::test(n), now),
                    Step::Failed(n) => schedule.failed(&Key::test(n), now),
                    Step::Retry => schedule.retry_failed(now),
                    Step::Wait(s) => now += Duration::from_secs(s.into()),
                }
                prop_assert!(schedule.len() <= 4);
                prop_assert!(schedule.in_flight.len() <= 2);
                for (key, entry) in &schedule.entries {
                    let due = schedule.due.contains(&(entry.due, *key));
                    prop_assert!(due != schedule.in_flight.contains(key));
                }
                for (_, key) in &schedule.due {
                    prop_assert!(schedule.entries.contains_key(key));
                }
            }
        }
    }
}
