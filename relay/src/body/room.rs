//! Room in memory: what is held for viewers and by fills, bounded in bytes.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Room that is given back when nobody holds it any more.
pub(crate) type Room = Arc<OwnedSemaphorePermit>;

/// Room in memory, in KiB so that a semaphore can count it.
#[derive(Clone)]
pub(crate) struct Memory {
    kib: Arc<Semaphore>,
    most: u32,
}

impl Memory {
    pub(crate) fn new(bytes: u64) -> Self {
        let most = u32::try_from(bytes / 1024).unwrap_or(u32::MAX);
        let permits = usize::try_from(most).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { kib: Arc::new(Semaphore::new(permits)), most }
    }

    /// How much of it is taken, in percent.
    pub(crate) fn taken_percent(&self) -> u64 {
        let most = u64::from(self.most.max(1));
        let free = u64::try_from(self.kib.available_permits()).unwrap_or(most).min(most);
        (most - free) * 100 / most
    }

    /// Waits for room for `len` bytes. However small, a blob counts as 16 KiB: what goes with it,
    /// such as a task, is not free either.
    pub(crate) async fn room(&self, len: u32) -> Room {
        let kib = len.div_ceil(1024).max(16).min(self.most);
        loop {
            // Fails only when closed, and nobody closes it.
            if let Ok(room) = Arc::clone(&self.kib).acquire_many_owned(kib).await {
                return Arc::new(room);
            }
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_blob_larger_than_all_memory_takes_all_of_it() {
        let memory = Memory::new(40 * 1024);
        let room = memory.room(u32::MAX).await;
        assert_eq!((memory.kib.available_permits(), memory.taken_percent()), (0, 100));
        drop(room);
        let _one = memory.room(1).await;
        assert_eq!((memory.kib.available_permits(), memory.taken_percent()), (24, 40));
    }
}
