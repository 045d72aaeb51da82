//! Connections and service records between honest nodes.

use nsn_p2p::{
    Closed, Identity, Standing,
    gossip::{PublishError, Topic},
    peers::{ConnectError, LocalServices, Roles, ServiceError, StatusError},
    testnet::{self, Node, Testnet},
};
use prometheus_endpoint::prometheus::TextEncoder;
use std::sync::Arc;

fn services() -> LocalServices {
    LocalServices {
        roles: Roles { super_node: true, relay: false },
        region: Some("eu-1".parse().unwrap()),
        shard_listen: vec!["127.0.0.1:9003".parse().unwrap()],
        certificate_hashes: vec![[4; 32]],
        load: 17,
    }
}

#[tokio::test]
async fn a_service_record_is_asked_for_verified_and_kept() {
    let net = Testnet::start(3, |_| {}).await.unwrap();
    let server = &net.nodes[1];
    server.overlay.peers.set_services(services()).await.unwrap();
    let record = net.nodes[2].overlay.peers.service_record(server.peer_id()).await.unwrap();
    assert_eq!(record.key, server.identity.key());
    assert_eq!(record.roles, services().roles);
    assert_eq!(record.region, services().region);
    assert_eq!(record.shard_addrs, ["/ip4/127.0.0.1/udp/9003/quic-v1".parse().unwrap()]);
    assert_eq!(record.certificate_hashes, services().certificate_hashes);
    assert_eq!(record.load, 17);

    let own = server.overlay.peers.service_record(server.peer_id()).await.unwrap();
    assert_eq!(own, record);
    let nothing = net.nodes[1].overlay.peers.service_record(net.nodes[0].peer_id()).await;
    assert_eq!(nothing, Err(ServiceError::NotOffered));

    let peers = net.nodes[2].overlay.peers.list().await.unwrap();
    let view = peers.iter().find(|p| p.peer_id == server.peer_id().to_string()).unwrap();
    assert_eq!(view.roles, Some(services().roles));
    assert!(view.agent.as_ref().unwrap().starts_with("nsn-node/"));
    assert_eq!(view.reputation, None);

    // Known records need no peer.
    let peer = server.peer_id();
    let mut net = net;
    net.nodes.remove(1).stop().await.unwrap().unwrap();
    assert_eq!(net.nodes[1].overlay.peers.service_record(peer).await, Ok(record));
    net.stop().await.unwrap();
}

#[tokio::test]
async fn a_node_that_has_just_joined_reaches_a_peer_it_never_met() {
    let net = Testnet::start(3, |_| {}).await.unwrap();
    net.nodes[2].overlay.peers.set_services(services()).await.unwrap();
    let mut config = testnet::config();
    config.bootstrap.bootnodes = vec![net.nodes[0].address().await.unwrap()];
    let identity = Identity::from_secret([99; 32]).unwrap();
    let late = Node::start(config, identity, testnet::GENESIS, &net.reputation).unwrap();
    late.wait_for("the bootnode", |c| c.routing_table >= 1).await.unwrap();
    let record = late.overlay.peers.service_record(net.nodes[2].peer_id()).await.unwrap();
    assert_eq!(record.key, net.nodes[2].identity.key());
    late.stop().await.unwrap().unwrap();
    net.stop().await.unwrap();
}

#[tokio::test]
async fn a_node_without_a_role_offers_nothing() {
    let net = Testnet::start(2, |_| {}).await.unwrap();
    let server = &net.nodes[0];
    let idle = LocalServices { roles: Roles::default(), ..services() };
    server.overlay.peers.set_services(idle).await.unwrap();
    let ask = || net.nodes[1].overlay.peers.service_record(server.peer_id());
    assert_eq!(ask().await, Err(ServiceError::NotOffered));
    server.overlay.peers.set_services(services()).await.unwrap();
    assert_eq!(ask().await.map(|record| record.roles), Ok(services().roles));
    net.stop().await.unwrap();
}

