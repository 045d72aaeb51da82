//! The relay's cache: what was fetched, as long as it pays.
//!
//! A [`Files`] folder and, in memory, an index by time of use. The index decides, the disk follows:
//! what the index gives up is deleted, what it has made room for is written. A reader has the whole
//! blob in memory, so eviction never breaks one. After a restart the folder is the truth and the
//! files' modification times the order of use.

mod index;

use crate::{
    content::BlobId,
    metrics::{Metrics, count_and_log},
    store::{Files, FolderLock, OpenError, ReadError, Stored},
    sync::lock,
};
use bytes::Bytes;
use index::Index;
use serde::{Deserialize, Serialize};
use std::{
    io,
    num::NonZeroU32,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{sync::Semaphore, time::timeout};

/// Settings of the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Bytes of disk that the cache may use. Default 10 GiB. `--relay-cache-size` on the command
    /// line.
    pub capacity: u64,
    /// Blobs that the cache may hold, however small. Default 1,000,000: 100 MB of index.
    pub max_entries: usize,
    /// Blobs written at a time, so that a burst of misses leaves the disk to the readers. Default
    /// 4, half of `store.parallel`.
    pub writers: usize,
    /// A blob that waits longer to be written is served and not cached. Default 5 s. Those that
    /// wait are bounded by `upstream.memory`.
    #[serde(with = "humantime_serde")]
    pub write_wait: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            capacity: 10 * 1024 * 1024 * 1024,
            max_entries: 1_000_000,
            writers: 4,
            write_wait: Duration::from_secs(5),
        }
    }
}

/// Disk changes to one blob happen one after the other: they take the lock of its id's low bits.
const STRIPES: usize = 16;

/// The cache of a relay.
pub struct Cache {
    files: Files,
    metrics: Metrics,
    capacity: u64,
    /// What the index counts its seconds from.
    began: Instant,
    index: Mutex<Index>,
    writers: Arc<Semaphore>,
    write_wait: Duration,
    stripes: [tokio::sync::Mutex<()>; STRIPES],
}

/// How full the cache is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CacheStatus {
    /// Bytes held.
    pub bytes: u64,
    /// Bytes that may be held.
    pub capacity: u64,
    /// Blobs held.
    pub entries: usize,
    /// Bytes held in percent of what may be.
    pub utilization_percent: f64,
}

/// Why a blob was not kept.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// It is larger than the whole cache, or than what is not being written right now.
    #[error("there is no room to be made for {0} bytes")]
    NoRoom(u32),
    /// The disk is too slow for what comes.
    #[error("the disk had no time for it within {0:?}")]
    Backlog(Duration),
    /// The disk failed or is full.
    #[error("cannot write to the cache folder: {0}")]
    Io(#[source] io::Error),
}

/// What came of keeping a blob.
#[derive(Debug)]
#[must_use = "what was evicted is announced no more"]
pub struct Admission {
    /// What was evicted to make room; gone also when the blob itself was not kept.
    pub evicted: Vec<BlobId>,
    /// Whether the blob was kept.
    pub kept: Result<(), AdmitError>,
}

impl From<AdmitError> for Admission {
    fn from(error: AdmitError) -> Self {
        Self { evicted: Vec::new(), kept: Err(error) }
    }
}

impl Cache {
    /// The cache in `files`. Touches nothing until [`Self::open`].
    pub fn new(files: Files, config: &Config, metrics: Metrics) -> Self {
        let index = Mutex::new(Index::new(config.capacity, config.max_entries));
        let stripes = std::array::from_fn(|_| tokio::sync::Mutex::new(()));
        Self {
            files,
            metrics,
            capacity: config.capacity,
            began: Instant::now(),
            index,
            writers: Arc::new(Semaphore::new(config.writers.max(1))),
            write_wait: config.write_wait,
            stripes,
        }
    }

