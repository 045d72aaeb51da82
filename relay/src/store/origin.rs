//! The origin: published content, kept for good.
//!
//! Besides the blobs it keeps one small file for each content, `contents/<ContentId>`, with what a
//! list shows. It is written last of all, so a content that is listed was stored whole; a publish
//! that was interrupted leaves blobs that the next attempt finds again.

use super::{Files, FolderLock, OpenError, ReadError, Stored};
use crate::{
    content::{BlobId, ContentId, Manifest, ShardId},
    sync::lock,
    upstream::Record as Announced,
};
use bytes::Bytes;
use codec::{Decode, DecodeAll, Encode};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    io,
    ops::Bound::{Excluded, Unbounded},
    sync::{Arc, Mutex},
};

const CONTENTS: &str = "contents";

/// The longest name of a content, in bytes.
pub(crate) const MAX_NAME: usize = 255;

/// A description with the longest name and media type is under 512 bytes.
const MAX_RECORD: u64 = 512;

/// The store of a super-node.
pub struct Origin {
    files: Files,
    max_blobs: usize,
    max_contents: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// At most `max_blobs` entries of 36 bytes, 80 MB at the default of a million.
    blobs: BTreeMap<BlobId, u32>,
    bytes: u64,
    /// At most `max_contents` entries, 50 MB at the default of 100,000.
    contents: BTreeMap<ContentId, Record>,
}

/// What `contents/<ContentId>` holds, in SCALE.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
struct Record {
    version: u8,
    name: String,
    media_type: String,
    total_len: u64,
    shards: u32,
    published_ms: u64,
}

impl State {
    fn is_manifest(&self, id: &BlobId) -> bool {
        self.contents.contains_key(&ContentId(*id))
    }
}

/// A content that the origin keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Content {
    /// Its name on the network.
    pub content_id: ContentId,
    /// The name of the file it was published from.
    pub name: String,
    /// Its media type.
    pub media_type: String,
    /// Its length in bytes.
    pub total_len: u64,
    /// The number of its shards.
    pub shards: u32,
    /// When it was published, in milliseconds since 1970.
    pub published_ms: u64,
}

/// How much the origin holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OriginStatus {
    /// Contents published.
    pub contents: usize,
    /// Blobs held, shards and manifests together.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Why the origin did not take something.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// The disk failed or is full.
    #[error("cannot write to the data folder: {0}")]
    Io(#[from] io::Error),
    /// The configured number of blobs is reached.
    #[error("the origin holds its {0} blobs at most; raise store.origin_blobs")]
    TooManyBlobs(usize),
    /// The configured number of contents is reached.
    #[error("the origin holds its {0} contents at most; raise store.origin_contents")]
    TooManyContents(usize),
}

impl Origin {
    /// The origin in `files`. Touches nothing until [`Self::open`].
    pub fn new(files: Files, config: &super::Config) -> Self {
        Self {
            files,
            max_blobs: config.origin_blobs,
            max_contents: config.origin_contents,
            state: Mutex::default(),
        }
    }

