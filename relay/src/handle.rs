//! What the rest of the node holds of a running shard service.

use crate::{
    announce::Announcer,
    cache::{Cache, CacheStatus, Explanation, PinError},
    content::{
        BlobId, Progress, ShardId,
        publish::{self, PublishError, Published},
    },
    fill::Fills,
    metrics::Metrics,
    region::{self, Own, Region},
    standing::Others,
    store::{Content, Origin, OriginStatus},
    upstream::{Record, SourceView, Upstream},
    warm::{Announced, Warmer},
};
use libp2p::{Multiaddr, PeerId};
use serde::Serialize;
use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// A shard service. Cloning gives another handle to the same one.
#[derive(Clone)]
pub struct Relay {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) us: PeerId,
    pub(crate) origin: Option<Arc<Origin>>,
    pub(crate) cache: Option<Arc<Cache>>,
    pub(crate) fills: Fills,
    /// Told of what is purged; `None` where the directory is not told of the cache.
    pub(crate) announcer: Option<Announcer>,
    pub(crate) metrics: Metrics,
    pub(crate) max_connections: u32,
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) publishes: mpsc::Sender<Publish>,
    pub(crate) others: Others,
    pub(crate) own: Own,
    /// `None` where nothing is cached.
    pub(crate) warmer: Option<Warmer>,
    /// Set when a relay listens.
    pub(crate) upstream: Arc<OnceLock<Arc<Upstream>>>,
    /// Whether somebody explains sources just now, each time a question to the directory.
    pub(crate) explaining: tokio::sync::Mutex<()>,
    /// Told to drain before the node stops.
    pub(crate) drain: CancellationToken,
}

/// A publish that was asked for.
pub(crate) struct Publish {
    pub(crate) request: publish::Request,
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) reply: oneshot::Sender<Result<Published, PublishError>>,
}

/// Where the service is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "phase")]
pub enum Phase {
    /// Not listening yet.
    Starting,
    /// Listening and answering.
    Serving {
        /// Where, with the real port.
        listen_addr: SocketAddr,
    },
    /// Going down: what is in flight is finished.
    Draining,
    /// Drained as [`Relay::drain`] asked: nobody is served, and the node can be stopped.
    Drained,
    /// Gone.
    Stopped {
        /// Why, if it was not told to.
        reason: Option<String>,
    },
}

/// The service has stopped before it was ready.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shard service has stopped: {reason}")]
pub struct NotReady {
    /// Why, in plain words.
    pub reason: String,
}

/// How the service is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    /// Where it is in its life.
    #[serde(flatten)]
    pub phase: Phase,
    /// The identity that its connections prove.
    pub peer_id: String,
    /// Connections now.
    pub viewers: u64,
    /// Bytes of bodies served since the program's start.
    pub bytes_served: u64,
    /// What it keeps for good; `None` when it is no super-node.
    pub origin: Option<OriginStatus>,
    /// What it caches; `None` when it is no relay.
    pub relay: Option<RelayStatus>,
}

/// How the relay is. Counts are since the program's start.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RelayStatus {
    /// How full the cache is.
    pub cache: CacheStatus,
    /// Requests answered from the cache.
    pub hits: u64,
    /// Requests that the cache could not answer.
    pub misses: u64,
    /// Blobs evicted.
    pub evictions: u64,
    /// Blobs asked of other nodes.
    pub upstream_fetches: u64,
    /// Fills going on.
    pub fills_in_flight: usize,
    /// Where it is.
    pub region: region::Status,
    /// What came of fetching ahead.
    pub prefetch: PrefetchStatus,
}

/// What came of fetching what nobody had asked for yet. Counts are since the program's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PrefetchStatus {
    /// Blobs whose fetch was begun because they were announced.
    pub announced: u64,
    /// Blobs whose fetch was begun because what stands before them was read.
    pub ahead: u64,
    /// Of these, those that were read then.
    pub used: u64,
    /// Those that were not, and count as wasted.
    pub wasted: u64,
    /// Bytes of those of which it is not known yet.
    pub unread_bytes: u64,
}

impl Relay {
    /// The identity that its connections prove.
    pub fn peer_id(&self) -> PeerId {
        self.shared.us
    }

