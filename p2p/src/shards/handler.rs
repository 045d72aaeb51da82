//! The streams for shards on one connection.

use super::{Offer, OpenError, Substream, behaviour::Job, counts::Counts, reason};
use crate::PeerId;
use futures::future::{Ready, ready};
use libp2p::{
    Stream, StreamProtocol,
    core::upgrade::{InboundUpgrade, ReadyUpgrade, UpgradeInfo},
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, StreamUpgradeError, SubstreamProtocol,
        handler::{
            ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
        },
    },
};
use prometheus_endpoint::{CounterVec, U64};
use std::{
    collections::VecDeque,
    convert::Infallible,
    option,
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::sync::mpsc::error::TrySendError;

/// What all connections have in common.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) protocol: StreamProtocol,
    pub(super) offer: Offer,
    pub(super) inbound: Counts,
    pub(super) negotiation_timeout: Duration,
    pub(super) opened: CounterVec<U64>,
    pub(super) failed: CounterVec<U64>,
}

impl Common {
    pub(super) fn failed(&self, reason: &str) {
        self.failed.with_label_values(&[reason]).inc();
    }
}

/// Holds the calls for streams of its connection, bounded by the streams there may be.
pub(crate) struct Handler {
    common: Common,
    peer: PeerId,
    relayed: bool,
    /// Streams still to be asked for.
    queue: VecDeque<Job>,
    /// Streams asked for and not negotiated yet. Any of them is as good for any call.
    opening: VecDeque<Job>,
    waker: Option<Waker>,
}

impl Handler {
    pub(super) fn new(common: Common, peer: PeerId, relayed: bool) -> Self {
        let (queue, opening) = (VecDeque::new(), VecDeque::new());
        Self { common, peer, relayed, queue, opening, waker: None }
    }

    fn opened(&mut self, stream: Stream) {
        // Its caller may have given up; the stream is closed then.
        if let Some(Job { answer, place, .. }) = self.opening.pop_front() {
            let substream = Substream::new(self.peer, self.relayed, stream, place);
            if answer.send(Ok(substream)).is_ok() {
                self.common.opened.with_label_values(&["outbound"]).inc();
            }
        }
    }

    fn not_opened(&mut self, error: &StreamUpgradeError<Infallible>) {
        let (reason, error) = match error {
            StreamUpgradeError::Timeout => (reason::TIMEOUT, OpenError::Timeout),
            StreamUpgradeError::NegotiationFailed => (reason::NOT_OFFERED, OpenError::NotOffered),
            StreamUpgradeError::Io(_) | StreamUpgradeError::Apply(_) => {
                (reason::BROKEN, OpenError::Broken)
            }
        };
        self.common.failed(reason);
        if let Some(job) = self.opening.pop_front() {
            let _ = job.answer.send(Err(error));
        }
    }

    /// The other side has opened one.
    fn taken(&self, stream: Stream) {
        let Some(place) = self.common.inbound.enter(self.peer) else {
            return self.common.failed(reason::LIMIT);
        };
        let Some(taker) = self.common.offer.taker() else {
            return self.common.failed(reason::NOT_OFFERED);
        };
        let substream = Substream::new(self.peer, self.relayed, stream, place);
        match taker.try_send(substream) {
            Ok(()) => self.common.opened.with_label_values(&["inbound"]).inc(),
            Err(TrySendError::Full(_)) => self.common.failed(reason::QUEUE),
            Err(TrySendError::Closed(_)) => self.common.failed(reason::NOT_OFFERED),
        }
    }
}

type Event = ConnectionHandlerEvent<ReadyUpgrade<StreamProtocol>, (), Infallible>;

impl ConnectionHandler for Handler {
    type FromBehaviour = Job;
    type ToBehaviour = Infallible;
    type InboundProtocol = Offered;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Offered> {
        let offered = self.common.offer.taker().map(|_| self.common.protocol.clone());
        SubstreamProtocol::new(Offered(offered), ()).with_timeout(self.common.negotiation_timeout)
    }

    /// Open streams keep the connection by themselves.
    fn connection_keep_alive(&self) -> bool {
        !self.queue.is_empty() || !self.opening.is_empty()
    }

    fn on_behaviour_event(&mut self, job: Job) {
        self.queue.push_back(job);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        while let Some(job) = self.queue.pop_front() {
            if job.answer.is_closed() {
                continue;
            }
            self.opening.push_back(job);
            let upgrade = ReadyUpgrade::new(self.common.protocol.clone());
            let protocol =
                SubstreamProtocol::new(upgrade, ()).with_timeout(self.common.negotiation_timeout);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Offered, ReadyUpgrade<StreamProtocol>>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: stream,
                ..
            }) => self.taken(stream),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: stream,
                ..
            }) => self.opened(stream),
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, .. }) => {
                self.not_opened(&error);
            }
            // Streams that were not negotiated are the other side's loss.
            _ => {}
        }
    }
}

/// The protocol, while there is somebody who takes its streams.
pub(crate) struct Offered(Option<StreamProtocol>);

impl UpgradeInfo for Offered {
    type Info = StreamProtocol;
    type InfoIter = option::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for Offered {
    type Output = Stream;
    type Error = Infallible;
    type Future = Ready<Result<Stream, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, _: StreamProtocol) -> Self::Future {
        ready(Ok(stream))
    }
}
