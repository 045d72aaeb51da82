//! Keeps the snapshot beside the client's heads.

use std::sync::Arc;

use arc_swap::ArcSwap;
use futures::StreamExt;
use prometheus_endpoint::{
    CounterVec, Gauge, GaugeVec, Opts, PrometheusError, Registry, U64, register,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Advance, BlockRef, Chain, ReadError, Snapshot, View, advance};

/// What the view does, as `nsn_chain_view_*`.
#[derive(Clone)]
pub struct Metrics {
    block: GaugeVec<U64>,
    peers: Gauge<U64>,
    advances: CounterVec<U64>,
    failures: CounterVec<U64>,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When a name is already taken in `registry`.
    pub fn register(registry: &Registry) -> Result<Self, PrometheusError> {
        let block = GaugeVec::new(
            Opts::new("nsn_chain_view_block", "Height of the block that the view stands at"),
            &["head"],
        )?;
        let advances = CounterVec::new(
            Opts::new(
                "nsn_chain_view_advances_total",
                "Blocks the view moved to, by what became of the reputation table",
            ),
            &["head", "table"],
        )?;
        let failures = CounterVec::new(
            Opts::new("nsn_chain_view_failures_total", "Blocks whose state could not be read"),
            &["head"],
        )?;
        Ok(Self {
            block: register(block, registry)?,
            peers: register(
                Gauge::new(
                    "nsn_chain_view_bound_peers",
                    "Overlay keys that an account answers for, in the finalised state",
                )?,
                registry,
            )?,
            advances: register(advances, registry)?,
            failures: register(failures, registry)?,
        })
    }
}

/// Follows the chain until it is told to stop.
pub struct Driver<C> {
    chain: Arc<C>,
    shared: Arc<ArcSwap<Snapshot>>,
    changed: watch::Sender<u64>,
    metrics: Metrics,
}

impl<C: Chain> Driver<C> {
    pub(super) fn new(
        chain: C,
        shared: Arc<ArcSwap<Snapshot>>,
        changed: watch::Sender<u64>,
        metrics: Metrics,
    ) -> Self {
        Self { chain: Arc::new(chain), shared, changed, metrics }
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

    /// Brings the snapshot to the client's heads.
    pub(super) fn refresh(&self) {
        let heads = self.chain.heads();
        let old = self.shared.load_full();
        // Finalised first: the new best view then mostly starts from it or from the old best.
        let finalized = self.next("finalized", &old.finalized, heads.finalized);
        let best = self.next("best", &old.best, heads.best);
        let changed = !Arc::ptr_eq(&old.finalized.reputation, &finalized.reputation)
            || !Arc::ptr_eq(&old.finalized.validators, &finalized.validators);
        self.metrics.peers.set(finalized.reputation.len() as u64);
        self.shared.store(Arc::new(Snapshot { best, finalized }));
        if changed {
            self.changed.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// The view of `target`, or the old one when it cannot be read: a view is always the state of
    /// the block that it names. The next notification tries again.
    fn next(&self, head: &'static str, old: &Arc<View>, target: BlockRef) -> Arc<View> {
        if old.block == target {
            return old.clone();
        }
        match advance(&*self.chain, old, target) {
            Ok((view, how)) => {
                self.record(head, target, how);
                Arc::new(view)
            }
            Err(error) => {
                self.record_failure(head, target, &error);
                old.clone()
            }
        }
    }

    fn record(&self, head: &'static str, target: BlockRef, how: Advance) {
        self.metrics.block.with_label_values(&[head]).set(u64::from(target.number));
        self.metrics.advances.with_label_values(&[head, how.label()]).inc();
        if how == Advance::Reorganised {
            tracing::debug!(target: "nsn::chain", head, number = target.number, "another fork");
        }
    }

    fn record_failure(&self, head: &'static str, target: BlockRef, error: &ReadError) {
        self.metrics.failures.with_label_values(&[head]).inc();
        tracing::warn!(
            target: "nsn::chain",
            head,
            number = target.number,
            "could not read the chain's reputation; going on with the last known: {error}"
        );
    }
}

/// Notifications merged into one refresh; they carry nothing, so the number costs nothing.
const WAKEUPS: usize = 1_024;
