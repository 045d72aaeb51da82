//! The records themselves: slots in one vector, linked into three kinds of list.
//!
//! A slot is in the list of its key, in the list of its provider, and in the list of all records. All
//! records live equally long, so the order in which they came, or were renewed, is the order in which
//! they expire: both latter lists are in that order, and every step costs the same however many
//! records there are.

use super::Key;
use std::collections::HashMap;

/// No slot.
const NONE: u32 = u32::MAX;

/// Slots that are made at least when there is none left. Beyond it, the vector grows by an eighth.
const GROWTH: usize = 1024;

/// Where a slot is in a list.
#[derive(Clone, Copy, Debug)]
struct Links {
    previous: u32,
    next: u32,
}

impl Links {
    const ALONE: Self = Self { previous: NONE, next: NONE };
}

/// A list of slots, the one that expires first in front.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    first: u32,
    last: u32,
}

impl Default for List {
    fn default() -> Self {
        Self { first: NONE, last: NONE }
    }
}

impl List {
    /// The record that expires first.
    pub(super) fn first(&self) -> Option<u32> {
        (self.first != NONE).then_some(self.first)
    }
}

/// A record, or the place for one. 64 bytes.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    key: Key,
    /// Its number in the table of providers; none if the slot is free.
    provider: u32,
    /// When it expires, in tenths of a second since the store began.
    expires: u32,
    /// The next record of the same key; of a free slot, the next free one.
    next_of_key: u32,
    by_age: Links,
    of_provider: Links,
    /// Whether it is marked to be written to disk.
    pub(super) marked: bool,
}

impl Slot {
    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    pub(super) fn provider(&self) -> u32 {
        self.provider
    }

    pub(super) fn expires(&self) -> u32 {
        self.expires
    }
}

#[derive(Clone, Copy)]
enum Chain {
    ByAge,
    OfProvider,
}

impl Chain {
    fn links(self, slot: &mut Slot) -> &mut Links {
        match self {
            Self::ByAge => &mut slot.by_age,
            Self::OfProvider => &mut slot.of_provider,
        }
    }
}

/// All records.
#[derive(Debug)]
pub(super) struct Records {
    slots: Vec<Slot>,
    first_free: u32,
    /// The first record of each key.
    keys: HashMap<Key, u32>,
    by_age: List,
    len: usize,
}

impl Records {
    pub(super) fn new() -> Self {
        Self {
            slots: Vec::new(),
            first_free: NONE,
            keys: HashMap::new(),
            by_age: List::default(),
            len: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// A record.
    pub(super) fn get(&self, id: u32) -> Option<&Slot> {
        self.slots.get(at(id)).filter(|slot| slot.provider != NONE)
    }

    /// The slot, whether it holds a record or not.
    pub(super) fn slot_mut(&mut self, id: u32) -> Option<&mut Slot> {
        self.slots.get_mut(at(id))
    }

    /// The numbers of all records.
    pub(super) fn ids(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.slots).filter(|(_, slot)| slot.provider != NONE).map(|(id, _)| id)
    }

    /// The records of a key.
    pub(super) fn of_key<'a>(
        &'a self,
        key: &Key,
    ) -> impl Iterator<Item = (u32, &'a Slot)> + use<'a> {
        let mut next = self.keys.get(key).copied().unwrap_or(NONE);
        std::iter::from_fn(move || {
            let (id, slot) = (next, self.get(next)?);
            next = slot.next_of_key;
            Some((id, slot))
        })
    }

    /// The record that expires first.
    pub(super) fn oldest(&self) -> Option<u32> {
        self.by_age.first()
    }

    /// A new record, which expires no sooner than any other.
    pub(super) fn insert(
        &mut self,
        key: Key,
        provider: u32,
        expires: u32,
        of_provider: &mut List,
    ) -> u32 {
        let next_of_key = self.keys.get(&key).copied().unwrap_or(NONE);
        let id = self.free_slot();
        let Some(slot) = self.slots.get_mut(at(id)) else { return id };
        let marked = slot.marked;
        *slot = Slot {
            key,
            provider,
            expires,
            next_of_key,
            by_age: Links::ALONE,
            of_provider: Links::ALONE,
            marked,
        };
        self.keys.insert(key, id);
        self.len += 1;
        self.append(id, of_provider);
        id
    }

    /// The record lives on until then, which is no sooner than any other.
    pub(super) fn renew(&mut self, id: u32, expires: u32, of_provider: &mut List) {
        self.unlink(id, of_provider);
        if let Some(slot) = self.slots.get_mut(at(id)) {
            slot.expires = expires;
        }
        self.append(id, of_provider);
    }

    /// Takes a record out.
    pub(super) fn remove(&mut self, id: u32, of_provider: &mut List) {
        self.unlink(id, of_provider);
        let Some(slot) = self.slots.get_mut(at(id)) else { return };
        let (key, next) = (slot.key, slot.next_of_key);
        slot.provider = NONE;
        slot.next_of_key = self.first_free;
        self.first_free = id;
        self.len -= 1;
        if self.keys.get(&key) == Some(&id) {
            if next == NONE {
                self.keys.remove(&key);
            } else {
                self.keys.insert(key, next);
            }
            return;
        }
        let before = self.of_key(&key).find(|(_, slot)| slot.next_of_key == id).map(|(id, _)| id);
        if let Some(before) = before.and_then(|id| self.slots.get_mut(at(id))) {
            before.next_of_key = next;
        }
    }

    fn free_slot(&mut self) -> u32 {
        if let Some(slot) = self.slots.get(at(self.first_free)) {
            return std::mem::replace(&mut self.first_free, slot.next_of_key);
        }
        if self.slots.len() == self.slots.capacity() {
            // Doubling would leave up to half of it unused.
            self.slots.reserve_exact(GROWTH.max(self.slots.len() / 8));
        }
        // Bounded by the configuration, far below 2^32.
        let id = u32::try_from(self.slots.len()).unwrap_or(NONE);
        self.slots.push(Slot {
            key: Key::from_bytes([0; 32]),
            provider: NONE,
            expires: 0,
            next_of_key: NONE,
            by_age: Links::ALONE,
            of_provider: Links::ALONE,
            marked: false,
        });
        id
    }

    fn append(&mut self, id: u32, of_provider: &mut List) {
        append(&mut self.slots, &mut self.by_age, id, Chain::ByAge);
        append(&mut self.slots, of_provider, id, Chain::OfProvider);
    }

    fn unlink(&mut self, id: u32, of_provider: &mut List) {
        unlink(&mut self.slots, &mut self.by_age, id, Chain::ByAge);
        unlink(&mut self.slots, of_provider, id, Chain::OfProvider);
    }
}

fn at(id: u32) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX)
}