    /// Finds what is held, least recently used first, and evicts what is too much.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(&self) -> Result<FolderLock, OpenError> {
        let (mut found, folder_lock) = self.files.open().await?;
        found.sort_unstable_by_key(|file| (file.used, file.id));
        let victims = self.index_found(&found);
        for id in &victims {
            self.delete(*id).await;
        }
        if !victims.is_empty() {
            tracing::info!("The cache was over its size: {} blobs evicted", victims.len());
        }
        Ok(folder_lock)
    }

    fn index_found(&self, found: &[Stored]) -> Vec<BlobId> {
        let mut victims = Vec::new();
        let mut index = lock(&self.index);
        for file in found {
            match index.reserve(file.len) {
                Some(evicted) => {
                    index.commit(file.id, file.len);
                    victims.extend(evicted);
                }
                None => victims.push(file.id),
            }
        }
        self.publish_size(&index);
        victims
    }

    /// Length of a blob that is held.
    pub fn len_of(&self, id: BlobId) -> Option<u32> {
        lock(&self.index).peek(id)
    }

    /// Reads a blob, verified; it counts as used now. `None` when it is not held, or no longer is:
    /// a damaged one is put aside and forgotten, to be fetched anew. One that the disk fails to read
    /// is counted and a miss for now.
    pub async fn read(&self, id: BlobId) -> Option<Bytes> {
        let len = lock(&self.index).touch(id)?;
        let error = match self.files.read(id, len).await {
            Ok(bytes) => return Some(bytes),
            // Evicted in between, most likely; the index is right already then.
            Err(ReadError::Missing) => None,
            Err(ReadError::Corrupt(_)) => {
                self.metrics.corrupt_blobs_total.with_label_values(&["cache"]).inc();
                None
            }
            Err(ReadError::Io(error)) => Some(error),
        };
        if let Some(error) = error {
            let failures = self.metrics.disk_read_failures_total.with_label_values(&["cache"]);
            if count_and_log(&failures) {
                tracing::warn!("Cannot read {id} from the cache folder: {error}");
            }
            return None;
        }
        let _order = self.stripe(id).lock().await;
        // Somebody may have written it anew while we waited for our turn.
        match self.files.read(id, len).await {
            Ok(bytes) => Some(bytes),
            Err(_) => {
                let mut index = lock(&self.index);
                index.remove(id);
                self.publish_size(&index);
                None
            }
        }
    }

    /// Keeps a blob, whose `bytes` hash to `id`, and gives what was evicted for it. When it is not
    /// kept, the cache is as it was, but for what was evicted.
    pub async fn admit(&self, id: BlobId, bytes: Bytes) -> Admission {
        let Ok(_turn) = timeout(self.write_wait, self.writers.acquire()).await else {
            return AdmitError::Backlog(self.write_wait).into();
        };
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let reserved = lock(&self.index).reserve(len);
        let Some(evicted) = reserved else { return AdmitError::NoRoom(len).into() };
        let room = Room { cache: self, len };
        for victim in &evicted {
            self.metrics.cache_evictions_total.inc();
            self.delete(*victim).await;
        }
        let _order = self.stripe(id).lock().await;
        let written = self.files.put(id, bytes).await;
        let kept = written.map(|()| room.commit(id)).map_err(AdmitError::Io);
        Admission { evicted, kept }
    }

    /// Deletes the file of a blob that the index has given up, unless it is back by now.
    async fn delete(&self, id: BlobId) {
        let _order = self.stripe(id).lock().await;
        if self.len_of(id).is_some() {
            return;
        }
        if let Err(error) = self.files.remove(id).await {
            tracing::warn!("Cannot delete {id} from the cache folder: {error}");
        }
    }

    fn stripe(&self, id: BlobId) -> &tokio::sync::Mutex<()> {
        let [low, ..] = id.0;
        let [first, ..] = &self.stripes;
        self.stripes.get(usize::from(low) % STRIPES).unwrap_or(first)
    }

    fn publish_size(&self, index: &Index) {
        self.metrics.cache_size_bytes.set(index.bytes());
        self.metrics.cache_utilization_percent.set(percent(index.bytes(), self.capacity));
    }

    /// Lets nothing be written until what it gives is dropped.
    #[cfg(test)]
    pub(crate) async fn hold_writes(&self) -> tokio::sync::OwnedSemaphorePermit {
        let all = Config::default().writers.try_into().unwrap();
        Arc::clone(&self.writers).acquire_many_owned(all).await.unwrap()
    }

    /// What was used last, at most `limit` blobs, the most recently used first.
    pub(crate) fn newest(&self, limit: usize) -> Vec<BlobId> {
        lock(&self.index).newest(limit)
    }

    /// When the directory was last told of a blob, if ever; `None` if the blob is not held.
    pub(crate) fn told(&self, id: BlobId) -> Option<Option<Instant>> {
        let told = lock(&self.index).told(id)?;
        Some(told.map(|second| self.began + Duration::from_secs(second.get().into())))
    }

    /// The directory is told of a blob now.
    pub(crate) fn set_told(&self, id: BlobId, now: Instant) {
        let second = now.saturating_duration_since(self.began).as_secs();
        let second = u32::try_from(second).ok().and_then(NonZeroU32::new);
        lock(&self.index).set_told(id, second.unwrap_or(NonZeroU32::MIN));
    }

    /// How full it is.
    pub fn status(&self) -> CacheStatus {
        let index = lock(&self.index);
        CacheStatus {
            bytes: index.bytes(),
            capacity: self.capacity,
            entries: index.len(),
            utilization_percent: percent(index.bytes(), self.capacity),
        }
    }
}

