//! The sweep through the wire: what one node provides, its peers are told in batches.

use futures::future::join_all;
use nsn_p2p::{
    Config, Identity,
    dht::{Announced, Class, Key},
    testnet::{self, Node, StaticReputation, Testnet},
};
use prometheus_endpoint::{Registry, prometheus::TextEncoder};
use std::{path::Path, sync::Arc, time::Duration};

const PUBLISHED: &str = "nsn_p2p_kademlia_provider_records_published";
const RECORDS: &str = "nsn_p2p_kademlia_sweep_records_total";
const READ_BACK: &str = "nsn_p2p_kademlia_sweep_read_backs_total{outcome=\"kept\"}";
const MISSING: &str = "nsn_p2p_kademlia_sweep_tells_total{outcome=\"missing\"}";
const KEPT: &str = "nsn_p2p_kademlia_sweep_tells_total{outcome=\"kept\"}";

fn keys(count: u32) -> Vec<Key> {
    let id = |n: u32| [&n.to_le_bytes()[..], &[7; 28]].concat().try_into().unwrap();
    (0..count).map(|n| Key::shard(&id(n))).collect()
}

async fn provide(node: &Node, keys: &[Key]) {
    for key in keys {
        node.overlay.dht.provide(*key, Class::Kept).await.unwrap();
    }
}

/// Provides the keys and waits until each was announced.
async fn announce(node: &Node, keys: &[Key]) {
    provide(node, keys).await;
    let announced = keys.iter().map(|key| node.overlay.dht.announced(*key));
    for announced in join_all(announced).await {
        assert_eq!(announced, Ok(Announced::Yes));
    }
}

/// How many of the keys a node finds just this provider of.
async fn found(node: &Node, keys: &[Key], provider: &Node) -> usize {
    let found = keys.iter().map(|key| node.overlay.dht.find_providers(*key, 1));
    let found = join_all(found).await;
    let wanted = Ok(vec![provider.peer_id()]);
    let others: Vec<_> = found.iter().filter(|found| **found != wanted).collect();
    let failed =
        ["unreachable", "timeout", "unsupported", "broken", "malformed", "busy"].map(|why| {
            let metric = "nsn_p2p_kademlia_questions_failed_total";
            (why, node.metric(&format!("{metric}{{reason=\"{why}\"}}")))
        });
    assert!(others.is_empty(), "{} of {}, {failed:?}: {others:?}", others.len(), keys.len());
    found.len()
}

#[tokio::test]
async fn five_hundred_keys_are_told_in_batches_and_found_once_their_publisher_is_gone() {
    let collect = |config: &mut Config| config.dht.sweep.collect = Duration::from_secs(2);
    let mut net = Testnet::start(20, collect).await.unwrap();
    let publisher = net.nodes.remove(1);
    let keys = keys(500);
    announce(&publisher, &keys).await;
    // A key counts as announced once most of its peers have it; the others are told as well.
    publisher.wait_for_metric(RECORDS, 19.0 * 500.0).await.unwrap();
    publisher.wait_for_metric(READ_BACK, 3.0).await.unwrap();
    let status = publisher.overlay.dht.status().await.unwrap();
    assert_eq!((status.provided, status.unannounced), (500, 0));
    assert_eq!((status.sweep.network_size, status.sweep.done.announced), (Some(19), 500));
    let done = status.sweep.done;
    assert!(done.lookups <= 2, "{} lookups", done.lookups);
    assert_eq!(done.records, 19 * 500);
    // 10 for each peer, and a few more where the last keys came a moment later.
    assert!(done.tells <= 19 * 11, "{} batches", done.tells);
    assert_eq!(publisher.metric(MISSING), 0.0);
    let id = publisher.peer_id();
    publisher.stop().await.unwrap().unwrap();
    let reader = &net.nodes[7];
    let lookups = keys.iter().map(|key| reader.overlay.dht.find_providers(*key, 1));
    for found in join_all(lookups).await {
        assert_eq!(found, Ok(vec![id]));
    }
    net.stop().await.unwrap();
}

