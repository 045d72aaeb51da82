//! Reachability within the overlay's task: what happens becomes events, and what comes of them is
//! done.

use super::{
    Config, Verdict,
    client::Tested,
    mapping::{self, Leased, Order, Port, Told, Transport},
    metrics::NatMetrics,
    reachability::{Action, DialBack, Event, Reachability},
    relayed::{Parts, Relayed},
    strategies::Known,
    stun::{self, Ask, Heard, Outcome},
    turn::{Over, Part, Request, Response, Told as TurnTold},
};
use crate::{
    AddressPolicy, Multiaddr, PeerId,
    address::{IpGroup, ip_of, is_circuit, is_udp, without_peer},
    behaviour::Behaviour,
    connections::Door,
};
use futures::StreamExt;
use if_watch::{IfEvent, tokio::IfWatcher};
use libp2p::{
    Swarm,
    core::{
        ConnectedPoint,
        transport::{ListenerId, PortUse},
    },
    dcutr, identify,
    multiaddr::Protocol,
    relay, request_response,
    swarm::ConnectionId,
};
use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;

/// Mappings that were told and not taken in yet; 400 bytes each.
const TOLD: usize = 64;

/// What the tasks beside this one have to say.
pub(crate) enum News {
    Stun(Heard),
    Mapping(Told),
    Turn(TurnTold),
    Interfaces(IfEvent),
}

/// An open connection.
struct Connection {
    /// Where the other side is; nothing over the in-process transport, and through a relay.
    ip: Option<IpAddr>,
    udp: bool,
    /// Where this node reached the other side.
    dialled: Option<Multiaddr>,
    /// This node opened it from the port it listens on, so what the other side sees is that port.
    shows_port: bool,
}

/// What a STUN server said last.
pub(super) struct Server {
    pub(super) last: Outcome,
    pub(super) mapped: Option<SocketAddr>,
    pub(super) took: Duration,
    pub(super) at: Instant,
}

/// The ends of the channels to the STUN worker.
struct StunEnds {
    asks: mpsc::Sender<Ask>,
    heard: mpsc::Receiver<Heard>,
}

/// The ends of the channels to the mapping worker.
pub(super) struct MappingEnds {
    orders: mpsc::Sender<Order>,
    told: mpsc::Receiver<Told>,
    pub(super) shown: watch::Receiver<Leased>,
}

/// Holds what [`Reachability`] and relays do, 400 bytes for each open connection, and 300 bytes for
/// each STUN server.
pub(crate) struct Nat {
    policy: AddressPolicy,
    pub(super) stun_servers: Vec<String>,
    pub(super) reachability: Reachability,
    pub(super) relayed: Relayed,
    stun: Option<StunEnds>,
    /// A round that is to be asked for as soon as the worker takes it.
    ask: Option<Ask>,
    pub(super) mapping: Option<MappingEnds>,
    /// Whether the worker is still to hear of the ports, or to ask anew.
    tell_ports: bool,
    again: bool,
    /// By name.
    pub(super) servers: HashMap<String, Server>,
    connections: HashMap<ConnectionId, Connection>,
    /// Where peers said this turn that they see this node: to be told when a hole is punched.
    seen: Vec<Multiaddr>,
    /// Ports that are listened on, and by how many addresses.
    ports: HashMap<Port, usize>,
    pub(super) turn: Part,
    interfaces: Option<IfWatcher>,
    /// The machine's addresses now, and as they were when reachability last heard of them.
    ips: BTreeSet<IpAddr>,
    known_ips: Option<BTreeSet<IpAddr>>,
    metrics: Arc<NatMetrics>,
    shown: Verdict,
    /// Something has happened, or time has passed, since it was asked what is to be done.
    due: bool,
}

