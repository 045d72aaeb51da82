//! The directory between honest nodes.

use nsn_p2p::{
    Identity,
    dht::{Announced, Class, Key, ProvideError},
    testnet::{self, Node, Testnet},
};
use std::sync::Arc;

#[tokio::test]
async fn what_one_node_provides_others_find_even_after_it_has_gone() {
    // What was found is not remembered, so that it is really asked for again.
    let mut net = Testnet::start(4, |config| config.dht.cache = 0).await.unwrap();
    let key = Key::shard(&[1; 32]);
    let publisher = net.nodes[1].peer_id();
    let dht = &net.nodes[1].overlay.dht;
    assert_eq!(dht.announced(key).await, Err(ProvideError::NotProvided));
    assert_eq!(dht.provide(key, Class::Kept).await, Ok(Announced::Pending));
    assert_eq!(dht.announced(key).await, Ok(Announced::Yes));
    assert_eq!(dht.provide(key, Class::Kept).await, Ok(Announced::Yes));
    assert_eq!(net.nodes[1].metric("nsn_p2p_kademlia_provider_records_published"), 1.0);
    for node in &net.nodes {
        let found = node.overlay.dht.find_providers(key, 1).await.unwrap();
        assert_eq!(found, [publisher], "the publisher itself included");
    }
    net.nodes.remove(1).stop().await.unwrap().unwrap();
    for node in &net.nodes {
        assert_eq!(node.overlay.dht.find_providers(key, 1).await.unwrap(), [publisher]);
    }
    net.stop().await.unwrap();
}

#[tokio::test]
async fn many_providers_are_gathered_and_what_nobody_provides_is_not_found() {
    let net = Testnet::start(4, |_| {}).await.unwrap();
    let key = Key::content(&[2; 32]);
    for node in &net.nodes[1..] {
        node.overlay.dht.provide(key, Class::Kept).await.unwrap();
        assert_eq!(node.overlay.dht.announced(key).await, Ok(Announced::Yes));
    }
    let mut found = net.nodes[0].overlay.dht.find_providers(key, 3).await.unwrap();
    found.sort();
    let mut wanted: Vec<_> = net.nodes[1..].iter().map(Node::peer_id).collect();
    wanted.sort();
    assert_eq!(found, wanted);
    let nothing = net.nodes[0].overlay.dht.find_providers(Key::shard(&[2; 32]), 3).await;
    assert_eq!(nothing, Ok(vec![]), "a shard is no content");
    net.stop().await.unwrap();
}

#[tokio::test]
async fn a_key_provided_before_there_are_peers_is_announced_when_they_appear() {
    let chain = Arc::default();
    let identity = |n| Identity::from_secret([n; 32]).unwrap();
    let first = Node::start(testnet::config(), identity(1), testnet::GENESIS, &chain).unwrap();
    let key = Key::shard(&[3; 32]);
    assert_eq!(first.overlay.dht.provide(key, Class::Kept).await, Ok(Announced::Pending));
    assert_eq!(first.overlay.dht.find_providers(key, 1).await, Ok(vec![first.peer_id()]));
    assert_eq!(first.overlay.dht.status().await.unwrap().unannounced, 1);

    let mut config = testnet::config();
    config.bootstrap.bootnodes = vec![first.address().await.unwrap()];
    let second = Node::start(config, identity(2), testnet::GENESIS, &chain).unwrap();
    first.wait_for_metric("nsn_p2p_kademlia_provider_records_published", 1.0).await.unwrap();
    second.wait_for_metric("nsn_p2p_kademlia_records_held", 1.0).await.unwrap();
    assert_eq!(first.overlay.dht.status().await.unwrap().unannounced, 0);
    // It is the second node that answers now.
    let publisher = first.peer_id();
    first.stop().await.unwrap().unwrap();
    assert_eq!(second.overlay.dht.find_providers(key, 1).await, Ok(vec![publisher]));
    second.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_hundred_keys_are_provided_and_found() {
    let net = Testnet::start(3, |_| {}).await.unwrap();
    let keys: Vec<Key> = (0..100u8).map(|n| Key::shard(&[n; 32])).collect();
    for key in &keys {
        net.nodes[1].overlay.dht.provide(*key, Class::Cached).await.unwrap();
    }
    let provide = keys.iter().map(|key| net.nodes[1].overlay.dht.announced(*key));
    for announced in futures::future::join_all(provide).await {
        assert_eq!(announced, Ok(Announced::Yes));
    }
    let find = keys.iter().map(|key| net.nodes[2].overlay.dht.find_providers(*key, 1));
    for found in futures::future::join_all(find).await {
        assert_eq!(found, Ok(vec![net.nodes[1].peer_id()]));
    }
    assert_eq!(net.nodes[1].overlay.dht.status().await.unwrap().provided, 100);
    assert_eq!(net.nodes[1].overlay.dht.stop_providing(keys[0]).await, Ok(true));
    assert_eq!(net.nodes[1].overlay.dht.stop_providing(keys[0]).await, Ok(false));
    assert_eq!(net.nodes[1].overlay.dht.status().await.unwrap().provided, 99);
    net.stop().await.unwrap();
}
