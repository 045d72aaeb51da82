//! Refuses inbound connections before their handshake, by where they come from.

use crate::{Multiaddr, address::ip_of, connections::Door};
use libp2p::{
    Transport,
    core::transport::{DialOpts, ListenerId, TransportError, TransportEvent},
};
use std::{
    pin::Pin,
    task::{Context, Poll},
};

/// Refusals in one go before others get their turn; one costs a few microseconds.
const MAX_IN_ONE_GO: usize = 64;

/// Over a transport whose addresses are certain and whose handshake begins only when it is polled:
/// TCP below its upgrades, and the in-process transport. What is refused is dropped, which closes
/// it; nobody above hears of it.
pub(super) struct Gate<T> {
    inner: T,
    door: Door,
}

impl<T> Gate<T> {
    pub(super) fn new(inner: T, door: Door) -> Self {
        Self { inner, door }
    }
}

impl<T: Transport + Unpin> Transport for Gate<T> {
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = T::Dial;

    fn listen_on(
        &mut self,
        id: ListenerId,
        addr: Multiaddr,
    ) -> Result<(), TransportError<Self::Error>> {
        self.inner.listen_on(id, addr)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        addr: Multiaddr,
        opts: DialOpts,
    ) -> Result<Self::Dial, TransportError<Self::Error>> {
        self.inner.dial(addr, opts)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        for _ in 0..MAX_IN_ONE_GO {
            let event = std::task::ready!(Pin::new(&mut self.inner).poll(cx));
            match &event {
                TransportEvent::Incoming { send_back_addr, .. }
                    if self.door.incoming(ip_of(send_back_addr), true).is_none() => {}
                _ => return Poll::Ready(event),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
