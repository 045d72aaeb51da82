//! Reputation by overlay key: a hash table made for being read, in little memory.
//!
//! Peers lie in *groups* of 15. A group has 16 bytes of tags: one for each slot (0 for an empty one,
//! else eight bits of the key's hash), and the number of keys that wanted into this group, found it
//! full and *passed* on to a later one. So:
//!
//! - a read compares 15 tags at once and mostly touches one entry, or none for an unbound key;
//! - it ends at the first group that nobody passed, which at the highest load is the first one for
//!   four keys of five;
//! - a removed key leaves nothing behind: its tag is cleared and the counts on its way are taken
//!   back. There are no tombstones that pile up;
//! - the number of groups is any number, not a power of two, so the table is as large as it has to
//!   be: 16/15 + 44 bytes a slot, and [`LOAD`] of the slots are used before it grows by a
//!   twelfth.
//!
//! The library's `HashMap` would need a power of two (up to twice the memory, in each of the two
//! tables of [`super::buffers`]) and leaves tombstones.
//!
//! Overlay keys can be ground by whoever binds them, so the hash has a random seed.

use std::hash::{BuildHasher, Hasher};

use foldhash::quality::RandomState;
use pallet_reputation_runtime_api::{Earned, OverlayKey, PeerChange, PeerEarned};

/// Slots of a group: 15 tags and a count are 16 bytes.
const SLOTS: usize = 15;

/// The largest part of the slots that is used, as a fraction: 5/6. Fuller tables are smaller and
/// slower: more reads of an absent key then have to look at a second group.
const LOAD: (usize, usize) = (5, 6);

/// The part by which a table grows: a twelfth. It is then filled to 10/13, where a peer costs
/// 45.07 * 13/10 = 58.6 bytes, which is the worst case; just before, it costs 54.1.
const GROWTH: usize = 12;

/// A table that is filled to less than this part (a quarter) is made smaller.
const SPARSE: usize = 4;

const EMPTY: PeerEarned = PeerEarned {
    key: [0; 32],
    earned: Earned {
        scores: pallet_reputation_runtime_api::Scores { director: 0, validator: 0, seeder: 0 },
        days: [0; 3],
    },
};

/// The tags of 15 slots in the lower 15 bytes, the count of those that passed in the highest.
#[derive(Clone, Copy)]
struct Group(u128);

impl Group {
    const ONES: u128 = u128::from_ne_bytes([1; 16]);
    const HIGHS: u128 = Self::ONES << 7;
    /// The bits of [`Group::HIGHS`] that belong to slots.
    const SLOT_HIGHS: u128 = Self::HIGHS & !(0xff << 120);

    /// The slots with `tag`, as the high bit of each one's byte.
    #[inline]
    const fn with(self, tag: u8) -> u128 {
        Self::zeros(self.0 ^ (Self::ONES * tag as u128))
    }

    /// The high bit of each byte that is zero. Exactly those: the usual shorter formula may also name
    /// a 1 above a 0, so a slot that was emptied could pass for one with the tag 1, and the key that
    /// still lies in it would be found.
    #[inline]
    const fn zeros(bytes: u128) -> u128 {
        // No sum runs over into the next byte; its high bit is set unless the lower seven are zero.
        let low_bits = (bytes & !Self::HIGHS) + !Self::HIGHS;
        !(low_bits | bytes) & Self::SLOT_HIGHS
    }

    /// The first empty slot.
    #[inline]
    const fn empty(self) -> Option<usize> {
        match Self::zeros(self.0) {
            0 => None,
            zeros => Some(slot(zeros)),
        }
    }

    #[inline]
    const fn set(&mut self, slot: usize, tag: u8) {
        let shift = slot * 8;
        self.0 = self.0 & !(0xff << shift) | (tag as u128) << shift;
    }

    /// Keys that found this group full. At 255 it is no longer counted, and stays until the table
    /// is rebuilt: reads then go on for longer than they need to, and are right.
    #[inline]
    const fn passed(self) -> u8 {
        self.0.to_le_bytes()[15]
    }

    const fn pass(&mut self) {
        self.set(SLOTS, self.passed().saturating_add(1));
    }

    const fn unpass(&mut self) {
        if self.passed() != u8::MAX {
            self.set(SLOTS, self.passed().saturating_sub(1));
        }
    }
}

