//! A blob that can be read: whole, or as far as it has come.
//!
//! Everything that is served is read through a [`Body`], a few groups at a time, so whoever sends it
//! need not know where it lies. What is read is verified. A body is sent through [`Sending`], which
//! gives it in the order of its encoding.

mod growing;
mod room;
mod sending;

pub(crate) use growing::{Follower, Growing};
pub(crate) use room::{Memory, Room};
pub(crate) use sending::Sending;

use crate::{
    content::BlobId,
    fill::FillError,
    store::{ReadError, Stored},
    wire::{GROUP_LEN, Outboard, group_count},
};
use bytes::Bytes;
use std::sync::Arc;

/// Groups that are read at a time at most: 256 KiB.
const READ_AT_ONCE: u32 = 16;

/// A blob that can be read.
#[derive(Clone)]
pub(crate) enum Body {
    /// All of it lies in memory.
    Memory(Arc<Whole>),
    /// All of it lies on disk.
    File(Arc<Stored>),
    /// It is being fetched.
    Growing(Follower),
}

/// Why a body cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyError {
    /// The fill that was to bring the rest has failed.
    Failed(FillError),
    /// What is on disk is damaged, or is there no more. It has been put aside.
    Damaged,
    /// The disk failed.
    Disk,
}

impl From<ReadError> for BodyError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Missing | ReadError::Corrupt(_) => Self::Damaged,
            ReadError::Io(_) => Self::Disk,
        }
    }
}

/// A whole blob in memory, verified.
#[derive(Debug)]
pub(crate) struct Whole {
    bytes: Bytes,
    outboard: Outboard,
}

impl Whole {
    /// A blob whose bytes were verified, and its outboard; `None` when they do not belong together.
    pub(crate) fn new(id: BlobId, bytes: Bytes, outboard: Outboard) -> Option<Self> {
        let belong = outboard.root() == id && u32::try_from(bytes.len()) == Ok(outboard.total());
        belong.then_some(Self { bytes, outboard })
    }

    pub(crate) fn id(&self) -> BlobId {
        self.outboard.root()
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub(crate) fn outboard(&self) -> &Outboard {
        &self.outboard
    }

    /// Length in bytes, 1 to 16 MiB.
    pub(crate) fn len(&self) -> u32 {
        self.outboard.total()
    }

    fn group(&self, index: u32) -> Option<Bytes> {
        let at = index.checked_mul(GROUP_LEN)?;
        self.slice(at, at.saturating_add(GROUP_LEN))
    }

    /// The bytes from `at` to before `end`, as far as there are any.
    fn slice(&self, at: u32, end: u32) -> Option<Bytes> {
        let end = end.min(self.len());
        let (at, end) = (usize::try_from(at).ok()?, usize::try_from(end).ok()?);
        (at < end).then(|| self.bytes.slice(at..end))
    }
}

impl Body {
    /// Length of the blob in bytes. Of one that is being fetched it is what its source says, until the
    /// blob is whole: one that turns out to be of another length fails.
    pub(crate) fn len(&self) -> u32 {
        match self {
            Self::Memory(whole) => whole.len(),
            Self::File(stored) => stored.len(),
            Self::Growing(follower) => follower.len(),
        }
    }

    /// The groups from `first` to before `end`, one item each, as many as are there and at most 16.
    /// Waits until there is one. None where there is no such group.
    ///
    /// # Errors
    /// See [`BodyError`].
    pub(crate) async fn groups(&self, first: u32, end: u32) -> Result<Vec<Bytes>, BodyError> {
        let end = end.min(first.saturating_add(READ_AT_ONCE));
        if first >= end {
            return Ok(Vec::new());
        }
        match self {
            Self::File(stored) => {
                let mut bytes = stored.groups(first, end).await?;
                let len = usize::try_from(GROUP_LEN).unwrap_or(usize::MAX);
                let mut groups = Vec::with_capacity(bytes.len().div_ceil(len));
                while !bytes.is_empty() {
                    groups.push(bytes.split_to(bytes.len().min(len)));
                }
                Ok(groups)
            }
            Self::Memory(whole) => Ok((first..end).map_while(|index| whole.group(index)).collect()),
            Self::Growing(follower) => follower.groups(first, end).await.map_err(BodyError::Failed),
        }
    }

    /// Bytes from `at` on, at least one and none from `end` on, in one piece, where they lie so. What is
    /// sent in few pieces costs less: quinn looks through all of a stream's pieces for every packet.
    ///
    /// # Errors
    /// See [`BodyError`].
    async fn piece(&self, at: u32, end: u32) -> Result<Option<Bytes>, BodyError> {
        match self {
            Self::Memory(whole) => Ok(whole.slice(at, end)),
            Self::File(stored) => {
                let first = at / GROUP_LEN;
                let mut bytes = stored.groups(first, group_count(end)).await?;
                let begin = first.saturating_mul(GROUP_LEN);
                let [skip, most] =
                    [at, end].map(|at| usize::try_from(at - begin).unwrap_or(usize::MAX));
                bytes.truncate(most);
                drop(bytes.split_to(skip.min(bytes.len())));
                Ok(Some(bytes))
            }
            Self::Growing(_) => Ok(None),
        }
    }

    /// The node at a place of the outboard in pre-order: the hashes of its children, 64 bytes. `None`
    /// when there is no such node, or it has not come yet; it comes before the groups below it.
    pub(crate) fn node(&self, at: u32) -> Option<Bytes> {
        match self {
            Self::Memory(whole) => whole.outboard.node(at),
            Self::File(stored) => stored.outboard().node(at),
            Self::Growing(follower) => follower.node(at),
        }
    }
}
