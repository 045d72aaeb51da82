//! Telling the directory what this node holds.
//!
//! One queue, worked off a few announcements at a time, those of one record strictly in their
//! order, so that "holds" and "holds no more" never overtake each other. Whether a blob is held is
//! looked up at the moment of queueing, one announcement after the other: whoever evicts a blob and
//! whoever fetches it anew may announce in any order, and the last word is the truth.

use crate::{
    content::BlobId,
    metrics::Metrics,
    sync::lock,
    upstream::{Directory, Record},
};
use futures::{StreamExt, stream::FuturesUnordered};
use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Announcements that wait. At 4,096 of 40 bytes, 160 KiB.
pub(crate) const QUEUE: usize = 4096;

/// Announcements that the directory works on at a time.
const PARALLEL: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Announcement {
    record: Record,
    held: bool,
}

/// Queues announcements. Cloning gives another handle.
#[derive(Clone)]
pub(crate) struct Announcer {
    queue: mpsc::Sender<Announcement>,
    holds: Arc<Holds>,
    /// Held from looking whether a blob is held until the announcement is queued.
    order: Arc<Mutex<()>>,
    metrics: Metrics,
}

/// Whether this node holds a blob, in whatever store.
pub(crate) type Holds = dyn Fn(BlobId) -> bool + Send + Sync;

/// Hands announcements to the directory.
pub(crate) struct Runner {
    queue: mpsc::Receiver<Announcement>,
    directory: Arc<dyn Directory>,
    metrics: Metrics,
}

pub(crate) fn build(
    directory: Arc<dyn Directory>,
    holds: Arc<Holds>,
    metrics: Metrics,
) -> (Announcer, Runner) {
    let (sender, queue) = mpsc::channel(QUEUE);
    let order = Arc::default();
    let announcer = Announcer { queue: sender, holds, order, metrics: metrics.clone() };
    (announcer, Runner { queue, directory, metrics })
}

impl Announcer {
    /// Announces that this node holds something, and waits for a place in the queue: for what must
    /// be found. Does nothing when it is not held any more by then, or once the service is going
    /// down.
    pub(crate) async fn provide(&self, record: Record) {
        let Ok(place) = self.queue.reserve().await else { return };
        let _order = lock(&self.order);
        if (self.holds)(record.blob()) {
            place.send(Announcement { record, held: true });
        }
    }

    /// Like [`Self::provide`], without waiting. False when the queue is full: then it is the caller's
    /// to see that it is announced all the same.
    pub(crate) fn try_provide(&self, record: Record) -> bool {
        !matches!(self.queue_if_true(record, true), Err(mpsc::error::TrySendError::Full(_)))
    }

    /// Announces that this node holds something. Dropped and counted when the queue is full: the
    /// network then finds other sources, or this one after its next start. Does nothing when it is
    /// not held any more.
    pub(crate) fn offer(&self, record: Record) {
        self.try_announce(record, true);
    }

    /// Announces that this node holds something no more. Dropped and counted when the queue is
    /// full: then someone asks in vain, and is told so. Does nothing when it is held again.
    pub(crate) fn withdraw(&self, record: Record) {
        self.try_announce(record, false);
    }

    fn try_announce(&self, record: Record, held: bool) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.queue_if_true(record, held) {
            self.metrics.announcements_dropped_total.inc();
        }
    }

    fn queue_if_true(
        &self,
        record: Record,
        held: bool,
    ) -> Result<(), mpsc::error::TrySendError<Announcement>> {
        let _order = lock(&self.order);
        if (self.holds)(record.blob()) != held {
            return Ok(());
        }
        self.queue.try_send(Announcement { record, held })
    }
}

impl Runner {
    /// Runs until `stop`; what still waits then is dropped.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut running = FuturesUnordered::new();
        let mut records = HashSet::new();
        let mut held_back: Option<Announcement> = None;
        loop {
            if let Some(next) = held_back.take_if(|next| !records.contains(&next.record)) {
                records.insert(next.record);
                running.push(announce(&*self.directory, next));
            }
            tokio::select! {
                () = stop.cancelled() => return,
                Some(next) = self.queue.recv(),
                    if held_back.is_none() && running.len() < PARALLEL => held_back = Some(next),
                Some((done, result)) = running.next(), if !running.is_empty() => {
                    let done: Announcement = done;
                    records.remove(&done.record);
                    if let Err(error) = result {
                        let operation = if done.held { "provide" } else { "stop_providing" };
                        self.metrics.directory_failures_total.with_label_values(&[operation]).inc();
                        tracing::debug!("{operation} of {:?} failed: {error}", done.record);
                    }
                }
                else => return,
            }
        }
    }
}

