//! A folder of blob files.
//!
//! ```text
//! ROOT/lock                   held while a service uses the folder
//! ROOT/tmp/                   files being written; emptied at start
//! ROOT/quarantine/            files that went bad, by name
//! ROOT/ab/abcd...             a blob, named by its id, under the id's first two digits
//! ROOT/outboards/ab/abcd...   the hashes between its groups, unless it is one group
//! ```
//!
//! A blob is written under `tmp`, synced, renamed into place, and its folder synced: a file under
//! its own name is whole, whatever stopped the process. What is read of it is verified, group by
//! group or as a whole, so what the disk did to it later is found before anybody sees it.
//!
//! The outboard is a file of its own. A blob's file is the blob, byte for byte, as it was before
//! there were outboards, and any tool that hashes it gets its name. The outboard is derived and
//! checked against the id whenever it is read, so it needs no sync and its loss or damage costs one
//! hashing of the blob and never the blob. Both in one file would be one rename and one opening
//! less; but a bit that turns in the hashes would cost an origin the content.

use super::{
    Disk,
    folder::Folder,
    stored::{self, Stored},
};
use crate::{content::BlobId, metrics::count_and_log, sync::lock, wire::Outboard};
use bytes::Bytes;
use lru::LruCache;
use std::{
    collections::{HashMap, HashSet},
    fs, io,
    num::NonZeroUsize,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::SystemTime,
};

/// A folder of blob files. Cloning gives another handle to the same folder.
#[derive(Clone)]
pub struct Files {
    folder: Arc<Folder>,
    disk: Disk,
    /// Blobs that were read last, still open: at most `store.open_files`, each a descriptor and at
    /// most 64 KiB of outboard, 16 MiB at the default of 256.
    open: Arc<Mutex<LruCache<BlobId, Arc<Stored>>>>,
    /// What metrics call the store.
    place: &'static str,
}

/// A file that the scan found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The blob that it is named for. Its content is checked when it is read.
    pub id: BlobId,
    /// Its length in bytes.
    pub len: u32,
    /// When it was written or last known to be used; `None` where that was not looked at.
    pub used: Option<SystemTime>,
}

/// Keeps other processes out of a folder until dropped.
#[derive(Debug)]
pub struct FolderLock(#[allow(dead_code)] fs::File);

impl FolderLock {
    pub(super) fn new(file: fs::File) -> Self {
        Self(file)
    }
}

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be made, written to or listed.
    #[error(
        "cannot use the data folder {}: {source}; check that it is a folder that this user may \
         write to, or choose another base path", path.display()
    )]
    Unusable {
        /// What failed.
        path: PathBuf,
        /// How.
        source: io::Error,
    },
    /// Another process has it.
    #[error(
        "the data folder {} is in use by another process; stop that one or choose another base \
         path", path.display()
    )]
    InUse {
        /// The folder.
        path: PathBuf,
    },
}

/// Why a blob could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is no such file.
    #[error("there is no such file")]
    Missing,
    /// The file is not what its name says. It has been put aside.
    #[error("the file is damaged: {0}")]
    Corrupt(Damage),
    /// The disk failed.
    #[error("the disk failed")]
    Io(#[from] io::Error),
}

/// How a file differs from what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Its length is another.
    #[error("{found} bytes long instead of {expected}")]
    Length {
        /// As it was when it was written.
        expected: u32,
        /// As it is.
        found: u64,
    },
    /// Its bytes are others.
    #[error("its bytes do not hash to its name")]
    Hash,
}

impl Files {
    /// The folder at `root`. Touches nothing until [`Self::open`].
    pub fn new(root: PathBuf, config: &super::Config, disk: Disk) -> Self {
        let open =
            LruCache::sparse(NonZeroUsize::new(config.open_files).unwrap_or(NonZeroUsize::MIN));
        let folder = Arc::new(Folder::new(root, config));
        Self { folder, disk, open: Arc::new(Mutex::new(open)), place: "origin" }
    }

    /// The same folder, counted as the cache's.
    pub(crate) fn of_cache(self) -> Self {
        Self { place: "cache", ..self }
    }

    /// Puts `faults` in the way of every step from now on.
    #[cfg(test)]
    pub(crate) fn set_faults(&self, faults: Option<super::Faults>) {
        *lock(&self.folder.faults) = faults;
    }

