//! Keeps the snapshot beside the client's heads.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use arc_swap::ArcSwap;
use futures::StreamExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    BlockRef, Chain, Metrics, ReadError, Snapshot, View,
    buffers::Buffers,
    follow::{self, Moved},
};

/// Notifications merged into one refresh; they carry nothing, so the number costs nothing.
const WAKEUPS: usize = 1_024;

/// The two heads, as metric labels.
const BEST: &str = "best";
const FINALIZED: &str = "finalized";

/// Those who wait for something to change.
pub(super) struct Told {
    /// Grows with what penalties depend on.
    pub(super) changed: watch::Sender<u64>,
    /// The block of the best view.
    pub(super) best: watch::Sender<BlockRef>,
}

/// Follows the chain until it is told to stop.
pub struct Driver<C> {
    chain: C,
    /// Locked by one refresh at a time, and by nobody else.
    buffers: Mutex<Buffers>,
    shared: Arc<ArcSwap<Snapshot>>,
    told: Told,
    metrics: Metrics,
}

impl<C: Chain> Driver<C> {
    pub(super) const fn new(
        chain: C,
        buffers: Buffers,
        shared: Arc<ArcSwap<Snapshot>>,
        told: Told,
        metrics: Metrics,
    ) -> Self {
        Self { chain, buffers: Mutex::new(buffers), shared, told, metrics }
    }

    /// Runs until `shutdown`, or until the client is gone.
    ///
    /// Runtime calls are synchronous, some milliseconds each, so they run on the blocking pool; one
    /// at a time, since the next refresh starts from what this one found.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let driver = self;
        // Subscribed before the first look, so that nothing falls between the two.
        let mut wakeups = driver.chain.wakeups().ready_chunks(WAKEUPS);
        loop {
            let worker = driver.clone();
            let refresh = tokio::task::spawn_blocking(move || worker.refresh()).await;
            if let Err(error) = refresh {
                // The view stands where it stood; the next notification tries again.
                tracing::error!(target: "nsn::chain", "reading the chain's facts panicked: {error}");
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                wakeup = wakeups.next() => if wakeup.is_none() { return },
            }
        }
    }

    /// Brings the snapshot to the client's heads, and tells those who watch for changes. Blocks: for
    /// as long as the runtime calls take.
    pub fn refresh(&self) {
        if self.advance() {
            self.told.changed.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// Brings the snapshot to the client's heads; gives back whether anything that penalties depend
    /// on is different.
    pub(super) fn advance(&self) -> bool {
        // A panic on the way leaves no half-changed table behind, see `Buffers::apply`.
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let heads = self.chain.heads();
        let old = self.shared.load_full();
        // Finalised first: the best view stands on its table.
        let finalized = if old.finalized.block == heads.finalized {
            old.finalized.clone()
        } else {
            let started = Instant::now();
            let moved =
                follow::finalized(&self.chain, &mut buffers, &old.finalized, heads.finalized);
            self.take(FINALIZED, started, &old.finalized, heads.finalized, moved)
        };
        let best = if old.best.block == heads.best && old.best.peers.same_table(&finalized.peers) {
            old.best.clone()
        } else {
            let started = Instant::now();
            let moved =
                follow::best(&self.chain, &finalized, &old.best, heads.best, buffers.limit());
            let best = self.take(BEST, started, &old.best, heads.best, moved);
            // A best view that cannot be read is no reason to know less than the finalised one.
            if best.block.number < finalized.block.number { finalized.clone() } else { best }
        };
        let changed = differs(&old.finalized, &finalized);
        self.metrics.finalized(&finalized);
        let head = best.block;
        self.shared.store(Arc::new(Snapshot { best, finalized }));
        self.told.best.send_if_modified(|known| std::mem::replace(known, head) != head);
        changed
    }

    /// The view that `head` has moved to, or the old one when it could not be read: a view is always
    /// the state of the block that it names. The next notification tries again.
    fn take(
        &self,
        head: &'static str,
        started: Instant,
        old: &View,
        target: BlockRef,
        moved: Result<Moved, ReadError>,
    ) -> View {
        match moved {
            // The same block on the newer table is no step of the chain.
            Ok(moved) if old.block == target => moved.view,
            Ok(moved) => {
                self.metrics.moved(head, &moved, started.elapsed());
                if moved.applied.refused > 0 {
                    tracing::warn!(
                        target: "nsn::chain",
                        head,
                        number = target.number,
                        "{} bound keys are left out: the view is full, and for them this node acts \
                         as if no account answered",
                        moved.applied.refused
                    );
                }
                moved.view
            }
            Err(error) => {
                self.metrics.failed(head);
                tracing::warn!(
                    target: "nsn::chain",
                    head,
                    number = target.number,
                    "could not read the chain's reputation; going on with the last known: {error}"
                );
                old.clone()
            }
        }
    }
}

/// Whether scores or validators may be different: with the day, scores decay.
fn differs(old: &View, new: &View) -> bool {
    !old.peers.same(&new.peers)
        || old.day != new.day
        || !Arc::ptr_eq(&old.validators, &new.validators)
}
