//! Who enters the routing table.

use nsn_p2p::{
    AddressPolicy, Config, Identity,
    testnet::{self, Node, StaticReputation},
};
use std::sync::Arc;

fn start(n: u8, chain: &Arc<StaticReputation>, tweak: impl Fn(&mut Config)) -> Node {
    let mut config = Config {
        listen: vec!["/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap()],
        ..testnet::config()
    };
    tweak(&mut config);
    let identity = Identity::from_secret([n; 32]).unwrap();
    Node::start(config, identity, testnet::GENESIS, chain).unwrap()
}

/// A node as `tweak` says, to which `count` nodes connect; waits until one is refused for `reason`,
/// and gives back the size of the table then.
async fn refuses(count: u8, reason: &str, tweak: impl Fn(&mut Config)) -> usize {
    let chain = Arc::default();
    let node = start(1, &chain, tweak);
    let addr = node.address().await.unwrap();
    let mut others = Vec::new();
    for n in 2..2 + count {
        let other = start(n, &chain, |_| {});
        other.overlay.peers.connect(addr.clone()).await.unwrap();
        others.push(other);
    }
    let sample = format!("nsn_p2p_kademlia_routing_refused_total{{reason=\"{reason}\"}}").leak();
    node.wait_for_metric(sample, 1.0).await.unwrap();
    let held = node.overlay.dht.status().await.unwrap().routing_table;
    for node in others.into_iter().chain([node]) {
        node.stop().await.unwrap().unwrap();
    }
    held
}

#[tokio::test]
async fn one_network_has_only_its_places_in_the_table() {
    let limit = |config: &mut Config| config.dht.max_group_in_table = Some(1);
    assert_eq!(refuses(2, "group_in_table", limit).await, 1);
}

#[tokio::test]
async fn one_network_has_fewer_places_in_a_bucket() {
    // Of six peers two are in the same bucket, whichever.
    let limit = |config: &mut Config| config.dht.max_group_in_bucket = Some(1);
    assert!(refuses(6, "group_in_bucket", limit).await < 6);
}

#[tokio::test]
async fn a_full_bucket_takes_nobody_else() {
    let small = |config: &mut Config| config.dht.replication = 1;
    assert!(refuses(6, "bucket_full", small).await < 6);
}

#[tokio::test]
async fn a_peer_without_an_address_for_this_network_is_not_handed_on() {
    let public = |config: &mut Config| {
        config.address_policy = AddressPolicy::Global;
        config.public_addrs = vec!["/ip4/8.8.8.8/tcp/9000".parse().unwrap()];
    };
    assert_eq!(refuses(1, "no_address", public).await, 0);
}