    /// Where the service is in its life, now and as it changes.
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.shared.phase.clone()
    }

    /// Waits until the service listens, and says where.
    ///
    /// # Errors
    /// When it stopped instead.
    pub async fn ready(&self) -> Result<SocketAddr, NotReady> {
        let mut phase = self.shared.phase.clone();
        let settled = phase.wait_for(|phase| *phase != Phase::Starting).await;
        let stopped = |reason: &str| NotReady { reason: reason.to_owned() };
        match settled.as_deref() {
            Ok(Phase::Serving { listen_addr }) => Ok(*listen_addr),
            Ok(Phase::Stopped { reason: Some(reason) }) => Err(stopped(reason)),
            Ok(_) => Err(stopped("it was told to")),
            Err(_) => Err(stopped("it failed")),
        }
    }

    /// Where it listens, with the real port; `None` while it does not.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &*self.shared.phase.borrow() {
            Phase::Serving { listen_addr } => Some(*listen_addr),
            _ => None,
        }
    }

    /// How the service is. Cheap: nothing is asked of the disk or the network.
    pub fn status(&self) -> Status {
        let Shared { origin, cache, fills, metrics, own, .. } = &*self.shared;
        let started = |cause| metrics.prefetches_started_total.with_label_values(&[cause]).get();
        Status {
            phase: self.shared.phase.borrow().clone(),
            peer_id: self.shared.us.to_string(),
            viewers: metrics.viewer_connections.get(),
            bytes_served: metrics.bytes_served_total.get(),
            origin: origin.as_ref().map(|origin| origin.status()),
            relay: cache.as_ref().map(|cache| RelayStatus {
                cache: cache.status(),
                hits: metrics.cache_hits_total.get(),
                misses: metrics.cache_misses_total.get(),
                evictions: metrics.cache_evictions_total.get(),
                upstream_fetches: metrics.upstream_fetches_total.get(),
                fills_in_flight: fills.in_flight(),
                region: own.status(),
                prefetch: PrefetchStatus {
                    announced: started("announced"),
                    ahead: started("ahead"),
                    used: metrics.prefetches_used_total.get(),
                    wasted: metrics.prefetches_wasted_total.get(),
                    unread_bytes: metrics.prefetch_unread_bytes.get(),
                },
            }),
        }
    }

    /// Names other relays, the best first, to which viewers are sent when there is too much to do
    /// here, or when this one goes down. At most 8 are told; none to begin with.
    pub fn set_others(&self, relays: &[Multiaddr]) {
        self.shared.others.set(relays);
    }

    /// The region of this node, now and as it changes: the one that the operator named, or the one that
    /// was found to be the nearest. `None` before that.
    pub fn region(&self) -> watch::Receiver<Option<Region>> {
        self.shared.own.watch()
    }

    /// New content was announced: fetches its beginning if that is worth it. Never waits, and does
    /// nothing on a node that caches nothing.
    pub fn announced(&self, announced: Announced) {
        if let Some(warmer) = &self.shared.warmer {
            warmer.announced(announced);
        }
    }

    /// How busy it is: connections by what it may have, 0 none to 255 all. In steps of 16, so that
    /// what is made from it changes seldom.
    pub fn load(&self) -> u8 {
        load(self.shared.metrics.viewer_connections.get(), self.shared.max_connections)
    }

    /// Publishes a file: stores its shards and its manifest, lists it, and announces it to the
    /// directory, whose answer it does not wait for. The work is the service's own: it goes on when
    /// the caller goes away.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub async fn publish(
        &self,
        request: publish::Request,
        progress: watch::Sender<Progress>,
    ) -> Result<Published, PublishError> {
        if self.shared.origin.is_none() {
            return Err(PublishError::NoOrigin);
        }
        let (reply, answer) = oneshot::channel();
        let publish = Publish { request, progress, reply };
        self.shared.publishes.try_send(publish).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => PublishError::Busy,
            mpsc::error::TrySendError::Closed(_) => PublishError::Stopped,
        })?;
        answer.await.unwrap_or(Err(PublishError::Stopped))
    }

    /// Where the cache has a blob, why, or why not; `None` when there is no cache. Cheap.
    pub fn explain(&self, id: BlobId) -> Option<Explanation> {
        Some(self.shared.cache.as_ref()?.explain(id))
    }

    /// Whom a blob would be fetched from, the first in front; none where there is no cache, or not
    /// yet. Asks the directory, so it may take `upstream.directory_timeout`; several who ask are
    /// answered one after the other.
    pub async fn sources(&self, id: BlobId) -> Vec<SourceView> {
        let Some(upstream) = self.shared.upstream.get() else { return Vec::new() };
        let _turn = self.shared.explaining.lock().await;
        upstream.explain(id).await
    }

    /// Takes no more viewers, names those that are here other relays, finishes what they are being
    /// sent, and then serves nobody until the node is started again. See [`Self::phase`] for when that
    /// is done.
    pub fn drain(&self) {
        self.shared.drain.cancel();
    }

    /// Keeps a blob that is in the cache from being evicted and from expiring, over restarts too, until
    /// [`Self::unpin`] or [`Self::purge`].
    ///
    /// # Errors
    /// When it is not in the cache (a node without one has none), or the pinned have their share.
    pub async fn pin(&self, id: BlobId) -> Result<(), PinError> {
        match &self.shared.cache {
            Some(cache) => cache.pin(id).await,
            None => Err(PinError::NotHeld),
        }
    }

    /// Takes a pin back. Whether there was one.
    pub async fn unpin(&self, id: BlobId) -> bool {
        match &self.shared.cache {
            Some(cache) => cache.unpin(id).await,
            None => false,
        }
    }

    /// Removes a blob from the cache, pinned or not, and tells the directory. Whether it was held. It is
    /// fetched again when somebody asks for it.
    pub async fn purge(&self, id: BlobId) -> bool {
        let Some(cache) = &self.shared.cache else { return false };
        let purged = cache.purge(id).await;
        if let Some(announcer) = self.shared.announcer.as_ref().filter(|_| purged) {
            announcer.withdraw(Record::Shard(ShardId(id))).await;
        }
        purged
    }

    /// The contents that the origin keeps, in the order of their ids; none when there is no origin.
    pub fn contents(&self) -> Vec<Content> {
        self.shared.origin.as_ref().map(|origin| origin.contents()).unwrap_or_default()
    }
}

fn load(connections: u64, most: u32) -> u8 {
    let share = connections.saturating_mul(255) / u64::from(most.max(1));
    let share = u8::try_from(share).unwrap_or(u8::MAX);
    // A full one says so.
    if share == u8::MAX { share } else { share / 16 * 16 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_is_the_share_of_connections_in_steps() {
        let loads = [0, 1, 128, 129, 1024, 2047, 2048, 5000].map(|n| load(n, 2048));
        assert_eq!(loads, [0, 0, 0, 16, 112, 240, 255, 255]);
        assert_eq!(load(1, 0), 255);
    }
}