    /// Makes the folder if need be, locks it, removes what an interrupted write left, and lists the
    /// blobs in no particular order. What does not look like a blob is left alone and not listed.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(&self) -> Result<(Vec<Listed>, FolderLock), OpenError> {
        let folder_lock = self.lock().await?;
        Ok((self.scan(HashMap::new()).await?, folder_lock))
    }

    /// The first half of [`Self::open`].
    pub(crate) async fn lock(&self) -> Result<FolderLock, OpenError> {
        self.open_step(|folder| folder.lock()).await
    }

    /// The second half. Of `known` blobs, whose lengths were remembered, only the names are looked
    /// at; that one of them has another length after all is found when it is read.
    pub(crate) async fn scan(&self, known: HashMap<BlobId, u32>) -> Result<Vec<Listed>, OpenError> {
        self.open_step(move |folder| {
            let unusable = |source| OpenError::Unusable { path: folder.root.clone(), source };
            folder.scan(&known).map_err(unusable)
        })
        .await
    }

    /// Why the folder cannot be used.
    pub(crate) fn unusable(&self, source: io::Error) -> OpenError {
        OpenError::Unusable { path: self.folder.root.clone(), source }
    }

    async fn open_step<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Folder) -> Result<T, OpenError> + Send + 'static,
    ) -> Result<T, OpenError> {
        let folder = Arc::clone(&self.folder);
        let done = self.disk.run(move || work(&folder)).await;
        done.map_err(|source| self.unusable(source))?
    }

    /// Writes a blob and its outboard, which is made if it is not given. The caller vouches that
    /// `bytes` hash to `id`. An older file of that name is replaced.
    ///
    /// # Errors
    /// When the disk fails or is full; then nothing is left behind.
    pub async fn put(
        &self,
        id: BlobId,
        bytes: Bytes,
        outboard: Option<Outboard>,
    ) -> io::Result<()> {
        let folder = Arc::clone(&self.folder);
        let written = self.disk.run(move || folder.put(id, &bytes, outboard.as_ref())).await;
        self.counted(written.flatten())
    }

    /// Reads a blob of `len` bytes whole and verifies it.
    ///
    /// # Errors
    /// See [`ReadError`]. A damaged file has been put aside by then.
    pub async fn read(&self, id: BlobId, len: u32) -> Result<Bytes, ReadError> {
        let folder = Arc::clone(&self.folder);
        let read = self.disk.run(move || folder.read(id, len)).await;
        self.seen(id, read.map_err(ReadError::Io).flatten())
    }

    /// Opens a blob of `len` bytes, to be read and verified group by group. One that was read not
    /// long ago is open still.
    ///
    /// # Errors
    /// See [`ReadError`]. A damaged file has been put aside by then.
    pub(crate) async fn stored(&self, id: BlobId, len: u32) -> Result<Arc<Stored>, ReadError> {
        if let Some(stored) = self.still_open(id, len) {
            return Ok(stored);
        }
        let (folder, disk, place) = (Arc::clone(&self.folder), self.disk.clone(), self.place);
        let opened = self.disk.run(move || folder.open(id, len, disk, place)).await;
        let stored = Arc::new(self.seen(id, opened.map_err(ReadError::Io).flatten())?);
        lock(&self.open).put(id, Arc::clone(&stored));
        Ok(stored)
    }

    fn still_open(&self, id: BlobId, len: u32) -> Option<Arc<Stored>> {
        let mut open = lock(&self.open);
        let stored = open.get(&id)?;
        if stored.len() != len || !stored.is_current() {
            open.pop(&id);
            return None;
        }
        Some(Arc::clone(stored))
    }

    fn seen<T>(&self, id: BlobId, result: Result<T, ReadError>) -> Result<T, ReadError> {
        result.inspect_err(|error| {
            lock(&self.open).pop(&id);
            stored::count(&self.disk, self.place, id, error);
        })
    }

    /// A disk that is full or broken is something to be told of.
    fn counted<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|error| {
            let failures = &self.disk.metrics().disk_write_failures_total;
            if count_and_log(&failures.with_label_values(&[self.place])) {
                tracing::warn!("Cannot write to the {}'s folder: {error}", self.place);
            }
        })
    }

    /// Deletes a blob; one that is not there is no error. Who has it open keeps reading it.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn remove(&self, id: BlobId) -> io::Result<()> {
        lock(&self.open).pop(&id);
        let folder = Arc::clone(&self.folder);
        self.disk.run(move || folder.remove(id)).await?
    }

    /// The blobs that have files, of whatever kind, under one of the 256 first bytes.
    pub(crate) async fn names(&self, first: u8) -> io::Result<HashSet<BlobId>> {
        let folder = Arc::clone(&self.folder);
        self.disk.run(move || folder.names(first)).await?
    }

    /// Bytes that are free on the folder's file system.
    pub(crate) async fn free_space(&self) -> io::Result<u64> {
        let folder = Arc::clone(&self.folder);
        self.disk.run(move || folder.free_space()).await?
    }

    /// Writes a small file beside the blobs, as safely as a blob: `ROOT/NAME`.
    pub(crate) async fn put_beside(&self, name: String, bytes: Vec<u8>) -> io::Result<()> {
        let folder = Arc::clone(&self.folder);
        let path = folder.root.join(name);
        let written = self.disk.run(move || folder.write(&path, &bytes, true)).await;
        self.counted(written.flatten())
    }

    /// A file beside the blobs, at most `max_len` bytes of it; `None` when there is none.
    pub(crate) async fn read_beside(
        &self,
        name: &'static str,
        max_len: u64,
    ) -> io::Result<Option<Vec<u8>>> {
        let folder = Arc::clone(&self.folder);
        self.disk.run(move || folder.read_beside(name, max_len)).await?
    }

    /// The files of `ROOT/FOLDER` with their names, none longer than `max_len`, at most `max_files`.
    pub(super) async fn list_beside(
        &self,
        folder: &'static str,
        max_len: u64,
        max_files: usize,
    ) -> io::Result<Vec<(String, Vec<u8>)>> {
        let inner = Arc::clone(&self.folder);
        self.disk.run(move || inner.list_beside(folder, max_len, max_files)).await?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{metrics::Metrics, store::Config};
    use std::{path::Path, time::Duration};

    fn files(root: &Path) -> Files {
        let config = Config { quarantine: 1, ..Config::default() };
        Files::new(root.to_owned(), &config, Disk::new(2, Metrics::unregistered()))
    }

    fn blob(text: &str) -> (BlobId, Bytes, u32) {
        (BlobId::of(text.as_bytes()), Bytes::from(text.to_owned()), text.len().try_into().unwrap())
    }

    #[tokio::test]
    async fn a_blob_survives_a_restart_and_a_temporary_file_does_not() {
        let root = tempfile::tempdir().unwrap();
        let (id, bytes, len) = blob("hello");
        let files = files(root.path());
        let (found, lock) = files.open().await.unwrap();
        assert!(found.is_empty());
        files.put(id, bytes.clone(), None).await.unwrap();
        // What a process killed in mid-write leaves.
        fs::write(root.path().join("tmp/7"), b"hel").unwrap();
        drop(lock);

        let (found, _lock) = files.open().await.unwrap();
        assert_eq!(found.iter().map(|file| (file.id, file.len)).collect::<Vec<_>>(), [(id, len)]);
        assert_eq!(fs::read_dir(root.path().join("tmp")).unwrap().count(), 0);
        assert_eq!(files.read(id, len).await.unwrap(), bytes);
        files.remove(id).await.unwrap();
        files.remove(id).await.unwrap();
        assert!(matches!(files.read(id, len).await, Err(ReadError::Missing)));
    }

    #[tokio::test]
    async fn a_damaged_file_is_put_aside_and_the_quarantine_is_bounded() {
        let root = tempfile::tempdir().unwrap();
        let files = files(root.path());
        let _lock = files.open().await.unwrap().1;
        let quarantined = || fs::read_dir(root.path().join("quarantine")).unwrap().count();
        for (text, damaged, damage) in [
            ("first", "fIrst", Damage::Hash),
            ("second", "sec", Damage::Length { expected: 6, found: 3 }),
        ] {
            let (id, bytes, len) = blob(text);
            files.put(id, bytes.clone(), None).await.unwrap();
            fs::write(files.folder.blob_path(id), damaged).unwrap();
            let error = files.read(id, len).await.unwrap_err();
            assert!(matches!(error, ReadError::Corrupt(found) if found == damage), "{error}");
            assert!(matches!(files.read(id, len).await, Err(ReadError::Missing)));
            assert_eq!(quarantined(), 1);
            files.put(id, bytes.clone(), None).await.unwrap();
            assert_eq!(files.read(id, len).await.unwrap(), bytes);
        }
    }

    #[tokio::test]
    async fn what_is_not_a_blob_is_left_alone_and_not_listed() {
        let root = tempfile::tempdir().unwrap();
        let files = files(root.path());
        drop(files.open().await.unwrap());
        let (id, ..) = blob("x");
        let folder = root.path().join("ab");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("note.txt"), "mine").unwrap();
        fs::write(folder.join("ab".repeat(32)), "").unwrap();
        fs::write(folder.join(id.to_string()), "in another folder").unwrap();
        fs::write(folder.join(format!("{}AB", "ab".repeat(31))), "upper case").unwrap();
        fs::write(root.path().join("README"), "mine").unwrap();
        assert_eq!(files.open().await.unwrap().0, []);
        assert!(folder.join("note.txt").exists());
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_used_gives_one_clear_line() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        fs::write(&path, "").unwrap();
        let error = files(&path).open().await.unwrap_err().to_string();
        assert!(error.contains("cannot use the data folder"), "{error}");
        assert!(error.contains(&path.display().to_string()), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }

    #[tokio::test]
    async fn two_services_cannot_share_a_folder() {
        let root = tempfile::tempdir().unwrap();
        let _lock = files(root.path()).open().await.unwrap().1;
        let error = files(root.path()).open().await.unwrap_err();
        assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_file_that_was_read_counts_as_used_after_a_while() {
        let root = tempfile::tempdir().unwrap();
        let files = files(root.path());
        let _lock = files.open().await.unwrap().1;
        let (id, bytes, len) = blob("old");
        files.put(id, bytes, None).await.unwrap();
        let path = files.folder.blob_path(id);
        let old = SystemTime::now() - Duration::from_secs(7200);
        fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
        files.read(id, len).await.unwrap();
        assert!(fs::metadata(&path).unwrap().modified().unwrap() > old);
    }
}
