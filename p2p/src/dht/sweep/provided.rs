//! The keys this node provides: of which class, where they lie, and when each is due.

use super::prefix::{Prefix, head};
use crate::dht::{Class, Key, space::Point};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    num::NonZeroU64,
    time::{Duration, Instant},
};
use thiserror::Error;

/// Most places of a region that one look passes over in search of keys that are due. Renewals of a
/// region are due together, so there is seldom anything to pass over. 8,192 take about 1 ms.
const MAX_LOOK: usize = 8192;

/// As many keys are kept as may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("this node already provides {0} keys for good, the most it may")]
pub(crate) struct Full(pub(crate) usize);

/// What [`Provided::insert`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    /// The key is new; the least recently provided cached key may have left for it.
    New(Option<Key>),
    /// The key was there already; whether its class has changed.
    Known { changed: bool },
}

/// Which of two queues a key waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nobody was told of it yet.
    New,
    /// It is to be renewed.
    Renewal,
}

/// One provided key.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) class: Class,
    /// When it is to be announced next.
    pub(super) due: Instant,
    /// When it was last announced, by the wall clock.
    pub(super) announced_ms: Option<NonZeroU64>,
    /// Announcements that have failed since.
    pub(super) failures: u32,
    /// A visit has it in hand, so that it waits in no queue.
    pub(super) busy: bool,
    /// It was announced to fewer peers than it is to be, since there were no more.
    pub(super) thin: bool,
    /// The disk has it.
    pub(super) on_disk: bool,
    /// Where a cached key is in the order of use.
    used: u64,
}

impl Entry {
    fn kind(&self) -> Kind {
        if self.announced_ms.is_some() { Kind::Renewal } else { Kind::New }
    }
}

/// The provided keys.
///
/// A key takes 73 bytes in the table, 40 in the order of places and 48 in a queue. Both trees are
/// two thirds full and the table is 7/16 to 7/8 full, so this is at most 300 bytes a key, and for the
/// 110,000 that may be provided by default, which fill the table well, 24 MB.
#[derive(Debug)]
pub(super) struct Provided {
    max_kept: usize,
    max_cached: usize,
    entries: HashMap<Key, Entry>,
    /// All keys by where they lie.
    places: BTreeSet<(u64, Key)>,
    /// Keys in no visit's hand that were never announced, by when they are due.
    new: BTreeSet<(Instant, Key)>,
    /// The others in no visit's hand.
    renewals: BTreeSet<(Instant, Key)>,
    /// The cached ones, the least recently provided first.
    cached: BTreeMap<u64, Key>,
    /// Counts every use of a cached key.
    uses: u64,
    unannounced: usize,
}

/// Where a key lies, as far as regions matter.
pub(super) fn place(key: &Key) -> u64 {
    head(&Point::of_key(key))
}

impl Provided {
    pub(super) fn new(max_kept: usize, max_cached: usize) -> Self {
        Self {
            max_kept,
            max_cached,
            entries: HashMap::new(),
            places: BTreeSet::new(),
            new: BTreeSet::new(),
            renewals: BTreeSet::new(),
            cached: BTreeMap::new(),
            uses: 0,
            unannounced: 0,
        }
    }

