//! What the auditor counts, `nsn_audit_*`.

use std::time::Duration;

use prometheus_endpoint::{
    Counter, CounterVec, Gauge, Histogram, HistogramOpts, Opts, PrometheusError, Registry, U64,
    register,
};

use super::{plan::Answer, window::Outcome};

/// Upper bounds of the seconds that a probe takes: from a machine next door to the deadline.
const SECONDS: [f64; 10] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The auditor's metrics.
#[derive(Clone)]
pub(crate) struct Metrics {
    probes: CounterVec<U64>,
    seconds: Histogram,
    lookup_failures: Counter<U64>,
    subjects: Gauge<U64>,
    windows: CounterVec<U64>,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When a name is already taken in `registry`.
    pub(crate) fn register(registry: &Registry) -> Result<Self, PrometheusError> {
        let probes =
            Opts::new("nsn_audit_probes_total", "Probes of subjects, by what they answered");
        let seconds = HistogramOpts::new(
            "nsn_audit_probe_seconds",
            "From the first packet of a probe to the verified bytes, of probes that were served",
        )
        .buckets(SECONDS.to_vec());
        let windows = Opts::new(
            "nsn_audit_windows_total",
            "Windows in which this node had to audit, by what came of them",
        );
        Ok(Self {
            probes: register(CounterVec::new(probes, &["outcome"])?, registry)?,
            seconds: register(Histogram::with_opts(seconds)?, registry)?,
            lookup_failures: register(
                Counter::new(
                    "nsn_audit_lookup_failures_total",
                    "Lookups in the directory, for an audit, that failed",
                )?,
                registry,
            )?,
            subjects: register(
                Gauge::new(
                    "nsn_audit_subjects",
                    "Peers that this node has to audit in the window that is going on",
                )?,
                registry,
            )?,
            windows: register(CounterVec::new(windows, &["result"])?, registry)?,
        })
    }

    pub(super) fn probed(&self, answer: Answer, took: Duration) {
        self.probes.with_label_values(&[answer.label()]).inc();
        if answer == Answer::Served {
            self.seconds.observe(took.as_secs_f64());
        }
    }

    pub(super) fn lookup_failed(&self) {
        self.lookup_failures.inc();
    }

    pub(super) fn subjects(&self, count: usize) {
        self.subjects.set(u64::try_from(count).unwrap_or(u64::MAX));
    }

    pub(super) fn window_over(&self, outcome: Outcome) {
        self.windows.with_label_values(&[outcome.label()]).inc();
    }

    /// How many windows came to `outcome`.
    #[cfg(test)]
    pub(super) fn windows(&self, outcome: Outcome) -> u64 {
        self.windows.with_label_values(&[outcome.label()]).get()
    }
}
