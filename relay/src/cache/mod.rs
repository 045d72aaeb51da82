//! The relay's cache: what was fetched, as long as it pays.
//!
//! # Two tiers
//!
//! On disk a [`Files`] folder, with an [`Index`] in memory that decides: what the index gives up is
//! deleted, what it has made room for is written. Before it some whole blobs in memory (`memory`).
//! A reader holds what it reads, the bytes or the open file, so eviction never breaks one.
//!
//! ```text
//!  find ── memory ── held ─────────────────────────────▶ Hit::Memory
//!            │ not held
//!          index ── held ─▶ open file, outboard ────────▶ Hit::File, verified group by group
//!            │                │ asked for more often than what memory would give up
//!            │ absent         └▶ read whole, verified ──▶ Hit::Loaded, in memory from now on
//!            ▼
//!          a miss; what is fetched comes back by `admit`: into memory in any case, and on disk if it is
//!          asked for more often than what would have to go (`policy`)
//! ```
//!
//! # After a restart
//!
//! The folder is the truth. A snapshot of the index only saves looking at every file, and brings back
//! the order in which blobs go (`snapshot`).
//!
//! # In the background
//!
//! [`Runner`] writes what memory has and the disk would now take, reads what is on disk at a bounded rate and puts aside what went bad (`scrub`), makes the
//! cache smaller when the disk becomes full (`size`), and writes the snapshot.

mod config;
#[cfg(test)]
mod crash;
mod explain;
mod index;
#[cfg(test)]
mod interleaved;
mod log;
mod memory;
mod policy;
mod runner;
mod scrub;
mod size;
mod snapshot;
#[cfg(test)]
mod tests;

pub use config::Config;
pub use explain::{Explanation, Tier};
pub use index::{Bounds, Index, PinError, Refused, Use};
pub use log::Event;
pub use policy::{PolicyKind, Why};
pub(crate) use runner::Runner;

use crate::{
    body::Whole,
    content::BlobId,
    metrics::Metrics,
    store::{Files, FolderLock, OpenError, ReadError, Stored},
    sync::lock,
};
use memory::Memory;
use serde::Serialize;
use size::Limits;
use snapshot::Restored;
use std::{
    collections::{HashMap, HashSet},
    io,
    num::NonZeroU32,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};

/// Disk changes to one blob happen one after the other: they take the lock of its id's low bits.
const STRIPES: usize = 16;

/// The file with the ids of pinned blobs, one after the other.
const PINS: &str = "pins";

/// Blobs in memory that wait to be written: 64 of at most 16 MiB. What finds no place is not written.
const PROMOTIONS: usize = 64;

/// The cache of a relay.
pub struct Cache {
    files: Files,
    metrics: Metrics,
    limits: Limits,
    max_entries: usize,
    max_pins: usize,
    /// What the index counts the seconds from in which the directory was told.
    began: Instant,
    index: Mutex<Index>,
    memory: Mutex<Memory>,
    memory_capacity: u64,
    /// Blobs that are being read into memory: at most `store.parallel`, as many as are read at a time.
    loading: Mutex<HashSet<BlobId>>,
    writers: Arc<Semaphore>,
    write_wait: Duration,
    stripes: [tokio::sync::Mutex<()>; STRIPES],
    /// One change of the pins at a time.
    pinning: tokio::sync::Mutex<()>,
    /// Blobs that memory alone has and that are asked for again and again, for the runner.
    promotions: mpsc::Sender<Arc<Whole>>,
    promoted: Mutex<Option<mpsc::Receiver<Arc<Whole>>>>,
}

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

/// How full the cache is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CacheStatus {
    /// Bytes held on disk.
    pub bytes: u64,
    /// Bytes that may be held on disk, as the disk is now.
    pub capacity: u64,
    /// Blobs held on disk.
    pub entries: usize,
    /// Bytes held in percent of what may be.
    pub utilization_percent: f64,
    /// Bytes of blobs on disk that are pinned.
    pub pinned_bytes: u64,
    /// Bytes held in memory.
    pub memory_bytes: u64,
    /// Bytes that may be held in memory.
    pub memory_capacity: u64,
}

