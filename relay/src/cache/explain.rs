//! Why a blob is where it is.

use super::{Cache, Event, Why, index::Index};
use crate::{content::BlobId, sync::lock};
use serde::Serialize;

/// Where a blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Whole, in memory.
    Memory,
    /// On disk.
    Disk,
}

/// What the cache knows of a blob.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Where it is; empty when it is not held.
    pub tiers: Vec<Tier>,
    /// Its length in bytes, if it is held.
    pub len: Option<u32>,
    /// Whether it is pinned.
    pub pinned: bool,
    /// Why it is on disk.
    pub why: Option<Why>,
    /// When it came to the disk, in seconds since 1970.
    pub since: Option<u32>,
    /// How often it was asked for of late, roughly; 255 for that and more.
    pub frequency: u8,
    /// What last became of it when it was evicted or not taken, and when, in seconds since 1970; of
    /// the last 1,024 such events.
    pub last: Option<(Event, u32)>,
}

impl Cache {
    /// What is known of a blob, whether it is held or not.
    pub(crate) fn explain(&self, id: BlobId) -> Explanation {
        let in_memory = lock(&self.memory).len_of(id);
        let index = lock(&self.index);
        explain(&index, in_memory, id)
    }
}

fn explain(index: &Index, in_memory: Option<u32>, id: BlobId) -> Explanation {
    let known = index.peek(id);
    let memory = in_memory.map(|_| Tier::Memory);
    let disk = known.map(|_| Tier::Disk);
    Explanation {
        tiers: memory.into_iter().chain(disk).collect(),
        len: known.map(|known| known.entry.len).or(in_memory),
        pinned: known.is_some_and(|known| known.pinned),
        why: known.map(|known| known.entry.why),
        since: known.map(|known| known.entry.since),
        frequency: index.frequency(id),
        last: index.last(id),
    }
}
