//! TURN within the overlay's task: joins the worker, the swarm and the peers that meet.

use super::{
    config::{Carrier, Enabled, Turn},
    meet::{Action, Here, Meetings},
    metrics::{Met, TurnMetrics},
    outcome::Outcome,
    socket::Sockets,
    wire::{Codec, Request, Response},
    worker::{Joints, Order, Shown, Told, Worker},
};
use crate::{
    AddressPolicy, Multiaddr, PeerId, Protocols,
    behaviour::Behaviour,
    connections::Door,
    nat::{Parts, State, Strategy, Verdict, strategies::Shared},
};
use libp2p::{
    Swarm,
    core::{ConnectedPoint, transport::ListenerId},
    multiaddr::Protocol,
    request_response::{
        self, Message, OutboundFailure, OutboundRequestId, ProtocolSupport, ResponseChannel,
    },
    swarm::{
        ConnectionId,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use serde::Serialize;
use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::SocketAddr,
    time::Instant,
};
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;

/// What was told and not taken in yet; 60 bytes each.
const TOLD: usize = 64;

/// The protocol by which peers agree to meet.
pub(crate) type Talk = request_response::Behaviour<Codec>;

/// As this node speaks it. A peer may have as many requests open as are answered a minute.
pub(crate) fn talk(config: &Turn, protocols: &Protocols) -> Talk {
    let streams = usize::try_from(config.upgrade.peer_per_minute).unwrap_or(usize::MAX);
    let settings = request_response::Config::default()
        .with_request_timeout(config.upgrade.timeout)
        .with_max_concurrent_streams(streams);
    Talk::with_codec(Codec, [(protocols.turn(), ProtocolSupport::Full)], settings)
}

/// An allocation at a TURN server, as the status shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TurnView {
    /// The server that is used or was tried last, as the configuration names it; null before the first
    /// try.
    pub server: Option<String>,
    /// How it is spoken to.
    pub transport: Option<Carrier>,
    /// Where it takes what is for this node; null without an allocation.
    pub relayed: Option<SocketAddr>,
    /// When the allocation ends if it is not renewed, in seconds.
    pub expires_secs: Option<u64>,
    /// Why there was no allocation, or the one before ended.
    pub last: Option<Outcome>,
    /// Addresses that may send to this node over it.
    pub permissions: usize,
    /// Channels at the server.
    pub channels: usize,
    /// Bytes of QUIC sent over TURN since the start.
    pub bytes_sent: u64,
    /// Bytes of QUIC received over TURN since the start.
    pub bytes_received: u64,
    /// Connections over TURN, at this node's relayed address and at those of others.
    pub connections: usize,
    /// Peers with which a connection over TURN is being made.
    pub meetings: usize,
}

/// Over whose TURN server a connection leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// This node's.
    Own,
    /// The peer's, and to there directly.
    Theirs,
}

/// The ends of the channels to the worker.
struct WorkerEnds {
    /// As many as may be met, and whether an allocation is wanted.
    orders: mpsc::Sender<Order>,
    told: mpsc::Receiver<Told>,
    shown: watch::Receiver<Shown>,
}

/// The listener of an allocation.
struct Listens {
    relayed: SocketAddr,
    id: Option<ListenerId>,
}

/// What this node does with TURN servers. Beside what [`Meetings`] holds: 100 bytes for each peer that
/// is being met, 16 for each connection.
pub(crate) struct Part {
    enabled: Enabled,
    /// Whether peers are reached over TURN servers at all.
    used: bool,
    policy: AddressPolicy,
    shared: Shared,
    meetings: Meetings,
    worker: Option<WorkerEnds>,
    sockets: Sockets,
    metrics: TurnMetrics,
    wanted: bool,
    /// Orders that the worker has not taken yet: one for each peer that is being met, at most.
    orders: VecDeque<Order>,
    mapped: Option<SocketAddr>,
    listens: Option<Listens>,
    /// Listeners of allocations that are over: those to be closed, and those of which it was not heard
    /// yet that they are.
    over: Vec<ListenerId>,
    closing: HashSet<ListenerId>,
    answers: HashMap<PeerId, ResponseChannel<Response>>,
    requests: HashMap<OutboundRequestId, PeerId>,
    /// Dials of relayed addresses under way, and whether they are from this node's own.
    dials: HashMap<ConnectionId, (PeerId, bool)>,
    /// Connections over circuits, and those over TURN.
    circuits: HashSet<ConnectionId>,
    relayed: HashSet<ConnectionId>,
}

