//! Settings of the two gossipsub behaviours, and how they score what peers do.

use super::{
    Channel, Config, Topic, envelope,
    score::{THRESHOLDS, TOPIC_CAP},
    watch,
};
use crate::{AddressPolicy, Identity, Metrics, PeerId, Protocols, RunError};
use libp2p::gossipsub::{
    self, MessageAuthenticity, MessageId, PeerScoreParams, PeerScoreThresholds, TopicHash,
    TopicScoreParams, ValidationMode, WhitelistSubscriptionFilter, score_parameter_decay,
};
use std::time::Duration;

/// gossipsub, of which a behaviour carries only known topics.
pub(crate) type Inner =
    gossipsub::Behaviour<gossipsub::IdentityTransform, WhitelistSubscriptionFilter>;

/// Bytes of a message id. IHAVE messages list ids, and a receiver closes the stream on more control
/// data than its limit, so short ids carry more messages a heartbeat.
pub(crate) const MESSAGE_ID_BYTES: usize = 20;

/// What one id takes in an IHAVE or IWANT: the id, its field tag and its length.
const ID_BYTES: usize = MESSAGE_ID_BYTES + 2;

/// Heartbeats whose messages one IHAVE lists, gossipsub's default.
pub(crate) const GOSSIPED_HEARTBEATS: usize = 3;

/// The share of a topic's peers outside the mesh that are told of its newest messages in a heartbeat,
/// where that is more than `gossip.mesh` of them. None: gossipsub's quarter makes 22 of 90, which in
/// a network of 100 nodes and six topics is 13,000 IHAVEs a second, half as many as there are copies
/// of 30 messages. With six each, in three heartbeats, every peer hears of a message 18 times.
const GOSSIP_FACTOR: f64 = 0.0;

/// What bounds control messages.
///
/// gossipsub sends one IHAVE a topic in one piece: `rate * heartbeat * 3` ids of 22 bytes. The
/// receiver closes the stream on an RPC with more control data than it takes, and at the fifth
/// stream of a connection gives up on that connection for good, without a word. So what is listed at
/// most must fit into what is taken at least, and then no rate can do it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ControlLimits {
    /// Most ids listed in one IHAVE, and asked for of one peer in one heartbeat.
    pub(crate) ids: usize,
    /// Most control data taken in one RPC, in bytes.
    pub(crate) bytes: usize,
}

impl ControlLimits {
    /// Ours: 5,000 ids are 110,000 bytes, and 128 KiB leave 21,000 for the topic and the rest. An
    /// IHAVE then lists every message up to 1,666 a second on one topic (5,000 ids in 3 heartbeats
    /// of 1 s); beyond, each peer is told of another random part of them. No rate disables a handler.
    pub(crate) const OURS: Self = Self { ids: 5_000, bytes: 128 * 1024 };

    /// Whether an IHAVE or IWANT as long as may be sent is taken, with 1 KiB for the topic's name
    /// and framing.
    const fn consistent(self) -> bool {
        self.ids * ID_BYTES + 1024 <= self.bytes
    }
}

const _: () = assert!(ControlLimits::OURS.consistent());

/// Room above the largest payload: source, number and topic take less than 1 KiB, but
/// messages within about 8 KiB of the limit can close streams.
const HEADROOM: usize = 16 * 1024;

/// What a message's source, sequence number and topic take at most, and a signature and a key that it
/// need not have.
const FRAME: usize = 1024;

/// For how long a bad message weighs on who sent it.
const INVALID_DECAY: Duration = Duration::from_secs(600);

/// The gossipsub behaviour of a channel, subscribed to all its topics.
pub(crate) fn behaviour(
    channel: Channel,
    config: &Config,
    policy: AddressPolicy,
    protocols: &Protocols,
    identity: &Identity,
    metrics: &Metrics,
    limits: ControlLimits,
) -> Result<watch::Behaviour, RunError> {
    let setup = |error: String| RunError::Setup { what: "gossip", source: error.into() };
    let topics = || Topic::ALL.into_iter().filter(move |t| t.channel() == channel);
    let filter = WhitelistSubscriptionFilter(topics().map(Topic::hash).collect());
    let mut behaviour = Inner::new_with_subscription_filter(
        // The seal is in the data, see `envelope`.
        MessageAuthenticity::Author(identity.peer_id()),
        settings(channel, config, protocols, limits).map_err(|e| setup(e.to_string()))?,
        filter,
    )
    .map_err(|e| setup(e.to_owned()))?;
    behaviour.with_peer_score(scoring(channel, config, policy), thresholds()).map_err(setup)?;
    for topic in topics() {
        behaviour.subscribe(&topic.ident()).map_err(|e| setup(e.to_string()))?;
    }
    Ok(watch::Behaviour::new(behaviour, channel, config.replays, metrics.clone()))
}

