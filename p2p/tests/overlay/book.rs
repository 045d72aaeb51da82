//! The peer book: a node that comes back finds the network by what it wrote.

use nsn_p2p::{
    Config, Identity, Multiaddr, Standing,
    testnet::{self, Node, Testnet},
};
use std::{
    cell::Cell,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

fn identity(n: u8) -> Identity {
    Identity::from_secret([n; 32]).unwrap()
}

/// A configuration that keeps its state in a folder.
fn kept_in(folder: &Path) -> Config {
    Config { dir: Some(folder.to_owned()), ..testnet::config() }
}

/// A testnet whose nodes have folders of their own.
async fn net(count: u8, folder: &Path) -> (Testnet, Vec<PathBuf>) {
    let folders: Vec<PathBuf> = (0..count).map(|n| folder.join(n.to_string())).collect();
    let next = Cell::new(0);
    let net = Testnet::start(count, |config| {
        config.dir = Some(folders[next.replace(next.get() + 1)].clone());
    });
    (net.await.unwrap(), folders)
}

/// Waits until a node's book holds so many.
async fn wait_for_book(node: &Node, peers: f64) {
    node.wait_for_metric("nsn_p2p_book_peers", peers).await.unwrap();
}

#[tokio::test]
async fn a_node_comes_back_without_a_bootnode() {
    let dir = tempfile::tempdir().unwrap();
    let (mut net, folders) = net(5, dir.path()).await;
    wait_for_book(&net.nodes[3], 4.0).await;
    let identity = net.nodes[3].identity.clone();
    net.nodes.remove(3).stop().await.unwrap().unwrap();
    let bootnode = net.nodes.remove(0);
    let gone = bootnode.peer_id();
    bootnode.stop().await.unwrap().unwrap();
    for node in &net.nodes {
        node.wait_for("those that left to be gone", |c| c.connected == 2).await.unwrap();
    }

    let config = kept_in(&folders[3]);
    assert!(config.bootstrap.bootnodes.is_empty());
    let back = Node::start(config, identity, testnet::GENESIS, &net.reputation).unwrap();
    back.wait_for("the network", |c| c.connected == 3 && c.routing_table >= 3).await.unwrap();
    // Nobody knew where it would be, so it was its own doing.
    let peers = back.overlay.peers.list().await.unwrap();
    assert!(peers.iter().any(|peer| peer.direction == "outbound"), "{peers:?}");
    // What has gone is remembered, and that it failed.
    let known = back.overlay.peers.known(gone).await.unwrap();
    assert!(!known.connected);
    assert!(known.book.unwrap().failures > 0);
    for node in &net.nodes {
        let view = back.overlay.peers.known(node.peer_id()).await.unwrap();
        assert!(view.connected && view.book.is_some_and(|book| book.successes >= 2));
    }
    back.stop().await.unwrap().unwrap();
    net.stop().await.unwrap();
}

#[tokio::test]
async fn a_book_that_is_garbage_is_put_aside_and_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("peers.json");
    fs::write(&path, "{ \"peers\": [ garbage").unwrap();
    let chain = Arc::default();
    let other = Node::start(testnet::config(), identity(1), testnet::GENESIS, &chain).unwrap();
    let mut config = kept_in(dir.path());
    config.bootstrap.bootnodes = vec![other.address().await.unwrap()];
    let node = Node::start(config, identity(2), testnet::GENESIS, &chain).unwrap();
    wait_for_book(&node, 1.0).await;
    assert!(path.with_extension("bad").exists() && !path.exists());
    node.stop().await.unwrap().unwrap();
    let written = fs::read_to_string(&path).unwrap();
    assert!(written.contains(&other.peer_id().to_string()), "{written}");
    other.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn peers_of_the_file_that_cannot_be_right_are_dropped_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let peer = |peer: String, address: &str| {
        format!(
            r#"{{"peer":"{peer}","last_success_ms":1,"successes":1,"failures":0,
            "addresses":[{{"address":"{address}"}}]}}"#
        )
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let good = peer(identity(3).peer_id().to_string(), "/memory/77");
    let good =
        good.replace("\"last_success_ms\":1", &format!("\"last_success_ms\":{}", now.as_millis()));
    // An RSA key's PeerId, which libp2p's specification has as an example.
    let rsa = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N".to_owned();
    let peers = [
        "17".to_owned(),
        peer(rsa, "/memory/1"),
        peer(identity(2).peer_id().to_string(), "/memory/1"),
        peer(identity(1).peer_id().to_string(), "/ip4/0.0.0.0/tcp/1"),
        good.clone(),
        good.replace(&identity(3).peer_id().to_string(), &identity(4).peer_id().to_string()),
    ];
    fs::write(dir.path().join("peers.json"), format!("{{\"peers\":[{}]}}", peers.join(",")))
        .unwrap();
    let mut config = kept_in(dir.path());
    config.peers.book.peers = 1;
    let node = Node::start(config, identity(2), testnet::GENESIS, &Arc::default()).unwrap();
    wait_for_book(&node, 1.0).await;
    for reason in ["malformed", "key_type", "own_key", "no_address", "surplus"] {
        let sample = format!("nsn_p2p_book_dropped_total{{reason=\"{reason}\"}}");
        assert_eq!(node.metric(&sample), 1.0, "{sample}");
    }
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn graylisted_peers_leave_book_and_table_and_peers_of_another_chain_never_enter() {
    let dir = tempfile::tempdir().unwrap();
    let (net, _) = net(3, dir.path()).await;
    let (watcher, subject) = (&net.nodes[1], &net.nodes[2]);
    wait_for_book(watcher, 2.0).await;
    let bad = Standing { seeder: 100, ..Standing::NEUTRAL };
    net.reputation.set(subject.identity.key(), Some(bad));
    watcher
        .wait_for("the peer to leave", |c| c.connected == 1 && c.routing_table == 1)
        .await
        .unwrap();
    let known = watcher.overlay.peers.known(subject.peer_id()).await.unwrap();
    assert_eq!((known.book, known.reputation), (None, Some(bad)));

    let far = Node::start(testnet::config(), identity(99), [9; 32], &Arc::default()).unwrap();
    let addr: Multiaddr = far.address().await.unwrap();
    watcher.overlay.peers.connect(addr).await.unwrap();
    watcher.wait_for("the stranger to leave", |c| c.connected == 1).await.unwrap();
    assert_eq!(watcher.overlay.peers.known(far.peer_id()).await.unwrap().book, None);
    far.stop().await.unwrap().unwrap();
    net.stop().await.unwrap();
}
