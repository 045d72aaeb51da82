//! Nodes on real sockets.

use nsn_p2p::{
    Config, Identity, Multiaddr, RunError,
    gossip::Topic,
    testnet::{self, Node},
};
use std::{net::TcpListener, sync::Arc};

fn start(n: u8, listen: &[&str], bootnodes: Vec<Multiaddr>) -> Node {
    let mut config =
        Config { listen: listen.iter().map(|a| a.parse().unwrap()).collect(), ..testnet::config() };
    config.bootstrap.bootnodes = bootnodes;
    let identity = Identity::from_secret([n; 32]).unwrap();
    Node::start(config, identity, testnet::GENESIS, &Arc::default()).unwrap()
}

async fn connect_and_talk(listen: &[&str]) {
    let first = start(1, listen, vec![]);
    let second = start(2, listen, vec![first.address().await.unwrap()]);
    for node in [&first, &second] {
        node.wait_for("each other", |c| c.connected == 1 && c.fewest_listeners == 1).await.unwrap();
    }
    let mut heard = first.overlay.gossip.subscribe(Topic::Video).unwrap();
    second.overlay.gossip.publish(Topic::Video, vec![5; 1 << 20]).await.unwrap();
    assert_eq!(heard.recv().await.unwrap().payload.len(), 1 << 20);
    assert!(second.metric("nsn_p2p_bytes_sent_total") > 1_000_000.0);
    assert!(first.metric("nsn_p2p_bytes_received_total") > 1_000_000.0);
    first.stop().await.unwrap().unwrap();
    second.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn quic_connects() {
    connect_and_talk(&["/ip4/127.0.0.1/udp/0/quic-v1"]).await;
}

#[tokio::test]
async fn quic_listens_on_all_addresses_of_the_machine() {
    connect_and_talk(&["/ip4/0.0.0.0/udp/0/quic-v1"]).await;
}

/// Needs IPv6 on the loopback interface.
#[tokio::test]
async fn quic_connects_over_ipv6() {
    connect_and_talk(&["/ip6/::1/udp/0/quic-v1"]).await;
}

#[tokio::test]
async fn tcp_connects() {
    connect_and_talk(&["/ip4/127.0.0.1/tcp/0"]).await;
}

#[tokio::test]
async fn both_at_once_connect() {
    connect_and_talk(&["/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"]).await;
}

#[tokio::test]
async fn a_port_in_use_ends_with_one_clear_error() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}", taken.local_addr().unwrap().port());
    let ended = start(1, &[&address], vec![]).ended().await.unwrap();
    let error = ended.unwrap_err();
    assert!(matches!(error, RunError::Listen { .. }));
    let text = error.to_string();
    assert!(text.contains(&address) && text.contains("--overlay-listen-addr"), "{text}");
    assert!(!text.contains('\n'));
}

#[tokio::test]
async fn a_port_that_another_node_holds_is_in_use_too() {
    for kind in ["tcp/0", "udp/0/quic-v1"] {
        let first = start(1, &[&format!("/ip4/127.0.0.1/{kind}")], vec![]);
        let changes = first.wait_for("a listen address", |c| !c.listen.is_empty()).await.unwrap();
        let address = changes.listen[0].to_string();
        let ended = start(2, &[&address], vec![]).ended().await.unwrap();
        assert!(matches!(ended, Err(RunError::Listen { .. })), "{kind}");
        first.stop().await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn an_address_without_a_transport_is_told() {
    let ended = start(1, &["/ip4/127.0.0.1/tcp/0", "/unix/x"], vec![]).ended().await.unwrap();
    let text = ended.unwrap_err().to_string();
    assert!(text.contains("/unix/x") && text.contains("no transport"), "{text}");
}

/// Needs an interface with multicast.
#[tokio::test]
async fn nodes_of_one_local_network_find_each_other_by_mdns() {
    let start = |n| {
        let mut config =
            Config { listen: vec!["/ip4/0.0.0.0/tcp/0".parse().unwrap()], ..testnet::config() };
        config.bootstrap.mdns = true;
        let identity = Identity::from_secret([n; 32]).unwrap();
        Node::start(config, identity, testnet::GENESIS, &Arc::default()).unwrap()
    };
    let (first, second) = (start(1), start(2));
    first.wait_for("the other node", |c| c.connected == 1).await.unwrap();
    second.wait_for("the other node", |c| c.connected == 1).await.unwrap();
    first.stop().await.unwrap().unwrap();
    second.stop().await.unwrap().unwrap();
}