/// The slot of the lowest bit that is set.
#[inline]
const fn slot(highs: u128) -> usize {
    (highs.trailing_zeros() / 8) as usize
}

/// Where a key lies.
#[derive(Clone, Copy)]
struct Place {
    group: usize,
    slot: usize,
}

/// See the module's description.
#[derive(Clone)]
pub(super) struct Table {
    seed: RandomState,
    groups: Box<[Group]>,
    /// [`SLOTS`] for each group. What lies in a slot without a tag means nothing.
    entries: Box<[PeerEarned]>,
    len: usize,
}

impl Default for Table {
    /// An empty table, which holds no memory.
    fn default() -> Self {
        Self::with_groups(RandomState::default(), 0)
    }
}

impl Table {
    /// A table for `peers` keys, and as many more as one has room for that has just grown.
    pub(super) fn with_capacity(peers: usize) -> Self {
        Self::with_groups(RandomState::default(), groups_for(roomy(peers)))
    }

    fn with_groups(seed: RandomState, groups: usize) -> Self {
        Self {
            seed,
            groups: vec![Group(0); groups].into(),
            entries: vec![EMPTY; groups * SLOTS].into(),
            len: 0,
        }
    }

    /// The keys it holds.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// The bytes it holds on the heap.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.groups) + size_of_val(&*self.entries)
    }

    /// What the account of `key` has earned.
    #[inline]
    pub(super) fn get(&self, key: &OverlayKey) -> Option<&Earned> {
        let (home, tag) = self.home(key);
        let mut group = home;
        loop {
            let tags = *self.groups.get(group)?;
            let mut found = tags.with(tag);
            while found != 0 {
                let peer = self.entries.get(group * SLOTS + slot(found))?;
                if peer.key == *key {
                    return Some(&peer.earned);
                }
                found &= found - 1;
            }
            if tags.passed() == 0 {
                return None;
            }
            group = self.after(group);
            if group == home {
                return None;
            }
        }
    }

    /// Puts `earned` down for `key`; gives back whether the key is new.
    pub(super) fn insert(&mut self, key: &OverlayKey, earned: Earned) -> bool {
        if let Some(at) = self.find(key) {
            if let Some(peer) = self.entry(at) {
                peer.earned = earned;
            }
            return false;
        }
        if (self.len + 1) * LOAD.1 > self.entries.len() * LOAD.0 {
            self.resize(self.len + 1);
        }
        self.place(PeerEarned { key: *key, earned });
        true
    }

    /// Takes `key` out; gives back whether it was there.
    pub(super) fn remove(&mut self, key: &OverlayKey) -> bool {
        let Some(at) = self.find(key) else { return false };
        let (mut group, _) = self.home(key);
        while group != at.group
            && let Some(passed) = self.groups.get_mut(group)
        {
            passed.unpass();
            group = self.after(group);
        }
        if let Some(tags) = self.groups.get_mut(at.group) {
            tags.set(at.slot, 0);
        }
        self.len -= 1;
        if self.len * SPARSE < self.entries.len() && self.groups.len() > 1 {
            self.resize(self.len);
        }
        true
    }

    /// Does what `change` says; gives back the number of the entry that it changed, unless the key
    /// came or went.
    ///
    /// `at` is where the key is looked for first: as [`Table::guess`] says, or as another table of the
    /// same origin and the same changes has it, where all lies at the same place. A wrong one costs
    /// time.
    pub(super) fn apply(&mut self, change: &PeerChange, at: Option<u32>) -> Option<u32> {
        let Some(earned) = change.earned else {
            self.remove(&change.key);
            return None;
        };
        if let Some(peer) = at.and_then(|at| self.numbered(at))
            && peer.key == change.key
        {
            peer.earned = earned;
            return at;
        }
        let Some(at) = self.find(&change.key) else {
            self.insert(&change.key, earned);
            return None;
        };
        self.entry(at)?.earned = earned;
        u32::try_from(at.group * SLOTS + at.slot).ok()
    }

    /// The number of the entry where `key` most likely lies. Looks at tags only.
    #[inline]
    pub(super) fn guess(&self, key: &OverlayKey) -> Option<u32> {
        let (home, tag) = self.home(key);
        let found = self.groups.get(home)?.with(tag);
        if found == 0 {
            return None;
        }
        u32::try_from(home * SLOTS + slot(found)).ok()
    }

    /// Brings the entries of these numbers into the processor's cache. The loop is so short that it
    /// waits for many of them at the same time, where applying one change after the other waits for
    /// a few: it makes changes of a large table a third faster.
    pub(super) fn fetch(&self, guesses: &[Option<u32>]) {
        let entry = |at: &Option<u32>| self.entries.get(usize::try_from((*at)?).ok()?);
        let loaded = guesses.iter().filter_map(entry).map(|peer| peer.earned.scores.director);
        std::hint::black_box(loaded.fold(0, u16::wrapping_add));
    }

    /// The entry of this number, if it is used.
    #[inline]
    fn numbered(&mut self, at: u32) -> Option<&mut PeerEarned> {
        let at = usize::try_from(at).ok()?;
        let Group(tags) = *self.groups.get(at / SLOTS)?;
        let used = (tags >> (at % SLOTS * 8)) & 0xff != 0;
        self.entries.get_mut(at).filter(|_| used)
    }

    /// All peers, in no order that means anything.
    pub(super) fn iter(&self) -> impl Iterator<Item = &PeerEarned> {
        let slots = self.groups.iter().flat_map(|group| {
            let [tags @ .., _] = group.0.to_le_bytes();
            tags
        });
        slots.zip(&self.entries).filter(|(tag, _)| *tag != 0).map(|(_, peer)| peer)
    }

    /// The group where `key` is looked for first, and its tag: the highest and the lowest bits of
    /// its hash.
    #[inline]
    fn home(&self, key: &OverlayKey) -> (usize, u8) {
        let mut hasher = self.seed.build_hasher();
        hasher.write(key);
        let hash = hasher.finish();
        let [tag, ..] = hash.to_le_bytes();
        // The hash as a fraction of 2^64, times the number of groups: below it, so it fits.
        #[allow(clippy::cast_possible_truncation, reason = "less than a usize")]
        let home = ((u128::from(hash) * self.groups.len() as u128) >> 64) as usize;
        // 0 means empty, so two of 256 hashes share a tag.
        (home, tag.max(1))
    }

    #[inline]
    const fn after(&self, group: usize) -> usize {
        if group + 1 < self.groups.len() { group + 1 } else { 0 }
    }

    fn find(&self, key: &OverlayKey) -> Option<Place> {
        let (home, tag) = self.home(key);
        let mut group = home;
        loop {
            let tags = *self.groups.get(group)?;
            let mut found = tags.with(tag);
            while found != 0 {
                let slot = slot(found);
                if self.entries.get(group * SLOTS + slot)?.key == *key {
                    return Some(Place { group, slot });
                }
                found &= found - 1;
            }
            if tags.passed() == 0 {
                return None;
            }
            group = self.after(group);
            if group == home {
                return None;
            }
        }
    }

    fn entry(&mut self, at: Place) -> Option<&mut PeerEarned> {
        self.entries.get_mut(at.group * SLOTS + at.slot)
    }

    /// Puts a peer that is not there into the first free slot on its way. There is one: the table is
    /// never full.
    fn place(&mut self, peer: PeerEarned) {
        let (mut group, tag) = self.home(&peer.key);
        while let Some(tags) = self.groups.get_mut(group) {
            if let Some(slot) = tags.empty() {
                tags.set(slot, tag);
                if let Some(entry) = self.entry(Place { group, slot }) {
                    *entry = peer;
                }
                self.len += 1;
                return;
            }
            tags.pass();
            group = self.after(group);
        }
    }

    /// Moves everything to a table for `peers` keys and some more. Groups keep their order, so both
    /// tables are walked from front to back. Until it is done there are both.
    fn resize(&mut self, peers: usize) {
        let mut new = Self::with_groups(self.seed.clone(), groups_for(roomy(peers)));
        for peer in self.iter() {
            new.place(*peer);
        }
        *self = new;
    }
}

