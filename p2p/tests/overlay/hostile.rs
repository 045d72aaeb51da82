//! What a hostile peer sends is refused with its reason, and nothing panics.

use crate::stranger::Stranger;
use codec::Encode;
use libp2p::identity::Keypair;
use nsn_p2p::{
    Identity, Protocols,
    gossip::{Envelope, Topic},
    peers::{RecordError, Roles, ServiceError, ServiceRecord, Validity},
    testnet::{self, Node},
};
use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

const TASKS: &str = "/nsn/tasks/1.0.0";
const BFT: &str = "/nsn/bft/1.0.0";

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().try_into().unwrap()
}

fn keypair(secret: u8) -> Keypair {
    Keypair::ed25519_from_bytes([secret; 32]).unwrap()
}

fn node() -> Node {
    let identity = Identity::from_secret([1; 32]).unwrap();
    Node::start(testnet::config(), identity, testnet::GENESIS, &Arc::default()).unwrap()
}

/// A node that is connected to a stranger who hears its topics.
async fn node_and_stranger(record: Vec<u8>) -> (Node, Stranger) {
    let node = node();
    let stranger = Stranger::start(keypair(2), record).await;
    assert_eq!(node.overlay.peers.connect(stranger.addr.clone()).await, Ok(stranger.peer_id));
    let subscribed = || async {
        let topics = node.overlay.peers.status().await.unwrap().topics;
        topics.iter().filter(|t| t.subscribers == 1).count() == 2
    };
    while !subscribed().await {
        tokio::task::yield_now().await;
    }
    (node, stranger)
}

fn refused(topic: &str, reason: &str) -> &'static str {
    let metric = "nsn_p2p_gossipsub_messages_refused_total";
    format!("{metric}{{reason=\"{reason}\",topic=\"{topic}\"}}").leak()
}

#[tokio::test]
async fn bad_messages_are_refused_by_reason_and_good_ones_still_come() {
    let (node, stranger) = node_and_stranger(vec![]).await;
    let mut heard = node.overlay.gossip.subscribe(Topic::Tasks).unwrap();
    let mut votes = node.overlay.gossip.subscribe(Topic::Bft).unwrap();
    let now = now_ms();
    let chain = Protocols::new(&testnet::GENESIS);
    let of = |topic, created_ms| {
        let envelope = Envelope::new(b"hello".to_vec(), created_ms, 1000);
        envelope.sealed(&chain, topic, &stranger.keypair).unwrap()
    };

    stranger.publish(TASKS, of(TASKS, now - 60_000)).await;
    node.wait_for_metric(refused("tasks", "expired"), 1.0).await.unwrap();
    stranger.publish(TASKS, of(TASKS, now + 60_000)).await;
    node.wait_for_metric(refused("tasks", "future"), 1.0).await.unwrap();
    stranger.publish(TASKS, vec![9, 9, 9]).await;
    node.wait_for_metric(refused("tasks", "unknown_version"), 1.0).await.unwrap();
    let score = || async { node.overlay.peers.list().await.unwrap()[0].gossip_score };
    assert!(score().await >= 0.0, "none of these costs the sender");

    stranger.publish(TASKS, of(TASKS, now)).await;
    assert_eq!(heard.recv().await.unwrap().payload, b"hello"[..]);

    stranger.publish(TASKS, b"\x01garbage".to_vec()).await;
    node.wait_for_metric(refused("tasks", "malformed"), 1.0).await.unwrap();
    let after_garbage = score().await;
    assert!(after_garbage < 0.0, "{after_garbage}");
    stranger.publish(BFT, of(BFT, now)).await;
    node.wait_for_metric(refused("bft", "not_validator"), 1.0).await.unwrap();
    assert!(score().await < after_garbage);

    // Nothing of it reached a subscriber.
    let overlay = node.overlay.clone();
    node.stop().await.unwrap().unwrap();
    drop(overlay);
    assert!(heard.recv().await.is_none());
    assert!(votes.recv().await.is_none());
}