fn settings(
    channel: Channel,
    config: &Config,
    protocols: &Protocols,
    limits: ControlLimits,
) -> Result<gossipsub::Config, gossipsub::ConfigBuilderError> {
    let (prefix, max_payload, queue, flood) = match channel {
        Channel::Control => {
            (protocols.control(), config.control_max_payload, config.control_queue, true)
        }
        Channel::Bulk => (protocols.bulk(), config.bulk_max_payload, config.bulk_queue, false),
    };
    let max_message = max_payload + envelope::OVERHEAD;
    let mut settings = gossipsub::ConfigBuilder::default();
    settings
        .protocol_id_prefix(prefix)
        .max_transmit_size((max_message + HEADROOM).max(limits.bytes + HEADROOM))
        .max_control_message_size(limits.bytes)
        .max_control_messages_sent(limits.ids)
        .connection_handler_queue_len(queue)
        .flood_publish(flood)
        .mesh_n(config.mesh)
        .mesh_n_low(config.mesh_low)
        .mesh_n_high(config.mesh_high)
        .mesh_outbound_min((config.mesh / 3).min(config.mesh_low))
        .heartbeat_interval(config.heartbeat)
        .heartbeat_initial_delay(config.heartbeat)
        .history_gossip(GOSSIPED_HEARTBEATS)
        .gossip_lazy(config.mesh)
        .gossip_factor(GOSSIP_FACTOR)
        .duplicate_cache_time(config.max_ttl + config.max_skew)
        // A large message takes longer to send than the second that gossipsub gives it.
        .publish_queue_duration(Duration::from_secs(10))
        .forward_queue_duration(Duration::from_secs(5))
        // Whoever signs for gossipsub too must have done it right; nobody has to.
        .validation_mode(ValidationMode::Permissive)
        .validate_messages()
        // After a restart, honest peers bring what this node had published before. gossipsub would
        // take that for forgery and graylist them; we only ignore it.
        .allow_self_origin(true)
        .message_id_fn(message_id);
    // Above this a message is refused and its sender known; above the transmit size, of which it
    // leaves most of the headroom, the stream is closed.
    for topic in Topic::ALL.into_iter().filter(|t| t.channel() == channel) {
        settings.max_transmit_size_for_topic(max_message + FRAME, topic.hash());
    }
    settings.build()
}

fn message_id(message: &gossipsub::Message) -> MessageId {
    MessageId::new(&id_of(&message.topic, message.source.as_ref(), &message.data))
}

/// The first 20 bytes of `BLAKE3(topic, author, data)`. The sequence number is nobody's word, for it is
/// not signed; the data is all of the message, its author's signature with it.
pub(crate) fn id_of(
    topic: &TopicHash,
    author: Option<&PeerId>,
    data: &[u8],
) -> [u8; MESSAGE_ID_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(topic.as_str().as_bytes());
    if let Some(author) = author {
        hasher.update(&author.to_bytes());
    }
    hasher.update(data);
    let mut id = [0; MESSAGE_ID_BYTES];
    hasher.finalize_xof().fill(&mut id);
    id
}

fn thresholds() -> PeerScoreThresholds {
    PeerScoreThresholds {
        gossip_threshold: THRESHOLDS.gossip,
        publish_threshold: THRESHOLDS.publish,
        graylist_threshold: THRESHOLDS.graylist,
        accept_px_threshold: TOPIC_CAP,
        opportunistic_graft_threshold: 1.0,
    }
}

/// What is expected of a topic.
#[derive(Clone, Copy, Debug)]
struct Expected {
    /// Messages a second in the whole network.
    messages: f64,
}

