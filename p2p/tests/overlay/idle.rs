//! Connections that nothing uses are closed, and those that stand for something stay.
//!
//! Time passes by passers-by: peers that connect and have nothing to do. When two have come and gone,
//! one after the other, any connection that nothing used before would have gone as well.

use crate::{
    hidden::{Hidden, Seen, silent},
    liar::{GET_PROVIDERS, Liar, answer},
    nat::method,
    stranger::Stranger,
};
use libp2p::{StreamProtocol, identity::Keypair, multiaddr::Protocol};
use nsn_p2p::{
    Config, Identity, Protocols,
    dht::Key,
    nat::Strategy,
    testnet::{self, Node},
};
use std::{sync::Arc, time::Duration};

const IDLE: Duration = Duration::from_secs(1);

fn start(n: u8, tweak: impl FnOnce(&mut Config)) -> Node {
    let mut config = testnet::config();
    config.bootstrap.min_peers = 0;
    config.peers.idle_timeout = IDLE;
    tweak(&mut config);
    let identity = Identity::from_secret([n; 32]).unwrap();
    Node::start(config, identity, testnet::GENESIS, &Arc::default()).unwrap()
}

fn closed(node: &Node) -> f64 {
    node.metric("nsn_p2p_connections_closed_total")
}

/// Two come and are sent away, one after the other, and nobody else is.
async fn two_pass_by(node: &Node) {
    let (addr, before) = (node.address().await.unwrap(), closed(node));
    for secret in [201, 202] {
        let mut passer = Hidden::start(secret);
        passer.dial(addr.clone()).await;
        passer.until(Seen::Connected { peer: node.peer_id(), relayed: false }).await;
        passer.until(Seen::Closed { peer: node.peer_id(), relayed: false }).await;
    }
    node.wait_for_metric("nsn_p2p_connections_closed_total", before + 2.0).await.unwrap();
    assert_eq!(closed(node) - before, 2.0);
}

async fn nobody_is_connected(node: &Node) {
    node.wait_for("the idle connection to close", |c| c.connected == 0).await.unwrap();
}

#[tokio::test]
async fn reservations_and_circuits_keep_their_connections_and_who_has_neither_any_more_goes() {
    let relay = start(1, |_| {});
    let addr = relay.address().await.unwrap();
    let mut holder = Hidden::start(7);
    holder.reserve(&addr).await;
    two_pass_by(&relay).await;

    let mut asker = Hidden::start(8);
    asker.dial(holder.through(&addr)).await;
    asker.until(Seen::Connected { peer: holder.peer_id, relayed: true }).await;
    two_pass_by(&relay).await;
    let carries = relay.overlay.nat.status().await.unwrap().circuits;
    assert_eq!((carries.reservations, carries.carried), (1, 1));

    // With its end the circuit ends, and the other side of it has nothing any more.
    let gone = holder.peer_id;
    drop(holder);
    asker.until(Seen::Closed { peer: gone, relayed: true }).await;
    asker.until(Seen::Closed { peer: relay.peer_id(), relayed: false }).await;
    nobody_is_connected(&relay).await;
    relay.stop().await.unwrap().unwrap();
}

/// The relay is one of ours, with which this node gossips; what is idle is what goes through it.
#[tokio::test]
async fn an_idle_connection_through_a_relay_is_closed_though_a_hole_could_be_punched() {
    let long = |config: &mut Config| config.peers.idle_timeout = Duration::from_secs(300);
    let relay = start(1, long);
    let addr = relay.address().await.unwrap();
    let mut holder = Hidden::start(7);
    holder.reserve(&addr).await;
    let node = start(2, |config| {
        config.nat.strategies.order = vec![Strategy::Direct, Strategy::Punch, Strategy::Relay];
    });
    node.overlay.peers.connect(holder.through(&addr)).await.unwrap();
    holder.until(Seen::Connected { peer: node.peer_id(), relayed: true }).await;
    holder.until(Seen::Closed { peer: node.peer_id(), relayed: true }).await;
    let status = node.overlay.nat.status().await.unwrap();
    assert_eq!(method(&status, holder.peer_id), None);
    for node in [node, relay] {
        node.stop().await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_question_that_waits_for_its_answer_keeps_its_connection() {
    let (told, mut asked) = tokio::sync::mpsc::unbounded_channel();
    let silent = Liar::start(100, move |question| {
        if question[1] != GET_PROVIDERS {
            return Some(answer(question[1], &[]));
        }
        told.send(()).unwrap();
        None
    })
    .await;
    let node = start(1, |config| {
        config.dht.query_timeout = Duration::from_secs(60);
        config.dht.peer_timeout = Duration::from_secs(60);
    });
    node.overlay.peers.connect(silent.addr.clone()).await.unwrap();
    let dht = node.overlay.dht.clone();
    let finding = tokio::spawn(async move { dht.find_providers(Key::shard(&[1; 32]), 1).await });
    asked.recv().await.unwrap();
    two_pass_by(&node).await;
    assert_eq!(node.metric("nsn_p2p_kademlia_questions_in_flight"), 1.0);
    node.stop().await.unwrap().unwrap();
    finding.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn an_open_stream_for_shards_keeps_its_connection_and_a_dropped_one_does_not() {
    let chain = Protocols::new(&testnet::GENESIS).chain().to_owned();
    let protocol = StreamProtocol::try_from_owned(format!("{chain}/shard/1")).unwrap();
    let (addr, _task) = silent(6, protocol).await;
    let node = start(1, |_| {});
    node.overlay.peers.connect(addr.clone()).await.unwrap();
    let Some(Protocol::P2p(peer)) = addr.iter().last() else { panic!() };
    let stream = node.overlay.shards.open(peer).await.unwrap();
    two_pass_by(&node).await;
    drop(stream);
    nobody_is_connected(&node).await;
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_place_in_a_mesh_keeps_its_connection() {
    let stranger = Stranger::start(Keypair::ed25519_from_bytes([5; 32]).unwrap(), vec![]).await;
    let node = start(1, |config| config.gossip.heartbeat = Duration::from_millis(100));
    node.overlay.peers.connect(stranger.addr.clone()).await.unwrap();
    let mesh = "nsn_p2p_gossipsub_mesh_size{topic=\"tasks\"}";
    node.wait_for_metric(mesh, 1.0).await.unwrap();
    two_pass_by(&node).await;
    assert_eq!(node.metric(mesh), 1.0);
    node.stop().await.unwrap().unwrap();
}
