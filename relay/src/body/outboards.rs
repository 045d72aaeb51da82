//! The hashes that stand between the bytes of verified bodies, made when they are first needed and
//! kept while they are used.
//!
//! One place knows where an outboard comes from, so a store that keeps them on disk would be asked
//! here, before hashing.

use crate::{content::BlobId, error::Refusal, sync::lock, wire::Outboard};
use bytes::Bytes;
use lru::LruCache;
use std::sync::{Arc, Mutex};
use tokio::{sync::Semaphore, task::spawn_blocking};

/// Up to this many bytes are hashed where the request runs: less than 0.1 ms, about what handing
/// them to another thread and back costs.
const AT_ONCE: usize = 128 * 1024;

/// What a kept outboard takes besides its nodes: its key, its handles, its place in the list.
const ENTRY: u64 = 200;

/// Outboards of the blobs that were asked for last.
pub(crate) struct Outboards {
    kept: Mutex<Kept>,
    /// One for each blob that may be hashed at a time. The blobs themselves count against
    /// `server.body_memory`.
    hashing: Arc<Semaphore>,
}

/// Bounded by `most` bytes, nodes and entries together.
struct Kept {
    by_blob: LruCache<BlobId, Outboard>,
    bytes: u64,
    most: u64,
}

impl Outboards {
    /// Keeps at most `memory` bytes, and hashes at most `parallel` blobs at a time.
    pub(crate) fn new(memory: u64, parallel: usize) -> Self {
        let kept = Kept { by_blob: LruCache::unbounded(), bytes: 0, most: memory };
        Self { kept: Mutex::new(kept), hashing: Arc::new(Semaphore::new(parallel.max(1))) }
    }

    /// The outboard of a verified blob.
    ///
    /// # Errors
    /// [`Refusal::Internal`] when the bytes are not that blob after all.
    pub(crate) async fn of(&self, id: BlobId, blob: &Bytes) -> Result<Outboard, Refusal> {
        if let Some(outboard) = lock(&self.kept).get(&id) {
            return Ok(outboard);
        }
        let made = if blob.len() <= AT_ONCE {
            Outboard::of(blob)
        } else {
            let turn = Arc::clone(&self.hashing).acquire_owned().await;
            let turn = turn.map_err(|_| Refusal::Internal)?;
            // Somebody else may have made it meanwhile.
            if let Some(outboard) = lock(&self.kept).get(&id) {
                return Ok(outboard);
            }
            let blob = blob.clone();
            // A viewer that leaves does not stop the hashing, which keeps its turn to the end: so as
            // many blobs as there are turns may be in memory beside those that are counted there.
            let made = spawn_blocking(move || {
                let _turn = turn;
                Outboard::of(&blob)
            });
            made.await.map_err(|_| Refusal::Internal)?
        };
        let outboard = made.filter(|made| made.root() == id).ok_or(Refusal::Internal)?;
        lock(&self.kept).keep(id, outboard.clone());
        Ok(outboard)
    }
}

impl Kept {
    fn get(&mut self, id: &BlobId) -> Option<Outboard> {
        self.by_blob.get(id).cloned()
    }

    fn keep(&mut self, id: BlobId, outboard: Outboard) {
        let size = size(&outboard);
        // A blob of one group has no nodes: there is nothing to save.
        if outboard.size() == 0 || size > self.most {
            return;
        }
        if let Some(before) = self.by_blob.put(id, outboard) {
            self.bytes = self.bytes.saturating_sub(self::size(&before));
        }
        self.bytes = self.bytes.saturating_add(size);
        while self.bytes > self.most {
            match self.by_blob.pop_lru() {
                Some((_, oldest)) => {
                    self.bytes = self.bytes.saturating_sub(self::size(&oldest));
                }
                None => self.bytes = 0,
            }
        }
    }
}

fn size(outboard: &Outboard) -> u64 {
    u64::try_from(outboard.size()).unwrap_or(u64::MAX).saturating_add(ENTRY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::world::blob;

    #[tokio::test]
    async fn the_last_used_are_kept_within_the_bound() {
        // Each of these has 15 nodes.
        let blobs: Vec<_> = (0..5).map(|seed| blob(256 * 1024, seed)).collect();
        let each = 15 * 64 + ENTRY;
        let outboards = Outboards::new(3 * each, 1);
        for (id, bytes) in &blobs {
            let outboard = outboards.of(*id, &Bytes::from(bytes.clone())).await.unwrap();
            assert_eq!((outboard.root(), outboard.size()), (*id, 15 * 64));
            outboards.of(blobs[0].0, &Bytes::from(blobs[0].1.clone())).await.unwrap();
        }
        let kept = outboards.kept.lock().unwrap();
        assert_eq!(kept.bytes, 3 * each);
        let held: Vec<_> = kept.by_blob.iter().map(|(id, _)| *id).collect();
        assert_eq!(held, [blobs[0].0, blobs[4].0, blobs[3].0]);
    }

    #[tokio::test]
    async fn what_is_kept_is_not_hashed_again() {
        let (id, bytes) = blob(256 * 1024, 1);
        let outboards = Outboards::new(1 << 20, 1);
        let bytes = Bytes::from(bytes);
        let first = outboards.of(id, &bytes).await.unwrap();
        // No turn is free, so hashing would wait for ever.
        let _turn = Arc::clone(&outboards.hashing).try_acquire_owned().unwrap();
        assert_eq!(outboards.of(id, &bytes).await.unwrap().size(), first.size());
    }

    #[tokio::test]
    async fn with_no_memory_nothing_is_kept_and_everything_is_served() {
        let outboards = Outboards::new(0, 1);
        for len in [1, 16 * 1024, 300 * 1024] {
            let (id, bytes) = blob(len, 2);
            assert_eq!(outboards.of(id, &bytes.into()).await.unwrap().root(), id);
        }
        assert!(outboards.kept.lock().unwrap().by_blob.is_empty());
    }

    #[tokio::test]
    async fn bytes_that_are_not_the_blob_are_never_encoded() {
        let outboards = Outboards::new(1 << 20, 1);
        for len in [0, 100, 300 * 1024] {
            let (_, bytes) = blob(len, 3);
            let made = outboards.of(BlobId([9; 32]), &bytes.into()).await;
            assert_eq!(made.err(), Some(Refusal::Internal));
        }
    }
}
