//! Which connection carries a stream, and how a peer is reached that has none.

use super::{
    Config, Offer, OpenError,
    counts::{Counts, Place},
    handle::Answer,
    handler::{Common, Handler},
    reason,
};
use crate::{Metrics, Multiaddr, PeerId, Protocols};
use libp2p::{
    core::{Endpoint, transport::PortUse},
    multiaddr::Protocol,
    swarm::{
        ConnectionClosed, ConnectionDenied, ConnectionId, DialError, DialFailure, FromSwarm,
        NetworkBehaviour, NotifyHandler, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        behaviour::ConnectionEstablished,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use std::{
    collections::{HashMap, VecDeque},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

/// A call for a stream.
pub(crate) struct Job {
    pub(super) answer: Answer,
    pub(super) place: Place,
    deadline: Instant,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

/// What the driver is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Look in the directory where the peer is, and tell it by [`Behaviour::on_located`].
    Locate(PeerId),
}

#[derive(Clone, Copy, Debug)]
struct Connection {
    id: ConnectionId,
    relayed: bool,
}

/// A peer that is not connected, and the calls that wait for it.
struct Absent {
    jobs: Vec<Job>,
    stage: Stage,
    /// The directory was asked; it is asked once.
    located: bool,
}

/// What a peer that is not connected waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// A dial of ours.
    Ours(ConnectionId),
    /// Somebody else's.
    Others,
    /// The directory.
    Locating,
}

/// Opens streams, and takes those of others.
pub(crate) struct Behaviour {
    local: PeerId,
    common: Common,
    outbound: Counts,
    max_waiting: usize,
    open_timeout: Duration,
    /// As many as may be open.
    connections: HashMap<PeerId, Vec<Connection>>,
    /// Peers that are to be reached; each has a call at least, so `max_waiting` bounds them.
    absent: HashMap<PeerId, Absent>,
    /// Calls that wait in `absent`.
    waiting: usize,
    /// At most two for each call.
    events: VecDeque<ToSwarm<Event, Job>>,
    waker: Option<Waker>,
}

impl Behaviour {
    pub(crate) fn new(
        local: PeerId,
        config: &Config,
        protocols: &Protocols,
        offer: Offer,
        metrics: &Metrics,
    ) -> Self {
        let open = |direction| metrics.shard_streams_open.with_label_values(&[direction]);
        let inbound = Counts::new(config.inbound_per_peer, config.inbound, open("inbound"));
        let outbound = Counts::new(config.outbound_per_peer, config.outbound, open("outbound"));
        Self {
            local,
            common: Common {
                protocol: protocols.shard(),
                offer,
                inbound,
                negotiation_timeout: config.negotiation_timeout,
                opened: metrics.shard_streams.clone(),
                failed: metrics.shard_streams_failed.clone(),
            },
            outbound,
            max_waiting: config.max_waiting,
            open_timeout: config.open_timeout,
            connections: HashMap::new(),
            absent: HashMap::new(),
            waiting: 0,
            events: VecDeque::new(),
            waker: None,
        }
    }

    /// Opens a stream; the answer comes in any case.
    pub(crate) fn open(&mut self, peer: PeerId, answer: Answer, now: Instant) {
        let refused = |reason, error, answer: Answer| {
            self.common.failed(reason);
            let _ = answer.send(Err(error));
        };
        if peer == self.local {
            return refused(reason::UNREACHABLE, OpenError::Unreachable, answer);
        }
        let Some(place) = self.outbound.enter(peer) else {
            return refused(reason::LIMIT, OpenError::Busy, answer);
        };
        let connection = self.connection(&peer);
        if connection.is_none() && self.waiting >= self.max_waiting {
            return refused(reason::LIMIT, OpenError::Busy, answer);
        }
        let job = Job { answer, place, deadline: now + self.open_timeout };
        match connection {
            Some(connection) => self.give(peer, connection, job),
            None => self.wait(peer, job),
        }
        self.wake();
    }

    /// The directory has told where a peer is, or nothing.
    pub(crate) fn on_located(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        match self.absent.get(&peer).map(|absent| absent.stage) {
            Some(Stage::Locating) if addresses.is_empty() => self.give_up(&peer),
            // Somebody else may have asked.
            None | Some(Stage::Ours(_) | Stage::Others) => {}
            Some(Stage::Locating) => {
                let dial = DialOpts::peer_id(peer)
                    .condition(PeerCondition::DisconnectedAndNotDialing)
                    .addresses(addresses)
                    .build();
                self.dial(peer, dial);
            }
        }
        self.wake();
    }

    /// Gives up the calls that waited too long, or that nobody waits for any more.
    pub(crate) fn expire(&mut self, now: Instant) {
        let mut left = 0;
        self.absent.retain(|_, absent| {
            let expired =
                absent.jobs.extract_if(.., |job| job.deadline <= now || job.answer.is_closed());
            for job in expired {
                self.common.failed(reason::TIMEOUT);
                let _ = job.answer.send(Err(OpenError::Timeout));
            }
            left += absent.jobs.len();
            !absent.jobs.is_empty()
        });
        self.waiting = left;
    }

    /// The best connection to a peer: a direct one if there is any, and of equals the oldest.
    fn connection(&self, peer: &PeerId) -> Option<Connection> {
        self.connections.get(peer)?.iter().copied().min_by_key(|connection| connection.relayed)
    }

    fn give(&mut self, peer_id: PeerId, connection: Connection, job: Job) {
        let handler = NotifyHandler::One(connection.id);
        self.events.push_back(ToSwarm::NotifyHandler { peer_id, handler, event: job });
    }

    fn wait(&mut self, peer: PeerId, job: Job) {
        self.waiting += 1;
        if let Some(absent) = self.absent.get_mut(&peer) {
            return absent.jobs.push(job);
        }
        let absent = Absent { jobs: vec![job], stage: Stage::Others, located: false };
        self.absent.insert(peer, absent);
        // Where it is, the routing table knows, or whoever named it as a provider.
        let dial = DialOpts::peer_id(peer).condition(PeerCondition::DisconnectedAndNotDialing);
        self.dial(peer, dial.build());
    }

    fn dial(&mut self, peer: PeerId, opts: DialOpts) {
        if let Some(absent) = self.absent.get_mut(&peer) {
            absent.stage = Stage::Ours(opts.connection_id());
            self.events.push_back(ToSwarm::Dial { opts });
        }
    }

    fn give_up(&mut self, peer: &PeerId) {
        for job in self.take(peer) {
            self.common.failed(reason::UNREACHABLE);
            let _ = job.answer.send(Err(OpenError::Unreachable));
        }
    }

    fn take(&mut self, peer: &PeerId) -> Vec<Job> {
        let jobs = self.absent.remove(peer).map(|absent| absent.jobs).unwrap_or_default();
        self.waiting = self.waiting.saturating_sub(jobs.len());
        jobs
    }

    fn established(&mut self, opened: &ConnectionEstablished<'_>) {
        let relayed = opened.endpoint.is_relayed();
        let connection = Connection { id: opened.connection_id, relayed };
        self.connections.entry(opened.peer_id).or_default().push(connection);
        for job in self.take(&opened.peer_id) {
            self.give(opened.peer_id, connection, job);
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
    }

    fn dial_failed(&mut self, failure: &DialFailure<'_>) {
        let Some(peer) = failure.peer_id else { return };
        let Some(absent) = self.absent.get_mut(&peer) else { return };
        match absent.stage {
            Stage::Ours(id) if id == failure.connection_id => {}
            Stage::Others => {}
            // Another dial; what is waited for goes on.
            Stage::Ours(_) | Stage::Locating => return,
        }
        match failure.error {
            // Somebody else dials it: what comes of that is what comes of this.
            DialError::DialPeerConditionFalse(_) => absent.stage = Stage::Others,
            // It is left alone for now, wherever it is.
            DialError::Denied { .. } => self.give_up(&peer),
            _ if absent.located => self.give_up(&peer),
            _ => {
                (absent.stage, absent.located) = (Stage::Locating, true);
                self.events.push_back(ToSwarm::GenerateEvent(Event::Locate(peer)));
            }
        }
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(self.common.clone(), peer, is_relayed(local)))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(self.common.clone(), peer, is_relayed(address)))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(opened) => self.established(&opened),
            FromSwarm::ConnectionClosed(closed) => self.closed(&closed),
            FromSwarm::DialFailure(failure) => self.dial_failed(&failure),
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        never: THandlerOutEvent<Self>,
    ) {
        match never {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(event);
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
