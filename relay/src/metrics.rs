//! What the shard service counts, all under `nsn_relay_`.
//!
//! Register once for each registry and clone: a service that is built again after a fault goes on
//! counting where it was.

use crate::wire::Way;
use prometheus_endpoint::{
    Counter, CounterVec, F64, Gauge, Histogram, HistogramOpts, Opts, PrometheusError, Registry,
    U64, exponential_buckets, register,
};

/// The metrics of origin and relay. Cloning gives another handle to the same numbers.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Requests answered from the relay's cache.
    pub cache_hits_total: Counter<U64>,
    /// Requests that the relay's cache could not answer.
    pub cache_misses_total: Counter<U64>,
    /// Blobs asked of other nodes, however many viewers wait for one.
    pub upstream_fetches_total: Counter<U64>,
    /// From asking a source to its first verified group.
    pub upstream_first_group_seconds: Histogram,
    /// Second sources asked beside a slow one, by `outcome`: `asked`; and what became of it, `won` if
    /// it delivered, `lost` if another did.
    pub hedges_total: CounterVec<U64>,
    /// Blobs that another source went on with, at the byte where one failed or fell silent.
    pub failovers_total: Counter<U64>,
    /// Sources that are not asked for a while.
    pub breakers_open: Gauge<U64>,
    /// Sources that answered when they were last asked whether they do.
    pub p2p_peers: Gauge<U64>,
    /// Questions whether a source answers that had no answer.
    pub health_check_failures_total: Counter<U64>,
    /// Single attempts at a source that failed, by `reason`.
    pub upstream_failures_total: CounterVec<U64>,
    /// Sources that delivered what was asked of them, by `way`: `quic` or `overlay`.
    pub upstream_deliveries_total: CounterVec<U64>,
    /// Verified bytes that came from sources, by `way`.
    pub upstream_bytes_total: CounterVec<U64>,
    /// Ways to a source that led nowhere, or were passed by the other one, by `way`.
    pub upstream_way_failures_total: CounterVec<U64>,
    /// Fills that stopped because every viewer had left.
    pub fills_abandoned_total: Counter<U64>,
    /// Blobs evicted to make room.
    pub cache_evictions_total: Counter<U64>,
    /// Blobs found in the relay's cache, by `tier`: `memory` or `disk`.
    pub cache_tier_hits_total: CounterVec<U64>,
    /// Blobs that were fetched and not taken to disk, by `reason`: what would have had to go was asked
    /// for more often (`unwanted`), or there was no room to be made (`no_room`).
    pub cache_admissions_refused_total: CounterVec<U64>,
    /// Blobs that were held for longer than they may be.
    pub cache_expired_total: Counter<U64>,
    /// Blobs that memory gave up.
    pub cache_memory_evictions_total: Counter<U64>,
    /// Bytes of blobs in memory.
    pub cache_memory_bytes: Gauge<U64>,
    /// Bytes that the cache may hold on disk, as full as the disk is.
    pub cache_capacity_bytes: Gauge<U64>,
    /// Bytes in the cache that are pinned.
    pub cache_pinned_bytes: Gauge<U64>,
    /// Bytes read to see whether they are still what they were.
    pub scrub_bytes_total: Counter<U64>,
    /// Blobs that were found damaged or gone by that.
    pub scrub_damaged_total: Counter<U64>,
    /// Files that belonged to no blob, deleted by that.
    pub scrub_strays_total: Counter<U64>,
    /// Passes over all of the cache by that.
    pub scrub_passes_total: Counter<U64>,
    /// Blobs that were fetched and could not be written to the cache.
    pub cache_write_failures_total: Counter<U64>,
    /// Bytes of bodies that viewers have acknowledged.
    pub bytes_served_total: Counter<U64>,
    /// The same, by `way`: `quic`, or `overlay` for substreams of the overlay's connections.
    pub bytes_served_by_way_total: CounterVec<U64>,
    /// Requests over substreams of the overlay that go on.
    pub substreams: Gauge<U64>,
    /// Connections now.
    pub viewer_connections: Gauge<U64>,
    /// Bytes in the cache.
    pub cache_size_bytes: Gauge<U64>,
    /// Bytes in the cache, in percent of what it may hold.
    pub cache_utilization_percent: Gauge<F64>,
    /// From a request to the last byte acknowledged, for whole and partial blobs.
    pub shard_serve_latency_seconds: Histogram,
    /// From the first attempt to the verified blob.
    pub upstream_fetch_latency_seconds: Histogram,
    /// From asking for a disk operation to its turn.
    pub disk_wait_seconds: Histogram,
    /// From a request to the first byte of its body.
    pub first_byte_seconds: Histogram,
    /// From wanting to send a piece to its turn, where the rate is limited.
    pub turn_wait_seconds: Histogram,
    /// Connections that had to prove their address first.
    pub address_checks_total: Counter<U64>,
    /// Requests and connections refused, by `reason`.
    pub refusals_total: CounterVec<U64>,
    /// Blobs found damaged, by `place`: `origin`, `cache` or `upstream`.
    pub corrupt_blobs_total: CounterVec<U64>,
    /// Blobs on disk that the disk failed to read, by `place`: `origin` or `cache`.
    pub disk_read_failures_total: CounterVec<U64>,
    /// Writings that the disk failed or had no room for, by `place`: `origin` or `cache`. Something to
    /// alert on: what is fetched is served all the same.
    pub disk_write_failures_total: CounterVec<U64>,
    /// Blobs whose fetch was begun before anybody asked for them, by `cause`: `announced`, or what stands
    /// before them is read (`ahead`).
    pub prefetches_started_total: CounterVec<U64>,
    /// Of these, those that were read then.
    pub prefetches_used_total: Counter<U64>,
    /// Those that were not read within `warm.judge_after`, or were given up by the cache before.
    pub prefetches_wasted_total: Counter<U64>,
    /// Those that were neither read nor fetched to the end, by `reason`: no source delivered (`failed`), or there was
    /// too much else to do (`dropped`).
    pub prefetches_failed_total: CounterVec<U64>,
    /// What was announced or foreseen and not fetched, by `reason`.
    pub prefetches_refused_total: CounterVec<U64>,
    /// Bytes that were fetched ahead and not read yet.
    pub prefetch_unread_bytes: Gauge<U64>,
    /// Median round trip to the nearest super-node of this relay's region, where that is measured.
    pub region_round_trip_seconds: Gauge<F64>,
    /// Regions that this relay found itself in, one after the other.
    pub region_changes_total: Counter<U64>,
    /// Super-nodes measured, by `outcome`: `answered` or `silent`.
    pub region_measurements_total: CounterVec<U64>,
    /// Records that wait to be told to the directory.
    pub announcements_waiting: Gauge<U64>,
    /// Passes over all that is held, by `reason`: the directory has started (`start`), or there was
    /// no place for a record (`overflow`).
    pub announcement_scans_total: CounterVec<U64>,
    /// Cached blobs that were served and not told of for long, by `outcome`: told again (`told`), or
    /// not, because of the rate (`limited`).
    pub announcement_touches_total: CounterVec<U64>,
    /// Requests to the directory that failed, by `operation`.
    pub directory_failures_total: CounterVec<U64>,
}

