//! From the folder to the index when the service starts, and what is written down for that.

use super::{
    Cache,
    snapshot::{self, Restored},
};
use crate::{
    content::BlobId,
    store::{FolderLock, OpenError},
    sync::lock,
};
use std::{
    collections::{HashMap, HashSet},
    io,
};

impl Cache {
    /// Finds what is held, in the order in which it goes, and evicts what is too much.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(&self) -> Result<FolderLock, OpenError> {
        let folder_lock = self.files.lock().await?;
        let remembered = self.remembered().await;
        let known = remembered.iter().map(|(id, known)| (*id, known.len)).collect();
        let found = self.files.scan(known).await?;
        let pins = self.pinned().await;
        // Sorting a million takes a moment.
        let sorting =
            tokio::task::spawn_blocking(move || (snapshot::order(found, &remembered, &pins), pins));
        let sorted = sorting.await;
        let (order, pins) = sorted.map_err(|error| self.files.unusable(io::Error::other(error)))?;
        let victims = self.index_found(&order, &pins);
        for id in &victims {
            self.delete(*id).await;
        }
        if !victims.is_empty() {
            tracing::info!("The cache was over its size: {} blobs evicted", victims.len());
        }
        // Who is not told of these was never told that they were held.
        let _ = self.fit().await;
        Ok(folder_lock)
    }

    async fn remembered(&self) -> HashMap<BlobId, snapshot::Remembered> {
        let most = snapshot::max_len(self.max_entries);
        let decode = |bytes: Vec<u8>| snapshot::decode(&bytes);
        let remembered = match self.files.read_beside(snapshot::FILE, most).await {
            Ok(Some(bytes)) => {
                let decoded = tokio::task::spawn_blocking(move || decode(bytes)).await;
                let decoded = decoded.ok().flatten();
                if decoded.is_none() {
                    tracing::warn!("The cache's index is damaged: looking at every file instead");
                }
                decoded
            }
            Ok(None) => None,
            Err(error) => {
                tracing::warn!("Cannot read the cache's index: {error}");
                None
            }
        };
        remembered.unwrap_or_default()
    }

    /// Takes what is to be held into the index, and gives the rest. What goes last is kept first.
    fn index_found(&self, order: &[Restored], pins: &HashSet<BlobId>) -> Vec<BlobId> {
        let mut index = lock(&self.index);
        let (mut room, mut places) = (index.capacity(), self.max_entries);
        let fits = |restored: &&Restored| {
            let cost = restored.entry.cost();
            let fits = cost <= room && places > 0;
            if fits {
                (room, places) = (room - cost, places - 1);
            }
            fits
        };
        let kept = order.iter().rev().take_while(fits).count();
        let (victims, kept) = order.split_at(order.len() - kept);
        for Restored { id, entry, hot, frequency } in kept {
            index.found(*id, *entry, *hot, *frequency);
        }
        for pin in pins {
            // One that is not there any more, or too much for a smaller share.
            let _ = index.pin(*pin);
        }
        self.publish_size(&index);
        victims.iter().map(|restored| restored.id).collect()
    }

    /// Writes down what the index knows.
    pub async fn save(&self) {
        let bytes = snapshot::encode(&lock(&self.index));
        let Ok(bytes) = tokio::task::spawn_blocking(move || snapshot::seal(bytes)).await else {
            return;
        };
        // Counted by the store. The next start takes longer.
        let _ = self.files.put_beside(snapshot::FILE.to_owned(), bytes).await;
    }
}