/// Puts a slot at the end of a list.
fn append(slots: &mut [Slot], list: &mut List, id: u32, chain: Chain) {
    match slots.get_mut(at(list.last)) {
        Some(last) => chain.links(last).next = id,
        None => list.first = id,
    }
    if let Some(slot) = slots.get_mut(at(id)) {
        *chain.links(slot) = Links { previous: list.last, next: NONE };
    }
    list.last = id;
}

/// Takes a slot out of a list.
fn unlink(slots: &mut [Slot], list: &mut List, id: u32, chain: Chain) {
    let Some(slot) = slots.get_mut(at(id)) else { return };
    let Links { previous, next } = std::mem::replace(chain.links(slot), Links::ALONE);
    match slots.get_mut(at(previous)) {
        Some(slot) => chain.links(slot).next = next,
        None => list.first = next,
    }
    match slots.get_mut(at(next)) {
        Some(slot) => chain.links(slot).previous = previous,
        None => list.last = previous,
    }
}

#[cfg(test)]
impl Records {
    /// Whether everything that is said twice is said the same.
    pub(super) fn check(&self, lists: &HashMap<u32, List>) {
        let live: Vec<u32> = self.ids().collect();
        assert_eq!(live.len(), self.len);
        let mut by_age = Vec::new();
        let mut next = self.by_age.first;
        let mut before = NONE;
        while next != NONE {
            let slot = self.get(next).unwrap();
            assert_eq!(slot.by_age.previous, before);
            by_age.push(next);
            (before, next) = (next, slot.by_age.next);
        }
        assert_eq!(self.by_age.last, before);
        assert!(by_age.is_sorted_by_key(|id| self.get(*id).unwrap().expires));
        let mut of_provider = Vec::new();
        for (provider, list) in lists {
            let (mut next, mut before) = (list.first, NONE);
            while next != NONE {
                let slot = self.get(next).unwrap();
                assert_eq!((slot.of_provider.previous, slot.provider), (before, *provider));
                of_provider.push(next);
                (before, next) = (next, slot.of_provider.next);
            }
            assert_eq!(list.last, before);
        }
        let mut of_key: Vec<u32> =
            self.keys.keys().flat_map(|key| self.of_key(key)).map(|(id, _)| id).collect();
        for all in [&mut by_age, &mut of_provider, &mut of_key] {
            all.sort_unstable();
            assert_eq!(*all, live);
        }
    }

    /// Bytes on the heap, by what the collections have room for.
    pub(super) fn heap(&self) -> usize {
        // One byte of control a bucket; seven of eight buckets are used at most.
        let buckets = (self.keys.capacity() * 8 / 7).next_power_of_two();
        self.slots.capacity() * size_of::<Slot>() + buckets * (size_of::<(Key, u32)>() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_has_64_bytes() {
        assert_eq!(size_of::<Slot>(), 64);
    }
}
