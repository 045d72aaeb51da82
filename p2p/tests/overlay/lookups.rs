//! Lookups through the wire, between honest nodes and among liars.

use crate::liar::{FIND_NODE, GET_PROVIDERS, GET_VALUE, Liar, answer, named};
use nsn_p2p::{
    Config, Identity, Multiaddr, PeerId,
    dht::{Announced, Class, ClosestError, FindError, Key},
    testnet::{self, Node, Testnet},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

fn key(n: u32) -> Key {
    Key::shard(&[&n.to_le_bytes()[..], &[0; 28]].concat().try_into().unwrap())
}

fn start(n: u8, bootnodes: Vec<Multiaddr>, tweak: impl Fn(&mut Config)) -> Node {
    let mut config = testnet::config();
    tweak(&mut config);
    config.bootstrap.bootnodes = bootnodes;
    let identity = Identity::from_secret([n; 32]).unwrap();
    Node::start(config, identity, testnet::GENESIS, &Arc::default()).unwrap()
}

/// A node that has these peers in its routing table.
async fn knowing(bootnodes: Vec<Multiaddr>, tweak: impl Fn(&mut Config)) -> Node {
    let count = bootnodes.len();
    let node = start(1, bootnodes, tweak);
    node.wait_for("its peers", |c| c.routing_table == count).await.unwrap();
    node
}

async fn provide(node: &Node, key: Key) -> Announced {
    node.overlay.dht.provide(key, Class::Kept).await.unwrap();
    node.overlay.dht.announced(key).await.unwrap()
}

fn queries(node: &Node, kind: &str) -> f64 {
    node.metric(&format!("nsn_p2p_kademlia_query_duration_seconds_count{{kind=\"{kind}\"}}"))
}

fn kad_of(message: &[u8]) -> u8 {
    assert_eq!(message[0], 0x08, "a kind comes first");
    message[1]
}

#[tokio::test]
async fn callers_share_a_lookup_and_what_it_found_is_remembered() {
    let net = Testnet::start(4, |_| {}).await.unwrap();
    let (publisher, reader) = (&net.nodes[1], &net.nodes[3]);
    assert_eq!(provide(publisher, key(1)).await, Announced::Yes);
    let dht = &reader.overlay.dht;
    // Three providers are wanted and there is one, so the lookup has to come to its end.
    let asked = (0..50).map(|_| dht.find_providers(key(1), 3));
    for found in futures::future::join_all(asked).await {
        assert_eq!(found, Ok(vec![publisher.peer_id()]));
    }
    assert_eq!(queries(reader, "find"), 1.0);
    assert_eq!(reader.metric("nsn_p2p_kademlia_cache_misses_total"), 50.0);
    assert_eq!(dht.find_providers(key(1), 5).await, Ok(vec![publisher.peer_id()]));
    assert_eq!(reader.metric("nsn_p2p_kademlia_cache_hits_total"), 1.0);
    // What this node does itself counts at once.
    assert_eq!(dht.find_providers(key(2), 1).await, Ok(vec![]));
    dht.provide(key(2), Class::Kept).await.unwrap();
    assert_eq!(dht.find_providers(key(2), 1).await, Ok(vec![reader.peer_id()]));
    dht.stop_providing(key(2)).await.unwrap();
    let found = dht.find_providers(key(2), 2).await.unwrap();
    assert!(!found.contains(&reader.peer_id()));
    net.stop().await.unwrap();
}

#[tokio::test]
async fn a_provider_is_found_through_peers_that_were_not_known() {
    let publisher = start(2, vec![], |_| {});
    let holder = start(3, vec![publisher.address().await.unwrap()], |_| {});
    publisher.wait_for("the holder", |c| c.routing_table == 1).await.unwrap();
    assert_eq!(provide(&publisher, key(1)).await, Announced::Yes);
    // Each knows the next one and nothing else, and the last one knows the holder.
    let mut next = (holder.peer_id(), holder.address().await.unwrap());
    let mut signposts = Vec::new();
    for n in 100..103 {
        let names = named(&next.0.to_bytes(), std::slice::from_ref(&next.1));
        let says =
            move |question: &[u8]| Some(answer(kad_of(question), std::slice::from_ref(&names)));
        let signpost = Liar::start(n, says).await;
        next = (signpost.peer_id, signpost.addr.clone());
        signposts.push(signpost);
    }
    // It asks for nobody but the provider.
    let reader = knowing(vec![next.1], |config| config.bootstrap.min_peers = 1).await;
    let found = reader.overlay.dht.find_providers(key(1), 1).await;
    assert_eq!(found, Ok(vec![publisher.peer_id()]));
    assert_eq!(reader.metric("nsn_p2p_kademlia_query_hops_sum{kind=\"find\"}"), 4.0);
    assert_eq!(reader.metric("nsn_p2p_kademlia_query_questions_sum{kind=\"find\"}"), 4.0);
    for node in [reader, holder, publisher] {
        node.stop().await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn the_nearest_peers_are_told_in_the_order_of_their_distance() {
    let net = Testnet::start(6, |_| {}).await.unwrap();
    for n in 0..4 {
        let asked = net.nodes[0].overlay.dht.closest_peers(key(n)).await.unwrap();
        let of = |bytes: &[u8]| libp2p::kad::KBucketKey::new(bytes.to_vec());
        let target = of(key(n).as_bytes());
        let mut others: Vec<PeerId> = net.nodes[1..].iter().map(Node::peer_id).collect();
        others.sort_by_key(|peer| of(&peer.to_bytes()).distance(&target));
        assert_eq!(asked, others);
    }
    assert_eq!(queries(&net.nodes[0], "closest"), 4.0);
    net.stop().await.unwrap();
}

#[tokio::test]
async fn more_lookups_than_may_run_wait_for_their_turn_and_are_all_answered() {
    let net = Testnet::start(4, |config| config.dht.max_queries = 8).await.unwrap();
    let dht = &net.nodes[0].overlay.dht;
    let asked = (0..1000).map(|n| dht.find_providers(key(n), 1));
    for found in futures::future::join_all(asked).await {
        assert_eq!(found, Ok(vec![]));
    }
    assert_eq!(queries(&net.nodes[0], "find"), 1000.0);
    net.stop().await.unwrap();
}

#[tokio::test]
async fn more_callers_than_may_wait_are_told_so() {
    let silent = Liar::start(100, |_| None).await;
    let few = |config: &mut Config| {
        config.dht.max_waiting = 1;
        config.dht.query_timeout = Duration::from_secs(1);
        config.dht.peer_timeout = Duration::from_secs(1);
    };
    let node = knowing(vec![silent.addr.clone()], few).await;
    let dht = &node.overlay.dht;
    let (first, second, third) = futures::join!(
        dht.find_providers(key(1), 1),
        dht.find_providers(key(2), 1),
        dht.closest_peers(key(2)),
    );
    assert_eq!(first, Err(FindError::Timeout));
    assert_eq!((second, third), (Err(FindError::Busy), Err(ClosestError::Busy)));
    assert_eq!(node.metric("nsn_p2p_commands_refused_total{handle=\"dht\"}"), 2.0);
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_lookup_that_nobody_answers_says_so() {
    let silent = Liar::start(100, |_| None).await;
    let patient = |config: &mut Config| config.dht.peer_timeout = Duration::from_millis(500);
    let node = knowing(vec![silent.addr.clone()], patient).await;
    let begun = Instant::now();
    assert_eq!(node.overlay.dht.find_providers(key(1), 1).await, Err(FindError::Unanswered));
    assert_eq!(node.overlay.dht.closest_peers(key(1)).await, Err(ClosestError::Unanswered));
    assert!(begun.elapsed() < Duration::from_secs(10), "not the whole time of a query");
    let timeouts = "nsn_p2p_kademlia_questions_failed_total{reason=\"timeout\"}";
    assert!(node.metric(timeouts) >= 2.0);
    assert_eq!(node.metric("nsn_p2p_kademlia_query_timeouts_total"), 0.0);
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_lookup_ends_when_its_time_is_up() {
    let silent = Liar::start(100, |_| None).await;
    let hasty = |config: &mut Config| {
        config.dht.peer_timeout = Duration::from_millis(300);
        config.dht.query_timeout = Duration::from_millis(300);
    };
    let node = knowing(vec![silent.addr.clone()], hasty).await;
    assert_eq!(node.overlay.dht.find_providers(key(1), 1).await, Err(FindError::Timeout));
    assert_eq!(node.overlay.dht.closest_peers(key(1)).await, Err(ClosestError::Timeout));
    assert!(node.metric("nsn_p2p_kademlia_query_timeouts_total") >= 2.0);
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn one_that_never_answers_holds_nobody_up_once_it_is_known_how_long_answers_take() {
    let net = Testnet::start(5, |_| {}).await.unwrap();
    let silent = Liar::start(100, |_| None).await;
    let reader = &net.nodes[0];
    let dht = &reader.overlay.dht;
    for n in 0..30 {
        assert_eq!(dht.find_providers(key(n), 1).await, Ok(vec![]));
    }
    reader.overlay.peers.connect(silent.addr.clone()).await.unwrap();
    reader.wait_for("the silent one", |c| c.routing_table == 5).await.unwrap();
    let begun = Instant::now();
    assert_eq!(dht.find_providers(key(100), 1).await, Ok(vec![]));
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}, and three seconds are its time");
    assert!(silent.asked() >= 1);
    net.stop().await.unwrap();
}

#[tokio::test]
async fn garbage_is_counted_and_the_lookup_goes_on() {
    let net = Testnet::start(3, |_| {}).await.unwrap();
    let reader = &net.nodes[0];
    assert_eq!(provide(&net.nodes[1], key(1)).await, Announced::Yes);
    type Says = fn(&[u8]) -> Option<Vec<u8>>;
    let garbage: [Says; 4] = [
        |_| Some(vec![0xff; 100]),
        |_| Some(vec![3, 0x08, 99, 0xff]),
        |_| Some(answer(GET_VALUE, &[])),
        |_| Some([&[0xff, 0xff, 0x7f][..], &[7; 1000]].concat()),
    ];
    let mut liars = Vec::new();
    for (n, says) in (100..).zip(garbage) {
        let liar = Liar::start(n, says).await;
        reader.overlay.peers.connect(liar.addr.clone()).await.unwrap();
        liars.push(liar);
    }
    reader.wait_for("the liars", |c| c.routing_table == 6).await.unwrap();
    let found = reader.overlay.dht.find_providers(key(1), 2).await;
    assert_eq!(found, Ok(vec![net.nodes[1].peer_id()]));
    assert!(liars.iter().all(|liar| liar.asked() >= 1));
    let malformed = "nsn_p2p_kademlia_questions_failed_total{reason=\"malformed\"}";
    assert!(reader.metric(malformed) >= 4.0);
    net.stop().await.unwrap();
}

#[tokio::test]
async fn what_a_liar_names_is_dropped_by_reason() {
    let node = start(1, vec![], |_| {});
    let local = node.peer_id();
    let somewhere: Multiaddr = "/memory/1".parse().unwrap();
    let nowhere: Multiaddr = "/ip4/0.0.0.0/tcp/1".parse().unwrap();
    let liar_id = Identity::from_secret([100; 32]).unwrap().peer_id();
    let rsa = [&[0x12, 0x20][..], &[7; 32]].concat();
    let nearer = [
        named(&local.to_bytes(), std::slice::from_ref(&somewhere)),
        named(&liar_id.to_bytes(), std::slice::from_ref(&somewhere)),
        named(&[1, 2, 3], std::slice::from_ref(&somewhere)),
        named(&rsa, std::slice::from_ref(&somewhere)),
        named(&Identity::from_secret([101; 32]).unwrap().peer_id().to_bytes(), &[nowhere]),
    ];
    let says = move |question: &[u8]| {
        // Hundreds more, none of which there is.
        let more = (0..250u32).map(|n| {
            let secret = key(n).as_bytes().to_owned();
            named(&Identity::from_secret(secret).unwrap().peer_id().to_bytes(), &[])
        });
        let all: Vec<Vec<u8>> = nearer.iter().cloned().chain(more).collect();
        Some(answer(kad_of(question), &all))
    };
    let liar = Liar::start(100, says).await;
    assert_eq!(liar.peer_id, liar_id);
    node.overlay.peers.connect(liar.addr.clone()).await.unwrap();
    node.wait_for("the liar", |c| c.routing_table == 1).await.unwrap();
    assert_eq!(node.overlay.dht.closest_peers(key(1)).await, Ok(vec![liar_id]));
    let dropped = |reason: &str| {
        node.metric(&format!("nsn_p2p_kademlia_answers_dropped_total{{reason=\"{reason}\"}}"))
    };
    for (reason, at_least) in [
        ("too_many", 235.0),
        ("no_peer", 1.0),
        ("key_type", 1.0),
        ("address", 1.0),
        ("no_address", 16.0),
        ("local", 1.0),
        ("itself", 1.0),
    ] {
        assert!(dropped(reason) >= at_least, "{reason}: {}", dropped(reason));
    }
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn peers_that_do_not_exist_end_a_lookup_and_not_a_node() {
    // Every question is answered with 20 more peers, all invented, ever nearer or not.
    let says = |question: &[u8]| {
        let seed = blake3::hash(question);
        let invented: Vec<Vec<u8>> = (0..20u8)
            .map(|n| {
                let secret = blake3::derive_key("invented", &[seed.as_bytes(), &[n][..]].concat());
                let peer = Identity::from_secret(secret).unwrap().peer_id();
                let port = 1 + u64::from_le_bytes(secret[..8].try_into().unwrap()) / 2;
                named(&peer.to_bytes(), &[format!("/memory/{port}").parse().unwrap()])
            })
            .collect();
        Some(answer(kad_of(question), &invented))
    };
    let liar = Liar::start(100, says).await;
    let node = knowing(vec![liar.addr.clone()], |_| {}).await;
    assert_eq!(node.overlay.dht.find_providers(key(1), 1).await, Ok(vec![]));
    let unreachable = "nsn_p2p_kademlia_questions_failed_total{reason=\"unreachable\"}";
    assert!(node.metric(unreachable) >= 20.0);
    assert_eq!(node.overlay.dht.status().await.unwrap().lookups, 0);
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_record_that_was_not_kept_is_not_announced() {
    // It reads all that is sent, and keeps nothing.
    let forgets = |question: &[u8]| match kad_of(question) {
        FIND_NODE => Some(answer(FIND_NODE, &[])),
        GET_PROVIDERS => Some(answer(GET_PROVIDERS, &[])),
        _ => Some(answer(GET_VALUE, &[])),
    };
    let liar = Liar::start(100, forgets).await;
    let node = knowing(vec![liar.addr.clone()], |_| {}).await;
    assert_eq!(provide(&node, key(1)).await, Announced::Pending);
    assert_eq!(node.metric("nsn_p2p_kademlia_provider_records_published"), 0.0);
    // Honest ones come: two of three are a majority.
    let address = node.address().await.unwrap();
    let others = [2, 3].map(|n| start(n, vec![address.clone()], |_| {}));
    node.wait_for_metric("nsn_p2p_kademlia_provider_records_published", 1.0).await.unwrap();
    for other in others {
        other.stop().await.unwrap().unwrap();
    }
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn one_peer_is_asked_a_few_questions_at_a_time() {
    let (told, mut asked) = mpsc::unbounded_channel();
    // It never answers, so what it was asked is what it is being asked.
    let silent = Liar::start(100, move |question| {
        // What the node asks to fill its table takes no stream for long.
        if kad_of(question) != GET_PROVIDERS {
            return Some(answer(FIND_NODE, &[]));
        }
        told.send(()).unwrap();
        None
    })
    .await;
    let few = |config: &mut Config| {
        config.dht.streams_per_connection = 3;
        config.dht.peer_timeout = Duration::from_secs(10);
    };
    let node = knowing(vec![silent.addr.clone()], few).await;
    let dht = node.overlay.dht.clone();
    let finding = tokio::spawn(async move {
        let find = (0..20).map(|n| dht.find_providers(key(n), 1));
        futures::future::join_all(find).await
    });
    for _ in 0..3 {
        asked.recv().await.unwrap();
    }
    node.wait_for_metric("nsn_p2p_kademlia_questions_in_flight", 20.0).await.unwrap();
    let another = tokio::time::timeout(Duration::from_millis(300), asked.recv()).await;
    assert!(another.is_err(), "the others wait for a stream");
    node.stop().await.unwrap().unwrap();
    for found in finding.await.unwrap() {
        assert!(matches!(found, Err(FindError::Closed(_))));
    }
}

#[tokio::test]
async fn a_stream_that_was_closed_meanwhile_is_replaced_and_none_keeps_a_connection_open() {
    // It closes each stream once it has answered, while the node keeps it for the next question.
    let closes = Liar::start(100, |question| Some(answer(kad_of(question), &[]))).await;
    let keeps = |config: &mut Config| {
        config.bootstrap.min_peers = 0;
        config.dht.stream_idle = Duration::from_secs(600);
        config.peers.idle_timeout = Duration::from_millis(500);
    };
    let node = start(1, vec![], keeps);
    node.overlay.peers.connect(closes.addr.clone()).await.unwrap();
    node.wait_for("its peer", |c| c.routing_table == 1).await.unwrap();
    for n in 0..20 {
        assert_eq!(node.overlay.dht.find_providers(key(n), 1).await, Ok(vec![]));
    }
    for reason in ["broken", "timeout", "unreachable"] {
        let sample = format!("nsn_p2p_kademlia_questions_failed_total{{reason=\"{reason}\"}}");
        assert_eq!(node.metric(&sample), 0.0, "{reason}");
    }
    node.wait_for("the idle connection to close", |c| c.connected == 0).await.unwrap();
    // It is dialled again when there is something to ask.
    assert_eq!(node.overlay.dht.find_providers(key(20), 1).await, Ok(vec![]));
    node.stop().await.unwrap().unwrap();
}
