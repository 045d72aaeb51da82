//! A blob on disk that is open for reading.

use super::{
    Disk,
    files::{Damage, ReadError},
    folder::{Folder, PIECE_GROUPS},
};
use crate::{
    content::BlobId,
    metrics::count_and_log,
    wire::{GROUP_LEN, Outboard, group_count},
};
use bytes::{Bytes, BytesMut};
use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// A blob on disk: its open file, and its outboard in memory (0.4 % of its length, 64 KiB at most).
///
/// Whoever holds one can read all of it, also when the blob is evicted meanwhile: the file is gone
/// when the last holder is. Groups are verified as they are read, and nothing else of the blob is.
pub(crate) struct Stored {
    id: BlobId,
    len: u32,
    file: fs::File,
    outboard: Outboard,
    folder: Arc<Folder>,
    disk: Disk,
    /// Which store it is of, as metrics name it.
    place: &'static str,
    /// A group was not what it should be, and the file has been put aside.
    damaged: AtomicBool,
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stored").field("id", &self.id).field("len", &self.len).finish()
    }
}

impl Stored {
    pub(super) fn new(
        id: BlobId,
        len: u32,
        file: fs::File,
        outboard: Outboard,
        folder: Arc<Folder>,
        disk: Disk,
        place: &'static str,
    ) -> Self {
        Self { id, len, file, outboard, folder, disk, place, damaged: AtomicBool::new(false) }
    }

    /// Its id.
    pub(crate) fn id(&self) -> BlobId {
        self.id
    }

    /// Its length in bytes.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// All nodes above its groups, checked against its id.
    pub(crate) fn outboard(&self) -> &Outboard {
        &self.outboard
    }

    /// Whether its file is still the blob's: whole as far as is known, and not deleted by anybody.
    /// Asks the system about the open file, which waits for no disk.
    pub(super) fn is_current(&self) -> bool {
        let deleted = || self.file.metadata().is_ok_and(|metadata| metadata.nlink() == 0);
        !self.damaged.load(Ordering::Relaxed) && !deleted()
    }

    /// The bytes of the groups from `first` to before `end`, verified; of the first 16 of them
    /// (256 KiB) if they are more.
    ///
    /// # Errors
    /// See [`ReadError`]. A damaged file has been put aside by then, so the next reader does not find
    /// it.
    pub(crate) async fn groups(self: &Arc<Self>, first: u32, end: u32) -> Result<Bytes, ReadError> {
        let this = Arc::clone(self);
        self.disk.run(move || this.read(first, end)).await?
    }

    /// All of it, every group verified.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub(crate) async fn whole(self: &Arc<Self>) -> Result<Bytes, ReadError> {
        let end = group_count(self.len);
        let mut whole = BytesMut::new();
        let mut next = 0;
        while next < end {
            let piece = self.groups(next, end).await?;
            next += group_count(u32::try_from(piece.len()).unwrap_or(u32::MAX));
            if next >= end && whole.is_empty() {
                return Ok(piece);
            }
            whole.reserve(usize::try_from(self.len).unwrap_or(0).saturating_sub(whole.len()));
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }

    fn read(&self, first: u32, end: u32) -> Result<Bytes, ReadError> {
        let end = end.min(group_count(self.len)).min(first.saturating_add(PIECE_GROUPS));
        if first >= end {
            return Err(io::Error::from(io::ErrorKind::InvalidInput).into());
        }
        let start = u64::from(first) * u64::from(GROUP_LEN);
        let end = (u64::from(end) * u64::from(GROUP_LEN)).min(u64::from(self.len));
        let len = usize::try_from(end.saturating_sub(start)).map_err(io::Error::other)?;
        let mut bytes = vec![0; len];
        let result = match self.folder.read_at(&self.file, &mut bytes, start) {
            Ok(()) if self.outboard.first_wrong(first, &bytes).is_none() => {
                return Ok(Bytes::from(bytes));
            }
            Ok(()) => self.put_aside(Damage::Hash),
            // Cut short after it was opened.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.put_aside(Damage::Length { expected: self.len, found: start })
            }
            Err(error) => error.into(),
        };
        count(&self.disk, self.place, self.id, &result);
        Err(result)
    }

    fn put_aside(&self, damage: Damage) -> ReadError {
        self.damaged.store(true, Ordering::Relaxed);
        self.folder.put_aside(self.id, &self.file, damage)
    }
}

/// Counts what a reading came to, where a person should know of it.
pub(super) fn count(disk: &Disk, place: &'static str, id: BlobId, error: &ReadError) {
    match error {
        ReadError::Missing => {}
        ReadError::Corrupt(_) => {
            disk.metrics().corrupt_blobs_total.with_label_values(&[place]).inc()
        }
        ReadError::Io(error) => {
            let failures = disk.metrics().disk_read_failures_total.with_label_values(&[place]);
            if count_and_log(&failures) {
                tracing::warn!("Cannot read {id} from the {place}'s folder: {error}");
            }
        }
    }
}
