//! What is done to a folder of blob files, one blocking step after the other.

use super::{
    FolderLock, Listed, OpenError,
    files::{Damage, ReadError},
    stored::Stored,
};
use crate::{
    content::{BlobId, MAX_BLOB_LEN},
    wire::{GROUP_LEN, Outboard, nodes_len},
};
use bytes::Bytes;
use std::{
    collections::{HashMap, HashSet},
    fs, io,
    io::{Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

const TMP: &str = "tmp";
const QUARANTINE: &str = "quarantine";
const OUTBOARDS: &str = "outboards";

/// A step that changes what is on disk, or asks the disk for bytes. Tests stop or fail at each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A folder is made.
    MakeFolder,
    /// Bytes are written to a temporary file.
    Write,
    /// A file's bytes are forced to the disk.
    Sync,
    /// A temporary file gets its name, or a bad one goes to the quarantine.
    Rename,
    /// A folder's names are forced to the disk.
    SyncFolder,
    /// A file is deleted.
    Remove,
    /// Bytes are read.
    Read,
}

/// What tests put in the way of a step.
#[cfg(test)]
pub(crate) type Faults = Arc<dyn Fn(Step) -> io::Result<()> + Send + Sync>;

/// A folder of blobs; see [`super::files`] for what lies where.
pub(super) struct Folder {
    pub(super) root: PathBuf,
    quarantine: usize,
    touch_after: Duration,
    /// Makes names under `tmp` unique within the process; the lock keeps other processes out.
    next: AtomicU64,
    #[cfg(test)]
    pub(super) faults: std::sync::Mutex<Option<Faults>>,
}

impl Folder {
    pub(super) fn new(root: PathBuf, config: &super::Config) -> Self {
        Self {
            root,
            quarantine: config.quarantine,
            touch_after: config.touch_after,
            next: AtomicU64::new(0),
            #[cfg(test)]
            faults: std::sync::Mutex::new(None),
        }
    }

    #[cfg(not(test))]
    #[allow(clippy::unused_self, clippy::unnecessary_wraps)]
    fn step(&self, _: Step) -> io::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    fn step(&self, step: Step) -> io::Result<()> {
        let faults = crate::sync::lock(&self.faults).clone();
        faults.map_or(Ok(()), |faults| faults(step))
    }

    pub(super) fn blob_path(&self, id: BlobId) -> PathBuf {
        two_levels(&self.root, id)
    }

    pub(super) fn outboard_path(&self, id: BlobId) -> PathBuf {
        two_levels(&self.root.join(OUTBOARDS), id)
    }

    fn tmp(&self) -> PathBuf {
        self.root.join(TMP)
    }

    /// Makes the folder if need be, locks it, and removes what an interrupted write left.
    pub(super) fn lock(&self) -> Result<FolderLock, OpenError> {
        let unusable = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Unusable { path, source }
        };
        fs::create_dir_all(&self.root).map_err(unusable(&self.root))?;
        let path = self.root.join("lock");
        let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(unusable(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(OpenError::InUse { path: self.root.clone() });
            }
            Err(fs::TryLockError::Error(source)) => return Err(unusable(&path)(source)),
        }
        let tmp = self.tmp();
        // What is in there was being written when the process ended: nobody was told of it.
        absent_is_fine(fs::remove_dir_all(&tmp)).map_err(unusable(&tmp))?;
        fs::create_dir(&tmp).map_err(unusable(&tmp))?;
        Ok(FolderLock::new(file))
    }

    /// The blobs, in no particular order. The files of `known` blobs are not looked at, which is
    /// what takes the time: only their names are.
    pub(super) fn scan(&self, known: &HashMap<BlobId, u32>) -> io::Result<Vec<Listed>> {
        let mut found = Vec::with_capacity(known.len());
        for folder in fs::read_dir(&self.root)? {
            let folder = folder?;
            let name = folder.file_name();
            let Some(prefix) = name.to_str().filter(|name| is_prefix(name)) else { continue };
            if folder.file_type()?.is_dir() {
                self.scan_one(prefix, known, &mut found)?;
            }
        }
        Ok(found)
    }

    fn scan_one(
        &self,
        prefix: &str,
        known: &HashMap<BlobId, u32>,
        found: &mut Vec<Listed>,
    ) -> io::Result<()> {
        for file in fs::read_dir(self.root.join(prefix))? {
            let file = file?;
            let name = file.file_name();
            let Some(id) = name.to_str().and_then(|name| id_of(name, prefix)) else { continue };
            match known.get(&id) {
                Some(len) if file.file_type()?.is_file() => {
                    found.push(Listed { id, len: *len, used: None });
                }
                _ => found.extend(listed(&file, id)?),
            }
        }
        Ok(())
    }

    /// The names in one of the 256 folders, of blobs or outboards. A few thousand of 32 bytes in a
    /// cache of a million.
    pub(super) fn names(&self, prefix: u8) -> io::Result<HashSet<BlobId>> {
        let prefix = hex::encode([prefix]);
        let mut names = HashSet::new();
        for root in [self.root.clone(), self.root.join(OUTBOARDS)] {
            let entries = match fs::read_dir(root.join(&prefix)) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                let name = entry?.file_name();
                names.extend(name.to_str().and_then(|name| id_of(name, &prefix)));
            }
        }
        Ok(names)
    }

    /// Writes a blob and then its outboard, for which `outboard` is made if it is not given.
    ///
    /// The blob is synced. The outboard is not: it is derived from the blob and checked against the
    /// id whenever it is read, so one that a power cut damaged is made again.
    pub(super) fn put(
        &self,
        id: BlobId,
        bytes: &[u8],
        outboard: Option<&Outboard>,
    ) -> io::Result<()> {
        self.write(&self.blob_path(id), bytes, true)?;
        let made;
        let outboard = match outboard {
            Some(outboard) => outboard,
            None => match Outboard::of(bytes) {
                Some(outboard) => {
                    made = outboard;
                    &made
                }
                None => return Ok(()),
            },
        };
        self.put_outboard(id, outboard);
        Ok(())
    }

    /// Best effort: without it the next opening hashes the blob once more.
    fn put_outboard(&self, id: BlobId, outboard: &Outboard) {
        if !outboard.nodes().is_empty()
            && let Err(error) = self.write(&self.outboard_path(id), outboard.nodes(), false)
        {
            tracing::debug!("Cannot keep the outboard of {id}: {error}");
        }
    }

    /// Writes a file whole or not at all. Unless it is `durable`, a power cut may leave anything
    /// under its name.
    pub(super) fn write(&self, path: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
        let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        if !folder.is_dir() {
            self.step(Step::MakeFolder)?;
            fs::create_dir_all(folder)?;
            self.sync_folder(&self.root)?;
        }
        let tmp = self.tmp().join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let written = (|| {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&tmp)?;
            self.step(Step::Write)?;
            file.write_all(bytes)?;
            if durable {
                self.step(Step::Sync)?;
                file.sync_all()?;
            }
            self.step(Step::Rename)?;
            fs::rename(&tmp, path)?;
            if durable { self.sync_folder(folder) } else { Ok(()) }
        })();
        if written.is_err() {
            let _ = fs::remove_file(&tmp);
        }
        written
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.step(Step::SyncFolder)?;
        fs::File::open(folder)?.sync_all()
    }

    /// Deletes a blob, then its outboard: a blob without an outboard is whole, and an outboard
    /// without a blob is nothing.
    pub(super) fn remove(&self, id: BlobId) -> io::Result<()> {
        self.step(Step::Remove)?;
        absent_is_fine(fs::remove_file(self.blob_path(id)))?;
        self.remove_outboard(id)
    }

    pub(super) fn remove_outboard(&self, id: BlobId) -> io::Result<()> {
        self.step(Step::Remove)?;
        absent_is_fine(fs::remove_file(self.outboard_path(id)))
    }

    /// Reads a blob of `len` bytes whole and verifies it.
    pub(super) fn read(&self, id: BlobId, len: u32) -> Result<Bytes, ReadError> {
        let file = self.open_file(id, len)?;
        let bytes = self.read_all(&file, id, len)?;
        if BlobId::of(&bytes) != id {
            return Err(self.put_aside(id, &file, Damage::Hash));
        }
        Ok(bytes)
    }

    /// Opens a blob of `len` bytes, with its outboard. An outboard that is missing or damaged is
    /// made again, from the whole blob, which is then verified. So is a blob of one group, which has
    /// none: who opens it is not told later that it is damaged.
    pub(super) fn open(
        self: Arc<Self>,
        id: BlobId,
        len: u32,
        disk: super::Disk,
        place: &'static str,
    ) -> Result<Stored, ReadError> {
        let file = self.open_file(id, len)?;
        let outboard = match self.kept_outboard(id, len) {
            Some(outboard) => outboard,
            None => {
                let bytes = self.read_all(&file, id, len)?;
                match Outboard::of(&bytes).filter(|made| made.root() == id) {
                    Some(outboard) => {
                        self.put_outboard(id, &outboard);
                        outboard
                    }
                    None => return Err(self.put_aside(id, &file, Damage::Hash)),
                }
            }
        };
        Ok(Stored::new(id, len, file, outboard, self, disk, place))
    }

    fn kept_outboard(&self, id: BlobId, len: u32) -> Option<Outboard> {
        let expected = nodes_len(len);
        if expected == 0 {
            return None;
        }
        self.step(Step::Read).ok()?;
        let mut nodes = Vec::with_capacity(usize::try_from(expected).ok()?);
        let file = fs::File::open(self.outboard_path(id)).ok()?;
        file.take(u64::from(expected) + 1).read_to_end(&mut nodes).ok()?;
        Outboard::checked(id, len, nodes.into())
    }

    fn open_file(&self, id: BlobId, len: u32) -> Result<fs::File, ReadError> {
        self.step(Step::Read)?;
        let file = fs::File::open(self.blob_path(id)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ReadError::Missing,
            _ => ReadError::Io(error),
        })?;
        let metadata = file.metadata()?;
        if metadata.len() != u64::from(len) {
            let damage = Damage::Length { expected: len, found: metadata.len() };
            return Err(self.put_aside(id, &file, damage));
        }
        self.touch(&file, &metadata);
        Ok(file)
    }

    fn read_all(&self, file: &fs::File, id: BlobId, len: u32) -> Result<Bytes, ReadError> {
        let mut bytes = vec![0; len as usize];
        self.read_at(file, &mut bytes, 0).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                self.put_aside(id, file, Damage::Length { expected: len, found: 0 })
            }
            _ => error.into(),
        })?;
        Ok(Bytes::from(bytes))
    }

    /// Fills `bytes` from what stands at `offset` in a file.
    pub(super) fn read_at(&self, file: &fs::File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.step(Step::Read)?;
        std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
    }

    /// Best effort: a wrong order of use after a restart costs a few more misses, nothing else.
    fn touch(&self, file: &fs::File, metadata: &fs::Metadata) {
        let now = SystemTime::now();
        let age = metadata.modified().ok().and_then(|modified| now.duration_since(modified).ok());
        if age.is_some_and(|age| age >= self.touch_after) {
            let _ = file.set_modified(now);
        }
    }

    /// Takes a damaged file out of the way, into the quarantine while there is room. A file that
    /// was written anew under the name since `file` was opened is left where it is.
    pub(super) fn put_aside(&self, id: BlobId, file: &fs::File, damage: Damage) -> ReadError {
        let path = self.blob_path(id);
        let fate = match self.take_away(id, &path, file) {
            Ok(fate) => fate,
            Err(error) => return ReadError::Io(error),
        };
        tracing::warn!("Damaged file {}: {damage}; {fate}", path.display());
        ReadError::Corrupt(damage)
    }

    fn take_away(&self, id: BlobId, path: &Path, file: &fs::File) -> io::Result<&'static str> {
        let named = match fs::symlink_metadata(path) {
            Ok(named) => named,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok("already gone"),
            Err(error) => return Err(error),
        };
        let opened = file.metadata()?;
        if (named.dev(), named.ino()) != (opened.dev(), opened.ino()) {
            return Ok("already replaced");
        }
        let quarantine = self.root.join(QUARANTINE);
        let moved = (|| {
            fs::create_dir_all(&quarantine)?;
            if fs::read_dir(&quarantine)?.count() >= self.quarantine {
                return Ok(false);
            }
            self.step(Step::Rename)?;
            fs::rename(path, quarantine.join(id.to_string()))?;
            Ok::<_, io::Error>(true)
        })();
        match moved {
            Ok(true) => {
                let _ = self.remove_outboard(id);
                Ok("moved to the quarantine folder")
            }
            Ok(false) | Err(_) => self.remove(id).map(|()| "deleted"),
        }
    }

    /// A small file beside the blobs, at most `max_len` bytes of it; `None` when there is none.
    pub(super) fn read_beside(&self, name: &str, max_len: u64) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        match fs::File::open(self.root.join(name)) {
            Ok(file) => file.take(max_len).read_to_end(&mut bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(bytes))
    }

    pub(super) fn list_beside(
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

    /// Bytes that are still free to this user on the folder's file system.
    pub(super) fn free_space(&self) -> io::Result<u64> {
        let space = rustix::fs::statvfs(&self.root)?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }
}

