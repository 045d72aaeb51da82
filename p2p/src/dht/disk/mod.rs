//! What the directory keeps over a restart: the records held for others, where their providers are,
//! what this node provides, and the peers of the routing table.
//!
//! One file, `directory.redb` in the overlay's folder, which redb keeps whole: a transaction is there
//! or it is not, so whoever kills the process loses at most the batch that was being written. The
//! swarm's task never touches it. It collects what has changed into a [`Batch`] and hands that to the
//! writer's task ([`Writer`]), if the writer is free; where it is not, the changes stay marked where
//! they are and go with a later batch. So a slow, full or broken disk costs what would have been
//! kept, and nothing else.
//!
//! Times are milliseconds since the Unix epoch here, and `Instant`s everywhere else.

mod file;
mod writer;

use super::{Class, Key};
use crate::{Multiaddr, OverlayKey};
pub(crate) use file::{Bounds, Dropped};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
pub(crate) use writer::{Writer, open};

/// Records that go with one batch. Worst case of a batch: 1.4 MB for 20,000 records put, 1 MB for
/// 16,384 removed, 3 MB for 8,192 providers with two addresses of 128 bytes, 1.1 MB for 20,000
/// provided keys, and 0.6 MB for 1,000 contacts: 7 MB. At most two are in memory, one of them being
/// written.
pub(crate) const MAX_RECORDS: usize = 20_000;

/// Provided keys that go with one batch.
pub(crate) const MAX_PROVIDED: usize = 20_000;

/// Peers of the routing table that are kept. A node of a network of 10,000 knows about 200.
pub(crate) const MAX_CONTACTS: usize = 1000;

/// A record held for somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeptRecord {
    pub(crate) key: Key,
    pub(crate) provider: OverlayKey,
    pub(crate) expires_ms: u64,
}

/// A peer of the routing table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeptContact {
    pub(crate) peer: OverlayKey,
    pub(crate) addresses: Vec<Multiaddr>,
    pub(crate) seen_ms: u64,
}

/// What became of a key that this node provides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is provided, and was last announced then, if at all.
    Put { key: Key, class: Class, announced_ms: Option<u64> },
    /// It is provided no more.
    Remove { key: Key },
}

/// What was kept.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// In no order; none has expired.
    pub(crate) records: Vec<KeptRecord>,
    /// Where the providers of these records are.
    pub(crate) providers: Vec<(OverlayKey, Vec<Multiaddr>)>,
    /// What this node provided, and when each was last announced.
    pub(crate) provided: Vec<(Key, Class, Option<u64>)>,
    /// The routing table.
    pub(crate) contacts: Vec<KeptContact>,
}

/// What has changed since the last batch.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// The records in the file count no more: all there are come with this batch and the next ones.
    pub(crate) rewrite: bool,
    /// Records that are held no more; removed before others are put.
    pub(crate) removed: Vec<(Key, OverlayKey)>,
    /// New and renewed records.
    pub(crate) records: Vec<KeptRecord>,
    /// New addresses of providers, or that one has no more records.
    pub(crate) providers: Vec<(OverlayKey, Option<Vec<Multiaddr>>)>,
    /// What became of provided keys.
    pub(crate) provided: Vec<Change>,
    /// The whole routing table, if it has changed.
    pub(crate) contacts: Option<Vec<KeptContact>>,
}

impl Batch {
    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        !self.rewrite
            && self.removed.is_empty()
            && self.records.is_empty()
            && self.providers.is_empty()
            && self.provided.is_empty()
            && self.contacts.is_none()
    }

    /// Whether it took as much as it may, so that more may be waiting.
    pub(crate) fn is_full(&self) -> bool {
        self.records.len() >= MAX_RECORDS || self.provided.len() >= MAX_PROVIDED
    }
}

/// The swarm task's end: where batches go, and when the next one is due.
#[derive(Debug)]
pub(crate) struct Disk {
    batches: mpsc::Sender<Batch>,
    every: Duration,
    next: Instant,
    /// Tells the writer that no time is left, here or by being dropped.
    closing: DropGuard,
}

/// The writer's end.
#[derive(Debug)]
pub(crate) struct Batches {
    queue: mpsc::Receiver<Batch>,
    closing: CancellationToken,
}

impl Disk {
    /// A batch every so often, the first one after that time.
    pub(crate) fn new(every: Duration, now: Instant) -> (Self, Batches) {
        // One waits while one is written.
        let (batches, queue) = mpsc::channel(1);
        let closing = CancellationToken::new();
        let disk =
            Self { batches, every, next: now + every, closing: closing.clone().drop_guard() };
        (disk, Batches { queue, closing })
    }

    /// Whether a batch is to be collected: it is time to, and the writer has room for it.
    pub(crate) fn due(&self, now: Instant) -> bool {
        self.next <= now && self.batches.capacity() > 0
    }

    /// Hands a batch over. Only after [`Self::due`] said so, else it may be lost.
    pub(crate) fn put(&mut self, batch: Batch, now: Instant) {
        // What is left over need not wait for the next turn.
        self.next = if batch.is_full() { now } else { now + self.every };
        if !batch.is_empty() {
            // The only sender found room a moment ago; the writer ends after it.
            let _ = self.batches.try_send(batch);
        }
    }

    /// Hands over batches until nothing is left, waiting for the writer, which then ends; at once
    /// if it cannot write.
    pub(crate) async fn finish(self, mut collect: impl FnMut() -> Batch) {
        drop(self.closing);
        loop {
            let batch = collect();
            if batch.is_empty() || self.batches.send(batch).await.is_err() {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(records: usize) -> Batch {
        let record = KeptRecord { key: Key::test(1), provider: [1; 32], expires_ms: 1 };
        Batch { records: vec![record; records], ..Batch::default() }
    }

    #[test]
    fn a_batch_is_due_when_it_is_time_and_the_writer_is_free() {
        let (now, every) = (Instant::now(), Duration::from_secs(5));
        let (mut disk, mut receiver) = Disk::new(every, now);
        assert!(!disk.due(now));
        assert!(disk.due(now + every));
        disk.put(batch(1), now + every);
        assert!(!disk.due(now + every), "not yet");
        assert!(!disk.due(now + 2 * every), "the writer has not taken it");
        assert_eq!(receiver.queue.try_recv().unwrap().records.len(), 1);
        assert!(disk.due(now + 2 * every));
        disk.put(batch(0), now + 2 * every);
        assert!(receiver.queue.try_recv().is_err(), "nothing to write");
        disk.put(batch(MAX_RECORDS), now + 3 * every);
        receiver.queue.try_recv().unwrap();
        assert!(disk.due(now + 3 * every), "more is waiting");
    }

    #[tokio::test]
    async fn at_the_end_everything_is_handed_over() {
        let (disk, mut receiver) = Disk::new(Duration::from_secs(5), Instant::now());
        let mut left = 3;
        let finish = disk.finish(|| {
            left -= usize::from(left > 0);
            batch(left)
        });
        let taken = async {
            let mut taken = Vec::new();
            while let Some(batch) = receiver.queue.recv().await {
                taken.push(batch.records.len());
            }
            taken
        };
        assert_eq!(futures::join!(finish, taken).1, [2, 1]);
    }
}
