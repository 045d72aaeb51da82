//! The directory as the shard service sees it: who holds a blob, and what we say we hold.

use crate::{
    content::{BlobId, ContentId, ShardId},
    region::Region,
};
use futures::{future::BoxFuture, stream::BoxStream};
use libp2p::PeerId;
use std::net::SocketAddr;

/// A node that may hold a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The identity that its connection must prove.
    pub peer: PeerId,
    /// Where its shard service listens, UDP; none where it is reached over the overlay alone.
    pub addrs: Vec<SocketAddr>,
    /// The seeder component of its reputation, 0..=1000; `None` for a peer that nobody answers for.
    pub seeder_score: Option<u16>,
    /// How busy it says that it is, 0 not at all to 255; `None` where it did not say.
    pub load: Option<u8>,
}

/// A super-node that says in which region it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuperNode {
    /// Who and where.
    pub source: Source,
    /// Its region, by its signed service record.
    pub region: Region,
}

/// What is announced: the two kinds have different keys in the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Record {
    /// This node holds a shard.
    Shard(ShardId),
    /// This node holds a content, manifest and all.
    Content(ContentId),
}

/// How long a record is to be true, which decides what the directory gives up when it is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// The origin keeps it for good.
    Kept,
    /// The cache holds it while it pays; of these the one told longest ago is given up first.
    Cached,
}

/// Why the directory could not answer.
#[derive(Debug, thiserror::Error)]
#[error("the directory cannot answer: {reason}")]
pub struct DirectoryError {
    /// Why, in plain words.
    pub reason: String,
}

/// Why the directory did not take a record, or did not give one up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TellError {
    /// It has too much to do this very moment: to be told again soon.
    #[error("the directory has too much to do")]
    Busy,
    /// It carries as many records of [`Class::Kept`] as it may.
    #[error("the directory carries its {0} kept records at most")]
    Full(usize),
    /// It does not run. Once it does, [`Directory::starts`] says so, and it is told everything.
    #[error("the directory is not running")]
    Down,
}

/// The directory of who holds what.
///
/// Calls answer at once: telling the network, at what pace and how often, and telling it again
/// before a record expires, is the directory's own work.
pub trait Directory: Send + Sync + 'static {
    /// Nodes that announced `blob`, as a shard or as a content, with fresh addresses. The order
    /// does not matter. Nobody holding it is an empty list and no error.
    fn sources(&self, blob: BlobId) -> BoxFuture<'_, Result<Vec<Source>, DirectoryError>>;

    /// Super-nodes whose service record names a region, at most `most`: those of `named` whose record
    /// can be had, and others that an account in good standing answers for, since this node takes its
    /// own region from them.
    fn super_nodes(
        &self,
        named: Vec<PeerId>,
        most: usize,
    ) -> BoxFuture<'_, Result<Vec<SuperNode>, DirectoryError>>;

    /// Announces that this node holds something, until told otherwise. One that is announced already
    /// counts as told just now.
    fn provide(&self, record: Record, class: Class) -> BoxFuture<'_, Result<(), TellError>>;

    /// Ends an announcement.
    fn stop_providing(&self, record: Record) -> BoxFuture<'_, Result<(), TellError>>;

    /// Most records of [`Class::Cached`] that it carries; told of more, it gives up others.
    fn max_cached(&self) -> usize;

    /// An item for each start of the directory, which is when it has to be told everything that is
    /// held. Begins with an item if it runs already; starts that nobody has seen yet are one item.
    fn starts(&self) -> BoxStream<'static, ()>;
}

#[cfg(test)]
pub(crate) use fake::Fake;

#[cfg(test)]
mod fake {
    use super::{BlobId, Class, Directory, DirectoryError, Record, Source, SuperNode, TellError};
    use crate::sync::lock;
    use futures::{
        StreamExt,
        future::BoxFuture,
        stream::{self, BoxStream},
    };
    use libp2p::PeerId;
    use std::{
        collections::{BTreeMap, HashMap},
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering::SeqCst},
        },
    };
    use tokio::sync::watch;

    /// A directory in memory.
    #[derive(Default)]
    pub(crate) struct Fake {
        everywhere: Mutex<Vec<Source>>,
        super_nodes: Mutex<Vec<SuperNode>>,
        sources: Mutex<HashMap<BlobId, Vec<Source>>>,
        provided: watch::Sender<BTreeMap<Record, Class>>,
        starts: watch::Sender<()>,
        told: AtomicUsize,
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

        /// Knows of these super-nodes from now on.
        pub(crate) fn set_super_nodes(&self, super_nodes: Vec<SuperNode>) {
            *lock(&self.super_nodes) = super_nodes;
        }

        /// Loses everything that was announced, and starts again.
        pub(crate) fn restart(&self) {
            self.provided.send_modify(BTreeMap::clear);
            self.starts.send_replace(());
        }

        /// What was announced and not ended.
        pub(crate) fn provided(&self) -> watch::Receiver<BTreeMap<Record, Class>> {
            self.provided.subscribe()
        }

        /// How often something was announced, or announced again.
        pub(crate) fn told(&self) -> usize {
            self.told.load(SeqCst)
        }
    }

    impl Directory for Fake {
        fn sources(&self, blob: BlobId) -> BoxFuture<'_, Result<Vec<Source>, DirectoryError>> {
            let mut found = lock(&self.everywhere).clone();
            found.extend(lock(&self.sources).get(&blob).cloned().unwrap_or_default());
            Box::pin(std::future::ready(Ok(found)))
        }

        fn super_nodes(
            &self,
            _: Vec<PeerId>,
            most: usize,
        ) -> BoxFuture<'_, Result<Vec<SuperNode>, DirectoryError>> {
            let known = lock(&self.super_nodes).iter().take(most).cloned().collect();
            Box::pin(std::future::ready(Ok(known)))
        }

        fn provide(&self, record: Record, class: Class) -> BoxFuture<'_, Result<(), TellError>> {
            self.told.fetch_add(1, SeqCst);
            self.provided.send_modify(|provided| {
                provided.insert(record, class);
            });
            Box::pin(std::future::ready(Ok(())))
        }

        fn stop_providing(&self, record: Record) -> BoxFuture<'_, Result<(), TellError>> {
            self.provided.send_modify(|provided| {
                provided.remove(&record);
            });
            Box::pin(std::future::ready(Ok(())))
        }

        fn max_cached(&self) -> usize {
            100
        }

        fn starts(&self) -> BoxStream<'static, ()> {
            let mut starts = self.starts.subscribe();
            starts.mark_changed();
            let next = |mut starts: watch::Receiver<()>| async move {
                starts.changed().await.ok()?;
                Some(((), starts))
            };
            stream::unfold(starts, next).boxed()
        }
    }
}