/// What each topic is expected to carry, from which its score parameters follow. `video` counts
/// announcements and the chunks of a few live streams, `bft` the votes of some tens of validators a
/// block of three seconds.
fn expected(topic: Topic) -> Expected {
    let messages = match topic {
        Topic::Recipes | Topic::Challenges => 1.0,
        Topic::Tasks => 2.0,
        Topic::Attestations => 5.0,
        Topic::Video => 10.0,
        Topic::Bft => 20.0,
    };
    Expected { messages }
}

/// How often gossipsub lets its counters decay.
const DECAY_INTERVAL: Duration = Duration::from_secs(1);

/// Over how long first deliveries are remembered.
const DELIVERY_DECAY: Duration = Duration::from_secs(300);

/// What a counter settles at that grows by `rate` a second and decays by `decay` every second.
fn settles_at(rate: f64, decay: f64) -> f64 {
    rate * DECAY_INTERVAL.as_secs_f64() / (1.0 - decay)
}

/// What a behaviour makes of what peers do. The application score is added with weight 1.
fn scoring(channel: Channel, config: &Config, policy: AddressPolicy) -> PeerScoreParams {
    PeerScoreParams {
        topics: Topic::ALL
            .into_iter()
            .filter(|t| t.channel() == channel)
            .map(|t| (t.hash(), topic_scoring(t, config)))
            .collect(),
        topic_score_cap: TOPIC_CAP,
        app_specific_weight: 1.0,
        // All nodes of a dev chain share an IP.
        ip_colocation_factor_weight: match policy {
            AddressPolicy::Global => -5.0,
            AddressPolicy::Any => 0.0,
        },
        ip_colocation_factor_threshold: 10.0,
        // What is counted is each message that a peer offered, was asked for and did not send within
        // 3 s, and each GRAFT too early. An honest peer that is asked for all it offered, by one that
        // just joined, sends what its queue holds and drops the rest: up to `ids` in a heartbeat,
        // once. So that many are free, and half as many again. A liar offers as many in each
        // heartbeat, and is 2,500 above in the second: -0.00002 * 2,500^2 = -125.
        behaviour_penalty_threshold: 1.5 * as_f64(ControlLimits::OURS.ids),
        behaviour_penalty_weight: -0.000_02,
        behaviour_penalty_decay: score_parameter_decay(INVALID_DECAY),
        // The same burst costs whoever asked: messages that found its queue full. It is no wrong to
        // be slow, so only who takes nothing for seconds at a high rate is affected, and is only
        // taken out of the meshes: at 1,000 messages a second dropped for a peer, the counter
        // settles at 10,000, which costs 25 points; at fewer than 500, nothing.
        slow_peer_threshold: as_f64(ControlLimits::OURS.ids),
        slow_peer_weight: -0.005,
        slow_peer_decay: 0.9,
        decay_interval: DECAY_INTERVAL,
        decay_to_zero: 0.01,
        // Our own ledger remembers faults, and longer; what is kept here is memory for each peer that
        // ever came and went.
        retain_score: Duration::from_secs(60),
        ..PeerScoreParams::default()
    }
}

/// What a topic adds to a peer's score, before the cap. The parts are those of the gossipsub v1.1
/// specification, "The Score Function".
///
/// - P1, time in the mesh: 1 after five minutes.
/// - P2, being first with a message: a mesh peer that is first with its share of the expected rate
///   (one in `mesh`) has 1; the cap holds it there at any higher rate.
/// - P3, deliveries in the mesh, is off. It expects a rate of each peer, and what a peer can
///   deliver depends on what authors send: with half of the expected traffic, or none, every honest
///   peer would be in deficit, by its square.
/// - P4, bad messages, by the square: four of them at most graylist a peer on any topic, and one is
///   forgiven. It does not depend on the rate, since an honest peer sends none at any.
fn topic_scoring(topic: Topic, config: &Config) -> TopicScoreParams {
    let delivery_decay = score_parameter_decay(DELIVERY_DECAY);
    let share = expected(topic).messages / as_f64(config.mesh);
    let first = settles_at(share, delivery_decay);
    TopicScoreParams {
        topic_weight: topic.weight(),
        time_in_mesh_weight: 1.0 / 300.0,
        time_in_mesh_quantum: Duration::from_secs(1),
        time_in_mesh_cap: 300.0,
        first_message_deliveries_weight: 1.0 / first,
        first_message_deliveries_decay: delivery_decay,
        first_message_deliveries_cap: first,
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        invalid_message_deliveries_weight: -10.0,
        invalid_message_deliveries_decay: score_parameter_decay(INVALID_DECAY),
        ..TopicScoreParams::default()
    }
}

