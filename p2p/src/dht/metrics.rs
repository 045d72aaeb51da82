//! What lookups count.

use super::{
    finder::QUERY_KINDS,
    network::{Dropped, Failure},
};
use crate::metrics::Maker;
use prometheus_endpoint::{
    Counter, CounterVec, Gauge, Histogram, HistogramVec, PrometheusError, U64, exponential_buckets,
    linear_buckets,
};

/// Metrics of lookups and of the questions they ask.
#[derive(Clone)]
pub(crate) struct LookupMetrics {
    pub(super) hops: HistogramVec,
    pub(super) questions_each: HistogramVec,
    pub(super) questions: Counter<U64>,
    pub(super) failed: CounterVec<U64>,
    pub(super) in_flight: Gauge<U64>,
    pub(super) answer_seconds: Histogram,
    pub(super) dropped: CounterVec<U64>,
    pub(super) cache_hits: Counter<U64>,
    pub(super) cache_misses: Counter<U64>,
    pub(super) running: Gauge<U64>,
    pub(super) waiting: Gauge<U64>,
}

impl LookupMetrics {
    pub(crate) fn make(m: &Maker<'_>) -> Result<Self, PrometheusError> {
        let this = Self {
            hops: m.histograms(
                "kademlia_query_hops",
                "Peers asked one after the other until what was found was heard of, by kind",
                linear_buckets(1.0, 1.0, 10)?,
                &["kind"],
            )?,
            questions_each: m.histograms(
                "kademlia_query_questions",
                "Questions a directory query asked, by kind",
                exponential_buckets(1.0, 2.0, 9)?,
                &["kind"],
            )?,
            questions: m.counter(
                "kademlia_questions_total",
                "Questions sent to other peers, and batches of records",
            )?,
            failed: m.counters(
                "kademlia_questions_failed_total",
                "Questions and batches of records that failed, by reason",
                &["reason"],
            )?,
            in_flight: m.gauge(
                "kademlia_questions_in_flight",
                "Questions and batches of records without an answer yet",
            )?,
            answer_seconds: m.histogram(
                "kademlia_answer_seconds",
                "Time a peer took to answer a question, dialling included",
                exponential_buckets(0.001, 3.0, 8)?,
            )?,
            dropped: m.counters(
                "kademlia_answers_dropped_total",
                "What was not taken of answers, by reason",
                &["reason"],
            )?,
            cache_hits: m.counter(
                "kademlia_cache_hits_total",
                "Calls answered by what an earlier lookup has found",
            )?,
            cache_misses: m.counter(
                "kademlia_cache_misses_total",
                "Calls for which a lookup was made or joined",
            )?,
            running: m.gauge("kademlia_queries_in_flight", "Directory queries in flight")?,
            waiting: m.gauge(
                "kademlia_queries_waiting",
                "Callers that wait for a directory query or its turn",
            )?,
        };
        for kind in QUERY_KINDS {
            this.hops.with_label_values(&[kind]);
            this.questions_each.with_label_values(&[kind]);
        }
        for reason in Failure::ALL {
            this.failed.with_label_values(&[reason.label()]).inc_by(0);
        }
        for reason in Dropped::ALL {
            this.dropped.with_label_values(&[reason.label()]).inc_by(0);
        }
        Ok(this)
    }

    /// Nothing is in flight any more.
    pub(crate) fn ended(&self) {
        for gauge in [&self.in_flight, &self.running, &self.waiting] {
            gauge.set(0);
        }
    }
}
