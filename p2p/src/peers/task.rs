//! The driver's part of peers: connections as they come and go, and service records.

mod book;

use super::{
    Book, Command, Config, ConnectError, LocalServices, PeerView, Saver, ServiceError,
    ServiceRecord, Status,
    book::Met,
    codec::{Request, Response},
    dialling,
    handle::{Connected, Served},
    lookups::{Ask, Lookups, Unreachable},
    services::Local,
    table::{Direction, Peer, Table},
};
use crate::{
    AddressPolicy, Identity, Metrics, Multiaddr, PeerId, Protocols, Reputation, Standing,
    address::{ip_of, is_circuit},
    behaviour::Behaviour,
    connections::{Ban, BanError, BanTarget, Door, OTHER_CHAIN, Refused, UnbanError},
    dht::{Dht, Seen},
    gossip::{Behaviours, Gossip},
    identity::key_of,
    metrics::gauge,
};
use libp2p::{
    core::ConnectedPoint,
    identify, ping,
    request_response::{self, Message, OutboundFailure, OutboundRequestId},
    swarm::{ConnectionDenied, ConnectionId, DialError, ListenError, Swarm, dial_opts::DialOpts},
};
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// What peers need of the rest while handling a command or event.
pub(crate) struct Context<'a> {
    pub(crate) swarm: &'a mut Swarm<Behaviour>,
    pub(crate) dht: &'a mut Dht,
    pub(crate) gossip: &'a Gossip,
    pub(crate) now: Instant,
    pub(crate) now_ms: u64,
}

/// What peers are made of.
pub(crate) struct Parts {
    pub(crate) policy: AddressPolicy,
    pub(crate) identity: Identity,
    /// Where this node is reached, by its operator's word.
    pub(crate) public_addrs: Vec<Multiaddr>,
    pub(crate) protocols: Protocols,
    pub(crate) reputation: Arc<dyn Reputation>,
    pub(crate) metrics: Metrics,
    pub(crate) door: Door,
    pub(crate) book: Book,
    /// None if nothing is kept over a restart.
    pub(crate) saver: Option<Saver>,
}

pub(crate) struct Peers {
    config: Config,
    policy: AddressPolicy,
    identity: Identity,
    public_addrs: Vec<Multiaddr>,
    protocols: Protocols,
    reputation: Arc<dyn Reputation>,
    metrics: Metrics,
    door: Door,
    table: Table,
    local: Local,
    lookups: Lookups<Served>,
    /// Requests under way: one for each lookup, and those whose lookup ran out of time before
    /// request-response's own timeout.
    requests: HashMap<OutboundRequestId, PeerId>,
    /// Calls to connect, bounded by `max_connecting`.
    connecting: HashMap<ConnectionId, Connected>,
    book: Book,
    /// None if nothing is kept over a restart.
    saver: Option<Saver>,
}

impl Peers {
    pub(crate) fn new(config: &Config, parts: Parts) -> Self {
        let Parts {
            policy,
            identity,
            public_addrs,
            protocols,
            reputation,
            metrics,
            door,
            book,
            saver,
        } = parts;
        metrics.book_peers.set(gauge(book.len()));
        Self {
            config: config.clone(),
            policy,
            identity,
            public_addrs,
            protocols,
            reputation,
            metrics,
            door,
            table: Table::default(),
            local: Local::new(config.service_lifetime, policy),
            lookups: Lookups::new(config),
            requests: HashMap::new(),
            connecting: HashMap::new(),
            book,
            saver,
        }
    }

    pub(crate) fn on_command(&mut self, command: Command, mut cx: Context<'_>) {
        match command {
            Command::Status { answer } => {
                let _ = answer.send(self.status(&mut cx));
            }
            Command::List { answer } => {
                let _ = answer.send(self.list(&mut cx));
            }
            Command::Known { peer, answer } => {
                let _ = answer.send(self.known(&peer, &cx));
            }
            Command::Breakers { answer } => {
                let _ = answer.send(cx.swarm.behaviour().dialling.views(cx.now));
            }
            Command::ServiceRecord { peer, fresh, answer } => {
                self.find_record(peer, fresh, answer, &mut cx);
            }
            Command::SetServices { services, answer } => {
                self.set_services(services);
                let _ = answer.send(());
            }
            Command::Connect { addr, answer } => self.connect(addr, answer, &mut cx),
            Command::Ban { target, duration, reason, answer } => {
                let _ = answer.send(self.ban(target, duration, reason, &mut cx));
            }
            Command::Unban { target, answer } => {
                let _ = answer.send(self.door.unban(&target).ok_or(UnbanError::NotBanned));
            }
            Command::Bans { answer } => {
                let _ = answer.send(self.door.bans());
            }
        }
    }

