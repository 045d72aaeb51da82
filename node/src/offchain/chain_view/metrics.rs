//! What the view does, as `nsn_chain_view_*`.

use std::time::Duration;

use prometheus_endpoint::{
    CounterVec, Gauge, GaugeVec, HistogramOpts, HistogramVec, Opts, PrometheusError, Registry, U64,
    exponential_buckets, register,
};

use super::{View, buffers::Applied, follow::Moved};

/// Counts what the view does.
#[derive(Clone)]
pub struct Metrics {
    block: GaugeVec<U64>,
    peers: Gauge<U64>,
    advances: CounterVec<U64>,
    seconds: HistogramVec,
    changes: CounterVec<U64>,
    copies: CounterVec<U64>,
    refused: CounterVec<U64>,
    failures: CounterVec<U64>,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When a name is already taken in `registry`.
    pub fn register(registry: &Registry) -> Result<Self, PrometheusError> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            register(CounterVec::new(Opts::new(name, help), labels)?, registry)
        };
        let block = GaugeVec::new(
            Opts::new("nsn_chain_view_block", "Height of the block that the view stands at"),
            &["head"],
        )?;
        let peers = Gauge::new(
            "nsn_chain_view_bound_peers",
            "Overlay keys that an account answers for, in the finalised state",
        )?;
        // From 50 us (a block without changes) to 26 s (a million peers, read page by page).
        let seconds = HistogramOpts::new(
            "nsn_chain_view_advance_seconds",
            "Time to move the view to another block, reading the chain's state included",
        )
        .buckets(exponential_buckets(0.000_05, 3.0, 13)?);
        Ok(Self {
            block: register(block, registry)?,
            peers: register(peers, registry)?,
            advances: counters(
                "nsn_chain_view_advances_total",
                "Blocks the view moved to, by what became of the reputation table: kept, changed by \
                 the chain's log, reorganised (another fork, by the log) or rebuilt from all peers",
                &["head", "table"],
            )?,
            seconds: register(HistogramVec::new(seconds, &["head"])?, registry)?,
            changes: counters(
                "nsn_chain_view_peers_changed_total",
                "Changes of peers that the chain's log told of and that were applied",
                &["head"],
            )?,
            copies: counters(
                "nsn_chain_view_table_copies_total",
                "Copies of the whole table: the first spare one, or because a reader held it",
                &["reason"],
            )?,
            refused: counters(
                "nsn_chain_view_peers_refused_total",
                "Bound keys that the view has no room for",
                &["head"],
            )?,
            failures: counters(
                "nsn_chain_view_failures_total",
                "Blocks whose state could not be read",
                &["head"],
            )?,
        })
    }

    /// The view of `head` has moved.
    pub(super) fn moved(&self, head: &str, moved: &Moved, took: Duration) {
        let Moved { view, how, changes, applied: Applied { copied, refused } } = moved;
        self.block.with_label_values(&[head]).set(u64::from(view.block.number));
        self.advances.with_label_values(&[head, how.label()]).inc();
        self.seconds.with_label_values(&[head]).observe(took.as_secs_f64());
        self.changes.with_label_values(&[head]).inc_by(*changes as u64);
        self.refused.with_label_values(&[head]).inc_by(*refused as u64);
        if let Some(copied) = copied {
            self.copies.with_label_values(&[copied.label()]).inc();
        }
    }

    /// The state at `head` could not be read.
    pub(super) fn failed(&self, head: &str) {
        self.failures.with_label_values(&[head]).inc();
    }

    /// The finalised view is now this one.
    pub(super) fn finalized(&self, view: &View) {
        self.peers.set(view.bound() as u64);
    }
}

#[cfg(test)]
impl Metrics {
    pub(super) fn advances(&self, head: &str, how: super::follow::How) -> u64 {
        self.advances.with_label_values(&[head, how.label()]).get()
    }

    pub(super) fn seconds(&self, head: &str) -> u64 {
        self.seconds.with_label_values(&[head]).get_sample_count()
    }

    pub(super) fn changes(&self, head: &str) -> u64 {
        self.changes.with_label_values(&[head]).get()
    }

    pub(super) fn copies(&self, why: super::buffers::Copied) -> u64 {
        self.copies.with_label_values(&[why.label()]).get()
    }

    pub(super) fn refused(&self, head: &str) -> u64 {
        self.refused.with_label_values(&[head]).get()
    }

    pub(super) fn failures(&self, head: &str) -> u64 {
        self.failures.with_label_values(&[head]).get()
    }

    pub(super) fn peers(&self) -> u64 {
        self.peers.get()
    }

    pub(super) fn block(&self, head: &str) -> u64 {
        self.block.with_label_values(&[head]).get()
    }
}
