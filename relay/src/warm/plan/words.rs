//! What a plan is told and says.

use crate::{
    content::{BlobId, Manifest},
    warm::{Account, Refused},
};
use std::time::Instant;

/// What this node has, and would take.
pub(in crate::warm) trait Shelf {
    /// Whether a blob is held.
    fn holds(&self, id: BlobId) -> bool;
    /// Whether the disk would take a blob, if it were asked for once.
    fn would_keep(&self, id: BlobId, len: u32) -> bool;
    /// Whether memory would, for a while.
    fn would_hold(&self, len: u32) -> bool;
    /// Bytes that the cache may have on disk.
    fn capacity(&self) -> u64;
}

/// Why a blob is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::warm) enum Cause {
    /// It was announced by who this account answers for.
    Announced(Account),
    /// What stands before it is read.
    Ahead,
}

/// What a blob is said to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::warm) enum What {
    /// The manifest of a content of so many shards and bytes.
    Manifest {
        shards: u32,
        total_len: u64,
    },
    Shard,
}

/// A blob that is to be fetched ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::warm) struct Wanted {
    pub(in crate::warm) id: BlobId,
    /// Its length; of a manifest the most that it can have.
    pub(in crate::warm) len: u32,
    pub(in crate::warm) what: What,
    pub(in crate::warm) cause: Cause,
    /// When it was wanted first.
    pub(super) since: Instant,
    /// Whether its account has been charged.
    pub(super) paid: bool,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::warm) enum Next {
    /// Fetch it. To be [`done`](super::Plan::done) with, or [put back](super::Plan::put_back).
    Fetch(Wanted),
    /// One that waited is not fetched, and there may be more to do.
    Refused(Refused),
    /// Nothing before this.
    At(Instant),
    /// Nothing as long as the service is as full as it is.
    Full,
    /// Nothing until something else happens.
    Nothing,
}

/// How a fetch ended.
#[derive(Clone, Debug)]
pub(in crate::warm) enum Outcome {
    /// It brought the blob, which is so long.
    Whole {
        len: u32,
        /// What the blob says, if a manifest was wanted and it is one.
        manifest: Option<Manifest>,
        /// Whether it would not have been fetched otherwise.
        ours: bool,
    },
    /// It did not.
    Nothing,
}

/// What a reading meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::warm) struct Meaning {
    /// The blob had been fetched ahead.
    pub(in crate::warm) used: bool,
    /// Why what follows is not fetched.
    pub(in crate::warm) refused: Option<Refused>,
}