#[tokio::test]
async fn a_flood_of_garbage_graylists_and_is_read_no_more() {
    let (node, stranger) = node_and_stranger(vec![]).await;
    for n in 0..20u8 {
        stranger.publish(TASKS, vec![1, n]).await;
    }
    node.wait_for_metric(refused("tasks", "malformed"), 3.0).await.unwrap();
    let score = || async { node.overlay.peers.list().await.unwrap()[0].gossip_score };
    while score().await > -80.0 {
        tokio::task::yield_now().await;
    }
    let received = "nsn_p2p_gossipsub_messages_received_total{topic=\"tasks\"}";
    let bytes = "nsn_p2p_bytes_received_total";
    let (messages_before, bytes_before) = (node.metric(received), node.metric(bytes));
    for n in 100..120u8 {
        stranger.publish(TASKS, vec![n; 10_000]).await;
    }
    // It has come in, and the driver has had its turn since; no message was looked at.
    node.wait_for_metric(bytes, bytes_before + 200_000.0).await.unwrap();
    let mut stranger = stranger;
    assert_eq!(stranger.request(node.peer_id(), vec![1]).await, Some(vec![0]));
    assert_eq!(node.metric(received), messages_before);
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn garbage_on_the_service_protocol_gets_no_answer_and_does_no_harm() {
    let (node, mut stranger) = node_and_stranger(vec![]).await;
    for garbage in [vec![], vec![0], vec![2], vec![1, 1], vec![255; 4096], vec![1; 1 << 16]] {
        // The stream is closed or reset, with nothing on it.
        let answer = stranger.request(node.peer_id(), garbage).await.unwrap_or_default();
        assert!(answer.is_empty(), "{answer:?}");
    }
    // Asked properly, it still answers: nothing is offered.
    assert_eq!(stranger.request(node.peer_id(), vec![1]).await, Some(vec![0]));
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_record_that_is_not_the_peers_own_and_fresh_is_refused() {
    let (chain, now) = (Protocols::new(&testnet::GENESIS), now_ms());
    let record = |key| ServiceRecord {
        key,
        sequence: 1,
        validity: Validity { issued_ms: now - 1000, expires_ms: now + 600_000 },
        roles: Roles { super_node: true, relay: true },
        region: None,
        shard_addrs: vec!["/ip4/127.0.0.1/udp/9003/quic-v1".parse().unwrap()],
        certificate_hashes: vec![],
        load: 0,
    };
    let (peer, other) =
        (Identity::from_secret([2; 32]).unwrap(), Identity::from_secret([3; 32]).unwrap());
    let expired = Validity { issued_ms: now - 2000, expires_ms: now - 1000 };
    let response = |signed: Vec<u8>| Some(signed).encode();
    let good = record(peer.key()).sign(&peer, &chain).unwrap();
    let cases = [
        (response(good.clone()), Ok(record(peer.key()))),
        (
            response(record(peer.key()).sign(&other, &chain).unwrap()),
            Err(ServiceError::Record(RecordError::Signer)),
        ),
        (
            response(record(other.key()).sign(&other, &chain).unwrap()),
            Err(ServiceError::Record(RecordError::Signer)),
        ),
        (
            response(record(peer.key()).sign(&peer, &Protocols::new(&[9; 32])).unwrap()),
            Err(ServiceError::Record(RecordError::Signature)),
        ),
        (
            response(
                ServiceRecord { validity: expired, ..record(peer.key()) }
                    .sign(&peer, &chain)
                    .unwrap(),
            ),
            Err(ServiceError::Record(RecordError::Expired)),
        ),
        (response(vec![7; 100]), Err(ServiceError::Record(RecordError::Malformed))),
        (response(vec![]), Err(ServiceError::Record(RecordError::Malformed))),
        (None::<Vec<u8>>.encode(), Err(ServiceError::NotOffered)),
        (vec![], Err(ServiceError::Protocol)),
        (vec![2; 50], Err(ServiceError::Protocol)),
        (vec![1; 1 << 18], Err(ServiceError::Protocol)),
    ];
    for (answer, wanted) in cases {
        let (node, stranger) = node_and_stranger(answer).await;
        assert_eq!(node.overlay.peers.service_record(stranger.peer_id).await, wanted);
        if let Err(ServiceError::Record(reason)) = wanted {
            let metric = "nsn_p2p_service_records_refused_total";
            let sample = format!("{metric}{{reason=\"{}\"}}", reason.label());
            assert_eq!(node.metric(&sample), 1.0, "{sample}");
        }
        node.stop().await.unwrap().unwrap();
    }
}
