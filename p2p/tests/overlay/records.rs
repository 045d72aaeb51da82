//! Which provider records a node takes from others, and which it refuses.

use crate::teller::{Teller, names, record};
use nsn_p2p::{
    AddressPolicy, Config, Identity, Multiaddr, Standing,
    dht::{Announced, Class, Key},
    testnet::{self, Node, StaticReputation},
};
use std::{sync::Arc, time::Duration};

const HELD: &str = "nsn_p2p_kademlia_records_held";

fn start(chain: &Arc<StaticReputation>, tweak: impl Fn(&mut Config)) -> Node {
    let mut config = testnet::config();
    tweak(&mut config);
    let identity = Identity::from_secret([1; 32]).unwrap();
    Node::start(config, identity, testnet::GENESIS, chain).unwrap()
}

fn refused(reason: &str) -> &'static str {
    format!("nsn_p2p_kademlia_records_refused_total{{reason=\"{reason}\"}}").leak()
}

fn displaced(reason: &str) -> &'static str {
    format!("nsn_p2p_kademlia_records_displaced_total{{reason=\"{reason}\"}}").leak()
}

fn key(n: u16) -> [u8; 32] {
    let mut key = [7; 32];
    key[..2].copy_from_slice(&n.to_be_bytes());
    key
}

fn bind(chain: &StaticReputation, secret: u8) {
    let key = Identity::from_secret([secret; 32]).unwrap().key();
    chain.set(key, Some(Standing::NEUTRAL));
}

