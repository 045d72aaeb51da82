//! The client side of kad's protocol: asks peers, and tells them what this node provides.
//!
//! libp2p's kad cannot send a record to a peer of one's choice, nor many on one stream, nor follow
//! disjoint paths, so it only serves here. Its inbound side reads any number of messages on one
//! stream, one after the other (`WaitingMessage` in its `handler.rs`), which all of this rests on.
//!
//! A request goes to the connection there is, or waits until its peer was dialled. Dials pass the
//! same gates as any other: admission, breakers, budgets by IP. Only such addresses are dialled as
//! come with the request and the policy allows.
//!
//! Where providers are said to be is remembered ([`whereabouts`]) for whoever dials them by their PeerId.
//!
//! Nothing here looks at a clock but the streams themselves: `now` is passed in, see
//! [`Behaviour::expire`].

mod handler;
mod talk;
#[cfg(test)]
mod tests;
mod whereabouts;
mod wire;

use super::{
    Config, Key,
    network::{Answer, Contact, Failure, Question},
    store::{MAX_ADDRESS_BYTES, MAX_ADDRESSES},
};
use crate::{
    AddressPolicy, Metrics, Multiaddr, PeerId, Protocols,
    address::{IpGroup, ip_of},
};
use handler::{Done, Handler};
use libp2p::{
    StreamProtocol,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, DialError, DialFailure, ExternalAddresses, FromSwarm,
        NetworkBehaviour, NotifyHandler, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        behaviour::{ConnectionClosed, ConnectionEstablished},
        dial_opts::{DialOpts, PeerCondition},
    },
};
use prometheus_endpoint::{CounterVec, U64};
use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};
use whereabouts::Whereabouts;

/// Which request.
pub(crate) type RequestId = u64;

/// What a peer is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// A question.
    Ask(Question),
    /// That this node provides some keys, and at the end whether it holds the record of one of them.
    Tell {
        /// The keys, one message each.
        keys: Vec<Key>,
        /// The one that is read back.
        sample: Key,
        /// This node.
        provider: PeerId,
        /// Where it is reached.
        addresses: Arc<[Multiaddr]>,
    },
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// To [`Request::Ask`].
    Answer(Answer),
    /// To [`Request::Tell`]: all messages were read, and whether the sample was kept.
    Told { kept: bool },
}

/// How a request has ended.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) id: RequestId,
    pub(crate) result: Result<Reply, Failure>,
    /// The network the peer was reached in, if it was and that is known.
    pub(crate) reached: Option<IpGroup>,
}

/// A request on its way to a connection.
#[derive(Debug)]
pub(crate) struct Job {
    id: RequestId,
    request: Request,
    deadline: Instant,
}

/// A request that was given to a connection.
struct Sent {
    connection: ConnectionId,
    /// A question that may be asked once more, if the connection closes and there is another: that
    /// of a dial that only checked whether the peer can be reached, say.
    again: Option<Job>,
}

/// What each connection needs to know.
#[derive(Clone, Copy, Debug)]
struct Limits {
    policy: AddressPolicy,
    streams: usize,
    stream_idle: Duration,
    peer_timeout: Duration,
}

/// A connection.
#[derive(Clone, Copy, Debug)]
struct Connection {
    id: ConnectionId,
    group: Option<IpGroup>,
}

/// A peer that is not connected, and the requests that wait for it.
#[derive(Debug)]
struct Absent {
    jobs: Vec<Job>,
    addresses: Vec<Multiaddr>,
    dial: Dial,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dial {
    /// Waits for its turn.
    Queued,
    /// Under way.
    Ours(ConnectionId),
    /// Under way for somebody else.
    Others,
}

/// Asks and tells.
///
/// Worst case with the usual settings: 1,024 requests with a question of 100 bytes and four addresses
/// of 320, 1.4 MB; their answers while they are read, 16 KiB each, 17 MB. A [`Request::Tell`] takes 32
/// bytes a key more; whoever sends them bounds how many there are.
pub(crate) struct Behaviour {
    protocol: StreamProtocol,
    limits: Limits,
    max_requests: usize,
    max_dials: usize,
    dropped: CounterVec<U64>,
    /// As many as may be open.
    connections: HashMap<PeerId, Vec<Connection>>,
    /// Requests given to a connection. Under 300 bytes each, a question's copy included.
    sent: HashMap<RequestId, Sent>,
    /// Requests that wait for a connection, by peer.
    absent: HashMap<PeerId, Absent>,
    /// The same, by the time they are given up.
    waiting: BTreeSet<(Instant, RequestId, PeerId)>,
    /// Peers to dial, each once; some may be connected or no longer asked by now.
    to_dial: VecDeque<PeerId>,
    /// Dials of ours under way.
    dialling: usize,
    external: ExternalAddresses,
    whereabouts: Whereabouts,
    /// At most two for each request.
    events: VecDeque<ToSwarm<Event, Job>>,
    waker: Option<Waker>,
}

impl Behaviour {
    pub(crate) fn new(
        config: &Config,
        policy: AddressPolicy,
        protocols: &Protocols,
        metrics: &Metrics,
    ) -> Self {
        Self {
            protocol: protocols.kad(),
            limits: Limits {
                policy,
                streams: config.streams_per_connection,
                stream_idle: config.stream_idle,
                peer_timeout: config.peer_timeout,
            },
            max_requests: config.max_questions,
            max_dials: config.max_dials,
            dropped: metrics.lookups.dropped.clone(),
            connections: HashMap::new(),
            sent: HashMap::new(),
            absent: HashMap::new(),
            waiting: BTreeSet::new(),
            to_dial: VecDeque::new(),
            dialling: 0,
            external: ExternalAddresses::default(),
            whereabouts: Whereabouts::new(config.whereabouts),
            events: VecDeque::new(),
            waker: None,
        }
    }

