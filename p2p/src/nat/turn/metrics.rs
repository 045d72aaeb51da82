//! What TURN counts.

use super::outcome::{Asked, Bad, Outcome};
use crate::metrics::Maker;
use prometheus_endpoint::{Counter, CounterVec, Gauge, PrometheusError, U64};

/// Why a datagram for or from a peer was dropped: a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dropped {
    /// QUIC does not take what comes quickly enough.
    QueueFull,
    /// The kernel has no room for what goes.
    LinkFull,
    /// Its address has no permission.
    NotPermitted,
    /// It is longer than anything that is carried.
    TooLong,
}

impl Dropped {
    const ALL: [Self; 4] = [Self::QueueFull, Self::LinkFull, Self::NotPermitted, Self::TooLong];

    fn label(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::LinkFull => "link_full",
            Self::NotPermitted => "not_permitted",
            Self::TooLong => "too_long",
        }
    }
}

/// How it ended when a peer was asked to meet at a TURN server, or asked this node: a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Met {
    /// There is a connection.
    Connected,
    /// The peer, or this node, does not take part, or not now.
    Refused,
    /// Nothing came in time.
    Timeout,
    /// The server gave no permission for any of the peer's addresses.
    NotPermitted,
    /// The stream failed, or what came over it was no answer.
    Protocol,
    /// The address was dialled in vain.
    DialFailed,
    /// The peer has gone, or the allocation.
    Gone,
}

impl Met {
    const ALL: [Self; 7] = [
        Self::Connected,
        Self::Refused,
        Self::Timeout,
        Self::NotPermitted,
        Self::Protocol,
        Self::DialFailed,
        Self::Gone,
    ];

    /// The metric label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::NotPermitted => "not_permitted",
            Self::Protocol => "protocol",
            Self::DialFailed => "dial_failed",
            Self::Gone => "gone",
        }
    }
}

/// The metrics of TURN.
#[derive(Clone)]
pub(crate) struct TurnMetrics {
    requests: CounterVec<U64>,
    bad: CounterVec<U64>,
    lost: CounterVec<U64>,
    dropped: CounterVec<U64>,
    meetings: CounterVec<U64>,
    asked: CounterVec<U64>,
    pub(super) bytes_sent: Counter<U64>,
    pub(super) bytes_received: Counter<U64>,
    pub(super) allocations: Gauge<U64>,
    pub(super) permissions: Gauge<U64>,
    pub(super) channels: Gauge<U64>,
}

impl TurnMetrics {
    pub(in crate::nat) fn make(m: &Maker<'_>) -> Result<Self, PrometheusError> {
        let bytes = m.counters(
            "nat_turn_bytes_total",
            "Bytes of QUIC carried over TURN servers, by direction",
            &["direction"],
        )?;
        let this = Self {
            requests: m.counters(
                "nat_turn_requests_total",
                "Requests to TURN servers, by what was asked and how it ended",
                &["request", "outcome"],
            )?,
            bad: m.counters(
                "nat_turn_bad_total",
                "Messages that came to TURN's socket and were dropped, by what was wrong",
                &["reason"],
            )?,
            lost: m.counters(
                "nat_turn_allocations_lost_total",
                "Allocations at TURN servers that ended, or could not be had, by reason",
                &["reason"],
            )?,
            dropped: m.counters(
                "nat_turn_dropped_total",
                "Datagrams of QUIC that were not carried over TURN, by reason",
                &["reason"],
            )?,
            meetings: m.counters(
                "nat_turn_meetings_total",
                "Peers connected over circuits that were asked to meet at a TURN server, by outcome",
                &["outcome"],
            )?,
            asked: m.counters(
                "nat_turn_meetings_asked_total",
                "Requests of peers to meet at a TURN server, by what came of it",
                &["outcome"],
            )?,
            bytes_sent: bytes.with_label_values(&["sent"]),
            bytes_received: bytes.with_label_values(&["received"]),
            allocations: m.gauge("nat_turn_allocations", "Allocations at TURN servers")?,
            permissions: m.gauge(
                "nat_turn_permissions",
                "Addresses that may send to this node over its TURN server",
            )?,
            channels: m.gauge("nat_turn_channels", "Channels at the TURN server")?,
        };
        for asked in Asked::ALL {
            this.requests.with_label_values(&[asked.label(), Outcome::Done.label()]).inc_by(0);
        }
        for bad in Bad::ALL {
            this.bad.with_label_values(&[bad.label()]).inc_by(0);
        }
        for outcome in Outcome::ALL.into_iter().filter(|outcome| *outcome != Outcome::Done) {
            this.lost.with_label_values(&[outcome.label()]).inc_by(0);
        }
        for dropped in Dropped::ALL {
            this.dropped.with_label_values(&[dropped.label()]).inc_by(0);
        }
        for met in Met::ALL {
            this.meetings.with_label_values(&[met.label()]).inc_by(0);
            this.asked.with_label_values(&[met.label()]).inc_by(0);
        }
        Ok(this)
    }

    pub(super) fn answered(&self, asked: Asked, outcome: Outcome) {
        self.requests.with_label_values(&[asked.label(), outcome.label()]).inc();
    }

    pub(super) fn bad(&self, bad: Bad) {
        self.bad.with_label_values(&[bad.label()]).inc();
    }

    pub(super) fn lost(&self, outcome: Outcome) {
        self.lost.with_label_values(&[outcome.label()]).inc();
    }

    pub(super) fn dropped(&self, dropped: Dropped) {
        self.dropped.with_label_values(&[dropped.label()]).inc();
    }

    /// A meeting has ended that this node asked for, or was asked for.
    pub(super) fn met(&self, asked_by_peer: bool, met: Met) {
        let meetings = if asked_by_peer { &self.asked } else { &self.meetings };
        meetings.with_label_values(&[met.label()]).inc();
    }

    /// Nothing is there any more.
    pub(in crate::nat) fn ended(&self) {
        self.allocations.set(0);
        self.permissions.set(0);
        self.channels.set(0);
    }
}

#[cfg(test)]
impl TurnMetrics {
    pub(super) fn count(&self, asked: Asked, outcome: Outcome) -> u64 {
        self.requests.with_label_values(&[asked.label(), outcome.label()]).get()
    }

    pub(super) fn count_bad(&self, bad: Bad) -> u64 {
        self.bad.with_label_values(&[bad.label()]).get()
    }

    pub(super) fn count_lost(&self, outcome: Outcome) -> u64 {
        self.lost.with_label_values(&[outcome.label()]).get()
    }
}