impl Part {
    /// Begins; the worker ends when this is closed or dropped. Without servers, or where nodes are
    /// within one process, there is none, and this node only dials those that have one.
    pub(in crate::nat) fn start(
        config: &crate::Config,
        parts: &Parts,
        network: bool,
        metrics: TurnMetrics,
        tasks: &TaskTracker,
    ) -> Self {
        let (policy, turn): (AddressPolicy, &Turn) = (config.address_policy, &config.nat.turn);
        let (shared, sockets) = (parts.shared.clone(), parts.sockets.clone());
        let used = config.nat.strategies.order.contains(&Strategy::Turn);
        let asks = network && turn.enabled != Enabled::Never && !turn.servers.is_empty();
        let worker = (used && asks).then(|| {
            let (give, orders) = mpsc::channel(turn.upgrade.max_attempts + 1);
            let (tell, told) = mpsc::channel(TOLD);
            let (show, shown) = watch::channel(Shown::default());
            let joints = Joints { orders, told: tell, shown: show, sockets: sockets.clone() };
            tasks.spawn(Worker::new(turn, policy, joints, metrics.clone()).run());
            WorkerEnds { orders: give, told, shown }
        });
        Self {
            enabled: turn.enabled,
            used,
            policy,
            shared,
            meetings: Meetings::new(&turn.upgrade, parts.local, policy),
            worker,
            sockets,
            metrics,
            wanted: false,
            orders: VecDeque::new(),
            mapped: None,
            listens: None,
            over: Vec::new(),
            closing: HashSet::new(),
            answers: HashMap::new(),
            requests: HashMap::new(),
            dials: HashMap::new(),
            circuits: HashSet::new(),
            relayed: HashSet::new(),
        }
    }

    /// What the worker tells; none if there is no worker. Safe to drop.
    pub(in crate::nat) async fn told(&mut self) -> Option<Told> {
        match &mut self.worker {
            Some(ends) => ends.told.recv().await,
            None => None,
        }
    }

    pub(in crate::nat) fn on_told(&mut self, told: Told, now: Instant) {
        match told {
            Told::Opened { relayed, mapped } => {
                self.mapped = mapped;
                self.listens = Some(Listens { relayed, id: None });
            }
            Told::Lost { relayed } => {
                self.shared.listens_at_turn(None);
                tracing::info!(%relayed, "the allocation at the TURN server is over");
                self.mapped = None;
                self.over.extend(self.listens.take().and_then(|listens| listens.id));
            }
            Told::Permitted { token, any } => self.meetings.on_permitted(token, any, now),
        }
    }

    /// A connection is there. Over whose TURN server it leads, if over any.
    pub(in crate::nat) fn on_established(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        endpoint: &ConnectedPoint,
        now: Instant,
    ) -> Option<Over> {
        let over = match (self.dials.remove(&id), endpoint) {
            (Some((_, true)), _) => Some(Over::Own),
            (Some((_, false)), _) => Some(Over::Theirs),
            (None, ConnectedPoint::Listener { local_addr, .. }) => {
                self.is_relayed(local_addr).then_some(Over::Own)
            }
            (None, ConnectedPoint::Dialer { .. }) => None,
        };
        let circuit = endpoint.is_relayed();
        if circuit {
            self.circuits.insert(id);
        }
        if over.is_some() {
            tracing::debug!(%peer, "connected over a TURN server");
            self.relayed.insert(id);
        }
        self.meetings.on_connected(peer, circuit, now);
        over
    }

    /// Whether an address is this node's own at its TURN server.
    pub(in crate::nat) fn is_relayed(&self, addr: &Multiaddr) -> bool {
        self.listens.as_ref().is_some_and(|listens| multiaddr(listens.relayed) == *addr)
    }

