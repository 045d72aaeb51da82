//! Punches holes over connections through relays: libp2p's DCUtR, within limits.
//!
//! The one whose relay it is begins: both tell each other where they are seen, and dial each other at
//! the same time. What is dialled passes the same gates as any other dial, but for the breaker: that
//! it fails says nothing of a peer that is connected.
//!
//! A relayed connection is not kept for the sake of holes ([`Held`]): their streams keep it while both
//! sides tell each other, and one that nobody uses needs no better one.

use super::Shared;
use crate::{
    AddressPolicy, Multiaddr, PeerId,
    address::is_circuit,
    connections::Door,
    nat::held::{Held, Order},
};
use libp2p::{
    core::{Endpoint, transport::PortUse},
    dcutr,
    swarm::{
        CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour,
        NewExternalAddrCandidate, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
    },
};
use std::{
    collections::{HashMap, VecDeque},
    task::{Context, Poll},
};

/// Dials for one peer while it is connected: three of each side, which is what libp2p makes. libp2p
/// itself lets the other side have as many as it likes, and remembers each for good (16 bytes).
const MAX_DIALS: u8 = 6;

pub(crate) struct Behaviour {
    inner: dcutr::Behaviour,
    policy: AddressPolicy,
    door: Door,
    shared: Shared,
    /// Dials by connected peer.
    dials: HashMap<PeerId, u8>,
    /// Peers that wanted too many; as many as are connected.
    leaving: VecDeque<PeerId>,
}

impl Behaviour {
    pub(crate) fn new(local: PeerId, policy: AddressPolicy, door: Door, shared: Shared) -> Self {
        Self {
            inner: dcutr::Behaviour::new(local),
            policy,
            door,
            shared,
            dials: HashMap::new(),
            leaving: VecDeque::new(),
        }
    }

    /// This node is seen at an address, from a socket that it listens with: others should dial that.
    /// libp2p tells the last 20.
    pub(crate) fn seen_at(&mut self, addr: &Multiaddr) {
        // The other side would refuse to dial anything else.
        if self.policy.allows(addr) {
            let candidate = NewExternalAddrCandidate { addr };
            self.inner.on_swarm_event(FromSwarm::NewExternalAddrCandidate(candidate));
        }
    }

    /// One more dial for a peer.
    fn dials(&mut self, peer: PeerId) {
        self.door.expect(&peer);
        let dials = self.dials.entry(peer).or_default();
        *dials = dials.saturating_add(1);
        if *dials == MAX_DIALS + 1 {
            tracing::debug!(%peer, "it wants too many holes punched");
            self.leaving.push_back(peer);
        }
    }

    /// The hole will be one connection more than there may be otherwise.
    fn expects(&self, peer: &PeerId, addr: &Multiaddr) {
        if is_circuit(addr) {
            self.door.expect(peer);
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Held<THandler<dcutr::Behaviour>>;
    type ToSwarm = dcutr::Event;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.expects(&peer, local);
        let inner = &mut self.inner;
        inner.handle_established_inbound_connection(id, peer, local, remote).map(Held::new)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.expects(&peer, addr);
        let inner = &mut self.inner;
        inner.handle_established_outbound_connection(id, peer, addr, role, port).map(Held::new)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            // Identify puts the port that is listened on in the place of the one that was seen, which
            // is right where a NAT keeps ports and nowhere else.
            FromSwarm::NewExternalAddrCandidate(_) => {}
            // What is reached anyway is where the other side should dial as well.
            FromSwarm::ExternalAddrConfirmed(confirmed) => self.seen_at(confirmed.addr),
            event => {
                if let FromSwarm::ConnectionClosed(closed) = &event
                    && closed.remaining_established == 0
                {
                    self.dials.remove(&closed.peer_id);
                }
                self.inner.on_swarm_event(event);
            }
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.inner.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<dcutr::Event, THandlerInEvent<Self>>> {
        if let Some(peer_id) = self.leaving.pop_front() {
            let connection = CloseConnection::All;
            return Poll::Ready(ToSwarm::CloseConnection { peer_id, connection });
        }
        let event = std::task::ready!(self.inner.poll(cx));
        if let ToSwarm::Dial { opts } = &event {
            let id = opts.connection_id();
            self.shared.lock().punches(id);
            self.door.dials_back(id);
            if let Some(peer) = opts.get_peer_id() {
                self.dials(peer);
            }
        }
        Poll::Ready(event.map_in(Order::Inner))
    }
}
