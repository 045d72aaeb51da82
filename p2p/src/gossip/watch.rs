//! gossipsub, watched.
//!
//! gossipsub drops by itself what is wrongly signed, too large or on a strange topic, and counts
//! duplicates, but tells nobody. This wrapper stands between it and the swarm. It sees every RPC
//! before gossipsub does, counts, takes out what is of no use (gossipsub would keep messages on
//! topics that nobody listens to for five heartbeats, at 1 MiB each), and reports. Everything else
//! goes through unchanged.

use super::{
    Channel, Topic,
    params::{Inner, id_of},
    replays::{Replays, Seen},
    score::THRESHOLDS,
    topic::ByTopic,
    validate::Reason,
};
use crate::{Metrics, Multiaddr, PeerId, metrics::gauge};
use futures::future::Either;
use libp2p::{
    core::{Endpoint, transport::PortUse},
    gossipsub::{Event, TopicHash, ValidationError},
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, SubstreamProtocol, THandlerInEvent, THandlerOutEvent, ToSwarm,
        handler::ConnectionEvent,
    },
};
use std::{
    collections::VecDeque,
    task::{Context, Poll},
};

type InnerHandler = <Inner as NetworkBehaviour>::ConnectionHandler;
type InnerEvent = <InnerHandler as ConnectionHandler>::ToBehaviour;
type InboundProtocol = <InnerHandler as ConnectionHandler>::InboundProtocol;
type OutboundProtocol = <InnerHandler as ConnectionHandler>::OutboundProtocol;
type InboundInfo = <InnerHandler as ConnectionHandler>::InboundOpenInfo;
type OutboundInfo = <InnerHandler as ConnectionHandler>::OutboundOpenInfo;

/// As many streams, in one direction, make gossipsub's handler give up on a connection.
const STREAMS: u32 = 5;

/// What comes of it.
#[derive(Debug)]
pub(crate) enum Heard {
    /// What gossipsub says.
    Event(Event),
    /// A message for which its sender answers, and which is dropped: gossipsub refuses it, or was
    /// not shown it.
    Refused { from: PeerId, topic: Option<Topic>, reason: Reason },
    /// A message for which its sender does not answer, and which comes to nothing.
    Ignored { from: PeerId, topic: Topic, reason: Reason },
    /// gossipsub has given up on a connection to the peer: nothing goes over it any more.
    Disabled(PeerId),
}

/// One gossipsub behaviour, watched.
pub(crate) struct Behaviour {
    inner: Inner,
    channel: Channel,
    metrics: Metrics,
    /// Messages shown to gossipsub that have not come back as events. Once it has nothing more to
    /// say, these were duplicates.
    shown: ByTopic<u64>,
    replays: Replays,
    /// Bounded by the messages of one RPC, at most 500, 64 bytes each: the swarm takes all of them
    /// before it brings another RPC.
    reports: VecDeque<Heard>,
}

impl Behaviour {
    /// Remembers the numbers of `replays` messages.
    pub(crate) fn new(inner: Inner, channel: Channel, replays: usize, metrics: Metrics) -> Self {
        let shown = ByTopic::new(|_| 0);
        let replays = Replays::new(replays);
        Self { inner, channel, metrics, shown, replays, reports: VecDeque::new() }
    }

    /// gossipsub itself.
    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    /// gossipsub itself.
    pub(crate) fn inner_mut(&mut self) -> &mut Inner {
        &mut self.inner
    }

    /// Looks at what a peer sent before gossipsub does, and takes out what is of no use.
    fn look(&mut self, from: PeerId, event: &mut InnerEvent) {
        let InnerEvent::Message { rpc, invalid_messages } = event else { return };
        if rpc.messages.is_empty() && invalid_messages.is_empty() {
            return;
        }
        let channel = self.channel;
        let known =
            |hash: &TopicHash| Topic::from_hash(hash).filter(|topic| topic.channel() == channel);
        // gossipsub will drop it all, and so no more is counted against the peer.
        let score = self.inner.peer_score(&from).unwrap_or_default();
        if score < THRESHOLDS.graylist {
            let refused = rpc.messages.iter().map(|m| &m.topic);
            for hash in refused.chain(invalid_messages.iter().map(|(m, _)| &m.topic)) {
                self.metrics.gossip.refused(known(hash), Reason::SenderGraylisted);
            }
            rpc.messages.clear();
            return;
        }
        for (message, error) in invalid_messages.iter() {
            let (topic, reason) = (known(&message.topic), reason_of(*error));
            self.reports.push_back(Heard::Refused { from, topic, reason });
        }
        rpc.messages.retain(|message| {
            let Some(topic) = known(&message.topic) else {
                let reason = Reason::UnknownTopic;
                self.reports.push_back(Heard::Refused { from, topic: None, reason });
                return false;
            };
            let metrics = self.metrics.gossip.topics.of(topic);
            metrics.bytes_received.inc_by(gauge(message.data.len()));
            let Some(author) = &message.source else {
                let reason = Reason::WronglySigned;
                self.reports.push_back(Heard::Refused { from, topic: Some(topic), reason });
                return false;
            };
            let id = id_of(&message.topic, Some(author), &message.data);
            if self.replays.see(id, message.sequence_number) == Seen::Renumbered {
                // Whoever passes it on may not have been the one, and gossipsub wants to know that it
                // passes on what others do.
                let reason = Reason::Replayed;
                self.reports.push_back(Heard::Ignored { from, topic, reason });
            } else {
                *self.shown.of_mut(topic) += 1;
            }
            true
        });
    }

