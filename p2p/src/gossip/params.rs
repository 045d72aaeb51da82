//! Settings of the two gossipsub behaviours, and how they score what peers do.

use super::{
    Channel, Config, Topic, envelope,
    score::{THRESHOLDS, TOPIC_CAP},
};
use crate::{AddressPolicy, Identity, Protocols, RunError};
use libp2p::gossipsub::{
    self, MessageAuthenticity, MessageId, PeerScoreParams, PeerScoreThresholds, TopicScoreParams,
    ValidationMode, WhitelistSubscriptionFilter, score_parameter_decay,
};
use std::time::Duration;

/// One gossipsub behaviour that carries only known topics.
pub(crate) type Behaviour =
    gossipsub::Behaviour<gossipsub::IdentityTransform, WhitelistSubscriptionFilter>;

/// Bytes of a message id. IHAVE messages list ids, and a receiver closes the stream on more control
/// data than its limit, so short ids carry more messages a heartbeat.
const MESSAGE_ID_BYTES: usize = 20;

/// Most ids in one IHAVE or IWANT.
const MAX_IDS: usize = 5_000;

/// Most control data accepted in one RPC. gossipsub sends an IHAVE in one piece: 5,000 ids of 20
/// bytes and 2 of framing are 110,000 bytes, and 128 KiB leave 21,000 for the topic and the rest.
const MAX_CONTROL_BYTES: usize = 128 * 1024;
const _: () = assert!(MAX_IDS * (MESSAGE_ID_BYTES + 2) < MAX_CONTROL_BYTES);

/// Room above the largest payload: signature, key, source and topic take less than 1 KiB, but
/// messages within about 8 KiB of the limit can close streams.
const HEADROOM: usize = 16 * 1024;

/// For how long a bad message weighs on who sent it.
const INVALID_DECAY: Duration = Duration::from_secs(600);

/// The gossipsub behaviour of a channel, subscribed to all its topics.
pub(crate) fn behaviour(
    channel: Channel,
    config: &Config,
    policy: AddressPolicy,
    protocols: &Protocols,
    identity: &Identity,
) -> Result<Behaviour, RunError> {
    let setup = |error: String| RunError::Setup { what: "gossip", source: error.into() };
    let topics = || Topic::ALL.into_iter().filter(move |t| t.channel() == channel);
    let filter = WhitelistSubscriptionFilter(topics().map(Topic::hash).collect());
    let mut behaviour = gossipsub::Behaviour::new_with_subscription_filter(
        MessageAuthenticity::Signed(identity.keypair().clone()),
        settings(channel, config, protocols).map_err(|e| setup(e.to_string()))?,
        filter,
    )
    .map_err(|e| setup(e.to_owned()))?;
    behaviour.with_peer_score(scoring(channel, policy), thresholds()).map_err(setup)?;
    for topic in topics() {
        behaviour.subscribe(&topic.ident()).map_err(|e| setup(e.to_string()))?;
    }
    Ok(behaviour)
}

fn settings(
    channel: Channel,
    config: &Config,
    protocols: &Protocols,
) -> Result<gossipsub::Config, gossipsub::ConfigBuilderError> {
    let (prefix, max_payload, queue, flood) = match channel {
        Channel::Control => {
            (protocols.control(), config.control_max_payload, config.control_queue, true)
        }
        Channel::Bulk => (protocols.bulk(), config.bulk_max_payload, config.bulk_queue, false),
    };
    let max_message = max_payload + envelope::OVERHEAD + HEADROOM;
    gossipsub::ConfigBuilder::default()
        .protocol_id_prefix(prefix)
        .max_transmit_size(max_message.max(MAX_CONTROL_BYTES + HEADROOM))
        .max_control_message_size(MAX_CONTROL_BYTES)
        .max_control_messages_sent(MAX_IDS)
        .connection_handler_queue_len(queue)
        .flood_publish(flood)
        .mesh_n(config.mesh)
        .mesh_n_low(config.mesh_low)
        .mesh_n_high(config.mesh_high)
        .mesh_outbound_min(2)
        .heartbeat_interval(config.heartbeat)
        .heartbeat_initial_delay(config.heartbeat)
        .duplicate_cache_time(config.max_ttl + config.max_skew)
        // A large message takes longer to send than the second that gossipsub gives it.
        .publish_queue_duration(Duration::from_secs(10))
        .forward_queue_duration(Duration::from_secs(5))
        .validation_mode(ValidationMode::Strict)
        .validate_messages()
        .message_id_fn(message_id)
        .build()
}

/// The first 20 bytes of `BLAKE3(topic, source, sequence number)`.
fn message_id(message: &gossipsub::Message) -> MessageId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(message.topic.as_str().as_bytes());
    if let Some(source) = &message.source {
        hasher.update(&source.to_bytes());
    }
    hasher.update(&message.sequence_number.unwrap_or_default().to_be_bytes());
    let hash = hasher.finalize();
    MessageId::new(hash.as_bytes().get(..MESSAGE_ID_BYTES).unwrap_or_default())
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

