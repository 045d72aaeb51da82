//! The least recently used goes first, whatever comes.

use super::{Entry, For, List, Need, Policy, Why};
use crate::content::BlobId;
use lru::LruCache;

/// One list, by time of use.
pub(crate) struct Lru {
    /// Bounded by the index that this serves.
    list: List,
    bytes: u64,
}

impl Lru {
    pub(crate) fn new() -> Self {
        Self { list: LruCache::unbounded(), bytes: 0 }
    }
}

impl Policy for Lru {
    fn asked(&mut self, _: BlobId) {}

    fn frequency(&self, _: BlobId) -> u8 {
        0
    }

    fn insert(&mut self, id: BlobId, entry: Entry, _: bool) {
        self.bytes += entry.cost();
        let before = self.list.put(id, entry);
        self.bytes -= before.map_or(0, |entry| entry.cost());
    }

    fn touch(&mut self, id: BlobId) -> Option<Entry> {
        self.list.get(&id).copied()
    }

    fn peek(&self, id: BlobId) -> Option<&Entry> {
        self.list.peek(&id)
    }

    fn peek_mut(&mut self, id: BlobId) -> Option<&mut Entry> {
        self.list.peek_mut(&id)
    }

    fn remove(&mut self, id: BlobId) -> Option<Entry> {
        let entry = self.list.pop(&id)?;
        self.bytes -= entry.cost();
        Some(entry)
    }

    fn make_room(&mut self, mut need: Need, _: For) -> Option<Vec<(BlobId, Entry)>> {
        let mut gone = Vec::new();
        while !need.nothing()
            && let Some((id, entry)) = self.list.pop_lru()
        {
            self.bytes -= entry.cost();
            need = need.without(&entry);
            gone.push((id, entry));
        }
        Some(gone)
    }

    fn would_make_room(&self, _: Need, _: BlobId, _: u64) -> bool {
        true
    }

    fn len(&self) -> usize {
        self.list.len()
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn why(&self) -> Why {
        Why::New
    }

    fn visit(&self, visit: &mut dyn FnMut(BlobId, &Entry, bool)) {
        for (id, entry) in self.list.iter().rev() {
            visit(*id, entry, false);
        }
    }

    fn newest(&self, limit: usize) -> Vec<BlobId> {
        self.list.iter().take(limit).map(|(id, _)| *id).collect()
    }
}
