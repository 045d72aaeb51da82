//! A whole content into a file.
//!
//! Shards are fetched a few at a time, verified, and written at their offsets into `OUT.part`; the
//! file gets its name when all are there and synced. A download that was interrupted hashes what
//! `OUT.part` has and fetches only the rest, so it never needs a list of its own that could lie.

use super::{ViewError, Viewer};
use crate::{
    content::{BlobId, ContentId, Manifest, Progress, Stage, manifest::Span},
    wire::Source,
};
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{sync::watch, task::spawn_blocking};

/// What a download came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Downloaded {
    /// Bytes of the content.
    pub total_len: u64,
    /// Media type of the content.
    pub media_type: String,
    /// Shards of the content.
    pub shards: usize,
    /// Shards that an earlier run had left.
    pub resumed: usize,
    /// Where the service had the manifest and the fetched shards from.
    pub sources: Tally,
}

/// Blobs by where the service had them from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// From its memory.
    pub memory: usize,
    /// From its disk.
    pub disk: usize,
    /// From another node, for this download.
    pub upstream: usize,
}

impl Tally {
    fn add(&mut self, source: Option<Source>) {
        match source {
            Some(Source::Memory) => self.memory += 1,
            Some(Source::Disk) => self.disk += 1,
            Some(Source::Upstream) => self.upstream += 1,
            None => {}
        }
    }
}

/// Why a content is not in its file. What was fetched is kept in `OUT.part` for the next run.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// A blob could not be fetched.
    #[error("cannot fetch {what} {id}: {source}")]
    Fetch {
        /// Which kind.
        what: &'static str,
        /// Which.
        id: BlobId,
        /// Why not.
        source: ViewError,
    },
    /// A shard is another than the manifest says.
    #[error("the manifest lies: shard {id} is {found} bytes long instead of {claimed}")]
    ShardLen {
        /// Which.
        id: BlobId,
        /// As the manifest says.
        claimed: u32,
        /// As it is.
        found: usize,
    },
    /// The file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another download writes the same file.
    #[error("another download is writing {}", .0.display())]
    InUse(PathBuf),
}

impl Viewer {
    /// Fetches a whole content into the file `out`, byte for byte what was published, and tells
    /// `progress` about it. An older file of that name is replaced at the end.
    ///
    /// # Errors
    /// See [`DownloadError`].
    pub async fn download(
        &self,
        id: ContentId,
        out: &Path,
        progress: &watch::Sender<Progress>,
    ) -> Result<Downloaded, DownloadError> {
        let (manifest, source) = self.manifest(id).await.map_err(|source| {
            DownloadError::Fetch { what: "the manifest", id: id.into(), source }
        })?;
        let mut sources = Tally::default();
        sources.add(source);
        let total = manifest.total_len();
        let part = Part::open(out, total).await?;

        progress.send_replace(Progress { stage: Stage::Checking, done: 0, total });
        let missing = part.missing(&manifest, progress).await?;
        let resumed = manifest.shards().len() - missing.len();

        progress.send_modify(|progress| progress.stage = Stage::Fetching);
        let fetched = stream::iter(missing)
            .map(|span| self.fetch_span(span, &part))
            .buffer_unordered(self.config.parallel.max(1))
            .inspect_ok(|(len, _)| progress.send_modify(|progress| progress.done += len));
        let sources = fetched
            .try_fold(sources, async |mut sources, (_, source)| {
                sources.add(source);
                Ok(sources)
            })
            .await?;

        progress.send_modify(|progress| progress.stage = Stage::Finishing);
        part.finish(out).await?;
        progress.send_modify(|progress| progress.stage = Stage::Done);
        let media_type = manifest.media_type().to_owned();
        let shards = manifest.shards().len();
        Ok(Downloaded { total_len: total, media_type, shards, resumed, sources })
    }

    async fn fetch_span(
        &self,
        span: Span,
        part: &Part,
    ) -> Result<(u64, Option<Source>), DownloadError> {
        let id = BlobId::from(span.part.id);
        let (bytes, source) = self.fetch(id).await.map_err(|source| DownloadError::Fetch {
            what: "shard",
            id,
            source,
        })?;
        let claimed = span.part.len;
        if u32::try_from(bytes.len()) != Ok(claimed) {
            return Err(DownloadError::ShardLen { id, claimed, found: bytes.len() });
        }
        part.run(move |file| file.write_all_at(&bytes, span.offset)).await?;
        Ok((u64::from(claimed), source))
    }
}

/// The file while it is incomplete. Locked against other downloads as long as it is open.
struct Part {
    path: PathBuf,
    file: Arc<fs::File>,
}

impl Part {
    async fn open(out: &Path, total: u64) -> Result<Self, DownloadError> {
        let mut name = OsString::from(out.as_os_str());
        name.push(".part");
        let path = PathBuf::from(name);
        let target = path.clone();
        let opened = spawn_blocking(move || -> Result<_, fs::TryLockError> {
            let mut options = fs::OpenOptions::new();
            let file = options
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&target)
                .map_err(fs::TryLockError::Error)?;
            file.try_lock()?;
            file.set_len(total).map_err(fs::TryLockError::Error)?;
            Ok(file)
        });
        match opened.await {
            Ok(Ok(file)) => Ok(Self { path, file: Arc::new(file) }),
            Ok(Err(fs::TryLockError::WouldBlock)) => Err(DownloadError::InUse(path)),
            Ok(Err(fs::TryLockError::Error(source))) => Err(DownloadError::Write { path, source }),
            Err(error) => Err(DownloadError::Write { path, source: io::Error::other(error) }),
        }
    }

    /// The shards that the file does not have yet.
    async fn missing(
        &self,
        manifest: &Manifest,
        progress: &watch::Sender<Progress>,
    ) -> Result<Vec<Span>, DownloadError> {
        let mut missing = Vec::new();
        for span in manifest.spans() {
            let there = self
                .run(move |file| {
                    let mut bytes = vec![0; span.part.len as usize];
                    file.read_exact_at(&mut bytes, span.offset)?;
                    Ok(BlobId::of(&bytes) == span.part.id.into())
                })
                .await?;
            if there {
                let len = u64::from(span.part.len);
                progress.send_modify(|progress| progress.done += len);
            } else {
                missing.push(span);
            }
        }
        Ok(missing)
    }

    /// Makes the file durable and gives it its name.
    async fn finish(&self, out: &Path) -> Result<(), DownloadError> {
        let from = self.path.clone();
        let to = out.to_owned();
        self.run(move |file| {
            file.sync_all()?;
            fs::rename(&from, &to)?;
            match to.parent().filter(|folder| !folder.as_os_str().is_empty()) {
                Some(folder) => fs::File::open(folder)?.sync_all(),
                None => fs::File::open(".")?.sync_all(),
            }
        })
        .await
    }

    /// Works on the file on a blocking thread.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&fs::File) -> io::Result<T> + Send + 'static,
    ) -> Result<T, DownloadError> {
        let file = Arc::clone(&self.file);
        let done = spawn_blocking(move || work(&file)).await;
        done.map_err(io::Error::other)
            .and_then(|done| done)
            .map_err(|source| DownloadError::Write { path: self.path.clone(), source })
    }
}