    fn status(&self, cx: &mut Context<'_>) -> Status {
        let text = |addrs: Vec<Multiaddr>| addrs.iter().map(Multiaddr::to_string).collect();
        let dht = cx.dht.status(&mut cx.swarm.behaviour_mut().kad, cx.now);
        Status {
            peer_id: self.identity.peer_id().to_string(),
            key: hex::encode(self.identity.key()),
            listen_addrs: text(listens(cx.swarm).cloned().collect()),
            external_addrs: text(cx.swarm.external_addresses().cloned().collect()),
            connected_peers: self.table.len(),
            connections: self.table.connections(),
            connection_limit: self.config.max_connections,
            admission: self.door.status(),
            refused: self.door.refusals(),
            mode: dht.mode,
            routing_table: dht.routing_table,
            topics: cx.gossip.status(cx.swarm.behaviour_mut().gossip()),
        }
    }

    fn list(&self, cx: &mut Context<'_>) -> Vec<PeerView> {
        let gossip: Behaviours<'_> = cx.swarm.behaviour_mut().gossip();
        let mut peers: Vec<PeerView> = self
            .table
            .iter()
            .filter_map(|(peer, entry)| {
                let key = key_of(peer)?;
                let (direction, since) = entry.oldest()?;
                Some(PeerView {
                    peer_id: peer.to_string(),
                    key: hex::encode(key),
                    addresses: entry.addresses.iter().map(Multiaddr::to_string).collect(),
                    direction: direction.label(),
                    connected_secs: cx.now.saturating_duration_since(since).as_secs(),
                    agent: entry.agent.clone(),
                    ping_ms: entry.ping.map(|rtt| rtt.as_secs_f64() * 1000.0),
                    reputation: self.reputation.standing(&key),
                    gossip_score: gossip.score(peer),
                    roles: self.lookups.peek(&key).map(|record| record.roles),
                })
            })
            .collect();
        peers.sort_by(|a, b| a.peer_id.cmp(&b.peer_id));
        peers
    }

    fn set_services(&mut self, services: LocalServices) {
        self.local.set(services);
    }

    // Connections.

    fn connect(&mut self, addr: Multiaddr, answer: Connected, cx: &mut Context<'_>) {
        if !self.policy.allows(&addr) && !self.policy.allows_circuit(&addr) {
            let _ = answer.send(Err(ConnectError::NotAllowed(addr)));
            return;
        }
        if self.connecting.len() >= self.config.max_connecting {
            let _ = answer.send(Err(ConnectError::Busy));
            return;
        }
        let opts = DialOpts::from(addr);
        let (id, peer) = (opts.connection_id(), opts.get_peer_id());
        if let Some(peer) = peer.filter(|peer| self.table.contains(peer)) {
            let _ = answer.send(Ok(peer));
            return;
        }
        match cx.swarm.dial(opts) {
            Ok(()) => {
                self.connecting.insert(id, answer);
            }
            Err(error) => {
                let _ = answer.send(Err(connect_error(&error)));
            }
        }
    }

    /// A connection is there. Where it leads over a TURN server, its address is nothing to dial again.
    pub(crate) fn on_established(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        endpoint: &ConnectedPoint,
        over_turn: bool,
        now: Instant,
    ) {
        let direction = match endpoint {
            ConnectedPoint::Dialer { .. } => Direction::Outbound,
            ConnectedPoint::Listener { .. } => Direction::Inbound,
        };
        let remote = ip_of(endpoint.get_remote_address());
        self.table.opened(peer, id, direction, remote, now);
        if direction == Direction::Outbound && !endpoint.is_relayed() && !over_turn {
            self.table.dialled(&peer, endpoint.get_remote_address());
        }
        self.metrics.connections_established.inc();
        if let Some(answer) = self.connecting.remove(&id) {
            let _ = answer.send(Ok(peer));
        }
    }

    /// Whether the peer's last connection has closed.
    pub(crate) fn on_closed(
        &mut self,
        peer: &PeerId,
        id: ConnectionId,
        now: Instant,
        now_ms: u64,
    ) -> bool {
        self.metrics.connections_closed.inc();
        let Some((lasted, gone)) = self.table.closed(peer, id, now) else { return false };
        self.metrics.connection_duration.observe(lasted.as_secs_f64());
        if gone {
            self.book.seen(peer, now_ms);
        }
        gone
    }

