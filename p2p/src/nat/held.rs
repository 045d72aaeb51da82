//! A connection handler that keeps its connection only while it is told to.
//!
//! libp2p's handlers of circuits keep connections on which they have nothing to do. The relay's says
//! for 10 s after its last use that it needs the connection, and sets no timer, so nobody asks again
//! when they are over: on a connection on which nothing happens the answer stays. The one for holes
//! says so until it has punched three times, which is for ever where the first hole holds or none is
//! wanted. Streams keep a connection by themselves, so what is left to say is whether it stands for
//! something that has no stream, and that is for the behaviour to say.

use libp2p::swarm::{
    ConnectionHandler, ConnectionHandlerEvent, SubstreamProtocol, handler::ConnectionEvent,
};
use std::task::{Context, Poll};

/// What a behaviour says to such a handler.
#[derive(Debug)]
pub(crate) enum Order<T> {
    /// For the handler within.
    Inner(T),
    /// Whether to keep the connection from now on.
    Hold(bool),
}

/// A handler whose own word on keeping the connection is not asked for.
pub(crate) struct Held<H> {
    inner: H,
    held: bool,
}

impl<H> Held<H> {
    /// Not kept until it is told to.
    pub(crate) fn new(inner: H) -> Self {
        Self { inner, held: false }
    }
}

impl<H: ConnectionHandler> ConnectionHandler for Held<H> {
    type FromBehaviour = Order<H::FromBehaviour>;
    type ToBehaviour = H::ToBehaviour;
    type InboundProtocol = H::InboundProtocol;
    type OutboundProtocol = H::OutboundProtocol;
    type InboundOpenInfo = H::InboundOpenInfo;
    type OutboundOpenInfo = H::OutboundOpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<H::InboundProtocol, H::InboundOpenInfo> {
        self.inner.listen_protocol()
    }

    fn connection_keep_alive(&self) -> bool {
        self.held
    }

    fn on_behaviour_event(&mut self, order: Order<H::FromBehaviour>) {
        match order {
            Order::Inner(event) => self.inner.on_behaviour_event(event),
            // The connection is looked at after each order.
            Order::Hold(held) => self.held = held,
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<H::OutboundProtocol, H::OutboundOpenInfo, H::ToBehaviour>>
    {
        self.inner.poll(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<H::ToBehaviour>> {
        self.inner.poll_close(cx)
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            '_,
            H::InboundProtocol,
            H::OutboundProtocol,
            H::InboundOpenInfo,
            H::OutboundOpenInfo,
        >,
    ) {
        self.inner.on_connection_event(event);
    }
}
