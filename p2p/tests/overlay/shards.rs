//! Streams for the shard service between whole nodes.

use crate::teller::{Teller, record};
use futures::{AsyncReadExt, AsyncWriteExt};
use nsn_p2p::{
    Config, Identity, Multiaddr,
    dht::Key,
    shards::{OpenError, Substream},
    testnet::{self, Node, StaticReputation, Testnet},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;

const OPEN: &str = "nsn_p2p_shard_streams_open{direction=\"inbound\"}";

fn failed(reason: &str) -> &'static str {
    format!("nsn_p2p_shard_streams_failed_total{{reason=\"{reason}\"}}").leak()
}

async fn said(stream: &mut Substream) -> Vec<u8> {
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await.unwrap();
    said
}

async fn taken(streams: &mut mpsc::Receiver<Substream>) -> Substream {
    tokio::time::timeout(Duration::from_secs(20), streams.recv()).await.unwrap().unwrap()
}

#[tokio::test]
async fn what_one_side_says_the_other_reads_and_both_know_who_it_is() {
    let net = Testnet::start(2, |_| {}).await.unwrap();
    let [asks, serves] = &net.nodes[..] else { panic!() };
    let mut streams = serves.overlay.shards.serve();
    let mut near = asks.overlay.shards.open(serves.peer_id()).await.unwrap();
    assert_eq!((near.peer, near.relayed), (serves.peer_id(), false));
    near.write_all(b"which shard").await.unwrap();
    near.close().await.unwrap();
    let mut far = taken(&mut streams).await;
    assert_eq!((far.peer, far.relayed), (asks.peer_id(), false));
    assert_eq!(said(&mut far).await, b"which shard");
    // More than either side takes before it is read.
    let shard = vec![7; 1_000_000];
    let saying = async {
        far.write_all(&shard).await.unwrap();
        far.close().await.unwrap();
    };
    let ((), heard) = futures::join!(saying, said(&mut near));
    assert!(heard == shard);
    assert_eq!(serves.metric(OPEN), 1.0);
    drop((near, far));
    assert_eq!(serves.metric(OPEN), 0.0);
    net.stop().await.unwrap();
}

#[tokio::test]
async fn a_node_that_serves_no_shards_offers_no_streams_and_one_that_stops_neither() {
    let net = Testnet::start(2, |_| {}).await.unwrap();
    let [asks, serves] = &net.nodes[..] else { panic!() };
    let open = || asks.overlay.shards.open(serves.peer_id());
    assert_eq!(open().await.err(), Some(OpenError::NotOffered));
    let first = serves.overlay.shards.serve();
    let mut second = serves.overlay.shards.serve();
    let near = open().await.unwrap();
    taken(&mut second).await;
    assert!(first.is_closed(), "the one that came later takes them");
    drop((near, first, second));
    assert_eq!(open().await.err(), Some(OpenError::NotOffered));
    assert_eq!(asks.metric(failed("not_offered")), 2.0);
    net.stop().await.unwrap();
}

#[tokio::test]
async fn streams_are_bounded_on_both_sides() {
    let tweak = |config: &mut Config| {
        config.shards.outbound_per_peer = 3;
        config.shards.inbound_per_peer = 2;
        config.shards.queue = 1;
    };
    let net = Testnet::start(2, tweak).await.unwrap();
    let [asks, serves] = &net.nodes[..] else { panic!() };
    let mut streams = serves.overlay.shards.serve();
    let open = || asks.overlay.shards.open(serves.peer_id());
    let first = open().await.unwrap();
    let far = taken(&mut streams).await;
    // One waits to be taken; for the next there is no place.
    let second = open().await.unwrap();
    serves.wait_for_metric(OPEN, 2.0).await.unwrap();
    let mut third = open().await.unwrap();
    serves.wait_for_metric(failed("limit"), 1.0).await.unwrap();
    // A stream that is closed unread breaks or ends.
    let mut nothing = Vec::new();
    let _ = third.read_to_end(&mut nothing).await;
    assert!(nothing.is_empty());
    assert_eq!(open().await.err(), Some(OpenError::Busy));
    assert_eq!(asks.metric(failed("limit")), 1.0);
    drop((first, far));
    let fourth = open().await.unwrap();
    serves.wait_for_metric(failed("queue"), 1.0).await.unwrap();
    drop((second, third, fourth));
    net.stop().await.unwrap();
}

