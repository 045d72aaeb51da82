//! Reading what is on disk, to find what went bad before somebody asks for it.

use super::{Cache, Event, Room, now};
use crate::{content::BlobId, store::ReadError, sync::lock};
use std::time::Duration;

/// What was found in one of the 256 folders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Blobs that are held no more: damaged, gone or expired.
    pub(super) gone: Vec<BlobId>,
    /// Files that belonged to no blob that is held, and are deleted.
    pub(super) strays: u64,
}

/// How long to wait after reading `len` bytes, so that it is `rate` bytes a second at most.
pub(super) fn pause(len: u32, rate: u64) -> Duration {
    let nanos = u128::from(len) * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

impl Cache {
    /// Reads all blobs of one folder, `rate` bytes a second at most, and deletes what belongs to none.
    pub(super) async fn scrub(&self, folder: u8, rate: u64) -> Found {
        let mut found = Found::default();
        let names = match self.files.names(folder).await {
            Ok(names) => names,
            Err(error) => {
                tracing::warn!("Cannot list a folder of the cache: {error}");
                return found;
            }
        };
        for id in names {
            let expired = lock(&self.index).expire(id, now());
            if let Some(len) = expired {
                let _room = Room { cache: self, len };
                self.delete(id).await;
                self.metrics.cache_expired_total.inc();
                found.gone.push(id);
                continue;
            }
            let held = lock(&self.index).len_of(id);
            match held {
                Some(len) => {
                    if !self.is_sound(id, len).await {
                        found.gone.push(id);
                    }
                    let pause = pause(len, rate);
                    if !pause.is_zero() {
                        tokio::time::sleep(pause).await;
                    }
                }
                None => found.strays += self.delete_stray(id).await,
            }
        }
        self.metrics.scrub_strays_total.inc_by(found.strays);
        found
    }

    async fn is_sound(&self, id: BlobId, len: u32) -> bool {
        let read = self.files.read(id, len).await;
        self.metrics.scrub_bytes_total.inc_by(len.into());
        match read {
            // A disk that fails says nothing about the blob; it is counted.
            Ok(_) | Err(ReadError::Io(_)) => true,
            Err(ReadError::Missing | ReadError::Corrupt(_)) => {
                let _order = self.stripe(id).lock().await;
                // Evicted or written anew meanwhile, and then all is well.
                if self.files.read(id, len).await.is_ok() {
                    return true;
                }
                let lost = self.forget(id, Event::Lost).is_some();
                if lost {
                    self.metrics.scrub_damaged_total.inc();
                }
                !lost
            }
        }
    }

    /// What a failed deletion or a process that was killed left behind. One that is being written has
    /// its stripe, and is in the index when that is free.
    async fn delete_stray(&self, id: BlobId) -> u64 {
        let _order = self.stripe(id).lock().await;
        if lock(&self.index).len_of(id).is_some() {
            return 0;
        }
        u64::from(self.files.remove(id).await.is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_keeps_to_the_rate() {
        assert_eq!(pause(1 << 20, 8 << 20), Duration::from_millis(125));
        assert_eq!(pause(0, 1), Duration::ZERO);
        assert_eq!(pause(u32::MAX, 0).as_secs(), 4_294_967_295);
    }
}
