//! The driver's part of gossip: commands and events in, validation results and deliveries out.

use super::{
    Channel, Command, Config, Envelope, Message, PublishError, Topic, TopicStatus,
    params::Behaviour,
    score,
    validate::{self, Received, Verdict},
};
use crate::{Identity, Metrics, PeerId, Reputation, identity::key_of, metrics::gauge};
use codec::Encode;
use libp2p::{
    bytes::Bytes,
    gossipsub::{self, Event, MessageAcceptance, MessageId},
};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};
use tokio::sync::broadcast;

/// The two behaviours, picked by topic or channel.
pub(crate) struct Behaviours<'a> {
    pub(crate) control: &'a mut Behaviour,
    pub(crate) bulk: &'a mut Behaviour,
}

impl Behaviours<'_> {
    fn of(&mut self, channel: Channel) -> &mut Behaviour {
        match channel {
            Channel::Control => self.control,
            Channel::Bulk => self.bulk,
        }
    }

    /// The peer's score in the behaviour where it is lower.
    pub(crate) fn score(&self, peer: &PeerId) -> f64 {
        let of = |behaviour: &Behaviour| behaviour.peer_score(peer).unwrap_or_default();
        of(self.control).min(of(self.bulk))
    }
}

pub(crate) struct Gossip {
    config: Config,
    key: crate::OverlayKey,
    reputation: Arc<dyn Reputation>,
    metrics: Metrics,
    topics: HashMap<Topic, broadcast::Sender<Message>>,
    /// Connected peers by the topics they listen to: at most 6 * 256 ids of 80 bytes.
    listeners: HashMap<Topic, HashSet<PeerId>>,
}

impl Gossip {
    pub(crate) fn new(
        config: Config,
        identity: &Identity,
        reputation: Arc<dyn Reputation>,
        metrics: Metrics,
        topics: Vec<(Topic, broadcast::Sender<Message>)>,
    ) -> Self {
        Self {
            config,
            key: identity.key(),
            reputation,
            metrics,
            topics: topics.into_iter().collect(),
            listeners: HashMap::new(),
        }
    }

    pub(crate) fn on_command(
        &mut self,
        command: Command,
        mut behaviours: Behaviours<'_>,
        now_ms: u64,
    ) {
        let Command::Publish { topic, payload, answer } = command;
        let published = self.publish(topic, payload, &mut behaviours, now_ms);
        // A caller that has gone away wants no answer.
        let _ = answer.send(published);
    }

    fn publish(
        &mut self,
        topic: Topic,
        payload: Vec<u8>,
        behaviours: &mut Behaviours<'_>,
        now_ms: u64,
    ) -> Result<(), PublishError> {
        let (size, limit) = (payload.len(), self.config.max_payload(topic));
        if size > limit {
            return Err(PublishError::TooLarge { topic, size, limit });
        }
        if topic == Topic::Bft && !self.reputation.is_validator(&self.key) {
            return Err(PublishError::NotValidator(topic));
        }
        let ttl_ms = millis(self.config.ttl);
        let bytes = Envelope::new(payload, now_ms, ttl_ms).encode();
        match behaviours.of(topic.channel()).publish(topic.hash(), bytes) {
            Ok(_) => {
                self.metrics.gossip_sent.with_label_values(&[topic.label()]).inc();
                Ok(())
            }
            Err(gossipsub::PublishError::NoPeersSubscribedToTopic) => {
                Err(PublishError::NoPeers(topic))
            }
            Err(gossipsub::PublishError::AllQueuesFull(peers)) => {
                Err(PublishError::QueuesFull(peers))
            }
            Err(other) => Err(PublishError::Failed(other.to_string())),
        }
    }

    pub(crate) fn on_event(
        &mut self,
        channel: Channel,
        event: Event,
        mut behaviours: Behaviours<'_>,
        now_ms: u64,
    ) {
        match event {
            Event::Message { propagation_source, message_id, message } => {
                let behaviour = behaviours.of(channel);
                self.on_message(&propagation_source, &message_id, message, behaviour, now_ms);
            }
            Event::Subscribed { peer_id, topic, .. } => {
                if let Some(topic) = Topic::from_hash(&topic) {
                    self.listeners.entry(topic).or_default().insert(peer_id);
                }
            }
            Event::Unsubscribed { peer_id, topic } => {
                if let Some(topic) = Topic::from_hash(&topic) {
                    self.listeners.entry(topic).or_default().remove(&peer_id);
                }
            }
            Event::GossipsubNotSupported { peer_id } => {
                tracing::debug!(%peer_id, ?channel, "peer does not speak our gossip");
            }
            Event::SlowPeer { peer_id, .. } => {
                tracing::debug!(%peer_id, ?channel, "peer is slow to take messages");
            }
        }
    }

