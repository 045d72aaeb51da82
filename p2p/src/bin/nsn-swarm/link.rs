//! One connection of a light peer: the stream it writes to, and the streams it reads.

use crate::{
    dial::Dialled,
    negotiate,
    tally::{Count, Tally, Trouble},
    wire::{MAX_FRAME, Received},
};
use futures::{
    AsyncReadExt, AsyncWriteExt, StreamExt,
    future::{BoxFuture, pending},
    io::{BufReader, ReadHalf, WriteHalf},
    stream::FuturesUnordered,
};
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerExt, SubstreamBox};
use nsn_p2p::gossip::Envelope;
use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::{sleep, timeout};

/// Streams of the other side that are read at a time; further ones are dropped. A node opens one for
/// each of its protocols, so a dozen.
const MAX_READERS: usize = 64;

/// How long closing may take.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// How a peer reads what the node sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// As it comes.
    All,
    /// Never: the stream is accepted and left alone.
    Never,
    /// A byte a second.
    Trickle,
}

/// What a peer needs to listen.
#[derive(Clone)]
pub(crate) struct Ears {
    /// The only protocol it speaks.
    pub(crate) protocol: Arc<str>,
    pub(crate) reading: Reading,
    pub(crate) tally: Arc<Tally>,
}

/// The stream that a peer writes its gossip to.
pub(crate) type Outlet = WriteHalf<BufReader<SubstreamBox>>;

/// The other half of it, on which nothing ever comes but its end.
pub(crate) type OutletEnd = ReadHalf<BufReader<SubstreamBox>>;

/// A connection. It makes progress only within [`drive`](Self::drive).
pub(crate) struct Link {
    dialled: Dialled,
    readers: FuturesUnordered<BoxFuture<'static, ()>>,
    ears: Ears,
}

impl Link {
    pub(crate) fn new(dialled: Dialled, ears: Ears) -> Self {
        Self { dialled, readers: FuturesUnordered::new(), ears }
    }

    /// Does `work`, and meanwhile what the connection wants done.
    ///
    /// # Errors
    /// `Closed` if the connection ends first.
    pub(crate) async fn drive<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Trouble> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            if self.progress(cx).is_err() {
                return Poll::Ready(Err(Trouble::Closed));
            }
            work.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    /// Opens the stream to write to.
    ///
    /// # Errors
    /// `Refused` if the node does not have it.
    pub(crate) async fn open(&mut self) -> Result<(Outlet, OutletEnd), Trouble> {
        let opened = poll_fn(|cx| {
            if self.progress(cx).is_err() {
                return Poll::Ready(Err(Trouble::Refused));
            }
            self.dialled.muxer.poll_outbound_unpin(cx).map_err(|_| Trouble::Refused)
        });
        let mut stream = BufReader::new(opened.await?);
        let protocol = self.ears.protocol.clone();
        match self.drive(negotiate::dial(&mut stream, &protocol)).await {
            Ok(Ok(())) => {
                let (end, outlet) = stream.split();
                Ok((outlet, end))
            }
            _ => Err(Trouble::Refused),
        }
    }

    /// Tells the other side, if it listens.
    pub(crate) async fn close(mut self) {
        let muxer: &mut StreamMuxerBox = &mut self.dialled.muxer;
        // It goes either way.
        let _ = timeout(CLOSE_TIMEOUT, poll_fn(|cx| muxer.poll_close_unpin(cx))).await;
        drop(self.dialled.transport);
    }

    fn progress(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while let Poll::Ready(event) = self.dialled.muxer.poll_unpin(cx) {
            event?;
        }
        while let Poll::Ready(stream) = self.dialled.muxer.poll_inbound_unpin(cx) {
            let stream = stream?;
            if self.readers.len() < MAX_READERS {
                self.readers.push(Box::pin(listen(stream, self.ears.clone())));
            }
        }
        while let Poll::Ready(Some(())) = self.readers.poll_next_unpin(cx) {}
        Ok(())
    }
}

/// Reads one stream of the other side to its end.
async fn listen(stream: SubstreamBox, ears: Ears) {
    let mut stream = BufReader::new(stream);
    if negotiate::listen(&mut stream, &ears.protocol).await.is_err() {
        return;
    }
    match ears.reading {
        Reading::All => {
            if let Err(error) = hear(&mut stream, &ears.tally).await
                && error.kind() == io::ErrorKind::InvalidData
            {
                ears.tally.trouble(Trouble::Malformed);
            }
        }
        Reading::Never => pending().await,
        Reading::Trickle => {
            // Past the buffer, which would read more than a byte.
            let mut stream = stream.into_inner();
            while stream.read_exact(&mut [0]).await.is_ok() {
                sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn hear(stream: &mut BufReader<SubstreamBox>, tally: &Tally) -> io::Result<()> {
    let mut body = Vec::new();
    while let Some(len) = negotiate::read_length(stream, MAX_FRAME).await? {
        body.resize(len, 0);
        stream.read_exact(&mut body).await?;
        tally.add(Count::Received, u64::try_from(len).unwrap_or(u64::MAX));
        let received = Received::read(&body)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "no gossip"))?;
        tally.add(Count::Grafts, received.grafts);
        tally.add(Count::Prunes, received.prunes);
        tally.add(Count::Wanted, received.wanted);
        for data in received.data {
            tally.add(Count::Delivered, 1);
            let payload = Envelope::from_bytes(data).map(|envelope| envelope.payload);
            if let Some(took) = payload.ok().as_deref().and_then(|p| since_stamp(p, unix_now())) {
                tally.latency(took);
            }
        }
    }
    Ok(())
}

/// The time since the Unix epoch.
pub(crate) fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// What honest messages carry: when they were made, in nanoseconds since the Unix epoch, and filler.
pub(crate) fn stamped(now: Duration, size: usize) -> Vec<u8> {
    let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    let mut payload = nanos.to_be_bytes().to_vec();
    payload.resize(size.max(payload.len()), 0x55);
    payload
}

/// How old what [`stamped`] made is; nothing if this is something else.
fn since_stamp(payload: &[u8], now: Duration) -> Option<Duration> {
    let stamp = payload.first_chunk::<8>()?;
    now.checked_sub(Duration::from_nanos(u64::from_be_bytes(*stamp)))
}

/// Returns once the other side has closed the stream. A writer need not notice: Yamux drops what
/// comes for a stream that is gone.
pub(crate) async fn ended(mut end: OutletEnd) {
    while let Ok(1..) = end.read(&mut [0; 64]).await {}
}

/// Writes a frame, all of it.
pub(crate) async fn write(outlet: &mut Outlet, frame: &[u8]) -> Result<(), Trouble> {
    outlet.write_all(frame).await.map_err(|_| Trouble::Stream)?;
    outlet.flush().await.map_err(|_| Trouble::Stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_tells_the_age() {
        let made = Duration::from_secs(1_800_000_000);
        let payload = stamped(made, 100);
        assert_eq!(payload.len(), 100);
        let age = since_stamp(&payload, made + Duration::from_millis(5));
        assert_eq!(age, Some(Duration::from_millis(5)));
        assert_eq!(since_stamp(&payload, made - Duration::from_millis(5)), None);
        assert_eq!(since_stamp(&[1, 2], made), None);
    }
}