impl Nat {
    /// Begins; its tasks end when it is closed or dropped.
    pub(crate) fn start(
        config: &crate::Config,
        parts: Parts,
        metrics: Arc<NatMetrics>,
        tasks: &TaskTracker,
        now: Instant,
    ) -> Self {
        let (policy, nat): (AddressPolicy, &Config) = (config.address_policy, &config.nat);
        // There is nothing to find out for nodes within one process.
        let network = config.listen.iter().any(|addr| ip_of(addr).is_some());
        let stun = (network && !nat.stun.servers.is_empty()).then(|| {
            let (asks, asked) = mpsc::channel(1);
            let (hear, heard) = mpsc::channel(1);
            let answers = metrics.stun_answers.clone();
            let worker = stun::Worker::new(&nat.stun, policy, asked, hear, answers);
            tasks.spawn(worker.run());
            StunEnds { asks, heard }
        });
        let mapping = (network && nat.mapping.enabled.applies(policy)).then(|| {
            let (orders, ordered) = mpsc::channel(1);
            let (tell, told) = mpsc::channel(TOLD);
            let (show, shown) = watch::channel(Leased::default());
            let answers = metrics.mapping_answers.clone();
            let worker = mapping::Worker::new(&nat.mapping, policy, ordered, tell, show, answers);
            tasks.spawn(worker.run());
            MappingEnds { orders, told, shown }
        });
        let interfaces = if network {
            let watcher = IfWatcher::new();
            watcher
                .inspect_err(|error| tracing::warn!(%error, "network changes are not noticed"))
                .ok()
        } else {
            None
        };
        let turn = Part::start(config, &parts, network, metrics.turn.clone(), tasks);
        Self {
            policy,
            stun_servers: nat.stun.servers.clone(),
            reachability: Reachability::new(nat, policy, &config.public_addrs, now),
            relayed: Relayed::new(config, parts),
            stun,
            ask: None,
            mapping,
            tell_ports: false,
            again: false,
            servers: HashMap::new(),
            connections: HashMap::new(),
            seen: Vec::new(),
            ports: HashMap::new(),
            turn,
            interfaces,
            ips: BTreeSet::new(),
            known_ips: None,
            metrics,
            shown: Verdict::default(),
            due: true,
        }
    }

    /// What the tasks beside this one have to say; for ever if there are none. Safe to drop at any
    /// await.
    pub(crate) async fn news(&mut self) -> News {
        let heard = async {
            match &mut self.stun {
                Some(ends) => ends.heard.recv().await,
                None => None,
            }
        };
        let told = async {
            match &mut self.mapping {
                Some(ends) => ends.told.recv().await,
                None => None,
            }
        };
        let interfaces = async {
            match &mut self.interfaces {
                Some(watcher) => watcher.next().await,
                None => None,
            }
        };
        tokio::select! {
            Some(heard) = heard => News::Stun(heard),
            Some(told) = told => News::Mapping(told),
            Some(told) = self.turn.told() => News::Turn(told),
            Some(Ok(event)) = interfaces => News::Interfaces(event),
            else => std::future::pending().await,
        }
    }

    fn tell(&mut self, event: Event, now: Instant) {
        self.reachability.on(event, now);
        self.due = true;
    }

    pub(crate) fn on_news(&mut self, news: News, now: Instant) {
        match news {
            News::Stun(heard) => self.heard(heard, now),
            News::Mapping(Told::Mapped(addr)) => {
                tracing::info!(%addr, "the router says that it maps this address");
                self.tell(Event::Mapped(addr), now);
            }
            News::Mapping(Told::Lost(addr)) => {
                tracing::info!(%addr, "the router no longer maps this address");
                self.tell(Event::Unmapped(addr), now);
            }
            News::Turn(told) => {
                self.turn.on_told(told, now);
                self.due = true;
            }
            News::Interfaces(IfEvent::Up(net)) => {
                self.ips.insert(net.addr());
            }
            News::Interfaces(IfEvent::Down(net)) => {
                self.ips.remove(&net.addr());
            }
        }
    }

    fn heard(&mut self, heard: Heard, now: Instant) {
        for (name, result, took) in heard.by_name() {
            let last = result.err().unwrap_or(Outcome::Answered);
            let server = Server { last, mapped: result.ok(), took, at: now };
            self.servers.insert(name.to_owned(), server);
        }
        self.tell(Event::Stun(heard.report), now);
    }

    /// An address is listened on; one through a relay is the relay's word and nothing else.
    pub(crate) fn on_listening(&mut self, addr: &Multiaddr, now: Instant) {
        if is_circuit(addr) {
            return;
        }
        if let Some(port) = port_of(addr, self.policy) {
            *self.ports.entry(port).or_default() += 1;
            self.tell_ports = true;
        }
        self.tell(Event::Listens(addr.clone()), now);
    }