    fn on_message(
        &mut self,
        from: &PeerId,
        id: &MessageId,
        message: gossipsub::Message,
        behaviour: &mut Behaviour,
        now_ms: u64,
    ) {
        let Some(topic) = Topic::from_hash(&message.topic) else {
            // We subscribe to our topics only, so nothing else comes.
            behaviour.report_message_validation_result(id, from, MessageAcceptance::Ignore);
            return;
        };
        let label = topic.label();
        self.metrics.gossip_received.with_label_values(&[label]).inc();
        self.metrics.gossip_message_bytes.observe(as_f64(message.data.len()));

        let started = Instant::now();
        let author = message.source.unwrap_or(*from);
        let received = Received {
            topic,
            author: key_of(&author),
            from_author: author == *from,
            data: &message.data,
        };
        let limits = validate::Limits {
            max_ttl_ms: millis(self.config.max_ttl),
            max_skew_ms: millis(self.config.max_skew),
        };
        let verdict = validate::judge(received, &*self.reputation, limits, now_ms);
        self.metrics.gossip_validation.observe(started.elapsed().as_secs_f64());

        let acceptance = match (verdict, received.author) {
            (Verdict::Accept(envelope), Some(author_key)) => {
                self.metrics.gossip_sent.with_label_values(&[label]).inc();
                self.deliver(Message {
                    topic,
                    author,
                    author_key,
                    created_ms: envelope.created_ms,
                    payload: Bytes::from(envelope.payload),
                });
                MessageAcceptance::Accept
            }
            (Verdict::Accept(_), None) => MessageAcceptance::Ignore,
            (Verdict::Ignore(reason), _) => {
                self.refused(topic, reason, from, &author);
                MessageAcceptance::Ignore
            }
            (Verdict::Reject(reason), _) => {
                self.refused(topic, reason, from, &author);
                MessageAcceptance::Reject
            }
        };
        behaviour.report_message_validation_result(id, from, acceptance);
    }

    fn refused(&self, topic: Topic, reason: validate::Reason, from: &PeerId, author: &PeerId) {
        let labels = [topic.label(), reason.label()];
        self.metrics.gossip_refused.with_label_values(&labels).inc();
        tracing::debug!(%topic, reason = reason.label(), %from, %author, "gossip refused");
    }

    fn deliver(&self, message: Message) {
        if let Some(sender) = self.topics.get(&message.topic) {
            // Fails only when nobody subscribes, which is no failure.
            let _ = sender.send(message);
        }
    }

    /// Gives peers the score their reputation calls for. gossipsub forgets it when a peer
    /// disconnects, and knows a peer only once it is connected.
    pub(crate) fn apply_scores<'a>(
        &self,
        peers: impl IntoIterator<Item = &'a PeerId>,
        behaviours: Behaviours<'_>,
    ) {
        for peer in peers {
            let standing = key_of(peer).and_then(|key| self.reputation.standing(&key));
            let score = score::application(standing);
            behaviours.control.set_application_score(peer, score);
            behaviours.bulk.set_application_score(peer, score);
        }
    }

    pub(crate) fn on_disconnected(&mut self, peer: &PeerId) {
        for listeners in self.listeners.values_mut() {
            listeners.remove(peer);
        }
    }

    /// Fewest listeners that any topic has.
    pub(crate) fn fewest_listeners(&self) -> usize {
        let of = |topic| self.listeners.get(topic).map_or(0, HashSet::len);
        Topic::ALL.iter().map(of).min().unwrap_or_default()
    }

    pub(crate) fn status(&self, mut behaviours: Behaviours<'_>) -> Vec<TopicStatus> {
        Topic::ALL
            .into_iter()
            .map(|topic| TopicStatus {
                topic: topic.label(),
                mesh: behaviours.of(topic.channel()).mesh_peers(&topic.hash()).count(),
                subscribers: self.listeners.get(&topic).map_or(0, HashSet::len),
            })
            .collect()
    }

    pub(crate) fn on_tick(&self, behaviours: Behaviours<'_>) {
        for status in self.status(behaviours) {
            let mesh = self.metrics.gossip_mesh_size.with_label_values(&[status.topic]);
            mesh.set(gauge(status.mesh));
        }
    }
}

fn millis(duration: std::time::Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

fn as_f64(n: usize) -> f64 {
    u32::try_from(n).map_or(f64::MAX, f64::from)
}