    /// gossipsub has told all: what it was shown and did not tell of, it knew.
    fn count_duplicates(&mut self) {
        for topic in Topic::ALL {
            let shown = std::mem::take(self.shown.of_mut(topic));
            if shown > 0 {
                self.metrics.gossip.topics.of(topic).duplicates.inc_by(shown);
            }
        }
    }
}

/// What gossipsub's codec found wrong.
fn reason_of(error: ValidationError) -> Reason {
    match error {
        ValidationError::MessageSizeTooLargeForTopic => Reason::Oversized,
        ValidationError::EmptySequenceNumber | ValidationError::InvalidSequenceNumber => {
            Reason::Unnumbered
        }
        ValidationError::TransformFailed => Reason::Malformed,
        ValidationError::InvalidSignature
        | ValidationError::InvalidPeerId
        | ValidationError::SignaturePresent
        | ValidationError::SequenceNumberPresent
        | ValidationError::MessageSourcePresent => Reason::WronglySigned,
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Heard;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        let inner = self.inner.handle_established_inbound_connection(id, peer, local, remote)?;
        Ok(Handler::new(inner))
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        let inner =
            self.inner.handle_established_outbound_connection(id, peer, addr, role, port)?;
        Ok(Handler::new(inner))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {
            Either::Left(mut event) => {
                self.look(peer, &mut event);
                self.inner.on_connection_handler_event(peer, id, event);
            }
            Either::Right(Trouble::Reopened) => self.metrics.gossip.reopened(self.channel),
            Either::Right(Trouble::Disabled) => {
                self.metrics.gossip.disabled(self.channel);
                self.reports.push_back(Heard::Disabled(peer));
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Heard, THandlerInEvent<Self>>> {
        if let Some(report) = self.reports.pop_front() {
            return Poll::Ready(ToSwarm::GenerateEvent(report));
        }
        let Poll::Ready(event) = self.inner.poll(cx) else {
            self.count_duplicates();
            return Poll::Pending;
        };
        if let ToSwarm::GenerateEvent(Event::Message { message, .. }) = &event
            && let Some(topic) = Topic::from_hash(&message.topic)
        {
            let shown = self.shown.of_mut(topic);
            *shown = shown.saturating_sub(1);
        }
        Poll::Ready(event.map_out(Heard::Event))
    }
}

/// What happened to the streams of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trouble {
    /// The peer has opened a stream though there had been one.
    Reopened,
    /// gossipsub's handler has given up.
    Disabled,
}

/// What a connection's handler tells: what gossipsub's does, or what happened to it.
type Report = Either<InnerEvent, Trouble>;

/// gossipsub's handler of one connection, watched.
pub(crate) struct Handler {
    inner: InnerHandler,
    inbound: u32,
    outbound: u32,
    /// At most one for each stream that is opened before gossipsub gives up.
    troubles: VecDeque<Trouble>,
}

impl Handler {
    fn new(inner: InnerHandler) -> Self {
        Self { inner, inbound: 0, outbound: 0, troubles: VecDeque::new() }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = <InnerHandler as ConnectionHandler>::FromBehaviour;
    type ToBehaviour = Report;
    type InboundProtocol = InboundProtocol;
    type OutboundProtocol = OutboundProtocol;
    type InboundOpenInfo = InboundInfo;
    type OutboundOpenInfo = OutboundInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<InboundProtocol, InboundInfo> {
        self.inner.listen_protocol()
    }

    fn connection_keep_alive(&self) -> bool {
        self.inner.connection_keep_alive()
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<OutboundProtocol, OutboundInfo, Report>> {
        if let Some(trouble) = self.troubles.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(Either::Right(trouble)));
        }
        self.inner.poll(cx).map(|event| event.map_custom(Either::Left))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Report>> {
        self.inner.poll_close(cx).map(|event| event.map(Either::Left))
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        self.inner.on_behaviour_event(event);
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, InboundProtocol, OutboundProtocol, InboundInfo, OutboundInfo>,
    ) {
        let was_disabled = matches!(self.inner, InnerHandler::Disabled(_));
        if event.is_inbound() {
            self.inbound += 1;
            if self.inbound > 1 && !was_disabled {
                self.troubles.push_back(Trouble::Reopened);
            }
        }
        self.outbound += u32::from(event.is_outbound());
        self.inner.on_connection_event(event);
        // It is also disabled, and rightly, where the peer does not speak the protocol: then it
        // learns so at the first stream it opens.
        let is_disabled = matches!(self.inner, InnerHandler::Disabled(_));
        let gave_up = self.inbound >= STREAMS || self.outbound >= STREAMS;
        if is_disabled && !was_disabled && gave_up {
            self.troubles.push_back(Trouble::Disabled);
        }
    }
}
