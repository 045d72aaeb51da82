//! One listening socket: who comes in, and under which addresses it is reached.

use super::{Error, Upgrade, multiaddr, punch::Punches, shake_hands};
use crate::connections::{Door, Entry};
use futures::{FutureExt, future::BoxFuture};
use if_watch::{IfEvent, tokio::IfWatcher};
use libp2p::core::transport::{ListenerId, TransportEvent};
use quinn::{Endpoint, Incoming, VarInt};
use std::{
    collections::HashSet,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

/// Refusals in one go before others get their turn; one costs some tens of microseconds.
const MAX_IN_ONE_GO: usize = 64;

type Event = TransportEvent<Upgrade, Error>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// To be told of.
    Closed,
    Over,
}

pub(super) struct Listener {
    id: ListenerId,
    endpoint: Endpoint,
    /// The endpoint's, to send from what is no QUIC. None at a TURN server: nobody is told of that
    /// address, for it takes nothing but from those who were given permission.
    socket: Option<Arc<UdpSocket>>,
    bound: SocketAddr,
    accept: BoxFuture<'static, Option<Incoming>>,
    /// Tells the machine's addresses, if it listens on all of them.
    watcher: Option<IfWatcher>,
    /// Addresses that were told of: as many as the machine has.
    told: HashSet<IpAddr>,
    state: State,
}

fn next(endpoint: &Endpoint) -> BoxFuture<'static, Option<Incoming>> {
    let endpoint = endpoint.clone();
    async move { endpoint.accept().await }.boxed()
}

impl Listener {
    pub(super) fn new(id: ListenerId, endpoint: Endpoint, socket: UdpSocket) -> io::Result<Self> {
        let bound = endpoint.local_addr()?;
        let watcher = bound.ip().is_unspecified().then(IfWatcher::new).transpose()?;
        let (accept, told) = (next(&endpoint), HashSet::new());
        let socket = Some(Arc::new(socket));
        Ok(Self { id, endpoint, socket, bound, accept, watcher, told, state: State::Open })
    }

    /// One at a TURN server.
    pub(super) fn relayed(id: ListenerId, endpoint: Endpoint) -> io::Result<Self> {
        let (bound, accept) = (endpoint.local_addr()?, next(&endpoint));
        let (socket, watcher, told) = (None, None, HashSet::new());
        Ok(Self { id, endpoint, socket, bound, accept, watcher, told, state: State::Open })
    }

    pub(super) fn id(&self) -> ListenerId {
        self.id
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(super) fn socket(&self) -> Option<&Arc<UdpSocket>> {
        self.socket.as_ref()
    }

    pub(super) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Whether this address can be dialled from here: loopback reaches loopback and nothing else.
    pub(super) fn reaches(&self, to: SocketAddr) -> bool {
        let from = self.bound.ip();
        self.state == State::Open
            && self.socket.is_some()
            && from.is_ipv4() == to.is_ipv4()
            && (from.is_unspecified() || from.is_loopback() == to.ip().is_loopback())
    }

    /// Whether it is one at a TURN server from which this address can be dialled.
    pub(super) fn is_relayed_to(&self, to: SocketAddr) -> bool {
        self.socket.is_none() && self.state == State::Open && self.bound.is_ipv4() == to.is_ipv4()
    }

    /// Closes the socket's connections too.
    pub(super) fn close(&mut self) {
        if self.state == State::Open {
            self.endpoint.close(VarInt::from_u32(0), &[]);
            self.state = State::Closed;
        }
    }

    pub(super) fn poll(
        &mut self,
        door: &Door,
        punches: &mut Punches,
        handshake_timeout: Duration,
        cx: &mut Context<'_>,
    ) -> Poll<Event> {
        let listener_id = self.id;
        for _ in 0..MAX_IN_ONE_GO {
            match self.state {
                State::Open => {}
                State::Closed => {
                    self.state = State::Over;
                    return Poll::Ready(TransportEvent::ListenerClosed {
                        listener_id,
                        reason: Ok(()),
                    });
                }
                State::Over => return Poll::Pending,
            }
            if let Poll::Ready(event) = self.poll_addresses(cx) {
                return Poll::Ready(event);
            }
            let Poll::Ready(incoming) = self.accept.poll_unpin(cx) else { return Poll::Pending };
            let Some(incoming) = incoming else {
                self.state = State::Closed;
                continue;
            };
            self.accept = next(&self.endpoint);
            let remote = incoming.remote_address();
            let connecting = admit(incoming, door);
            if let Some(connecting) = connecting.and_then(|came| punches.take(remote, came)) {
                return Poll::Ready(TransportEvent::Incoming {
                    listener_id,
                    upgrade: shake_hands(connecting, handshake_timeout).boxed(),
                    local_addr: multiaddr(self.bound),
                    send_back_addr: multiaddr(remote),
                });
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_addresses(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let listener_id = self.id;
        let Some(watcher) = &mut self.watcher else {
            return if self.socket.is_some() && self.told.insert(self.bound.ip()) {
                let listen_addr = multiaddr(self.bound);
                Poll::Ready(TransportEvent::NewAddress { listener_id, listen_addr })
            } else {
                Poll::Pending
            };
        };
        while let Poll::Ready(event) = watcher.poll_if_event(cx) {
            let (ip, up) = match event {
                Ok(IfEvent::Up(net)) => (net.addr(), true),
                Ok(IfEvent::Down(net)) => (net.addr(), false),
                Err(error) => {
                    return Poll::Ready(TransportEvent::ListenerError {
                        listener_id,
                        error: error.into(),
                    });
                }
            };
            let listen_addr = multiaddr(SocketAddr::new(ip, self.bound.port()));
            let same_family = ip.is_ipv4() == self.bound.is_ipv4();
            if same_family && up && self.told.insert(ip) {
                return Poll::Ready(TransportEvent::NewAddress { listener_id, listen_addr });
            }
            if same_family && !up && self.told.remove(&ip) {
                return Poll::Ready(TransportEvent::AddressExpired { listener_id, listen_addr });
            }
        }
        Poll::Pending
    }
}

/// Asks the door. Until then nothing was done for the connection but to read its first packet.
fn admit(incoming: Incoming, door: &Door) -> Option<quinn::Connecting> {
    let (ip, proven) = (incoming.remote_address().ip(), incoming.remote_address_validated());
    match door.incoming(Some(ip), proven) {
        // It hears so, and does not send its packet again and again.
        None => incoming.refuse(),
        Some(Entry::Prove) => {
            if let Err(error) = incoming.retry() {
                error.into_incoming().refuse();
            }
        }
        Some(Entry::Enter) => match incoming.accept() {
            Ok(connecting) => return Some(connecting),
            Err(error) => tracing::debug!(%ip, %error, "no QUIC connection begins like this"),
        },
    }
    None
}