impl Metrics {
    /// Makes the metrics and puts them into `registry`.
    ///
    /// # Errors
    /// When one of the names is taken, for instance by an earlier call.
    pub fn register(registry: &Registry) -> Result<Self, PrometheusError> {
        Self::make(Some(registry))
    }

    /// Metrics that count and that nobody scrapes.
    #[allow(clippy::expect_used)]
    pub fn unregistered() -> Self {
        Self::make(None).expect("the names are constants, and a test makes them; qed")
    }

    fn make(registry: Option<&Registry>) -> Result<Self, PrometheusError> {
        let make = Make(registry);
        let metrics = Self {
            cache_hits_total: make.counter("cache_hits_total", "Requests answered from cache")?,
            cache_misses_total: make
                .counter("cache_misses_total", "Requests that the cache could not answer")?,
            upstream_fetches_total: make
                .counter("upstream_fetches_total", "Blobs asked of other nodes")?,
            upstream_first_group_seconds: make.histogram(
                "upstream_first_group_seconds",
                "From asking a source to its first verified group",
            )?,
            hedges_total: make.counters(
                "hedges_total",
                "Second sources asked beside a slow one",
                "outcome",
            )?,
            failovers_total: make.counter(
                "failovers_total",
                "Blobs that another source went on with in the middle",
            )?,
            breakers_open: make.gauge("breakers_open", "Sources not asked for a while")?,
            p2p_peers: make.gauge("p2p_peers", "Sources that answer")?,
            health_check_failures_total: make.counter(
                "health_check_failures_total",
                "Health checks of a source without an answer",
            )?,
            upstream_failures_total: make.counters(
                "upstream_failures_total",
                "Attempts at a source that failed",
                "reason",
            )?,
            upstream_deliveries_total: make.counters(
                "upstream_deliveries_total",
                "Sources that delivered what was asked of them",
                "way",
            )?,
            upstream_bytes_total: make.counters(
                "upstream_bytes_total",
                "Verified bytes that came from sources",
                "way",
            )?,
            upstream_way_failures_total: make.counters(
                "upstream_way_failures_total",
                "Ways to a source that led nowhere or were passed by the other one",
                "way",
            )?,
            fills_abandoned_total: make
                .counter("fills_abandoned_total", "Fills stopped because every viewer had left")?,
            cache_evictions_total: make
                .counter("cache_evictions_total", "Blobs evicted to make room")?,
            cache_tier_hits_total: make.counters(
                "cache_tier_hits_total",
                "Blobs found in the cache",
                "tier",
            )?,
            cache_admissions_refused_total: make.counters(
                "cache_admissions_refused_total",
                "Blobs that the cache did not take to disk",
                "reason",
            )?,
            cache_expired_total: make
                .counter("cache_expired_total", "Blobs that were held for too long")?,
            cache_memory_evictions_total: make
                .counter("cache_memory_evictions_total", "Blobs that memory gave up")?,
            cache_memory_bytes: make.gauge("cache_memory_bytes", "Bytes of blobs in memory")?,
            cache_capacity_bytes: make
                .gauge("cache_capacity_bytes", "Bytes that the cache may hold")?,
            cache_pinned_bytes: make.gauge("cache_pinned_bytes", "Bytes that are pinned")?,
            scrub_bytes_total: make
                .counter("scrub_bytes_total", "Bytes of the cache read to find damage")?,
            scrub_damaged_total: make
                .counter("scrub_damaged_total", "Blobs that the scrub found damaged or gone")?,
            scrub_strays_total: make
                .counter("scrub_strays_total", "Files of no blob that the scrub deleted")?,
            scrub_passes_total: make
                .counter("scrub_passes_total", "Passes of the scrub over all of the cache")?,
            cache_write_failures_total: make
                .counter("cache_write_failures_total", "Blobs that could not be cached")?,
            bytes_served_total: make
                .counter("bytes_served_total", "Bytes of bodies acknowledged by viewers")?,
            bytes_served_by_way_total: make.counters(
                "bytes_served_by_way_total",
                "Bytes of bodies acknowledged by viewers, by how they went",
                "way",
            )?,
            substreams: make.gauge("substreams", "Requests over the overlay that go on")?,
            viewer_connections: make.gauge("viewer_connections", "Connections now")?,
            cache_size_bytes: make.gauge("cache_size_bytes", "Bytes in the cache")?,
            cache_utilization_percent: make
                .gauge("cache_utilization_percent", "Bytes in the cache in percent of its size")?,
            shard_serve_latency_seconds: make.histogram(
                "shard_serve_latency_seconds",
                "From a request to the last byte acknowledged",
            )?,
            upstream_fetch_latency_seconds: make.histogram(
                "upstream_fetch_latency_seconds",
                "From the first attempt at a source to the verified blob",
            )?,
            disk_wait_seconds: make
                .histogram("disk_wait_seconds", "From asking for a disk operation to its turn")?,
            first_byte_seconds: make
                .histogram("first_byte_seconds", "From a request to the first byte of its body")?,
            turn_wait_seconds: make.histogram(
                "turn_wait_seconds",
                "From wanting to send a piece to its turn, where the rate is limited",
            )?,
            address_checks_total: make.counter(
                "address_checks_total",
                "Connections that had to prove their address first",
            )?,
            refusals_total: make.counters(
                "refusals_total",
                "Requests and connections refused",
                "reason",
            )?,
            corrupt_blobs_total: make.counters(
                "corrupt_blobs_total",
                "Blobs found damaged",
                "place",
            )?,
            disk_read_failures_total: make.counters(
                "disk_read_failures_total",
                "Blobs that the disk failed to read",
                "place",
            )?,
            disk_write_failures_total: make.counters(
                "disk_write_failures_total",
                "Writings that the disk failed or had no room for",
                "place",
            )?,
            prefetches_started_total: make.counters(
                "prefetches_started_total",
                "Blobs fetched before anybody asked for them",
                "cause",
            )?,
            prefetches_used_total: make
                .counter("prefetches_used_total", "Blobs fetched ahead that were read then")?,
            prefetches_wasted_total: make
                .counter("prefetches_wasted_total", "Blobs fetched ahead that were not read")?,
            prefetches_failed_total: make.counters(
                "prefetches_failed_total",
                "Blobs that were not fetched ahead to the end",
                "reason",
            )?,
            prefetches_refused_total: make.counters(
                "prefetches_refused_total",
                "What was announced or foreseen and not fetched ahead",
                "reason",
            )?,
            prefetch_unread_bytes: make
                .gauge("prefetch_unread_bytes", "Bytes fetched ahead and not read yet")?,
            region_round_trip_seconds: make.gauge(
                "region_round_trip_seconds",
                "Median round trip to the nearest super-node of the region",
            )?,
            region_changes_total: make
                .counter("region_changes_total", "Regions that this relay found itself in")?,
            region_measurements_total: make.counters(
                "region_measurements_total",
                "Super-nodes whose round trip was measured",
                "outcome",
            )?,
            announcements_waiting: make
                .gauge("announcements_waiting", "Records that wait to be told to the directory")?,
            announcement_scans_total: make.counters(
                "announcement_scans_total",
                "Passes over all that is held, to tell the directory",
                "reason",
            )?,
            announcement_touches_total: make.counters(
                "announcement_touches_total",
                "Cached blobs in use that the directory was to be told of again",
                "outcome",
            )?,
            directory_failures_total: make.counters(
                "directory_failures_total",
                "Requests to the directory that failed",
                "operation",
            )?,
        };
        for way in Way::ALL {
            for counters in [
                &metrics.bytes_served_by_way_total,
                &metrics.upstream_deliveries_total,
                &metrics.upstream_bytes_total,
                &metrics.upstream_way_failures_total,
            ] {
                counters.with_label_values(&[way.label()]);
            }
        }
        // Who alerts on these wants to see that they are zero.
        for place in ["origin", "cache"] {
            metrics.disk_write_failures_total.with_label_values(&[place]);
            metrics.disk_read_failures_total.with_label_values(&[place]);
        }
        Ok(metrics)
    }
}

