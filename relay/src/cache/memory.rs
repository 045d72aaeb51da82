//! The memory tier: whole blobs, verified, with their outboards.
//!
//! Every blob that was fetched comes here, whether the disk takes it or not, so the many that ask for
//! something new at the same time find it. Of what is on disk those are read into memory that are
//! asked for more often than what they would push out. Two lists keep a scan from taking it all: what
//! was used again since it came is safe from what was not.

use super::policy::cost;
use crate::{body::Whole, content::BlobId};
use lru::LruCache;
use std::sync::Arc;

/// What an entry takes besides bytes and nodes: list, table, handles.
const ENTRY: u64 = 300;

/// Of the bytes, the share that blobs may take that were used again since they came: 4/5.
const HOT: (u64, u64) = (4, 5);

#[derive(Debug)]
struct Kept {
    whole: Arc<Whole>,
    /// When it came, in seconds since 1970.
    since: u32,
}

impl Kept {
    fn size(&self) -> u64 {
        needed(self.whole.len())
    }
}

/// Bytes that a blob of `len` bytes takes with all that belongs to it.
fn needed(len: u32) -> u64 {
    cost(len).saturating_add(ENTRY)
}

/// Blobs in memory, bounded by `capacity` bytes with all that belongs to them.
pub(super) struct Memory {
    recent: LruCache<BlobId, Kept>,
    hot: LruCache<BlobId, Kept>,
    recent_bytes: u64,
    hot_bytes: u64,
    capacity: u64,
    /// The longest blob that is kept.
    largest: u32,
    /// Seconds after which a blob is not given out any more; 0 for no end.
    ttl: u32,
}

impl Memory {
    pub(super) fn new(capacity: u64, largest: u32, ttl: u32) -> Self {
        Self {
            recent: LruCache::unbounded(),
            hot: LruCache::unbounded(),
            recent_bytes: 0,
            hot_bytes: 0,
            capacity,
            largest,
            ttl,
        }
    }

    /// A blob, if it is here; it counts as used at `now`, in seconds since 1970.
    pub(super) fn get(&mut self, id: BlobId, now: u32) -> Option<Arc<Whole>> {
        let since = self.hot.peek(&id).or_else(|| self.recent.peek(&id))?.since;
        if self.ttl > 0 && now.saturating_sub(since) >= self.ttl {
            self.remove(id);
            return None;
        }
        if let Some(kept) = self.hot.get(&id) {
            return Some(Arc::clone(&kept.whole));
        }
        let kept = self.recent.pop(&id)?;
        self.recent_bytes -= kept.size();
        self.hot_bytes += kept.size();
        let whole = Arc::clone(&kept.whole);
        self.hot.put(id, kept);
        let (part, all) = HOT;
        while self.hot_bytes > self.capacity / all * part
            && let Some((id, kept)) = self.hot.pop_lru()
        {
            self.hot_bytes -= kept.size();
            self.recent_bytes += kept.size();
            self.recent.put(id, kept);
        }
        Some(whole)
    }

    /// A blob, if it is here; it does not count as used.
    pub(super) fn peek(&self, id: BlobId) -> Option<Arc<Whole>> {
        let kept = self.hot.peek(&id).or_else(|| self.recent.peek(&id))?;
        Some(Arc::clone(&kept.whole))
    }

    /// Length of a blob that is here.
    pub(super) fn len_of(&self, id: BlobId) -> Option<u32> {
        let kept = self.hot.peek(&id).or_else(|| self.recent.peek(&id))?;
        Some(kept.whole.len())
    }

    /// Whether a blob of `len` bytes that was asked for so often is to be read into memory:
    /// `frequency` says how often others were.
    pub(super) fn wants(&self, len: u32, asked: u8, frequency: impl Fn(BlobId) -> u8) -> bool {
        if !self.takes(len) {
            return false;
        }
        if self.bytes().saturating_add(needed(len)) <= self.capacity {
            return true;
        }
        let first = self.recent.peek_lru().or_else(|| self.hot.peek_lru());
        first.is_none_or(|(id, _)| asked > frequency(*id))
    }

    /// Whether a blob of `len` bytes is kept at all.
    pub(super) fn takes(&self, len: u32) -> bool {
        len <= self.largest && needed(len) <= self.capacity
    }