    /// A dial has failed. Whether it is the peer that could not be reached, and not this node that would
    /// not dial it.
    pub(crate) fn on_dial_failed(
        &mut self,
        peer: Option<PeerId>,
        id: ConnectionId,
        error: &DialError,
        now: Instant,
    ) -> bool {
        self.failed(dial_label(error));
        let lost = dialling::judge(error).is_some();
        if let Some(peer) = peer.filter(|_| lost) {
            self.book.failed(&peer);
            self.lost(&peer, now);
        }
        if let Some(answer) = self.connecting.remove(&id) {
            let _ = answer.send(Err(connect_error(error)));
        }
        lost
    }

    /// A peer could not be reached, or its connection broke: its record may tell where it was.
    pub(crate) fn lost(&mut self, peer: &PeerId, now: Instant) {
        if let Some(key) = key_of(peer) {
            self.lookups.doubt(&key, now);
        }
    }

    pub(crate) fn on_incoming_failed(&mut self, error: &ListenError) {
        self.failed(match error {
            // Counted where it was refused.
            ListenError::Denied { .. } => None,
            ListenError::Aborted => Some("aborted"),
            ListenError::WrongPeerId { .. } => Some("wrong_peer"),
            ListenError::LocalPeerId { .. } => Some("own_key"),
            ListenError::Transport(_) => Some("transport"),
        });
    }

    fn failed(&self, reason: Option<&'static str>) {
        if let Some(reason) = reason {
            self.metrics.connections_failed.with_label_values(&[reason]).inc();
        }
    }

    pub(crate) fn on_identify(&mut self, event: identify::Event, cx: &mut Context<'_>) {
        let identify::Event::Received { peer_id: peer, info, .. } = event else { return };
        if info.protocol_version != self.protocols.chain() {
            tracing::debug!(%peer, theirs = %info.protocol_version, "peer of another chain");
            self.metrics.connections_refused.with_label_values(&[OTHER_CHAIN]).inc();
            self.disconnect(&peer, cx);
            return;
        }
        let told = self.table.identified(&peer, &info.agent_version, &info.listen_addrs);
        if told.moved {
            // Its service record may say where it was.
            self.lost(&peer, cx.now);
        }
        if info.protocols.contains(&self.protocols.kad()) {
            let known = self.table.get(&peer);
            let kad = &mut cx.swarm.behaviour_mut().kad;
            let ip = known.and_then(Peer::ip);
            let dialled = known.and_then(|entry| entry.dialled.as_ref());
            let seen = Seen { ip, reached: dialled.is_some(), told: &info.listen_addrs };
            cx.dht.on_identified(&peer, seen, kad, cx.now);
            // A client tells no protocol of the directory: nobody could reach it later.
            let met = Met { dialled, told: &info.listen_addrs, ip, again: told.again };
            self.book.met(&peer, met, cx.now_ms);
        }
    }

    pub(crate) fn on_ping(&mut self, event: ping::Event) {
        if let Ok(rtt) = event.result {
            self.table.pinged(&event.peer, rtt);
        }
    }

    /// Closes all connections to a peer and takes it out of the routing table and the book.
    fn disconnect(&mut self, peer: &PeerId, cx: &mut Context<'_>) {
        self.book.forget(peer);
        cx.dht.forget_peer(peer, &mut cx.swarm.behaviour_mut().kad, cx.now);
        // Fails only if it is not connected (any more), which is what we want.
        let _ = cx.swarm.disconnect_peer_id(*peer);
    }

    /// Whoever is banned leaves at once.
    fn ban(
        &mut self,
        target: BanTarget,
        duration: Option<Duration>,
        reason: String,
        cx: &mut Context<'_>,
    ) -> Result<Ban, BanError> {
        let (ban, leaving) = self.door.ban(target, duration, reason)?;
        for peer in leaving {
            tracing::info!(%peer, target = %ban.target, "disconnecting a peer that is now banned");
            self.disconnect(&peer, cx);
        }
        Ok(ban)
    }

    /// Reputation has changed: graylisted peers leave, connected or not.
    pub(crate) fn on_reputation(&mut self, mut cx: Context<'_>) {
        let connected = self.table.iter().map(|(peer, _)| *peer);
        let reputation = &*self.reputation;
        let graylisted = |peer: &PeerId| {
            standing(reputation, peer).is_some_and(|standing| standing.graylisted())
        };
        let leaving: Vec<PeerId> = connected.filter(graylisted).collect();
        self.book.retain(|peer| !graylisted(peer));
        cx.dht.on_reputation(&mut cx.swarm.behaviour_mut().kad, cx.now);
        for peer in leaving {
            tracing::info!(%peer, "disconnecting a peer that is now graylisted");
            self.metrics.connections_refused.with_label_values(&["graylisted"]).inc();
            self.disconnect(&peer, &mut cx);
        }
    }

