//! What the swarm needs of [`Paths`], and who shares it.

use super::{
    Config,
    paths::{Action, AttemptView, Known, Opened, Paths, Strategy},
};
use crate::{
    Multiaddr, PeerId, address::is_circuit, connections::Door, metrics::gauge, nat::NatMetrics,
};
use libp2p::{
    core::{Endpoint, transport::PortUse},
    swarm::{
        CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm,
        dial_opts::{DialOpts, PeerCondition},
        dummy,
    },
};
use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Instant,
};
use tokio::sync::Notify;

/// [`Paths`] as the swarm's behaviours and the transport share it. Cheap to clone; the lock is held
/// for a decision and never over an await.
#[derive(Clone)]
pub(crate) struct Shared {
    paths: Arc<Mutex<Paths>>,
    /// An attempt has ended, so that others may have their turn.
    pub(super) ended: Arc<Notify>,
    pub(super) metrics: Arc<NatMetrics>,
}

impl Shared {
    pub(crate) fn new(config: &Config, metrics: Arc<NatMetrics>) -> Self {
        let paths = Arc::new(Mutex::new(Paths::new(config)));
        Self { paths, ended: Arc::default(), metrics }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Paths> {
        // Nothing in there panics; if it did, what it knows would still be the best there is.
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody says that a peer is reached through these relays.
    pub(crate) fn learn(&self, known: &Known) {
        self.lock().learn(known, false);
    }

    /// A connected peer tells addresses that may be dialled.
    pub(crate) fn told(&self, peer: PeerId, addresses: &[Multiaddr], now: Instant) {
        self.lock().told(peer, addresses, now);
    }

    /// A dial is of a peer's address at a TURN server, or from this node's own.
    pub(crate) fn goes_over_turn(&self, id: ConnectionId) {
        self.lock().goes_over_turn(id);
    }

    /// Where this node listens at a TURN server.
    pub(crate) fn listens_at_turn(&self, address: Option<Multiaddr>) {
        self.lock().turn_address = address;
    }

    /// The connected peers, each with what its best connection came by.
    pub(crate) fn methods(&self) -> BTreeMap<PeerId, super::Method> {
        self.lock().methods()
    }
}

/// Adds to dials what is known of relays, and closes connections that a better one has replaced.
pub(crate) struct Behaviour {
    shared: Shared,
    door: Door,
    /// At most one for each connection and each remembered peer.
    events: VecDeque<ToSwarm<Infallible, Infallible>>,
    waker: Option<Waker>,
}

impl Behaviour {
    pub(crate) fn new(shared: Shared, door: Door) -> Self {
        Self { shared, door, events: VecDeque::new(), waker: None }
    }

    /// The regular housekeeping.
    pub(crate) fn on_tick(&mut self, now: Instant) {
        let actions = self.shared.lock().poll(now);
        for action in actions {
            self.events.push_back(match action {
                Action::Close(peer_id, id) => {
                    tracing::debug!(peer = %peer_id, "a better connection takes its place");
                    ToSwarm::CloseConnection { peer_id, connection: CloseConnection::One(id) }
                }
                Action::Dial(peer, addresses) => {
                    let opts = DialOpts::peer_id(peer)
                        .condition(PeerCondition::Always)
                        .addresses(addresses)
                        .build();
                    // It is connected, so a failure says nothing that others need to know.
                    self.door.dials_back(opts.connection_id());
                    ToSwarm::Dial { opts }
                }
            });
        }
        if !self.events.is_empty()
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
    }

    /// The attempts that are remembered of a peer, the oldest first.
    pub(crate) fn history(&self, peer: &PeerId, now: Instant) -> Vec<AttemptView> {
        self.shared.lock().history(peer, now)
    }

    fn show(&self, paths: &Paths) {
        for method in super::Method::ALL {
            let gauges = &self.shared.metrics.current_method;
            gauges.with_label_values(&[method.label()]).set(gauge(paths.count(method)));
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    /// The swarm has the transport dial the addresses of this dial right after it has asked all
    /// behaviours, which is how the transport knows of which dial they are.
    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let Some(peer) = peer else { return Ok(Vec::new()) };
        let mut paths = self.shared.lock();
        // What is dialled over a TURN server is for that alone.
        match paths.dials(id, peer) {
            Strategy::Turn => Ok(Vec::new()),
            Strategy::Direct | Strategy::Punch | Strategy::Relay => Ok(paths.circuits(&peer)),
        }
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        let mut paths = self.shared.lock();
        match event {
            FromSwarm::ConnectionEstablished(opened) => {
                let relayed = opened.endpoint.is_relayed();
                if let libp2p::core::ConnectedPoint::Listener { local_addr, .. } = opened.endpoint
                    && paths.turn_address.as_ref() == Some(local_addr)
                {
                    paths.goes_over_turn(opened.connection_id);
                }
                let how = Opened { relayed, inbound: opened.endpoint.is_listener() };
                paths.opened(opened.connection_id, opened.peer_id, how, Instant::now());
                if let libp2p::core::ConnectedPoint::Dialer { address, .. } = opened.endpoint
                    && is_circuit(address)
                {
                    // It works, so it is what is tried first the next time.
                    let addresses = vec![address.clone()];
                    paths.learn(&Known { peer: opened.peer_id, addresses }, true);
                }
            }
            FromSwarm::ConnectionClosed(closed) => {
                paths.closed(closed.connection_id, Instant::now())
            }
            _ => return,
        }
        self.show(&paths);
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(event);
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