#[tokio::test]
async fn an_overlay_that_has_ended_shows_nothing_held() {
    let mut net = Testnet::start(2, |_| {}).await.unwrap();
    let node = net.nodes.remove(1);
    let gauges = [
        "nsn_p2p_active_connections",
        "nsn_p2p_connected_peers",
        "nsn_p2p_kademlia_routing_table_size",
        "nsn_p2p_gossipsub_mesh_size{topic=\"tasks\"}",
    ];
    for gauge in gauges {
        node.wait_for_metric(gauge, 1.0).await.unwrap();
    }
    let registry = node.registry.clone();
    node.stop().await.unwrap().unwrap();
    let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    for gauge in gauges {
        assert!(text.lines().any(|line| line == format!("{gauge} 0")), "{gauge}: {text}");
    }
    net.stop().await.unwrap();
}

#[tokio::test]
async fn a_peer_that_nobody_knows_is_unreachable() {
    let net = Testnet::start(2, |_| {}).await.unwrap();
    let nobody = Identity::from_secret([77; 32]).unwrap().peer_id();
    assert_eq!(
        net.nodes[0].overlay.peers.service_record(nobody).await,
        Err(ServiceError::Unreachable)
    );
    net.stop().await.unwrap();
}

#[tokio::test]
async fn status_tells_what_is_so() {
    let net = Testnet::start(3, |_| {}).await.unwrap();
    let status = net.nodes[1].overlay.peers.status().await.unwrap();
    assert_eq!(status.peer_id, net.nodes[1].peer_id().to_string());
    assert_eq!(status.connected_peers, 2);
    assert_eq!(status.routing_table, 2);
    assert_eq!(status.mode, "server");
    assert_eq!(status.listen_addrs.len(), 1);
    assert_eq!(status.external_addrs, status.listen_addrs);
    assert!(status.topics.iter().all(|t| t.subscribers == 2), "{:?}", status.topics);
    assert_eq!(net.nodes[1].metric("nsn_p2p_connected_peers"), 2.0);
    assert_eq!(net.nodes[1].metric("nsn_p2p_connection_limit"), 256.0);
    assert!(net.nodes[1].metric("nsn_p2p_bytes_sent_total") > 0.0);
    assert!(net.nodes[1].metric("nsn_p2p_bytes_received_total") > 0.0);
    net.nodes[1].wait_for_metric("nsn_p2p_kademlia_bootstrap_success_total", 1.0).await.unwrap();
    net.nodes[1]
        .wait_for_metric("nsn_p2p_gossipsub_mesh_size{topic=\"video\"}", 1.0)
        .await
        .unwrap();
    net.stop().await.unwrap();
}

#[tokio::test]
async fn reputation_is_the_gossip_score_and_the_door() {
    let net = Testnet::start(3, |_| {}).await.unwrap();
    let (watcher, subject) = (&net.nodes[0], &net.nodes[1]);
    let subject_id = subject.peer_id().to_string();
    let view = || async {
        let peers = watcher.overlay.peers.list().await.unwrap();
        peers.into_iter().find(|p| p.peer_id == subject_id)
    };
    assert!(view().await.unwrap().gossip_score >= 0.0);

    let poor = Standing { total: 250, director: 250, validator: 250, seeder: 250 };
    net.reputation.set(subject.identity.key(), Some(poor));
    // The change and the question come by different channels.
    while view().await.unwrap().gossip_score > -10.0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(view().await.unwrap().reputation, Some(poor));
    net.reputation.set(subject.identity.key(), Some(Standing::NEUTRAL));
    while view().await.unwrap().gossip_score < 0.0 {
        tokio::task::yield_now().await;
    }

    let addr = subject.address().await.unwrap();
    let bad = Standing { seeder: 100, ..Standing::NEUTRAL };
    net.reputation.set(subject.identity.key(), Some(bad));
    subject.wait_for("all to hang up", |c| c.connected == 0).await.unwrap();
    watcher
        .wait_for("the peer to leave", |c| c.connected == 1 && c.routing_table == 1)
        .await
        .unwrap();
    assert!(matches!(
        watcher.overlay.peers.connect(addr).await,
        Err(ConnectError::Refused(reason)) if reason.contains("graylisted")
    ));
    // It dials its bootnode again and again, and finds the door closed.
    let refused = "nsn_p2p_connections_refused_total{reason=\"graylisted\"}";
    let before = watcher.metric(refused);
    watcher.wait_for_metric(refused, before + 2.0).await.unwrap();
    assert!(view().await.is_none());

    net.reputation.set(subject.identity.key(), None);
    net.wait_connected().await.unwrap();
    net.stop().await.unwrap();
}

