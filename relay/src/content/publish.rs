//! Publishing: a file becomes shards, a manifest and an entry in the origin's list, in this order,
//! so that whatever interrupts it, no list ever names a content that is not there.

use super::{BlobId, ContentId, Manifest, ManifestError, Progress, ShardId, Stage};
use super::{MAX_BLOB_LEN, manifest::MAX_SHARDS, manifest::Part, media_type_of};
use crate::store::{Content, Disk, Origin, OriginError};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::sync::watch;

/// Settings of publishing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Length of a shard in bytes, 64 KiB to 16 MiB; the last of a content may be shorter.
    /// Default 1 MiB.
    pub shard_len: u32,
    /// Shards of one publish that are read, hashed and written at a time, each holding its bytes.
    /// Default 4: 4 MiB at the default length, 64 MiB at the largest.
    pub parallel: usize,
    /// Publishes at a time; as many again wait, further ones are refused. Default 2.
    pub publishes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { shard_len: 1024 * 1024, parallel: 4, publishes: 2 }
    }
}

/// What is to be published.
#[derive(Clone, Debug)]
pub struct Request {
    /// The file. Neither it nor what it is replaced by while it is opened may be a link.
    pub path: PathBuf,
    /// Its media type; by the ending of its name if `None`.
    pub media_type: Option<String>,
}

/// What was published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Published {
    /// The content's name.
    pub content_id: ContentId,
    /// Its length in bytes.
    pub total_len: u64,
    /// The number of its shards.
    pub shards: u32,
    /// Its media type.
    pub media_type: String,
}

/// Why nothing was published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The file cannot be opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is a folder, a link or a device.
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// It has no bytes.
    #[error("{} is empty: there is nothing to publish", .0.display())]
    Empty(PathBuf),
    /// It has more bytes than a manifest can list.
    #[error("the file has {len} bytes, at {shard_len} bytes a shard {max} is the most")]
    TooLong {
        /// Its length.
        len: u64,
        /// The configured length of a shard.
        shard_len: u32,
        /// The longest content at that length.
        max: u64,
    },
    /// It became shorter meanwhile, or the disk failed.
    #[error("cannot read the file: {0}")]
    Read(io::Error),
    /// Its media type is not one.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The origin did not take it.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// This node keeps no content.
    #[error("this node is no super-node: start it with --super-node to publish")]
    NoOrigin,
    /// As many as allowed are going on and waiting.
    #[error("too many files are being published; try again later")]
    Busy,
    /// The service stopped meanwhile. What was stored is found again by the next attempt.
    #[error("the service stopped before the file was published; publish it again")]
    Stopped,
}

/// Publishes a file into `origin`, and tells `progress` about it. The shards' ids come back besides,
/// in order, for who provides them to the network.
///
/// # Errors
/// See [`PublishError`].
pub async fn publish(
    request: Request,
    config: &Config,
    origin: &Origin,
    disk: &Disk,
    progress: &watch::Sender<Progress>,
) -> Result<(Published, Vec<ShardId>), PublishError> {
    let path = request.path.clone();
    let opened = disk.run(move || open(&path)).await.map_err(PublishError::Read)?;
    let (file, total) = opened?;
    let file = Arc::new(file);
    let (shard_len, count) = plan(total, config.shard_len)?;
    let name = file_name(&request.path);
    let media_type = request.media_type.unwrap_or_else(|| media_type_of(&name).to_owned());
    // Refuse a bad media type before the work and not after it.
    Manifest::new(media_type.clone(), vec![Part { id: ShardId(BlobId([0; 32])), len: 1 }])?;

    progress.send_replace(Progress { stage: Stage::Storing, done: 0, total });
    let parts: Vec<Part> = stream::iter(0..count)
        .map(|index| {
            let offset = index * u64::from(shard_len);
            let len = (total - offset).min(u64::from(shard_len));
            store_shard(Arc::clone(&file), offset, len, origin, disk)
        })
        .buffered(config.parallel.max(1))
        .inspect_ok(|part| progress.send_modify(|progress| progress.done += u64::from(part.len)))
        .try_collect()
        .await?;

    progress.send_modify(|progress| progress.stage = Stage::Finishing);
    let shards: Vec<ShardId> = parts.iter().map(|part| part.id).collect();
    let manifest = Manifest::new(media_type, parts)?;
    let content_id = manifest.id();
    origin.put(content_id.into(), Bytes::from(manifest.encode())).await?;
    let published = Published {
        content_id,
        total_len: manifest.total_len(),
        shards: u32::try_from(shards.len()).unwrap_or(u32::MAX),
        media_type: manifest.media_type().to_owned(),
    };
    origin
        .add_content(Content {
            content_id,
            name,
            media_type: published.media_type.clone(),
            total_len: published.total_len,
            shards: published.shards,
            published_ms: now_ms(),
        })
        .await?;
    progress.send_modify(|progress| progress.stage = Stage::Done);
    Ok((published, shards))
}

