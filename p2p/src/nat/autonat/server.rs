//! Dials back for others, within limits: libp2p's server, which has none of its own.
//!
//! Whoever asks too often is told that the server could not, which says nothing of its address. So
//! is whoever names an address that this node does not dial: one that its policy does not allow, or
//! whose IP was dialled too often of late.

use crate::{
    Multiaddr, PeerId,
    connections::Door,
    nat::{config::Server as Config, rates::Rates},
    peers::dialling::judge,
};
use libp2p::{
    autonat::v2::server,
    core::{Endpoint, transport::PortUse},
    swarm::{
        CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm, derive_prelude::Either,
    },
};
use prometheus_endpoint::{CounterVec, U64};
use std::{
    collections::{HashMap, VecDeque},
    task::{Context, Poll},
    time::Instant,
};

/// What came of requests: metric labels.
pub(crate) const SERVED: [&str; 3] = ["dialled", "refused_rate", "refused_busy"];

pub(crate) struct Behaviour {
    inner: server::Behaviour,
    door: Door,
    rates: Rates,
    max_dials: usize,
    /// Dial-backs under way, bounded by `max_dials`.
    dials: HashMap<ConnectionId, PeerId>,
    /// Dial-backs let through that have not become a dial yet; part of the same bound.
    starting: usize,
    /// Connections that have served their purpose, each once.
    over: VecDeque<(PeerId, ConnectionId)>,
    served: CounterVec<U64>,
}

impl Behaviour {
    pub(crate) fn new(config: &Config, door: Door, served: CounterVec<U64>) -> Self {
        Self {
            inner: server::Behaviour::default(),
            door,
            rates: Rates::new(config.per_minute, config.peer_per_minute, config.max_peers),
            max_dials: config.max_dials,
            dials: HashMap::new(),
            starting: 0,
            over: VecDeque::new(),
            served,
        }
    }

    /// Whether a peer's request for a dial-back is met; what the metric says of it.
    fn admit(&mut self, peer: &PeerId) -> (bool, &'static str) {
        let [dialled, rate, busy] = SERVED;
        if self.dials.len() + self.starting >= self.max_dials {
            return (false, busy);
        }
        if !self.rates.take(peer, Instant::now()) {
            return (false, rate);
        }
        (true, dialled)
    }
}

impl Behaviour {
    /// Nobody was dialled. The inner server would call the address unreachable, so it is given the
    /// connection and the connection's handler is dropped, which it takes for an error of its own.
    fn give_up(&mut self, id: ConnectionId, peer: PeerId) {
        let (role, port) = (Endpoint::Dialer, PortUse::New);
        let nowhere = Multiaddr::empty();
        let handler =
            self.inner.handle_established_outbound_connection(id, peer, &nowhere, role, port);
        drop(handler);
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = THandler<server::Behaviour>;
    type ToSwarm = server::Event;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_outbound_connection(id, peer, addr, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::DialFailure(failure) => {
                let ours = self.dials.remove(&failure.connection_id);
                if let Some(peer) = ours.filter(|_| judge(failure.error).is_none()) {
                    self.give_up(failure.connection_id, peer);
                    return;
                }
            }
            FromSwarm::ConnectionClosed(closed) => {
                self.dials.remove(&closed.connection_id);
            }
            _ => {}
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match &event {
            // A peer wants to be dialled back.
            Either::Right(Either::Left(_)) => {
                let (admitted, label) = self.admit(&peer);
                self.served.with_label_values(&[label]).inc();
                if !admitted {
                    // The server's own handler takes a dropped request for an error of the server.
                    return;
                }
                self.door.expect(&peer);
                self.starting += 1;
            }
            // A dial-back has ended, well or not.
            Either::Left(Either::Left(_)) if self.dials.contains_key(&id) => {
                self.over.push_back((peer, id));
            }
            _ => {}
        }
        self.inner.on_connection_handler_event(peer, id, event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<server::Event, THandlerInEvent<Self>>> {
        if let Some((peer_id, id)) = self.over.pop_front() {
            let connection = CloseConnection::One(id);
            return Poll::Ready(ToSwarm::CloseConnection { peer_id, connection });
        }
        let event = std::task::ready!(self.inner.poll(cx));
        if let ToSwarm::Dial { opts } = &event {
            self.starting = self.starting.saturating_sub(1);
            self.door.dials_back(opts.connection_id());
            if let Some(peer) = opts.get_peer_id() {
                self.dials.insert(opts.connection_id(), peer);
            }
        }
        Poll::Ready(event)
    }
}
