//! Requests that come over substreams of the overlay's connections.
//!
//! The overlay has let the other node in, so there is no handshake here and no address. What one node
//! and all of them may have open is bounded here, in requests, as the sockets' connections are in
//! theirs; memory, pace and everything else are shared.

use super::{Shared, request::Request, viewer::Viewer};
use crate::{
    error::Refusal,
    overlay::{Overlay, Substream},
    pace,
    sync::lock,
    wire::accepted,
};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use libp2p::PeerId;
use lru::LruCache;
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    future::pending,
    num::NonZeroUsize,
    sync::{Arc, Mutex},
};
use tokio::task::JoinSet;

/// Settings of requests that come over the overlay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SubstreamsConfig {
    /// Whether requests are answered there at all. Default true.
    pub enabled: bool,
    /// Requests at a time in all; further ones are told to come back. They count against
    /// `server.max_requests` too. Default 1,024.
    pub max: usize,
    /// Requests of one node at a time. Default 32.
    pub per_peer: usize,
    /// Nodes of which is remembered that they were served, and where they read. Default 1,024, about
    /// 700 KB.
    pub remembered: usize,
    /// Bytes of bodies a second that go through circuits of third nodes, to all together; 0 for no
    /// limit. Default 2 MiB.
    pub circuit_bytes_per_second: u64,
}

impl Default for SubstreamsConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            max: 1024,
            per_peer: 32,
            remembered: 1024,
            circuit_bytes_per_second: 2 * 1024 * 1024,
        }
    }
}

/// How many requests of which node go on.
struct Open {
    max: usize,
    per_peer: usize,
    all: usize,
    /// Nodes with a request at least: `max` entries at most, of about 100 bytes.
    peers: HashMap<PeerId, usize>,
}

impl Open {
    fn new(config: &SubstreamsConfig) -> Self {
        Self { max: config.max, per_peer: config.per_peer, all: 0, peers: HashMap::new() }
    }

    /// Lets a request in. What one node may have is asked first: its refusals cost the others nothing.
    fn enter(&mut self, peer: PeerId) -> Result<(), Refusal> {
        let open = self.peers.get(&peer).copied().unwrap_or(0);
        if open >= self.per_peer {
            return Err(Refusal::PeerSubstreams);
        }
        if self.all >= self.max {
            return Err(Refusal::Substreams);
        }
        self.peers.insert(peer, open + 1);
        self.all += 1;
        Ok(())
    }

    fn leave(&mut self, peer: PeerId) {
        self.all = self.all.saturating_sub(1);
        if let Some(open) = self.peers.get_mut(&peer) {
            *open = open.saturating_sub(1);
            if *open == 0 {
                self.peers.remove(&peer);
            }
        }
    }
}

/// A request that goes on.
struct Entered {
    open: Arc<Mutex<Open>>,
    peer: PeerId,
    shared: Arc<Shared>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        lock(&self.open).leave(self.peer);
        self.shared.metrics.substreams.dec();
    }
}

/// Takes substreams, and owns the tasks of their requests.
pub(super) struct Substreams {
    incoming: BoxStream<'static, Substream>,
    open: Arc<Mutex<Open>>,
    /// At most `remembered`.
    viewers: LruCache<PeerId, Arc<Viewer>>,
    requests: JoinSet<()>,
}

impl Substreams {
    pub(super) fn new(overlay: Option<Arc<dyn Overlay>>, config: &SubstreamsConfig) -> Self {
        let overlay = overlay.filter(|_| config.enabled);
        Self {
            incoming: overlay.map_or_else(|| stream::pending().boxed(), |from| from.incoming()),
            open: Arc::new(Mutex::new(Open::new(config))),
            viewers: LruCache::sparse(
                NonZeroUsize::new(config.remembered).unwrap_or(NonZeroUsize::MIN),
            ),
            requests: JoinSet::new(),
        }
    }

