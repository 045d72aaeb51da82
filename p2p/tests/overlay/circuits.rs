//! Through relays: places at them, connections through them, and what becomes of those.

use crate::{
    hidden::{Hidden, Seen, silent_relay},
    nat::{method, status},
    teller::{Teller, names, question},
};
use libp2p::multiaddr::Protocol;
use nsn_p2p::{
    Config, Identity, Multiaddr, PeerId,
    dht::{Class, Key},
    nat::{Method, Status, Strategy, Use},
    peers::ConnectError,
    testnet::{self, Node},
};
use std::{sync::Arc, time::Duration};

const PATIENCE: Duration = Duration::from_secs(60);

/// Without holes to be punched, which in process cannot be.
fn start(n: u8, bootnodes: Vec<Multiaddr>, tweak: impl FnOnce(&mut Config)) -> Node {
    let mut config = testnet::config();
    config.bootstrap.bootnodes = bootnodes;
    config.nat.strategies.order = vec![Strategy::Direct, Strategy::Relay];
    config.nat.relay.client.retry = Duration::from_millis(200);
    config.dht.cache = 0;
    tweak(&mut config);
    let identity = Identity::from_secret([n; 32]).unwrap();
    Node::start(config, identity, testnet::GENESIS, &Arc::default()).unwrap()
}

