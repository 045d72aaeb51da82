//! What the overlay counts, all on the node's one Prometheus endpoint.
//!
//! The names under `nsn_p2p_` and `nsn_p2p_kademlia_` that dashboards know are fixed; labels are
//! added only where one number would hide a reason.

use crate::{connections::Refused, dht, gossip::GossipMetrics, nat::NatMetrics, peers};
use prometheus_endpoint::{
    Counter, CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, Opts,
    PrometheusError, Registry, U64, exponential_buckets, prometheus::core::Collector, register,
};
use std::sync::Arc;

/// The overlay's metrics. Registered once for the life of the process and cloned into every overlay
/// that is built, so one that is built again after a failure goes on counting.
#[derive(Clone)]
pub struct Metrics {
    pub(crate) active_connections: Gauge<U64>,
    pub(crate) connected_peers: Gauge<U64>,
    pub(crate) connection_limit: Gauge<U64>,
    pub(crate) bytes_sent: Counter<U64>,
    pub(crate) bytes_received: Counter<U64>,
    pub(crate) connections_established: Counter<U64>,
    pub(crate) connections_failed: CounterVec<U64>,
    pub(crate) connections_refused: CounterVec<U64>,
    pub(crate) connections_closed: Counter<U64>,
    pub(crate) connection_duration: Histogram,
    pub(crate) commands_refused: CounterVec<U64>,

    pub(crate) gossip: GossipMetrics,
    /// Shared, so that what is cloned into every handle stays small.
    pub(crate) nat: Arc<NatMetrics>,

    pub(crate) lookups: dht::LookupMetrics,
    pub(crate) kad_routing_table_size: Gauge<U64>,
    pub(crate) kad_query_duration: HistogramVec,
    pub(crate) kad_query_timeouts: Counter<U64>,
    pub(crate) kad_bootstraps: Counter<U64>,
    pub(crate) kad_records: Gauge<U64>,
    pub(crate) sweep: dht::SweepMetrics,
    pub(crate) kad_records_refused: CounterVec<U64>,
    pub(crate) kad_records_expired: Counter<U64>,
    pub(crate) kad_records_displaced: CounterVec<U64>,

    pub(crate) kad_routing_checks: CounterVec<U64>,
    pub(crate) kad_routing_dead: Counter<U64>,
    pub(crate) kad_refreshes: CounterVec<U64>,

    pub(crate) kept_batches: Counter<U64>,
    pub(crate) kept_failures: Counter<U64>,
    pub(crate) kept_bytes: Counter<U64>,
    pub(crate) kept_dropped: CounterVec<U64>,
    pub(crate) kept_clamped: Counter<U64>,

    pub(crate) service_records_refused: CounterVec<U64>,

    pub(crate) connections_open: GaugeVec<U64>,
    pub(crate) connections_pending: GaugeVec<U64>,
    pub(crate) connections_displaced: Counter<U64>,
    pub(crate) connections_proofs_asked: Counter<U64>,
    pub(crate) admission_recent_sources: Gauge<U64>,
    pub(crate) admission_known_sources: Gauge<U64>,
    pub(crate) bans: GaugeVec<U64>,
    pub(crate) breakers_open: Gauge<U64>,
    pub(crate) breakers_opened: Counter<U64>,
    pub(crate) dials_denied: CounterVec<U64>,
    pub(crate) book_peers: Gauge<U64>,
    pub(crate) book_dropped: CounterVec<U64>,
    pub(crate) kad_routing_refused: CounterVec<U64>,
}

impl Metrics {
    /// Registers all metrics; fails if the registry holds one of the names already.
    pub fn register(registry: &Registry) -> Result<Self, PrometheusError> {
        Self::make(&Maker(Some(registry)))
    }

    /// Metrics that count but are shown nowhere, for tests and tools.
    pub fn unregistered() -> Result<Self, PrometheusError> {
        Self::make(&Maker(None))
    }