    // Service records.

    fn find_record(&mut self, peer: PeerId, fresh: bool, answer: Served, cx: &mut Context<'_>) {
        let Some(key) = key_of(&peer) else {
            let _ = answer.send(Err(ServiceError::KeyType));
            return;
        };
        if peer == self.identity.peer_id() {
            let own = self.own_record(cx).map(|(record, _)| record);
            let _ = answer.send(own.ok_or(ServiceError::NotOffered));
            return;
        }
        let asked = match fresh {
            true => self.lookups.ask_anew(peer, answer, cx.now),
            false => self.lookups.ask(peer, &key, answer, cx.now, cx.now_ms),
        };
        match asked {
            Ask::Known(answer, record) => {
                let _ = answer.send(Ok(*record));
            }
            // Asking the network where it is would not get it dialled either.
            Ask::Start if self.is_left_alone(&peer, cx) => {
                answer_all(self.lookups.failed(&peer), Err(ServiceError::Unreachable));
            }
            Ask::Start => self.request(peer, Vec::new(), cx),
            Ask::Joined => {}
            Ask::Refused(answer) => {
                self.metrics.commands_refused.with_label_values(&["peers"]).inc();
                let _ = answer.send(Err(ServiceError::Busy));
            }
        }
    }

    /// Whether a peer is not connected and would not be dialled.
    fn is_left_alone(&self, peer: &PeerId, cx: &Context<'_>) -> bool {
        !self.table.contains(peer) && cx.swarm.behaviour().dialling.refuses(peer, cx.now)
    }

    fn request(&mut self, peer: PeerId, addrs: Vec<Multiaddr>, cx: &mut Context<'_>) {
        let services = &mut cx.swarm.behaviour_mut().services;
        let id = if addrs.is_empty() {
            services.send_request(&peer, Request::CURRENT)
        } else {
            services.send_request_with_addresses(&peer, Request::CURRENT, addrs)
        };
        self.requests.insert(id, peer);
    }

    /// The directory has told where a peer is, or nothing.
    pub(crate) fn on_located(&mut self, peer: PeerId, addrs: Vec<Multiaddr>, mut cx: Context<'_>) {
        if !self.lookups.is_asked(&peer) {
            return;
        }
        // The lookup itself may have connected to it.
        if addrs.is_empty() && !self.table.contains(&peer) {
            answer_all(self.lookups.failed(&peer), Err(ServiceError::Unreachable));
        } else {
            self.request(peer, addrs, &mut cx);
        }
    }

    pub(crate) fn on_services(
        &mut self,
        event: request_response::Event<Request, Response>,
        mut cx: Context<'_>,
    ) {
        match event {
            request_response::Event::Message { message, .. } => match message {
                Message::Request { channel, .. } => {
                    let record = self.own_record(&mut cx).map(|(_, bytes)| bytes);
                    let services = &mut cx.swarm.behaviour_mut().services;
                    // Fails only if the peer has gone.
                    let _ = services.send_response(channel, Response { record });
                }
                Message::Response { request_id, response } => {
                    if let Some(peer) = self.requests.remove(&request_id) {
                        self.on_response(peer, response, &cx);
                    }
                }
            },
            request_response::Event::OutboundFailure { request_id, error, .. } => {
                if let Some(peer) = self.requests.remove(&request_id) {
                    self.on_request_failed(peer, &error, &mut cx);
                }
            }
            request_response::Event::InboundFailure { peer, error, .. } => {
                tracing::debug!(%peer, %error, "service request failed");
            }
            request_response::Event::ResponseSent { .. } => {}
        }
    }

    fn own_record(&mut self, cx: &mut Context<'_>) -> Option<(ServiceRecord, Vec<u8>)> {
        // That the overlay's own port is reached at an address (mapped, punched, through a circuit) says
        // nothing of the shard service's. The operator's word does, and so does listening there.
        let hosts: Vec<Multiaddr> =
            self.public_addrs.iter().chain(cx.swarm.listeners()).cloned().collect();
        match self.local.current(&hosts, &self.identity, &self.protocols, cx.now_ms) {
            Ok(record) => record.cloned(),
            Err(error) => {
                tracing::warn!(%error, "the service record cannot be signed");
                None
            }
        }
    }