/// Why a blob was not kept on disk.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// The index did not take it.
    #[error("{refused} ({len} bytes)")]
    Refused {
        /// Why.
        refused: Refused,
        /// Its length.
        len: u32,
    },
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
        let limits = Limits {
            ceiling: config.capacity,
            floor: config.min_capacity.min(config.capacity),
            headroom: config.free_headroom,
        };
        let ttl = u32::try_from(config.ttl.as_secs()).unwrap_or(u32::MAX);
        let bounds = Bounds {
            capacity: config.capacity,
            entries: config.max_entries,
            pinned: share(config.capacity, config.pinned_percent),
            ttl,
        };
        let (promotions, promoted) = mpsc::channel(PROMOTIONS);
        Self {
            files: files.of_cache(),
            metrics,
            limits,
            max_entries: config.max_entries,
            max_pins: config.max_pins,
            began: Instant::now(),
            index: Mutex::new(Index::new(bounds, config.policy)),
            memory: Mutex::new(Memory::new(config.memory, config.memory_blob, ttl)),
            memory_capacity: config.memory,
            loading: Mutex::default(),
            writers: Arc::new(Semaphore::new(config.writers.max(1))),
            write_wait: config.write_wait,
            stripes: std::array::from_fn(|_| tokio::sync::Mutex::new(())),
            pinning: tokio::sync::Mutex::new(()),
            promotions,
            promoted: Mutex::new(Some(promoted)),
        }
    }

    /// Finds what is held, in the order in which it goes, and evicts what is too much.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(&self) -> Result<FolderLock, OpenError> {
        let folder_lock = self.files.lock().await?;
        let remembered = self.remembered().await;
        let known = remembered.iter().map(|(id, known)| (*id, known.len)).collect();
        let found = self.files.scan(known).await?;
        // Sorting a million takes a moment.
        let order = tokio::task::spawn_blocking(move || snapshot::order(found, &remembered));
        let order = order.await.unwrap_or_default();
        let pins = self.files.read_beside(PINS, 32 * u64::try_from(self.max_pins).unwrap_or(0));
        let pins = pins.await.ok().flatten().unwrap_or_default();
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
    fn index_found(&self, order: &[Restored], pins: &[u8]) -> Vec<BlobId> {
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
        for pin in pins.as_chunks::<32>().0 {
            // One that is not there any more, or too much for a smaller share.
            let _ = index.pin(BlobId(*pin));
        }
        self.publish_size(&index);
        victims.iter().map(|restored| restored.id).collect()
    }

    /// Length of a blob that is held, in memory or on disk.
    pub fn len_of(&self, id: BlobId) -> Option<u32> {
        let on_disk = lock(&self.index).len_of(id);
        on_disk.or_else(|| lock(&self.memory).len_of(id))
    }

    /// Finds a blob; it counts as used now. `None` when it is not held, or no longer is: a damaged one
    /// is put aside and forgotten, to be fetched anew. One that the disk fails to read is counted and a
    /// miss for now.
    pub(crate) async fn find(&self, id: BlobId) -> Option<Hit> {
        let now = now();
        let used = lock(&self.index).touch(id, now);
        if used == Use::Expired {
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
                self.forget(id, Event::Lost);
                None
            }
        }
    }

    fn forget(&self, id: BlobId, event: Event) -> bool {
        let mut index = lock(&self.index);
        let removed = index.forget(id, event, now());
        self.publish_size(&index);
        removed
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

    fn keep_in_memory(&self, whole: &Arc<Whole>, now: u32) {
        let mut memory = lock(&self.memory);
        let gone = memory.insert(Arc::clone(whole), now);
        self.metrics.cache_memory_evictions_total.inc_by(gone);
        self.metrics.cache_memory_bytes.set(memory.bytes());
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

    /// Keeps a blob, and gives what was evicted for it. It is in memory for a while in any case. When it
    /// is not kept on disk, that is as it was, but for what was evicted.
    pub(crate) async fn admit(&self, whole: Arc<Whole>) -> Admission {
        self.keep_in_memory(&whole, now());
        lock(&self.index).ask(whole.id());
        self.write(&whole).await
    }

    /// Writes a blob to disk, if it is worth what would have to go.
    async fn write(&self, whole: &Whole) -> Admission {
        let (id, len) = (whole.id(), whole.len());
        let Ok(_turn) = timeout(self.write_wait, self.writers.acquire()).await else {
            return AdmitError::Backlog(self.write_wait).into();
        };
        let reserved = lock(&self.index).reserve(id, len, now());
        let evicted = match reserved {
            Ok(evicted) => evicted,
            Err(refused) => {
                let reason = match refused {
                    Refused::NoRoom => "no_room",
                    Refused::Unwanted => "unwanted",
                };
                self.metrics.cache_admissions_refused_total.with_label_values(&[reason]).inc();
                return AdmitError::Refused { refused, len }.into();
            }
        };
        let room = Room { cache: self, len };
        for victim in &evicted {
            self.metrics.cache_evictions_total.inc();
            self.delete(*victim).await;
        }
        let _order = self.stripe(id).lock().await;
        let put = self.files.put(id, whole.bytes().clone(), Some(whole.outboard().clone()));
        let kept = match put.await {
            Ok(()) => {
                room.commit(id, !evicted.is_empty());
                Ok(())
            }
            Err(error) => Err(AdmitError::Io(error)),
        };
        Admission { evicted, kept }
    }

    /// Deletes the file of a blob that the index has given up, unless it is back by now.
    async fn delete(&self, id: BlobId) {
        let _order = self.stripe(id).lock().await;
        if lock(&self.index).len_of(id).is_some() {
            return;
        }
        if let Err(error) = self.files.remove(id).await {
            tracing::warn!("Cannot delete {id} from the cache folder: {error}");
        }
    }

    /// Makes the cache as large as it may be with the disk as it is, and gives what had to go.
    pub(crate) async fn fit(&self) -> Vec<BlobId> {
        if self.limits.headroom == 0 {
            return Vec::new();
        }
        let free = match self.files.free_space().await {
            Ok(free) => free,
            Err(error) => {
                tracing::debug!("Cannot see how full the cache's disk is: {error}");
                return Vec::new();
            }
        };
        self.fit_to(free).await
    }

    async fn fit_to(&self, free: u64) -> Vec<BlobId> {
        let victims = {
            let mut index = lock(&self.index);
            let capacity = size::fitting(self.limits, index.bytes(), free);
            let victims = index.resize(capacity, now());
            self.publish_size(&index);
            victims
        };
        for victim in &victims {
            self.metrics.cache_evictions_total.inc();
            self.delete(*victim).await;
        }
        victims
    }

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

    /// A disk that fails is counted; the pin then holds until the end of the process.
    async fn write_pins(&self, pins: Vec<BlobId>) {
        let bytes = pins.iter().flat_map(|id| id.0).collect();
        let _ = self.files.put_beside(PINS.to_owned(), bytes).await;
    }

    /// Removes a blob from memory and disk, pinned or not. Whether it was held on disk.
    pub(crate) async fn purge(&self, id: BlobId) -> bool {
        lock(&self.memory).remove(id);
        let pinned = lock(&self.index).peek(id).is_some_and(|known| known.pinned);
        if pinned {
            self.unpin(id).await;
        }
        let removed = self.forget(id, Event::Purged);
        self.delete(id).await;
        removed
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

    fn stripe(&self, id: BlobId) -> &tokio::sync::Mutex<()> {
        let [low, ..] = id.0;
        let [first, ..] = &self.stripes;
        self.stripes.get(usize::from(low) % STRIPES).unwrap_or(first)
    }

    fn publish_size(&self, index: &Index) {
        self.metrics.cache_size_bytes.set(index.bytes());
        self.metrics.cache_capacity_bytes.set(index.capacity());
        self.metrics.cache_pinned_bytes.set(index.pinned_bytes());
        self.metrics.cache_utilization_percent.set(percent(index.bytes(), index.capacity()));
    }

    /// Puts `faults` in the way of every step on disk from now on.
    #[cfg(test)]
    pub(crate) fn set_faults(&self, faults: Option<crate::store::Faults>) {
        self.files.set_faults(faults);
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

    /// When the directory was last told of a blob, if ever; `None` if the blob is not held on disk.
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
        let memory_bytes = lock(&self.memory).bytes();
        let index = lock(&self.index);
        CacheStatus {
            bytes: index.bytes(),
            capacity: index.capacity(),
            entries: index.len(),
            utilization_percent: percent(index.bytes(), index.capacity()),
            pinned_bytes: index.pinned_bytes(),
            memory_bytes,
            memory_capacity: self.memory_capacity,
        }
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

/// Room that is kept for a blob until it is written or given up.
struct Room<'a> {
    cache: &'a Cache,
    len: u32,
}

impl Room<'_> {
    fn commit(self, id: BlobId, displaced: bool) {
        let mut index = lock(&self.cache.index);
        index.commit(id, self.len, now(), displaced);
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

/// Seconds since 1970, by which blobs are dated.
fn now() -> u32 {
    snapshot::seconds(SystemTime::now())
}

/// So many percent of something.
fn share(whole: u64, percent: u8) -> u64 {
    let share = u128::from(whole) * u128::from(percent.min(100)) / 100;
    u64::try_from(share).unwrap_or(whole)
}

#[allow(clippy::cast_precision_loss)]
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}
