//! Telling the directory what this node holds.
//!
//! What is held is the truth, and the directory is made to agree with it. Whoever changes what is
//! held marks the record ([`Announcer`]); the [`Runner`] takes marked records one after the other, a
//! few at a time, looks up whether each is held *then*, and tells the directory that. So "holds" and
//! "holds no more" never overtake each other, and the last word is the truth whoever said it.
//!
//! Nothing is lost for good when the queue of marks is full. A record that is held is then told by a
//! pass over all that is held; to tell of one that is held no more, its marker waits for a place.
//! There is no pass but for that reason and at the start of a directory ([`work`]): it is the
//! directory that renews what it was told.

mod holdings;
mod work;

use crate::{
    content::{BlobId, ShardId},
    limits::Bucket,
    metrics::{Metrics, count_and_log},
    sync::lock,
    upstream::{Class, Directory, Record, TellError},
};
use futures::{StreamExt, stream::FuturesUnordered};
pub(crate) use holdings::Holdings;
use serde::{Deserialize, Serialize};
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use work::{Outcome, Work};

/// Settings of what the directory is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Records that wait to be told, or are being told. Default 4,096; of about 100 bytes, 400 KiB.
    pub queue: usize,
    /// Records told at a time. Default 16.
    pub parallel: usize,
    /// Pause when the directory is busy; each further one is twice the one before, up to 2 s.
    /// Default 50 ms.
    #[serde(with = "humantime_serde")]
    pub retry_pause: Duration,
    /// The directory is told again that a blob of the cache is held when it is served and was last
    /// told longer ago than this, since of cached blobs it carries those that it was told of last.
    /// Default 10 min.
    #[serde(with = "humantime_serde")]
    pub touch_after: Duration,
    /// Most such tellings a second; 0 means none. Default 10: what a directory of 10,000 cached
    /// blobs carries can change as a whole in a quarter of an hour, and no faster.
    pub touches_per_second: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            queue: 4096,
            parallel: 16,
            retry_pause: Duration::from_millis(50),
            touch_after: Duration::from_secs(600),
            touches_per_second: 10,
        }
    }
}

/// What is held, in whatever store.
pub(crate) trait Held: Send + Sync + 'static {
    /// Whether and how a record is held now.
    fn class_of(&self, record: Record) -> Option<Class>;

    /// Records of what is kept for good, in one order that does not change: those after `after`, at
    /// most `limit`.
    fn kept_after(&self, after: Option<Record>, limit: usize) -> Vec<Record>;

    /// Blobs of the cache, the most recently used first, at most `limit`.
    fn cached(&self, limit: usize) -> Vec<BlobId>;
}

/// Marks records to be told. Cloning gives another handle.
#[derive(Clone)]
pub(crate) struct Announcer(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// There is something to tell.
    marked: Notify,
    /// A record has left the queue.
    room: Notify,
    touch_after: Duration,
    touches_per_second: u32,
    metrics: Metrics,
}

struct State {
    work: Work,
    touches: Bucket,
    closed: bool,
}

/// Tells the directory.
pub(crate) struct Runner {
    shared: Arc<Shared>,
    held: Arc<dyn Held>,
    directory: Arc<dyn Directory>,
    parallel: usize,
}

pub(crate) fn build(
    config: &Config,
    directory: Arc<dyn Directory>,
    held: Arc<dyn Held>,
    metrics: Metrics,
) -> (Announcer, Runner) {
    let work = Work::new(config.queue, directory.max_cached(), config.retry_pause);
    let touches = Bucket::full(config.touches_per_second, Instant::now());
    let shared = Arc::new(Shared {
        state: Mutex::new(State { work, touches, closed: false }),
        marked: Notify::new(),
        room: Notify::new(),
        touch_after: config.touch_after,
        touches_per_second: config.touches_per_second,
        metrics,
    });
    let runner = Runner { shared: Arc::clone(&shared), held, directory, parallel: config.parallel };
    (Announcer(shared), runner)
}

