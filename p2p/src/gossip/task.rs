//! The driver's part of gossip: commands and events in, verdicts and deliveries out.

use super::{
    BehaviourScore, Channel, Command, Config, Envelope, Heard, Message, NotAdmitted, PeerScore,
    PublishError, RefusedCount, Topic, TopicStatus,
    admission::{self, Candidate, Origin, Rules, Topics},
    explain,
    ledger::Ledger,
    score::{Application, THRESHOLDS},
    stage::{Job, Judged, Outcome, Stage, Worker, millis, stage},
    validate::Reason,
    watch::Behaviour,
};
use crate::{
    AddressPolicy, Identity, Metrics, OverlayKey, PeerId, Protocols, Reputation, address::Source,
    identity::key_of, metrics::gauge,
};
use libp2p::{
    bytes::Bytes,
    gossipsub::{self, Event, MessageAcceptance, MessageId},
};
use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};
use tokio::sync::broadcast;

/// Peers of one network in the meshes, where only global addresses take part: see
/// [`Config::mesh_per_group`].
const PER_GROUP: usize = 6;

/// Guilt of an address from which a new unbound key is kept out of the meshes: as much as graylists
/// a key.
const BAD_SOURCE: f64 = 3.0;

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

    fn both(&self) -> [(Channel, &Behaviour); 2] {
        [(Channel::Control, self.control), (Channel::Bulk, self.bulk)]
    }

    /// The peer's score in the behaviour where it is lower.
    pub(crate) fn score(&self, peer: &PeerId) -> f64 {
        let of = |behaviour: &Behaviour| behaviour.inner().peer_score(peer).unwrap_or_default();
        of(self.control).min(of(self.bulk))
    }

    fn set_application_score(&mut self, peer: &PeerId, score: f64) {
        // False for a peer that gossipsub does not know (any more), which has no score to set.
        self.control.inner_mut().set_application_score(peer, score);
        self.bulk.inner_mut().set_application_score(peer, score);
    }

    /// In which meshes each peer is.
    fn meshes(&self) -> HashMap<PeerId, Topics> {
        let mut meshes: HashMap<PeerId, Topics> = HashMap::new();
        for topic in Topic::ALL {
            let behaviour = match topic.channel() {
                Channel::Control => &*self.control,
                Channel::Bulk => &*self.bulk,
            };
            for peer in behaviour.inner().mesh_peers(&topic.hash()) {
                meshes.entry(*peer).or_default().add(topic);
            }
        }
        meshes
    }
}

/// What gossip needs of the rest.
pub(crate) struct Parts<'a> {
    pub(crate) policy: AddressPolicy,
    pub(crate) identity: &'a Identity,
    /// The chain that messages are sealed for.
    pub(crate) chain: &'a Protocols,
    pub(crate) reputation: Arc<dyn Reputation>,
    pub(crate) metrics: Metrics,
}

/// A connected peer: under 1 KiB.
struct Known {
    since: Instant,
    /// Nothing over the in-process transport.
    origin: Option<Origin>,
    subscribed: Topics,
    not_admitted: Option<NotAdmitted>,
    /// The application score that gossipsub has.
    told: f64,
    /// Refused messages by reason, of which there are 16.
    refused: BTreeMap<Reason, u64>,
}

pub(crate) struct Gossip {
    config: Config,
    identity: Identity,
    chain: Protocols,
    key: OverlayKey,
    per_group: Option<usize>,
    reputation: Arc<dyn Reputation>,
    metrics: Metrics,
    topics: HashMap<Topic, broadcast::Sender<Message>>,
    stage: Stage,
    /// Connected peers, bounded by the connection limit.
    peers: HashMap<PeerId, Known>,
    /// Connected peers that listen to each topic.
    listeners: HashMap<Topic, usize>,
    faults: Ledger<OverlayKey>,
    bad_sources: Ledger<Source>,
}