#[tokio::test]
async fn a_full_node_refuses_and_counts() {
    let chain = Arc::default();
    let start = |n, max, bootnodes| {
        let mut config = testnet::config();
        config.peers.max_connections = max;
        config.admission.outbound_reserve = 0;
        config.bootstrap.bootnodes = bootnodes;
        let identity = Identity::from_secret([n; 32]).unwrap();
        Node::start(config, identity, testnet::GENESIS, &chain).unwrap()
    };
    let full = start(1, 1, vec![]);
    let bootnodes = vec![full.address().await.unwrap()];
    let first = start(2, 8, bootnodes.clone());
    full.wait_for("its one peer", |c| c.connected == 1).await.unwrap();
    let second = start(3, 8, bootnodes);
    full.wait_for_metric("nsn_p2p_connections_refused_total{reason=\"total\"}", 1.0).await.unwrap();
    assert_eq!(full.metric("nsn_p2p_active_connections"), 1.0);
    second
        .wait_for_metric("nsn_p2p_connections_failed_total{reason=\"transport\"}", 1.0)
        .await
        .unwrap();
    for node in [full, first, second] {
        node.stop().await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn two_chains_do_not_mix() {
    let chain = Arc::default();
    let start = |n, genesis| {
        let identity = Identity::from_secret([n; 32]).unwrap();
        Node::start(testnet::config(), identity, genesis, &chain).unwrap()
    };
    let (ours, theirs) = (start(1, [1; 32]), start(2, [2; 32]));
    let addr = theirs.address().await.unwrap();
    assert_eq!(ours.overlay.peers.connect(addr).await, Ok(theirs.peer_id()));
    ours.wait_for("the stranger to leave", |c| c.connected == 0).await.unwrap();
    let refused = "nsn_p2p_connections_refused_total{reason=\"other_chain\"}";
    assert!(ours.metric(refused) + theirs.metric(refused) >= 1.0);
    assert_eq!(ours.overlay.peers.status().await.unwrap().routing_table, 0);
    ours.stop().await.unwrap().unwrap();
    theirs.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn shutdown_closes_connections_and_answers_closed() {
    let mut net = Testnet::start(2, |_| {}).await.unwrap();
    let node = net.nodes.remove(1);
    let overlay = node.overlay.clone();
    let mut heard = overlay.gossip.subscribe(Topic::Tasks).unwrap();
    let mut changes = overlay.peers.changes();
    node.stop().await.unwrap().unwrap();
    net.nodes[0].wait_for("the peer to leave", |c| c.connected == 0).await.unwrap();
    assert!(net.nodes[0].metric("nsn_p2p_connections_closed_total") >= 1.0);
    assert!(net.nodes[0].metric("nsn_p2p_connection_duration_seconds_count") >= 1.0);

    assert!(heard.recv().await.is_none());
    assert!(changes.wait_for(|_| false).await.is_err());
    assert_eq!(overlay.peers.status().await.err(), Some(StatusError::Closed(Closed)));
    let closed = PublishError::Closed(Closed);
    assert_eq!(overlay.gossip.publish(Topic::Tasks, vec![]).await, Err(closed));
    let key = nsn_p2p::dht::Key::shard(&[0; 32]);
    assert!(overlay.dht.provide(key, nsn_p2p::dht::Class::Kept).await.is_err());
    assert!(overlay.dht.find_providers(key, 1).await.is_err());
    net.stop().await.unwrap();
}

#[tokio::test]
async fn dropping_a_driver_that_never_ran_answers_closed() {
    let identity = Identity::from_secret([1; 32]).unwrap();
    let chain = testnet::StaticReputation::default();
    let deps = nsn_p2p::Deps {
        identity,
        genesis_hash: testnet::GENESIS,
        reputation_changed: chain.changed(),
        reputation: Arc::new(chain),
        metrics: nsn_p2p::Metrics::unregistered().unwrap(),
    };
    let (overlay, driver) = nsn_p2p::build(testnet::config(), deps).unwrap();
    let asked = tokio::spawn(async move { overlay.peers.status().await });
    tokio::task::yield_now().await;
    drop(driver);
    assert_eq!(asked.await.unwrap().err(), Some(StatusError::Closed(Closed)));
}
