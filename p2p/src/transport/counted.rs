//! Counts the bytes of all streams, and sees to it that closing ends.

use futures::{AsyncRead, AsyncWrite, ready};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerBox, StreamMuxerEvent, SubstreamBox};
use prometheus_endpoint::{Counter, U64};
use std::{
    io::{self, IoSlice, IoSliceMut},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Sleep, sleep};

/// What every node writes first of all on a stream by which it, as a relay, hands a connection on.
const CARRIES: &[u8] = b"/libp2p/circuit/relay/0.2.0/stop\n";

/// Bytes of a stream in which that is looked for: the negotiation, 54 bytes, comes first.
const LOOKED_AT: usize = 64;

/// Where bytes are counted.
#[derive(Clone)]
pub(super) struct Counters {
    pub(super) sent: Counter<U64>,
    pub(super) received: Counter<U64>,
    /// What is carried between others. libp2p's relay does not tell, so streams tell by how they
    /// begin; each carries both ways, and what goes in comes out.
    pub(super) carried: Counter<U64>,
}

/// Counts the bytes of every stream of one connection. What encryption, multiplexing and
/// retransmission add is not in these numbers: QUIC does not tell.
///
/// Closing says goodbye, which cannot be sent to a peer that reads nothing: without an end to it,
/// such a peer would keep its place for as long as it likes.
pub(super) struct CountedMuxer {
    inner: StreamMuxerBox,
    counters: Counters,
    close_timeout: Duration,
    closing: Option<Pin<Box<Sleep>>>,
}

impl CountedMuxer {
    pub(super) fn new(inner: StreamMuxerBox, counters: Counters, close_timeout: Duration) -> Self {
        Self { inner, counters, close_timeout, closing: None }
    }

    fn counted(&self, inner: SubstreamBox, begins: Option<Vec<u8>>) -> CountedStream {
        CountedStream { inner, counters: self.counters.clone(), begins, carries: false }
    }
}

impl StreamMuxer for CountedMuxer {
    type Substream = CountedStream;
    type Error = io::Error;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<CountedStream, io::Error>> {
        let stream = ready!(Pin::new(&mut self.inner).poll_inbound(cx))?;
        Poll::Ready(Ok(self.counted(stream, None)))
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<CountedStream, io::Error>> {
        let stream = ready!(Pin::new(&mut self.inner).poll_outbound(cx))?;
        Poll::Ready(Ok(self.counted(stream, Some(Vec::new()))))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        if let Poll::Ready(closed) = Pin::new(&mut self.inner).poll_close(cx) {
            return Poll::Ready(closed);
        }
        let limit = self.close_timeout;
        let closing = self.closing.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(closing.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, io::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

pub(super) struct CountedStream {
    inner: SubstreamBox,
    counters: Counters,
    /// What was written so far, as long as it may show what the stream is for.
    begins: Option<Vec<u8>>,
    carries: bool,
}

impl CountedStream {
    fn read(&self, bytes: usize) {
        count(&self.counters.received, bytes);
        if self.carries {
            count(&self.counters.carried, bytes);
        }
    }

    fn wrote<'a>(&mut self, bytes: usize, written: impl Iterator<Item = &'a [u8]>) {
        count(&self.counters.sent, bytes);
        if self.carries {
            count(&self.counters.carried, bytes);
        }
        let Some(begins) = &mut self.begins else { return };
        let room = LOOKED_AT.saturating_sub(begins.len()).min(bytes);
        begins.extend(written.flatten().take(room));
        self.carries = begins.windows(CARRIES.len()).any(|part| part == CARRIES);
        if self.carries || begins.len() >= LOOKED_AT {
            self.begins = None;
        }
    }
}

fn count(counter: &Counter<U64>, bytes: usize) {
    counter.inc_by(u64::try_from(bytes).unwrap_or(u64::MAX));
}

impl AsyncRead for CountedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let bytes = ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.read(bytes);
        Poll::Ready(Ok(bytes))
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = ready!(Pin::new(&mut self.inner).poll_read_vectored(cx, bufs))?;
        self.read(bytes);
        Poll::Ready(Ok(bytes))
    }
}

impl AsyncWrite for CountedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let bytes = ready!(Pin::new(&mut self.inner).poll_write(cx, buf))?;
        self.wrote(bytes, std::iter::once(buf));
        Poll::Ready(Ok(bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, bufs))?;
        self.wrote(bytes, bufs.iter().map(|part| &**part));
        Poll::Ready(Ok(bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Metrics;
    use std::time::Instant;

    /// A connection whose other end reads nothing, so that no goodbye can be sent.
    struct Stuck;

    impl StreamMuxer for Stuck {
        type Substream = CountedStream;
        type Error = io::Error;

        fn poll_inbound(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<io::Result<CountedStream>> {
            Poll::Pending
        }

        fn poll_outbound(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<io::Result<CountedStream>> {
            Poll::Pending
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn closing_ends_even_if_the_peer_reads_nothing() {
        let metrics = Metrics::unregistered().unwrap();
        let limit = Duration::from_millis(50);
        let (sent, received) = (metrics.bytes_sent, metrics.bytes_received);
        let counters = Counters { sent, received, carried: metrics.nat.relay_bytes.clone() };
        let mut muxer = CountedMuxer::new(StreamMuxerBox::new(Stuck), counters, limit);
        let begun = Instant::now();
        let closed = std::future::poll_fn(|cx| Pin::new(&mut muxer).poll_close(cx)).await;
        assert_eq!(closed.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= limit);
    }
}
