//! What gossip counts. Metrics of one topic are looked up once, not for every message.

use super::{Channel, NotAdmitted, Topic, topic::ByTopic, validate::Reason};
use crate::metrics::Maker;
use prometheus_endpoint::{
    Counter, CounterVec, Gauge, GaugeVec, Histogram, PrometheusError, U64, exponential_buckets,
};

/// The metrics of one topic.
#[derive(Clone)]
pub(crate) struct TopicMetrics {
    pub(crate) mesh_size: Gauge<U64>,
    pub(crate) sent: Counter<U64>,
    pub(crate) received: Counter<U64>,
    pub(crate) duplicates: Counter<U64>,
    pub(crate) bytes_sent: Counter<U64>,
    pub(crate) bytes_received: Counter<U64>,
    pub(crate) missed: Counter<U64>,
    pub(crate) validation: Histogram,
    pub(crate) message_bytes: Histogram,
    pub(crate) propagation: Histogram,
    pub(crate) validating: Gauge<U64>,
    pub(crate) backlog: Gauge<U64>,
}

/// All metrics of gossip.
#[derive(Clone)]
pub(crate) struct GossipMetrics {
    pub(crate) topics: ByTopic<TopicMetrics>,
    refused: CounterVec<U64>,
    disabled: CounterVec<U64>,
    reopened: CounterVec<U64>,
    unsent: CounterVec<U64>,
    not_admitted: GaugeVec<U64>,
    pub(crate) ledger: GaugeVec<U64>,
}

impl GossipMetrics {
    pub(crate) fn make(m: &Maker<'_>) -> Result<Self, PrometheusError> {
        let by_topic = &["topic"];
        let counters = |name, help| m.counters(name, help, by_topic);
        let gauges = |name, help| m.gauges(name, help, by_topic);
        let mesh_size = gauges("gossipsub_mesh_size", "Peers in the mesh of each topic")?;
        let sent = counters(
            "gossipsub_messages_sent_total",
            "Messages published here, or accepted and offered to the mesh",
        )?;
        let received = counters(
            "gossipsub_messages_received_total",
            "Messages received for the first time, valid or not",
        )?;
        let duplicates = counters(
            "gossipsub_duplicates_total",
            "Messages received again, from other peers or the same",
        )?;
        let bytes_sent = counters(
            "gossipsub_message_bytes_sent_total",
            "Bytes of messages published here or passed on, each message once",
        )?;
        let bytes_received = counters(
            "gossipsub_message_bytes_received_total",
            "Bytes of messages received, duplicates included",
        )?;
        let missed = counters(
            "gossipsub_messages_missed_total",
            "Messages that a slow local subscriber missed, the oldest first",
        )?;
        let validation = m.histograms(
            "gossipsub_validation_seconds",
            "Time from a message's arrival in the driver to its verdict, waiting included",
            exponential_buckets(0.000_01, 4.0, 10)?,
            by_topic,
        )?;
        let message_bytes = m.histograms(
            "gossipsub_message_bytes",
            "Size of received messages",
            exponential_buckets(64.0, 4.0, 10)?,
            by_topic,
        )?;
        let propagation = m.histograms(
            "gossipsub_propagation_seconds",
            "Time from a message's making, by its author's clock, to its acceptance here",
            exponential_buckets(0.001, 3.0, 10)?,
            by_topic,
        )?;
        let validating = gauges(
            "gossipsub_validations_in_flight",
            "Messages that wait for validation or its verdict",
        )?;
        let backlog = gauges(
            "gossipsub_backlog_messages",
            "Messages that the slowest local subscriber has not taken yet",
        )?;
        let topics = ByTopic::new(|topic| {
            let label = &[topic.label()];
            TopicMetrics {
                mesh_size: mesh_size.with_label_values(label),
                sent: sent.with_label_values(label),
                received: received.with_label_values(label),
                duplicates: duplicates.with_label_values(label),
                bytes_sent: bytes_sent.with_label_values(label),
                bytes_received: bytes_received.with_label_values(label),
                missed: missed.with_label_values(label),
                validation: validation.with_label_values(label),
                message_bytes: message_bytes.with_label_values(label),
                propagation: propagation.with_label_values(label),
                validating: validating.with_label_values(label),
                backlog: backlog.with_label_values(label),
            }
        });
        let by_channel = &["channel"];
        let this = Self {
            topics,
            refused: m.counters(
                "gossipsub_messages_refused_total",
                "Messages that were not accepted, by reason; topic `none` is one not listened to",
                &["topic", "reason"],
            )?,
            disabled: m.counters(
                "gossipsub_handlers_disabled_total",
                "Connections on which gossipsub gave up, because streams on it failed five times",
                by_channel,
            )?,
            reopened: m.counters(
                "gossipsub_streams_reopened_total",
                "Gossip streams that peers opened again on one connection, as after one too large",
                by_channel,
            )?,
            unsent: m.counters(
                "gossipsub_messages_unsent_total",
                "Messages dropped because a peer took them too slowly",
                by_channel,
            )?,
            not_admitted: m.gauges(
                "gossipsub_peers_not_admitted",
                "Connected peers kept out of the meshes, by reason",
                &["reason"],
            )?,
            ledger: m.gauges(
                "gossipsub_ledger_entries",
                "Peers and addresses whose faults are remembered",
                &["by"],
            )?,
        };
        // What has labels is shown only once it was touched; dashboards want the zero.
        for channel in [Channel::Control, Channel::Bulk] {
            for counter in [&this.disabled, &this.reopened, &this.unsent] {
                counter.with_label_values(&[channel.label()]).inc_by(0);
            }
        }
        for reason in NotAdmitted::ALL {
            this.not_admitted(reason, 0);
        }
        Ok(this)
    }

    pub(crate) fn refused(&self, topic: Option<Topic>, reason: Reason) {
        let labels = [topic.map_or("none", Topic::label), reason.label()];
        self.refused.with_label_values(&labels).inc();
    }

    pub(crate) fn disabled(&self, channel: Channel) {
        self.disabled.with_label_values(&[channel.label()]).inc();
    }

    pub(crate) fn reopened(&self, channel: Channel) {
        self.reopened.with_label_values(&[channel.label()]).inc();
    }

    pub(crate) fn unsent(&self, channel: Channel, messages: usize) {
        let messages = crate::metrics::gauge(messages);
        self.unsent.with_label_values(&[channel.label()]).inc_by(messages);
    }

    pub(crate) fn not_admitted(&self, reason: NotAdmitted, peers: u64) {
        self.not_admitted.with_label_values(&[reason.label()]).set(peers);
    }

    /// Nothing waits and nobody is known any more.
    pub(crate) fn ended(&self) {
        for topic in Topic::ALL {
            let metrics = self.topics.of(topic);
            for gauge in [&metrics.mesh_size, &metrics.validating, &metrics.backlog] {
                gauge.set(0);
            }
        }
        for reason in NotAdmitted::ALL {
            self.not_admitted(reason, 0);
        }
        for by in ["key", "source"] {
            self.ledger.with_label_values(&[by]).set(0);
        }
    }
}