impl Gossip {
    /// Makes gossip, and the worker that judges its messages.
    pub(crate) fn new(
        config: Config,
        parts: Parts<'_>,
        topics: Vec<(Topic, broadcast::Sender<Message>)>,
        now: Instant,
    ) -> (Self, Worker) {
        let Parts { policy, identity, chain, reputation, metrics } = parts;
        let (stage, worker) = stage(&config, chain.clone(), identity.key(), reputation.clone());
        let (entries, half_life) = (config.ledger_size, config.ledger_half_life);
        let this = Self {
            identity: identity.clone(),
            chain: chain.clone(),
            key: identity.key(),
            per_group: config.mesh_per_group.or(match policy {
                AddressPolicy::Global => Some(PER_GROUP),
                AddressPolicy::Any => None,
            }),
            reputation,
            metrics,
            topics: topics.into_iter().collect(),
            stage,
            peers: HashMap::new(),
            listeners: HashMap::new(),
            faults: Ledger::new(entries, half_life, now),
            bad_sources: Ledger::new(entries, half_life, now),
            config,
        };
        (this, worker)
    }

    // Commands.

    pub(crate) fn on_command(
        &mut self,
        command: Command,
        mut behaviours: Behaviours<'_>,
        now: Instant,
        now_ms: u64,
    ) {
        // A caller that has gone away wants no answer.
        match command {
            Command::Publish { topic, payload, answer } => {
                let _ = answer.send(self.publish(topic, payload, &mut behaviours, now_ms));
            }
            Command::Explain { peer, answer } => {
                let _ = answer.send(self.explain(&peer, &behaviours, now));
            }
        }
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
        let bytes = Envelope::new(payload, now_ms, ttl_ms)
            .sealed(&self.chain, topic.name(), self.identity.keypair())
            .map_err(|error| PublishError::Failed(error.to_string()))?;
        let len = bytes.len();
        let behaviour = behaviours.of(topic.channel()).inner_mut();
        match behaviour.publish(topic.hash(), bytes) {
            Ok(_) => {
                self.sent(topic, len);
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

    fn sent(&self, topic: Topic, len: usize) {
        let metrics = self.metrics.gossip.topics.of(topic);
        metrics.sent.inc();
        metrics.bytes_sent.inc_by(gauge(len));
    }

    // Messages.

    pub(crate) fn on_event(
        &mut self,
        channel: Channel,
        event: Heard,
        behaviours: Behaviours<'_>,
        now: Instant,
    ) {
        let event = match event {
            Heard::Event(event) => event,
            Heard::Refused { from, topic, reason } => {
                self.refused(topic, reason, &from);
                self.fault(&from, behaviours, now);
                return;
            }
            Heard::Ignored { from, topic, reason } => {
                self.refused(Some(topic), reason, &from);
                return;
            }
            Heard::Disabled(peer) => {
                tracing::debug!(%peer, ?channel, "gossip streams failed too often");
                return;
            }
        };
        match event {
            Event::Message { propagation_source, message_id, message } => {
                self.on_message(channel, propagation_source, message_id, message, behaviours, now);
            }
            Event::Subscribed { peer_id, topic, .. } => self.on_subscribed(&peer_id, &topic, true),
            Event::Unsubscribed { peer_id, topic } => self.on_subscribed(&peer_id, &topic, false),
            Event::GossipsubNotSupported { peer_id } => {
                tracing::debug!(%peer_id, ?channel, "peer does not speak our gossip");
            }
            Event::SlowPeer { peer_id, failed_messages } => {
                let unsent = failed_messages.priority + failed_messages.non_priority;
                tracing::debug!(%peer_id, ?channel, unsent, "peer is slow to take messages");
                self.metrics.gossip.unsent(channel, unsent);
            }
        }
    }

    fn on_message(
        &mut self,
        channel: Channel,
        from: PeerId,
        id: MessageId,
        message: gossipsub::Message,
        mut behaviours: Behaviours<'_>,
        now: Instant,
    ) {
        let behaviour = behaviours.of(channel).inner_mut();
        let Some(topic) = Topic::from_hash(&message.topic) else {
            // Messages on other topics are not shown to gossipsub.
            behaviour.report_message_validation_result(&id, &from, MessageAcceptance::Ignore);
            return;
        };
        let metrics = self.metrics.gossip.topics.of(topic);
        metrics.received.inc();
        metrics.message_bytes.observe(as_f64(message.data.len()));
        let author = message.source.unwrap_or(from);
        let data = Bytes::from(message.data);
        let job = Job { topic, from, author, id, data, received: now };
        match self.stage.submit(job) {
            Ok(()) => metrics.validating.inc(),
            Err(job) => {
                behaviour.report_message_validation_result(
                    &job.id,
                    &job.from,
                    MessageAcceptance::Ignore,
                );
                self.refused(Some(topic), Reason::Overloaded, &job.from);
            }
        }
    }

    /// The next verdicts; nothing once the worker is gone. Safe to drop at any await.
    pub(crate) async fn verdicts(&mut self) -> Option<Vec<Judged>> {
        self.stage.verdicts().await
    }

    pub(crate) fn on_verdicts(
        &mut self,
        batch: Vec<Judged>,
        mut behaviours: Behaviours<'_>,
        now: Instant,
        now_ms: u64,
    ) {
        for Judged { job, outcome } in batch {
            let metrics = self.metrics.gossip.topics.of(job.topic);
            metrics.validating.dec();
            metrics.validation.observe(now.saturating_duration_since(job.received).as_secs_f64());
            let acceptance = match &outcome {
                Outcome::Accept(_) => MessageAcceptance::Accept,
                Outcome::Ignore(_) => MessageAcceptance::Ignore,
                Outcome::Reject(_) => MessageAcceptance::Reject,
            };
            let behaviour = behaviours.of(job.topic.channel()).inner_mut();
            behaviour.report_message_validation_result(&job.id, &job.from, acceptance);
            match outcome {
                Outcome::Accept(message) => {
                    let age_ms = now_ms.saturating_sub(message.created_ms);
                    metrics.propagation.observe(seconds(age_ms));
                    self.sent(job.topic, job.data.len());
                    self.deliver(message);
                }
                Outcome::Ignore(reason) => self.refused(Some(job.topic), reason, &job.from),
                Outcome::Reject(reason) => {
                    self.refused(Some(job.topic), reason, &job.from);
                    let behaviours =
                        Behaviours { control: behaviours.control, bulk: behaviours.bulk };
                    self.fault(&job.from, behaviours, now);
                }
            }
        }
    }

    fn deliver(&self, message: Message) {
        if let Some(sender) = self.topics.get(&message.topic) {
            // Fails only when nobody subscribes, which is no failure.
            let _ = sender.send(message);
        }
    }

    fn refused(&mut self, topic: Option<Topic>, reason: Reason, from: &PeerId) {
        self.metrics.gossip.refused(topic, reason);
        tracing::debug!(?topic, reason = reason.label(), %from, "gossip refused");
        if let Some(known) = self.peers.get_mut(from) {
            *known.refused.entry(reason).or_default() += 1;
        }
    }

    // Peers.

    /// A fault of a peer counts at once, in both behaviours, and for where it connects from.
    fn fault(&mut self, peer: &PeerId, mut behaviours: Behaviours<'_>, now: Instant) {
        let Some(key) = key_of(peer) else { return };
        self.faults.fault(key, now);
        if let Some(origin) = self.peers.get(peer).and_then(|known| known.origin) {
            self.bad_sources.fault(origin.source, now);
        }
        self.tell(peer, &mut behaviours, now);
    }

    /// What the application has to say of a peer, connected or not.
    fn application(&self, peer: &PeerId, now: Instant) -> Application {
        let (standing, guilt) = self.record(peer, now);
        let not_admitted = self.peers.get(peer).and_then(|known| known.not_admitted);
        Application::new(standing, guilt, not_admitted)
    }

    fn record(&self, peer: &PeerId, now: Instant) -> (Option<crate::Standing>, f64) {
        let Some(key) = key_of(peer) else { return (None, 0.0) };
        (self.reputation.standing(&key), self.faults.guilt(&key, now))
    }

    pub(crate) fn on_connected(
        &mut self,
        peer: PeerId,
        ip: Option<IpAddr>,
        mut behaviours: Behaviours<'_>,
        now: Instant,
    ) {
        self.peers.entry(peer).or_insert_with(|| Known {
            since: now,
            origin: ip.map(Origin::of),
            subscribed: Topics::default(),
            not_admitted: None,
            told: 0.0,
            refused: BTreeMap::new(),
        });
        // gossipsub forgets the score when a peer disconnects, and knows one only once connected.
        self.tell(&peer, &mut behaviours, now);
    }

    /// Tells gossipsub the application score of a peer.
    fn tell(&mut self, peer: &PeerId, behaviours: &mut Behaviours<'_>, now: Instant) {
        let total = self.application(peer, now).total;
        if let Some(known) = self.peers.get_mut(peer) {
            known.told = total;
            behaviours.set_application_score(peer, total);
        }
    }

    pub(crate) fn on_disconnected(&mut self, peer: &PeerId) {
        if let Some(known) = self.peers.remove(peer) {
            for topic in known.subscribed.iter() {
                self.listened(topic, false);
            }
        }
    }

    fn on_subscribed(&mut self, peer: &PeerId, topic: &gossipsub::TopicHash, listens: bool) {
        let Some(topic) = Topic::from_hash(topic) else { return };
        let Some(known) = self.peers.get_mut(peer) else { return };
        if known.subscribed.contains(topic) == listens {
            return;
        }
        if listens {
            known.subscribed.add(topic);
        } else {
            known.subscribed.remove(topic);
        }
        self.listened(topic, listens);
    }

    fn listened(&mut self, topic: Topic, listens: bool) {
        let listeners = self.listeners.entry(topic).or_default();
        *listeners = if listens { *listeners + 1 } else { listeners.saturating_sub(1) };
    }

    /// Decides anew who may be in the meshes, and tells gossipsub what every peer's score is.
    pub(crate) fn apply_scores(&mut self, mut behaviours: Behaviours<'_>, now: Instant) {
        let refused = self.refused_places(&behaviours, now);
        let mut counts: BTreeMap<NotAdmitted, u64> = BTreeMap::new();
        for reason in refused.values() {
            *counts.entry(*reason).or_default() += 1;
        }
        for reason in NotAdmitted::ALL {
            let count = counts.get(&reason).copied().unwrap_or_default();
            self.metrics.gossip.not_admitted(reason, count);
        }
        let peers: Vec<PeerId> = self.peers.keys().copied().collect();
        for peer in peers {
            if let Some(known) = self.peers.get_mut(&peer) {
                known.not_admitted = refused.get(&peer).copied();
            }
            self.tell(&peer, &mut behaviours, now);
        }
    }

    fn refused_places(
        &self,
        behaviours: &Behaviours<'_>,
        now: Instant,
    ) -> BTreeMap<PeerId, NotAdmitted> {
        let meshes = behaviours.meshes();
        let mut candidates: Vec<(Instant, Candidate)> = self
            .peers
            .iter()
            .filter_map(|(peer, known)| {
                let (standing, guilt) = self.record(peer, now);
                // Whose score is below zero by itself is in no mesh and holds no place.
                if Application::new(standing, guilt, None).total < 0.0 {
                    return None;
                }
                let source = known.origin.map(|origin| origin.source);
                let candidate = Candidate {
                    peer: *peer,
                    bound: standing.is_some(),
                    group: known.origin.map(|origin| origin.group),
                    bad_source: source
                        .is_some_and(|s| self.bad_sources.guilt(&s, now) >= BAD_SOURCE),
                    subscribed: known.subscribed,
                    meshes: meshes.get(peer).copied().unwrap_or_default(),
                };
                Some((known.since, candidate))
            })
            .collect();
        candidates.sort_by_key(|(since, candidate)| (*since, candidate.peer));
        let candidates: Vec<Candidate> = candidates.into_iter().map(|(_, c)| c).collect();
        let bound_here = self.reputation.standing(&self.key).is_some();
        let rules = Rules {
            mesh: self.config.mesh,
            mesh_low: self.config.mesh_low,
            unbound_places: bound_here.then(|| self.config.unbound_mesh * Topic::ALL.len()),
            per_group: self.per_group,
        };
        admission::refused(&candidates, rules)
    }

    // What others ask.

    /// Fewest listeners that any topic has.
    pub(crate) fn fewest_listeners(&self) -> usize {
        Topic::ALL.iter().map(|topic| self.listeners_of(*topic)).min().unwrap_or_default()
    }

    fn listeners_of(&self, topic: Topic) -> usize {
        self.listeners.get(&topic).copied().unwrap_or_default()
    }

    pub(crate) fn status(&self, mut behaviours: Behaviours<'_>) -> Vec<TopicStatus> {
        Topic::ALL
            .into_iter()
            .map(|topic| TopicStatus {
                topic: topic.label(),
                mesh: behaviours.of(topic.channel()).inner().mesh_peers(&topic.hash()).count(),
                subscribers: self.listeners_of(topic),
            })
            .collect()
    }

    fn explain(&self, peer: &PeerId, behaviours: &Behaviours<'_>, now: Instant) -> PeerScore {
        let (standing, guilt) = self.record(peer, now);
        let application = self.application(peer, now);
        let known = self.peers.get(peer);
        let scores = behaviours.both().map(|(channel, behaviour)| {
            let score = behaviour.inner().peer_score(peer).unwrap_or_default();
            // gossipsub keeps what it measured of a peer that left, and is told the rest when it
            // comes back.
            let measured = score - known.map_or(0.0, |known| known.told);
            let score = measured + application.total;
            BehaviourScore { channel: channel.label(), score, measured }
        });
        let score = scores.iter().map(|b| b.score).fold(f64::INFINITY, f64::min);
        let meshes = behaviours.meshes().get(peer).copied().unwrap_or_default();
        let refused: Vec<(Reason, u64)> =
            known.iter().flat_map(|k| &k.refused).map(|(reason, n)| (*reason, *n)).collect();
        let meshes = explain::labels(meshes.iter());
        let facts = explain::Facts {
            score,
            behaviours: &scores,
            application: &application,
            standing,
            guilt,
            meshes: &meshes,
            refused: &refused,
        };
        PeerScore {
            words: explain::words(&facts, &self.config),
            peer_id: peer.to_string(),
            connected: known.is_some(),
            score,
            behaviours: scores.to_vec(),
            application,
            standing,
            guilt,
            thresholds: THRESHOLDS,
            topics: known.map(|k| explain::labels(k.subscribed.iter())).unwrap_or_default(),
            meshes,
            refused: refused
                .into_iter()
                .map(|(reason, count)| RefusedCount { reason: reason.label(), count })
                .collect(),
        }
    }

    pub(crate) fn on_tick(&mut self, mut behaviours: Behaviours<'_>, now: Instant) {
        self.faults.forget(now);
        self.bad_sources.forget(now);
        let ledger = &self.metrics.gossip.ledger;
        ledger.with_label_values(&["key"]).set(gauge(self.faults.len()));
        ledger.with_label_values(&["source"]).set(gauge(self.bad_sources.len()));
        for topic in Topic::ALL {
            let metrics = self.metrics.gossip.topics.of(topic);
            let behaviour = behaviours.of(topic.channel()).inner();
            metrics.mesh_size.set(gauge(behaviour.mesh_peers(&topic.hash()).count()));
            let backlog = self.topics.get(&topic).map_or(0, broadcast::Sender::len);
            metrics.backlog.set(gauge(backlog));
        }
        self.apply_scores(behaviours, now);
    }
}

fn as_f64(n: usize) -> f64 {
    u32::try_from(n).map_or(f64::MAX, f64::from)
}

fn seconds(ms: u64) -> f64 {
    u32::try_from(ms).map_or(f64::MAX, f64::from) / 1000.0
}