fn as_f64(n: usize) -> f64 {
    u32::try_from(n).map_or(f64::MAX, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gossip::ledger;
    use proptest::prelude::*;

    fn identity() -> Identity {
        Identity::from_secret([3; 32]).unwrap()
    }

    #[test]
    fn both_behaviours_can_be_built() {
        let protocols = Protocols::new(&[1; 32]);
        for channel in [Channel::Control, Channel::Bulk] {
            for policy in [AddressPolicy::Global, AddressPolicy::Any] {
                let behaviour = behaviour(
                    channel,
                    &Config::default(),
                    policy,
                    &protocols,
                    &identity(),
                    &Metrics::unregistered().unwrap(),
                    ControlLimits::OURS,
                )
                .unwrap();
                let wanted = Topic::ALL.into_iter().filter(|t| t.channel() == channel).count();
                assert_eq!(behaviour.inner().topics().count(), wanted);
            }
        }
    }

    #[test]
    fn sizes_and_flooding_are_per_channel() {
        let protocols = Protocols::new(&[1; 32]);
        let config = Config::default();
        let control = settings(Channel::Control, &config, &protocols, ControlLimits::OURS).unwrap();
        assert!(control.flood_publish());
        assert!(control.max_transmit_size() >= (1 << 20) + HEADROOM);
        assert!(control.max_control_message_size() < control.max_transmit_size());
        assert!(control.validate_messages());
        let bulk = settings(Channel::Bulk, &config, &protocols, ControlLimits::OURS).unwrap();
        assert!(!bulk.flood_publish());
        assert!(bulk.max_transmit_size() >= (16 << 20) + HEADROOM);
        assert_eq!(bulk.connection_handler_queue_len(), config.bulk_queue);
    }

    #[test]
    fn gossipsubs_own_limits_let_an_honest_ihave_close_streams_and_ours_do_not() {
        let defaults = gossipsub::Config::default();
        let theirs = ControlLimits {
            ids: defaults.max_control_messages_sent(),
            bytes: defaults.max_control_message_size(),
        };
        assert!(!theirs.consistent());
        assert!(ControlLimits::OURS.consistent());
        assert_eq!(defaults.history_gossip(), GOSSIPED_HEARTBEATS);
    }

    /// gossipsub's counters of one peer, as `PeerScore` of its version 0.50 keeps and weighs them.
    #[derive(Default)]
    struct Counters {
        in_mesh: f64,
        first: f64,
        invalid: f64,
    }

    impl Counters {
        fn decay(&mut self, params: &TopicScoreParams) {
            self.first *= params.first_message_deliveries_decay;
            self.invalid *= params.invalid_message_deliveries_decay;
        }

        fn score(&self, params: &TopicScoreParams) -> f64 {
            let first = self.first.min(params.first_message_deliveries_cap);
            let in_mesh = self.in_mesh.min(params.time_in_mesh_cap);
            params.topic_weight
                * (in_mesh * params.time_in_mesh_weight
                    + first * params.first_message_deliveries_weight
                    + self.invalid * self.invalid * params.invalid_message_deliveries_weight)
        }
    }

    #[test]
    fn a_mesh_peer_that_brings_its_share_has_the_whole_of_what_that_can_earn() {
        let config = Config::default();
        for topic in Topic::ALL {
            let params = topic_scoring(topic, &config);
            let mut counters = Counters::default();
            for _ in 0..1000 {
                counters.first += expected(topic).messages / 6.0;
                counters.decay(&params);
            }
            let earned = counters.score(&params) / topic.weight();
            assert!((0.95..=1.0).contains(&earned), "{topic}: {earned}");
        }
    }

    #[test]
    fn one_bad_message_is_forgiven() {
        for topic in Topic::ALL {
            let params = topic_scoring(topic, &Config::default());
            let counters = Counters { invalid: 1.0, ..Counters::default() };
            let score = counters.score(&params) + ledger::penalty(1.0);
            assert!(score > THRESHOLDS.publish, "{topic}: {score}");
        }
    }

    #[test]
    fn whoever_offers_what_it_does_not_have_is_graylisted_and_whoever_is_busy_once_is_not() {
        let params = scoring(Channel::Control, &Config::default(), AddressPolicy::Any);
        let score = |broken: f64| {
            let excess = (broken - params.behaviour_penalty_threshold).max(0.0);
            excess * excess * params.behaviour_penalty_weight
        };
        let ids = ControlLimits::OURS.ids as f64;
        assert_eq!(score(ids), 0.0);
        assert!(score(2.0 * ids * params.behaviour_penalty_decay) < THRESHOLDS.graylist);
    }

    #[test]
    fn who_takes_nothing_leaves_the_meshes_and_is_still_read() {
        let params = scoring(Channel::Control, &Config::default(), AddressPolicy::Any);
        let score = |rate| {
            let settled = settles_at(rate, params.slow_peer_decay);
            (settled - params.slow_peer_threshold).max(0.0) * params.slow_peer_weight
        };
        assert_eq!(score(450.0), 0.0);
        assert!(score(1_000.0) + TOPIC_CAP < 0.0);
        assert!(score(1_000.0) > THRESHOLDS.graylist);
        let burst = as_f64(ControlLimits::OURS.ids);
        assert!(burst <= params.slow_peer_threshold, "what one call for messages can drop is free");
    }

    proptest! {
        /// Idle or busy, in the mesh or not: while it sends nothing bad, nothing counts against it.
        #[test]
        fn an_honest_peer_never_goes_below_zero_at_any_rate(
            rates in prop::collection::vec(0.0f64..10.0, 1..400), in_mesh: bool,
        ) {
            for topic in Topic::ALL {
                let params = topic_scoring(topic, &Config::default());
                let mut counters = Counters::default();
                for rate in &rates {
                    counters.in_mesh += f64::from(u8::from(in_mesh));
                    counters.first += rate * expected(topic).messages;
                    counters.decay(&params);
                    prop_assert!(counters.score(&params) >= 0.0);
                }
                prop_assert_eq!(params.mesh_message_deliveries_weight, 0.0);
                prop_assert_eq!(params.mesh_failure_penalty_weight, 0.0);
            }
        }

        /// However good it was before.
        #[test]
        fn a_flooder_is_graylisted_within_three_heartbeats(
            a_heartbeat in 2u32..1000, reputation in 0.0..=crate::gossip::score::SPAN,
        ) {
            for topic in Topic::ALL {
                let params = topic_scoring(topic, &Config::default());
                let mut counters = Counters { in_mesh: 300.0, first: 1e9, ..Counters::default() };
                let mut faults = 0.0f64;
                for _ in 0..3 {
                    counters.invalid += f64::from(a_heartbeat);
                    faults = (faults + f64::from(a_heartbeat)).min(ledger::MOST);
                    counters.decay(&params);
                }
                let score = counters.score(&params).min(TOPIC_CAP)
                    + ledger::penalty(faults) + reputation;
                prop_assert!(score < THRESHOLDS.graylist, "{}: {}", topic, score);
            }
        }
    }

    #[test]
    fn message_ids_are_short_and_differ_by_topic_author_and_data_alone() {
        let message = |topic: Topic, secret: u8, data: &[u8], number: u64| gossipsub::Message {
            source: Some(Identity::from_secret([secret; 32]).unwrap().peer_id()),
            data: data.to_vec(),
            sequence_number: Some(number),
            topic: topic.hash(),
        };
        let id = |m| message_id(&m).0;
        let first = id(message(Topic::Bft, 1, b"a", 1));
        assert_eq!(first.len(), 20);
        assert_eq!(first, id(message(Topic::Bft, 1, b"a", 2)));
        assert_ne!(first, id(message(Topic::Tasks, 1, b"a", 1)));
        assert_ne!(first, id(message(Topic::Bft, 2, b"a", 1)));
        assert_ne!(first, id(message(Topic::Bft, 1, b"b", 1)));
    }
}