    /// Keeps a blob; the least recently used make room. Gives how many.
    pub(super) fn insert(&mut self, whole: Arc<Whole>, now: u32) -> u64 {
        if !self.takes(whole.len()) || self.len_of(whole.id()).is_some() {
            return 0;
        }
        let kept = Kept { whole, since: now };
        self.recent_bytes += kept.size();
        self.recent.put(kept.whole.id(), kept);
        let mut gone = 0;
        while self.bytes() > self.capacity {
            if let Some((_, kept)) = self.recent.pop_lru() {
                self.recent_bytes -= kept.size();
            } else if let Some((_, kept)) = self.hot.pop_lru() {
                self.hot_bytes -= kept.size();
            } else {
                break;
            }
            gone += 1;
        }
        gone
    }

    /// Forgets a blob.
    pub(super) fn remove(&mut self, id: BlobId) -> bool {
        if let Some(kept) = self.hot.pop(&id) {
            self.hot_bytes -= kept.size();
            return true;
        }
        let kept = self.recent.pop(&id);
        self.recent_bytes -= kept.as_ref().map_or(0, Kept::size);
        kept.is_some()
    }

    /// Bytes held, with what belongs to them.
    pub(super) fn bytes(&self) -> u64 {
        self.recent_bytes + self.hot_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Outboard;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn whole(n: u8, len: usize) -> Arc<Whole> {
        let bytes = Bytes::from(vec![n; len]);
        let outboard = Outboard::of(&bytes).unwrap();
        Arc::new(Whole::new(outboard.root(), bytes, outboard).unwrap())
    }

    fn room(blobs: u64, len: u64) -> u64 {
        blobs * (len + ENTRY)
    }

    #[test]
    fn a_scan_takes_no_more_than_what_was_never_used_again() {
        let mut memory = Memory::new(room(10, 1000), 1000, 0);
        let used: Vec<_> = (0..8).map(|n| whole(n, 1000)).collect();
        for blob in &used {
            memory.insert(Arc::clone(blob), 0);
            assert!(memory.get(blob.id(), 0).is_some());
        }
        for n in 100..200 {
            memory.insert(whole(n, 1000), 0);
        }
        assert!(used.iter().all(|blob| memory.len_of(blob.id()) == Some(1000)));
        assert_eq!(memory.bytes(), room(10, 1000));
    }

    #[test]
    fn only_what_is_asked_for_more_often_is_read_into_a_full_memory() {
        let mut memory = Memory::new(room(2, 1000), 1000, 0);
        assert!(memory.wants(1000, 0, |_| 0));
        memory.insert(whole(1, 1000), 0);
        memory.insert(whole(2, 1000), 0);
        assert!(!memory.wants(1000, 3, |_| 3));
        assert!(memory.wants(1000, 4, |_| 3));
        assert!(!memory.wants(1001, 9, |_| 0), "longer than the longest that is kept");
    }

    #[test]
    fn what_is_too_large_is_not_kept_and_pushes_nothing_out() {
        let mut memory = Memory::new(room(1, 1000), 1000, 0);
        let (small, large) = (whole(1, 1000), whole(2, 1001));
        assert_eq!(memory.insert(Arc::clone(&small), 0), 0);
        assert_eq!(memory.insert(Arc::clone(&large), 0), 0);
        assert_eq!((memory.len_of(small.id()), memory.len_of(large.id())), (Some(1000), None));
    }

    #[test]
    fn what_came_too_long_ago_is_forgotten() {
        let mut memory = Memory::new(room(2, 1000), 1000, 60);
        let blob = whole(1, 1000);
        memory.insert(Arc::clone(&blob), 100);
        assert!(memory.get(blob.id(), 159).is_some());
        assert!(memory.get(blob.id(), 160).is_none());
        assert_eq!(memory.bytes(), 0);
    }

    proptest! {
        #[test]
        fn bytes_are_what_is_held_and_never_above_the_bound(
            ops in prop::collection::vec((0u8..12, 0u8..3, 1usize..40_000), 0..100),
        ) {
            let mut memory = Memory::new(100_000, 30_000, 0);
            let mut ids = [None; 12];
            for (n, op, len) in ops {
                let slot = usize::from(n);
                match (op, ids[slot]) {
                    (0, _) | (_, None) => {
                        let blob = whole(n, len);
                        ids[slot] = Some(blob.id());
                        memory.insert(blob, 0);
                    }
                    (1, Some(id)) => { memory.get(id, 0); }
                    (_, Some(id)) => { memory.remove(id); }
                }
                let all = memory.recent.iter().chain(memory.hot.iter());
                prop_assert_eq!(all.map(|(_, kept)| kept.size()).sum::<u64>(), memory.bytes());
                prop_assert!(memory.bytes() <= 100_000);
            }
        }
    }
}
