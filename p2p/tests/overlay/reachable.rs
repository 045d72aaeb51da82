//! Only who can be reached is in the routing table.

use futures::StreamExt;
use libp2p::{
    StreamProtocol, Swarm, Transport,
    core::{transport::MemoryTransport, upgrade::Version},
    identify,
    identity::Keypair,
    kad, noise,
    swarm::{self, NetworkBehaviour},
    yamux,
};
use nsn_p2p::{
    Config, Identity, Multiaddr, Protocols,
    testnet::{self, Node, Testnet},
};
use std::{sync::Arc, time::Duration};
use tokio::task::JoinHandle;

fn start(secret: u8, tweak: impl Fn(&mut Config)) -> Node {
    let mut config = testnet::config();
    tweak(&mut config);
    let identity = Identity::from_secret([secret; 32]).unwrap();
    Node::start(config, identity, testnet::GENESIS, &Arc::default()).unwrap()
}

fn checks(kind: &str, outcome: &str) -> &'static str {
    let metric = "nsn_p2p_kademlia_routing_checks_total";
    format!("{metric}{{kind=\"{kind}\",outcome=\"{outcome}\"}}").leak()
}

/// A peer of the chain that serves the directory and says that it is at some address.
#[derive(NetworkBehaviour)]
struct Claims {
    identify: identify::Behaviour,
    kad: kad::Behaviour<kad::store::MemoryStore>,
}

/// Connects to the node and claims to be at `address`.
fn claim(secret: u8, address: Multiaddr, node: Multiaddr) -> JoinHandle<()> {
    let keypair = Keypair::ed25519_from_bytes([secret; 32]).unwrap();
    let peer = keypair.public().to_peer_id();
    let protocols = Protocols::new(&testnet::GENESIS);
    let chain = protocols.chain().to_owned();
    let name = StreamProtocol::try_from_owned(format!("{chain}/kad/1")).unwrap();
    let mut kad = kad::Behaviour::with_config(
        peer,
        kad::store::MemoryStore::new(peer),
        kad::Config::new(name),
    );
    kad.set_mode(Some(kad::Mode::Server));
    let behaviour = Claims {
        identify: identify::Behaviour::new(identify::Config::new(chain, keypair.public())),
        kad,
    };
    let transport = MemoryTransport::new()
        .upgrade(Version::V1)
        .authenticate(noise::Config::new(&keypair).unwrap())
        .multiplex(yamux::Config::default())
        .boxed();
    let settings =
        swarm::Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_secs(300));
    let mut swarm = Swarm::new(transport, behaviour, peer, settings);
    swarm.add_external_address(address);
    swarm.dial(node).unwrap();
    tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    })
}

#[tokio::test]
async fn a_peer_that_cannot_be_reached_never_enters_the_table() {
    let (node, elsewhere) = (start(1, |_| {}), start(9, |_| {}));
    let address = node.address().await.unwrap();
    // Nobody listens there; and there somebody else does.
    let nowhere: Multiaddr = "/memory/987654321987".parse().unwrap();
    let others = elsewhere.wait_for("an address", |c| !c.listen.is_empty()).await.unwrap();
    let tasks = [claim(2, nowhere, address.clone()), claim(3, others.listen[0].clone(), address)];
    node.wait_for_metric(checks("newcomer", "failed"), 2.0).await.unwrap();
    let refused = "nsn_p2p_kademlia_routing_refused_total{reason=\"unreachable\"}";
    assert_eq!(node.metric(refused), 2.0);
    assert_eq!(node.overlay.dht.status().await.unwrap().routing_table, 0);
    assert_eq!(node.overlay.peers.status().await.unwrap().connected_peers, 2, "they may stay");
    tasks.iter().for_each(JoinHandle::abort);
    node.stop().await.unwrap().unwrap();
    elsewhere.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_peer_that_came_by_itself_is_dialled_once_and_enters() {
    let (node, other) = (start(1, |_| {}), start(2, |_| {}));
    other.overlay.peers.connect(node.address().await.unwrap()).await.unwrap();
    node.wait_for("the other", |c| c.routing_table == 1).await.unwrap();
    other.wait_for("the node", |c| c.routing_table == 1).await.unwrap();
    assert_eq!(node.metric(checks("newcomer", "reached")), 1.0);
    assert_eq!(other.metric(checks("newcomer", "reached")), 0.0, "its own dial was enough");
    // The dial was only to see: one connection is left of the two.
    while node.overlay.peers.status().await.unwrap().connections != 1 {
        tokio::task::yield_now().await;
    }
    node.stop().await.unwrap().unwrap();
    other.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn no_more_peers_are_dialled_at_once_than_may_be() {
    let node = start(1, |config| {
        config.dht.table.check_burst = 1;
        config.dht.table.check_rate = 1;
        config.dht.table.check_queue = 1;
    });
    let mut others = Vec::new();
    for secret in 2..6 {
        let other = start(secret, |_| {});
        other.overlay.peers.connect(node.address().await.unwrap()).await.unwrap();
        others.push(other);
    }
    let refused = "nsn_p2p_kademlia_routing_refused_total{reason=\"unchecked\"}";
    node.wait_for_metric(refused, 1.0).await.unwrap();
    for node in others.into_iter().chain([node]) {
        node.stop().await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_peer_that_has_died_leaves_the_table() {
    let node = start(1, |config| {
        config.dht.table.stale_after = Duration::from_millis(200);
        config.dht.table.stale_retry = Duration::from_millis(200);
    });
    let (other, stays) = (start(2, |_| {}), start(3, |_| {}));
    for other in [&other, &stays] {
        other.overlay.peers.connect(node.address().await.unwrap()).await.unwrap();
    }
    node.wait_for("both", |c| c.routing_table == 2).await.unwrap();
    other.stop().await.unwrap().unwrap();
    node.wait_for("one of them to leave", |c| c.routing_table == 1).await.unwrap();
    node.wait_for_metric("nsn_p2p_kademlia_routing_dead_total", 1.0).await.unwrap();
    assert!(node.metric(checks("stale", "failed")) >= 1.0);
    assert_eq!(node.overlay.peers.status().await.unwrap().connected_peers, 1);
    node.stop().await.unwrap().unwrap();
    stays.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_refresh_that_finds_peers_is_counted() {
    let net =
        Testnet::start(3, |config| config.dht.refresh = Duration::from_millis(500)).await.unwrap();
    for node in &net.nodes {
        let done = "nsn_p2p_kademlia_bootstrap_success_total";
        node.wait_for_metric(done, 2.0).await.unwrap();
        let succeeded = "nsn_p2p_kademlia_routing_refreshes_total{outcome=\"succeeded\"}";
        assert!(node.metric(succeeded) >= 2.0);
        let lookups = "nsn_p2p_kademlia_query_duration_seconds_count{kind=\"refresh\"}";
        assert!(node.metric(lookups) >= 2.0);
    }
    net.stop().await.unwrap();
}