/// Counts, and says whether this one is worth a line in the log: the first, the second, the fourth,
/// the eighth. What a peer or a full disk causes again and again must not fill the log.
pub(crate) fn count_and_log(counter: &Counter<U64>) -> bool {
    counter.inc();
    counter.get().is_power_of_two()
}

struct Make<'a>(Option<&'a Registry>);

impl Make<'_> {
    fn add<T>(&self, metric: T) -> Result<T, PrometheusError>
    where
        T: Clone + prometheus_endpoint::prometheus::core::Collector + 'static,
    {
        match self.0 {
            Some(registry) => register(metric, registry),
            None => Ok(metric),
        }
    }

    fn counter(&self, name: &str, help: &str) -> Result<Counter<U64>, PrometheusError> {
        self.add(Counter::new(full(name), help)?)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        label: &str,
    ) -> Result<CounterVec<U64>, PrometheusError> {
        self.add(CounterVec::new(Opts::new(full(name), help), &[label])?)
    }

    fn gauge<P: prometheus_endpoint::prometheus::core::Atomic + 'static>(
        &self,
        name: &str,
        help: &str,
    ) -> Result<Gauge<P>, PrometheusError> {
        self.add(Gauge::new(full(name), help)?)
    }

    /// From 0.5 ms to 16 s, each bucket twice the one before.
    fn histogram(&self, name: &str, help: &str) -> Result<Histogram, PrometheusError> {
        let buckets = exponential_buckets(0.0005, 2.0, 16)?;
        self.add(Histogram::with_opts(HistogramOpts::new(full(name), help).buckets(buckets))?)
    }
}

fn full(name: &str) -> String {
    format!("nsn_relay_{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_can_be_made_and_registered_once() {
        Metrics::unregistered();
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        metrics.refusals_total.with_label_values(&["busy"]).inc();
        let families = registry.gather();
        assert!(families.iter().all(|family| family.get_name().starts_with("nsn_relay_")));
        assert!(Metrics::register(&registry).is_err());
    }
}
