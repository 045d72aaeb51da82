//! Light peers against gossipsub itself, which judges their wire.

use crate::{
    args::{Args, Target},
    link::stamped,
    swarm,
};
use clap::Parser;
use futures::StreamExt;
use libp2p::{
    Swarm, Transport,
    core::upgrade::Version,
    gossipsub::{self, IdentTopic, MessageAuthenticity, ValidationMode},
    identity::Keypair,
    noise, swarm as libp2p_swarm,
    swarm::SwarmEvent,
    tcp, yamux,
};
use nsn_p2p::{
    Protocols,
    gossip::{Envelope, Topic, View},
    identity::key_of,
    testnet,
};
use serde_json::Value;
use std::{collections::HashSet, time::Duration};
use tokio_util::sync::CancellationToken;

/// A bare gossipsub node, and where it listens.
async fn gossipsub() -> (Swarm<gossipsub::Behaviour>, Target) {
    let keypair = Keypair::ed25519_from_bytes([9; 32]).unwrap();
    let peer = keypair.public().to_peer_id();
    let config = gossipsub::ConfigBuilder::default()
        .protocol_id_prefix(chain().control())
        .heartbeat_interval(Duration::from_millis(100))
        .heartbeat_initial_delay(Duration::from_millis(100))
        // A promise of 1,000 messages is 22 KB; 16 KiB is the default.
        .max_control_message_size(64 << 10)
        .flood_publish(true)
        .validation_mode(ValidationMode::Permissive)
        .build()
        .unwrap();
    let mut behaviour =
        gossipsub::Behaviour::new(MessageAuthenticity::Author(peer), config).unwrap();
    behaviour.subscribe(&IdentTopic::new(Topic::Tasks.name())).unwrap();
    let transport = tcp::tokio::Transport::new(tcp::Config::default())
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(&keypair).unwrap())
        .multiplex(yamux::Config::default())
        .boxed();
    let config = libp2p_swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(Duration::from_secs(60));
    let mut swarm = Swarm::new(transport, behaviour, peer, config);
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            let target = address.with_p2p(peer).unwrap().to_string().parse().unwrap();
            return (swarm, target);
        }
    }
}

fn chain() -> Protocols {
    Protocols::new(&testnet::GENESIS)
}

/// Whether the author of a message has sealed it.
fn is_sealed(message: &gossipsub::Message) -> bool {
    let key = key_of(&message.source.unwrap()).unwrap();
    View::of(&message.data).unwrap().is_signed_by(&key, &chain(), message.topic.as_str())
}

/// Runs a swarm against a node that gossipsub alone makes; gives back what its `observe` made of the
/// node's events, and the lines.
async fn against(
    args: &[&str],
    mut observe: impl FnMut(&mut Swarm<gossipsub::Behaviour>, gossipsub::Event),
) -> Vec<Value> {
    let (mut node, target) = gossipsub().await;
    let args = [&["nsn-swarm", "--topic", "tasks"], args].concat();
    let mut out = Vec::new();
    {
        let run = swarm::run(Args::parse_from(args), target, &mut out, CancellationToken::new());
        tokio::pin!(run);
        loop {
            tokio::select! {
                ended = &mut run => break ended.unwrap(),
                event = node.select_next_some() => {
                    if let SwarmEvent::Behaviour(event) = event {
                        observe(&mut node, event);
                    }
                }
            }
        }
    }
    String::from_utf8(out).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn last(lines: &[Value]) -> &Value {
    let last = lines.last().unwrap();
    assert_eq!(last["event"], "summary");
    last
}

#[tokio::test]
async fn gossipsub_takes_what_is_sealed_here_and_is_heard() {
    let (mut got, mut authors) = (0, HashSet::new());
    let lines = against(
        &["--peers", "5", "--rate", "50", "--duration", "2", "--linger", "0.5"],
        |node, event| {
            if let gossipsub::Event::Message { message, .. } = event {
                assert_eq!(View::of(&message.data).unwrap().payload.len(), 256);
                assert!(is_sealed(&message));
                authors.insert(message.source.unwrap());
                got += 1;
                if got == 20 {
                    // One of the node's own, to all of them.
                    let now = crate::link::unix_now();
                    let ms = u64::try_from(now.as_millis()).unwrap();
                    let key = Keypair::ed25519_from_bytes([9; 32]).unwrap();
                    let envelope = Envelope::new(stamped(now, 64), ms, 1000);
                    let bytes = envelope.sealed(&chain(), message.topic.as_str(), &key).unwrap();
                    node.behaviour_mut().publish(message.topic, bytes).unwrap();
                }
            }
        },
    )
    .await;
    let summary = last(&lines);
    assert_eq!(summary["published"], got);
    assert_eq!((authors.len(), summary["connected"].as_u64()), (5, Some(5)));
    assert!(got >= 60, "{got}");
    assert!(summary["grafts"].as_u64().unwrap() > 0, "{summary}");
    assert!(summary["delivered"].as_u64().unwrap() >= 5, "{summary}");
    assert!(summary["latency_ms"]["p50"].as_f64().unwrap() > 0.0, "{summary}");
    assert_eq!(summary["errors"], serde_json::json!({}));
}

#[tokio::test]
async fn promises_are_asked_for_and_bad_signatures_are_bad() {
    let mut bad = 0;
    let lines = against(
        &[
            "--peers",
            "0",
            "--misbehave",
            "ihave",
            "--misbehave",
            "bad-signature",
            "--bad-rate",
            "5",
            "--duration",
            "1.5",
            "--linger",
            "0.2",
        ],
        |_, event| {
            if let gossipsub::Event::Message { message, .. } = event {
                assert!(!is_sealed(&message));
                bad += 1;
            }
        },
    )
    .await;
    let summary = last(&lines);
    assert!(summary["wanted"].as_u64().unwrap() >= 1000, "{summary}");
    assert!(summary["abuse"].as_u64().unwrap() >= 8, "{summary}");
    assert!(bad >= 4, "{bad}");
    assert_eq!(lines[0]["misbehaving"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn an_oversized_frame_closes_the_stream_and_the_peer_comes_back() {
    let lines = against(
        &["--peers", "0", "--misbehave", "oversized", "--duration", "1.5", "--linger", "0"],
        |_, _| {},
    )
    .await;
    let summary = last(&lines);
    assert!(summary["errors"]["stream"].as_u64().unwrap() >= 1, "{summary}");
    assert!(summary["connects"].as_u64().unwrap() >= 2, "{summary}");
}

#[tokio::test]
async fn churn_and_bursts_connect_from_their_own_addresses_and_leave() {
    let lines = against(
        &["--peers", "0", "--burst", "20", "--churn", "20", "--duration", "1", "--linger", "1.5"],
        |_, _| {},
    )
    .await;
    let summary = last(&lines);
    let connects = summary["connects"].as_u64().unwrap();
    assert!((35..=45).contains(&connects), "{summary}");
    assert_eq!(summary["attempts"], connects, "{summary}");
    assert_eq!(summary["connected"], 20, "the burst is held, the churn is gone");
}