/// The keys that a table for `peers` has room for when it is made.
const fn roomy(peers: usize) -> usize {
    peers + peers / GROWTH
}

/// The groups that hold `peers` keys within [`LOAD`].
const fn groups_for(peers: usize) -> usize {
    (peers * LOAD.1).div_ceil(LOAD.0).div_ceil(SLOTS)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use pallet_reputation_runtime_api::Scores;
    use proptest::prelude::*;

    use super::*;

    fn earned(seeder: u16) -> Earned {
        Earned { scores: Scores { seeder, ..Scores::default() }, days: [0, 0, seeder] }
    }

    /// A key that says its number, and looks like any other.
    fn key(n: u32) -> OverlayKey {
        *blake3::hash(&n.to_le_bytes()).as_bytes()
    }

    fn content(table: &Table) -> HashMap<OverlayKey, Earned> {
        let mut all = HashMap::new();
        for peer in table.iter() {
            assert_eq!(all.insert(peer.key, peer.earned), None, "each key once");
        }
        all
    }

    /// The sum of all counts of keys that passed.
    fn passed(table: &Table) -> usize {
        table.groups.iter().map(|group| usize::from(group.passed())).sum()
    }

    #[test]
    fn an_empty_table_answers_and_holds_nothing() {
        let mut table = Table::default();
        assert_eq!(table.bytes(), 0);
        assert_eq!(table.get(&key(1)), None);
        assert!(!table.remove(&key(1)));
        assert_eq!(table.iter().count(), 0);
    }

    #[test]
    fn a_key_is_found_until_it_is_removed() {
        let mut table = Table::default();
        assert!(table.insert(&key(1), earned(1)));
        assert!(!table.insert(&key(1), earned(2)), "known already");
        assert_eq!((table.get(&key(1)), table.len()), (Some(&earned(2)), 1));
        assert!(table.remove(&key(1)));
        assert!(!table.remove(&key(1)));
        assert_eq!((table.get(&key(1)), table.len()), (None, 0));
    }

    #[test]
    fn the_key_and_tag_that_empty_slots_hold_are_as_good_as_any() {
        let mut table = Table::default();
        table.insert(&key(1), earned(1));
        assert_eq!(table.get(&[0; 32]), None, "what lies in an empty slot means nothing");
        table.insert(&[0; 32], earned(7));
        assert_eq!(table.get(&[0; 32]), Some(&earned(7)));
        table.remove(&[0; 32]);
        assert_eq!(table.get(&[0; 32]), None);
    }

    #[test]
    fn what_lies_in_an_emptied_slot_is_never_found() {
        let mut group = Group(0);
        group.set(0, 1);
        for slot in 1..SLOTS {
            assert_eq!(group.with(1), 0x80, "an empty slot beside a tag of 1");
            group.set(slot, 1);
            group.set(slot, 0);
        }
    }

    #[test]
    fn a_change_whose_entry_is_elsewhere_is_made_all_the_same() {
        let mut table = Table::with_capacity(100);
        let change = |n, score| PeerChange { key: key(n), earned: Some(earned(score)) };
        let [one, two] = [1, 2].map(|n| {
            assert_eq!(table.apply(&change(n, 0), None), None, "new");
            table.apply(&change(n, 1), None).unwrap()
        });
        assert_eq!(table.apply(&change(1, 5), Some(one)), Some(one));
        assert_eq!(table.apply(&change(1, 6), Some(two)), Some(one));
        assert_eq!(table.apply(&change(2, 7), Some(u32::MAX)), Some(two));
        assert_eq!(table.get(&key(1)), Some(&earned(6)));
        assert_eq!(table.get(&key(2)), Some(&earned(7)));
        table.remove(&key(2));
        assert_eq!(table.apply(&change(2, 8), Some(two)), None, "an emptied slot is no entry");
        assert_eq!((table.get(&key(2)), table.len()), (Some(&earned(8)), 2));
    }

    #[test]
    fn most_keys_lie_where_they_are_guessed() {
        let mut table = Table::default();
        for n in 0..10_000 {
            table.insert(&key(n), earned(0));
        }
        let right = |n: &u32| {
            let guess = table.guess(&key(*n)).and_then(|at| table.entries.get(at as usize));
            guess.is_some_and(|peer| peer.key == key(*n))
        };
        assert!((0..10_000).filter(right).count() > 8_000);
    }

    #[test]
    fn years_of_coming_and_going_leave_no_trace() {
        let mut table = Table::with_capacity(1_000);
        for n in 0..1_000 {
            table.insert(&key(n), earned(0));
        }
        let (bytes, before) = (table.bytes(), passed(&table));
        for n in 0..100_000 {
            table.remove(&key(n));
            table.insert(&key(n + 1_000), earned(0));
        }
        assert_eq!((table.len(), table.bytes()), (1_000, bytes));
        // As many detours as chance makes, which is some for each key that is held and by no means one
        // for each of the 101,000 that ever were. Hashes differ from run to run: 14 were 430 once.
        assert!(passed(&table) < 5_000, "{} from {before}", passed(&table));
        for n in 100_000..101_000 {
            table.remove(&key(n));
        }
        assert_eq!((table.len(), passed(&table)), (0, 0));
    }

    #[test]
    fn a_table_that_empties_gives_its_memory_back() {
        let mut table = Table::default();
        for n in 0..10_000 {
            table.insert(&key(n), earned(0));
        }
        let full = table.bytes();
        for n in 100..10_000 {
            table.remove(&key(n));
        }
        assert!(table.bytes() < full / 20, "{} of {full}", table.bytes());
        assert!((0..100).all(|n| table.get(&key(n)).is_some()));
    }

    #[test]
    fn at_any_size_two_tables_stay_within_their_bytes_a_peer() {
        let mut table = Table::default();
        for n in 0..60_000 {
            table.insert(&key(n), earned(0));
            if n >= 1_000 {
                let bytes = 2.0 * table.bytes() as f64 / table.len() as f64;
                assert!((107.0..118.5).contains(&bytes), "{bytes} bytes a peer at {n}");
            }
        }
    }

    #[test]
    fn a_count_that_ran_over_costs_time_and_nothing_else() {
        // One hash for all: every key passes every group before its own.
        let mut table = Table::with_groups(RandomState::default(), 40);
        let same: Vec<OverlayKey> =
            (0..).map(key).filter(|key| table.home(key).0 == 0).take(400).collect();
        for (n, key) in (0..).zip(&same) {
            table.insert(key, earned(n));
        }
        assert_eq!(table.groups[0].passed(), u8::MAX);
        for (n, key) in (0..).zip(&same) {
            assert_eq!(table.get(key), Some(&earned(n)));
        }
        for key in &same[..390] {
            assert!(table.remove(key));
        }
        assert!(same[390..].iter().all(|key| table.get(key).is_some()));
        assert!(same[..390].iter().all(|key| table.get(key).is_none()));
    }

    #[test]
    fn a_group_tells_its_empty_slots_and_tags() {
        let mut group = Group(0);
        for slot in 0..SLOTS {
            assert_eq!(group.empty(), Some(slot));
            group.set(slot, 200);
        }
        assert_eq!(group.empty(), None, "a count of none is no empty slot");
        group.pass();
        assert_eq!((group.passed(), group.empty()), (1, None));
        group.set(7, 9);
        assert_eq!(slot(group.with(9)), 7);
        assert_eq!(group.with(200).count_ones(), 14);
        group.unpass();
        assert_eq!((group.passed(), group.with(0)), (0, 0));
    }

    proptest! {
        /// Whatever is done to both, the table holds what the library's map holds.
        #[test]
        fn it_is_a_map(
            start in 0usize..40,
            steps in prop::collection::vec((0u32..60, 0u16..1_000, 0u8..3), 0..400),
        ) {
            let mut table = Table::with_capacity(start);
            let mut twin = table.clone();
            let mut model = HashMap::new();
            for (n, score, what) in steps {
                let key = key(n);
                let change = PeerChange { key, earned: (what > 0).then(|| earned(score)) };
                let guess = table.guess(&key);
                let at = table.apply(&change, guess);
                prop_assert_eq!(twin.apply(&change, at), at);
                let before = match change.earned {
                    Some(earned) => model.insert(key, earned),
                    None => model.remove(&key),
                };
                prop_assert_eq!(at.is_some(), before.is_some() && change.earned.is_some());
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(table.get(&key), model.get(&key));
            }
            prop_assert_eq!(content(&table), model.clone());
            for n in 0..60 {
                prop_assert_eq!(table.get(&key(n)), model.get(&key(n)));
            }
            prop_assert_eq!(content(&table.clone()), model.clone());
            prop_assert_eq!(content(&twin), model);
        }
    }
}
