//! Finding a blob: the origin's store, then the relay's cache, then a fill.
//!
//! Every blob that is found holds room in memory until it is sent, so that however many viewers
//! read slowly, what is held for them is bounded.

use crate::{
    announce::Announcer,
    cache::Cache,
    content::{BlobId, ContentId, ShardId},
    error::Refusal,
    fill::{FillError, Fills, Joined, Outcome},
    metrics::Metrics,
    store::Origin,
    upstream::{FetchError, Memory, Record},
    wire::Source,
};
use bytes::Bytes;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::timeout,
};

/// Where blobs are looked for.
pub(crate) struct Lookup {
    pub(crate) origin: Option<Arc<Origin>>,
    pub(crate) relay: Option<RelaySide>,
    pub(crate) announcer: Announcer,
    pub(crate) memory: Memory,
    pub(crate) memory_wait: Duration,
    pub(crate) fill_wait: Duration,
    pub(crate) metrics: Metrics,
}

/// What a relay has besides an origin.
pub(crate) struct RelaySide {
    pub(crate) cache: Arc<Cache>,
    pub(crate) fills: Fills,
    /// Whether the directory is told what the cache holds.
    pub(crate) announce: bool,
}

/// A verified blob.
pub(crate) struct Found {
    pub(crate) bytes: Bytes,
    pub(crate) source: Source,
    /// Given back when dropped.
    pub(crate) room: OwnedSemaphorePermit,
}

impl Lookup {
    /// Finds a blob; `fill` says whether a relay may fetch it.
    pub(crate) async fn find(&self, id: BlobId, fill: bool) -> Result<Found, Refusal> {
        if let Some(found) = self.in_origin(id).await? {
            return Ok(found);
        }
        let Some(relay) = &self.relay else { return Err(Refusal::NotFound) };
        if let Some(found) = self.in_cache(relay, id).await? {
            self.metrics.cache_hits_total.inc();
            return Ok(found);
        }
        self.metrics.cache_misses_total.inc();
        if !fill {
            return Err(Refusal::NotFound);
        }
        match relay.fills.join(id, Instant::now()) {
            Joined::Fill(outcome) => self.wait(relay, outcome).await,
            Joined::Absent => Err(Refusal::NotFound),
            Joined::Full => Err(Refusal::Fills),
            Joined::Closed => Err(Refusal::ShuttingDown),
        }
    }

    /// Whether a blob is held here, without reading it.
    pub(crate) fn holds(&self, id: BlobId) -> bool {
        self.origin.as_ref().is_some_and(|origin| origin.len_of(id).is_some())
            || self.relay.as_ref().is_some_and(|relay| relay.cache.len_of(id).is_some())
    }

    async fn in_origin(&self, id: BlobId) -> Result<Option<Found>, Refusal> {
        let Some(origin) = &self.origin else { return Ok(None) };
        let Some(len) = origin.len_of(id) else { return Ok(None) };
        let room = self.room(len).await?;
        // A disk that fails says nothing about the blob: `not found` would send the viewer away.
        let read = origin.read(id).await.map_err(|_| Refusal::Internal)?;
        if read.is_none() {
            // It has just been found damaged or gone. Does nothing if only this reading failed.
            self.announcer.withdraw(Record::Shard(ShardId(id))).await;
            self.announcer.withdraw(Record::Content(ContentId(id))).await;
        }
        Ok(read.map(|bytes| Found { bytes, source: Source::Disk, room }))
    }

    async fn in_cache(&self, relay: &RelaySide, id: BlobId) -> Result<Option<Found>, Refusal> {
        let Some(len) = relay.cache.len_of(id) else { return Ok(None) };
        let room = self.room(len).await?;
        let read = relay.cache.read(id).await;
        if read.is_none() && relay.announce {
            // It was found damaged or gone. Does nothing if only this reading failed.
            self.announcer.withdraw(Record::Shard(ShardId(id))).await;
        }
        if read.is_some() && relay.announce {
            self.touch(relay, id, Instant::now());
        }
        Ok(read.map(|bytes| Found { bytes, source: Source::Disk, room }))
    }

    /// Has the directory told again, now and then, of a blob that is in use.
    fn touch(&self, relay: &RelaySide, id: BlobId, now: Instant) {
        let stale = relay.cache.told(id).is_some_and(|told| self.announcer.is_stale(told, now));
        if stale && self.announcer.touch(id, now) {
            relay.cache.set_told(id, now);
        }
    }

    async fn wait(
        &self,
        relay: &RelaySide,
        mut outcome: watch::Receiver<Outcome>,
    ) -> Result<Found, Refusal> {
        let already = !matches!(*outcome.borrow(), Outcome::Pending);
        let finished = outcome.wait_for(|outcome| !matches!(outcome, Outcome::Pending));
        let finished = match timeout(self.fill_wait, finished).await {
            Ok(Ok(finished)) => finished.clone(),
            // The fill ended without a word, which its guard rules out.
            Ok(Err(_)) => Outcome::Failed(FillError::Stopped),
            Err(_) => Outcome::Failed(FillError::Fetch(FetchError::Failed)),
        };
        match finished {
            Outcome::Verified(bytes) => {
                let room = self.room(u32::try_from(bytes.len()).unwrap_or(u32::MAX)).await?;
                let source = if already { Source::Memory } else { Source::Upstream };
                Ok(Found { bytes, source, room })
            }
            Outcome::Failed(FillError::Fetch(error)) => Err(match error {
                FetchError::NotFound => Refusal::NotFound,
                FetchError::Busy => Refusal::UpstreamBusy,
                FetchError::Failed => Refusal::UpstreamFailed,
                FetchError::Corrupt => Refusal::UpstreamCorrupt,
            }),
            Outcome::Failed(FillError::Stopped) | Outcome::Pending => {
                Err(if relay.fills.closed() { Refusal::ShuttingDown } else { Refusal::Internal })
            }
        }
    }

    async fn room(&self, len: u32) -> Result<OwnedSemaphorePermit, Refusal> {
        timeout(self.memory_wait, self.memory.room(len)).await.map_err(|_| Refusal::Memory)
    }
}