    /// Whether another request may be sent.
    pub(crate) fn has_room(&self) -> bool {
        self.in_flight() < self.max_requests
    }

    /// Requests without an end.
    pub(crate) fn in_flight(&self) -> usize {
        self.sent.len() + self.waiting.len()
    }

    /// Whether there is a connection to the peer.
    pub(crate) fn is_connected(&self, peer: &PeerId) -> bool {
        self.connections.contains_key(peer)
    }

    /// Where others reach this node, as records tell it: as many addresses as they keep.
    pub(crate) fn own_addresses(&self) -> Arc<[Multiaddr]> {
        let known = self.external.iter().filter(|address| address.len() <= MAX_ADDRESS_BYTES);
        known.take(MAX_ADDRESSES).cloned().collect()
    }

    /// Sends a request to a peer; its end comes as an [`Event`] in any case, unless
    /// [`Self::forget`] is called. There is an end at once if there is no room.
    pub(crate) fn send(&mut self, id: RequestId, to: Contact, request: Request, deadline: Instant) {
        let job = Job { id, request, deadline };
        if !self.has_room() {
            self.end(id, Err(Failure::Busy), None);
        } else if let Some(connection) = self.connection(&to.peer) {
            self.give(to.peer, connection, job);
        } else {
            self.wait(to, job);
        }
        self.wake();
    }

    /// Takes back a request that was not given to a connection yet, for the answer is wanted no more.
    /// Whether it was: otherwise its end will come.
    pub(crate) fn forget(&mut self, id: RequestId, peer: &PeerId) -> bool {
        let Some(absent) = self.absent.get_mut(peer) else { return false };
        let Some(at) = absent.jobs.iter().position(|job| job.id == id) else { return false };
        let job = absent.jobs.swap_remove(at);
        self.waiting.remove(&(job.deadline, id, *peer));
        self.tidy(peer);
        true
    }