/// `ROOT/ab/abcd...`.
fn two_levels(root: &Path, id: BlobId) -> PathBuf {
    let name = id.to_string();
    let folder: String = name.chars().take(2).collect();
    root.join(folder).join(name)
}

fn is_prefix(name: &str) -> bool {
    name.len() == 2 && is_lower_hex(name)
}

fn is_lower_hex(name: &str) -> bool {
    name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The blob that a file of a blob folder is named for.
fn id_of(name: &str, prefix: &str) -> Option<BlobId> {
    let mut id = [0; 32];
    if !name.starts_with(prefix) || !is_lower_hex(name) {
        return None;
    }
    hex::decode_to_slice(name, &mut id).ok()?;
    Some(BlobId(id))
}

/// What a file of a blob folder is, if it can be a blob at all.
fn listed(file: &fs::DirEntry, id: BlobId) -> io::Result<Option<Listed>> {
    let metadata = match file.metadata() {
        Ok(metadata) if metadata.is_file() => metadata,
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    Ok(match u32::try_from(metadata.len()) {
        Ok(len @ 1..=MAX_BLOB_LEN) => Some(Listed { id, len, used: Some(used) }),
        // Cut to nothing by a file system that lost the data, or no blob of ours.
        _ => {
            tracing::warn!("Ignoring {}: {} bytes", file.path().display(), metadata.len());
            None
        }
    })
}

pub(super) fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Groups that are read at a time: 16, which is 256 KiB.
pub(super) const PIECE_GROUPS: u32 = 256 * 1024 / GROUP_LEN;