    /// Finds what is held. A content whose manifest or shards are missing is named in a warning;
    /// one without its manifest is not listed.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(&self) -> Result<FolderLock, OpenError> {
        let (found, folder_lock) = self.files.open().await?;
        {
            let mut state = lock(&self.state);
            *state = State::default();
            for file in found.iter().take(self.max_blobs) {
                state.bytes += u64::from(file.len);
                state.blobs.insert(file.id, file.len);
            }
        }
        if found.len() > self.max_blobs {
            tracing::warn!(
                "The origin's folder has {} blobs, more than store.origin_blobs = {}: the others \
                 are not served",
                found.len(),
                self.max_blobs
            );
        }
        let records = self.files.list_beside(CONTENTS, MAX_RECORD, self.max_contents).await;
        match records {
            Ok(records) => self.admit_records(records).await,
            Err(error) => tracing::warn!("Cannot list the published contents: {error}"),
        }
        Ok(folder_lock)
    }

    async fn admit_records(&self, records: Vec<(String, Vec<u8>)>) {
        for (name, bytes) in records {
            let Ok(id) = name.parse::<ContentId>() else { continue };
            let Ok(record) = Record::decode_all(&mut bytes.as_slice()) else {
                tracing::warn!("The description of content {id} cannot be read");
                continue;
            };
            let manifest = match self.read(id.into()).await {
                Ok(Some(blob)) => Manifest::decode(&blob),
                Err(error) => {
                    tracing::warn!("Content {id} is not listed: {error}");
                    continue;
                }
                Ok(None) => {
                    tracing::warn!("Content {id} has lost its manifest: publish it again");
                    continue;
                }
            };
            let mut state = lock(&self.state);
            match manifest {
                Ok(manifest) => {
                    let held = |shard: &BlobId| state.blobs.contains_key(shard);
                    let lost =
                        manifest.shards().iter().filter(|part| !held(&part.id.into())).count();
                    if lost > 0 {
                        tracing::warn!("Content {id} has lost {lost} shards: publish it again");
                    }
                    state.contents.insert(id, record);
                }
                Err(error) => tracing::warn!("Content {id} is not listed: {error}"),
            }
        }
    }

    /// Length of a blob that is held.
    pub fn len_of(&self, id: BlobId) -> Option<u32> {
        lock(&self.state).blobs.get(&id).copied()
    }

    /// Reads a blob, verified. `None` when it is not held, or no longer is: a damaged one is put
    /// aside and forgotten.
    ///
    /// # Errors
    /// When the disk failed: it is held, and nobody can say whether it is sound.
    pub async fn read(&self, id: BlobId) -> io::Result<Option<Bytes>> {
        let Some(stored) = self.stored(id).await? else { return Ok(None) };
        let read = stored.whole().await;
        self.looked(id, read)
    }

    /// Opens a blob, to be read and verified group by group. `None` when it is not held, or no
    /// longer is.
    ///
    /// # Errors
    /// When the disk failed.
    pub(crate) async fn stored(&self, id: BlobId) -> io::Result<Option<Arc<Stored>>> {
        let Some(len) = self.len_of(id) else { return Ok(None) };
        let opened = self.files.stored(id, len).await;
        self.looked(id, opened)
    }

    /// What is not there, or was put aside, is forgotten.
    fn looked<T>(&self, id: BlobId, result: Result<T, ReadError>) -> io::Result<Option<T>> {
        match result {
            Ok(found) => Ok(Some(found)),
            Err(ReadError::Io(error)) => Err(error),
            Err(error @ (ReadError::Missing | ReadError::Corrupt(_))) => {
                let mut state = lock(&self.state);
                if let Some(len) = state.blobs.remove(&id) {
                    state.bytes = state.bytes.saturating_sub(u64::from(len));
                }
                tracing::warn!("The origin has lost {id}: {error}; publish its content again");
                Ok(None)
            }
        }
    }

    /// Stores a blob for good, if it is not held already and sound.
    ///
    /// # Errors
    /// When the disk fails or the bound is reached.
    pub async fn put(&self, id: BlobId, bytes: Bytes) -> Result<(), OriginError> {
        // An interrupted or repeated publish finds most of its shards here. Reading one back
        // costs less than writing it, and finds out if it has gone bad meanwhile.
        // What cannot be read is written anew.
        if matches!(self.read(id).await, Ok(Some(_))) {
            return Ok(());
        }
        if lock(&self.state).blobs.len() >= self.max_blobs {
            return Err(OriginError::TooManyBlobs(self.max_blobs));
        }
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.files.put(id, bytes, None).await?;
        let mut state = lock(&self.state);
        if state.blobs.insert(id, len).is_none() {
            state.bytes += u64::from(len);
        }
        Ok(())
    }

    /// Lists a content whose blobs are all stored. The last step of a publish.
    ///
    /// # Errors
    /// When the disk fails or the bound is reached.
    pub async fn add_content(&self, content: Content) -> Result<(), OriginError> {
        let id = content.content_id;
        {
            let state = lock(&self.state);
            if state.contents.len() >= self.max_contents && !state.contents.contains_key(&id) {
                return Err(OriginError::TooManyContents(self.max_contents));
            }
        }
        let record = Record {
            version: 1,
            name: content.name,
            media_type: content.media_type,
            total_len: content.total_len,
            shards: content.shards,
            published_ms: content.published_ms,
        };
        self.files.put_beside(format!("{CONTENTS}/{id}"), record.encode()).await?;
        lock(&self.state).contents.insert(id, record);
        Ok(())
    }

    /// The contents, in the order of their ids.
    pub fn contents(&self) -> Vec<Content> {
        let state = lock(&self.state);
        let content = |(id, record): (&ContentId, &Record)| Content {
            content_id: *id,
            name: record.name.clone(),
            media_type: record.media_type.clone(),
            total_len: record.total_len,
            shards: record.shards,
            published_ms: record.published_ms,
        };
        state.contents.iter().map(content).collect()
    }

    /// Whether a content is held, as far as its manifest goes.
    pub(crate) fn holds_content(&self, id: ContentId) -> bool {
        let state = lock(&self.state);
        state.contents.contains_key(&id) && state.blobs.contains_key(&id.into())
    }

    /// Whether a blob is held that is no content's manifest.
    pub(crate) fn holds_shard(&self, id: ShardId) -> bool {
        let state = lock(&self.state);
        state.blobs.contains_key(&id.into()) && !state.is_manifest(&id.into())
    }

    /// What is held, the contents first, then the blobs that are no content's manifest, each in the
    /// order of ids: those after `after`, at most `limit`.
    pub(crate) fn held_after(&self, after: Option<Announced>, limit: usize) -> Vec<Announced> {
        let state = lock(&self.state);
        let (content, shard) = match after {
            None => (Some(Unbounded), Unbounded),
            Some(Announced::Content(id)) => (Some(Excluded(id)), Unbounded),
            Some(Announced::Shard(id)) => (None, Excluded(BlobId::from(id))),
        };
        let contents = content.map(|after| state.contents.range((after, Unbounded)));
        let contents = contents.into_iter().flatten().map(|(id, _)| *id);
        let blobs = state.blobs.range((shard, Unbounded)).map(|(id, _)| *id);
        let held = |id: &ContentId| state.blobs.contains_key(&BlobId::from(*id));
        let shards = blobs.filter(|id| !state.is_manifest(id)).map(ShardId);
        let contents = contents.filter(held).map(Announced::Content);
        contents.chain(shards.map(Announced::Shard)).take(limit).collect()
    }

    /// How much is held.
    pub fn status(&self) -> OriginStatus {
        let state = lock(&self.state);
        OriginStatus {
            contents: state.contents.len(),
            blobs: state.blobs.len(),
            bytes: state.bytes,
        }
    }
}
