//! Blobs that an operator wants to stay, or to go.

use super::{Cache, Event, PinError};
use crate::{content::BlobId, sync::lock};
use std::collections::HashSet;

/// The file with the ids of pinned blobs, one after the other.
const FILE: &str = "pins";

impl Cache {
    /// Keeps a blob from being evicted, over restarts too.
    ///
    /// # Errors
    /// See [`PinError`].
    pub(crate) async fn pin(&self, id: BlobId) -> Result<(), PinError> {
        let _turn = self.pinning.lock().await;
        let pins = {
            let mut index = lock(&self.index);
            let already = index.pins();
            if already.len() >= self.max_pins && !already.contains(&id) {
                return Err(PinError::Full);
            }
            index.pin(id)?;
            self.publish_size(&index);
            index.pins()
        };
        self.write_pins(pins).await;
        Ok(())
    }

    /// Takes a pin back. Whether there was one.
    pub(crate) async fn unpin(&self, id: BlobId) -> bool {
        let _turn = self.pinning.lock().await;
        let pins = {
            let mut index = lock(&self.index);
            if !index.unpin(id) {
                return false;
            }
            self.publish_size(&index);
            index.pins()
        };
        self.write_pins(pins).await;
        true
    }

    /// The blobs that were pinned when the service last ran.
    pub(super) async fn pinned(&self) -> HashSet<BlobId> {
        let most = u64::try_from(self.max_pins).unwrap_or(u64::MAX).saturating_mul(32);
        match self.files.read_beside(FILE, most).await {
            Ok(bytes) => {
                let bytes = bytes.unwrap_or_default();
                bytes.as_chunks::<32>().0.iter().copied().map(BlobId).collect()
            }
            Err(error) => {
                tracing::warn!("Cannot read which blobs of the cache are pinned: {error}");
                HashSet::new()
            }
        }
    }

    /// A disk that fails is counted; the pin then holds until the end of the process.
    async fn write_pins(&self, pins: Vec<BlobId>) {
        let bytes = pins.iter().flat_map(|id| id.0).collect();
        let _ = self.files.put_beside(FILE.to_owned(), bytes).await;
    }

    /// Removes a blob from memory and disk, pinned or not. Whether it was held on disk.
    pub(crate) async fn purge(&self, id: BlobId) -> bool {
        lock(&self.memory).remove(id);
        let pinned = lock(&self.index).peek(id).is_some_and(|known| known.pinned);
        if pinned {
            self.unpin(id).await;
        }
        let room = self.forget(id, Event::Purged);
        self.delete(id).await;
        room.is_some()
    }
}
