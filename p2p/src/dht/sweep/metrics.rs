//! What the sweep counts.

use super::{Counts, SweepStatus};
use crate::metrics::{Maker, gauge};
use prometheus_endpoint::{Counter, CounterVec, Gauge, GaugeVec, PrometheusError, U64};

/// Outcomes of telling or asking a peer, which dashboards see from the start.
const OUTCOMES: [&str; 9] = [
    "kept",
    "crowded",
    "missing",
    "unreachable",
    "timeout",
    "unsupported",
    "broken",
    "malformed",
    "busy",
];

#[derive(Clone)]
pub(crate) struct SweepMetrics {
    pub(super) published: Counter<U64>,
    provided: GaugeVec<U64>,
    unannounced: Gauge<U64>,
    unclaimed: Gauge<U64>,
    regions: Gauge<U64>,
    regions_done: Gauge<U64>,
    lag: Gauge<U64>,
    visits: Counter<U64>,
    lookups: Counter<U64>,
    records: Counter<U64>,
    retries: Counter<U64>,
    failed: Counter<U64>,
    pub(super) tells: CounterVec<U64>,
    pub(super) read_backs: CounterVec<U64>,
}

impl SweepMetrics {
    pub(crate) fn make(m: &Maker<'_>) -> Result<Self, PrometheusError> {
        let this = Self {
            published: m.counter(
                "kademlia_provider_records_published",
                "Provider records announced, renewals included",
            )?,
            provided: m.gauges(
                "kademlia_records_provided",
                "Keys this node provides, announced or not, by class",
                &["class"],
            )?,
            unannounced: m.gauge(
                "kademlia_records_unannounced",
                "Keys this node provides that no other peer was told of yet",
            )?,
            unclaimed: m.gauge(
                "kademlia_records_unclaimed",
                "Keys provided before a restart that were not provided again yet",
            )?,
            regions: m.gauge("kademlia_sweep_regions", "Regions that this node's keys are in")?,
            regions_done: m.gauge(
                "kademlia_sweep_regions_done",
                "Of these regions, those where nothing is to be announced now",
            )?,
            lag: m.gauge(
                "kademlia_sweep_lag_seconds",
                "How long the longest overdue announcement has waited",
            )?,
            visits: m.counter("kademlia_sweep_visits_total", "Visits of regions that ended")?,
            lookups: m
                .counter("kademlia_sweep_lookups_total", "Lookups made to explore regions")?,
            records: m.counter(
                "kademlia_sweep_records_total",
                "Provider records sent to peers, each peer's counted",
            )?,
            retries: m.counter(
                "kademlia_sweep_retries_total",
                "Times a peer did not take what it was told, or had lost it",
            )?,
            failed: m.counter(
                "kademlia_sweep_failed_total",
                "Announcements and renewals of keys that too few peers took, to be tried again",
            )?,
            tells: m.counters(
                "kademlia_sweep_tells_total",
                "Batches of provider records that peers were told, by outcome",
                &["outcome"],
            )?,
            read_backs: m.counters(
                "kademlia_sweep_read_backs_total",
                "Records read back from peers after a visit, by outcome",
                &["outcome"],
            )?,
        };
        for outcome in OUTCOMES {
            this.tells.with_label_values(&[outcome]).inc_by(0);
            this.read_backs.with_label_values(&[outcome]).inc_by(0);
        }
        this.ended();
        Ok(this)
    }

    /// Shows the sweep as it stands; of its counts, `shown` were shown before.
    pub(super) fn show(&self, status: &SweepStatus, shown: &Counts) {
        self.provided.with_label_values(&["kept"]).set(gauge(status.kept));
        self.provided.with_label_values(&["cached"]).set(gauge(status.cached));
        self.unannounced.set(gauge(status.unannounced));
        self.unclaimed.set(gauge(status.unclaimed));
        self.regions.set(gauge(status.regions));
        self.regions_done.set(gauge(status.regions_done));
        self.lag.set(status.lag_seconds);
        let done = &status.done;
        for (counter, now, before) in [
            (&self.visits, done.visits, shown.visits),
            (&self.lookups, done.lookups, shown.lookups),
            (&self.records, done.records, shown.records),
            (&self.retries, done.retries, shown.retries),
            (&self.failed, done.failed, shown.failed),
        ] {
            counter.inc_by(now.saturating_sub(before));
        }
    }

    /// Nothing is provided any more. What was counted stays.
    pub(crate) fn ended(&self) {
        for class in ["kept", "cached"] {
            self.provided.with_label_values(&[class]).set(0);
        }
        for gauge in
            [&self.unannounced, &self.unclaimed, &self.regions, &self.regions_done, &self.lag]
        {
            gauge.set(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dht::network::Failure;

    #[test]
    fn every_outcome_is_shown_from_the_start() {
        for failure in [
            Failure::Unreachable,
            Failure::Timeout,
            Failure::Unsupported,
            Failure::Broken,
            Failure::Malformed,
            Failure::Busy,
        ] {
            assert!(OUTCOMES.contains(&failure.label()), "{failure:?}");
        }
    }
}
