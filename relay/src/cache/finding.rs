//! From an id to a blob that can be read.

use super::{Cache, Event, Room, Use, now};
use crate::{
    body::Whole,
    content::{BlobId, Manifest},
    store::{ReadError, Stored},
    sync::lock,
};
use std::sync::Arc;

/// A blob that is held.
#[derive(Debug)]
pub(crate) enum Hit {
    /// It was in memory.
    Memory(Arc<Whole>),
    /// It was on disk, and has been read into memory, to be found there.
    Loaded(Arc<Whole>),
    /// It is on disk.
    File(Arc<Stored>),
}

impl Cache {
    /// Finds a blob; it counts as used now. `None` when it is not held, or no longer is: a damaged one
    /// is put aside and forgotten, to be fetched anew. One that the disk fails to read is counted and a
    /// miss for now.
    pub(crate) async fn find(&self, id: BlobId) -> Option<Hit> {
        let now = now();
        let used = lock(&self.index).touch(id, now);
        if let Use::Expired(len) = used {
            let _room = Room { cache: self, len };
            lock(&self.memory).remove(id);
            self.delete(id).await;
            self.metrics.cache_expired_total.inc();
        }
        let in_memory = lock(&self.memory).get(id, now);
        if let Some(whole) = in_memory {
            if used != Use::Held(whole.len()) {
                self.count_unwritten(&whole);
            }
            self.metrics.cache_tier_hits_total.with_label_values(&["memory"]).inc();
            return Some(Hit::Memory(whole));
        }
        let Use::Held(len) = used else { return None };
        let stored = match self.files.stored(id, len).await {
            Ok(stored) => stored,
            // Nobody can say whether it is sound.
            Err(ReadError::Io(_)) => return None,
            Err(ReadError::Missing | ReadError::Corrupt(_)) => self.look_again(id, len).await?,
        };
        if let Some(whole) = self.load(&stored, now).await {
            self.metrics.cache_tier_hits_total.with_label_values(&["disk"]).inc();
            return Some(Hit::Loaded(whole));
        }
        self.metrics.cache_tier_hits_total.with_label_values(&["disk"]).inc();
        Some(Hit::File(stored))
    }

    /// Counts a use of a blob that only memory has, and now and then has the runner offer it to the
    /// disk: at the second use of late, the fourth, the eighth.
    fn count_unwritten(&self, whole: &Arc<Whole>) {
        let asked = lock(&self.index).ask(whole.id());
        if asked > 1 && asked.is_power_of_two() {
            // A full queue is a busy disk, and there will be a next time.
            let _ = self.promotions.try_send(Arc::clone(whole));
        }
    }

    /// A file was not there, or was put aside. Evicted in between, most likely, and the index is right
    /// by now; or written anew while we waited for our turn; or lost.
    async fn look_again(&self, id: BlobId, len: u32) -> Option<Arc<Stored>> {
        let _order = self.stripe(id).lock().await;
        match self.files.stored(id, len).await {
            Ok(stored) => Some(stored),
            Err(_) => {
                // Its file was put aside.
                drop(self.forget(id, Event::Lost));
                None
            }
        }
    }

    /// Reads a blob into memory if it is asked for more often than what that would push out.
    async fn load(&self, stored: &Arc<Stored>, now: u32) -> Option<Arc<Whole>> {
        let id = stored.id();
        {
            let index = lock(&self.index);
            let wanted = lock(&self.memory)
                .wants(stored.len(), index.frequency(id), |other| index.frequency(other));
            if !wanted || index.frequency(id) < 2 {
                return None;
            }
        }
        // Whoever comes while it is read reads the file.
        if !lock(&self.loading).insert(id) {
            return None;
        }
        let _loading = Loading { cache: self, id };
        let bytes = stored.whole().await.ok()?;
        let whole = Arc::new(Whole::new(id, bytes, stored.outboard().clone())?);
        self.keep_in_memory(&whole, now);
        Some(whole)
    }

    /// The manifest that a blob is, if it is one of at most `most` bytes; `None` where the blob is not
    /// held or cannot be read now. Does not count as use, and reads no more than 16 KiB of what is no
    /// manifest.
    pub(crate) async fn manifest(&self, id: BlobId, most: u32) -> Option<Option<Manifest>> {
        let in_memory = lock(&self.memory).peek(id);
        if let Some(whole) = in_memory {
            let may = whole.len() <= most && Manifest::may_begin(whole.bytes(), whole.len());
            return Some(may.then(|| Manifest::decode(whole.bytes()).ok()).flatten());
        }
        let len = lock(&self.index).len_of(id)?;
        if len > most {
            return Some(None);
        }
        let stored = self.files.stored(id, len).await.ok()?;
        if !Manifest::may_begin(&stored.groups(0, 1).await.ok()?, len) {
            return Some(None);
        }
        Some(Manifest::decode(&stored.whole().await.ok()?).ok())
    }

    /// Finds a blob and reads it whole, verified; it counts as used now. `None` as for [`Self::find`].
    pub(crate) async fn whole(&self, id: BlobId) -> Option<Arc<Whole>> {
        let stored = match self.find(id).await? {
            Hit::Memory(whole) | Hit::Loaded(whole) => return Some(whole),
            Hit::File(stored) => stored,
        };
        let bytes = match stored.whole().await {
            Ok(bytes) => bytes,
            Err(ReadError::Io(_)) => return None,
            Err(ReadError::Missing | ReadError::Corrupt(_)) => {
                self.look_again(id, stored.len()).await?.whole().await.ok()?
            }
        };
        Whole::new(id, bytes, stored.outboard().clone()).map(Arc::new)
    }

    #[cfg(test)]
    pub(crate) async fn read(&self, id: BlobId) -> Option<bytes::Bytes> {
        Some(self.whole(id).await?.bytes().clone())
    }
}

/// A blob that is being read into memory.
struct Loading<'a> {
    cache: &'a Cache,
    id: BlobId,
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        lock(&self.cache.loading).remove(&self.id);
    }
}