    fn on_response(&mut self, peer: PeerId, response: Response, cx: &Context<'_>) {
        let Some(bytes) = response.record else {
            answer_all(self.lookups.failed(&peer), Err(ServiceError::NotOffered));
            return;
        };
        let seen = key_of(&peer).and_then(|key| self.lookups.seen(&key));
        let (chain, policy) = (&self.protocols, self.policy);
        match ServiceRecord::verify(&bytes, &peer, chain, policy, seen, cx.now_ms) {
            Ok(record) => {
                answer_all(self.lookups.learned(&peer, record.clone(), cx.now), Ok(record));
            }
            Err(error) => {
                tracing::debug!(%peer, reason = error.label(), "service record refused");
                self.metrics.service_records_refused.with_label_values(&[error.label()]).inc();
                answer_all(self.lookups.failed(&peer), Err(error.into()));
            }
        }
    }

    fn on_request_failed(&mut self, peer: PeerId, error: &OutboundFailure, cx: &mut Context<'_>) {
        let answer = match error {
            OutboundFailure::DialFailure if self.is_left_alone(&peer, cx) => {
                ServiceError::Unreachable
            }
            OutboundFailure::DialFailure => match self.lookups.unreachable(&peer) {
                Unreachable::Locate => {
                    cx.dht.locate(peer, cx.swarm.behaviour_mut().dht(), cx.now);
                    return;
                }
                Unreachable::GiveUp(waiters) => {
                    answer_all(waiters, Err(ServiceError::Unreachable));
                    return;
                }
            },
            OutboundFailure::Timeout => ServiceError::Timeout,
            OutboundFailure::ConnectionClosed
            | OutboundFailure::UnsupportedProtocols
            | OutboundFailure::Io(_) => ServiceError::Protocol,
        };
        answer_all(self.lookups.failed(&peer), Err(answer));
    }

    pub(crate) fn on_tick(&mut self, now: Instant, now_ms: u64) {
        answer_all(self.lookups.overdue(now), Err(ServiceError::Timeout));
        self.refresh_book(now_ms);
        self.book.expire(now_ms);
        self.metrics.book_peers.set(gauge(self.book.len()));
        if let Some(saver) = &mut self.saver {
            saver.on_tick(&mut self.book, now);
        }
    }

    // What others ask.

    pub(crate) fn is_connected(&self, peer: &PeerId) -> bool {
        self.table.contains(peer)
    }

    pub(crate) fn connected_count(&self) -> usize {
        self.table.len()
    }
}

/// The addresses that are listened on; what is listened on at a relay is the relay's.
pub(crate) fn listens(swarm: &Swarm<Behaviour>) -> impl Iterator<Item = &Multiaddr> {
    swarm.listeners().filter(|addr| !is_circuit(addr))
}

fn standing(reputation: &dyn Reputation, peer: &PeerId) -> Option<Standing> {
    key_of(peer).and_then(|key| reputation.standing(&key))
}

fn answer_all(waiters: Vec<Served>, answer: Result<ServiceRecord, ServiceError>) {
    for waiter in waiters {
        // A caller that has gone away wants no answer.
        let _ = waiter.send(answer.clone());
    }
}

/// All labels that `on_incoming_failed` and `dial_label` give, which dashboards see from the start.
pub(crate) const FAILURES: [&str; 5] =
    ["aborted", "no_addresses", "own_key", "transport", "wrong_peer"];

fn denied(cause: &ConnectionDenied) -> String {
    let limit = cause.downcast_ref::<Refused>().map(ToString::to_string);
    let breaker = || cause.downcast_ref::<dialling::Refused>().map(ToString::to_string);
    limit.or_else(breaker).unwrap_or_else(|| cause.to_string())
}

fn connect_error(error: &DialError) -> ConnectError {
    match error {
        DialError::Denied { cause } => ConnectError::Refused(denied(cause)),
        other => ConnectError::Failed(other.to_string()),
    }
}

/// The metric label; nothing for what is counted elsewhere or is no failure.
fn dial_label(error: &DialError) -> Option<&'static str> {
    match error {
        DialError::Denied { .. } | DialError::DialPeerConditionFalse(_) => None,
        DialError::LocalPeerId { .. } => Some("own_key"),
        DialError::NoAddresses => Some("no_addresses"),
        DialError::Aborted => Some("aborted"),
        DialError::WrongPeerId { .. } => Some("wrong_peer"),
        DialError::Transport(_) => Some("transport"),
    }
}
