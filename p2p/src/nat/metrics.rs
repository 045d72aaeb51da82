//! What reachability counts.

use super::{
    NatType, Standing, State,
    autonat::server::SERVED,
    mapping::{By, Failed, Held},
    reachability::{DialBack, Reachability, Verdict},
    relay,
    strategies::{CONNECTED, Method, REASONS, Strategy},
    stun,
    turn::TurnMetrics,
};
use crate::metrics::{Maker, gauge};
use prometheus_endpoint::{
    Counter, CounterVec, Gauge, GaugeVec, HistogramVec, PrometheusError, U64, exponential_buckets,
};
use std::time::Duration;

/// The metrics of reachability.
#[derive(Clone)]
pub(crate) struct NatMetrics {
    state: GaugeVec<U64>,
    kind: GaugeVec<U64>,
    confidence: Gauge<U64>,
    addresses: GaugeVec<U64>,
    mappings: GaugeVec<U64>,
    pub(crate) mapping_answers: CounterVec<U64>,
    pub(crate) stun_answers: CounterVec<U64>,
    dial_backs: CounterVec<U64>,
    pub(crate) served: CounterVec<U64>,
    network_changes: Counter<U64>,
    attempts: CounterVec<U64>,
    successes: CounterVec<U64>,
    failures: CounterVec<U64>,
    connect_seconds: HistogramVec,
    pub(crate) current_method: GaugeVec<U64>,
    pub(crate) reservations: Gauge<U64>,
    pub(crate) reservations_ended: CounterVec<U64>,
    pub(crate) circuit_bytes: CounterVec<U64>,
    pub(crate) relay_reservations: Gauge<U64>,
    pub(crate) relay_circuits: Gauge<U64>,
    pub(crate) relay_requests: CounterVec<U64>,
    pub(crate) relay_bytes: Counter<U64>,
    pub(crate) turn: TurnMetrics,
}

const STANDINGS: [(Standing, &str); 5] = [
    (Standing::Trusted, "trusted"),
    (Standing::Candidate, "candidate"),
    (Standing::Confirmed, "confirmed"),
    (Standing::Failing, "failing"),
    (Standing::Withdrawn, "withdrawn"),
];

const PROTOCOLS: [(By, &str); 3] = [(By::Upnp, "upnp"), (By::Pcp, "pcp"), (By::NatPmp, "nat_pmp")];

/// How dial-backs of this node end.
const ENDS: [&str; 3] = ["reached", "failed", "unanswered"];

impl NatMetrics {
    pub(crate) fn make(m: &Maker<'_>) -> Result<Self, PrometheusError> {
        let this = Self {
            state: m.gauges(
                "nat_state",
                "How this node can be reached: 1 for the state it is in, 0 for the others",
                &["state"],
            )?,
            kind: m.gauges(
                "nat_type",
                "What stands between this node and others: 1 for the type it is, 0 for the others",
                &["type"],
            )?,
            confidence: m.gauge("nat_confidence_percent", "How sure nat_state is")?,
            addresses: m.gauges(
                "nat_addresses",
                "Addresses of this node, by where they stand",
                &["standing"],
            )?,
            mappings: m.gauges(
                "nat_mappings",
                "Ports that the router maps to this node, by protocol",
                &["protocol"],
            )?,
            mapping_answers: m.counters(
                "nat_mapping_answers_total",
                "Mappings asked for, renewals included, by how it ended",
                &["outcome"],
            )?,
            stun_answers: m.counters(
                "nat_stun_answers_total",
                "STUN servers asked and datagrams that were no answer, by how it ended",
                &["outcome"],
            )?,
            dial_backs: m.counters(
                "nat_dial_backs_total",
                "Dial-backs this node asked for, by how they ended",
                &["outcome"],
            )?,
            served: m.counters(
                "nat_dial_backs_served_total",
                "Dial-backs others asked this node for, by what came of it",
                &["outcome"],
            )?,
            network_changes: m.counter(
                "nat_network_changes_total",
                "Times the machine's addresses changed while the overlay ran",
            )?,
            attempts: m.counters(
                "nat_traversal_attempts_total",
                "Attempts to reach a peer at one address, by strategy",
                &["strategy"],
            )?,
            successes: m.counters(
                "nat_traversal_successes_total",
                "Attempts that ended in a connection, by strategy",
                &["strategy"],
            )?,
            failures: m.counters(
                "nat_traversal_failures_total",
                "Attempts that did not, by strategy and reason",
                &["strategy", "reason"],
            )?,
            connect_seconds: m.histograms(
                "nat_traversal_connect_seconds",
                "Time that successful attempts took, by strategy",
                exponential_buckets(0.005, 2.0, 12)?,
                &["strategy"],
            )?,
            current_method: m.gauges(
                "nat_traversal_current_method",
                "Connections there are, by what they came by",
                &["strategy"],
            )?,
            reservations: m.gauge("nat_reservations", "Relays that hold a place for this node")?,
            reservations_ended: m.counters(
                "nat_reservations_ended_total",
                "Places that relays held no longer or refused, by reason",
                &["reason"],
            )?,
            circuit_bytes: m.counters(
                "nat_circuit_bytes_total",
                "Bytes of this node's own connections through relays, by direction",
                &["direction"],
            )?,
            relay_reservations: m.gauge(
                "nat_relay_reservations",
                "Peers that this node holds a place for as their relay",
            )?,
            relay_circuits: m.gauge(
                "nat_relay_circuits",
                "Connections between others that this node carries as their relay",
            )?,
            relay_requests: m.counters(
                "nat_relay_requests_total",
                "What others asked of this node as a relay, by kind and what came of it",
                &["kind", "outcome"],
            )?,
            relay_bytes: m.counter(
                "nat_relay_bytes_total",
                "Bytes that this node carried between others as their relay",
            )?,
            turn: TurnMetrics::make(m)?,
        };
        for strategy in Strategy::ALL {
            this.attempts.with_label_values(&[strategy.label()]).inc_by(0);
            this.successes.with_label_values(&[strategy.label()]).inc_by(0);
            for reason in REASONS {
                this.failures.with_label_values(&[strategy.label(), reason]).inc_by(0);
            }
        }
        for direction in ["sent", "received"] {
            this.circuit_bytes.with_label_values(&[direction]).inc_by(0);
        }
        for kind in ["reservation", "circuit"] {
            for outcome in relay::OUTCOMES {
                this.relay_requests.with_label_values(&[kind, outcome]).inc_by(0);
            }
        }
        for outcome in stun::Outcome::ALL {
            this.stun_answers.with_label_values(&[outcome.label()]).inc_by(0);
        }
        for failed in Failed::ALL {
            this.mapping_answers.with_label_values(&[failed.label()]).inc_by(0);
        }
        this.mapping_answers.with_label_values(&["mapped"]).inc_by(0);
        for end in ENDS {
            this.dial_backs.with_label_values(&[end]).inc_by(0);
        }
        for outcome in SERVED {
            this.served.with_label_values(&[outcome]).inc_by(0);
        }
        this.ended();
        Ok(this)
    }

