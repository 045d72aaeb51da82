//! One request: read it, find the blob, have it sent.

use super::{
    Shared,
    reply::{Reply, SendError, len, micros},
    shed,
    viewer::Viewer,
};
use crate::{
    body::Sending,
    content::BlobId,
    error::Refusal,
    lookup::Found,
    wire::{
        self, Code, Encoding, MAX_HAS, Priority, ReadFrameError, Receiver, Response, Sender,
        ServiceStatus, Source, Spent, read_frame,
    },
};
use bytes::Bytes;
use codec::Encode;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

/// A stream that a viewer opened.
pub(super) struct Request {
    reply: Reply,
    receive: Receiver,
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

impl Request {
    pub(super) fn new(
        send: Sender,
        receive: Receiver,
        viewer: Arc<Viewer>,
        shared: Arc<Shared>,
        turn: OwnedSemaphorePermit,
    ) -> Self {
        let in_flight = InFlight::new(Arc::clone(&shared));
        let reply = Reply::new(send, Arc::clone(&viewer), Arc::clone(&shared));
        Self { reply, receive, viewer, shared, _turn: turn, _in_flight: in_flight }
    }

    /// Serves the request to its end. Dropped in between, it resets the stream.
    pub(super) async fn serve(mut self) {
        let result = match self.read().await {
            Ok(Some(request)) => {
                self.receive.stop(Code::Ok);
                self.answer(request).await
            }
            Ok(None) => Err(Refusal::ShuttingDown),
            Err(refusal) => Err(refusal),
        };
        let sent = match result {
            Ok(sent) => sent,
            Err(refusal) => self.refuse(refusal).await,
        };
        let cut_off = match sent {
            Ok(()) | Err(SendError::Gone) => return,
            Err(SendError::Slow) => Refusal::SlowReader,
            Err(SendError::Broken(refusal) | SendError::Refused(refusal)) => refusal,
            Err(SendError::Internal) => Refusal::Internal,
        };
        self.shared.count(cut_off);
        self.reply.reset(cut_off.code());
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
                self.get(Wanted { id, range, encoding, fill, priority, tell_cost: false }).await
            }
            wire::Request::GetAs { priority, id, range, encoding, fill } => {
                self.get(Wanted { id, range, encoding, fill, priority, tell_cost: true }).await
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
        let asked = Instant::now();
        let (fullness, thresholds) = (self.shared.fullness(), self.shared.thresholds());
        let served = self.viewer.was_served();
        if let Some(refusal) = shed::refuse(fullness, thresholds, priority, served) {
            return Err(refusal);
        }
        self.viewer.set_served();
        if let Some(warmer) = &self.shared.warmer {
            // Who fetches ahead itself, or asks as one relay asks another, plays nothing here.
            warmer.read(id, fill && priority != Priority::Prefetch);
        }
        self.reply.set_priority(priority);
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
            return Ok(self.reply.send(&header, Bytes::new()).await);
        };
        let header = Response::ok(sending.length(), total, Some(source));
        let spent = tell_cost.then(|| spent(source, asked.elapsed()));
        let sent = self.reply.send_body(header, spent, sending, (id, fill), asked).await;
        if let Err(SendError::Refused(refusal)) = sent {
            return Err(refusal);
        }
        if sent.is_ok() {
            let took = asked.elapsed().as_secs_f64();
            self.shared.metrics.shard_serve_latency_seconds.observe(took);
        }
        Ok(sent)
    }

    async fn refuse(&mut self, refusal: Refusal) -> Result<(), SendError> {
        self.shared.count(refusal);
        self.receive.stop(refusal.code());
        let mut header = Response::refusal(refusal.code());
        header.busy = self.shared.busy(refusal);
        self.reply.send(&header, Bytes::new()).await
    }

    async fn send_small(&mut self, body: Bytes) -> Result<(), SendError> {
        self.reply.send(&Response::ok(len(&body), 0, None), body).await
    }
}

/// Where the time until a blob was there went, by where it came from.
fn spent(source: Source, took: Duration) -> Spent {
    let took = micros(took);
    match source {
        Source::Memory => Spent { queue_us: took, ..Spent::default() },
        Source::Disk => Spent { disk_us: took, ..Spent::default() },
        Source::Upstream => Spent { upstream_us: took, ..Spent::default() },
    }
}
