//! Which blobs stay when not all can: a decision, without the disk.
//!
//! A [`Policy`] keeps the entries in lists of the `lru` crate and says what has to go for what.
//! [`Frequency`] is the one in use; [`Lru`] is what it is measured beside (`relay.hit_ratio`), and
//! can be chosen (`cache.policy`).

mod frequency;
mod lru;
mod sketch;

pub(crate) use self::lru::Lru;
pub(crate) use frequency::Frequency;

use crate::{content::BlobId, wire::nodes_len};
use ::lru::LruCache;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU32;

/// Entries from the most to the least recently used. Each takes 64 bytes in the list and, at worst,
/// 36 in the table over it.
pub(super) type List = LruCache<BlobId, Entry>;

/// Which policy decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyKind {
    /// What is asked for most often of late, for its size, stays.
    #[default]
    Frequency,
    /// What was asked for last stays.
    Lru,
}

impl PolicyKind {
    pub(super) fn make(self) -> Box<dyn Policy> {
        match self {
            Self::Frequency => Box::new(Frequency::new()),
            Self::Lru => Box::new(Lru::new()),
        }
    }
}

/// What is known of a blob that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its length.
    pub(crate) len: u32,
    /// When it came, in seconds since 1970.
    pub(crate) since: u32,
    /// When the directory was last told that it is held, in seconds of the cache's own clock; `None`
    /// if it was not.
    pub(crate) told: Option<NonZeroU32>,
    /// Why it was taken.
    pub(crate) why: Why,
}

impl Entry {
    /// Bytes on disk: the blob and its outboard.
    pub(crate) fn cost(&self) -> u64 {
        cost(self.len)
    }
}

/// Bytes on disk of a blob of `len` bytes: the blob, and the hashes between its groups.
pub(crate) fn cost(len: u32) -> u64 {
    u64::from(len) + u64::from(nodes_len(len))
}

/// Why a blob is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// There was room.
    Room,
    /// It was asked for more often, for its size, than what had to go.
    Wanted,
    /// The policy takes whatever is new.
    New,
    /// It was on disk when the service started.
    Found,
}

/// What has to become free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) bytes: u64,
    pub(crate) entries: usize,
}

impl Need {
    pub(crate) fn nothing(self) -> bool {
        self.bytes == 0 && self.entries == 0
    }

    /// What is still needed when an entry has gone.
    fn without(self, entry: &Entry) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(entry.cost()),
            entries: self.entries.saturating_sub(1),
        }
    }
}

/// For whom room is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum For {
    /// For a blob of so many bytes on disk, if it is worth more than what has to go.
    Blob(BlobId, u64),
    /// The cache has to become smaller.
    Shrinking,
}

/// The blobs that are held, in the order in which they go.
pub(crate) trait Policy: Send {
    /// Someone asks for a blob that exists, held or not.
    fn asked(&mut self, id: BlobId);

    /// How often a blob was asked for of late, at most 255; 0 where the policy does not count.
    fn frequency(&self, id: BlobId) -> u8;

    /// A blob is held from now on, which was not. `hot` puts it where those are that were used again
    /// since they came.
    fn insert(&mut self, id: BlobId, entry: Entry, hot: bool);

    /// A blob that is held is used.
    fn touch(&mut self, id: BlobId) -> Option<Entry>;

    /// What is known of a blob.
    fn peek(&self, id: BlobId) -> Option<&Entry>;

    /// The same, to change what the directory was told. Lengths are not to be changed.
    fn peek_mut(&mut self, id: BlobId) -> Option<&mut Entry>;

    /// A blob is held no more.
    fn remove(&mut self, id: BlobId) -> Option<Entry>;

    /// Takes out what has to go, or `None` if what is there is worth more than what would come.
    /// `need` is never more than is there.
    fn make_room(&mut self, need: Need, whom: For) -> Option<Vec<(BlobId, Entry)>>;

    /// Whether [`Self::make_room`] would do so for a blob of `cost` bytes on disk, if it were asked for
    /// once more. Changes nothing.
    fn would_make_room(&self, need: Need, id: BlobId, cost: u64) -> bool;

    /// Blobs held.
    fn len(&self) -> usize;

    /// Their bytes on disk.
    fn bytes(&self) -> u64;

    /// Why a blob is taken that takes the place of others.
    fn why(&self) -> Why;

    /// Goes through all of them, those that go first before those that go last; and says of each
    /// whether it was used again since it came.
    fn visit(&self, visit: &mut dyn FnMut(BlobId, &Entry, bool));

    /// What was used last, at most `limit`, the most recently used first.
    fn newest(&self, limit: usize) -> Vec<BlobId>;
}
