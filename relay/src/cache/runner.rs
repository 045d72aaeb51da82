//! What the cache does by itself, as long as the service runs.

use super::{Admission, Cache, Config, now};
use crate::{
    announce::Announcer,
    body::Whole,
    content::{BlobId, ShardId},
    sync::lock,
    upstream::Record,
};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// Scrubs, follows the disk's size, writes snapshots and what memory alone has. One task, which reads
/// one blob at a time (16 MiB at most).
pub(crate) struct Runner {
    cache: Arc<Cache>,
    /// Who is told of what is held no more; nobody where the directory is not told of the cache.
    announcer: Option<Announcer>,
    scrub_rate: u64,
    scrub_every: Duration,
    snapshot_every: Duration,
    resize_every: Duration,
}

impl Runner {
    pub(crate) fn new(cache: Arc<Cache>, announcer: Option<Announcer>, config: &Config) -> Self {
        Self {
            cache,
            announcer,
            scrub_rate: config.scrub_rate,
            scrub_every: config.scrub_every,
            snapshot_every: config.snapshot_every,
            resize_every: config.resize_every,
        }
    }

    /// Runs until `stop`, then writes a last snapshot.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let promoted = lock(&self.cache.promoted).take();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.scrub() => {}
            () = self.resize() => {}
            () = self.snapshots() => {}
            () = self.promote(promoted) => {}
        }
        self.cache.save().await;
    }

    async fn scrub(&self) {
        if self.scrub_rate == 0 {
            return std::future::pending().await;
        }
        // Where it begins differs from start to start, so services that are restarted often read all of
        // their folders too.
        let [first, ..] = now().to_le_bytes();
        loop {
            let next = Instant::now() + self.scrub_every;
            for folder in 0..=u8::MAX {
                let found = self.cache.scrub(first.wrapping_add(folder), self.scrub_rate).await;
                self.withdraw(found.gone).await;
            }
            self.cache.metrics.scrub_passes_total.inc();
            sleep_until(next).await;
        }
    }

    async fn resize(&self) {
        loop {
            sleep(self.resize_every).await;
            let gone = self.cache.fit().await;
            self.withdraw(gone).await;
        }
    }

    async fn snapshots(&self) {
        loop {
            sleep(self.snapshot_every).await;
            self.cache.save().await;
        }
    }

    /// Offers to the disk what was asked for again and again while only memory had it.
    async fn promote(&self, queue: Option<mpsc::Receiver<Arc<Whole>>>) {
        let Some(mut queue) = queue else { return std::future::pending().await };
        // The cache has the other end.
        while let Some(whole) = queue.recv().await {
            let id = whole.id();
            let Admission { evicted, kept } = self.cache.write(&whole).await;
            self.withdraw(evicted).await;
            if let Some(announcer) = self.announcer.as_ref().filter(|_| kept.is_ok()) {
                self.cache.set_told(id, std::time::Instant::now());
                announcer.provide(Record::Shard(ShardId(id)));
            }
        }
    }

    async fn withdraw(&self, gone: Vec<BlobId>) {
        let Some(announcer) = &self.announcer else { return };
        for id in gone {
            announcer.withdraw(Record::Shard(ShardId(id))).await;
        }
    }
}
