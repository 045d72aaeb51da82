//! The client's side on one connection: dial-backs are asked for on connections that this node
//! opened, and come in on those that it did not.

use super::wire;
use crate::Multiaddr;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use libp2p::{
    Stream, StreamProtocol,
    core::{
        UpgradeInfo,
        upgrade::{InboundUpgrade, ReadyUpgrade},
    },
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, SubstreamProtocol,
        handler::{
            ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
            ProtocolsChange,
        },
    },
};
use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Ready, ready},
    io, option,
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::time::timeout;

/// Dial-backs that one connection may bring at the same time. A server brings one.
const MAX_DIAL_BACKS: usize = 2;

/// What the behaviour orders.
#[derive(Debug)]
pub(crate) enum Order {
    /// Have an address dialled back, with this number.
    Ask { addr: Multiaddr, nonce: u64 },
    /// The number that came is the right one.
    Accept { nonce: u64 },
}

/// What the connection tells.
#[derive(Debug)]
pub(crate) enum Told {
    /// Whether the other side dials back for others.
    Serves(bool),
    /// A dial-back came with this number.
    Came { nonce: u64 },
    /// The server has answered: whether it says that it reached this node, or nothing of use.
    Ended { nonce: u64, reached: Option<bool> },
}

/// The dial-back protocol, where it is accepted.
pub(crate) struct DialBacks(Option<StreamProtocol>);

impl UpgradeInfo for DialBacks {
    type Info = StreamProtocol;
    type InfoIter = option::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for DialBacks {
    type Output = Stream;
    type Error = Infallible;
    type Future = Ready<Result<Stream, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, _: StreamProtocol) -> Self::Future {
        ready(Ok(stream))
    }
}

enum Talked {
    Asked { nonce: u64, reached: Option<bool> },
    Read(Option<(u64, Stream)>),
    Accepted,
}

/// At most the tests that are under way in all, and two dial-backs; 300 bytes each, and a piece of
/// 4 KiB while data is sent.
pub(crate) struct Handler {
    /// The other side opened the connection.
    inbound: bool,
    limit: Duration,
    asks: VecDeque<(Multiaddr, u64)>,
    /// Streams asked for and not negotiated yet.
    opening: VecDeque<(Multiaddr, u64)>,
    talking: FuturesUnordered<BoxFuture<'static, Talked>>,
    reading: usize,
    /// Dial-backs whose number the behaviour looks at.
    waiting: Vec<(u64, Stream)>,
    told: VecDeque<Told>,
    waker: Option<Waker>,
}

impl Handler {
    pub(super) fn new(inbound: bool, limit: Duration) -> Self {
        Self {
            inbound,
            limit,
            asks: VecDeque::new(),
            opening: VecDeque::new(),
            talking: FuturesUnordered::new(),
            reading: 0,
            waiting: Vec::new(),
            told: VecDeque::new(),
            waker: None,
        }
    }

    fn talk(&mut self, talk: impl Future<Output = Talked> + Send + 'static) {
        self.talking.push(talk.boxed());
    }

    fn ask(&mut self, mut stream: Stream) {
        let Some((addr, nonce)) = self.opening.pop_front() else { return };
        let limit = self.limit;
        self.talk(async move {
            let answer = timeout(limit, wire::ask(&mut stream, &addr, nonce)).await;
            Talked::Asked { nonce, reached: answer.ok().and_then(io::Result::ok) }
        });
    }

    fn read(&mut self, mut stream: Stream) {
        if self.reading + self.waiting.len() >= MAX_DIAL_BACKS {
            return;
        }
        self.reading += 1;
        let limit = self.limit;
        self.talk(async move {
            let read = timeout(limit, wire::read_dial_back(&mut stream)).await;
            Talked::Read(read.ok().and_then(io::Result::ok).map(|nonce| (nonce, stream)))
        });
    }

    fn accept(&mut self, nonce: u64) {
        let Some(at) = self.waiting.iter().position(|(waiting, _)| *waiting == nonce) else {
            return;
        };
        let (_, mut stream) = self.waiting.swap_remove(at);
        let limit = self.limit;
        self.talk(async move {
            // The server notices by itself if it does not hear it.
            let _ = timeout(limit, wire::accept_dial_back(&mut stream)).await;
            Talked::Accepted
        });
    }
}

type Event = ConnectionHandlerEvent<ReadyUpgrade<StreamProtocol>, (), Told>;

impl ConnectionHandler for Handler {
    type FromBehaviour = Order;
    type ToBehaviour = Told;
    type InboundProtocol = DialBacks;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<DialBacks> {
        // On a connection that this node opened, it would prove nothing.
        let accepted = self.inbound.then_some(wire::DIAL_BACK);
        SubstreamProtocol::new(DialBacks(accepted), ())
    }

    fn connection_keep_alive(&self) -> bool {
        !self.asks.is_empty() || !self.opening.is_empty() || !self.talking.is_empty()
    }

    fn on_behaviour_event(&mut self, order: Order) {
        match order {
            Order::Ask { addr, nonce } => self.asks.push_back((addr, nonce)),
            Order::Accept { nonce } => self.accept(nonce),
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            if let Some(told) = self.told.pop_front() {
                return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(told));
            }
            if let Some(ask) = self.asks.pop_front() {
                self.opening.push_back(ask);
                let protocol = SubstreamProtocol::new(ReadyUpgrade::new(wire::DIAL_REQUEST), ())
                    .with_timeout(self.limit);
                return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
            }
            match self.talking.poll_next_unpin(cx) {
                Poll::Ready(Some(Talked::Asked { nonce, reached })) => {
                    self.told.push_back(Told::Ended { nonce, reached });
                }
                Poll::Ready(Some(Talked::Read(read))) => {
                    self.reading = self.reading.saturating_sub(1);
                    if let Some((nonce, stream)) = read {
                        self.waiting.push((nonce, stream));
                        self.told.push_back(Told::Came { nonce });
                    }
                }
                Poll::Ready(Some(Talked::Accepted)) => {}
                Poll::Ready(None) | Poll::Pending => {
                    self.waker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, DialBacks, ReadyUpgrade<StreamProtocol>>,
    ) {
        let serves = |mut protocols: libp2p::swarm::handler::ProtocolsAdded<'_>| {
            protocols.any(|protocol| *protocol == wire::DIAL_REQUEST)
        };
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: stream,
                ..
            }) => self.read(stream),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: stream,
                ..
            }) => self.ask(stream),
            ConnectionEvent::DialUpgradeError(DialUpgradeError { .. }) => {
                if let Some((_, nonce)) = self.opening.pop_front() {
                    self.told.push_back(Told::Ended { nonce, reached: None });
                }
            }
            ConnectionEvent::RemoteProtocolsChange(ProtocolsChange::Added(protocols)) => {
                if !self.inbound && serves(protocols) {
                    self.told.push_back(Told::Serves(true));
                }
            }
            ConnectionEvent::RemoteProtocolsChange(ProtocolsChange::Removed(mut protocols)) => {
                if !self.inbound && protocols.any(|protocol| *protocol == wire::DIAL_REQUEST) {
                    self.told.push_back(Told::Serves(false));
                }
            }
            _ => {}
        }
    }
}