    /// Gives up the requests that waited too long for a connection.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some((deadline, id, peer)) = self.waiting.first().copied() {
            if deadline > now {
                break;
            }
            self.forget(id, &peer);
            self.end(id, Err(Failure::Timeout), None);
            self.wake();
        }
    }

    /// When [`Self::expire`] has something to do.
    pub(crate) fn expires_at(&self) -> Option<Instant> {
        self.waiting.first().map(|(deadline, ..)| *deadline)
    }

    fn connection(&self, peer: &PeerId) -> Option<Connection> {
        self.connections.get(peer)?.first().copied()
    }

    fn give(&mut self, peer_id: PeerId, connection: Connection, job: Job) {
        let again = match &job.request {
            Request::Ask(question) => {
                let request = Request::Ask(question.clone());
                Some(Job { id: job.id, request, deadline: job.deadline })
            }
            Request::Tell { .. } => None,
        };
        self.sent.insert(job.id, Sent { connection: connection.id, again });
        let handler = NotifyHandler::One(connection.id);
        self.events.push_back(ToSwarm::NotifyHandler { peer_id, handler, event: job });
    }

    fn wait(&mut self, to: Contact, job: Job) {
        let policy = self.limits.policy;
        let told = to.addresses.into_iter().filter(|address| policy.allows(address));
        if let Some(absent) = self.absent.get_mut(&to.peer) {
            if absent.dial == Dial::Queued {
                for address in told {
                    let known = absent.addresses.contains(&address);
                    if !known && absent.addresses.len() < super::routing::MAX_ADDRESSES {
                        absent.addresses.push(address);
                    }
                }
            }
            self.waiting.insert((job.deadline, job.id, to.peer));
            absent.jobs.push(job);
            return;
        }
        let addresses: Vec<Multiaddr> = told.collect();
        if addresses.is_empty() {
            self.end(job.id, Err(Failure::Unreachable), None);
            return;
        }
        self.waiting.insert((job.deadline, job.id, to.peer));
        self.absent.insert(to.peer, Absent { jobs: vec![job], addresses, dial: Dial::Queued });
        self.to_dial.push_back(to.peer);
    }

    /// Forgets a peer for which no request waits, but for a dial under way.
    fn tidy(&mut self, peer: &PeerId) {
        let idle = |absent: &Absent| absent.jobs.is_empty() && absent.dial == Dial::Queued;
        if self.absent.get(peer).is_some_and(idle) {
            self.absent.remove(peer);
            self.to_dial.retain(|queued| queued != peer);
        }
    }

    fn end(&mut self, id: RequestId, result: Result<Reply, Failure>, reached: Option<IpGroup>) {
        self.events.push_back(ToSwarm::GenerateEvent(Event { id, result, reached }));
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The next dial, if one is wanted and there is room.
    fn dial(&mut self) -> Option<DialOpts> {
        while self.dialling < self.max_dials {
            let peer = self.to_dial.pop_front()?;
            let Some(absent) = self.absent.get_mut(&peer) else { continue };
            let opts = DialOpts::peer_id(peer)
                .condition(PeerCondition::DisconnectedAndNotDialing)
                .addresses(std::mem::take(&mut absent.addresses))
                .build();
            absent.dial = Dial::Ours(opts.connection_id());
            self.dialling += 1;
            return Some(opts);
        }
        None
    }

    fn established(&mut self, opened: &ConnectionEstablished<'_>) {
        let peer = opened.peer_id;
        let group = ip_of(opened.endpoint.get_remote_address()).map(IpGroup::of);
        let connection = Connection { id: opened.connection_id, group };
        self.connections.entry(peer).or_default().push(connection);
        let Some(absent) = self.absent.remove(&peer) else { return };
        match absent.dial {
            Dial::Ours(_) => self.dialling = self.dialling.saturating_sub(1),
            Dial::Queued => self.to_dial.retain(|queued| *queued != peer),
            Dial::Others => {}
        }
        for job in absent.jobs {
            self.waiting.remove(&(job.deadline, job.id, peer));
            self.give(peer, connection, job);
        }
        self.wake();
    }

    fn closed(&mut self, closed: &ConnectionClosed<'_>) {
        if let Some(connections) = self.connections.get_mut(&closed.peer_id) {
            connections.retain(|connection| connection.id != closed.connection_id);
            if connections.is_empty() {
                self.connections.remove(&closed.peer_id);
            }
        }
        let of_it = self.sent.iter().filter(|(_, sent)| sent.connection == closed.connection_id);
        let broken: Vec<RequestId> = of_it.map(|(id, _)| *id).collect();
        for id in broken {
            let again = self.sent.remove(&id).and_then(|sent| sent.again);
            match (again, self.connection(&closed.peer_id)) {
                (Some(job), Some(other)) => {
                    self.give(closed.peer_id, other, job);
                    // Once is enough.
                    if let Some(sent) = self.sent.get_mut(&id) {
                        sent.again = None;
                    }
                }
                _ => self.end(id, Err(Failure::Broken), None),
            }
        }
        self.wake();
    }

    fn dial_failed(&mut self, failure: &DialFailure<'_>) {
        let Some(peer) = failure.peer_id else { return };
        let Some(absent) = self.absent.get_mut(&peer) else { return };
        match absent.dial {
            Dial::Ours(id) if id == failure.connection_id => {
                self.dialling = self.dialling.saturating_sub(1);
                if matches!(failure.error, DialError::DialPeerConditionFalse(_)) {
                    // Somebody else dials it: what comes of that is what comes of this.
                    absent.dial = Dial::Others;
                    return;
                }
            }
            Dial::Others => {}
            // Another dial; ours goes on.
            Dial::Ours(_) | Dial::Queued => return,
        }
        for job in self.absent.remove(&peer).map(|absent| absent.jobs).unwrap_or_default() {
            self.waiting.remove(&(job.deadline, job.id, peer));
            self.end(job.id, Err(Failure::Unreachable), None);
        }
        self.wake();
    }

    fn handler(&self) -> Handler {
        Handler::new(self.protocol.clone(), self.limits, self.dropped.clone())
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler())
    }

    /// Whoever dials a peer by its PeerId alone is told where it was said to be.
    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        Ok(peer.map(|peer| self.whereabouts.of(&peer)).unwrap_or_default())
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.external.on_swarm_event(&event);
        match event {
            FromSwarm::ConnectionEstablished(opened) => self.established(&opened),
            FromSwarm::ConnectionClosed(closed) => self.closed(&closed),
            FromSwarm::DialFailure(failure) => self.dial_failed(&failure),
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        Done { id, result }: THandlerOutEvent<Self>,
    ) {
        if let Ok(Reply::Answer(answer)) = &result {
            for provider in &answer.providers {
                // Whoever gave it up where it was may try again.
                if let Some(address) = self.whereabouts.told(provider) {
                    let peer_id = provider.peer;
                    self.events.push_back(ToSwarm::NewExternalAddrOfPeer { peer_id, address });
                }
            }
        }
        if self.sent.remove(&id).is_some() {
            let connections = self.connections.get(&peer).into_iter().flatten();
            let on = connections.copied().find(|known| known.id == connection);
            self.end(id, result, on.and_then(|known| known.group));
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(event);
        }
        if let Some(opts) = self.dial() {
            return Poll::Ready(ToSwarm::Dial { opts });
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