    pub(crate) fn on_silent(&mut self, addr: &Multiaddr, now: Instant) {
        if is_circuit(addr) {
            return;
        }
        if let Some(port) = port_of(addr, self.policy)
            && let Some(count) = self.ports.get_mut(&port)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.ports.remove(&port);
            }
            self.tell_ports = true;
        }
        self.tell(Event::Silent(addr.clone()), now);
    }

    /// A connection is there. Whether it leads over a TURN server: the address on the other side is
    /// none at which that peer can be reached by others, or later.
    pub(crate) fn on_established(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        endpoint: &ConnectedPoint,
        now: Instant,
    ) -> bool {
        let over = self.turn.on_established(peer, id, endpoint, now);
        let remote = endpoint.get_remote_address();
        let shows_port =
            matches!(endpoint, ConnectedPoint::Dialer { port_use: PortUse::Reuse, .. });
        // How this node speaks to its TURN server does not show whether UDP gets out, and what was
        // dialled over another's server is no address of the peer.
        let udp = is_udp(remote) && over != Some(Over::Own);
        let dialled = endpoint.is_dialer() && !endpoint.is_relayed() && over.is_none();
        let connection = Connection {
            ip: ip_of(remote),
            udp,
            dialled: dialled.then(|| remote.clone()),
            shows_port,
        };
        self.connections.insert(id, connection);
        self.count(now);
        over.is_some()
    }

    pub(crate) fn on_closed(&mut self, peer: &PeerId, id: ConnectionId, now: Instant) {
        self.turn.on_closed(peer, id, now);
        self.connections.remove(&id);
        self.count(now);
    }

    /// A dial has failed. Whether it was one that says nothing of the peer.
    pub(crate) fn on_dial_failed(&mut self, id: ConnectionId, now: Instant) -> bool {
        self.due = true;
        self.turn.on_dial_failed(id, now)
    }

    /// A peer asks to meet at a TURN server, or says whether it does.
    pub(crate) fn on_turn(
        &mut self,
        event: request_response::Event<Request, Response>,
        now: Instant,
    ) {
        self.turn.on_talk(event, now);
        self.due = true;
    }

    /// The last connection to a peer is gone.
    pub(crate) fn on_gone(&mut self, peer: &PeerId, now: Instant) {
        self.relayed.reservations().disconnected(peer, now);
    }

    pub(crate) fn on_ping(&mut self, peer: &PeerId, rtt: Duration) {
        self.relayed.reservations().pinged(peer, rtt);
    }

    /// A peer says who it is.
    pub(crate) fn on_identified(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        info: &identify::Info,
        now: Instant,
    ) {
        self.on_observed(id, &info.observed_addr, now);
        let dialled = self.connections.get(&id).and_then(|known| known.dialled.as_ref());
        self.relayed.on_identified(peer, info, dialled, now);
        self.due = true;
    }

    /// The directory says through which relays a peer is reached.
    pub(crate) fn learn(&self, known: Known) {
        self.relayed.learn(known);
    }

    pub(crate) fn on_circuits(&mut self, event: &relay::client::Event, now: Instant) {
        self.relayed.on_circuits(event, now);
        self.due = true;
    }

    /// Whether the listener that has closed was for a reservation, or one at a TURN server.
    pub(crate) fn on_listener_closed(
        &mut self,
        listener: ListenerId,
        reason: &Result<(), io::Error>,
        now: Instant,
    ) -> bool {
        self.due = true;
        self.turn.on_listener_closed(listener)
            || self.relayed.on_listener_closed(listener, reason, &self.metrics, now)
    }

    pub(crate) fn on_punched(&self, event: &dcutr::Event) {
        let peer = event.remote_peer_id;
        match &event.result {
            Ok(_) => tracing::debug!(%peer, "a hole is punched"),
            Err(error) => {
                // Dials are counted one by one, where they are made.
                if !error.to_string().contains("dial attempts") {
                    self.metrics.not_agreed();
                }
                tracing::debug!(%peer, %error, "no hole could be punched");
            }
        }
    }

    fn count(&mut self, now: Instant) {
        let open = self.connections.len();
        let udp = self.connections.values().filter(|connection| connection.udp).count();
        self.tell(Event::Connections { open, udp }, now);
    }

    /// A peer says where it sees this node.
    fn on_observed(&mut self, id: ConnectionId, addr: &Multiaddr, now: Instant) {
        let Some(connection) = self.connections.get(&id) else { return };
        if let Some(ip) = connection.ip.filter(|_| connection.shows_port) {
            let (addr, by) = (without_peer(addr), IpGroup::of(ip));
            // That it is seen at the TURN server it knows.
            if self.turn.is_relayed(&addr) {
                return;
            }
            // A relay tells its own address, and a transport cannot change on the way.
            if is_udp(&addr) == connection.udp {
                self.seen.push(addr.clone());
                self.tell(Event::Observed { addr, by }, now);
            }
        }
    }

    pub(crate) fn on_tested(&mut self, Tested { addr, ended }: Tested, now: Instant) {
        tracing::debug!(%addr, ?ended, "dial-back");
        self.metrics.dialled_back(&ended);
        self.tell(Event::DialBack { addr, ended }, now);
    }

    /// Notices that the machine's addresses changed, once the changes of one go are all there; and
    /// shows how things stand.
    pub(crate) fn on_tick(&mut self, now: Instant) {
        let same = self.known_ips.as_ref() == Some(&self.ips);
        if !same && !self.ips.is_empty() && self.known_ips.replace(self.ips.clone()).is_some() {
            tracing::info!("the machine's addresses changed");
            self.metrics.network_changed();
            self.tell(Event::NetworkChanged, now);
        }
        self.due = true;
        let verdict = self.reachability.verdict(now);
        let (state, nat) = (verdict.state, verdict.nat);
        if (state, nat) != (self.shown.state, self.shown.nat) {
            let (state, nat, percent) = (state.label(), nat.label(), verdict.confidence);
            tracing::info!(state, nat, percent, "how this node can be reached");
        }
        self.turn.on_tick(&verdict, self.seen_at(), now);
        self.shown = verdict;
        self.metrics.show(&self.reachability, &verdict, &self.leased().held);
    }

    /// How it stands with the router.
    pub(super) fn leased(&self) -> Leased {
        self.mapping.as_ref().map(|ends| ends.shown.borrow().clone()).unwrap_or_default()
    }

    /// Where others see this node, as STUN servers say and as its addresses are; those first that
    /// were seen from outside.
    fn seen_at(&self) -> Vec<SocketAddr> {
        let by_stun = self.servers.values().filter_map(|server| server.mapped);
        let own = self.reachability.shown();
        let own = own.iter().filter_map(|shown| Some(SocketAddr::new(ip_of(shown.addr)?, 0)));
        by_stun.chain(own).collect()
    }

    /// Does what is to be done; after every turn.
    pub(crate) fn advance(&mut self, swarm: &mut Swarm<Behaviour>, door: &Door, now: Instant) {
        if !std::mem::take(&mut self.due) {
            return;
        }
        self.turn.advance(swarm, door, now);
        let servers = swarm.behaviour().autonat.has_servers();
        for action in self.reachability.poll(servers, now) {
            match action {
                Action::Confirm(addr) => swarm.add_external_address(addr),
                Action::Withdraw(addr) => {
                    tracing::info!(%addr, "this address works no longer");
                    swarm.remove_external_address(&addr);
                }
                Action::Test { addr, avoid } => {
                    if !swarm.behaviour_mut().autonat.test(addr.clone(), &avoid) {
                        let ended = DialBack::Unanswered;
                        self.reachability.on(Event::DialBack { addr, ended }, now);
                    }
                }
                Action::AskStun { discover } => {
                    let before = self.ask.is_some_and(|ask| ask.discover);
                    self.ask = Some(Ask { discover: discover || before });
                }
                Action::Map => self.again = true,
            }
        }
        for addr in self.seen.drain(..) {
            swarm.behaviour_mut().seen_at(&addr);
        }
        self.relayed.advance(swarm, &self.metrics, now);
        if let (Some(ends), Some(ask)) = (&self.stun, self.ask)
            && ends.asks.try_send(ask).is_ok()
        {
            self.ask = None;
        }
        if let Some(ends) = &self.mapping {
            if self.tell_ports {
                let mut ports: Vec<Port> = self.ports.keys().copied().collect();
                ports.sort_unstable();
                self.tell_ports = ends.orders.try_send(Order::Want(ports)).is_err();
            }
            if self.again && !self.tell_ports {
                self.again = ends.orders.try_send(Order::Again).is_err();
            }
        }
    }

    /// Ends the tasks that nothing needs which still closes: the STUN socket is closed, and all mappings
    /// are removed.
    pub(crate) fn close(&mut self) {
        self.stun = None;
        self.mapping = None;
        self.interfaces = None;
    }

    /// Gives back the allocation at the TURN server, after the connections over it have closed.
    pub(crate) fn release(&mut self) {
        self.turn.close();
    }
}

/// The port of a listen address, if others could be let through to it.
fn port_of(addr: &Multiaddr, policy: AddressPolicy) -> Option<Port> {
    let ip = ip_of(addr)?;
    let (transport, port) = match addr.iter().nth(1)? {
        Protocol::Udp(port) => (Transport::Udp, port),
        Protocol::Tcp(port) => (Transport::Tcp, port),
        _ => return None,
    };
    // Routers map ports of IPv4; and nobody outside reaches loopback, except where all is within
    // one machine.
    let outside = !ip.is_loopback() || policy == AddressPolicy::Any;
    (ip.is_ipv4() && outside).then_some(Port { transport, port })
}
