//! The client side on one connection: which stream carries which request.
//!
//! A stream whose request is answered is kept for a short time and takes the next one, which saves
//! its negotiation, a round trip. Nothing here keeps a connection open beyond the requests it has.

use super::{
    Job, Limits, Reply,
    talk::{Broken, converse},
};
use crate::dht::network::{Dropped, Failure};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use libp2p::{
    Stream, StreamProtocol,
    core::upgrade::{DeniedUpgrade, ReadyUpgrade},
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, StreamUpgradeError, SubstreamProtocol,
        handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedOutbound},
    },
};
use prometheus_endpoint::{CounterVec, U64};
use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, Waker},
};
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

/// How a request has ended.
#[derive(Debug)]
pub(crate) struct Done {
    pub(super) id: u64,
    pub(super) result: Result<Reply, Failure>,
}

/// A conversation that has ended, and its stream if it can take another.
struct Talked {
    job: Job,
    result: Result<Reply, Broken>,
    stream: Option<Stream>,
    reused: bool,
}

/// A stream that waits for its next request, until then.
struct Idle {
    stream: Stream,
    until: Instant,
}

/// Holds what one connection carries: the requests given to it, bounded by those there are in all,
/// and at most `streams` streams with 32 KiB of buffers each.
pub(crate) struct Handler {
    protocol: StreamProtocol,
    limits: Limits,
    dropped: CounterVec<U64>,
    queue: VecDeque<Job>,
    /// Streams asked for and not negotiated yet.
    opening: usize,
    talking: FuturesUnordered<BoxFuture<'static, Talked>>,
    idle: Vec<Idle>,
    /// Ends with the first of the idle.
    close_idle: Option<Pin<Box<Sleep>>>,
    done: VecDeque<Done>,
    waker: Option<Waker>,
}

impl Handler {
    pub(super) fn new(protocol: StreamProtocol, limits: Limits, dropped: CounterVec<U64>) -> Self {
        Self {
            protocol,
            limits,
            dropped,
            queue: VecDeque::new(),
            opening: 0,
            talking: FuturesUnordered::new(),
            idle: Vec::new(),
            close_idle: None,
            done: VecDeque::new(),
            waker: None,
        }
    }

    fn talk(&mut self, job: Job, mut stream: Stream, reused: bool) {
        let (policy, counter) = (self.limits.policy, self.dropped.clone());
        let dropped = move |reason: Dropped, count: usize| {
            let count = u64::try_from(count).unwrap_or(u64::MAX);
            counter.with_label_values(&[reason.label()]).inc_by(count);
        };
        self.talking.push(
            async move {
                let talk = converse(&mut stream, &job.request, policy, dropped);
                let result = timeout_at(job.deadline.into(), talk).await;
                let result = result.unwrap_or(Err(Broken::For(Failure::Timeout)));
                let stream = result.is_ok().then_some(stream);
                Talked { job, result, stream, reused }
            }
            .boxed(),
        );
    }

    fn talked(&mut self, Talked { job, result, stream, reused }: Talked) {
        if let Some(stream) = stream {
            self.keep(stream);
        }
        let result = match result {
            // It may be the stream's fault; a fresh one tells.
            Err(Broken::Stale) if reused => {
                self.queue.push_front(job);
                self.idle.clear();
                return;
            }
            Err(Broken::Stale) => Err(Failure::Broken),
            Err(Broken::For(failure)) => Err(failure),
            Ok(reply) => Ok(reply),
        };
        self.done.push_back(Done { id: job.id, result });
    }

    /// Keeps a stream for the next request. It is the requests that keep the connection open, see
    /// `connection_keep_alive`, and not a stream that waits.
    fn keep(&mut self, mut stream: Stream) {
        stream.ignore_for_keep_alive();
        let until = Instant::now() + self.limits.stream_idle;
        self.idle.push(Idle { stream, until });
    }

    /// The request that waits longest, of those that have time left.
    fn next_job(&mut self) -> Option<Job> {
        let now = std::time::Instant::now();
        while let Some(job) = self.queue.pop_front() {
            if job.deadline > now {
                return Some(job);
            }
            self.done.push_back(Done { id: job.id, result: Err(Failure::Timeout) });
        }
        None
    }

    /// There is a new stream.
    fn negotiated(&mut self, stream: Stream) {
        self.opening = self.opening.saturating_sub(1);
        match self.next_job() {
            Some(job) => self.talk(job, stream, false),
            None => self.keep(stream),
        }
    }

    fn not_negotiated(&mut self, error: &StreamUpgradeError<std::convert::Infallible>) {
        self.opening = self.opening.saturating_sub(1);
        let failure = match error {
            StreamUpgradeError::Timeout => Failure::Timeout,
            StreamUpgradeError::NegotiationFailed => Failure::Unsupported,
            StreamUpgradeError::Io(_) | StreamUpgradeError::Apply(_) => Failure::Broken,
        };
        if let Some(job) = self.queue.pop_front() {
            self.done.push_back(Done { id: job.id, result: Err(failure) });
        }
    }

    /// Drops the streams that have waited long enough.
    fn poll_idle(&mut self, cx: &mut Context<'_>) {
        loop {
            let now = Instant::now();
            self.idle.retain(|idle| idle.until > now);
            let Some(first) = self.idle.first() else {
                self.close_idle = None;
                return;
            };
            // The order is that of their ends.
            let until = first.until;
            let sleep = self.close_idle.get_or_insert_with(|| Box::pin(sleep_until(until)));
            if sleep.deadline() != until {
                sleep.as_mut().reset(until);
            }
            if sleep.poll_unpin(cx).is_pending() {
                return;
            }
        }
    }
}

type Event = ConnectionHandlerEvent<ReadyUpgrade<StreamProtocol>, (), Done>;

impl ConnectionHandler for Handler {
    type FromBehaviour = Job;
    type ToBehaviour = Done;
    type InboundProtocol = DeniedUpgrade;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    /// What comes in is kad's to serve.
    fn listen_protocol(&self) -> SubstreamProtocol<DeniedUpgrade> {
        SubstreamProtocol::new(DeniedUpgrade, ())
    }

    fn connection_keep_alive(&self) -> bool {
        self.opening > 0 || !self.queue.is_empty() || !self.talking.is_empty()
    }

    fn on_behaviour_event(&mut self, job: Job) {
        self.queue.push_back(job);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            if let Some(done) = self.done.pop_front() {
                return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(done));
            }
            let room = self.talking.len() + self.opening < self.limits.streams;
            if room
                && !self.queue.is_empty()
                && let Some(idle) = self.idle.pop()
            {
                match self.next_job() {
                    Some(job) => self.talk(job, idle.stream, true),
                    None => self.idle.push(idle),
                }
                continue;
            }
            if room && self.opening < self.queue.len() {
                self.opening += 1;
                let protocol = SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), ())
                    .with_timeout(self.limits.peer_timeout);
                return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
            }
            if let Poll::Ready(Some(talked)) = self.talking.poll_next_unpin(cx) {
                self.talked(talked);
                continue;
            }
            self.poll_idle(cx);
            self.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, DeniedUpgrade, ReadyUpgrade<StreamProtocol>>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: stream,
                ..
            }) => self.negotiated(stream),
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, .. }) => {
                self.not_negotiated(&error);
            }
            // Nothing comes in, and which protocols the other side has is kad's to watch.
            _ => {}
        }
    }
}
