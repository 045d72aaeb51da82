//! Carries connections for others, within limits: libp2p's server, with rates of our own, whose
//! tables are bounded, and with what it does counted.

use super::{ServerConfig as Config, rates::Rates};
use crate::{
    Multiaddr, PeerId,
    address::{Source, ip_of},
    metrics::gauge,
    nat::NatMetrics,
};
use libp2p::{
    core::{Endpoint, transport::PortUse},
    relay::{self, Event, Status, StatusCode},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
        behaviour::{ConnectionClosed, ConnectionEstablished},
    },
};
use std::{
    collections::HashSet,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

/// The inner server panics if a peer is told late that a reservation is accepted whose predecessor
/// has run out meanwhile, where that was all it knew of the peer; which a peer can bring about that
/// does not read for a while. So it is told of one connection more for each peer, which never asks
/// for anything. ConnectionIds count up from 1.
fn never() -> ConnectionId {
    ConnectionId::new_unchecked(usize::MAX)
}

/// What came of requests, after `kind`: metric labels.
pub(crate) const OUTCOMES: [&str; 5] =
    ["accepted", "full", "without_reservation", "unreachable", "refused"];

pub(crate) struct Behaviour {
    inner: relay::Behaviour,
    enabled: bool,
    offered: bool,
    /// Peers that hold a reservation; bounded by the inner server.
    reserved: HashSet<PeerId>,
    circuits: usize,
    metrics: Arc<NatMetrics>,
}

impl Behaviour {
    pub(crate) fn new(local: PeerId, config: &Config, metrics: Arc<NatMetrics>) -> Self {
        let mut inner = relay::Behaviour::new(local, limits(config));
        // Whether it is offered is not libp2p's to say: it would do with an address through a relay.
        inner.set_status(Some(Status::Disable));
        Self {
            inner,
            enabled: config.enabled,
            offered: false,
            reserved: HashSet::new(),
            circuits: 0,
            metrics,
        }
    }

    /// Whether this node is reached directly now, and so can be a relay.
    pub(crate) fn on_reachable(&mut self, reachable: bool) {
        let offered = self.enabled && reachable;
        if offered != self.offered {
            self.offered = offered;
            let status = if offered { Status::Enable } else { Status::Disable };
            self.inner.set_status(Some(status));
        }
    }

    /// Whether it is offered; peers that hold a reservation; circuits that are carried.
    pub(crate) fn view(&self) -> (bool, usize, usize) {
        (self.offered, self.reserved.len(), self.circuits)
    }

    fn note(&mut self, event: &Event) {
        let [accepted, ..] = OUTCOMES;
        let (kind, outcome) = match event {
            Event::ReservationReqAccepted { src_peer_id, .. } => {
                self.reserved.insert(*src_peer_id);
                ("reservation", accepted)
            }
            Event::ReservationReqDenied { status, .. } => ("reservation", outcome(status)),
            Event::ReservationTimedOut { src_peer_id } => {
                self.reserved.remove(src_peer_id);
                return self.show();
            }
            Event::CircuitReqAccepted { .. } => {
                self.circuits += 1;
                ("circuit", accepted)
            }
            Event::CircuitReqDenied { status, .. } => ("circuit", outcome(status)),
            Event::CircuitClosed { .. } => {
                self.circuits = self.circuits.saturating_sub(1);
                return self.show();
            }
            // What is left are failures to say one of the above, and what follows from connections.
            _ => return,
        };
        self.metrics.relay_requests.with_label_values(&[kind, outcome]).inc();
        self.show();
    }

    fn show(&self) {
        self.metrics.relay_reservations.set(gauge(self.reserved.len()));
        self.metrics.relay_circuits.set(gauge(self.circuits));
    }

    /// See [`never`].
    fn one_more(&mut self, event: &FromSwarm<'_>) {
        match *event {
            FromSwarm::ConnectionEstablished(opened) if opened.other_established == 0 => {
                let one_more = ConnectionEstablished { connection_id: never(), ..opened };
                self.inner.on_swarm_event(FromSwarm::ConnectionEstablished(one_more));
            }
            FromSwarm::ConnectionClosed(closed) if closed.remaining_established == 0 => {
                let one_more = ConnectionClosed { connection_id: never(), ..closed };
                self.inner.on_swarm_event(FromSwarm::ConnectionClosed(one_more));
                self.reserved.remove(&closed.peer_id);
                self.show();
            }
            _ => {}
        }
    }
}

fn outcome(status: &StatusCode) -> &'static str {
    let [accepted, full, without_reservation, unreachable, refused] = OUTCOMES;
    match status {
        StatusCode::OK => accepted,
        StatusCode::ResourceLimitExceeded => full,
        StatusCode::NoReservation => without_reservation,
        StatusCode::ConnectionFailed => unreachable,
        _ => refused,
    }
}

/// libp2p's limits, as configured.
fn limits(config: &Config) -> relay::Config {
    let Config {
        max_reservations,
        max_circuits,
        max_circuit_bytes,
        max_circuit_lasts,
        reservation_lasts,
        max_remembered,
        ..
    } = *config;
    let (source, peer) = (config.source_per_minute, config.peer_per_minute);
    let mut sources = Rates::<Source>::new(source, max_remembered);
    let mut peers = Rates::<PeerId>::new(peer, max_remembered);
    let circuits = move |who: PeerId, addr: &Multiaddr, _| {
        let now = Instant::now();
        let of_source = ip_of(addr).is_none_or(|ip| sources.take(Source::of(ip), now));
        of_source && peers.take(who, now)
    };
    let mut asked = Rates::<Source>::new(config.reservations_per_minute, max_remembered);
    let reservations = move |_: PeerId, addr: &Multiaddr, _| {
        ip_of(addr).is_none_or(|ip| asked.take(Source::of(ip), Instant::now()))
    };
    relay::Config {
        max_reservations,
        // A peer has few connections, and one reservation on each at most.
        max_reservations_per_peer: 2,
        reservation_duration: reservation_lasts,
        reservation_rate_limiters: vec![Box::new(reservations)],
        max_circuits,
        // libp2p lets one more through.
        max_circuits_per_peer: config.max_circuits_per_peer.saturating_sub(1),
        max_circuit_duration: max_circuit_lasts,
        max_circuit_bytes,
        circuit_src_rate_limiters: vec![Box::new(circuits)],
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = THandler<relay::Behaviour>;
    type ToSwarm = Event;

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
        self.one_more(&event);
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.inner.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        let event = std::task::ready!(self.inner.poll(cx));
        if let ToSwarm::GenerateEvent(event) = &event {
            self.note(event);
        }
        Poll::Ready(event)
    }
}
