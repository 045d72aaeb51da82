//! Finding a blob: the origin's store, then the relay's cache, then a fill.
//!
//! Every blob that is found holds room in memory until it is sent, so that however many viewers
//! read slowly, what is held for them is bounded. Those who read one that is being fetched share
//! their room, since they read the same memory.

use crate::{
    announce::Announcer,
    body::{Body, Follower, Memory, Room},
    cache::{Cache, Hit},
    content::{BlobId, ContentId, ShardId},
    error::Refusal,
    fill::{FillError, Fills, Joined},
    metrics::Metrics,
    store::Origin,
    upstream::{FetchError, Record},
    wire::Source,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::timeout;

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

/// A blob that can be read.
pub(crate) struct Found {
    pub(crate) body: Body,
    pub(crate) source: Source,
    /// Given back when the last who shares it is done.
    pub(crate) room: Room,
}

impl Lookup {
    /// Finds a blob; `fill` says whether a relay may fetch it, beginning with `range`.
    pub(crate) async fn find(
        &self,
        id: BlobId,
        range: Option<(u64, u64)>,
        fill: bool,
    ) -> Result<Found, Refusal> {
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
        self.fetch(relay, id, range).await
    }

    /// Finds a blob anywhere but here, where the disk fails to read it.
    pub(crate) async fn elsewhere(
        &self,
        id: BlobId,
        range: Option<(u64, u64)>,
        fill: bool,
    ) -> Result<Found, Refusal> {
        match &self.relay {
            Some(relay) if fill => self.fetch(relay, id, range).await,
            _ => Err(Refusal::NotFound),
        }
    }

    async fn fetch(
        &self,
        relay: &RelaySide,
        id: BlobId,
        range: Option<(u64, u64)>,
    ) -> Result<Found, Refusal> {
        match relay.fills.join(id, range, Instant::now()) {
            Joined::Fill(follower) => self.follow(relay, follower).await,
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
        let stored = origin.stored(id).await.map_err(|_| Refusal::Internal)?;
        if stored.is_none() {
            // It has just been found damaged or gone. Does nothing if only this reading failed.
            self.announcer.withdraw(Record::Shard(ShardId(id))).await;
            self.announcer.withdraw(Record::Content(ContentId(id))).await;
        }
        Ok(stored.map(|stored| Found { body: Body::File(stored), source: Source::Disk, room }))
    }

    async fn in_cache(&self, relay: &RelaySide, id: BlobId) -> Result<Option<Found>, Refusal> {
        let Some(len) = relay.cache.len_of(id) else { return Ok(None) };
        let room = self.room(len).await?;
        let hit = relay.cache.find(id).await;
        if hit.is_none() && relay.announce {
            // It was found damaged or gone. Does nothing if only this reading failed.
            self.announcer.withdraw(Record::Shard(ShardId(id))).await;
        }
        if hit.is_some() && relay.announce {
            self.touch(relay, id, Instant::now());
        }
        Ok(hit.map(|hit| {
            let (body, source) = match hit {
                Hit::Memory(whole) => (Body::Memory(whole), Source::Memory),
                Hit::Loaded(whole) => (Body::Memory(whole), Source::Disk),
                Hit::File(stored) => (Body::File(stored), Source::Disk),
            };
            Found { body, source, room }
        }))
    }

    /// Has the directory told again, now and then, of a blob that is in use.
    fn touch(&self, relay: &RelaySide, id: BlobId, now: Instant) {
        let stale = relay.cache.told(id).is_some_and(|told| self.announcer.is_stale(told, now));
        if stale && self.announcer.touch(id, now) {
            relay.cache.set_told(id, now);
        }
    }

    /// Reads a blob that is being fetched, from when its first group came.
    async fn follow(&self, relay: &RelaySide, follower: Follower) -> Result<Found, Refusal> {
        let source = if follower.is_whole() { Source::Memory } else { Source::Upstream };
        let begun = timeout(self.fill_wait, follower.begun());
        let failed = FillError::Fetch(FetchError::Failed);
        begun.await.unwrap_or(Err(failed)).map_err(|error| refusal(error, relay.fills.closed()))?;
        let room = timeout(self.memory_wait, follower.room(&self.memory)).await;
        let room = room.map_err(|_| Refusal::Memory)?;
        Ok(Found { body: Body::Growing(follower), source, room })
    }

    /// Why a body that was being sent cannot be sent to its end.
    pub(crate) fn broken(&self, error: FillError) -> Refusal {
        refusal(error, self.relay.as_ref().is_some_and(|relay| relay.fills.closed()))
    }

    async fn room(&self, len: u32) -> Result<Room, Refusal> {
        timeout(self.memory_wait, self.memory.room(len)).await.map_err(|_| Refusal::Memory)
    }
}

/// What a viewer is told when a fill failed; `closed` says whether the service is going down.
fn refusal(error: FillError, closed: bool) -> Refusal {
    match error {
        FillError::Fetch(FetchError::NotFound) => Refusal::NotFound,
        FillError::Fetch(FetchError::Busy) => Refusal::UpstreamBusy,
        FillError::Fetch(FetchError::Failed) => Refusal::UpstreamFailed,
        FillError::Fetch(FetchError::Corrupt) => Refusal::UpstreamCorrupt,
        FillError::Stopped if closed => Refusal::ShuttingDown,
        FillError::Stopped => Refusal::Internal,
    }
}