/// Length and number of the shards of a file.
fn plan(total: u64, shard_len: u32) -> Result<(u32, u64), PublishError> {
    let shard_len = shard_len.clamp(1, MAX_BLOB_LEN);
    let most = u64::try_from(MAX_SHARDS).unwrap_or(u64::MAX);
    let count = total.div_ceil(u64::from(shard_len));
    if count > most {
        let max = most * u64::from(shard_len);
        return Err(PublishError::TooLong { len: total, shard_len, max });
    }
    Ok((shard_len, count))
}

async fn store_shard(
    file: Arc<fs::File>,
    offset: u64,
    len: u64,
    origin: &Origin,
    disk: &Disk,
) -> Result<Part, PublishError> {
    let read = move || {
        let len = u32::try_from(len).map_err(io::Error::other)?;
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(&mut bytes, offset)?;
        Ok((BlobId::of(&bytes), bytes, len))
    };
    let (id, bytes, len) =
        disk.run(read).await.and_then(|read| read).map_err(PublishError::Read)?;
    origin.put(id, Bytes::from(bytes)).await?;
    Ok(Part { id: ShardId(id), len })
}

/// Opens a regular file that has bytes, and gives its length.
fn open(path: &Path) -> Result<(fs::File, u64), PublishError> {
    let failed = |source| PublishError::Open { path: path.to_owned(), source };
    let seen = fs::symlink_metadata(path).map_err(failed)?;
    if !seen.is_file() {
        return Err(PublishError::NotAFile(path.to_owned()));
    }
    let file = fs::File::open(path).map_err(failed)?;
    let opened = file.metadata().map_err(failed)?;
    // Somebody who may write to the folder could have put a link there in between.
    if (seen.dev(), seen.ino()) != (opened.dev(), opened.ino()) {
        return Err(PublishError::NotAFile(path.to_owned()));
    }
    match opened.len() {
        0 => Err(PublishError::Empty(path.to_owned())),
        len => Ok((file, len)),
    }
}