impl Announcer {
    /// Something is held now. Never waits: if the queue is full, all that is held is gone through.
    pub(crate) fn provide(&self, record: Record) {
        if self.mark(record) {
            return;
        }
        if lock(&self.0.state).work.scan_again() {
            self.0.metrics.announcement_scans_total.with_label_values(&["overflow"]).inc();
        }
        self.0.marked.notify_one();
    }

    /// Something is held no more. Waits for a place in the queue: nothing else would ever tell.
    pub(crate) async fn withdraw(&self, record: Record) {
        loop {
            let room = self.0.room.notified();
            let mut room = std::pin::pin!(room);
            // From here on, a place that becomes free wakes us.
            room.as_mut().enable();
            if self.mark(record) {
                return;
            }
            room.await;
        }
    }

    /// Whether a blob of the cache that is being served should be told again, if it was last told at
    /// `told`; `None` is never.
    pub(crate) fn is_stale(&self, told: Option<Instant>, now: Instant) -> bool {
        told.is_none_or(|told| now.saturating_duration_since(told) >= self.0.touch_after)
    }

    /// A blob of the cache is being served whose telling [is stale](Self::is_stale). Whether it is
    /// told again: only so many are in a second, and none while the queue is full.
    pub(crate) fn touch(&self, id: BlobId, now: Instant) -> bool {
        let allowed = lock(&self.0.state).touches.take(self.0.touches_per_second, now);
        let touched = allowed && self.mark(Record::Shard(ShardId(id)));
        let outcome = if touched { "told" } else { "limited" };
        self.0.metrics.announcement_touches_total.with_label_values(&[outcome]).inc();
        touched
    }

    /// False when there is no place for it.
    fn mark(&self, record: Record) -> bool {
        let mut state = lock(&self.0.state);
        let marked = state.closed || state.work.mark(record);
        drop(state);
        if marked {
            self.0.marked.notify_one();
        }
        marked
    }
}

impl Runner {
    /// Runs until `stop`; what still waits then is dropped, since a directory that runs on is told
    /// everything when the service starts again.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut starts = self.directory.starts().fuse();
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < self.parallel
                && let Some(record) = self.next()
            {
                running.push(self.tell(record));
            }
            let resumes_at = lock(&self.shared.state).work.resumes_at();
            tokio::select! {
                () = stop.cancelled() => return,
                Some(()) = starts.next() => {
                    lock(&self.shared.state).work.scan();
                    self.shared.metrics.announcement_scans_total.with_label_values(&["start"]).inc();
                }
                Some((record, outcome)) = running.next(), if !running.is_empty() => {
                    lock(&self.shared.state).work.ended(record, outcome, Instant::now());
                    self.shared.room.notify_waiters();
                }
                () = self.shared.marked.notified() => {}
                () = sleep_until(resumes_at) => {}
            }
        }
    }

    fn next(&self) -> Option<Record> {
        let mut state = lock(&self.shared.state);
        let next = state.work.next(&*self.held, Instant::now());
        self.shared.metrics.announcements_waiting.set(gauge(state.work.waiting()));
        next
    }

    async fn tell(&self, record: Record) -> (Record, Outcome) {
        let (operation, told) = match self.held.class_of(record) {
            Some(class) => ("provide", self.directory.provide(record, class).await),
            None => ("stop_providing", self.directory.stop_providing(record).await),
        };
        let Err(error) = told else { return (record, Outcome::Settled) };
        let failures = self.shared.metrics.directory_failures_total.with_label_values(&[operation]);
        let loud = count_and_log(&failures);
        let outcome = match error {
            TellError::Busy => Outcome::Busy,
            TellError::Full(most) => {
                if loud {
                    tracing::warn!(
                        "Not everything that is kept can be found: the directory carries {most} \
                         records at most; raise overlay.dht.max_kept"
                    );
                }
                Outcome::Settled
            }
            // Once it runs, everything is gone through.
            TellError::Down => Outcome::Settled,
        };
        tracing::debug!("{operation} of {record:?}: {error}");
        (record, outcome)
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        lock(&self.shared.state).closed = true;
        self.shared.room.notify_waiters();
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn gauge(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