    fn make(m: &Maker<'_>) -> Result<Self, PrometheusError> {
        let this = Self {
            active_connections: m.gauge("active_connections", "Established connections")?,
            connected_peers: m.gauge("connected_peers", "Peers with at least one connection")?,
            connection_limit: m.gauge("connection_limit", "Most connections that are held")?,
            bytes_sent: m.counter("bytes_sent_total", "Bytes written to streams of peers")?,
            bytes_received: m
                .counter("bytes_received_total", "Bytes read from streams of peers")?,
            connections_established: m
                .counter("connections_established_total", "Connections established")?,
            connections_failed: m.counters(
                "connections_failed_total",
                "Connections that were attempted and failed, by reason",
                &["reason"],
            )?,
            connections_refused: m.counters(
                "connections_refused_total",
                "Connections and peers this node refused, by reason",
                &["reason"],
            )?,
            connections_closed: m.counter("connections_closed_total", "Connections closed")?,
            connection_duration: m.histogram(
                "connection_duration_seconds",
                "How long connections lasted",
                exponential_buckets(1.0, 4.0, 9)?,
            )?,
            commands_refused: m.counters(
                "commands_refused_total",
                "Calls refused because a command channel was full, by handle",
                &["handle"],
            )?,
            gossip: GossipMetrics::make(m)?,
            nat: Arc::new(NatMetrics::make(m)?),
            lookups: dht::LookupMetrics::make(m)?,
            kad_routing_table_size: m
                .gauge("kademlia_routing_table_size", "Peers in the routing table")?,
            kad_query_duration: m.histograms(
                "kademlia_query_duration_seconds",
                "Time a directory query took, by kind",
                exponential_buckets(0.001, 3.0, 10)?,
                &["kind"],
            )?,
            kad_query_timeouts: m.counter(
                "kademlia_query_timeouts_total",
                "Directory queries that ran out of time",
            )?,
            kad_bootstraps: m.counter(
                "kademlia_bootstrap_success_total",
                "Refreshes of the routing table whose lookups found peers",
            )?,
            kad_records: m.gauge("kademlia_records_held", "Provider records held for others")?,
            sweep: dht::SweepMetrics::make(m)?,
            kad_records_refused: m.counters(
                "kademlia_records_refused_total",
                "Provider records not stored, by reason",
                &["reason"],
            )?,
            kad_records_expired: m.counter(
                "kademlia_records_expired_total",
                "Provider records dropped because their time was up",
            )?,
            kad_records_displaced: m.counters(
                "kademlia_records_displaced_total",
                "Provider records dropped before their time, by what had no more room",
                &["reason"],
            )?,
            kad_routing_checks: m.counters(
                "kademlia_routing_checks_total",
                "Peers dialled to see whether they can be reached, by why and how it ended",
                &["kind", "outcome"],
            )?,
            kad_routing_dead: m.counter(
                "kademlia_routing_dead_total",
                "Peers taken out of the routing table because they could not be reached any more",
            )?,
            kad_refreshes: m.counters(
                "kademlia_routing_refreshes_total",
                "Refreshes of the routing table, by whether their lookups found anybody",
                &["outcome"],
            )?,
            kept_batches: m.counter(
                "kademlia_disk_batches_total",
                "Times what has changed in the directory was written to disk",
            )?,
            kept_failures: m.counter(
                "kademlia_disk_failures_total",
                "Times it could not be written and was tried again",
            )?,
            kept_bytes: m.counter(
                "kademlia_disk_bytes_total",
                "Bytes of the rows written to the directory's file",
            )?,
            kept_dropped: m.counters(
                "kademlia_disk_dropped_total",
                "Rows of the directory's file that were not taken over at start, by reason",
                &["reason"],
            )?,
            kept_clamped: m.counter(
                "kademlia_disk_clamped_total",
                "Rows of the directory's file with a time that no clock should have written",
            )?,
            service_records_refused: m.counters(
                "service_records_refused_total",
                "Service records that did not verify, by reason",
                &["reason"],
            )?,
            connections_open: m.gauges(
                "connections_open",
                "Established connections, by who opened them",
                &["direction"],
            )?,
            connections_pending: m.gauges(
                "connections_pending",
                "Connections that are shaking hands, by who opens them",
                &["direction"],
            )?,
            connections_displaced: m.counter(
                "connections_displaced_total",
                "Connections of strangers closed to make room for known peers",
            )?,
            connections_proofs_asked: m.counter(
                "connections_proofs_asked_total",
                "Inbound connections that had to prove their address first (QUIC Retry)",
            )?,
            admission_recent_sources: m.gauge(
                "admission_recent_sources",
                "Sources that used a part of their connection rate lately",
            )?,
            admission_known_sources: m
                .gauge("admission_known_sources", "Sources that a good peer was seen at lately")?,
            bans: m.gauges("bans", "Bans in force, by what is banned", &["target"])?,
            breakers_open: m.gauge("breakers_open", "Peers not dialled for a while")?,
            breakers_opened: m
                .counter("breakers_opened_total", "Times a peer was left alone from then on")?,
            dials_denied: m.counters(
                "dials_denied_total",
                "Dials this node did not make, by reason",
                &["reason"],
            )?,
            book_peers: m.gauge("book_peers", "Peers in the peer book")?,
            book_dropped: m.counters(
                "book_dropped_total",
                "Peers of the written book that were not taken over, by reason",
                &["reason"],
            )?,
            kad_routing_refused: m.counters(
                "kademlia_routing_refused_total",
                "Peers not let into the routing table, by reason",
                &["reason"],
            )?,
        };
        // What has labels is shown only once it was touched; dashboards want the zero.
        for reason in peers::FAILURES {
            this.connections_failed.with_label_values(&[reason]).inc_by(0);
        }
        for reason in Refused::ALL {
            this.connections_refused.with_label_values(&[reason.label()]).inc_by(0);
        }
        for reason in peers::dialling::DENIALS {
            this.dials_denied.with_label_values(&[reason]).inc_by(0);
        }
        for reason in peers::DROPPED {
            this.book_dropped.with_label_values(&[reason]).inc_by(0);
        }
        for reason in dht::ROUTING_REFUSALS {
            this.kad_routing_refused.with_label_values(&[reason.label()]).inc_by(0);
        }
        for reason in dht::Refused::ALL {
            this.kad_records_refused.with_label_values(&[reason.label()]).inc_by(0);
        }
        for kind in dht::Why::ALL {
            for outcome in dht::OUTCOMES {
                this.kad_routing_checks.with_label_values(&[kind.label(), outcome]).inc_by(0);
            }
        }
        for outcome in dht::REFRESHES {
            this.kad_refreshes.with_label_values(&[outcome]).inc_by(0);
        }
        for reason in dht::DISPLACED {
            this.kad_records_displaced.with_label_values(&[reason]).inc_by(0);
        }
        for reason in dht::DROPPED {
            this.kept_dropped.with_label_values(&[reason]).inc_by(0);
        }
        for kind in dht::QUERY_KINDS {
            this.kad_query_duration.with_label_values(&[kind]);
        }
        Ok(this)
    }

