//! A folder of blob files.
//!
//! ```text
//! ROOT/lock              held while a service uses the folder
//! ROOT/tmp/              files being written; emptied at start
//! ROOT/quarantine/       files that went bad, by name
//! ROOT/ab/abcd...        a blob, named by its id, under the id's first two digits
//! ```
//!
//! A blob is written under `tmp`, synced, renamed into place, and its folder synced: a file under
//! its own name is whole, whatever stopped the process. It is verified whenever it is read, so what
//! the disk did to it later is found before anybody sees it.

use super::Disk;
use crate::content::{BlobId, MAX_BLOB_LEN};
use bytes::Bytes;
use std::{
    fs, io,
    io::{Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

/// A folder of blob files. Cloning gives another handle to the same folder.
#[derive(Clone)]
pub struct Files {
    inner: Arc<Inner>,
    disk: Disk,
}

struct Inner {
    root: PathBuf,
    quarantine: usize,
    touch_after: Duration,
    /// Makes names under `tmp` unique within the process; the lock keeps other processes out.
    next: AtomicU64,
}

/// A file that the scan found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The blob that it is named for. Its content is checked when it is read.
    pub id: BlobId,
    /// Its length in bytes.
    pub len: u32,
    /// When it was written or last known to be used.
    pub used: SystemTime,
}

/// Keeps other processes out of a folder until dropped.
#[derive(Debug)]
pub struct FolderLock(#[allow(dead_code)] fs::File);

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
        let inner = Inner {
            root,
            quarantine: config.quarantine,
            touch_after: config.touch_after,
            next: AtomicU64::new(0),
        };
        Self { inner: Arc::new(inner), disk }
    }

    /// Makes the folder if need be, locks it, removes what an interrupted write left, and lists the
    /// blobs in no particular order. What does not look like a blob is left alone and not listed.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(&self) -> Result<(Vec<Stored>, FolderLock), OpenError> {
        let inner = Arc::clone(&self.inner);
        let path = inner.root.clone();
        let opened = self.disk.run(move || inner.open()).await;
        opened.map_err(|source| OpenError::Unusable { path, source })?
    }

    /// Writes a blob. The caller vouches that `bytes` hash to `id`. An older file of that name is
    /// replaced.
    ///
    /// # Errors
    /// When the disk fails or is full; then nothing is left behind.
    pub async fn put(&self, id: BlobId, bytes: Bytes) -> io::Result<()> {
        let inner = Arc::clone(&self.inner);
        self.disk.run(move || inner.write(&inner.blob_path(id), &bytes)).await?
    }

    /// Reads a blob of `len` bytes and verifies it.
    ///
    /// # Errors
    /// See [`ReadError`]. A damaged file has been put aside by then.
    pub async fn read(&self, id: BlobId, len: u32) -> Result<Bytes, ReadError> {
        let inner = Arc::clone(&self.inner);
        self.disk.run(move || inner.read(id, len)).await?
    }

    /// Deletes a blob; one that is not there is no error. Who has it open keeps reading it.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn remove(&self, id: BlobId) -> io::Result<()> {
        let inner = Arc::clone(&self.inner);
        self.disk.run(move || absent_is_fine(fs::remove_file(inner.blob_path(id)))).await?
    }

    /// Writes a small file beside the blobs, as safely as a blob: `ROOT/FOLDER/NAME`.
    pub(super) async fn put_beside(
        &self,
        folder: &'static str,
        name: String,
        bytes: Vec<u8>,
    ) -> io::Result<()> {
        let inner = Arc::clone(&self.inner);
        self.disk.run(move || inner.write(&inner.root.join(folder).join(name), &bytes)).await?
    }

    /// The files of `ROOT/FOLDER` with their names, none longer than `max_len`, at most `max_files`.
    pub(super) async fn list_beside(
        &self,
        folder: &'static str,
        max_len: u64,
        max_files: usize,
    ) -> io::Result<Vec<(String, Vec<u8>)>> {
        let inner = Arc::clone(&self.inner);
        self.disk.run(move || inner.list_beside(folder, max_len, max_files)).await?
    }
}

impl Inner {
    fn blob_path(&self, id: BlobId) -> PathBuf {
        let name = id.to_string();
        let folder: String = name.chars().take(2).collect();
        self.root.join(folder).join(name)
    }

    fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    fn open(&self) -> Result<(Vec<Stored>, FolderLock), OpenError> {
        let unusable = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Unusable { path, source }
        };
        fs::create_dir_all(&self.root).map_err(unusable(&self.root))?;
        let lock = self.lock()?;
        let tmp = self.tmp();
        // What is in there was being written when the process ended: nobody was told of it.
        absent_is_fine(fs::remove_dir_all(&tmp)).map_err(unusable(&tmp))?;
        fs::create_dir(&tmp).map_err(unusable(&tmp))?;
        let found = self.scan().map_err(unusable(&self.root))?;
        Ok((found, lock))
    }

    fn lock(&self) -> Result<FolderLock, OpenError> {
        let path = self.root.join("lock");
        let unusable = |source| OpenError::Unusable { path: path.clone(), source };
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => Ok(FolderLock(file)),
            Err(fs::TryLockError::WouldBlock) => Err(OpenError::InUse { path: self.root.clone() }),
            Err(fs::TryLockError::Error(source)) => Err(unusable(source)),
        }
    }

    fn scan(&self) -> io::Result<Vec<Stored>> {
        let mut found = Vec::new();
        for folder in fs::read_dir(&self.root)? {
            let folder = folder?;
            let name = folder.file_name();
            let Some(prefix) = name.to_str().filter(|name| is_prefix(name)) else { continue };
            if !folder.file_type()?.is_dir() {
                continue;
            }
            for file in fs::read_dir(folder.path())? {
                found.extend(stored(&file?, prefix)?);
            }
        }
        Ok(found)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        if !folder.is_dir() {
            fs::create_dir_all(folder)?;
            sync_folder(&self.root)?;
        }
        let tmp = self.tmp().join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let written = (|| {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&tmp)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&tmp, path)?;
            sync_folder(folder)
        })();
        if written.is_err() {
            let _ = fs::remove_file(&tmp);
        }
        written
    }

    fn read(&self, id: BlobId, len: u32) -> Result<Bytes, ReadError> {
        let path = self.blob_path(id);
        let mut file = fs::File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ReadError::Missing,
            _ => ReadError::Io(error),
        })?;
        let metadata = file.metadata()?;
        if metadata.len() != u64::from(len) {
            let damage = Damage::Length { expected: len, found: metadata.len() };
            return Err(self.put_aside(id, &path, damage));
        }
        let mut bytes = vec![0; len as usize];
        match file.read_exact(&mut bytes) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(self.put_aside(id, &path, Damage::Length { expected: len, found: 0 }));
            }
            Err(error) => return Err(error.into()),
        }
        if BlobId::of(&bytes) != id {
            return Err(self.put_aside(id, &path, Damage::Hash));
        }
        self.touch(&file, &metadata);
        Ok(Bytes::from(bytes))
    }

    /// Best effort: a wrong order of use after a restart costs a few more misses, nothing else.
    fn touch(&self, file: &fs::File, metadata: &fs::Metadata) {
        let now = SystemTime::now();
        let age = metadata.modified().ok().and_then(|modified| now.duration_since(modified).ok());
        if age.is_some_and(|age| age >= self.touch_after) {
            let _ = file.set_modified(now);
        }
    }

    /// Takes a damaged file out of the way, into the quarantine while there is room.
    fn put_aside(&self, id: BlobId, path: &Path, damage: Damage) -> ReadError {
        let quarantine = self.root.join("quarantine");
        let moved = (|| {
            fs::create_dir_all(&quarantine)?;
            if fs::read_dir(&quarantine)?.count() >= self.quarantine {
                return Ok(false);
            }
            fs::rename(path, quarantine.join(id.to_string()))?;
            Ok::<_, io::Error>(true)
        })();
        let fate = match moved {
            Ok(true) => "moved to the quarantine folder",
            Ok(false) | Err(_) => match absent_is_fine(fs::remove_file(path)) {
                Ok(()) => "deleted",
                Err(error) => return ReadError::Io(error),
            },
        };
        tracing::warn!("Damaged file {}: {damage}; {fate}", path.display());
        ReadError::Corrupt(damage)
    }

    fn list_beside(
        &self,
        folder: &str,
        max_len: u64,
        max_files: usize,
    ) -> io::Result<Vec<(String, Vec<u8>)>> {
        let entries = match fs::read_dir(self.root.join(folder)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut files = Vec::new();
        for entry in entries.take(max_files) {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string()
                && entry.metadata()?.is_file()
            {
                let mut bytes = Vec::new();
                fs::File::open(entry.path())?.take(max_len).read_to_end(&mut bytes)?;
                files.push((name, bytes));
            }
        }
        Ok(files)
    }
}

fn is_prefix(name: &str) -> bool {
    name.len() == 2 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// What a file of a blob folder is, if it can be a blob at all.
fn stored(file: &fs::DirEntry, prefix: &str) -> io::Result<Option<Stored>> {
    let name = file.file_name();
    let Some(id) = name
        .to_str()
        .filter(|name| name.starts_with(prefix))
        .and_then(|name| name.parse::<BlobId>().ok().filter(|id| id.to_string() == *name))
    else {
        return Ok(None);
    };
    let metadata = match file.metadata() {
        Ok(metadata) if metadata.is_file() => metadata,
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    Ok(match u32::try_from(metadata.len()) {
        Ok(len @ 1..=MAX_BLOB_LEN) => Some(Stored { id, len, used }),
        // Cut to nothing by a file system that lost the data, or no blob of ours.
        _ => {
            tracing::warn!("Ignoring {}: {} bytes", file.path().display(), metadata.len());
            None
        }
    })
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    fs::File::open(folder)?.sync_all()
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{metrics::Metrics, store::Config};

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
        files.put(id, bytes.clone()).await.unwrap();
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
            files.put(id, bytes.clone()).await.unwrap();
            fs::write(files.inner.blob_path(id), damaged).unwrap();
            let error = files.read(id, len).await.unwrap_err();
            assert!(matches!(error, ReadError::Corrupt(found) if found == damage), "{error}");
            assert!(matches!(files.read(id, len).await, Err(ReadError::Missing)));
            assert_eq!(quarantined(), 1);
            files.put(id, bytes.clone()).await.unwrap();
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
        files.put(id, bytes).await.unwrap();
        let path = files.inner.blob_path(id);
        let old = SystemTime::now() - Duration::from_secs(7200);
        fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
        files.read(id, len).await.unwrap();
        assert!(fs::metadata(&path).unwrap().modified().unwrap() > old);
    }
}