#[tokio::test]
async fn a_flood_from_one_peer_stays_within_its_bounds_and_own_records_are_found() {
    let chain = Arc::default();
    let node = start(&chain, |config| {
        config.dht.store.per_provider = 300;
        config.dht.store.burst = 500;
        config.dht.store.rate = 1;
    });
    let own = Key::shard(&[1; 32]);
    assert_eq!(node.overlay.dht.provide(own, Class::Kept).await, Ok(Announced::Pending));
    let mut flood = Teller::connect(2, node.address().await.unwrap()).await;
    flood.provide((0..1000).map(key)).await;
    node.wait_for_metric(HELD, 300.0).await.unwrap();
    // Of a thousand 500 came within the burst, and a few later.
    let (per_provider, rate) = (node.metric(refused("per_provider")), node.metric(refused("rate")));
    assert!(per_provider >= 200.0 && rate >= 400.0, "{per_provider} {rate}");
    assert_eq!(per_provider + rate, 700.0);
    assert_eq!(node.metric(HELD), 300.0);
    // Its own record is told to whoever asks.
    let answer = flood.tell(&[], own.as_bytes()).await;
    assert!(names(&answer, &node.peer_id().to_bytes()));
    assert_eq!(node.overlay.dht.find_providers(own, 1).await, Ok(vec![node.peer_id()]));
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_flood_from_many_unbound_peers_is_at_the_expense_of_the_unbound() {
    let chain = Arc::default();
    bind(&chain, 50);
    let node = start(&chain, |config| {
        config.dht.store.total = 100;
        config.dht.store.providers = 12;
    });
    let address = node.address().await.unwrap();
    let mut bound = Teller::connect(50, address.clone()).await;
    bound.provide((0..20).map(key)).await;
    for secret in 2..22 {
        let mut flood = Teller::connect(secret, address.clone()).await;
        flood.provide((0..100).map(|n| key(u16::from(secret) * 100 + n))).await;
    }
    assert_eq!(node.overlay.dht.status().await.unwrap().records, 100);
    assert!(node.metric(refused("total")) > 0.0);
    assert!(node.metric(refused("providers")) > 0.0, "eleven of them were enough");
    node.wait_for_metric(displaced("total"), 1.0).await.unwrap();
    let mut asks = Teller::connect(60, address).await;
    for n in 0..20 {
        let answer = asks.tell(&[], &key(n)).await;
        assert!(names(&answer, &bound.peer_id.to_bytes()), "{n}");
    }
    // Whoever is bound finds a place still, in that of somebody who is not.
    bind(&chain, 51);
    let mut late = Teller::connect(51, node.address().await.unwrap()).await;
    late.provide([key(9999)]).await;
    node.wait_for_metric(displaced("providers"), 1.0).await.unwrap();
    assert!(names(&asks.tell(&[], &key(9999)).await, &late.peer_id.to_bytes()));
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_key_has_so_many_providers_and_a_bound_one_takes_the_place_of_another() {
    let chain = Arc::default();
    let node = start(&chain, |config| config.dht.store.per_key = 2);
    let address = node.address().await.unwrap();
    let mut tellers = Vec::new();
    for secret in 2..5 {
        let mut teller = Teller::connect(secret, address.clone()).await;
        teller.provide([key(1)]).await;
        tellers.push(teller);
    }
    node.wait_for_metric(refused("per_key"), 1.0).await.unwrap();
    bind(&chain, 9);
    let mut bound = Teller::connect(9, address).await;
    bound.provide([key(1)]).await;
    node.wait_for_metric(displaced("per_key"), 1.0).await.unwrap();
    let answer = tellers[2].tell(&[], &key(1)).await;
    assert!(names(&answer, &bound.peer_id.to_bytes()));
    assert!(!names(&answer, &tellers[0].peer_id.to_bytes()), "the oldest has left");
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn keys_of_another_size_are_refused() {
    let node = start(&Arc::default(), |_| {});
    let mut teller = Teller::connect(2, node.address().await.unwrap()).await;
    let own = teller.peer_id;
    let sizes = [0, 1, 31, 33, 64, 8000];
    let records: Vec<_> = sizes.iter().map(|size| record(&vec![1; *size], own, &[])).collect();
    teller.tell(&records, &key(1)).await;
    node.wait_for_metric(refused("key_size"), 6.0).await.unwrap();
    assert_eq!(node.overlay.dht.status().await.unwrap().records, 0);
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn nobody_places_a_record_for_somebody_else() {
    let node = start(&Arc::default(), |_| {});
    let address = node.address().await.unwrap();
    let mut liar = Teller::connect(2, address.clone()).await;
    let other = Identity::from_secret([3; 32]).unwrap().peer_id();
    let answer = liar.tell(&[record(&key(1), other, &[])], &key(1)).await;
    assert!(!names(&answer, &other.to_bytes()));
    // That it was read, and the next one taken, is told by the next.
    liar.provide([key(2)]).await;
    assert_eq!(node.overlay.dht.status().await.unwrap().records, 1);
    let mut asks = Teller::connect(4, address).await;
    assert!(!names(&asks.tell(&[], &key(1)).await, &other.to_bytes()));
    assert!(names(&asks.tell(&[], &key(2)).await, &liar.peer_id.to_bytes()));
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn private_addresses_and_surplus_ones_are_not_handed_on() {
    let node = start(&Arc::default(), |config| {
        config.address_policy = AddressPolicy::Global;
        config.public_addrs = vec!["/ip4/8.8.8.8/tcp/9000".parse().unwrap()];
    });
    let address = node.address().await.unwrap();
    let addr = |text: &str| text.parse::<Multiaddr>().unwrap();
    let private =
        [addr("/ip4/127.0.0.1/tcp/77"), addr("/ip4/10.1.2.3/tcp/77"), addr("/ip6/::1/tcp/77")];
    let public: Vec<Multiaddr> =
        (1..=900u16).map(|port| addr(&format!("/ip4/9.9.9.9/tcp/{port}"))).collect();
    let mut teller = Teller::connect(2, address.clone()).await;
    let own = teller.peer_id;
    let told: Vec<_> = private.iter().chain(&public).cloned().collect();
    let message = record(&key(1), own, &told);
    assert!(message.len() > 9000, "{}", message.len());
    teller.tell(&[message], &key(1)).await;
    let answer = Teller::connect(3, address).await.tell(&[], &key(1)).await;
    assert!(names(&answer, &own.to_bytes()));
    for address in &private {
        assert!(!names(&answer, &address.to_vec()), "{address}");
    }
    let told = public.iter().filter(|address| names(&answer, &address.to_vec())).count();
    assert_eq!(told, 2);
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn messages_that_are_none_end_their_stream_and_nothing_else() {
    let node = start(&Arc::default(), |_| {});
    let mut teller = Teller::connect(2, node.address().await.unwrap()).await;
    let own = teller.peer_id;
    let long = record(&vec![1; 20_000], own, &[]);
    for bytes in [vec![0xff; 100], vec![5, 1, 2, 3, 4, 5], long, vec![3, 8, 99, 0]] {
        assert!(teller.say(bytes).await.is_empty());
    }
    teller.provide([key(1)]).await;
    assert_eq!(node.overlay.dht.status().await.unwrap().records, 1);
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn records_expire_and_are_counted() {
    let node = start(&Arc::default(), |config| {
        config.dht.record_ttl = Duration::from_millis(300);
        config.dht.renew_after = Duration::from_millis(200);
        config.dht.sweep.renew_ahead = Duration::from_millis(100);
    });
    let mut teller = Teller::connect(2, node.address().await.unwrap()).await;
    teller.provide([key(1), key(2)]).await;
    node.wait_for_metric("nsn_p2p_kademlia_records_expired_total", 2.0).await.unwrap();
    assert_eq!(node.overlay.dht.status().await.unwrap().records, 0);
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn who_is_graylisted_loses_its_records() {
    let chain: Arc<StaticReputation> = Arc::default();
    let node = start(&chain, |_| {});
    let address = node.address().await.unwrap();
    let mut teller = Teller::connect(2, address.clone()).await;
    teller.provide([key(1)]).await;
    let bad = Standing { seeder: 0, ..Standing::NEUTRAL };
    chain.set(Identity::from_secret([2; 32]).unwrap().key(), Some(bad));
    node.wait_for_metric(displaced("graylisted"), 1.0).await.unwrap();
    let answer = Teller::connect(3, address).await.tell(&[], &key(1)).await;
    assert!(!names(&answer, &teller.peer_id.to_bytes()));
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_provider_that_tells_no_address_is_named_all_the_same() {
    let node = start(&Arc::default(), |_| {});
    let address = node.address().await.unwrap();
    let mut hidden = Teller::connect(2, address.clone()).await;
    let own = hidden.peer_id;
    hidden.tell(&[record(&key(1), own, &[])], &key(9)).await;
    let answer = Teller::connect(3, address).await.tell(&[], &key(1)).await;
    assert!(names(&answer, &own.to_bytes()));
    node.stop().await.unwrap().unwrap();
}