#[tokio::test]
async fn a_peer_that_takes_nothing_is_found_out_and_the_others_suffice() {
    let chain = Arc::new(StaticReputation::default());
    let start = |n: u8, config: Config| {
        Node::start(config, Identity::from_secret([n; 32]).unwrap(), testnet::GENESIS, &chain)
    };
    let publisher = start(1, testnet::config()).unwrap();
    let mut nodes = Vec::new();
    for n in 2..6 {
        let mut config = testnet::config();
        config.bootstrap.bootnodes = vec![publisher.address().await.unwrap()];
        // A hundred lookups at once of four peers, on a busy machine: nobody is late so soon.
        config.dht.min_patience = Duration::from_secs(2);
        if n == 2 {
            config.dht.store.per_provider = 1;
        }
        nodes.push(start(n, config).unwrap());
    }
    publisher.wait_for("all peers", |c| c.routing_table == 4).await.unwrap();
    let keys = keys(100);
    announce(&publisher, &keys).await;
    publisher.wait_for_metric(MISSING, 2.0).await.unwrap();
    assert!(publisher.metric(KEPT) >= 3.0, "one batch for each of the others");
    assert_eq!(publisher.metric(PUBLISHED), 100.0);
    let held = nodes[0].overlay.dht.status().await.unwrap().records;
    assert_eq!(held, 1);
    nodes[0].wait_for("all peers", |c| c.routing_table == 4).await.unwrap();
    assert_eq!(found(&nodes[0], &keys, &publisher).await, 100);
    for node in nodes {
        node.stop().await.unwrap().unwrap();
    }
    publisher.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_restart_in_the_middle_announces_nothing_twice_and_forgets_nothing() {
    let net = Testnet::start(4, |_| {}).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let bootnode = net.nodes[0].address().await.unwrap();
    let start = |folder: &Path| {
        let mut config = testnet::config();
        config.bootstrap.bootnodes = vec![bootnode.clone()];
        config.dir = Some(folder.to_owned());
        // Slow enough to be stopped in the middle: 1,600 records at 400 a second.
        config.dht.sweep.batch = 20;
        config.dht.sweep.peer_burst = 20;
        config.dht.sweep.peer_rate = 100;
        let identity = Identity::from_secret([99; 32]).unwrap();
        Node::start(config, identity, testnet::GENESIS, &net.reputation).unwrap()
    };
    let keys = keys(400);
    let node = start(folder.path());
    node.wait_for("all peers", |c| c.routing_table == 4).await.unwrap();
    provide(&node, &keys).await;
    node.wait_for_metric(PUBLISHED, 100.0).await.unwrap();
    let registry = node.registry.clone();
    node.stop().await.unwrap().unwrap();
    let before = published(&registry);
    assert!((100..400).contains(&before), "{before} announced before the restart");

    let node = start(folder.path());
    node.wait_for("all peers", |c| c.routing_table == 4).await.unwrap();
    let kept = node.overlay.dht.status().await.unwrap().sweep.unclaimed;
    assert_eq!(kept, 400, "nothing was forgotten");
    let provided = keys.iter().map(|key| node.overlay.dht.provide(*key, Class::Kept));
    let fresh = join_all(provided).await;
    let fresh = fresh.into_iter().filter(|announced| *announced == Ok(Announced::Yes)).count();
    assert_eq!(fresh, before);
    announce(&node, &keys).await;
    assert_eq!(published(&node.registry), 400 - before, "nothing was announced twice");
    assert_eq!(found(&net.nodes[2], &keys, &node).await, 400);
    node.stop().await.unwrap().unwrap();
    net.stop().await.unwrap();
}

fn published(registry: &Registry) -> usize {
    let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(PUBLISHED)?.trim().parse().ok());
    value.unwrap()
}

#[tokio::test]
async fn a_cached_key_that_left_for_another_is_answered_for_no_longer() {
    let net = Testnet::start(3, |config| config.dht.max_cached = 2).await.unwrap();
    let (node, keys) = (&net.nodes[1], keys(3));
    for key in &keys {
        node.overlay.dht.provide(*key, Class::Cached).await.unwrap();
    }
    assert_eq!(node.overlay.dht.find_providers(keys[0], 1).await, Ok(vec![]));
    for key in &keys[1..] {
        assert_eq!(node.overlay.dht.announced(*key).await, Ok(Announced::Yes));
        let found = node.overlay.dht.find_providers(*key, 1).await;
        assert_eq!(found, Ok(vec![node.peer_id()]));
    }
    node.wait_for_metric("nsn_p2p_kademlia_records_provided{class=\"cached\"}", 2.0).await.unwrap();
    assert_eq!(node.metric("nsn_p2p_kademlia_records_provided{class=\"kept\"}"), 0.0);
    net.stop().await.unwrap();
}

#[tokio::test]
async fn a_key_that_cannot_be_announced_is_visible() {
    let chain = Arc::new(StaticReputation::default());
    let mut config = testnet::config();
    config.dht.retry_base = Duration::from_millis(50);
    let identity = Identity::from_secret([1; 32]).unwrap();
    let node = Node::start(config, identity, testnet::GENESIS, &chain).unwrap();
    let key = keys(1)[0];
    node.overlay.dht.provide(key, Class::Kept).await.unwrap();
    assert_eq!(node.overlay.dht.announced(key).await, Ok(Announced::Pending));
    node.wait_for_metric("nsn_p2p_kademlia_sweep_failed_total", 3.0).await.unwrap();
    assert_eq!(node.metric("nsn_p2p_kademlia_records_unannounced"), 1.0);
    assert_eq!(node.overlay.dht.status().await.unwrap().sweep.unannounced, 1);
    node.stop().await.unwrap().unwrap();
}
