//! Carries connections for others, within limits: libp2p's server, with rates of our own, whose
//! tables are bounded, and with what it does counted.

use super::{ServerConfig as Config, rates::Rates};
use crate::{
    Multiaddr, PeerId,
    address::{Source, ip_of},
    metrics::gauge,
    nat::{
        NatMetrics,
        held::{Held, Order},
    },
};
use libp2p::{
    core::{Endpoint, transport::PortUse},
    relay::{self, Event, Status, StatusCode},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm,
        behaviour::{ConnectionClosed, ConnectionEstablished},
    },
};
use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    task::{Context, Poll, Waker},
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

/// What the inner server has for the swarm, for our handler.
type Output = ToSwarm<Event, Order<THandlerInEvent<relay::Behaviour>>>;

pub(crate) struct Behaviour {
    inner: relay::Behaviour,
    /// What the inner server had to say after a connection told something: what it had queued, a few
    /// at most, and one order. The swarm takes all of it before it hears of a connection again.
    outputs: VecDeque<Output>,
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
            outputs: VecDeque::new(),
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

    /// What the inner server says next.
    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Output> {
        let output = std::task::ready!(self.inner.poll(cx));
        if let ToSwarm::GenerateEvent(event) = &output {
            self.note(event);
        }
        Poll::Ready(output.map_in(Order::Inner))
    }

    /// Has a connection kept, or not, from what the inner server made of something that it told: a
    /// reservation is no stream, and needs its connection. Circuits have streams on both.
    fn holds(peer_id: PeerId, id: ConnectionId, output: &Output) -> Option<Output> {
        let held = match output {
            ToSwarm::GenerateEvent(Event::ReservationReqAccepted { .. }) => true,
            ToSwarm::GenerateEvent(Event::ReservationTimedOut { .. }) => false,
            _ => return None,
        };
        let handler = NotifyHandler::One(id);
        Some(ToSwarm::NotifyHandler { peer_id, handler, event: Order::Hold(held) })
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
    type ConnectionHandler = Held<THandler<relay::Behaviour>>;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
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
        let inner = &mut self.inner;
        inner.handle_established_outbound_connection(id, peer, addr, role, port).map(Held::new)
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
        // Its events do not say of which connection they are, so they are taken while that is known.
        // The swarm polls next, with a waker of its own.
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(output) = self.next(&mut cx) {
            let holds = Self::holds(peer, id, &output);
            self.outputs.push_back(output);
            self.outputs.extend(holds);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Output> {
        match self.outputs.pop_front() {
            Some(output) => Poll::Ready(output),
            None => self.next(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Metrics;
    use futures::StreamExt;
    use libp2p::{
        Swarm, Transport,
        core::{
            muxing::StreamMuxerBox,
            transport::{MemoryTransport, OrTransport},
            upgrade::Version,
        },
        identity::Keypair,
        multiaddr::Protocol,
        noise,
        swarm::{Config as Settings, SwarmEvent},
        yamux,
    };
    use std::time::Duration;
    use tokio::time::timeout;

    const IDLE: Duration = Duration::from_millis(500);

    fn settings() -> Settings {
        Settings::with_tokio_executor()
    }

    fn memory(keypair: &Keypair) -> libp2p::core::transport::Boxed<(PeerId, StreamMuxerBox)> {
        MemoryTransport::new()
            .upgrade(Version::V1)
            .authenticate(noise::Config::new(keypair).unwrap())
            .multiplex(yamux::Config::default())
            .boxed()
    }

    /// The relay, idle connections of which are closed soon, and where it is.
    async fn relay(config: &Config) -> (Swarm<Behaviour>, Multiaddr) {
        let keypair = Keypair::ed25519_from_bytes([1; 32]).unwrap();
        let local = keypair.public().to_peer_id();
        let metrics = Metrics::unregistered().unwrap().nat;
        let mut behaviour = Behaviour::new(local, config, metrics);
        behaviour.on_reachable(true);
        let settings = settings().with_idle_connection_timeout(IDLE);
        let mut swarm = Swarm::new(memory(&keypair), behaviour, local, settings);
        swarm.listen_on("/memory/0".parse().unwrap()).unwrap();
        let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await else {
            panic!("no address");
        };
        swarm.add_external_address(address.clone());
        (swarm, address.with(Protocol::P2p(local)))
    }

    /// Wants a place at the relay, and keeps the connection to it.
    fn client(relay: &Multiaddr) -> Swarm<relay::client::Behaviour> {
        let keypair = Keypair::ed25519_from_bytes([2; 32]).unwrap();
        let local = keypair.public().to_peer_id();
        let (circuits, behaviour) = relay::client::new(local);
        let circuits = circuits
            .upgrade(Version::V1)
            .authenticate(noise::Config::new(&keypair).unwrap())
            .multiplex(yamux::Config::default())
            .boxed();
        let transport = OrTransport::new(circuits, memory(&keypair))
            .map(|either, _| either.into_inner())
            .boxed();
        let settings = settings().with_idle_connection_timeout(Duration::from_secs(600));
        let mut swarm = Swarm::new(transport, behaviour, local, settings);
        swarm.listen_on(relay.clone().with(Protocol::P2pCircuit)).unwrap();
        swarm
    }

    #[tokio::test]
    async fn a_reservation_keeps_its_connection_until_it_has_run_out() {
        // libp2p's client counts in whole seconds, and asks again after three. The one reservation that
        // there may be is not given twice, so it runs out.
        let config = Config {
            max_reservations: 1,
            reservation_lasts: Duration::from_secs(4),
            ..Config::default()
        };
        let (mut relay, addr) = relay(&config).await;
        let mut client = client(&addr);
        let client = tokio::spawn(async move {
            loop {
                client.select_next_some().await;
            }
        });
        let mut seen = Vec::new();
        let closed = async {
            loop {
                match relay.select_next_some().await {
                    SwarmEvent::Behaviour(Event::ReservationReqAccepted { .. }) => {
                        seen.push("accepted");
                    }
                    SwarmEvent::Behaviour(Event::ReservationTimedOut { .. }) => {
                        seen.push("timed out");
                    }
                    SwarmEvent::ConnectionClosed { .. } => return,
                    _ => {}
                }
            }
        };
        let closed = timeout(Duration::from_secs(60), closed).await.is_ok();
        assert_eq!((closed, &seen[..]), (true, &["accepted", "timed out"][..]));
        client.abort();
    }
}