/// Room that is kept for a blob until it is written or given up.
struct Room<'a> {
    cache: &'a Cache,
    len: u32,
}

impl Room<'_> {
    fn commit(self, id: BlobId) {
        let mut index = lock(&self.cache.index);
        index.commit(id, self.len);
        self.cache.publish_size(&index);
        drop(index);
        std::mem::forget(self);
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        let mut index = lock(&self.cache.index);
        index.release(self.len);
        self.cache.publish_size(&index);
    }
}

#[allow(clippy::cast_precision_loss)]
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{self, Disk};
    use std::{fs, path::Path};

    fn cache(root: &Path, capacity: u64) -> Cache {
        let metrics = Metrics::unregistered();
        let disk = Disk::new(4, metrics.clone());
        let files = Files::new(root.to_owned(), &store::Config::default(), disk);
        Cache::new(files, &Config { capacity, ..Config::default() }, metrics)
    }

    fn blob(n: u8) -> (BlobId, Bytes) {
        let bytes = Bytes::from(vec![n; 1000]);
        (BlobId::of(&bytes), bytes)
    }

    fn on_disk(root: &Path) -> u64 {
        let folders = fs::read_dir(root).unwrap().map(|entry| entry.unwrap());
        folders
            .filter(|entry| entry.file_name().len() == 2)
            .flat_map(|folder| fs::read_dir(folder.path()).unwrap())
            .map(|file| file.unwrap().metadata().unwrap().len())
            .sum()
    }

    #[tokio::test]
    async fn files_on_disk_stay_under_the_bound_and_follow_the_index() {
        let root = tempfile::tempdir().unwrap();
        let cache = cache(root.path(), 3500);
        let _lock = cache.open().await.unwrap();
        for n in 0..20 {
            let (id, bytes) = blob(n);
            let admission = cache.admit(id, bytes.clone()).await;
            assert!(admission.kept.is_ok());
            assert_eq!(admission.evicted.len(), usize::from(n >= 3));
            assert_eq!(cache.read(id).await, Some(bytes));
            assert!(on_disk(root.path()) <= 3500);
        }
        assert_eq!(cache.status().bytes, 3000);
        assert_eq!(on_disk(root.path()), 3000);
        assert_eq!(cache.metrics.cache_evictions_total.get(), 17);
        assert_eq!(cache.metrics.cache_size_bytes.get(), 3000);
        assert_eq!(cache.read(blob(0).0).await, None);
    }

    #[tokio::test]
    async fn a_restart_keeps_what_was_held_and_a_smaller_bound_evicts_the_oldest() {
        let root = tempfile::tempdir().unwrap();
        {
            let cache = cache(root.path(), 10_000);
            let _lock = cache.open().await.unwrap();
            for n in 0..5 {
                let (id, bytes) = blob(n);
                cache.admit(id, bytes).await.kept.unwrap();
                let name = id.to_string();
                let file = root.path().join(&name[..2]).join(&name);
                let age = Duration::from_secs(100 - u64::from(n));
                let used = std::time::SystemTime::now() - age;
                fs::File::options().write(true).open(file).unwrap().set_modified(used).unwrap();
            }
        }
        let cache = cache(root.path(), 2000);
        let _lock = cache.open().await.unwrap();
        assert_eq!(cache.newest(9), [blob(4).0, blob(3).0]);
        assert_eq!(on_disk(root.path()), 2000);
        assert_eq!(cache.read(blob(3).0).await, Some(blob(3).1));
    }

    #[tokio::test]
    async fn a_damaged_file_is_a_miss_and_forgotten() {
        let root = tempfile::tempdir().unwrap();
        let cache = cache(root.path(), 10_000);
        let _lock = cache.open().await.unwrap();
        let (id, bytes) = blob(1);
        cache.admit(id, bytes.clone()).await.kept.unwrap();
        let name = id.to_string();
        fs::write(root.path().join(&name[..2]).join(&name), vec![2; 1000]).unwrap();
        assert_eq!(cache.read(id).await, None);
        assert_eq!((cache.len_of(id), cache.status().bytes), (None, 0));
        assert_eq!(cache.metrics.corrupt_blobs_total.with_label_values(&["cache"]).get(), 1);
        cache.admit(id, bytes.clone()).await.kept.unwrap();
        assert_eq!(cache.read(id).await, Some(bytes));
    }

    #[tokio::test]
    async fn a_file_that_the_disk_fails_to_read_is_a_counted_miss_and_kept() {
        let root = tempfile::tempdir().unwrap();
        let cache = cache(root.path(), 10_000);
        let _lock = cache.open().await.unwrap();
        let (id, bytes) = blob(1);
        cache.admit(id, bytes.clone()).await.kept.unwrap();
        let name = id.to_string();
        let file = root.path().join(&name[..2]).join(&name);
        fs::remove_file(&file).unwrap();
        // A link to itself: opening it fails, for root as well.
        std::os::unix::fs::symlink(&file, &file).unwrap();
        assert_eq!(cache.read(id).await, None);
        assert_eq!(cache.metrics.disk_read_failures_total.with_label_values(&["cache"]).get(), 1);
        fs::remove_file(&file).unwrap();
        fs::write(&file, &bytes).unwrap();
        assert_eq!(cache.read(id).await, Some(bytes));
    }

    #[tokio::test]
    async fn a_failed_write_gives_its_room_back_and_tells_what_was_evicted() {
        let root = tempfile::tempdir().unwrap();
        let cache = cache(root.path(), 1000);
        let _lock = cache.open().await.unwrap();
        let (victim, old) = blob(0);
        cache.admit(victim, old).await.kept.unwrap();
        let (id, bytes) = blob(1);
        fs::remove_dir(root.path().join("tmp")).unwrap();
        let failed = cache.admit(id, bytes.clone()).await;
        assert!(matches!(failed.kept, Err(AdmitError::Io(_))));
        assert_eq!((failed.evicted, cache.len_of(victim)), (vec![victim], None));
        fs::create_dir(root.path().join("tmp")).unwrap();
        let admission = cache.admit(id, bytes).await;
        assert!(admission.kept.is_ok() && admission.evicted.is_empty());
        let too_large = Bytes::from(vec![0; 1001]);
        let refused = cache.admit(BlobId::of(&too_large), too_large).await;
        assert!(matches!(refused.kept, Err(AdmitError::NoRoom(1001))));
        assert!(refused.evicted.is_empty() && cache.len_of(id).is_some());
    }

    #[tokio::test]
    async fn readers_and_writers_of_one_blob_at_once_never_lose_it() {
        let root = tempfile::tempdir().unwrap();
        let cache = cache(root.path(), 2000);
        let _lock = cache.open().await.unwrap();
        let work = (0..40u8).map(|n| {
            let cache = &cache;
            async move {
                let (id, bytes) = blob(n % 4);
                let _ = cache.admit(id, bytes.clone()).await;
                if let Some(read) = cache.read(id).await {
                    assert_eq!(read, bytes);
                }
            }
        });
        futures::future::join_all(work).await;
        let status = cache.status();
        assert_eq!(on_disk(root.path()), status.bytes);
        for id in cache.newest(usize::MAX) {
            assert!(cache.read(id).await.is_some());
        }
    }
}
