//! What `nsn-node doctor` says of real nodes, and where there is none.

use std::process::Output;

use serde_json::Value;

use crate::{
    harness::{Node, Setup, free_port, run},
    main_job::{origin, relay_setup},
};

async fn examine(url: &str, args: &[&str]) -> Output {
    run(&[&["doctor", "--rpc-url", url], args].concat()).await
}

fn code(out: &Output) -> i32 {
    out.status.code().unwrap()
}

fn json(out: &Output) -> Value {
    serde_json::from_slice(&out.stdout).unwrap()
}

/// The finding of that name: its verdict, what it says, and the whole of it.
fn finding<'a>(report: &'a Value, check: &str) -> (&'a str, &'a str, &'a Value) {
    let findings = report["findings"].as_array().unwrap();
    let found = findings.iter().find(|finding| finding["check"] == check);
    let found = found.unwrap_or_else(|| panic!("no finding {check} in {report}"));
    (found["verdict"].as_str().unwrap(), found["says"].as_str().unwrap(), found)
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_tells_of_a_running_relay_what_works_in_text_and_json() {
    let dir = tempfile::tempdir().unwrap();
    let origin = origin(dir.path());
    let relay = Node::start(&relay_setup(dir.path(), &origin, &[]).await);
    relay.wait_overlay_peers(1).await;
    relay.shard_addr().await;
    relay.wait_height(2).await;

    let out = examine(&relay.rpc_url, &["--json"]).await;
    let report = json(&out);
    assert_eq!(code(&out), 0, "{report:#}");
    assert_eq!(report["node"]["answered"], true);
    let peer = relay.call("p2p_v1_status", jsonrpsee::rpc_params![]).await["peer_id"].clone();
    assert_eq!(report["node"]["peer_id"], peer);
    for check in ["chain", "clock", "peers", "directory", "shard_service", "cache"] {
        let (verdict, says, _) = finding(&report, check);
        assert_eq!(verdict, "ok", "{check}: {says}");
    }
    let (_, _, peers) = finding(&report, "peers");
    assert_eq!(peers["facts"]["connected_peers"], 1);
    // None is named, so there is something to do; and no router is asked on a chain for tests.
    let (verdict, _, stun) = finding(&report, "stun");
    assert_eq!(verdict, "note");
    assert!(stun["do"].as_str().unwrap().contains("overlay.nat.stun.servers"), "{stun}");

    let text = examine(&relay.rpc_url, &[]).await;
    assert_eq!(code(&text), 0);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("peers: 1 overlay peer: "), "{text}");
    assert!(text.contains("What to do: "), "{text}");
    assert!(text.lines().last().unwrap().starts_with("In short: "), "{text}");

    // A relay that nobody is connected to, on a chain that should have peers.
    assert!(origin.stop().1.success());
    let gone = |health: &Value| health["peers"] == 0;
    relay.call_until("system_health", jsonrpsee::rpc_params![], gone).await;
    let out = examine(&relay.rpc_url, &["--json"]).await;
    let report = json(&out);
    let (verdict, says, _) = finding(&report, "chain");
    assert_eq!(verdict, "problem", "{says}");
    assert_eq!(code(&out), 1, "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_says_that_the_overlay_is_off_and_what_a_strict_rpc_keeps_to_itself() {
    let dir = tempfile::tempdir().unwrap();
    let without = Node::start(&Setup::dev(&dir.path().join("a"), &["--no-overlay"]));
    let report = json(&examine(&without.rpc_url, &["--json"]).await);
    let (verdict, says, _) = finding(&report, "overlay");
    assert_eq!(verdict, "warning");
    assert!(says.contains("--no-overlay"), "{says}");
    drop(without);

    let strict = Node::start(&Setup::dev(&dir.path().join("b"), &["--rpc-methods=safe"]));
    strict.overlay_addrs().await;
    let out = examine(&strict.rpc_url, &["--json"]).await;
    let report = json(&out);
    let (verdict, _, breakers) = finding(&report, "breakers");
    assert_eq!(verdict, "unknown");
    assert!(breakers["do"].as_str().unwrap().contains("--rpc-methods safe"), "{breakers}");
    let (verdict, says, _) = finding(&report, "peers");
    assert_eq!(verdict, "note", "a development chain may well be one node: {says}");
    assert_eq!(code(&out), 0, "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_without_a_node_says_so_and_looks_at_settings_and_ports() {
    let dir = tempfile::tempdir().unwrap();
    let held = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let held_at = held.local_addr().unwrap();
    let url = format!("http://127.0.0.1:{}", free_port());
    let shards = format!("--shard-listen-addr={held_at}");
    let overlay = format!("--overlay-listen-addr=/ip4/127.0.0.1/udp/{}/quic-v1", free_port());
    let args = ["--relay", &shards, &overlay];
    let out = examine(&url, &[&args[..], &["--json"]].concat()).await;
    assert_eq!(code(&out), 2);
    let report = json(&out);
    assert_eq!(report["node"]["answered"], false);
    let (verdict, says, node) = finding(&report, "node");
    assert_eq!(verdict, "problem");
    assert!(says.contains(&url), "{says}");
    assert!(node["do"].as_str().unwrap().contains("--rpc-url"), "{node}");
    let (verdict, says, _) = finding(&report, "ports");
    assert_eq!(verdict, "warning");
    assert!(says.contains(&format!("UDP {held_at}")), "{says}");
    assert_eq!(finding(&report, "settings").0, "ok");

    drop(held);
    let text = examine(&url, &args).await;
    assert_eq!(code(&text), 2);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("No node answers at"), "{text}");
    assert!(text.contains("ports: All ports that the settings name are free."), "{text}");

    let config = dir.path().join("nsn.toml");
    std::fs::write(&config, "relai = true\n").unwrap();
    let out = examine(&url, &["--json", "--nsn-config", config.to_str().unwrap()]).await;
    assert_eq!(code(&out), 2);
    let report = json(&out);
    let (verdict, says, _) = finding(&report, "settings");
    assert_eq!(verdict, "problem");
    assert!(says.contains("relai"), "{says}");
}
