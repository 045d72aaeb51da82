//! What the directory keeps over a restart.

use crate::teller::{Teller, names};
use nsn_p2p::{
    Config, Identity,
    testnet::{self, Node},
};
use std::{fs, path::Path, sync::Arc, time::Duration};

const WRITTEN: &str = "nsn_p2p_kademlia_disk_batches_total";

fn start(secret: u8, folder: &Path, tweak: impl Fn(&mut Config)) -> Node {
    let mut config = Config { dir: Some(folder.to_owned()), ..testnet::config() };
    config.dht.save_every = Duration::from_millis(100);
    tweak(&mut config);
    let identity = Identity::from_secret([secret; 32]).unwrap();
    Node::start(config, identity, testnet::GENESIS, &Arc::default()).unwrap()
}

fn keys(n: u8) -> impl Iterator<Item = [u8; 32]> {
    (0..n).map(|n| [n; 32])
}

/// Whether a node names the provider of a key to somebody else.
async fn tells(node: &Node, key: [u8; 32], provider: &Teller) -> bool {
    let mut asks = Teller::connect(99, node.address().await.unwrap()).await;
    names(&asks.tell(&[], &key).await, &provider.peer_id.to_bytes())
}

#[tokio::test]
async fn records_held_for_others_are_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(1, dir.path(), |_| {});
    let mut teller = Teller::connect(2, node.address().await.unwrap()).await;
    teller.provide(keys(50)).await;
    node.wait_for_metric(WRITTEN, 1.0).await.unwrap();
    // What comes after the last batch is written at the end.
    teller.provide([[200; 32]]).await;
    node.stop().await.unwrap().unwrap();

    let node = start(1, dir.path(), |_| {});
    assert!(tells(&node, [7; 32], &teller).await && tells(&node, [200; 32], &teller).await);
    assert_eq!(node.overlay.dht.status().await.unwrap().records, 51);
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn what_expires_while_the_node_is_down_is_not_there_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let short = |config: &mut Config| {
        config.dht.record_ttl = Duration::from_secs(2);
        config.dht.renew_after = Duration::from_secs(1);
        config.dht.sweep.renew_ahead = Duration::from_millis(500);
    };
    let node = start(1, dir.path(), short);
    let mut teller = Teller::connect(2, node.address().await.unwrap()).await;
    teller.provide(keys(5)).await;
    node.stop().await.unwrap().unwrap();
    // Real time has to pass: what is on disk has the clock's.
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let node = start(1, dir.path(), short);
    node.address().await.unwrap();
    assert_eq!(node.overlay.dht.status().await.unwrap().records, 0);
    assert_eq!(node.metric("nsn_p2p_kademlia_disk_dropped_total{reason=\"expired\"}"), 5.0);
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn records_that_would_live_too_long_are_cut_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(1, dir.path(), |_| {});
    let mut teller = Teller::connect(2, node.address().await.unwrap()).await;
    teller.provide(keys(5)).await;
    node.stop().await.unwrap().unwrap();
    // As if the clock had been a day ahead when they were written.
    let node = start(1, dir.path(), |config| {
        config.dht.record_ttl = Duration::from_secs(60);
        config.dht.renew_after = Duration::from_secs(30);
        config.dht.sweep.renew_ahead = Duration::from_secs(10);
    });
    node.address().await.unwrap();
    assert_eq!(node.overlay.dht.status().await.unwrap().records, 5);
    assert_eq!(node.metric("nsn_p2p_kademlia_disk_clamped_total"), 5.0);
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_file_that_is_garbage_is_put_aside_and_the_node_runs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("directory.redb");
    fs::write(&path, [0xa5; 10_000]).unwrap();
    let node = start(1, dir.path(), |_| {});
    let mut teller = Teller::connect(2, node.address().await.unwrap()).await;
    assert!(path.with_extension("bad").exists());
    teller.provide(keys(5)).await;
    node.stop().await.unwrap().unwrap();
    let node = start(1, dir.path(), |_| {});
    assert!(tells(&node, [3; 32], &teller).await);
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn peers_of_the_table_are_found_again_without_bootnode_and_book() {
    let (dir, chain) = (tempfile::tempdir().unwrap(), Arc::default());
    let other = |secret| {
        let identity = Identity::from_secret([secret; 32]).unwrap();
        Node::start(testnet::config(), identity, testnet::GENESIS, &chain).unwrap()
    };
    let others = [other(2), other(3)];
    let bootnodes = [others[0].address().await.unwrap(), others[1].address().await.unwrap()];
    let node = start(1, dir.path(), |config| config.bootstrap.bootnodes = bootnodes.to_vec());
    for node in others.iter().chain([&node]) {
        node.wait_for("all", |c| c.connected == 2 && c.routing_table == 2).await.unwrap();
    }
    node.stop().await.unwrap().unwrap();
    fs::remove_file(dir.path().join("peers.json")).unwrap();
    for other in &others {
        other.wait_for("the node to be gone", |c| c.connected == 1).await.unwrap();
    }

    let node = start(1, dir.path(), |_| {});
    node.wait_for("the others again", |c| c.routing_table == 2).await.unwrap();
    let reached = "nsn_p2p_kademlia_routing_checks_total{kind=\"kept\",outcome=\"reached\"}";
    assert!(node.metric(reached) >= 1.0, "one may have told of the other first");
    node.stop().await.unwrap().unwrap();
    for other in others {
        other.stop().await.unwrap().unwrap();
    }
}