    /// Nothing is connected, known or held any more. Limits stay, and so does what was counted.
    pub(crate) fn overlay_ended(&self) {
        for gauge in [
            &self.active_connections,
            &self.connected_peers,
            &self.kad_routing_table_size,
            &self.kad_records,
            &self.breakers_open,
            &self.book_peers,
        ] {
            gauge.set(0);
        }
        self.gossip.ended();
        self.nat.ended();
        self.sweep.ended();
        self.lookups.ended();
        self.admission_recent_sources.set(0);
        self.admission_known_sources.set(0);
        for direction in ["inbound", "outbound"] {
            self.connections_open.with_label_values(&[direction]).set(0);
            self.connections_pending.with_label_values(&[direction]).set(0);
        }
        for target in ["ip", "peer"] {
            self.bans.with_label_values(&[target]).set(0);
        }
    }
}

/// Makes metrics under the overlay's prefix, registered or not.
pub(crate) struct Maker<'a>(Option<&'a Registry>);

impl Maker<'_> {
    fn keep<T: Clone + Collector + 'static>(&self, metric: T) -> Result<T, PrometheusError> {
        match self.0 {
            Some(registry) => register(metric, registry),
            None => Ok(metric),
        }
    }

    pub(crate) fn counter(&self, name: &str, help: &str) -> Result<Counter<U64>, PrometheusError> {
        self.keep(Counter::with_opts(opts(name, help))?)
    }

    pub(crate) fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<CounterVec<U64>, PrometheusError> {
        self.keep(CounterVec::new(opts(name, help), labels)?)
    }

    pub(crate) fn gauge(&self, name: &str, help: &str) -> Result<Gauge<U64>, PrometheusError> {
        self.keep(Gauge::with_opts(opts(name, help))?)
    }

    pub(crate) fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<GaugeVec<U64>, PrometheusError> {
        self.keep(GaugeVec::new(opts(name, help), labels)?)
    }

    pub(crate) fn histogram(
        &self,
        name: &str,
        help: &str,
        buckets: Vec<f64>,
    ) -> Result<Histogram, PrometheusError> {
        let opts = HistogramOpts { common_opts: opts(name, help), buckets };
        self.keep(Histogram::with_opts(opts)?)
    }

    pub(crate) fn histograms(
        &self,
        name: &str,
        help: &str,
        buckets: Vec<f64>,
        labels: &[&str],
    ) -> Result<HistogramVec, PrometheusError> {
        let opts = HistogramOpts { common_opts: opts(name, help), buckets };
        self.keep(HistogramVec::new(opts, labels)?)
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("nsn_p2p_{name}"), help)
}

/// A count as a gauge takes it.
pub(crate) fn gauge(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_endpoint::prometheus::{Encoder, TextEncoder};

    #[test]
    fn names_are_fit_for_every_reader() {
        let registry = Registry::new();
        let _metrics = Metrics::register(&registry).unwrap();
        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            assert!(line.starts_with("nsn_p2p_"), "{line}");
            assert!(!line.contains("__"), "{line}");
        }
        assert!(!text.contains("# EOF"));
        for fixed in [
            "nsn_p2p_active_connections",
            "nsn_p2p_connected_peers",
            "nsn_p2p_bytes_sent_total",
            "nsn_p2p_bytes_received_total",
            "nsn_p2p_connections_established_total",
            "nsn_p2p_connections_failed_total{reason=\"transport\"} 0",
            "nsn_p2p_connections_closed_total",
            "nsn_p2p_connection_limit",
            "nsn_p2p_connection_duration_seconds",
            "nsn_p2p_gossipsub_mesh_size",
            "nsn_p2p_gossipsub_messages_sent_total",
            "nsn_p2p_gossipsub_messages_received_total",
            "nsn_p2p_gossipsub_validation_seconds",
            "nsn_p2p_gossipsub_duplicates_total{topic=\"video\"} 0",
            "nsn_p2p_gossipsub_message_bytes",
            "nsn_p2p_kademlia_routing_table_size",
            "nsn_p2p_kademlia_query_duration_seconds_count{kind=\"find\"} 0",
            "nsn_p2p_kademlia_query_timeouts_total",
            "nsn_p2p_kademlia_provider_records_published",
            "nsn_p2p_kademlia_bootstrap_success_total",
        ] {
            assert!(text.contains(fixed), "{fixed} is missing");
        }
    }
}
