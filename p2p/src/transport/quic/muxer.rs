//! A QUIC connection and its streams, as libp2p takes them.

use super::Error;
use futures::{AsyncRead, AsyncWrite, FutureExt, future::BoxFuture, ready};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

type Opening = BoxFuture<'static, Result<(SendStream, RecvStream), ConnectionError>>;

/// quinn's futures borrow the connection, so each is kept with a handle of its own while it waits.
pub(in crate::transport) struct Muxer {
    connection: Connection,
    inbound: Option<Opening>,
    outbound: Option<Opening>,
    closing: Option<BoxFuture<'static, ConnectionError>>,
}

impl Muxer {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection, inbound: None, outbound: None, closing: None }
    }
}

fn poll_opening(
    waiting: &mut Option<Opening>,
    begin: impl FnOnce() -> Opening,
    cx: &mut Context<'_>,
) -> Poll<Result<Stream, Error>> {
    let opened = ready!(waiting.get_or_insert_with(begin).poll_unpin(cx));
    *waiting = None;
    let (send, recv) = opened?;
    Poll::Ready(Ok(Stream { send, recv }))
}

impl StreamMuxer for Muxer {
    type Substream = Stream;
    type Error = Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Stream, Error>> {
        let Self { connection, inbound, .. } = &mut *self;
        let begin = || {
            let connection = connection.clone();
            async move { connection.accept_bi().await }.boxed()
        };
        poll_opening(inbound, begin, cx)
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Stream, Error>> {
        let Self { connection, outbound, .. } = &mut *self;
        let begin = || {
            let connection = connection.clone();
            async move { connection.open_bi().await }.boxed()
        };
        poll_opening(outbound, begin, cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Self { connection, closing, .. } = &mut *self;
        let closing = closing.get_or_insert_with(|| {
            connection.close(VarInt::from_u32(0), &[]);
            let connection = connection.clone();
            async move { connection.closed().await }.boxed()
        });
        Poll::Ready(match ready!(closing.poll_unpin(cx)) {
            ConnectionError::LocallyClosed => Ok(()),
            error => Err(error.into()),
        })
    }

    /// Nothing happens to a connection besides its streams: it does not migrate.
    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, Error>> {
        Poll::Pending
    }
}

/// One stream. Dropped, it is finished in our direction and stopped in the other.
pub(in crate::transport) struct Stream {
    send: SendStream,
    recv: RecvStream,
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.recv.poll_read(cx, buf).map_err(Into::into)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.send).poll_write(cx, buf).map_err(Into::into)
    }

    /// quinn sends by itself.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Finished before, or stopped by the peer: either way nothing more is to come from us.
        let _ = self.send.finish();
        Poll::Ready(Ok(()))
    }
}
