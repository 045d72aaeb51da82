//! Every reason for which gossip is refused, raised through the wire, and what it costs whom.

use crate::raw::{Forged, Raw};
use libp2p::identity::Keypair;
use nsn_p2p::{
    Config, Identity, Standing,
    gossip::{Envelope, Topic},
    testnet::{self, Node, StaticReputation, Testnet},
};
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

const TASKS: &str = "/nsn/tasks/1.0.0";
const DUPLICATES: &str = "nsn_p2p_gossipsub_duplicates_total{topic=\"tasks\"}";
const DELIVERED: &str = "nsn_p2p_gossipsub_messages_sent_total{topic=\"tasks\"}";

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().try_into().unwrap()
}

fn keypair(secret: u8) -> Keypair {
    Keypair::ed25519_from_bytes([secret; 32]).unwrap()
}

fn key(secret: u8) -> nsn_p2p::OverlayKey {
    Identity::from_secret([secret; 32]).unwrap().key()
}

/// A valid message, each number another.
fn valid(author: u8, number: u64) -> Forged {
    on(TASKS, author, number)
}

fn on(topic: &'static str, author: u8, number: u64) -> Forged {
    let envelope = Envelope::new(number.to_be_bytes().to_vec(), now_ms(), 60_000);
    Forged::new(&keypair(author), topic, number, &envelope)
}

fn refused(topic: &str, reason: &str) -> &'static str {
    let metric = "nsn_p2p_gossipsub_messages_refused_total";
    format!("{metric}{{reason=\"{reason}\",topic=\"{topic}\"}}").leak()
}

/// A node with key 1 that is connected to a peer with key 2.
async fn node_and_raw(tweak: impl Fn(&mut Config)) -> (Node, Raw, Arc<StaticReputation>) {
    let mut config = testnet::config();
    tweak(&mut config);
    let chain = Arc::new(StaticReputation::default());
    let identity = Identity::from_secret([1; 32]).unwrap();
    let node = Node::start(config, identity, testnet::GENESIS, &chain).unwrap();
    let raw = Raw::start(&keypair(2)).await;
    assert_eq!(node.overlay.peers.connect(raw.addr.clone()).await, Ok(raw.peer_id));
    (node, raw, chain)
}

impl Raw {
    /// Writes messages on one stream.
    async fn send(&self, node: &Node, messages: &[Forged]) {
        self.write(node.peer_id(), messages.iter().flat_map(Forged::rpc).collect()).await;
    }
}

async fn score(node: &Node, raw: &Raw) -> f64 {
    node.overlay.gossip.peer(raw.peer_id).await.unwrap().score
}

