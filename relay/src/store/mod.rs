//! Blobs on disk.
//!
//! [`Files`] is a folder of blob files that knows no policy: it writes whole files under their
//! name or not at all, reads them back verified, and puts aside what has gone bad. A blob is read
//! whole, or opened (`Stored`) and read group by group, each verified by itself. [`Origin`] keeps
//! published content in one for good; the relay's [`cache`](crate::cache) keeps what it fetched in
//! another. All of it runs on blocking threads, a bounded number at a time ([`Disk`]).

mod disk;
mod files;
mod folder;
mod origin;
mod stored;
#[cfg(test)]
mod tests;

pub use disk::Disk;
pub use files::{Damage, Files, FolderLock, Listed, OpenError, ReadError};
#[cfg(test)]
pub(crate) use folder::{Faults, Step};
pub(crate) use origin::MAX_NAME;
pub use origin::{Content, Origin, OriginError, OriginStatus};
pub(crate) use stored::Stored;

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Settings of everything on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Disk operations at a time. Default 8. Each holds at most one blob: 8 x 16 MiB = 128 MiB.
    pub parallel: usize,
    /// Blobs of each store that stay open after they were read, with their hashes. Default 256: as
    /// many descriptors, and 1 MiB of hashes for shards of 1 MiB, 16 MiB for the largest.
    pub open_files: usize,
    /// Bad files kept for inspection in a store's `quarantine` folder; further ones are deleted.
    /// Default 16: at most 256 MiB of disk for each store.
    pub quarantine: usize,
    /// Blobs that the origin holds at most; publishing is refused beyond. Default 1,000,000, which
    /// is 1 TB at 1 MiB a shard and about 80 MB of index.
    pub origin_blobs: usize,
    /// Contents that the origin holds at most. Default 100,000, about 50 MB of memory when every
    /// name is as long as it may be.
    pub origin_contents: usize,
    /// A file that is read gets a new modification time when its old one is older than this, so
    /// that the order of use is roughly known after a restart. Default 1 hour.
    #[serde(with = "humantime_serde")]
    pub touch_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            parallel: 8,
            open_files: 256,
            quarantine: 16,
            origin_blobs: 1_000_000,
            origin_contents: 100_000,
            touch_after: Duration::from_secs(3600),
        }
    }
}