/// The last part of the path, cut to what a list keeps.
fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.char_indices()
        .take_while(|(at, c)| at + c.len_utf8() <= crate::store::MAX_NAME)
        .map(|(_, c)| c)
        .collect()
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{metrics::Metrics, store, store::Files, upstream::Record};

    struct World {
        root: tempfile::TempDir,
        disk: Disk,
        origin: Origin,
        progress: watch::Sender<Progress>,
    }

    impl World {
        async fn new() -> (Self, store::FolderLock) {
            let root = tempfile::tempdir().unwrap();
            let metrics = Metrics::unregistered();
            let disk = Disk::new(4, metrics.clone());
            let origin = origin(root.path(), &disk);
            let folder_lock = origin.open().await.unwrap();
            let progress = watch::Sender::new(Progress::START);
            (Self { root, disk, origin, progress }, folder_lock)
        }

        fn file(&self, name: &str, bytes: &[u8]) -> Request {
            let path = self.root.path().join(name);
            fs::write(&path, bytes).unwrap();
            Request { path, media_type: None }
        }

        async fn publish(
            &self,
            request: Request,
        ) -> Result<(Published, Vec<ShardId>), PublishError> {
            let config = Config { shard_len: 1000, ..Config::default() };
            publish(request, &config, &self.origin, &self.disk, &self.progress).await
        }
    }

    fn origin(root: &Path, disk: &Disk) -> Origin {
        let config = store::Config::default();
        let files = Files::new(root.join("shards"), &config, disk.clone());
        Origin::new(files, &config)
    }

    #[tokio::test]
    async fn a_file_becomes_shards_a_manifest_and_a_listed_content() {
        let (world, folder_lock) = World::new().await;
        let bytes: Vec<u8> = (0..3500u32).map(|n| n.to_le_bytes()[0]).collect();
        let (published, shards) = world.publish(world.file("film.mp4", &bytes)).await.unwrap();
        assert_eq!((published.total_len, published.shards), (3500, 4));
        assert_eq!(published.media_type, "video/mp4");
        let done = Progress { stage: Stage::Done, done: 3500, total: 3500 };
        assert_eq!(*world.progress.borrow(), done);

        let manifest = world.origin.read(published.content_id.into()).await.unwrap().unwrap();
        let manifest = Manifest::decode(&manifest).unwrap();
        assert_eq!(manifest.shards().iter().map(|part| part.id).collect::<Vec<_>>(), shards);
        let mut joined = Vec::new();
        for shard in &shards {
            joined.extend(world.origin.read((*shard).into()).await.unwrap().unwrap());
        }
        assert_eq!(joined, bytes);

        // The same after a restart, and publishing again changes nothing.
        let before = (world.origin.contents(), world.origin.status());
        assert_eq!(before.0[0].name, "film.mp4");
        let again = world.publish(world.file("film.mp4", &bytes)).await.unwrap();
        assert_eq!(again.0, published);
        drop(folder_lock);
        let reopened = origin(world.root.path(), &world.disk);
        let _folder_lock = reopened.open().await.unwrap();
        assert_eq!(reopened.contents(), world.origin.contents());
        assert_eq!(reopened.status(), before.1);
        let mut held = vec![Record::Content(published.content_id)];
        held.extend(shards.iter().copied().map(Record::Shard));
        held[1..].sort_unstable();
        assert_eq!(reopened.held_after(None, 100), held);
        let mut paged = Vec::new();
        while let [first, rest @ ..] = &*reopened.held_after(paged.last().copied(), 2) {
            paged.push(*first);
            paged.extend(rest);
        }
        assert_eq!(paged, held, "page by page it is the same");
    }

    #[tokio::test]
    async fn what_cannot_be_published_is_refused_with_a_reason() {
        let (world, _lock) = World::new().await;
        let empty = world.publish(world.file("empty", b"")).await.unwrap_err();
        assert!(matches!(empty, PublishError::Empty(_)), "{empty}");
        let folder = Request { path: world.root.path().to_owned(), media_type: None };
        assert!(matches!(world.publish(folder).await, Err(PublishError::NotAFile(_))));
        let absent = Request { path: world.root.path().join("absent"), media_type: None };
        assert!(matches!(world.publish(absent).await, Err(PublishError::Open { .. })));
        let target = world.file("target", b"secret");
        let link = world.root.path().join("link");
        std::os::unix::fs::symlink(&target.path, &link).unwrap();
        let link = Request { path: link, media_type: None };
        assert!(matches!(world.publish(link).await, Err(PublishError::NotAFile(_))));
        let request = Request { media_type: Some("no spaces please".into()), ..target };
        let error = world.publish(request).await.unwrap_err();
        assert!(matches!(error, PublishError::Manifest(ManifestError::MediaType)), "{error}");
        assert_eq!(world.origin.status(), store::OriginStatus::default());
    }

    #[tokio::test]
    async fn a_damaged_shard_is_forgotten_and_published_again() {
        let (world, _lock) = World::new().await;
        let request = world.file("a.bin", b"some bytes");
        let (_, shards) = world.publish(request.clone()).await.unwrap();
        let id = BlobId::from(shards[0]);
        let name = id.to_string();
        let path = world.root.path().join("shards").join(&name[..2]).join(&name);
        fs::write(&path, b"some bytez").unwrap();
        assert_eq!(world.origin.read(id).await.unwrap(), None);
        assert_eq!(world.origin.status().blobs, 1);
        world.publish(request).await.unwrap();
        assert_eq!(&world.origin.read(id).await.unwrap().unwrap()[..], b"some bytes");
    }

    #[tokio::test]
    async fn a_content_without_its_manifest_is_not_listed_after_a_restart() {
        let (world, folder_lock) = World::new().await;
        let (published, _) = world.publish(world.file("a.bin", b"some bytes")).await.unwrap();
        drop(folder_lock);
        let name = published.content_id.to_string();
        fs::remove_file(world.root.path().join("shards").join(&name[..2]).join(&name)).unwrap();
        let reopened = origin(world.root.path(), &world.disk);
        let _folder_lock = reopened.open().await.unwrap();
        assert_eq!(reopened.contents(), []);
    }

    #[test]
    fn a_file_too_long_for_a_manifest_is_refused() {
        let max = u64::try_from(MAX_SHARDS).unwrap() * 1000;
        assert!(matches!(plan(max, 1000), Ok((1000, count)) if count == MAX_SHARDS as u64));
        assert!(matches!(plan(max + 1, 1000), Err(PublishError::TooLong { .. })));
    }

    #[test]
    fn long_names_are_cut_at_a_character() {
        let name = file_name(Path::new(&format!("/tmp/{}", "é".repeat(200))));
        assert_eq!(name, "é".repeat(127));
    }
}
