//! The load tool as whoever runs it has it: a process, its arguments and its lines.

use nsn_p2p::{
    Config, Identity,
    gossip::Topic,
    testnet::{self, Node},
};
use serde_json::Value;
use std::{process::Stdio, sync::Arc};
use tokio::process::Command;

const SWARM: &str = env!("CARGO_BIN_EXE_nsn-swarm");

async fn swarm(args: &[&str]) -> (bool, Vec<Value>, String) {
    let output = Command::new(SWARM).args(args).stdin(Stdio::null()).output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (output.status.success(), lines, String::from_utf8(output.stderr).unwrap())
}

async fn load_and_compare(listen: &str) {
    let config = Config { listen: vec![listen.parse().unwrap()], ..testnet::config() };
    let identity = Identity::from_secret([1; 32]).unwrap();
    let node = Node::start(config, identity, testnet::GENESIS, &Arc::default()).unwrap();
    let address = node.address().await.unwrap().to_string();
    let mut heard = node.overlay.gossip.subscribe(Topic::Tasks).unwrap();
    let hearing = tokio::spawn(async move {
        let mut authors = std::collections::HashMap::<_, u64>::new();
        while let Some(message) = heard.recv().await {
            assert_eq!(message.payload.len(), 100);
            *authors.entry(message.author).or_default() += 1;
        }
        authors
    });
    let args = [
        "--against",
        &address,
        "--topic",
        "tasks",
        "--peers",
        "8",
        "--rate",
        "40",
        "--size",
        "100",
        "--ramp",
        "0",
        "--misbehave",
        "malformed",
        "--duration",
        "2",
        "--linger",
        "0.5",
    ];
    let (success, lines, stderr) = swarm(&args).await;
    assert!(success, "{stderr}");
    let malformed =
        "nsn_p2p_gossipsub_messages_refused_total{reason=\"malformed\",topic=\"tasks\"}";
    assert!(node.metric(malformed) >= 1.0);
    node.stop().await.unwrap().unwrap();
    let authors = hearing.await.unwrap();

    assert_eq!(lines[0]["event"], "start");
    assert_eq!(lines[0]["misbehaving"][0]["kind"], "Malformed");
    let (summary, seconds) = lines[1..].split_last().unwrap();
    assert_eq!(summary["event"], "summary");
    assert!(seconds.len() >= 2 && seconds.iter().all(|line| line["event"] == "second"));
    assert_eq!(authors.len(), 8, "the flooder is none of them");
    assert_eq!(summary["published"], authors.values().sum::<u64>(), "{summary}");
    assert_eq!(summary["errors"], serde_json::json!({}));
    // The mesh of the node passes on to light peers what others of them wrote.
    assert!(summary["delivered"].as_u64().unwrap() > 0, "{summary}");
    assert!(summary["latency_ms"]["p99"].as_f64().unwrap() > 0.0, "{summary}");
    let sum: u64 = seconds.iter().map(|line| line["published"].as_u64().unwrap()).sum();
    assert!(sum <= summary["published"].as_u64().unwrap());
}

#[tokio::test]
async fn what_the_load_tool_says_is_what_a_node_on_tcp_saw() {
    load_and_compare("/ip4/127.0.0.1/tcp/0").await;
}

#[tokio::test]
async fn what_the_load_tool_says_is_what_a_node_on_quic_saw() {
    load_and_compare("/ip4/127.0.0.1/udp/0/quic-v1").await;
}

#[tokio::test]
async fn without_a_target_the_load_tool_brings_a_node_of_its_own() {
    let (success, lines, stderr) =
        swarm(&["--peers", "3", "--ramp", "0", "--duration", "1", "--linger", "0.2"]).await;
    assert!(success, "{stderr}");
    let summary = lines.last().unwrap();
    assert_eq!(summary["connected"], 3, "{summary}");
    assert!(summary["published"].as_u64().unwrap() >= 5, "{summary}");
}

#[tokio::test]
async fn the_load_tool_attacks_no_public_address() {
    let target = "/ip4/8.8.8.8/tcp/9000/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
    let (success, lines, stderr) = swarm(&["--against", target]).await;
    assert!(!success && lines.is_empty());
    assert!(stderr.contains("test networks only"), "{stderr}");
}
