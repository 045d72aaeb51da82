//! One request: read it, find the blob, send it.

use super::{Shared, outboards::Outboards, shed, viewer::Viewer};
use crate::{
    content::BlobId,
    error::Refusal,
    lookup::Found,
    wire::{
        self, Code, Cost, Encoding, MAX_HAS, Priority, ReadFrameError, Response, ServiceStatus,
        Source, Span, Spent, encode_frame, read_frame,
    },
};
use bytes::Bytes;
use codec::Encode;
use quinn::{RecvStream, SendStream, StoppedError, WriteError};
use std::{
    collections::VecDeque,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

/// Bytes of a body that a viewer must take within `stall_timeout`, and that go out in one turn.
const PIECE: usize = 64 * 1024;

/// A stream that a viewer opened.
pub(super) struct Request {
    reply: Reply,
    receive: RecvStream,
    viewer: Arc<Viewer>,
    shared: Arc<Shared>,
    _turn: OwnedSemaphorePermit,
    _in_flight: InFlight,
}

/// A blob that is asked for.
struct Wanted {
    id: BlobId,
    range: Option<(u64, u64)>,
    encoding: Encoding,
    fill: bool,
    priority: Priority,
    /// Whether the asker wants to know what it cost.
    tell_cost: bool,
}

/// Counts a request as long as it lasts.
struct InFlight(Arc<Shared>);

impl InFlight {
    fn new(shared: Arc<Shared>) -> Self {
        shared.in_flight.send_modify(|requests| *requests += 1);
        Self(shared)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.send_modify(|requests| *requests = requests.saturating_sub(1));
    }
}

/// Why a reply could not be sent to its end.
enum SendError {
    /// The viewer wants no more, or is gone. Nobody's fault.
    Gone,
    /// The viewer stopped reading.
    Slow,
    /// The reply cannot be written down.
    Internal,
}

impl From<WriteError> for SendError {
    fn from(_: WriteError) -> Self {
        Self::Gone
    }
}

impl Request {
    pub(super) fn new(
        send: SendStream,
        receive: RecvStream,
        viewer: Arc<Viewer>,
        shared: Arc<Shared>,
        turn: OwnedSemaphorePermit,
    ) -> Self {
        let in_flight = InFlight::new(Arc::clone(&shared));
        let reply = Reply(Some(send));
        Self { reply, receive, viewer, shared, _turn: turn, _in_flight: in_flight }
    }

    /// Serves the request to its end. Dropped in between, it resets the stream.
    pub(super) async fn serve(mut self) {
        let result = match self.read().await {
            Ok(Some(request)) => {
                let _ = self.receive.stop(Code::Ok.into());
                self.answer(request).await
            }
            Ok(None) => Err(Refusal::ShuttingDown),
            Err(refusal) => Err(refusal),
        };
        let sent = match result {
            Ok(sent) => sent,
            Err(refusal) => self.refuse(refusal).await,
        };
        match sent {
            Ok(()) | Err(SendError::Gone) => {}
            Err(SendError::Slow) => {
                self.shared.count(Refusal::SlowReader);
                self.reply.reset(Refusal::SlowReader.code());
            }
            Err(SendError::Internal) => {
                self.shared.count(Refusal::Internal);
                self.reply.reset(Code::Internal);
            }
        }
    }

    /// The request, or `None` when the service is going down.
    async fn read(&mut self) -> Result<Option<wire::Request>, Refusal> {
        if self.shared.draining.is_cancelled() {
            return Ok(None);
        }
        let read = read_frame::<wire::Request>(&mut self.receive);
        match timeout(self.shared.config.request_timeout, read).await {
            Ok(Ok(request)) => Ok(Some(request)),
            Ok(Err(ReadFrameError::Frame(error))) => {
                tracing::debug!("A bad request: {error}");
                Err(Refusal::BadFrame)
            }
            // The viewer has taken it back.
            Ok(Err(ReadFrameError::Stream(_))) => Err(Refusal::BadFrame),
            Err(_) => Err(Refusal::SlowRequest),
        }
    }

    async fn answer(&mut self, request: wire::Request) -> Result<Result<(), SendError>, Refusal> {
        match request {
            wire::Request::Get { .. } | wire::Request::GetAs { .. } | wire::Request::Has { .. }
                if self.shared.withhold =>
            {
                Err(Refusal::NotFound)
            }
            wire::Request::Get { id, range, encoding, fill } => {
                let priority = self.viewer.urgency(id, range);
                let wanted = Wanted { id, range, encoding, fill, priority, tell_cost: false };
                self.get(wanted).await
            }
            wire::Request::GetAs { priority, id, range, encoding, fill } => {
                let wanted = Wanted { id, range, encoding, fill, priority, tell_cost: true };
                self.get(wanted).await
            }
            wire::Request::Has { ids } => {
                if ids.len() > MAX_HAS {
                    return Err(Refusal::TooManyIds);
                }
                let holds = |id: &BlobId| u8::from(self.shared.lookup.holds(*id));
                let body: Bytes = ids.iter().map(holds).collect();
                Ok(self.send_small(body).await)
            }
            wire::Request::Status => {
                let status = ServiceStatus {
                    origin: self.shared.lookup.origin.is_some(),
                    relay: self.shared.lookup.relay.is_some(),
                    viewers: self.shared.viewers(),
                    max_viewers: self.shared.config.max_connections,
                };
                Ok(self.send_small(Bytes::from(status.encode())).await)
            }
        }
    }

    async fn get(&mut self, wanted: Wanted) -> Result<Result<(), SendError>, Refusal> {
        let Wanted { id, range, encoding, fill, priority, tell_cost } = wanted;
        let started = Instant::now();
        let (fullness, thresholds) = (self.shared.fullness(), self.shared.thresholds());
        let served = self.viewer.was_served();
        if let Some(refusal) = shed::refuse(fullness, thresholds, priority, served) {
            return Err(refusal);
        }
        self.viewer.set_served();
        self.reply.set_priority(priority);
        let gone = self.reply.gone();
        let find = async {
            let found = self.shared.lookup.find(id, fill).await?;
            let body = body(&self.shared.outboards, id, &found.bytes, range, encoding).await?;
            Ok((found, body))
        };
        let (found, body) = tokio::select! {
            found = find => found?,
            // A viewer that has left waits for nothing; the fill goes on without it.
            () = gone => return Ok(Err(SendError::Gone)),
        };
        let Found { bytes, source, room } = found;
        let total = len(&bytes);
        let Some(body) = body else {
            self.shared.count(Refusal::Range);
            let header = Response { total, ..Response::refusal(Code::Range) };
            return Ok(self.send(header, Vec::new(), priority).await);
        };
        let length = body.iter().map(len).sum();
        let mut header = Response::ok(length, total, Some(source));
        if tell_cost {
            header.cost = Cost::of(spent(source, started.elapsed()));
        }
        self.shared.metrics.first_byte_seconds.observe(started.elapsed().as_secs_f64());
        let sent = self.send(header, body, priority).await;
        if sent.is_ok() {
            let took = started.elapsed().as_secs_f64();
            self.shared.metrics.shard_serve_latency_seconds.observe(took);
        }
        drop(room);
        Ok(sent)
    }

    async fn refuse(&mut self, refusal: Refusal) -> Result<(), SendError> {
        self.shared.count(refusal);
        let _ = self.receive.stop(refusal.code().into());
        let mut header = Response::refusal(refusal.code());
        header.busy = self.shared.busy(refusal);
        self.send(header, Vec::new(), Priority::Play).await
    }

    async fn send_small(&mut self, body: Bytes) -> Result<(), SendError> {
        self.send(Response::ok(len(&body), 0, None::<Source>), vec![body], Priority::Play).await
    }

    /// Sends header and body, and waits until the viewer has them.
    async fn send(
        &mut self,
        header: Response,
        body: Vec<Bytes>,
        priority: Priority,
    ) -> Result<(), SendError> {
        let length = header.length;
        let stall = self.shared.config.stall_timeout;
        let mut gone = pin!(self.reply.gone());
        let send = self.reply.0.as_mut().ok_or(SendError::Internal)?;
        let frame = encode_frame(&header).map_err(|_| SendError::Internal)?;
        timeout(stall, send.write_all(&frame)).await.map_err(|_| SendError::Slow)??;
        let mut body = VecDeque::from(body);
        while !body.is_empty() {
            let mut piece = take(&mut body, PIECE);
            if !self.shared.pace.is_free() {
                let bytes: u64 = piece.iter().map(len).sum();
                let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
                let Viewer { peer, weight, .. } = *self.viewer;
                tokio::select! {
                    () = self.shared.pace.turn(peer, weight, priority, bytes) => {}
                    () = &mut gone => return Err(SendError::Gone),
                }
            }
            timeout(stall, send.write_all_chunks(&mut piece))
                .await
                .map_err(|_| SendError::Slow)??;
        }
        let _ = send.finish();
        match timeout(stall, send.stopped()).await {
            Ok(Ok(None)) => {
                self.shared.metrics.bytes_served_total.inc_by(length);
                self.reply.0 = None;
                Ok(())
            }
            Ok(Ok(Some(_)) | Err(StoppedError::ConnectionLost(_))) => Err(SendError::Gone),
            Ok(Err(StoppedError::ZeroRttRejected)) => Err(SendError::Internal),
            Err(_) => Err(SendError::Slow),
        }
    }
}

/// Where the time until a blob was there went, by where it came from.
fn spent(source: Source, took: Duration) -> Spent {
    let took = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
    match source {
        Source::Memory => Spent { queue_us: took, ..Spent::default() },
        Source::Disk => Spent { disk_us: took, ..Spent::default() },
        Source::Upstream => Spent { upstream_us: took, ..Spent::default() },
    }
}

/// The sending side. quinn ends a stream cleanly when it is dropped, which would pass a body cut
/// short for a whole one: this resets it instead, unless it was sent to its end.
struct Reply(Option<SendStream>);

impl Reply {
    fn reset(&mut self, code: Code) {
        if let Some(mut send) = self.0.take() {
            let _ = send.reset(code.into());
        }
    }

    /// Among the streams of one connection, the most urgent is sent first.
    fn set_priority(&self, priority: Priority) {
        let number = match priority {
            Priority::Prefetch => -1,
            Priority::Play => 0,
            Priority::Seek => 1,
        };
        if let Some(send) = &self.0 {
            // Fails only on a stream that is over.
            let _ = send.set_priority(number);
        }
    }

    /// Ends when the viewer wants no more, or is gone.
    fn gone(&self) -> impl Future<Output = ()> + use<> {
        let stopped = self.0.as_ref().map(SendStream::stopped);
        async move {
            if let Some(stopped) = stopped {
                let _ = stopped.await;
            }
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.reset(Code::Internal);
    }
}

fn len(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// The body for a verified blob, in pieces that lie in memory; `None` when the range is not in the
/// blob. Nothing of the blob is copied.
async fn body(
    outboards: &Outboards,
    id: BlobId,
    blob: &Bytes,
    range: Option<(u64, u64)>,
    encoding: Encoding,
) -> Result<Option<Vec<Bytes>>, Refusal> {
    match encoding {
        Encoding::Raw => {
            let body = match range {
                None => Some(blob.clone()),
                Some(range) => cut(blob, range),
            };
            Ok(body.map(|body| vec![body]))
        }
        Encoding::Verified => {
            let total = u32::try_from(blob.len()).map_err(|_| Refusal::Internal)?;
            let Some(span) = Span::covering(total, range) else { return Ok(None) };
            let outboard = outboards.of(id, blob).await?;
            wire::encode(blob, &outboard, &span).map(Some).ok_or(Refusal::Internal)
        }
    }
}

/// Takes the next `most` bytes off a body, or all that is left.
fn take(body: &mut VecDeque<Bytes>, most: usize) -> Vec<Bytes> {
    let mut taken = Vec::new();
    let mut room = most;
    while room > 0
        && let Some(mut piece) = body.pop_front()
    {
        let rest = piece.split_off(piece.len().min(room));
        room -= piece.len();
        taken.push(piece);
        if !rest.is_empty() {
            body.push_front(rest);
        }
    }
    taken
}

/// The bytes from `first` to before `end`, if they lie inside and are any.
fn cut(bytes: &Bytes, (first, end): (u64, u64)) -> Option<Bytes> {
    let first = usize::try_from(first).ok()?;
    let end = usize::try_from(end).ok()?;
    (first < end && end <= bytes.len()).then(|| bytes.slice(first..end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_at_the_edges() {
        let bytes = Bytes::from_static(b"0123456789");
        assert_eq!(cut(&bytes, (0, 10)).as_deref(), Some(&b"0123456789"[..]));
        assert_eq!(cut(&bytes, (9, 10)).as_deref(), Some(&b"9"[..]));
        for range in [(0, 11), (10, 10), (5, 5), (6, 5), (u64::MAX, u64::MAX), (0, u64::MAX)] {
            assert_eq!(cut(&bytes, range), None, "{range:?}");
        }
    }

    proptest! {
        #[test]
        fn a_body_is_taken_in_pieces_of_the_size_and_whole(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20),
            most in 1usize..100,
        ) {
            let whole = pieces.concat();
            let mut body: VecDeque<_> = pieces.into_iter().map(Bytes::from).collect();
            let mut taken = Vec::new();
            while !body.is_empty() {
                let piece = take(&mut body, most).concat();
                prop_assert!(piece.len() == most || body.is_empty());
                taken.extend(piece);
            }
            prop_assert_eq!(taken, whole);
        }

        #[test]
        fn a_range_gives_what_it_names_or_nothing(
            data: Vec<u8>,
            near: bool,
            first: usize,
            end: usize,
        ) {
            let (at, to) = if near { (first % 300, end % 300) } else { (first, end) };
            let (first, end) = (at as u64, to as u64);
            let bytes = Bytes::from(data.clone());
            match cut(&bytes, (first, end)) {
                Some(body) => prop_assert_eq!(&body[..], &data[at..to]),
                None => prop_assert!(first >= end || end > data.len() as u64),
            }
        }
    }
}
