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
mod finding;
mod index;
#[cfg(test)]
mod interleaved;
mod log;
mod memory;
mod opening;
mod pins;
mod policy;
mod runner;
mod scrub;
mod size;
mod snapshot;
#[cfg(test)]
mod tests;

pub use config::Config;
pub use explain::{Explanation, Tier};
pub(crate) use finding::Hit;
pub use index::{Bounds, Index, PinError, Refused, Use};
pub use log::Event;
pub use policy::{PolicyKind, Why};
pub(crate) use runner::Runner;

use crate::{body::Whole, content::BlobId, metrics::Metrics, store::Files, sync::lock};
use memory::Memory;
use serde::Serialize;
use size::Limits;
use std::{
    collections::HashSet,
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
    /// Blobs that are being read into memory, each for a request that has room for it: at most
    /// `server.body_memory` bytes.
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

    /// Length of a blob that is held, in memory or on disk.
    pub fn len_of(&self, id: BlobId) -> Option<u32> {
        let on_disk = lock(&self.index).len_of(id);
        on_disk.or_else(|| lock(&self.memory).len_of(id))
    }

    /// Whether the disk would take a blob of `len` bytes if it were asked for once more.
    pub(crate) fn would_keep(&self, id: BlobId, len: u32) -> bool {
        lock(&self.index).would_take(id, len)
    }

    /// Whether memory would take a blob of `len` bytes for a while.
    pub(crate) fn would_hold(&self, len: u32) -> bool {
        lock(&self.memory).takes(len)
    }

    /// Forgets a blob; `None` when it was not held. Its room is free when what this gives is dropped,
    /// which is when its file is gone.
    fn forget(&self, id: BlobId, event: Event) -> Option<Room<'_>> {
        let mut index = lock(&self.index);
        let len = index.forget(id, event, now())?;
        self.publish_size(&index);
        Some(Room { cache: self, len })
    }

    fn keep_in_memory(&self, whole: &Arc<Whole>, now: u32) {
        let mut memory = lock(&self.memory);
        let gone = memory.insert(Arc::clone(whole), now);
        self.metrics.cache_memory_evictions_total.inc_by(gone);
        self.metrics.cache_memory_bytes.set(memory.bytes());
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

/// Room that is kept for a blob until it is written, given up or deleted.
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