async fn announce(
    directory: &dyn Directory,
    announcement: Announcement,
) -> (Announcement, Result<(), crate::upstream::DirectoryError>) {
    let Announcement { record, held } = announcement;
    let result = match held {
        true => directory.provide(record).await,
        false => directory.stop_providing(record).await,
    };
    (announcement, result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        content::ShardId,
        upstream::{DirectoryError, Source},
    };
    use futures::future::BoxFuture;
    use std::{
        collections::BTreeSet,
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
    };
    use tokio::sync::Notify;

    /// The first announcement hangs until it is let go.
    #[derive(Default)]
    struct Slow {
        calls: AtomicUsize,
        log: Mutex<Vec<(Record, bool)>>,
        logged: Notify,
        let_go: Notify,
    }

    impl Slow {
        fn note(&self, record: Record, held: bool) -> BoxFuture<'_, Result<(), DirectoryError>> {
            Box::pin(async move {
                if self.calls.fetch_add(1, SeqCst) == 0 {
                    self.let_go.notified().await;
                }
                self.log.lock().unwrap().push((record, held));
                self.logged.notify_one();
                Ok(())
            })
        }
    }

    impl Directory for Slow {
        fn sources(&self, _: BlobId) -> BoxFuture<'_, Result<Vec<Source>, DirectoryError>> {
            unreachable!()
        }
        fn provide(&self, record: Record) -> BoxFuture<'_, Result<(), DirectoryError>> {
            self.note(record, true)
        }
        fn stop_providing(&self, record: Record) -> BoxFuture<'_, Result<(), DirectoryError>> {
            self.note(record, false)
        }
    }

    fn record(n: u8) -> Record {
        Record::Shard(ShardId(BlobId([n; 32])))
    }

    /// What a node holds: its blobs by their first byte.
    type Held = Arc<Mutex<BTreeSet<u8>>>;

    fn holding(held: &Held) -> Arc<Holds> {
        let held = Arc::clone(held);
        Arc::new(move |id| held.lock().unwrap().contains(&id.0[0]))
    }

    #[tokio::test]
    async fn announcements_of_one_record_keep_their_order() {
        let directory = Arc::new(Slow::default());
        let held = Held::new(Mutex::new([1, 2].into()));
        let (announcer, runner) = build(directory.clone(), holding(&held), Metrics::unregistered());
        let stop = CancellationToken::new();
        let running = tokio::spawn(runner.run(stop.clone()));
        announcer.offer(record(2));
        announcer.offer(record(1));
        held.lock().unwrap().remove(&2);
        announcer.withdraw(record(2));
        // Record 2 hangs, record 1 overtakes it, the withdrawal of 2 does not.
        directory.logged.notified().await;
        assert_eq!(*directory.log.lock().unwrap(), [(record(1), true)]);
        directory.let_go.notify_one();
        while directory.log.lock().unwrap().len() < 3 {
            directory.logged.notified().await;
        }
        let expected = [(record(1), true), (record(2), true), (record(2), false)];
        assert_eq!(*directory.log.lock().unwrap(), expected);
        stop.cancel();
        running.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_not_true_any_more_is_not_announced() {
        let held = Held::new(Mutex::new([1].into()));
        let directory = Arc::new(Slow::default());
        let (announcer, mut runner) = build(directory, holding(&held), Metrics::unregistered());
        // Refilled before the eviction is told.
        announcer.withdraw(record(1));
        // Evicted before the fill is told.
        announcer.offer(record(2));
        announcer.provide(record(2)).await;
        assert!(runner.queue.try_recv().is_err());
        announcer.provide(record(1)).await;
        announcer.withdraw(record(2));
        let told = std::iter::from_fn(|| runner.queue.try_recv().ok());
        let told: Vec<_> = told.map(|told| (told.record, told.held)).collect();
        assert_eq!(told, [(record(1), true), (record(2), false)]);
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let metrics = Metrics::unregistered();
        let (announcer, _runner) =
            build(Arc::new(Slow::default()), Arc::new(|_| true), metrics.clone());
        for _ in 0..QUEUE + 3 {
            announcer.offer(record(1));
        }
        assert_eq!(metrics.announcements_dropped_total.get(), 3);
    }
}