    /// The next substream; for ever when there will be none.
    pub(super) async fn next(&mut self) -> Substream {
        loop {
            tokio::select! {
                substream = self.incoming.next() => match substream {
                    Some(substream) => return substream,
                    None => self.incoming = stream::pending().boxed(),
                },
                // The panic hook has reported a panic; the others go on.
                Some(_) = self.requests.join_next(), if !self.requests.is_empty() => {}
            }
        }
    }

    /// Serves a request, or refuses it unread with a code.
    pub(super) fn accept(&mut self, substream: Substream, shared: &Arc<Shared>) {
        let peer = substream.peer;
        let (mut send, receive) = accepted(substream);
        let entered = lock(&self.open).enter(peer).map(|()| {
            shared.metrics.substreams.inc();
            Entered { open: Arc::clone(&self.open), peer, shared: Arc::clone(shared) }
        });
        let turn =
            || Arc::clone(&shared.requests).try_acquire_owned().map_err(|_| Refusal::Requests);
        match entered.and_then(|entered| Ok((entered, turn()?))) {
            Ok((entered, turn)) => {
                let viewer = self.viewer(peer, shared);
                let request = Request::new(send, receive, viewer, Arc::clone(shared), turn);
                self.requests.spawn(async move {
                    let _entered = entered;
                    request.serve().await;
                });
            }
            Err(refusal) => {
                tracing::debug!("{peer}: a request over the overlay refused: {}", refusal.label());
                shared.count(refusal);
                send.reset(refusal.code());
            }
        }
    }

    fn viewer(&mut self, peer: PeerId, shared: &Shared) -> Arc<Viewer> {
        let weight = pace::weight(shared.standing.score(&peer), shared.config.known_weight);
        let known = self.viewers.get(&peer).filter(|viewer| viewer.weight == weight);
        if let Some(viewer) = known {
            return Arc::clone(viewer);
        }
        let viewer = Arc::new(Viewer::new(peer, weight));
        self.viewers.push(peer, Arc::clone(&viewer));
        viewer
    }

    /// Refuses what comes, for the service goes down. Never ends.
    pub(super) async fn refuse_all(&mut self, shared: &Shared) {
        while let Some(substream) = self.incoming.next().await {
            shared.count(Refusal::ShuttingDown);
            accepted(substream).0.reset(Refusal::ShuttingDown.code());
        }
        pending().await
    }

    /// Cuts off what goes on.
    pub(super) async fn shutdown(&mut self) {
        self.requests.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_node_has_its_share_and_all_together_no_more_than_there_is() {
        let config = SubstreamsConfig { max: 3, per_peer: 2, ..SubstreamsConfig::default() };
        let mut open = Open::new(&config);
        let [a, b, c] = std::array::from_fn(|_| PeerId::random());
        assert_eq!([open.enter(a), open.enter(a)], [Ok(()), Ok(())]);
        assert_eq!(open.enter(a), Err(Refusal::PeerSubstreams));
        assert_eq!(open.enter(b), Ok(()));
        assert_eq!(open.enter(c), Err(Refusal::Substreams));
        open.leave(a);
        assert_eq!(open.enter(c), Ok(()));
    }

    proptest! {
        #[test]
        fn what_is_open_is_counted_and_nobody_is_remembered_without(
            steps in prop::collection::vec((0usize..5, any::<bool>()), 0..200),
        ) {
            let config = SubstreamsConfig { max: 6, per_peer: 3, ..SubstreamsConfig::default() };
            let mut open = Open::new(&config);
            let peers: [PeerId; 5] = std::array::from_fn(|_| PeerId::random());
            let mut held = Vec::new();
            for (at, enters) in steps {
                let of_peer = held.iter().filter(|held| **held == at).count();
                if enters {
                    let entered = open.enter(peers[at]).is_ok();
                    prop_assert_eq!(entered, of_peer < 3 && held.len() < 6);
                    if entered {
                        held.push(at);
                    }
                } else if let Some(place) = held.iter().position(|held| *held == at) {
                    held.remove(place);
                    open.leave(peers[at]);
                }
                let mut nodes = held.clone();
                nodes.sort_unstable();
                nodes.dedup();
                prop_assert_eq!((open.all, open.peers.len()), (held.len(), nodes.len()));
            }
        }
    }
}