/// Waits until the node finds a provider by the directory.
async fn finds(node: &Node, key: Key, provider: PeerId) {
    let found = async {
        loop {
            let found = node.overlay.dht.find_providers(key, 20).await;
            if found.is_ok_and(|found| found == [provider]) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap();
}

fn failures(strategy: &str, reason: &str) -> &'static str {
    let metric = "nsn_p2p_nat_traversal_failures_total";
    format!("{metric}{{reason=\"{reason}\",strategy=\"{strategy}\"}}").leak()
}

/// A node that holds a place tells the address through it, and is reached there by one that knows
/// nothing else; the relay counts what it carries.
#[tokio::test]
async fn a_node_that_holds_places_at_relays_is_reached_through_them() {
    let relays = [start(1, vec![], |_| {}), start(2, vec![], |_| {})];
    let mut bootnodes = Vec::new();
    for relay in &relays {
        bootnodes.push(relay.address().await.unwrap());
    }
    let node = start(3, bootnodes.clone(), |config| {
        config.nat.relay.client.enabled = Use::Always;
    });
    let held = status(&node, "two places", |status| status.reservations.len() == 2).await;
    let told = node.overlay.peers.status().await.unwrap().external_addrs;
    for reservation in &held.reservations {
        assert!(told.contains(&reservation.address), "{told:?}");
    }
    for relay in &relays {
        let carries = status(relay, "a reservation", |s| s.circuits.reservations == 1).await;
        assert!(carries.circuits.offered && carries.circuits.carried == 0);
        assert_eq!(method(&carries, node.peer_id()), Some(Method::Direct));
    }

    let mut stranger = Hidden::start(9);
    let through = bootnodes[0].clone().with(Protocol::P2pCircuit);
    stranger.dial(through.with(Protocol::P2p(node.peer_id()))).await;
    stranger.until(Seen::Connected { peer: node.peer_id(), relayed: true }).await;
    let reached = |s: &Status| method(s, stranger.peer_id) == Some(Method::Relayed);
    status(&node, "the stranger", reached).await;
    status(&relays[0], "a circuit", |status| status.circuits.carried == 1).await;
    for way in ["sent", "received"] {
        let metric = format!("nsn_p2p_nat_circuit_bytes_total{{direction=\"{way}\"}}");
        node.wait_for_metric(metric.leak(), 100.0).await.unwrap();
    }
    relays[0].wait_for_metric("nsn_p2p_nat_relay_bytes_total", 200.0).await.unwrap();
    assert_eq!(relays[1].metric("nsn_p2p_nat_relay_bytes_total"), 0.0);

    drop(stranger);
    status(&relays[0], "its end", |status| status.circuits.carried == 0).await;
    for node in relays.into_iter().chain([node]) {
        node.stop().await.unwrap().unwrap();
    }
}

/// The relay that holds a place goes away: its address is told no longer, and another relay takes its
/// place.
#[tokio::test]
async fn a_node_whose_relay_is_gone_finds_another() {
    let relays = [start(1, vec![], |_| {}), start(2, vec![], |_| {})];
    let mut bootnodes = Vec::new();
    for relay in &relays {
        bootnodes.push(relay.address().await.unwrap());
    }
    let node = start(3, bootnodes, |config| {
        config.nat.relay.client.enabled = Use::Always;
        config.nat.relay.client.reservations = 1;
    });
    let held = status(&node, "a place", |status| status.reservations.len() == 1).await;
    let first = held.reservations[0].clone();
    let [a, b] = relays;
    let (gone, other) = if first.relay == a.peer_id().to_string() { (a, b) } else { (b, a) };
    gone.stop().await.unwrap().unwrap();
    let wanted = other.peer_id().to_string();
    status(
        &node,
        "a place at the other",
        |status| matches!(&status.reservations[..], [held] if held.relay == wanted),
    )
    .await;
    let told = node.overlay.peers.status().await.unwrap().external_addrs;
    assert!(!told.contains(&first.address), "{told:?}");
    node.wait_for_metric("nsn_p2p_nat_reservations_ended_total{reason=\"lost\"}", 1.0)
        .await
        .unwrap();
    for node in [node, other] {
        node.stop().await.unwrap().unwrap();
    }
}

/// A provider whose relay goes away: who keeps its records tells where it is reached now.
#[tokio::test]
async fn records_follow_a_provider_to_its_next_relay() {
    let relays = [start(1, vec![], |_| {}), start(2, vec![], |_| {})];
    let mut bootnodes = Vec::new();
    for relay in &relays {
        bootnodes.push(relay.address().await.unwrap());
    }
    let keeper = start(4, bootnodes.clone(), |config| config.nat.relay.server.enabled = false);
    bootnodes.push(keeper.address().await.unwrap());
    let node = start(3, bootnodes, |config| {
        config.nat.relay.client.enabled = Use::Always;
        config.nat.relay.client.reservations = 1;
    });
    let held = status(&node, "a place", |status| status.reservations.len() == 1).await;
    let address: Multiaddr = held.reservations[0].address.parse().unwrap();
    let key = Key::content(&[5; 32]);
    node.overlay.dht.provide(key, Class::Kept).await.unwrap();
    let mut asker = Teller::connect(9, keeper.address().await.unwrap()).await;
    told(&mut asker, key, &address).await;

    let first = held.reservations[0].relay.clone();
    let [a, b] = relays;
    let (gone, other) = if first == a.peer_id().to_string() { (a, b) } else { (b, a) };
    gone.stop().await.unwrap().unwrap();
    let moved = status(
        &node,
        "another place",
        |status| matches!(&status.reservations[..], [held] if held.relay != first),
    )
    .await;
    let second: Multiaddr = moved.reservations[0].address.parse().unwrap();
    told(&mut asker, key, &second).await;
    for node in [node, other, keeper] {
        node.stop().await.unwrap().unwrap();
    }
}

/// Waits until a record names an address.
async fn told(asker: &mut Teller, key: Key, address: &Multiaddr) {
    let named = async {
        while !names(&asker.say(question(key.as_bytes())).await, &address.to_vec()) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, named).await.unwrap();
}

/// All circuits of a relay are in use: the next is refused, with the reason, and who wanted it finds
/// the other relay by the provider's own record.
#[tokio::test]
async fn a_relay_that_is_full_refuses_and_the_next_relay_is_tried() {
    let full = start(1, vec![], |config| config.nat.relay.server.max_circuits = 1);
    let at_full = full.address().await.unwrap();
    let free = start(2, vec![at_full.clone()], |_| {});
    let at_free = free.address().await.unwrap();
    let mut provider = Hidden::start(7);
    provider.reserve(&at_free).await;
    provider.reserve(&at_full).await;
    let mut first = Hidden::start(8);
    first.dial(provider.through(&at_full)).await;
    first.until(Seen::Connected { peer: provider.peer_id, relayed: true }).await;

    let node = start(3, vec![at_full.clone()], |config| {
        // So that the second relay is tried for the first one's failure, and for nothing else.
        config.nat.strategies.next_relay = Duration::from_secs(100);
        config.peers.breaker.failures = 100;
    });
    let refused = node.overlay.peers.connect(provider.through(&at_full)).await.unwrap_err();
    assert!(matches!(&refused, ConnectError::Failed(why) if why.contains("no more places")));
    node.wait_for_metric(failures("relay", "relay_full"), 1.0).await.unwrap();
    let refusals = "nsn_p2p_nat_relay_requests_total{kind=\"circuit\",outcome=\"full\"}";
    full.wait_for_metric(refusals, 1.0).await.unwrap();

    let key = Key::content(&[5; 32]);
    let reached = [provider.through(&at_full), provider.through(&at_free)];
    provider.provide(key, full.peer_id(), &reached).await;
    finds(&node, key, provider.peer_id).await;
    // It offers nothing; that it can be asked is what this is about.
    let _ = node.overlay.peers.service_record(provider.peer_id).await;
    let reached = |s: &Status| method(s, provider.peer_id) == Some(Method::Relayed);
    status(&node, "the provider", reached).await;
    node.wait_for_metric(failures("relay", "relay_full"), 2.0).await.unwrap();
    let known = node.overlay.peers.known(provider.peer_id).await.unwrap();
    let outcomes: Vec<_> = known.attempts.iter().map(|attempt| attempt.outcome).collect();
    assert_eq!(outcomes, ["relay_full", "relay_full", "connected"]);
    assert!(known.attempts.iter().all(|attempt| attempt.strategy == Strategy::Relay));
    for node in [node, free, full] {
        node.stop().await.unwrap().unwrap();
    }
}

/// A relay that takes everything and carries nothing costs a bounded time, as a relay and as who
/// should hold a place.
#[tokio::test]
async fn a_relay_that_never_answers_is_given_up_in_time() {
    let (silent, _task) = silent_relay(6).await;
    let limit = Duration::from_millis(300);
    let node = start(1, vec![silent.clone()], |config| {
        config.nat.relay.client.enabled = Use::Always;
        config.nat.relay.client.timeout = limit;
        config.nat.relay.client.reservations = 1;
        config.nat.strategies.relay_timeout = limit;
    });
    let nobody = Hidden::start(7);
    let begun = std::time::Instant::now();
    let failed = node.overlay.peers.connect(nobody.through(&silent)).await.unwrap_err();
    assert!(matches!(&failed, ConnectError::Failed(why) if why.contains("timed out")), "{failed}");
    assert!((limit..limit * 10).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    node.wait_for_metric(failures("relay", "timeout"), 1.0).await.unwrap();

    // One that answers is asked as well, and holds the place.
    let relay = start(2, vec![node.address().await.unwrap()], |_| {});
    let wanted = relay.peer_id().to_string();
    status(&node, "a place at the other", |status| {
        status.reservations.iter().any(|held| held.relay == wanted)
    })
    .await;
    for node in [node, relay] {
        node.stop().await.unwrap().unwrap();
    }
}

/// Over QUIC on loopback both sides punch, and the connection through the relay goes.
#[tokio::test]
async fn a_relayed_connection_becomes_one_through_a_hole_and_the_relayed_one_goes() {
    let quic = |config: &mut Config| {
        config.listen = vec!["/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap()];
        config.nat.strategies = Default::default();
        config.nat.strategies.upgrade_after = Duration::from_millis(200);
    };
    let relay = start(1, vec![], quic);
    let at_relay = relay.address().await.unwrap();
    let node = start(2, vec![at_relay.clone()], |config| {
        quic(config);
        config.nat.relay.client.enabled = Use::Always;
    });
    status(&node, "a place", |status| status.reservations.len() == 1).await;
    let mut other = Hidden::punching(9);
    other.listen("/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap()).await;
    // The relay tells it where it is seen, which is what it tells the node.
    other.dial(at_relay.clone()).await;
    other.until(Seen::Connected { peer: relay.peer_id(), relayed: false }).await;
    other.until(Seen::Candidate).await;
    let through = at_relay.with(Protocol::P2pCircuit).with(Protocol::P2p(node.peer_id()));
    other.dial(through).await;
    other.until(Seen::Connected { peer: node.peer_id(), relayed: true }).await;
    let punched = |s: &Status| method(s, other.peer_id) == Some(Method::Punched);
    status(&node, "a hole", punched).await;
    other.until(Seen::Closed { peer: node.peer_id(), relayed: true }).await;
    let attempts = "nsn_p2p_nat_traversal_attempts_total{strategy=\"punch\"}";
    node.wait_for_metric(attempts, 1.0).await.unwrap();
    let after = status(&node, "one connection of each", |s| s.connections.len() == 2).await;
    assert_eq!(method(&after, other.peer_id), Some(Method::Punched));
    for node in [node, relay] {
        node.stop().await.unwrap().unwrap();
    }
}

/// What a stranger claims of relays costs the one who believes it little.
#[tokio::test]
async fn a_record_that_names_a_silent_relay_does_not_keep_one_from_the_good_one() {
    let (silent, _task) = silent_relay(6).await;
    let relay = start(1, vec![], |_| {});
    let at_relay = relay.address().await.unwrap();
    let mut provider = Hidden::start(7);
    provider.reserve(&at_relay).await;
    let key = Key::content(&[5; 32]);
    let reached = [provider.through(&silent), provider.through(&at_relay)];
    provider.provide(key, relay.peer_id(), &reached).await;
    let node = start(3, vec![at_relay], |config| {
        config.nat.strategies.relay_timeout = Duration::from_millis(300);
        config.nat.strategies.next_relay = Duration::from_secs(100);
    });
    finds(&node, key, provider.peer_id).await;
    let _ = node.overlay.peers.service_record(provider.peer_id).await;
    let reached = |s: &Status| method(s, provider.peer_id) == Some(Method::Relayed);
    status(&node, "the provider", reached).await;
    node.wait_for_metric(failures("relay", "timeout"), 1.0).await.unwrap();
    for node in [node, relay] {
        node.stop().await.unwrap().unwrap();
    }
}