    /// Adds a key, or notes that it is used. A cached key becomes a kept one if it is to be; a kept
    /// one stays so.
    pub(super) fn insert(
        &mut self,
        key: Key,
        class: Class,
        due: Instant,
        announced_ms: Option<NonZeroU64>,
    ) -> Result<Inserted, Full> {
        let kept = self.entries.len() - self.cached.len();
        let known = self.entries.get_mut(&key);
        let is_kept = known.as_ref().is_some_and(|entry| entry.class == Class::Kept);
        if class == Class::Kept && !is_kept && kept >= self.max_kept {
            return Err(Full(self.max_kept));
        }
        if let Some(entry) = known {
            let changed = entry.class != class && class == Class::Kept;
            if entry.class == Class::Cached {
                self.cached.remove(&entry.used);
                entry.class = class;
                if class == Class::Cached {
                    self.uses += 1;
                    entry.used = self.uses;
                    self.cached.insert(entry.used, key);
                }
            }
            return Ok(Inserted::Known { changed });
        }
        let mut left = None;
        if class == Class::Cached {
            if self.cached.len() >= self.max_cached {
                left = self.cached.first_key_value().map(|(_, key)| *key);
            }
            self.uses += 1;
            self.cached.insert(self.uses, key);
        }
        let entry = Entry {
            class,
            due,
            announced_ms,
            failures: 0,
            busy: false,
            thin: false,
            on_disk: false,
            used: self.uses,
        };
        self.queue(entry.kind()).insert((due, key));
        self.unannounced += usize::from(announced_ms.is_none());
        self.entries.insert(key, entry);
        self.places.insert((place(&key), key));
        Ok(Inserted::New(left))
    }

