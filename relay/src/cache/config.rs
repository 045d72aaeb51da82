//! Settings of the cache.

use super::policy::PolicyKind;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Settings of the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Bytes of disk that the cache may use. Default 10 GiB. `--relay-cache-size` on the command
    /// line.
    pub capacity: u64,
    /// Bytes that it may use however full the disk is; never more than `capacity`. Default 1 GiB.
    pub min_capacity: u64,
    /// Bytes of the disk that are to stay free: when others take them, the cache becomes smaller, down
    /// to `min_capacity`. Default 1 GiB; 0 for a cache that does not look at the disk.
    pub free_headroom: u64,
    /// How often that is looked at. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub resize_every: Duration,
    /// Blobs that the cache may hold, however small. Default 1,000,000: 150 MB of index.
    pub max_entries: usize,
    /// What stays when not all can: `frequency` or `lru`. Default `frequency`.
    pub policy: PolicyKind,
    /// Bytes of memory for whole blobs. Default 256 MiB.
    pub memory: u64,
    /// The longest blob that is kept in memory, in bytes. Default 4 MiB.
    pub memory_blob: u32,
    /// A blob that came longer ago is not given out any more. Default 0: they never change, so
    /// there is no end.
    #[serde(with = "humantime_serde")]
    pub ttl: Duration,
    /// Of `capacity`, the percentage that pinned blobs may take. Default 25.
    pub pinned_percent: u8,
    /// Blobs that may be pinned. Default 10,000, a file of 320 KB.
    pub max_pins: usize,
    /// Bytes a second that are read to see whether they are still what they were. Default 8 MiB, an
    /// hour for 28 GiB; 0 for never.
    pub scrub_rate: u64,
    /// From the beginning of one such pass to that of the next, at least. Default 24 h.
    #[serde(with = "humantime_serde")]
    pub scrub_every: Duration,
    /// How often what the index knows is written down, so that the next start is quick; it is at the
    /// end in any case. The index waits meanwhile, 0.2 s at a million blobs. Default 1 h.
    #[serde(with = "humantime_serde")]
    pub snapshot_every: Duration,
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
            min_capacity: 1024 * 1024 * 1024,
            free_headroom: 1024 * 1024 * 1024,
            resize_every: Duration::from_secs(30),
            max_entries: 1_000_000,
            policy: PolicyKind::Frequency,
            memory: 256 * 1024 * 1024,
            memory_blob: 4 * 1024 * 1024,
            ttl: Duration::ZERO,
            pinned_percent: 25,
            max_pins: 10_000,
            scrub_rate: 8 * 1024 * 1024,
            scrub_every: Duration::from_secs(24 * 3600),
            snapshot_every: Duration::from_secs(3600),
            writers: 4,
            write_wait: Duration::from_secs(5),
        }
    }
}
