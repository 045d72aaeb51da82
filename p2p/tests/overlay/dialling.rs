//! Peers that cannot be reached are left alone for a while.

use libp2p::multiaddr::Protocol;
use nsn_p2p::{
    Config, Identity, Multiaddr, PeerId,
    peers::{BreakerView, ConnectError, ServiceError},
    testnet::{self, Node},
};
use std::{
    net::{TcpListener, UdpSocket},
    sync::Arc,
    time::Duration,
};

fn identity(n: u8) -> Identity {
    Identity::from_secret([n; 32]).unwrap()
}

fn start(n: u8, listen: &str, tweak: impl Fn(&mut Config)) -> Node {
    let mut config = Config { listen: vec![listen.parse().unwrap()], ..testnet::config() };
    tweak(&mut config);
    Node::start(config, identity(n), testnet::GENESIS, &Arc::default()).unwrap()
}

async fn breaker(node: &Node, peer: PeerId) -> Option<BreakerView> {
    node.overlay.peers.known(peer).await.unwrap().breaker
}

fn refused(result: &Result<PeerId, ConnectError>) -> bool {
    matches!(result, Err(ConnectError::Refused(why)) if why.contains("failed"))
}

/// A port of this machine on which nothing listens: the system has just given it away, and gives
/// others before it gives this one again.
fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn a_peer_that_cannot_be_reached_is_left_alone_then_tried_once_and_forgiven_when_it_is_back()
{
    let node = start(1, "/ip4/127.0.0.1/tcp/0", |config| {
        config.peers.breaker.base = Duration::from_millis(400);
    });
    let port = closed_port();
    let peer = identity(2).peer_id();
    let listen = format!("/ip4/127.0.0.1/tcp/{port}");
    let addr = listen.parse::<Multiaddr>().unwrap().with(Protocol::P2p(peer));
    let dial = || node.overlay.peers.connect(addr.clone());

    // Two failures open it.
    for _ in 0..2 {
        assert!(matches!(dial().await, Err(ConnectError::Failed(_))));
    }
    let view = breaker(&node, peer).await.unwrap();
    assert_eq!((view.state, view.failures, view.last_error), ("open", 2, "refused"));
    assert!((1..=400).contains(&view.next_try_ms), "{view:?}");
    assert_eq!(node.overlay.peers.breakers().await.unwrap().len(), 1);
    node.wait_for_metric("nsn_p2p_breakers_open", 1.0).await.unwrap();
    assert_eq!(node.metric("nsn_p2p_breakers_opened_total"), 1.0);

    // Nothing is dialled while it is open, by whomever: a service record is not asked for either.
    let failed = "nsn_p2p_connections_failed_total{reason=\"transport\"}";
    let before = node.metric(failed);
    assert!(refused(&dial().await));
    let record = node.overlay.peers.service_record(peer).await;
    assert_eq!(record, Err(ServiceError::Unreachable));
    assert_eq!(node.metric(failed), before);
    assert_eq!(node.metric("nsn_p2p_dials_denied_total{reason=\"breaker_open\"}"), 1.0);
    assert_eq!(breaker(&node, peer).await.unwrap().failures, 2, "a refusal is no failure");

    // The wait ends, one dial passes, fails, and the next wait is longer.
    while breaker(&node, peer).await.unwrap().state != "half_open" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(matches!(dial().await, Err(ConnectError::Failed(_))));
    let view = breaker(&node, peer).await.unwrap();
    assert_eq!((view.state, view.failures), ("open", 3));
    assert!(view.next_try_ms > 400, "{view:?}");
    assert!(refused(&dial().await));

    // It is back, and stays.
    let back = start(2, &listen, |_| {});
    back.address().await.unwrap();
    while breaker(&node, peer).await.unwrap().state != "half_open" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(dial().await, Ok(peer));
    while breaker(&node, peer).await.is_some() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(node.overlay.peers.breakers().await.unwrap().is_empty());
    for node in [node, back] {
        node.stop().await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn somebody_else_at_its_address_is_a_failure_of_the_peer_that_was_looked_for() {
    let node = start(1, "/ip4/127.0.0.1/tcp/0", |_| {});
    let other = start(2, "/ip4/127.0.0.1/tcp/0", |_| {});
    let nobody = identity(3).peer_id();
    let addr = other.address().await.unwrap();
    let wrong: Multiaddr = addr.iter().take(2).collect::<Multiaddr>().with(Protocol::P2p(nobody));
    for _ in 0..2 {
        assert!(matches!(
            node.overlay.peers.connect(wrong.clone()).await,
            Err(ConnectError::Failed(_))
        ));
    }
    assert_eq!(breaker(&node, nobody).await.unwrap().last_error, "wrong_peer");
    assert!(refused(&node.overlay.peers.connect(wrong).await));
    // Of the one that did answer nothing bad is known.
    assert_eq!(breaker(&node, other.peer_id()).await, None);
    assert_eq!(node.overlay.peers.connect(addr).await, Ok(other.peer_id()));
    for node in [node, other] {
        node.stop().await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_black_hole_is_a_timeout() {
    let node = start(1, "/ip4/127.0.0.1/udp/0/quic-v1", |_| {});
    let hole = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = hole.local_addr().unwrap().port();
    let peer = identity(2).peer_id();
    let addr = format!("/ip4/127.0.0.1/udp/{port}/quic-v1").parse::<Multiaddr>().unwrap();
    let addr = addr.with(Protocol::P2p(peer));
    let (first, second) = futures::join!(
        node.overlay.peers.connect(addr.clone()),
        node.overlay.peers.connect(addr.clone()),
    );
    assert!(first.is_err() && second.is_err());
    let view = breaker(&node, peer).await.unwrap();
    assert_eq!((view.failures, view.last_error), (2, "timeout"));
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_peer_that_hangs_up_again_and_again_is_left_alone() {
    let node = start(1, "/ip4/127.0.0.1/tcp/0", |config| {
        config.peers.breaker.settle = Duration::from_secs(600);
        // Else it would look for the peer by itself.
        config.bootstrap.book_dials = 0;
    });
    let peer = identity(2).peer_id();
    let listen = format!("/ip4/127.0.0.1/tcp/{}", closed_port());
    let addr = listen.parse::<Multiaddr>().unwrap().with(Protocol::P2p(peer));
    for _ in 0..2 {
        let far = start(2, &listen, |_| {});
        far.address().await.unwrap();
        assert_eq!(node.overlay.peers.connect(addr.clone()).await, Ok(peer));
        far.stop().await.unwrap().unwrap();
        node.wait_for("it to have hung up", |c| c.connected == 0).await.unwrap();
    }
    let view = breaker(&node, peer).await.unwrap();
    assert_eq!((view.state, view.failures, view.last_error), ("open", 2, "hung_up"));
    assert!(refused(&node.overlay.peers.connect(addr).await));
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn one_ip_is_dialled_only_so_often_whatever_peer_it_is_said_to_be() {
    let node = start(1, "/ip4/127.0.0.1/tcp/0", |config| config.peers.dials_per_ip = Some(3));
    let port = closed_port();
    let mut outcomes = Vec::new();
    for n in 10..16 {
        let peer = identity(n).peer_id();
        let addr = format!("/ip4/127.0.0.1/tcp/{port}").parse::<Multiaddr>().unwrap();
        let failed = node.overlay.peers.connect(addr.with(Protocol::P2p(peer))).await;
        assert!(matches!(failed, Err(ConnectError::Failed(_))), "{failed:?}");
        outcomes.push(breaker(&node, peer).await.is_some());
    }
    // What was not dialled has not failed.
    assert_eq!(outcomes, [true, true, true, false, false, false]);
    assert_eq!(node.metric("nsn_p2p_dials_denied_total{reason=\"ip_budget\"}"), 3.0);
    node.stop().await.unwrap().unwrap();
}