/// What a behaviour makes of what peers do. The application score is added with weight 1.
fn scoring(channel: Channel, policy: AddressPolicy) -> PeerScoreParams {
    PeerScoreParams {
        topics: Topic::ALL
            .into_iter()
            .filter(|t| t.channel() == channel)
            .map(|t| (t.hash(), topic_scoring(t)))
            .collect(),
        topic_score_cap: TOPIC_CAP,
        app_specific_weight: 1.0,
        // All nodes of a dev chain share an IP.
        ip_colocation_factor_weight: match policy {
            AddressPolicy::Global => -5.0,
            AddressPolicy::Any => 0.0,
        },
        ip_colocation_factor_threshold: 10.0,
        // A broken promise or two happens to honest peers; the penalty is the square of what is
        // above the threshold.
        behaviour_penalty_weight: -10.0,
        behaviour_penalty_threshold: 6.0,
        behaviour_penalty_decay: score_parameter_decay(INVALID_DECAY),
        decay_interval: Duration::from_secs(1),
        decay_to_zero: 0.01,
        retain_score: Duration::from_secs(3600),
        ..PeerScoreParams::default()
    }
}

/// What a topic adds to a peer's score, before the cap.
///
/// Nothing is expected of a peer by rate (the mesh delivery parameters are off): with no traffic an
/// honest peer cannot deliver any, and the default parameters would graylist it for that. What
/// counts is time in the mesh, being first with a message, and, by the square, bad messages:
/// four of them at most graylist a peer on any topic (-10 * weight * n² against -80, less what it
/// earned).
fn topic_scoring(topic: Topic) -> TopicScoreParams {
    TopicScoreParams {
        topic_weight: topic.weight(),
        // 1 after five minutes.
        time_in_mesh_weight: 1.0 / 300.0,
        time_in_mesh_quantum: Duration::from_secs(1),
        time_in_mesh_cap: 300.0,
        // 1 at twenty messages in the last minutes.
        first_message_deliveries_weight: 0.05,
        first_message_deliveries_decay: score_parameter_decay(Duration::from_secs(300)),
        first_message_deliveries_cap: 20.0,
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        invalid_message_deliveries_weight: -10.0,
        invalid_message_deliveries_decay: score_parameter_decay(INVALID_DECAY),
        ..TopicScoreParams::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity::from_secret([3; 32]).unwrap()
    }

    #[test]
    fn both_behaviours_can_be_built() {
        let protocols = Protocols::new(&[1; 32]);
        for channel in [Channel::Control, Channel::Bulk] {
            for policy in [AddressPolicy::Global, AddressPolicy::Any] {
                let behaviour =
                    behaviour(channel, &Config::default(), policy, &protocols, &identity())
                        .unwrap();
                let wanted = Topic::ALL.into_iter().filter(|t| t.channel() == channel).count();
                assert_eq!(behaviour.topics().count(), wanted);
            }
        }
    }

    #[test]
    fn sizes_and_flooding_are_per_channel() {
        let protocols = Protocols::new(&[1; 32]);
        let config = Config::default();
        let control = settings(Channel::Control, &config, &protocols).unwrap();
        assert!(control.flood_publish());
        assert!(control.max_transmit_size() >= (1 << 20) + HEADROOM);
        assert!(control.max_control_message_size() < control.max_transmit_size());
        assert!(control.validate_messages());
        let bulk = settings(Channel::Bulk, &config, &protocols).unwrap();
        assert!(!bulk.flood_publish());
        assert!(bulk.max_transmit_size() >= (16 << 20) + HEADROOM);
        assert_eq!(bulk.connection_handler_queue_len(), config.bulk_queue);
    }

    /// An honest peer with no traffic: gossipsub's sum has only terms that are zero or positive.
    #[test]
    fn an_idle_honest_mesh_peer_never_goes_negative() {
        for topic in Topic::ALL {
            let params = topic_scoring(topic);
            assert_eq!(params.mesh_message_deliveries_weight, 0.0);
            assert_eq!(params.mesh_failure_penalty_weight, 0.0);
            for seconds in [0.0, 10.0, 1e6] {
                let in_mesh = f64::min(seconds, params.time_in_mesh_cap);
                let score = params.topic_weight * params.time_in_mesh_weight * in_mesh;
                assert!(score >= 0.0);
            }
        }
    }

    #[test]
    fn a_few_bad_messages_graylist_on_any_topic() {
        for topic in Topic::ALL {
            let params = topic_scoring(topic);
            let after = |n: f64| {
                let decayed = n * params.invalid_message_deliveries_decay.powi(3);
                params.topic_weight * params.invalid_message_deliveries_weight * decayed * decayed
            };
            assert!(after(3.0) + TOPIC_CAP < THRESHOLDS.publish);
            assert!(after(4.0) + TOPIC_CAP < THRESHOLDS.graylist, "{topic}");
            assert!(after(1.0) > THRESHOLDS.publish, "one mistake is forgiven");
        }
    }

    #[test]
    fn message_ids_are_short_and_differ_by_topic_source_and_number() {
        let message = |topic: Topic, secret: u8, number: u64| gossipsub::Message {
            source: Some(Identity::from_secret([secret; 32]).unwrap().peer_id()),
            data: vec![],
            sequence_number: Some(number),
            topic: topic.hash(),
        };
        let id = |m| message_id(&m).0;
        let first = id(message(Topic::Bft, 1, 1));
        assert_eq!(first.len(), 20);
        assert_eq!(first, id(message(Topic::Bft, 1, 1)));
        assert_ne!(first, id(message(Topic::Tasks, 1, 1)));
        assert_ne!(first, id(message(Topic::Bft, 2, 1)));
        assert_ne!(first, id(message(Topic::Bft, 1, 2)));
    }
}
