//! Which connections are let in: a network behaviour that only refuses.

use super::Config;
use crate::{Metrics, Multiaddr, PeerId, Reputation, identity::key_of, metrics::gauge};
use libp2p::{
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm, dummy,
    },
};
use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};
use thiserror::Error;

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub(crate) enum Refused {
    #[error("this node holds as many connections as it may")]
    Total,
    #[error("this node holds as many connections to that peer as it may")]
    PerPeer,
    #[error("too many connections are shaking hands")]
    Pending,
    #[error("the peer uses no ed25519 key")]
    KeyType,
    #[error("the peer is graylisted")]
    Graylisted,
    #[error("the peer has this node's own key")]
    OwnKey,
}

impl Refused {
    /// The metric label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::PerPeer => "per_peer",
            Self::Pending => "pending",
            Self::KeyType => "key_type",
            Self::Graylisted => "graylisted",
            Self::OwnKey => "own_key",
        }
    }
}

/// Counts connections and decides. Pure: no time, no I/O.
#[derive(Debug)]
pub(crate) struct Counts {
    max_total: usize,
    max_per_peer: usize,
    max_pending: usize,
    local: PeerId,
    pending: HashSet<ConnectionId>,
    established: usize,
    per_peer: HashMap<PeerId, usize>,
}

impl Counts {
    fn new(config: &Config, local: PeerId) -> Self {
        Self {
            max_total: config.max_connections,
            max_per_peer: config.max_per_peer,
            max_pending: config.max_pending_inbound,
            local,
            pending: HashSet::new(),
            established: 0,
            per_peer: HashMap::new(),
        }
    }

    /// A connection comes in; nothing is known of who it is.
    fn incoming(&mut self, id: ConnectionId) -> Result<(), Refused> {
        if self.established >= self.max_total {
            return Err(Refused::Total);
        }
        if self.pending.len() >= self.max_pending {
            return Err(Refused::Pending);
        }
        self.pending.insert(id);
        Ok(())
    }

    /// A peer is to be dialled, or has proved who it is.
    fn peer(&self, peer: &PeerId, reputation: &dyn Reputation) -> Result<(), Refused> {
        if *peer == self.local {
            return Err(Refused::OwnKey);
        }
        let key = key_of(peer).ok_or(Refused::KeyType)?;
        if reputation.standing(&key).is_some_and(|s| s.graylisted()) {
            return Err(Refused::Graylisted);
        }
        if self.established >= self.max_total {
            return Err(Refused::Total);
        }
        if self.per_peer.get(peer).copied().unwrap_or_default() >= self.max_per_peer {
            return Err(Refused::PerPeer);
        }
        Ok(())
    }

    fn settled(&mut self, id: ConnectionId) {
        self.pending.remove(&id);
    }

    fn opened(&mut self, id: ConnectionId, peer: PeerId) {
        self.settled(id);
        self.established += 1;
        *self.per_peer.entry(peer).or_default() += 1;
    }

    fn closed(&mut self, peer: &PeerId) {
        self.established = self.established.saturating_sub(1);
        if let Some(count) = self.per_peer.get_mut(peer) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.per_peer.remove(peer);
            }
        }
    }
}

/// The behaviour.
pub(crate) struct Behaviour {
    counts: Counts,
    reputation: Arc<dyn Reputation>,
    metrics: Metrics,
}

impl Behaviour {
    pub(crate) fn new(
        config: &Config,
        local: PeerId,
        reputation: Arc<dyn Reputation>,
        metrics: Metrics,
    ) -> Self {
        metrics.connection_limit.set(gauge(config.max_connections));
        metrics.active_connections.set(0);
        metrics.connected_peers.set(0);
        Self { counts: Counts::new(config, local), reputation, metrics }
    }

    fn decided(&self, decision: Result<(), Refused>) -> Result<(), ConnectionDenied> {
        decision.map_err(|reason| {
            self.metrics.connections_refused.with_label_values(&[reason.label()]).inc();
            ConnectionDenied::new(reason)
        })
    }

    fn show(&self) {
        self.metrics.active_connections.set(gauge(self.counts.established));
        self.metrics.connected_peers.set(gauge(self.counts.per_peer.len()));
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let decision = self.counts.incoming(id);
        self.decided(decision)
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.decided(self.counts.peer(&peer, &*self.reputation))?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        if let Some(peer) = peer {
            self.decided(self.counts.peer(&peer, &*self.reputation))?;
        }
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.decided(self.counts.peer(&peer, &*self.reputation))?;
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(opened) => {
                self.counts.opened(opened.connection_id, opened.peer_id);
                self.show();
            }
            FromSwarm::ConnectionClosed(closed) => {
                self.counts.closed(&closed.peer_id);
                self.show();
            }
            FromSwarm::ListenFailure(failure) => self.counts.settled(failure.connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Standing, identity::peer_id_of, testnet::StaticReputation};

    fn peer(n: u8) -> PeerId {
        peer_id_of(&[n; 32]).unwrap()
    }

    fn id(n: usize) -> ConnectionId {
        ConnectionId::new_unchecked(n)
    }

    fn counts() -> Counts {
        let config = Config {
            max_connections: 3,
            max_per_peer: 2,
            max_pending_inbound: 2,
            ..Config::default()
        };
        Counts::new(&config, peer(0))
    }

    #[test]
    fn each_limit_refuses_with_its_reason() {
        let nobody = StaticReputation::default();
        let mut counts = counts();
        assert_eq!(counts.peer(&peer(0), &nobody), Err(Refused::OwnKey));
        let rsa = libp2p::multihash::Multihash::wrap(0x12, &[1; 32]).unwrap();
        let rsa = PeerId::from_multihash(rsa).unwrap();
        assert_eq!(counts.peer(&rsa, &nobody), Err(Refused::KeyType));

        assert_eq!(counts.incoming(id(1)), Ok(()));
        assert_eq!(counts.incoming(id(2)), Ok(()));
        assert_eq!(counts.incoming(id(3)), Err(Refused::Pending));
        counts.settled(id(1));
        assert_eq!(counts.incoming(id(3)), Ok(()));

        counts.opened(id(2), peer(1));
        counts.opened(id(3), peer(1));
        assert_eq!(counts.peer(&peer(1), &nobody), Err(Refused::PerPeer));
        assert_eq!(counts.peer(&peer(2), &nobody), Ok(()));
        counts.opened(id(4), peer(2));
        assert_eq!(counts.peer(&peer(3), &nobody), Err(Refused::Total));
        assert_eq!(counts.incoming(id(5)), Err(Refused::Total));
        counts.closed(&peer(1));
        assert_eq!(counts.peer(&peer(1), &nobody), Ok(()));
        counts.closed(&peer(1));
        counts.closed(&peer(2));
        assert!(counts.per_peer.is_empty() && counts.established == 0 && counts.pending.is_empty());
    }

    #[test]
    fn graylisted_peers_are_refused_and_unknown_ones_are_not() {
        let reputation = StaticReputation::default();
        let counts = counts();
        assert_eq!(counts.peer(&peer(1), &reputation), Ok(()));
        reputation.set([1; 32], Some(Standing { validator: 10, ..Standing::NEUTRAL }));
        assert_eq!(counts.peer(&peer(1), &reputation), Err(Refused::Graylisted));
        reputation.set([1; 32], Some(Standing::NEUTRAL));
        assert_eq!(counts.peer(&peer(1), &reputation), Ok(()));
    }
}