    /// An attempt to reach a peer begins.
    pub(crate) fn attempt_began(&self, strategy: Strategy) {
        self.attempts.with_label_values(&[strategy.label()]).inc();
    }

    /// It has ended, with [`CONNECTED`] or the reason why not.
    pub(crate) fn attempt_ended(&self, strategy: Strategy, outcome: &'static str, took: Duration) {
        let strategy = strategy.label();
        if outcome == CONNECTED {
            self.successes.with_label_values(&[strategy]).inc();
            self.connect_seconds.with_label_values(&[strategy]).observe(took.as_secs_f64());
        } else {
            self.failures.with_label_values(&[strategy, outcome]).inc();
        }
    }

    /// Two peers could not agree to punch holes.
    pub(super) fn not_agreed(&self) {
        let (strategy, reason) = (Strategy::Punch.label(), "handshake");
        self.failures.with_label_values(&[strategy, reason]).inc();
    }

    pub(super) fn dialled_back(&self, ended: &DialBack) {
        let [reached, failed, unanswered] = ENDS;
        let label = match ended {
            DialBack::Reached(_) => reached,
            DialBack::Failed(_) => failed,
            DialBack::Unanswered => unanswered,
        };
        self.dial_backs.with_label_values(&[label]).inc();
    }

    pub(super) fn network_changed(&self) {
        self.network_changes.inc();
    }

    /// Sets the gauges.
    pub(super) fn show(&self, reachability: &Reachability, verdict: &Verdict, held: &[Held]) {
        self.verdict(verdict);
        let counts = reachability.counts();
        for (standing, label) in STANDINGS {
            let count = counts.iter().find(|(known, _)| *known == standing);
            let count = count.map_or(0, |(_, count)| *count);
            self.addresses.with_label_values(&[label]).set(gauge(count));
        }
        for (by, label) in PROTOCOLS {
            let count = held.iter().filter(|held| held.by == by).count();
            self.mappings.with_label_values(&[label]).set(gauge(count));
        }
    }

    fn verdict(&self, verdict: &Verdict) {
        for state in State::ALL {
            let is = u64::from(state == verdict.state);
            self.state.with_label_values(&[state.label()]).set(is);
        }
        for kind in NatType::ALL {
            self.kind.with_label_values(&[kind.label()]).set(u64::from(kind == verdict.nat));
        }
        self.confidence.set(verdict.confidence.into());
    }

    /// The overlay has ended: nothing is known.
    pub(crate) fn ended(&self) {
        self.verdict(&Verdict::default());
        self.turn.ended();
        for (_, label) in STANDINGS {
            self.addresses.with_label_values(&[label]).set(0);
        }
        for (_, label) in PROTOCOLS {
            self.mappings.with_label_values(&[label]).set(0);
        }
        for method in Method::ALL {
            self.current_method.with_label_values(&[method.label()]).set(0);
        }
        for gauge in [&self.reservations, &self.relay_reservations, &self.relay_circuits] {
            gauge.set(0);
        }
    }
}
