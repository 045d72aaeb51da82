//! One request: read it, find the blob, send it.

use super::Shared;
use crate::{
    body::{BodyError, Sending},
    content::BlobId,
    error::Refusal,
    lookup::Found,
    wire::{
        self, Busy, Code, Encoding, MAX_HAS, ReadFrameError, Response, ServiceStatus, Source,
        encode_frame, read_frame,
    },
};
use bytes::Bytes;
use codec::Encode;
use quinn::{RecvStream, SendStream, StoppedError, WriteError};
use std::{collections::VecDeque, sync::Arc, time::Instant};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

/// Bytes of a body that a viewer must take within `stall_timeout`.
const PIECE: usize = 64 * 1024;

/// A stream that a viewer opened.
pub(super) struct Request {
    reply: Reply,
    receive: RecvStream,
    shared: Arc<Shared>,
    _turn: OwnedSemaphorePermit,
    _in_flight: InFlight,
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
    /// The rest of the body cannot be had.
    Broken(Refusal),
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
        shared: Arc<Shared>,
        turn: OwnedSemaphorePermit,
    ) -> Self {
        let in_flight = InFlight::new(Arc::clone(&shared));
        Self { reply: Reply(Some(send)), receive, shared, _turn: turn, _in_flight: in_flight }
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
            Err(SendError::Broken(refusal)) => {
                self.shared.count(refusal);
                self.reply.reset(refusal.code());
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
            wire::Request::Get { .. } | wire::Request::Has { .. } if self.shared.withhold => {
                Err(Refusal::NotFound)
            }
            wire::Request::Get { id, range, encoding, fill } => {
                self.get(id, range, encoding, fill).await
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

    async fn get(
        &mut self,
        id: BlobId,
        range: Option<(u64, u64)>,
        encoding: Encoding,
        fill: bool,
    ) -> Result<Result<(), SendError>, Refusal> {
        let started = Instant::now();
        let found = tokio::select! {
            found = self.shared.lookup.find(id, range, fill) => found?,
            // A viewer that has left waits for nothing; the fill goes on without it.
            () = self.reply.gone() => return Ok(Err(SendError::Gone)),
        };
        // The room is held until all is sent.
        let Found { body, source, room: _room } = found;
        let total = u64::from(body.len());
        let Some(sending) = Sending::new(body, range, encoding) else {
            self.shared.count(Refusal::Range);
            let header = Response { total, ..Response::refusal(Code::Range) };
            return Ok(self.send(header, VecDeque::new()).await);
        };
        let header = Response::ok(sending.length(), total, Some(source));
        let sent = self.send_body(header, sending).await;
        if sent.is_ok() {
            let took = started.elapsed().as_secs_f64();
            self.shared.metrics.shard_serve_latency_seconds.observe(took);
        }
        Ok(sent)
    }

    async fn refuse(&mut self, refusal: Refusal) -> Result<(), SendError> {
        self.shared.count(refusal);
        let _ = self.receive.stop(refusal.code().into());
        let mut header = Response::refusal(refusal.code());
        if refusal.code() == Code::Busy {
            let wait = self.shared.config.retry_after.as_millis();
            let retry_after_ms = u32::try_from(wait).unwrap_or(u32::MAX);
            header.busy = Some(Busy { retry_after_ms, others: Vec::new() });
        }
        self.send(header, VecDeque::new()).await
    }

    async fn send_small(&mut self, body: Bytes) -> Result<(), SendError> {
        self.send(Response::ok(len(&body), 0, None::<Source>), VecDeque::from([body])).await
    }

    /// Sends header and body, and waits until the viewer has them.
    async fn send(&mut self, header: Response, body: VecDeque<Bytes>) -> Result<(), SendError> {
        self.write_header(&header).await?;
        self.write(body).await?;
        self.finish(header.length).await
    }

    /// Sends header and body as they can be had, and waits until the viewer has them.
    async fn send_body(&mut self, header: Response, mut sending: Sending) -> Result<(), SendError> {
        self.write_header(&header).await?;
        let mut left = header.length;
        loop {
            let next = tokio::select! {
                next = sending.next() => next,
                () = self.reply.gone() => return Err(SendError::Gone),
            };
            match next {
                Ok(Some(pieces)) => {
                    left = left.saturating_sub(pieces.iter().map(len).sum());
                    self.write(pieces.into()).await?;
                }
                Ok(None) if left == 0 => return self.finish(header.length).await,
                Ok(None) => return Err(SendError::Internal),
                Err(BodyError::Failed(error)) => {
                    return Err(SendError::Broken(self.shared.lookup.broken(error)));
                }
            }
        }
    }

    async fn write_header(&mut self, header: &Response) -> Result<(), SendError> {
        let frame = encode_frame(header).map_err(|_| SendError::Internal)?;
        self.write(VecDeque::from([Bytes::from(frame)])).await
    }

    async fn write(&mut self, mut pieces: VecDeque<Bytes>) -> Result<(), SendError> {
        let stall = self.shared.config.stall_timeout;
        let send = self.reply.0.as_mut().ok_or(SendError::Internal)?;
        while !pieces.is_empty() {
            let mut piece = take(&mut pieces, PIECE);
            timeout(stall, send.write_all_chunks(&mut piece))
                .await
                .map_err(|_| SendError::Slow)??;
        }
        Ok(())
    }

    /// Ends the stream after `length` bytes of body, and waits until the viewer has them.
    async fn finish(&mut self, length: u64) -> Result<(), SendError> {
        let stall = self.shared.config.stall_timeout;
        let send = self.reply.0.as_mut().ok_or(SendError::Internal)?;
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

/// The sending side. quinn ends a stream cleanly when it is dropped, which would pass a body cut
/// short for a whole one: this resets it instead, unless it was sent to its end.
struct Reply(Option<SendStream>);

impl Reply {
    fn reset(&mut self, code: Code) {
        if let Some(mut send) = self.0.take() {
            let _ = send.reset(code.into());
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
    }
}