    /// A listener has closed. Whether it was that of an allocation.
    pub(in crate::nat) fn on_listener_closed(&mut self, id: ListenerId) -> bool {
        self.listens.take_if(|listens| listens.id == Some(id)).is_some() || self.closing.remove(&id)
    }

    pub(in crate::nat) fn on_closed(&mut self, peer: &PeerId, id: ConnectionId, now: Instant) {
        self.relayed.remove(&id);
        let circuit = self.circuits.remove(&id);
        self.meetings.on_closed(peer, circuit, now);
    }

    /// A dial has failed. Whether it was one of a relayed address, which says nothing of the peer.
    pub(in crate::nat) fn on_dial_failed(&mut self, id: ConnectionId, now: Instant) -> bool {
        let Some((peer, _)) = self.dials.remove(&id) else { return false };
        self.meetings.on_dial_failed(&peer, now);
        true
    }

    pub(in crate::nat) fn on_talk(
        &mut self,
        event: request_response::Event<Request, Response>,
        now: Instant,
    ) {
        match event {
            request_response::Event::Message { peer, message, .. } => match message {
                Message::Request { request, channel, .. } => {
                    // One at a time: whoever asks again gets no answer to what it asked before.
                    self.answers.insert(peer, channel);
                    self.meetings.on_request(peer, &request.place, now);
                }
                Message::Response { request_id, response } => {
                    if let Some(peer) = self.requests.remove(&request_id) {
                        self.meetings.on_response(&peer, &response, now);
                    }
                }
            },
            request_response::Event::OutboundFailure { request_id, error, .. } => {
                let Some(peer) = self.requests.remove(&request_id) else { return };
                let met = match error {
                    OutboundFailure::Timeout => Met::Timeout,
                    OutboundFailure::DialFailure | OutboundFailure::ConnectionClosed => Met::Gone,
                    OutboundFailure::UnsupportedProtocols => Met::Refused,
                    OutboundFailure::Io(_) => Met::Protocol,
                };
                self.meetings.on_no_response(&peer, met, now);
            }
            request_response::Event::InboundFailure { peer, error, .. } => {
                tracing::debug!(%peer, %error, "a request to meet at a TURN server failed");
            }
            request_response::Event::ResponseSent { .. } => {}
        }
    }

    /// How things stand: what this node can do for meetings, and whether it wants an allocation.
    pub(in crate::nat) fn on_tick(
        &mut self,
        verdict: &Verdict,
        seen_at: impl IntoIterator<Item = SocketAddr>,
        now: Instant,
    ) {
        let relayed = self.listens.as_ref().filter(|l| l.id.is_some()).map(|l| l.relayed);
        let mut ips = HashSet::new();
        let mut seen_at: Vec<SocketAddr> = self.mapped.into_iter().chain(seen_at).collect();
        seen_at.retain(|at| self.policy.allows_ip(at.ip()) && ips.insert(at.ip()));
        let udp = self.used && verdict.state != State::UdpBlocked;
        self.meetings.on_here(Here { seen_at, relayed, udp });
        self.meetings.on_tick(now);
        let wanted = self.worker.is_some()
            && match (self.enabled, verdict.state) {
                (Enabled::Never, _) => false,
                (Enabled::Always, _) => true,
                // Nothing is to be had offline; and while too little is known, it may be needed.
                (Enabled::Needed, State::Public | State::Mapped | State::Offline) => false,
                (
                    Enabled::Needed,
                    State::Unknown | State::Cone | State::Symmetric | State::UdpBlocked,
                ) => true,
            };
        if wanted != self.wanted {
            self.wanted = wanted;
            self.orders.push_front(Order::Want(wanted));
        }
    }

