//! What was fetched ahead and not read yet.
//!
//! Decisions only.

use crate::content::BlobId;
use lru::LruCache;
use std::{
    num::NonZeroUsize,
    time::{Duration, Instant},
};

#[derive(Clone, Copy, Debug)]
struct Entry {
    len: u32,
    since: Instant,
}

/// Blobs that were fetched ahead, until they are read or given up.
pub(super) struct Ledger {
    /// In the order in which they came; at most `warm.table` of about 150 bytes.
    entries: LruCache<BlobId, Entry>,
    most: usize,
    bytes: u64,
}

impl Ledger {
    pub(super) fn new(most: usize) -> Self {
        let size = NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN);
        Self { entries: LruCache::sparse(size), most: size.get(), bytes: 0 }
    }

    /// Bytes of them.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether there is a place for `more`.
    pub(super) fn has_place(&self, more: usize) -> bool {
        self.entries.len().saturating_add(more) <= self.most
    }

    /// One has come. Whoever fetches it has asked whether there is a place.
    pub(super) fn insert(&mut self, id: BlobId, len: u32, now: Instant) {
        if self.entries.contains(&id) || !self.has_place(1) {
            return;
        }
        self.entries.put(id, Entry { len, since: now });
        self.bytes = self.bytes.saturating_add(len.into());
    }

    /// One is read. Whether it was one of these.
    pub(super) fn used(&mut self, id: BlobId) -> bool {
        let used = self.entries.pop(&id);
        self.bytes -= used.map_or(0, |entry| u64::from(entry.len));
        used.is_some()
    }

    /// Gives up those that came at least `after` ago, and those that came at least `settled` ago and are
    /// not held any more; how many these are.
    pub(super) fn judge(
        &mut self,
        after: Duration,
        settled: Duration,
        held: impl Fn(BlobId) -> bool,
        now: Instant,
    ) -> usize {
        let age = |entry: &Entry| now.saturating_duration_since(entry.since);
        let wasted: Vec<_> = self
            .entries
            .iter()
            .filter(|(id, entry)| age(entry) >= after || (age(entry) >= settled && !held(**id)))
            .map(|(id, _)| *id)
            .collect();
        for id in &wasted {
            self.used(*id);
        }
        wasted.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn id(n: u8) -> BlobId {
        BlobId([n; 32])
    }

    #[test]
    fn what_is_read_is_used_once_and_what_is_gone_or_old_is_wasted() {
        let now = Instant::now();
        let mut ledger = Ledger::new(10);
        for n in 1..=3 {
            ledger.insert(id(n), 100, now);
        }
        assert_eq!(ledger.bytes(), 300);
        assert!(ledger.used(id(1)) && !ledger.used(id(1)) && !ledger.used(id(9)));
        let mut judge = |secs, held: u8| {
            ledger.judge(SECOND * 100, SECOND * 10, |other| other == id(held), now + SECOND * secs)
        };
        assert_eq!(judge(9, 2), 0, "it may still be being written");
        assert_eq!(judge(10, 2), 1, "3 is gone");
        assert_eq!(judge(99, 2), 0);
        assert_eq!(judge(100, 2), 1);
        assert_eq!(ledger.bytes(), 0);
    }

    proptest! {
        #[test]
        fn it_is_bounded_and_its_bytes_add_up(
            ops in prop::collection::vec((0u8..20, any::<bool>(), 1u32..1000), 0..100),
        ) {
            let now = Instant::now();
            let mut ledger = Ledger::new(8);
            for (n, used, len) in ops {
                if used {
                    ledger.used(id(n));
                } else {
                    ledger.insert(id(n), len, now);
                }
                prop_assert!(ledger.entries.len() <= 8);
                let sum: u64 = ledger.entries.iter().map(|(_, entry)| u64::from(entry.len)).sum();
                prop_assert_eq!(ledger.bytes(), sum);
            }
        }
    }
}
