//! The directory as the shard service sees it: who holds a blob, and what we say we hold.

use crate::content::{BlobId, ContentId, ShardId};
use futures::future::BoxFuture;
use libp2p::PeerId;
use std::net::SocketAddr;

/// A node that may hold a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The identity that its connection must prove.
    pub peer: PeerId,
    /// Where its shard service listens, UDP.
    pub addrs: Vec<SocketAddr>,
    /// The seeder component of its reputation, 0..=1000; `None` for a peer that nobody answers for.
    pub seeder_score: Option<u16>,
}

/// What is announced: the two kinds have different keys in the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Record {
    /// This node holds a shard.
    Shard(ShardId),
    /// This node holds a content, manifest and all.
    Content(ContentId),
}

impl Record {
    /// The blob that it speaks of: a content's is its manifest.
    pub(crate) fn blob(self) -> BlobId {
        match self {
            Self::Shard(id) => id.into(),
            Self::Content(id) => id.into(),
        }
    }
}

/// Why the directory could not answer.
#[derive(Debug, thiserror::Error)]
#[error("the directory cannot answer: {reason}")]
pub struct DirectoryError {
    /// Why, in plain words.
    pub reason: String,
}

/// The directory of who holds what.
///
/// It owns its pace: a call may wait for its turn, and repeating an announcement until the network
/// has it, and again before it expires, is the directory's own work.
pub trait Directory: Send + Sync + 'static {
    /// Nodes that announced `blob`, as a shard or as a content, with fresh addresses. The order
    /// does not matter. Nobody holding it is an empty list and no error.
    fn sources(&self, blob: BlobId) -> BoxFuture<'_, Result<Vec<Source>, DirectoryError>>;

    /// Announces that this node holds something, until told otherwise.
    fn provide(&self, record: Record) -> BoxFuture<'_, Result<(), DirectoryError>>;

    /// Ends an announcement.
    fn stop_providing(&self, record: Record) -> BoxFuture<'_, Result<(), DirectoryError>>;
}

#[cfg(test)]
pub(crate) use fake::Fake;

#[cfg(test)]
mod fake {
    use super::{BlobId, Directory, DirectoryError, Record, Source};
    use crate::sync::lock;
    use futures::future::BoxFuture;
    use std::{
        collections::{BTreeSet, HashMap},
        sync::Mutex,
    };
    use tokio::sync::watch;

    /// A directory in memory.
    #[derive(Default)]
    pub(crate) struct Fake {
        everywhere: Mutex<Vec<Source>>,
        sources: Mutex<HashMap<BlobId, Vec<Source>>>,
        provided: watch::Sender<BTreeSet<Record>>,
    }

    impl Fake {
        /// `source` holds whatever is asked for.
        pub(crate) fn add_everywhere(&self, source: Source) {
            lock(&self.everywhere).push(source);
        }

        /// `source` holds `blob`.
        pub(crate) fn add(&self, blob: BlobId, source: Source) {
            lock(&self.sources).entry(blob).or_default().push(source);
        }

        /// Loses everything that was announced.
        pub(crate) fn forget(&self) {
            self.provided.send_modify(BTreeSet::clear);
        }

        /// What was announced and not ended.
        pub(crate) fn provided(&self) -> watch::Receiver<BTreeSet<Record>> {
            self.provided.subscribe()
        }
    }

    impl Directory for Fake {
        fn sources(&self, blob: BlobId) -> BoxFuture<'_, Result<Vec<Source>, DirectoryError>> {
            let mut found = lock(&self.everywhere).clone();
            found.extend(lock(&self.sources).get(&blob).cloned().unwrap_or_default());
            Box::pin(std::future::ready(Ok(found)))
        }

        fn provide(&self, record: Record) -> BoxFuture<'_, Result<(), DirectoryError>> {
            self.provided.send_modify(|provided| {
                provided.insert(record);
            });
            Box::pin(std::future::ready(Ok(())))
        }

        fn stop_providing(&self, record: Record) -> BoxFuture<'_, Result<(), DirectoryError>> {
            self.provided.send_modify(|provided| {
                provided.remove(&record);
            });
            Box::pin(std::future::ready(Ok(())))
        }
    }
}