    /// Does what is to be done; after every turn.
    pub(in crate::nat) fn advance(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        door: &Door,
        now: Instant,
    ) {
        self.listen(swarm);
        for action in self.meetings.actions() {
            match action {
                Action::Ask(peer, place) => {
                    let talk = &mut swarm.behaviour_mut().turn;
                    let id = talk.send_request(&peer, Request::new(place));
                    self.requests.insert(id, peer);
                }
                Action::Answer(peer, response) => {
                    if let Some(channel) = self.answers.remove(&peer) {
                        // Fails only if the peer has gone.
                        let _ = swarm.behaviour_mut().turn.send_response(channel, response);
                    }
                }
                Action::Permit(token, ips) => self.orders.push_back(Order::Permit { token, ips }),
                Action::Dial { peer, to, through } => {
                    if through {
                        self.sockets.go_through(to);
                    }
                    self.dial(peer, (to, through), swarm, door, now);
                }
                Action::Ended { by_peer, met } => {
                    tracing::debug!(by_peer, outcome = met.label(), "a meeting at a TURN server");
                    self.metrics.met(by_peer, met);
                }
            }
        }
        self.give_orders(now);
    }

    /// Listens at a new allocation, and no longer at old ones.
    fn listen(&mut self, swarm: &mut Swarm<Behaviour>) {
        for id in std::mem::take(&mut self.over) {
            if swarm.remove_listener(id) {
                self.closing.insert(id);
            }
        }
        if let Some(listens) = self.listens.as_mut().filter(|listens| listens.id.is_none()) {
            match swarm.listen_on(multiaddr(listens.relayed)) {
                Ok(id) => {
                    listens.id = Some(id);
                    self.shared.listens_at_turn(Some(multiaddr(listens.relayed)));
                }
                Err(error) => {
                    tracing::warn!(%error, "nothing is taken from the TURN server");
                    self.listens = None;
                }
            }
        }
    }

    fn give_orders(&mut self, now: Instant) {
        let Some(ends) = &self.worker else {
            for order in self.orders.drain(..) {
                if let Order::Permit { token, .. } = order {
                    self.meetings.on_permitted(token, false, now);
                }
            }
            return;
        };
        while let Some(order) = self.orders.pop_front() {
            if let Err(error) = ends.orders.try_send(order) {
                self.orders.push_front(error.into_inner());
                return;
            }
        }
    }

    fn dial(
        &mut self,
        peer: PeerId,
        (to, through): (SocketAddr, bool),
        swarm: &mut Swarm<Behaviour>,
        door: &Door,
        now: Instant,
    ) {
        let opts = DialOpts::peer_id(peer)
            .condition(PeerCondition::Always)
            .addresses(vec![multiaddr(to)])
            .build();
        let id = opts.connection_id();
        // It is one more beside the circuit, and says nothing of the peer if it fails.
        door.expect(&peer);
        door.dials_back(id);
        self.shared.goes_over_turn(id);
        match swarm.dial(opts) {
            Ok(()) => drop(self.dials.insert(id, (peer, through))),
            Err(error) => {
                tracing::debug!(%peer, %error, "a relayed address is not dialled");
                self.meetings.on_dial_failed(&peer, now);
            }
        }
    }

    pub(in crate::nat) fn view(&self, now: Instant) -> Option<TurnView> {
        let shown = self.worker.as_ref()?.shown.borrow();
        let left = |ends: Instant| ends.saturating_duration_since(now).as_secs();
        Some(TurnView {
            server: shown.server.as_ref().map(ToString::to_string),
            transport: shown.server.as_ref().map(|server| server.carrier),
            relayed: shown.allocation.map(|allocation| allocation.relayed),
            expires_secs: shown.allocation.map(|allocation| left(allocation.ends)),
            last: shown.last,
            permissions: shown.permissions,
            channels: shown.channels,
            bytes_sent: self.metrics.bytes_sent.get(),
            bytes_received: self.metrics.bytes_received.get(),
            connections: self.relayed.len(),
            meetings: self.meetings.underway(),
        })
    }

    /// Ends the worker: the allocation is given back.
    pub(in crate::nat) fn close(&mut self) {
        self.worker = None;
    }
}

fn multiaddr(socket: SocketAddr) -> Multiaddr {
    Multiaddr::from(socket.ip()).with(Protocol::Udp(socket.port())).with(Protocol::QuicV1)
}