#[tokio::test]
async fn a_peer_that_is_not_connected_is_found_and_dialled_and_a_stranger_is_unreachable() {
    let net = Testnet::start(3, |_| {}).await.unwrap();
    let mut streams = net.nodes[2].overlay.shards.serve();
    let mut config = testnet::config();
    config.bootstrap.bootnodes = vec![net.nodes[0].address().await.unwrap()];
    let identity = Identity::from_secret([99; 32]).unwrap();
    let new = Node::start(config, identity, testnet::GENESIS, &net.reputation).unwrap();
    new.wait_for("the bootnode", |c| c.routing_table >= 1).await.unwrap();
    let near = new.overlay.shards.open(net.nodes[2].peer_id()).await.unwrap();
    assert_eq!(taken(&mut streams).await.peer, new.peer_id());
    let nobody = Identity::from_secret([98; 32]).unwrap().peer_id();
    let error = new.overlay.shards.open(nobody).await.err();
    assert_eq!(error, Some(OpenError::Unreachable));
    let own = new.overlay.shards.open(new.peer_id()).await.err();
    assert_eq!(own, Some(OpenError::Unreachable));
    drop(near);
    new.stop().await.unwrap().unwrap();
    net.stop().await.unwrap();
}

/// A provider that nobody is connected to and that stands in nobody's routing table: what its record
/// tells is all that there is to find it by.
#[tokio::test]
async fn a_provider_is_dialled_where_its_record_says_it_is() {
    let chain: Arc<StaticReputation> = Arc::default();
    let start = |n: u8, bootnodes: Vec<Multiaddr>| {
        let mut config = testnet::config();
        config.bootstrap.bootnodes = bootnodes;
        let identity = Identity::from_secret([n; 32]).unwrap();
        Node::start(config, identity, testnet::GENESIS, &chain).unwrap()
    };
    let boot = start(1, vec![]);
    let known = boot.address().await.unwrap();
    let hidden = start(2, vec![]);
    let mut streams = hidden.overlay.shards.serve();
    let changes = hidden.wait_for("its address", |c| !c.listen.is_empty()).await.unwrap();
    // Tells in its name, and leaves.
    let mut teller = Teller::connect(2, known.clone()).await;
    assert_eq!(teller.peer_id, hidden.peer_id());
    let key = Key::shard(&[3; 32]);
    let records = [key, Key::shard(&[4; 32])]
        .map(|key| record(key.as_bytes(), hidden.peer_id(), &changes.listen));
    teller.tell(&records, &[0; 32]).await;
    drop(teller);
    let asks = start(3, vec![known]);
    asks.wait_for("the bootnode", |c| c.routing_table >= 1).await.unwrap();
    let unknown = asks.overlay.shards.open(hidden.peer_id()).await.err();
    assert_eq!(unknown, Some(OpenError::Unreachable), "nobody knows where it is");
    assert_eq!(asks.overlay.dht.find_providers(key, 1).await.unwrap(), [hidden.peer_id()]);
    let near = asks.overlay.shards.open(hidden.peer_id()).await.unwrap();
    assert_eq!(taken(&mut streams).await.peer, asks.peer_id());
    drop(near);
    for node in [asks, hidden, boot] {
        node.stop().await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn an_overlay_that_ends_breaks_its_streams_and_answers_those_who_wait() {
    let net = Testnet::start(2, |_| {}).await.unwrap();
    let mut nodes = net.nodes;
    let serves = nodes.remove(1);
    let asks = nodes.remove(0);
    let mut streams = serves.overlay.shards.serve();
    let near = asks.overlay.shards.open(serves.peer_id()).await.unwrap();
    let mut far = taken(&mut streams).await;
    let shards = asks.overlay.shards.clone();
    asks.stop().await.unwrap().unwrap();
    assert!(matches!(shards.open(serves.peer_id()).await.err(), Some(OpenError::Closed(_))));
    let mut nothing = Vec::new();
    let _ = far.read_to_end(&mut nothing).await;
    assert!(nothing.is_empty());
    drop((near, far));
    serves.stop().await.unwrap().unwrap();
}