    /// Takes a key out.
    pub(super) fn remove(&mut self, key: &Key) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.queue(entry.kind()).remove(&(entry.due, *key));
        self.places.remove(&(place(key), *key));
        if entry.class == Class::Cached {
            self.cached.remove(&entry.used);
        }
        self.unannounced -= usize::from(entry.announced_ms.is_none());
        Some(entry)
    }

    fn queue(&mut self, kind: Kind) -> &mut BTreeSet<(Instant, Key)> {
        match kind {
            Kind::New => &mut self.new,
            Kind::Renewal => &mut self.renewals,
        }
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// The disk has been given a key, or has not.
    pub(super) fn set_on_disk(&mut self, key: &Key) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.on_disk = true;
        }
    }

    /// The first key of a queue and when it is due.
    pub(super) fn first(&self, kind: Kind) -> Option<(Instant, Key)> {
        match kind {
            Kind::New => self.new.first(),
            Kind::Renewal => self.renewals.first(),
        }
        .copied()
    }

    /// Takes in hand up to `max` keys of a region, `from` and those that lie after it first: all new
    /// ones, those to be renewed within `ahead`, and those that failed and are due now.
    pub(super) fn take(
        &mut self,
        region: Prefix,
        from: &Key,
        now: Instant,
        ahead: Duration,
        max: usize,
    ) -> Vec<(u64, Key)> {
        let horizon = now + ahead;
        if !region.contains(place(from)) {
            return Vec::new();
        }
        let due = |key: &Key| {
            self.entries.get(key).is_some_and(|entry| {
                !entry.busy
                    && match (entry.kind(), entry.failures) {
                        // It was being collected until now.
                        (Kind::New, 0) => true,
                        (Kind::Renewal, 0) => entry.due <= horizon,
                        // Its turn to be tried again has come or not.
                        _ => entry.due <= now,
                    }
            })
        };
        let start = (place(from), *from);
        let end = (region.last(), Key::LAST);
        let behind = self.places.range(start..=end);
        let before = self.places.range((region.first(), Key::FIRST)..start);
        let taken: Vec<_> = behind
            .chain(before)
            .take(MAX_LOOK)
            .filter(|(_, key)| due(key))
            .take(max)
            .copied()
            .collect();
        for (_, key) in &taken {
            self.hold(key);
        }
        taken
    }

    fn hold(&mut self, key: &Key) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.busy = true;
        let (kind, due) = (entry.kind(), entry.due);
        self.queue(kind).remove(&(due, *key));
    }

    /// A key in hand was announced: it is due again after `renew_after`, once it is given back.
    /// `thin` says that it could be told to fewer peers than it should.
    pub(super) fn announced(&mut self, key: &Key, due: Instant, now_ms: u64, thin: bool) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        self.unannounced -= usize::from(entry.announced_ms.is_none());
        // A clock at the epoch itself is one that was never set.
        entry.announced_ms = Some(NonZeroU64::new(now_ms).unwrap_or(NonZeroU64::MIN));
        entry.failures = 0;
        entry.due = due;
        entry.thin = thin;
    }

    /// A key in hand could not be announced; `wait` says for how long it waits after so many
    /// failures before this one.
    pub(super) fn failed(&mut self, key: &Key, now: Instant, wait: impl FnOnce(u32) -> Duration) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.due = now + wait(entry.failures);
        entry.failures = entry.failures.saturating_add(1);
    }

    /// Gives a key back that was in hand.
    pub(super) fn give_back(&mut self, key: &Key) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if !entry.busy {
            return;
        }
        entry.busy = false;
        let (kind, due) = (entry.kind(), entry.due);
        self.queue(kind).insert((due, *key));
    }

    /// Makes due now what is in no visit's hand and meets the condition. Goes through all keys.
    pub(super) fn due_now(&mut self, now: Instant, wanted: impl Fn(&Entry) -> bool) {
        let early: Vec<Key> = self
            .entries
            .iter()
            .filter(|(_, entry)| !entry.busy && entry.due > now && wanted(entry))
            .map(|(key, _)| *key)
            .collect();
        for key in early {
            self.hold(&key);
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.due = now;
                entry.failures = 0;
                entry.thin = false;
            }
            self.give_back(&key);
        }
    }

    /// Keys that may be provided in all.
    pub(super) fn room(&self) -> usize {
        self.max_kept.saturating_add(self.max_cached)
    }

    /// Keys provided for good.
    pub(super) fn kept(&self) -> usize {
        self.entries.len() - self.cached.len()
    }

    /// Keys provided while they are cached.
    pub(super) fn cached(&self) -> usize {
        self.cached.len()
    }

    /// Keys that nobody was told of yet.
    pub(super) fn unannounced(&self) -> usize {
        self.unannounced
    }

    /// Into how many blocks of `len` bits the keys fall, at most `max`.
    pub(super) fn regions(&self, len: u32, max: usize) -> usize {
        let mut next = Some(0);
        let mut regions = 0;
        while let Some(from) = next
            && regions < max
            && let Some((at, _)) = self.places.range((from, Key::FIRST)..).next()
        {
            regions += 1;
            next = Prefix::of(*at, len).last().checked_add(1);
        }
        regions
    }

    /// Keys of both queues that are due, the longest overdue first in each; at most `max` of each.
    pub(super) fn overdue(&self, now: Instant, max: usize) -> impl Iterator<Item = &Key> {
        let new = self.new.iter().take_while(move |(due, _)| *due <= now).take(max);
        let renewals = self.renewals.iter().take_while(move |(due, _)| *due <= now).take(max);
        new.chain(renewals).map(|(_, key)| key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WAIT: Duration = Duration::from_secs(10);
    const AHEAD: Duration = Duration::from_secs(100);

    fn provided() -> Provided {
        Provided::new(4, 2)
    }

    fn insert(provided: &mut Provided, n: u32, class: Class, now: Instant) -> Option<Key> {
        match provided.insert(Key::test(n), class, now, None).unwrap() {
            Inserted::New(left) => left.inspect(|key| assert!(provided.remove(key).is_some())),
            Inserted::Known { .. } => panic!("{n} was known"),
        }
    }

    #[test]
    fn the_stated_size_of_an_entry_is_its_size() {
        assert_eq!(size_of::<(Key, Entry)>(), 72);
        assert_eq!(size_of::<(u64, Key)>(), 40);
        assert_eq!(size_of::<(Instant, Key)>(), 48);
    }

    #[test]
    fn kept_keys_beyond_the_bound_are_refused_and_of_cached_ones_the_least_recent_leaves() {
        let (mut provided, now) = (provided(), Instant::now());
        for n in 0..4 {
            assert_eq!(insert(&mut provided, n, Class::Kept, now), None);
        }
        let refused = provided.insert(Key::test(4), Class::Kept, now, None);
        assert_eq!(refused, Err(Full(4)));
        assert_eq!(insert(&mut provided, 10, Class::Cached, now), None);
        assert_eq!(insert(&mut provided, 11, Class::Cached, now), None);
        let again = provided.insert(Key::test(10), Class::Cached, now, None);
        assert_eq!(again, Ok(Inserted::Known { changed: false }));
        assert_eq!(insert(&mut provided, 12, Class::Cached, now), Some(Key::test(11)));
        assert_eq!((provided.kept(), provided.cached()), (4, 2));
        let refused = provided.insert(Key::test(10), Class::Kept, now, None);
        assert_eq!(refused, Err(Full(4)), "a cached key becomes a kept one only if there is room");
        provided.remove(&Key::test(0)).unwrap();
        let changed = provided.insert(Key::test(10), Class::Kept, now, None);
        assert_eq!(changed, Ok(Inserted::Known { changed: true }));
        let stays = provided.insert(Key::test(10), Class::Cached, now, None);
        assert_eq!(stays, Ok(Inserted::Known { changed: false }));
        assert_eq!((provided.kept(), provided.cached()), (4, 1));
    }

    #[test]
    fn a_region_is_taken_with_what_is_due_soon_and_goes_round() {
        let (mut provided, now) = (Provided::new(1000, 1), Instant::now());
        for n in 0..500 {
            insert(&mut provided, n, Class::Kept, now);
        }
        let region = Prefix::of(u64::MAX, 1);
        let mut wanted: Vec<_> = (0..500).map(|n| place(&Key::test(n))).collect();
        wanted.retain(|at| region.contains(*at));
        wanted.sort_unstable();
        let (_, first) = provided.first(Kind::New).unwrap();
        let some = (0..500).map(Key::test).find(|key| place(key) == wanted[100]).unwrap();
        let taken = provided.take(region, &some, now, AHEAD, 150);
        assert_eq!(taken.len(), 150);
        assert_eq!(taken[0], (wanted[100], some));
        let rest = provided.take(region, &some, now, AHEAD, 1000);
        let mut all: Vec<_> = taken.iter().chain(&rest).map(|(at, _)| *at).collect();
        all.sort_unstable();
        assert_eq!(all, wanted, "each once");
        // Announced at different times, they are renewed together.
        for (i, (_, key)) in taken.iter().enumerate() {
            let due = now + WAIT * u32::try_from(i).unwrap();
            provided.announced(key, due, 1, false);
            provided.give_back(key);
        }
        assert_eq!(provided.first(Kind::Renewal), Some((now, some)));
        assert_eq!(provided.take(region, &some, now, AHEAD, 1000).len(), 11);
        let elsewhere = provided.take(Prefix::of(0, 1), &some, now, AHEAD, 1000);
        assert_eq!(elsewhere, [], "not of that region");
        assert!(
            provided
                .first(Kind::New)
                .is_some_and(|(_, key)| key != first || !region.contains(place(&first)))
        );
    }

    #[test]
    fn failures_wait_and_are_not_renewed_ahead() {
        let (mut provided, now) = (provided(), Instant::now());
        insert(&mut provided, 1, Class::Kept, now);
        let key = Key::test(1);
        let take =
            |provided: &mut Provided, now| provided.take(Prefix::ALL, &key, now, AHEAD, 9).len();
        assert_eq!(take(&mut provided, now), 1);
        provided.announced(&key, now + WAIT, 5, false);
        provided.failed(&key, now, |failures| WAIT * (failures + 1));
        provided.give_back(&key);
        assert_eq!(take(&mut provided, now), 0);
        provided.due_now(now, |entry| entry.failures > 0);
        assert_eq!(provided.first(Kind::Renewal), Some((now, key)));
        assert_eq!(provided.unannounced(), 0, "some were told");
    }

    #[test]
    fn regions_are_counted_by_their_bits() {
        let (mut provided, now) = (Provided::new(1000, 1), Instant::now());
        assert_eq!(provided.regions(4, 100), 0);
        for n in 0..300 {
            insert(&mut provided, n, Class::Kept, now);
        }
        assert_eq!(provided.regions(0, 100), 1);
        assert_eq!(provided.regions(4, 100), 16, "300 random keys are in all of 16");
        assert_eq!(provided.regions(4, 7), 7);
        assert_eq!(provided.regions(64, 1000), 300);
        assert_eq!(provided.overdue(now, 1000).count(), 300);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u32, Class),
        Remove(u32),
        Take(u32, u32),
        Announced(u32),
        Failed(u32),
        GiveBack(u32),
        DueNow,
        Wait(u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        let class = prop_oneof![Just(Class::Kept), Just(Class::Cached)];
        prop_oneof![
            (0u32..9, class).prop_map(|(n, class)| Step::Insert(n, class)),
            (0u32..9).prop_map(Step::Remove),
            (0u32..9, 0u32..3).prop_map(|(n, len)| Step::Take(n, len)),
            (0u32..9).prop_map(Step::Announced),
            (0u32..9).prop_map(Step::Failed),
            (0u32..9).prop_map(Step::GiveBack),
            Just(Step::DueNow),
            any::<u16>().prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// Whatever happens, every key waits in just one queue or is in hand, the bounds hold and the
        /// indexes agree.
        #[test]
        fn no_key_is_forgotten_or_doubled(steps in proptest::collection::vec(step(), 0..200)) {
            let mut now = Instant::now();
            let mut provided = provided();
            for step in steps {
                match step {
                    Step::Insert(n, class) => {
                        let inserted = provided.insert(Key::test(n), class, now, None);
                        if let Ok(Inserted::New(Some(left))) = inserted {
                            prop_assert!(provided.remove(&left).is_some());
                        }
                    }
                    Step::Remove(n) => { provided.remove(&Key::test(n)); }
                    Step::Take(n, len) => {
                        let from = Key::test(n);
                        let region = Prefix::of(place(&from), len);
                        for (at, key) in provided.take(region, &from, now, AHEAD, 2) {
                            prop_assert!(region.contains(at) && provided.get(&key).unwrap().busy);
                        }
                    }
                    Step::Announced(n) => {
                        let key = Key::test(n);
                        if provided.get(&key).is_some_and(|entry| entry.busy) {
                            provided.announced(&key, now + WAIT, 7, false);
                        }
                    }
                    Step::Failed(n) => {
                        let key = Key::test(n);
                        if provided.get(&key).is_some_and(|entry| entry.busy) {
                            provided.failed(&key, now, |_| WAIT);
                        }
                    }
                    Step::GiveBack(n) => provided.give_back(&Key::test(n)),
                    Step::DueNow => provided.due_now(now, |entry| entry.failures > 0),
                    Step::Wait(s) => now += Duration::from_secs(s.into()),
                }
                prop_assert!(provided.kept() <= 4 && provided.cached() <= 2);
                prop_assert_eq!(provided.places.len(), provided.entries.len());
                let (mut unannounced, mut cached, mut queued) = (0, 0, 0);
                for (key, entry) in &provided.entries {
                    let waits = (entry.due, *key);
                    let new = provided.new.contains(&waits);
                    let renewal = provided.renewals.contains(&waits);
                    prop_assert_eq!(new, !entry.busy && entry.announced_ms.is_none());
                    prop_assert_eq!(renewal, !entry.busy && entry.announced_ms.is_some());
                    queued += usize::from(new) + usize::from(renewal);
                    unannounced += usize::from(entry.announced_ms.is_none());
                    if entry.class == Class::Cached {
                        cached += 1;
                        prop_assert_eq!(provided.cached.get(&entry.used), Some(key));
                    }
                    prop_assert!(provided.places.contains(&(place(key), *key)));
                }
                prop_assert_eq!(queued, provided.new.len() + provided.renewals.len());
                prop_assert_eq!(cached, provided.cached());
                prop_assert_eq!(unannounced, provided.unannounced());
            }
        }
    }
}
