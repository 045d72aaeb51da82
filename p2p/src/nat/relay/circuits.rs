//! The transport through relays: libp2p's, with the door, the address policy, and bytes counted.

use super::Refusal;
use crate::{AddressPolicy, Multiaddr, connections::Door};
use futures::{AsyncRead, AsyncWrite, FutureExt, future::BoxFuture, ready};
use libp2p::{
    Transport,
    core::transport::{DialOpts, ListenerId, TransportError, TransportEvent},
    relay::client,
};
use prometheus_endpoint::{Counter, U64};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

/// Refusals in one go before others get their turn; one costs a few microseconds.
const MAX_IN_ONE_GO: usize = 64;

pub(crate) struct Circuits {
    inner: client::Transport,
    policy: AddressPolicy,
    door: Door,
    sent: Counter<U64>,
    received: Counter<U64>,
}

impl Circuits {
    /// `sent` and `received` count what goes through relays to and from this node.
    pub(crate) fn new(
        inner: client::Transport,
        policy: AddressPolicy,
        door: Door,
        sent: Counter<U64>,
        received: Counter<U64>,
    ) -> Self {
        Self { inner, policy, door, sent, received }
    }

    fn counted(&self) -> impl FnOnce(client::Connection) -> Circuit + Send + 'static {
        let (sent, received) = (self.sent.clone(), self.received.clone());
        move |inner| Circuit { inner, sent, received }
    }
}

impl Transport for Circuits {
    type Output = Circuit;
    type Error = Refusal;
    type ListenerUpgrade = BoxFuture<'static, Result<Circuit, Refusal>>;
    type Dial = BoxFuture<'static, Result<Circuit, Refusal>>;

    fn listen_on(
        &mut self,
        id: ListenerId,
        addr: Multiaddr,
    ) -> Result<(), TransportError<Refusal>> {
        self.inner.listen_on(id, addr).map_err(|error| error.map(Refusal::from))
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        addr: Multiaddr,
        opts: DialOpts,
    ) -> Result<Self::Dial, TransportError<Refusal>> {
        if !self.policy.allows_circuit(&addr) {
            return Err(TransportError::MultiaddrNotSupported(addr));
        }
        let dial = self.inner.dial(addr, opts).map_err(|error| error.map(Refusal::from))?;
        let counted = self.counted();
        Ok(dial.map(|circuit| circuit.map(counted).map_err(Refusal::from)).boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Refusal>> {
        for _ in 0..MAX_IN_ONE_GO {
            let event = ready!(Pin::new(&mut self.inner).poll(cx));
            // Who comes is known once its handshake is over; of the relay nothing is held against it.
            let comes = matches!(event, TransportEvent::Incoming { .. });
            if comes && self.door.incoming(None, true).is_none() {
                continue;
            }
            let counted = self.counted();
            let event = event.map_upgrade(|upgrade| {
                upgrade.map(|circuit| circuit.map(counted).map_err(Refusal::from)).boxed()
            });
            return Poll::Ready(event.map_err(Refusal::from));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// A connection through a relay, not encrypted yet.
pub(crate) struct Circuit {
    inner: client::Connection,
    sent: Counter<U64>,
    received: Counter<U64>,
}

fn count(counter: &Counter<U64>, bytes: usize) {
    counter.inc_by(u64::try_from(bytes).unwrap_or(u64::MAX));
}

impl AsyncRead for Circuit {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let bytes = ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        count(&self.received, bytes);
        Poll::Ready(Ok(bytes))
    }
}

impl AsyncWrite for Circuit {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let bytes = ready!(Pin::new(&mut self.inner).poll_write(cx, buf))?;
        count(&self.sent, bytes);
        Poll::Ready(Ok(bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}
