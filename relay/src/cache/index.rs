//! Which blobs the cache holds and which go first: the decision, without the disk.

use crate::content::BlobId;
use lru::LruCache;
use std::num::NonZeroU32;

/// Least recently used first, bounded in bytes and in entries. What is being written is reserved
/// beforehand, so files on disk never add up to more than the bound.
pub(super) struct Index {
    capacity: u64,
    max_entries: usize,
    /// At most `max_entries`; an entry takes about 100 bytes in list and table together.
    entries: LruCache<BlobId, Entry>,
    bytes: u64,
    reserved: u64,
    reservations: usize,
}

struct Entry {
    len: u32,
    /// When the directory was last told that it is held, in seconds of the cache's own clock; `None`
    /// if it was not.
    told: Option<NonZeroU32>,
}

impl Index {
    pub(super) fn new(capacity: u64, max_entries: usize) -> Self {
        let entries = LruCache::unbounded();
        Self { capacity, max_entries, entries, bytes: 0, reserved: 0, reservations: 0 }
    }

    /// Length of a blob that is held; it counts as used now.
    pub(super) fn touch(&mut self, id: BlobId) -> Option<u32> {
        self.entries.get(&id).map(|entry| entry.len)
    }

    /// Length of a blob that is held.
    pub(super) fn peek(&self, id: BlobId) -> Option<u32> {
        self.entries.peek(&id).map(|entry| entry.len)
    }

    /// Makes room for a blob of `len` bytes and keeps it until [`Self::commit`] or
    /// [`Self::release`]. Gives what has to go, or `None` when there is no room to be made because
    /// everything left is being written too.
    pub(super) fn reserve(&mut self, len: u32) -> Option<Vec<BlobId>> {
        let len = u64::from(len);
        if self.reserved + len > self.capacity || self.reservations >= self.max_entries {
            return None;
        }
        self.reserved += len;
        self.reservations += 1;
        let mut victims = Vec::new();
        while self.bytes + self.reserved > self.capacity
            || self.entries.len() + self.reservations > self.max_entries
        {
            let Some((id, entry)) = self.entries.pop_lru() else { break };
            self.bytes -= u64::from(entry.len);
            victims.push(id);
        }
        Some(victims)
    }

    /// The blob that was reserved is written.
    pub(super) fn commit(&mut self, id: BlobId, len: u32) {
        self.release(len);
        if let Some(old) = self.entries.put(id, Entry { len, told: None }) {
            self.bytes -= u64::from(old.len);
        }
        self.bytes += u64::from(len);
    }

    /// The blob that was reserved will not be written.
    pub(super) fn release(&mut self, len: u32) {
        self.reserved = self.reserved.saturating_sub(u64::from(len));
        self.reservations = self.reservations.saturating_sub(1);
    }

    /// Forgets a blob.
    pub(super) fn remove(&mut self, id: BlobId) -> bool {
        let removed = self.entries.pop(&id);
        self.bytes -= removed.as_ref().map_or(0, |entry| u64::from(entry.len));
        removed.is_some()
    }

    /// Bytes held, without what is being written.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// What was used last, at most `limit`, the most recently used first.
    pub(super) fn newest(&self, limit: usize) -> Vec<BlobId> {
        self.entries.iter().take(limit).map(|(id, _)| *id).collect()
    }

    /// When the directory was last told of a blob; `None` if the blob is not held.
    pub(super) fn told(&self, id: BlobId) -> Option<Option<NonZeroU32>> {
        self.entries.peek(&id).map(|entry| entry.told)
    }

    /// The directory is told of a blob.
    pub(super) fn set_told(&mut self, id: BlobId, now: NonZeroU32) {
        if let Some(entry) = self.entries.peek_mut(&id) {
            entry.told = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn id(n: u8) -> BlobId {
        BlobId([n; 32])
    }

    fn admit(index: &mut Index, n: u8, len: u32) -> Option<Vec<BlobId>> {
        let victims = index.reserve(len)?;
        index.commit(id(n), len);
        Some(victims)
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut index = Index::new(30, 100);
        for n in 1..=3 {
            assert_eq!(admit(&mut index, n, 10), Some(vec![]));
        }
        assert_eq!(index.touch(id(1)), Some(10));
        assert_eq!(index.peek(id(2)), Some(10));
        assert_eq!(admit(&mut index, 4, 15), Some(vec![id(2), id(3)]));
        assert_eq!(index.bytes(), 25);
    }

    #[test]
    fn what_is_larger_than_the_cache_is_not_admitted_and_evicts_nothing() {
        let mut index = Index::new(30, 100);
        admit(&mut index, 1, 10);
        assert_eq!(index.reserve(31), None);
        assert_eq!(index.peek(id(1)), Some(10));
    }

    #[test]
    fn what_is_evicted_and_comes_again_was_never_told() {
        let mut index = Index::new(10, 100);
        admit(&mut index, 1, 10);
        assert_eq!(index.told(id(1)), Some(None));
        index.set_told(id(1), NonZeroU32::MIN);
        assert_eq!(index.told(id(1)), Some(Some(NonZeroU32::MIN)));
        admit(&mut index, 2, 10);
        assert_eq!(index.told(id(1)), None);
        index.set_told(id(1), NonZeroU32::MIN);
        admit(&mut index, 1, 10);
        assert_eq!(index.told(id(1)), Some(None));
    }

    #[test]
    fn entries_are_bounded_too() {
        let mut index = Index::new(1000, 2);
        admit(&mut index, 1, 1);
        admit(&mut index, 2, 1);
        assert_eq!(admit(&mut index, 3, 1), Some(vec![id(1)]));
    }

    #[derive(Clone, Debug)]
    enum Op {
        Admit(u8, u32),
        Fail(u32),
        Touch(u8),
        Remove(u8),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (any::<u8>(), 1u32..40).prop_map(|(n, len)| Op::Admit(n, len)),
            1 => (1u32..40).prop_map(Op::Fail),
            2 => any::<u8>().prop_map(Op::Touch),
            1 => any::<u8>().prop_map(Op::Remove),
        ]
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_plain_model_and_keeps_its_bounds(
            ops in prop::collection::vec(op(), 0..200),
            in_flight in 0u32..30,
        ) {
            let mut index = Index::new(100, 8);
            // A write that lasts for the whole test.
            let held = index.reserve(in_flight.max(1)).map(|_| u64::from(in_flight.max(1)));
            let mut model: HashMap<BlobId, u32> = HashMap::new();
            for op in ops {
                match op {
                    Op::Admit(n, len) => if let Some(victims) = admit(&mut index, n, len) {
                        for victim in victims {
                            prop_assert!(model.remove(&victim).is_some());
                        }
                        model.insert(id(n), len);
                    },
                    Op::Fail(len) => if let Some(victims) = index.reserve(len) {
                        for victim in victims {
                            prop_assert!(model.remove(&victim).is_some());
                        }
                        index.release(len);
                    },
                    Op::Touch(n) => prop_assert_eq!(index.touch(id(n)), model.get(&id(n)).copied()),
                    Op::Remove(n) => {
                        prop_assert_eq!(index.remove(id(n)), model.remove(&id(n)).is_some());
                    }
                }
                let bytes: u64 = model.values().map(|len| u64::from(*len)).sum();
                prop_assert_eq!(index.bytes(), bytes);
                prop_assert!(bytes + held.unwrap_or(0) <= 100);
                prop_assert!(index.len() <= 8);
            }
        }
    }
}