#[tokio::test]
async fn what_the_sender_does_not_answer_for_is_ignored_with_its_reason() {
    let (node, raw, chain) = node_and_raw(|_| {}).await;
    chain.set(key(3), Some(Standing { seeder: 0, ..Standing::NEUTRAL }));
    let good = valid(2, 1);
    raw.send(
        &node,
        &[
            good.clone(),
            good.clone(),
            // The same under the next number.
            Forged { number: 2u64.to_be_bytes().to_vec(), ..good.clone() },
            valid(3, 3),
            // The node's own key.
            valid(1, 4),
            // Votes of a stranger, passed on: whether it is a validator, two nodes may see apart.
            on("/nsn/bft/1.0.0", 4, 5),
        ],
    )
    .await;
    for sample in [
        DUPLICATES,
        DELIVERED,
        refused("tasks", "replayed"),
        refused("tasks", "author_graylisted"),
        refused("tasks", "own_message"),
        refused("bft", "not_validator"),
    ] {
        node.wait_for_metric(sample, 1.0).await.unwrap();
        assert_eq!(node.metric(sample), 1.0, "{sample}");
    }
    assert!(score(&node, &raw).await >= 0.0);
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn what_the_sender_answers_for_costs_it_and_is_counted_by_its_reason() {
    let (good, other) = (valid(2, 1), valid(2, 2));
    let mut unsealed = other.data.clone();
    *unsealed.last_mut().unwrap() ^= 1;
    let large = vec![0; (1 << 20) + 2048];
    for (topic, reason, bad) in [
        ("tasks", "wrongly_signed", Forged { data: unsealed, ..other.clone() }),
        // Another's words under a third one's name.
        ("tasks", "wrongly_signed", Forged { author: keypair(3), ..other.clone() }),
        // Said on another topic.
        ("tasks", "wrongly_signed", Forged { topic: TASKS, ..on("/nsn/recipes/1.0.0", 2, 2) }),
        ("tasks", "unnumbered", Forged { number: vec![1, 2, 3], ..other.clone() }),
        ("tasks", "oversized", Forged { data: large, ..other.clone() }),
        ("tasks", "malformed", Forged { data: vec![1, 2, 3], ..other.clone() }),
        ("none", "unknown_topic", Forged { topic: "/nsn/rumours/1.0.0", ..other.clone() }),
        // A topic that the other behaviour carries is unknown to this one.
        ("none", "unknown_topic", Forged { topic: "/nsn/video/1.0.0", ..other.clone() }),
    ] {
        let (node, raw, _) = node_and_raw(|_| {}).await;
        raw.send(&node, &[bad, good.clone()]).await;
        let sample = refused(topic, reason);
        node.wait_for_metric(sample, 1.0).await.unwrap();
        node.wait_for_metric(DELIVERED, 1.0).await.unwrap();
        assert_eq!(node.metric(sample), 1.0, "{sample}");
        let told = node.overlay.gossip.peer(raw.peer_id).await.unwrap();
        assert!(told.score <= -9.0, "{reason}: {told:?}");
        assert!((0.9..=1.0).contains(&told.guilt), "{reason}: {told:?}");
        assert!(told.refused.iter().any(|r| r.reason == reason && r.count == 1), "{told:?}");
        node.stop().await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn an_unbound_author_has_an_allowance_and_a_bound_one_has_none() {
    let (node, raw, chain) = node_and_raw(|c| c.gossip.unbound_messages = 1).await;
    chain.set(key(3), Some(Standing::NEUTRAL));
    let of = |author, from| (from..from + 40).map(move |n| valid(author, n));
    // Sixteen seconds' worth is saved up; one or two more come in while it lasts.
    raw.send(&node, &of(2, 0).chain(of(3, 100)).collect::<Vec<_>>()).await;
    node.wait_for_metric(DELIVERED, 56.0).await.unwrap();
    node.wait_for_metric(refused("tasks", "allowance"), 20.0).await.unwrap();
    let delivered = node.metric(DELIVERED);
    assert_eq!(delivered + node.metric(refused("tasks", "allowance")), 80.0);
    assert!(delivered <= 60.0, "{delivered}");
    assert!(score(&node, &raw).await >= 0.0, "to send more than that is no fault");
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn more_than_can_be_validated_at_once_is_refused() {
    let (node, raw, chain) = node_and_raw(|c| c.gossip.validations = 1).await;
    chain.set(key(2), Some(Standing::NEUTRAL));
    let messages: Vec<_> = (0..200).map(|n| valid(2, n)).collect();
    raw.send(&node, &messages).await;
    node.wait_for_metric(refused("tasks", "overloaded"), 1.0).await.unwrap();
    assert!(score(&node, &raw).await >= 0.0);
    // And it goes on: what comes later is taken.
    let mut heard = node.overlay.gossip.subscribe(Topic::Tasks).unwrap();
    let mut n = 1000;
    let later = async {
        loop {
            raw.send(&node, &[valid(2, n)]).await;
            if tokio::time::timeout(Duration::from_secs(1), heard.recv()).await.is_ok() {
                break;
            }
            n += 1;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), later).await.unwrap();
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_too_large_for_a_stream_closes_it_and_five_streams_disable_the_handler() {
    let (node, raw, _) = node_and_raw(|_| {}).await;
    let reopened = "nsn_p2p_gossipsub_streams_reopened_total{channel=\"control\"}";
    let disabled = "nsn_p2p_gossipsub_handlers_disabled_total{channel=\"control\"}";
    // Says that it is 64 MiB long.
    raw.write(node.peer_id(), vec![0x80, 0x80, 0x80, 0x20, 0, 0, 0]).await;
    for n in 1..=3u8 {
        raw.send(&node, &[valid(2, n.into())]).await;
        node.wait_for_metric(reopened, n.into()).await.unwrap();
        node.wait_for_metric(DELIVERED, n.into()).await.unwrap();
    }
    assert_eq!(node.metric(disabled), 0.0);
    raw.write(node.peer_id(), vec![0]).await;
    node.wait_for_metric(disabled, 1.0).await.unwrap();
    node.stop().await.unwrap().unwrap();
}

/// A flood of garbage at one node of five, with the best reputation there is.
#[tokio::test]
async fn a_flooder_is_graylisted_within_three_heartbeats_and_coming_back_does_not_help() {
    let heartbeat = Duration::from_secs(1);
    let net = Testnet::start(5, |c| c.gossip.heartbeat = heartbeat).await.unwrap();
    let best = Standing { total: 1000, director: 1000, validator: 1000, seeder: 1000 };
    for node in &net.nodes {
        net.reputation.set(node.identity.key(), Some(Standing::NEUTRAL));
    }
    net.reputation.set(key(50), Some(best));
    let mut raw = Raw::start(&keypair(50)).await;
    let victim = &net.nodes[0];
    let heard: Vec<_> = net.nodes[1..]
        .iter()
        .map(|node| node.overlay.gossip.subscribe(Topic::Tasks).unwrap())
        .collect();
    assert_eq!(victim.overlay.peers.connect(raw.addr.clone()).await, Ok(raw.peer_id));
    assert!(score(victim, &raw).await > 0.0);

    let garbage = |from: u64| -> Vec<_> {
        let garbage = |n: u64| [vec![1], n.to_be_bytes().to_vec()].concat();
        (from..from + 300).map(|n| Forged { data: garbage(n), ..valid(50, n) }).collect()
    };
    let begun = Instant::now();
    raw.send(victim, &garbage(0)).await;
    for n in 0..50u64 {
        victim.overlay.gossip.publish(Topic::Tasks, n.to_be_bytes().to_vec()).await.unwrap();
    }
    while score(victim, &raw).await >= -80.0 {
        assert!(begun.elapsed() < 3 * heartbeat);
        tokio::task::yield_now().await;
    }
    for mut listener in heard {
        let mut numbers = Vec::new();
        while numbers.len() < 50 {
            let payload = listener.recv().await.unwrap().payload;
            numbers.push(u64::from_be_bytes(payload[..].try_into().unwrap()));
        }
        numbers.sort_unstable();
        assert_eq!(numbers, (0..50).collect::<Vec<_>>(), "every honest message arrives, once");
    }

    // It leaves, and comes back under the same key.
    let peer = raw.peer_id;
    drop(raw);
    let gone = || async { !victim.overlay.gossip.peer(peer).await.unwrap().connected };
    while !gone().await {
        tokio::task::yield_now().await;
    }
    raw = Raw::start(&keypair(50)).await;
    assert_eq!(victim.overlay.peers.connect(raw.addr.clone()).await, Ok(peer));
    let told = victim.overlay.gossip.peer(peer).await.unwrap();
    assert!(told.connected && told.application.total < -80.0, "{told:?}");
    assert!(told.words.iter().any(|w| w.contains("nothing it sends is read")), "{told:?}");
    let unread = refused("tasks", "sender_graylisted");
    let before = (victim.metric(unread), victim.metric(refused("tasks", "malformed")));
    raw.send(victim, &garbage(1000)).await;
    victim.wait_for_metric(unread, before.0 + 300.0).await.unwrap();
    assert_eq!(victim.metric(refused("tasks", "malformed")), before.1);
    net.stop().await.unwrap();
}

/// Six bound nodes and one unbound, which may have no place.
#[tokio::test]
async fn an_unbound_peer_without_a_place_hears_and_is_heard() {
    let net = Testnet::start(7, |c| {
        c.gossip.mesh = 4;
        c.gossip.unbound_mesh = 0;
    })
    .await
    .unwrap();
    for node in &net.nodes[..6] {
        net.reputation.set(node.identity.key(), Some(Standing::NEUTRAL));
    }
    let (bound, unbound) = (&net.nodes[0], &net.nodes[6]);
    loop {
        let told = bound.overlay.gossip.peer(unbound.peer_id()).await.unwrap();
        if told.application.not_admitted.is_some() && told.meshes.is_empty() {
            assert!(told.score < 0.0 && told.score > told.thresholds.gossip, "{told:?}");
            assert!(told.words.iter().any(|w| w.contains("unbound peers hold")), "{told:?}");
            break;
        }
        tokio::task::yield_now().await;
    }
    let waiting = "nsn_p2p_gossipsub_peers_not_admitted{reason=\"unbound\"}";
    bound.wait_for_metric(waiting, 1.0).await.unwrap();
    for (speaker, listener) in [(bound, unbound), (unbound, bound)] {
        let mut heard = listener.overlay.gossip.subscribe(Topic::Tasks).unwrap();
        speaker.overlay.gossip.publish(Topic::Tasks, b"hello".to_vec()).await.unwrap();
        assert_eq!(heard.recv().await.unwrap().author, speaker.peer_id());
    }
    net.stop().await.unwrap();
}
