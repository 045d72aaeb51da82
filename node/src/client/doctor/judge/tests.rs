//! Each finding, raised and not raised; and that no answer is too strange.

use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};

use super::{
    judge,
    local::{self, Local, Port, PortState},
    port_of,
};
use crate::client::doctor::{
    answers::{Answer, Answers},
    report::{Asked, Finding, Report, Verdict},
};

const SLOT_MS: u64 = 3000;

/// A node of a public chain with which all is well.
fn healthy() -> Value {
    json!({
        "chain_type": "Live",
        "health": { "peers": 8, "isSyncing": false, "shouldHavePeers": true },
        "head": { "number": "0x64", "digest": { "logs": [slot(1000)] } },
        "overlay": {
            "peer_id": "12D3", "connected_peers": 10, "connections": 11, "connection_limit": 256,
            "listen_addrs": ["/ip4/0.0.0.0/udp/9000/quic-v1", "/ip4/0.0.0.0/tcp/9000"],
            "admission": { "inbound": 4, "inbound_limit": 204, "outbound": 7 },
            "refused": {},
            "directory": {
                "mode": "server", "routing_table": 9, "provided": 5, "unannounced": 0, "records": 40,
                "sweep": { "lag_seconds": 0, "network_size": 50 },
            },
        },
        "nat": {
            "state": "public", "confidence": 75, "nat": "none", "public_ip": "8.8.8.8",
            "dial_back_servers": true,
            "addresses": [{
                "address": "/ip4/8.8.8.8/udp/9000/quic-v1", "standing": "confirmed", "for_secs": 60,
                "known_from": ["listener"], "reached_by": 2, "failures": 0,
            }],
            "mappings": [], "mapping_asks": [],
            "stun": [
                { "server": "a:1", "last": "answered", "mapped": "8.8.8.8:7", "took_ms": 20 },
                { "server": "b:1", "last": "answered", "mapped": "8.8.8.8:7", "took_ms": 30 },
            ],
            "connections": [{ "method": "direct" }, { "method": "punched" }],
            "reservations": [], "reservations_wanted": 0,
            "circuits": { "offered": true, "reservations": 3, "carried": 1 },
        },
        "breakers": [],
        "shards": {
            "phase": "serving", "listen_addrs": ["/ip4/8.8.8.8/udp/9003/quic-v1"], "viewers": 2,
            "region": { "name": "eu", "set": true, "listed": true },
            "relay": { "cache": { "bytes": 5, "capacity": 100, "pinned_bytes": 0 }, "hits": 3, "misses": 1 },
        },
    })
}

/// The digest item of a block of this slot.
fn slot(slot: u64) -> String {
    format!("0x066175726120{}", hex::encode(slot.to_le_bytes()))
}

/// As `ask` reads them; what cannot be read has failed.
fn read(from: &Value) -> Answers {
    fn one<T: serde::de::DeserializeOwned>(from: &Value, key: &str) -> Answer<T> {
        match from.get(key).cloned().map(serde_json::from_value) {
            Some(Ok(answer)) => Answer::Is(answer),
            Some(Err(error)) => Answer::Failed(error.to_string()),
            None => Answer::Down(format!("the {key} is not running")),
        }
    }
    Answers {
        chain_type: one(from, "chain_type"),
        health: one(from, "health"),
        head: one(from, "head"),
        slot_ms: Some(SLOT_MS),
        now_ms: 1000 * SLOT_MS + 500,
        overlay: one(from, "overlay"),
        nat: one(from, "nat"),
        breakers: one(from, "breakers"),
        shards: one(from, "shards"),
    }
}

/// Behind a NAT of this kind, not reached directly; so many relays hold a place.
fn behind(state: &str, kind: &str, held: usize) -> Value {
    let mut node = healthy();
    node["nat"]["state"] = state.into();
    node["nat"]["nat"] = kind.into();
    node["nat"]["addresses"] = json!([]);
    node["nat"]["reservations"] = vec![json!({}); held].into();
    node["nat"]["reservations_wanted"] = 2.into();
    node["nat"]["circuits"]["offered"] = false.into();
    node
}

fn find(node: &Value, check: &str) -> Option<Finding> {
    let findings = judge(&read(node));
    let these: Vec<&Finding> = findings.iter().filter(|finding| finding.check == check).collect();
    assert!(these.len() <= 1, "{check} is said twice");
    these.first().map(|finding| (*finding).clone())
}

/// The finding has this verdict and says this; what it advises.
#[track_caller]
fn expect(node: &Value, check: &str, verdict: Verdict, says: &str) -> String {
    let found = find(node, check).unwrap_or_else(|| panic!("no finding {check}"));
    assert_eq!(found.verdict, verdict, "{found:?}");
    assert!(found.says.contains(says), "{found:?}");
    found.advice.unwrap_or_default()
}

/// The healthy node with one value changed.
fn with(path: &str, value: Value) -> Value {
    let mut node = healthy();
    set(&mut node, path, value);
    node
}

fn set(node: &mut Value, path: &str, value: Value) {
    *node.pointer_mut(path).unwrap_or_else(|| panic!("no {path}")) = value;
}

#[test]
fn of_a_healthy_node_all_is_well() {
    let findings = judge(&read(&healthy()));
    let bad: Vec<&Finding> = findings.iter().filter(|f| f.verdict != Verdict::Ok).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert_eq!(findings.len(), 19);
    assert!(findings.iter().all(|finding| finding.advice.is_none()));
    let report = Report::new(Asked { answered: true, ..Asked::default() }, findings);
    assert_eq!((report.code(), report.summary.as_str()), (0, "all is well"));
}

#[test]
fn a_chain_without_peers_or_new_blocks_is_told() {
    let none = json!({ "peers": 0, "isSyncing": false, "shouldHavePeers": true });
    let advice = expect(&with("/health", none), "chain", Verdict::Problem, "no peer");
    assert!(advice.contains("--bootnodes"), "{advice}");
    let alone = json!({ "peers": 0, "isSyncing": false, "shouldHavePeers": false });
    expect(&with("/health", alone), "chain", Verdict::Ok, "0 other peers");
    let syncing = json!({ "peers": 2, "isSyncing": true, "shouldHavePeers": true });
    expect(&with("/health", syncing), "chain", Verdict::Note, "being fetched");
    let old = with("/head/digest/logs/0", slot(1000 - 21).into());
    expect(&old, "chain", Verdict::Warning, "63 s old");
    assert_eq!(find(&old, "clock"), None, "it is not known whose fault that is");
    expect(&with("/head/digest/logs/0", slot(1000 - 19).into()), "chain", Verdict::Ok, "runs");
}

#[test]
fn a_slow_clock_is_told() {
    expect(&healthy(), "clock", Verdict::Ok, "agrees");
    let future = with("/head/digest/logs/0", slot(1010).into());
    let advice = expect(&future, "clock", Verdict::Problem, "29 s in the future");
    assert!(advice.contains("NTP"), "{advice}");
    expect(&with("/head/digest/logs/0", slot(1001).into()), "clock", Verdict::Ok, "agrees");
    assert_eq!(find(&with("/head/digest/logs", json!([])), "clock"), None, "genesis tells nothing");
    expect(
        &with("/head/digest/logs/0", slot(u64::MAX).into()),
        "clock",
        Verdict::Problem,
        "future",
    );
}

#[test]
fn whether_others_reach_the_node_is_told_with_what_to_do() {
    expect(
        &healthy(),
        "reachability",
        Verdict::Ok,
        "address of its own (others have dialled it back",
    );
    expect(&with("/nat/state", "mapped".into()), "reachability", Verdict::Ok, "router maps");
    for (state, kind, says) in [
        ("cone", "port_restricted_cone", "through which holes can be punched"),
        ("symmetric", "symmetric", "another port for each destination"),
        ("udp_blocked", "udp_blocked", "UDP does not get out"),
    ] {
        let advice = expect(&behind(state, kind, 0), "reachability", Verdict::Problem, says);
        assert!(advice.contains("UDP 9000 and TCP 9000"), "{advice}");
        assert!(advice.contains("--overlay-public-addr /ip4/8.8.8.8/udp/9000/quic-v1"), "{advice}");
        expect(&behind(state, kind, 1), "reachability", Verdict::Warning, "1 relay holds a place");
    }
    // A full cone: others reach the address that the NAT shows.
    expect(&with("/nat/state", "cone".into()), "reachability", Verdict::Ok, "lets everybody in");
    expect(&behind("offline", "unknown", 0), "reachability", Verdict::Problem, "offline");
    expect(&behind("unknown", "unknown", 0), "reachability", Verdict::Unknown, "not known yet");
    expect(&behind("new_state", "unknown", 0), "reachability", Verdict::Unknown, "new_state");
}

#[test]
fn the_proof_of_reachability_is_named() {
    let unproved = with("/nat/addresses/0/reached_by", 0.into());
    expect(&unproved, "reachability", Verdict::Ok, "nobody has dialled it back yet");
    let mut given = unproved.clone();
    set(&mut given, "/nat/addresses/0/known_from", json!(["operator"]));
    expect(&given, "reachability", Verdict::Ok, "on your word");
    let mut local = unproved;
    set(&mut local, "/chain_type", "Local".into());
    expect(&local, "reachability", Verdict::Ok, "any address counts");
}

#[test]
fn addresses_that_fail_or_are_told_to_nobody_are_named() {
    expect(
        &healthy(),
        "addresses",
        Verdict::Ok,
        "/ip4/8.8.8.8/udp/9000/quic-v1 (reached by 2 peers)",
    );
    let mut failing = with("/nat/addresses/0/failures", 2.into());
    set(&mut failing, "/nat/addresses/0/standing", "failing".into());
    expect(&failing, "addresses", Verdict::Warning, "fail: /ip4/8.8.8.8");
    let withdrawn = with("/nat/addresses/0/standing", "withdrawn".into());
    expect(&withdrawn, "addresses", Verdict::Note, "reached none of /ip4/8.8.8.8");
    let candidate = with("/nat/addresses/0/standing", "candidate".into());
    expect(&candidate, "addresses", Verdict::Note, "nobody has dialled back yet");
    expect(&with("/nat/addresses", json!([])), "addresses", Verdict::Note, "No address");
    let many = healthy()["nat"]["addresses"][0].clone();
    expect(&with("/nat/addresses", vec![many; 5].into()), "addresses", Verdict::Ok, "and 2 more");
}

#[test]
fn that_nobody_dials_back_is_told_where_it_matters() {
    expect(&healthy(), "dial_back", Verdict::Ok, "can be proved");
    let mut node = behind("cone", "cone", 1);
    set(&mut node, "/nat/dial_back_servers", false.into());
    expect(&node, "dial_back", Verdict::Warning, "No connected peer dials back");
    set(&mut node, "/overlay/connected_peers", 0.into());
    assert_eq!(find(&node, "dial_back"), None, "nobody is connected");
    assert_eq!(
        find(&with("/nat/dial_back_servers", false.into()), "dial_back"),
        None,
        "it is proved"
    );
}

#[test]
fn each_kind_of_nat_says_whom_it_lets_reach() {
    for (kind, verdict, says) in [
        ("none", Verdict::Ok, "No NAT translates"),
        ("full_cone", Verdict::Ok, "lets everybody in"),
        ("restricted_cone", Verdict::Note, "all others by punched holes"),
        ("port_restricted_cone", Verdict::Note, "symmetric NATs through relays only"),
        ("cone", Verdict::Note, "whom it lets in is not known"),
        ("symmetric", Verdict::Warning, "all others through relays only"),
        ("udp_blocked", Verdict::Note, "UDP does not get out"),
        ("unknown", Verdict::Unknown, "not known yet"),
        ("of a new kind", Verdict::Unknown, "not known yet"),
    ] {
        expect(&with("/nat/nat", kind.into()), "nat_type", verdict, says);
    }
}

#[test]
fn blocked_udp_is_a_problem_for_who_serves_shards() {
    expect(&healthy(), "udp", Verdict::Ok, "gets out");
    let mut blocked = behind("udp_blocked", "udp_blocked", 1);
    expect(&blocked, "udp", Verdict::Problem, "viewers beyond this network");
    blocked.as_object_mut().unwrap().remove("shards");
    expect(&blocked, "udp", Verdict::Warning, "over TCP alone");
    assert_eq!(find(&with("/nat/stun", json!([])), "udp"), None, "nothing shows it");
}

#[test]
fn stun_servers_are_told_one_by_one() {
    expect(&healthy(), "stun", Verdict::Ok, "All 2 STUN servers answer and see 8.8.8.8");
    let silent = with("/nat/stun/1/last", "timeout".into());
    expect(&silent, "stun", Verdict::Warning, "1 of 2 STUN servers answer; not: b:1 (no answer)");
    let dead = json!([{ "server": "a:1", "last": "unresolved" }]);
    expect(&with("/nat/stun", dead), "stun", Verdict::Warning, "a:1 (its name leads nowhere)");
    let unasked = json!([{ "server": "a:1", "last": null }]);
    expect(&with("/nat/stun", unasked), "stun", Verdict::Unknown, "not asked yet");
    let liar = with("/nat/stun/1/mapped", "9.9.9.9:7".into());
    expect(&liar, "stun", Verdict::Warning, "8.8.8.8, 9.9.9.9");
    let advice = expect(&with("/nat/stun", json!([])), "stun", Verdict::Note, "No STUN server");
    assert!(advice.contains("overlay.nat.stun.servers"), "{advice}");
}

#[test]
fn the_router_is_told_with_each_protocols_answer() {
    expect(&healthy(), "port_mapping", Verdict::Ok, "none has to");
    let mapping = json!({
        "protocol": "nat_pmp", "transport": "udp", "port": 9000, "external": "8.8.8.8:9000",
        "lease_left_secs": 3000,
    });
    let mut mapped = with("/nat/mappings", json!([mapping]));
    expect(
        &mapped,
        "port_mapping",
        Verdict::Ok,
        "UDP 9000 to 8.8.8.8:9000 by NAT-PMP (for 50 min yet)",
    );
    set(
        &mut mapped,
        "/nat/addresses/0",
        json!({
            "address": "x", "standing": "withdrawn", "known_from": ["router"], "failures": 2,
        }),
    );
    let advice = expect(&mapped, "port_mapping", Verdict::Warning, "nobody gets through");
    assert!(advice.contains("another NAT"), "{advice}");

    let asked = |upnp: Value, pcp: Value| {
        let mut node = behind("cone", "cone", 1);
        set(
            &mut node,
            "/nat/mapping_asks",
            json!([
                { "way": "upnp", "transport": "udp", "port": 9000, "last": upnp },
                { "way": "upnp", "transport": "tcp", "port": 9000, "last": upnp },
                { "way": "pcp", "transport": "udp", "port": 9000, "last": pcp },
            ]),
        );
        node
    };
    let refused = asked("refused".into(), "no_router".into());
    let advice = expect(
        &refused,
        "port_mapping",
        Verdict::Warning,
        "(PCP and NAT-PMP: no router speaks it; UPnP: the router refuses)",
    );
    assert!(advice.contains("forward UDP 9000 and TCP 9000"), "{advice}");
    let advice = expect(
        &asked("impossible".into(), "timeout".into()),
        "port_mapping",
        Verdict::Warning,
        "behind another NAT",
    );
    assert!(advice.contains("provider"), "{advice}");
    expect(&asked(Value::Null, Value::Null), "port_mapping", Verdict::Unknown, "not answered yet");
    let advice =
        expect(&behind("cone", "cone", 1), "port_mapping", Verdict::Note, "No router is asked");
    assert!(advice.contains("mapping.enabled"), "{advice}");
    let mut older = behind("cone", "cone", 1);
    older["nat"].as_object_mut().unwrap().remove("mapping_asks");
    expect(&older, "port_mapping", Verdict::Warning, "No router maps a port of this node.");
}

#[test]
fn reservations_are_told_against_how_many_are_wanted() {
    expect(&healthy(), "reservations", Verdict::Ok, "reached directly");
    expect(&behind("cone", "cone", 2), "reservations", Verdict::Ok, "2 relays hold");
    expect(&behind("cone", "cone", 1), "reservations", Verdict::Note, "1 of 2");
    expect(&behind("cone", "cone", 0), "reservations", Verdict::Warning, "0 of 2");
    let mut never = behind("cone", "cone", 0);
    set(&mut never, "/nat/reservations_wanted", 0.into());
    expect(&never, "reservations", Verdict::Note, "No relay is asked");
    set(&mut never, "/nat/reservations_wanted", Value::Null);
    expect(&never, "reservations", Verdict::Warning, "No relay holds");
    expect(&with("/nat/reservations_wanted", Value::Null), "reservations", Verdict::Ok, "No relay");
}

#[test]
fn what_is_carried_and_how_peers_are_connected_is_told() {
    expect(&healthy(), "circuits", Verdict::Ok, "holds 3 places and carries 1 connection.");
    expect(&behind("cone", "cone", 1), "circuits", Verdict::Note, "no relay for others");
    expect(&healthy(), "connections", Verdict::Ok, "1 direct, 1 punched");
    let relayed = with("/nat/connections", json!([{ "method": "relayed" }]));
    expect(&relayed, "connections", Verdict::Warning, "1 relayed");
    assert_eq!(find(&with("/nat/connections", json!([])), "connections"), None);
}

#[test]
fn peers_and_places_are_told() {
    expect(
        &healthy(),
        "peers",
        Verdict::Ok,
        "10 overlay peers: 4 connections that others opened (of",
    );
    let mut alone = with("/overlay/connected_peers", 0.into());
    let advice = expect(&alone, "peers", Verdict::Problem, "no peer");
    assert!(advice.contains("--overlay-bootnodes"), "{advice}");
    set(&mut alone, "/chain_type", "Development".into());
    expect(&alone, "peers", Verdict::Note, "no peer");
    let full = with("/overlay/connections", 256.into());
    expect(&full, "peers", Verdict::Warning, "All places are taken");
    let full = with("/overlay/admission/inbound", 204.into());
    expect(&full, "peers", Verdict::Warning, "places for those who come are taken");
}

#[test]
fn refusals_are_told_by_reason() {
    expect(&healthy(), "admission", Verdict::Ok, "No connection was refused");
    let refused = |counts: Value| with("/overlay/refused", counts);
    let banned = refused(json!({ "banned": 2, "rate": 7 }));
    expect(&banned, "admission", Verdict::Note, "7 while too many came, 2 of banned peers");
    expect(&refused(json!({ "total": 1 })), "admission", Verdict::Warning, "want of a place");
    let advice =
        expect(&refused(json!({ "own_key": 1 })), "admission", Verdict::Warning, "own key");
    assert!(advice.contains("network key"), "{advice}");
    expect(&refused(json!({ "other_chain": 1 })), "admission", Verdict::Note, "another chain");
    let huge = refused(json!({ "total": u64::MAX, "rate": u64::MAX }));
    expect(&huge, "admission", Verdict::Warning, "want of a place");
    assert_eq!(find(&refused(Value::Null), "admission"), None, "an older node does not tell");
}

#[test]
fn failing_dials_are_told() {
    expect(&healthy(), "breakers", Verdict::Ok, "No peer is left alone");
    let failing = |state: &str, n: usize| {
        with("/breakers", vec![json!({ "state": state, "last_error": "timeout" }); n].into())
    };
    expect(&failing("closed", 3), "breakers", Verdict::Ok, "No peer is left alone");
    expect(&failing("open", 3), "breakers", Verdict::Note, "3 peers are left alone");
    expect(&failing("half_open", 11), "breakers", Verdict::Warning, "(11 timeout)");
    let mut few = failing("open", 4);
    set(&mut few, "/overlay/connected_peers", 1.into());
    expect(&few, "breakers", Verdict::Note, "4 peers are left alone");
    let mut answers = read(&healthy());
    answers.breakers = Answer::Unsafe;
    let findings = judge(&answers);
    let found = findings.iter().find(|finding| finding.check == "breakers").unwrap();
    assert_eq!(found.verdict, Verdict::Unknown);
    assert!(found.advice.as_ref().unwrap().contains("--rpc-methods safe"), "{found:?}");
}

#[test]
fn the_directory_is_told() {
    expect(&healthy(), "directory", Verdict::Ok, "9 peers in its table, 40 records");
    let lonely = with("/overlay/directory/routing_table", 0.into());
    expect(&lonely, "directory", Verdict::Warning, "nobody in its table");
    let mut alone = lonely;
    set(&mut alone, "/overlay/connected_peers", 0.into());
    expect(&alone, "directory", Verdict::Note, "nobody to ask");
    let behind = with("/overlay/directory/unannounced", 3.into());
    expect(&behind, "directory", Verdict::Note, "3 of these keys are not announced yet");
    let late = with("/overlay/directory/sweep/lag_seconds", 7200.into());
    expect(&late, "directory", Verdict::Warning, "2 h late");
    expect(
        &with("/overlay/directory/mode", "client".into()),
        "directory",
        Verdict::Ok,
        "not served",
    );
}

#[test]
fn the_shard_service_is_told_by_its_phase() {
    expect(&healthy(), "shard_service", Verdict::Ok, "serves as relay, with 2 connections");
    for (phase, verdict, says) in [
        ("starting", Verdict::Warning, "does not listen yet"),
        ("draining", Verdict::Warning, "was drained"),
        ("drained", Verdict::Warning, "was drained"),
        ("stopped", Verdict::Problem, "has stopped."),
        ("dreaming", Verdict::Unknown, "dreaming"),
    ] {
        expect(&with("/shards/phase", phase.into()), "shard_service", verdict, says);
    }
    let mut stopped = with("/shards/phase", "stopped".into());
    stopped["shards"]["reason"] = "the disk is gone".into();
    expect(&stopped, "shard_service", Verdict::Problem, "stopped: The disk is gone.");
    let mut neither = healthy();
    neither.as_object_mut().unwrap().remove("shards");
    expect(&neither, "shard_service", Verdict::Note, "--relay and --super-node");
    assert_eq!(find(&neither, "cache"), None);
}

#[test]
fn the_cache_is_told() {
    expect(&healthy(), "cache", Verdict::Ok, "75 % of requests");
    let no_room = with("/shards/relay/cache/capacity", 0.into());
    expect(&no_room, "cache", Verdict::Problem, "no room at all");
    let pinned = with("/shards/relay/cache/pinned_bytes", 90.into());
    expect(&pinned, "cache", Verdict::Warning, "pinned");
    expect(&with("/shards/relay/cache/pinned_bytes", 89.into()), "cache", Verdict::Ok, "holds");
    let unused = with("/shards/relay/hits", 0.into());
    expect(&unused, "cache", Verdict::Ok, "0 % of requests");
}

#[test]
fn the_region_is_told() {
    expect(&healthy(), "region", Verdict::Ok, "in region eu");
    let unlisted = with("/shards/region/listed", false.into());
    let advice = expect(&unlisted, "region", Verdict::Note, "does not list");
    assert!(advice.contains("bind-proof"), "{advice}");
    expect(&with("/shards/region", Value::Null), "region", Verdict::Note, "in no region");
}

#[test]
fn an_overlay_that_does_not_run_is_one_warning() {
    let mut node = healthy();
    for service in ["overlay", "nat", "breakers", "shards"] {
        node.as_object_mut().unwrap().remove(service);
    }
    let advice = expect(&node, "overlay", Verdict::Warning, "The overlay is not running.");
    assert!(advice.contains("--no-overlay"), "{advice}");
    assert_eq!(judge(&read(&node)).len(), 3, "chain and clock besides");
    node["nat"] = healthy()["nat"].clone();
    expect(&node, "overlay", Verdict::Warning, "The overlay is not running.");
    expect(&node, "reachability", Verdict::Ok, "Others can reach");
    let mut strange = healthy();
    strange["nat"] = 5.into();
    expect(&strange, "reachability", Verdict::Unknown, "no answer to this");
    expect(&strange, "peers", Verdict::Ok, "10 overlay peers");
}

#[test]
fn ports_are_read_from_addresses() {
    assert_eq!(port_of("/ip4/0.0.0.0/udp/9000/quic-v1").as_deref(), Some("UDP 9000"));
    assert_eq!(port_of("/ip6/::/tcp/1").as_deref(), Some("TCP 1"));
    for bad in
        ["", "/", "/dns/x/tcp/1", "/ip4/0.0.0.0/tcp/70000", "/ip4/0.0.0.0/sctp/1", "/memory/1"]
    {
        assert_eq!(port_of(bad), None, "{bad}");
    }
}

// Without a node.

fn without(ports: &[PortState], nat: Value) -> Vec<Finding> {
    let port = |state: &PortState| Port {
        name: "UDP 0.0.0.0:9000".to_owned(),
        flag: "--overlay-listen-addr",
        state: state.clone(),
    };
    local::findings(&Local {
        listen_addrs: vec!["/ip4/0.0.0.0/udp/9000/quic-v1".to_owned()],
        ports: ports.iter().map(port).collect(),
        nat: serde_json::from_value(nat).unwrap(),
    })
}

#[test]
fn without_a_node_ports_are_told() {
    for (state, verdict, says) in [
        (PortState::Free, Verdict::Ok, "are free"),
        (PortState::Held, Verdict::Warning, "Held by another program: UDP 0.0.0.0:9000."),
        (PortState::Barred("not here".to_owned()), Verdict::Problem, "UDP 0.0.0.0:9000 (not here)"),
    ] {
        let found = &without(&[PortState::Free, state], json!({}))[0];
        assert_eq!((found.check, found.verdict), ("ports", verdict));
        assert!(found.says.contains(says), "{found:?}");
        let advised =
            found.advice.as_ref().is_some_and(|advice| advice.contains("--overlay-listen-addr"));
        assert_eq!(advised, verdict != Verdict::Ok);
    }
}

#[test]
fn without_a_node_stun_and_router_are_told_if_they_were_asked() {
    assert_eq!(without(&[], json!({})).len(), 1, "nothing was asked");
    let found = without(
        &[],
        json!({
            "nat": "symmetric",
            "stun": [{ "server": "a:1", "last": "answered", "mapped": "8.8.8.8:1" }],
            "routers": [
                { "protocol": "upnp", "failed": "no_router" },
                { "protocol": "nat_pmp", "external_ip": "8.8.8.8" },
            ],
        }),
    );
    let verdicts: Vec<_> = found.iter().map(|finding| (finding.check, finding.verdict)).collect();
    assert_eq!(
        verdicts,
        [
            ("ports", Verdict::Ok),
            ("stun", Verdict::Ok),
            ("nat_type", Verdict::Warning),
            ("port_mapping", Verdict::Ok),
        ]
    );
    assert!(found[3].says.contains("by NAT-PMP (its address: 8.8.8.8)"), "{:?}", found[3]);
    let silent = json!({ "routers": [
        { "protocol": "upnp", "failed": "impossible" }, { "protocol": "nat_pmp", "failed": "timeout" },
    ] });
    let found = &without(&[], silent)[1];
    assert_eq!(found.verdict, Verdict::Warning);
    assert!(found.says.contains("behind another NAT; NAT-PMP: no answer"), "{found:?}");
    assert!(found.advice.as_ref().unwrap().contains("provider"), "{found:?}");
}

#[test]
fn settings_that_cannot_be_read_are_a_problem() {
    assert_eq!(local::settings(Ok(())).verdict, Verdict::Ok);
    let bad = local::settings(Err("no such key".to_owned()));
    assert_eq!((bad.verdict, bad.says.as_str()), (Verdict::Problem, "No such key."));
    let gone = local::unreachable("http://x", "connection refused");
    assert_eq!(gone.says, "No node answers at http://x: Connection refused.");
    assert!(gone.advice.unwrap().contains("--rpc-url"));
}

/// Values as nodes send them, and others.
fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        prop::sample::select(vec![
            "cone",
            "symmetric",
            "public",
            "confirmed",
            "impossible",
            "upnp",
            "open",
            "/ip4/:/udp/",
            ":",
        ])
        .prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!([null, {}, "", 5])),
    ]
}

/// All places of a value, as pointers.
fn places(value: &Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(key, value)| places(value, &format!("{at}/{key}"), all));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, item)| places(item, &format!("{at}/{i}"), all));
        }
        _ => {}
    }
}

proptest! {
    /// Whatever a node answers, there is a report, in text and JSON, each check is in it once, and each
    /// problem and warning says what to do.
    #[test]
    fn no_answer_is_too_strange(
        changes in vec((any::<prop::sample::Index>(), value(), any::<bool>()), 0..12),
        slot_ms in any::<Option<u64>>(),
        now_ms: u64,
    ) {
        let mut node = healthy();
        for (place, value, remove) in changes {
            let mut all = Vec::new();
            places(&node, "", &mut all);
            let at = place.get(&all).clone();
            match at.rsplit_once('/') {
                Some((parent, key)) if remove => {
                    if let Some(Value::Object(fields)) = node.pointer_mut(parent) {
                        fields.remove(key);
                    }
                }
                _ => set(&mut node, &at, value),
            }
        }
        let answers = Answers { slot_ms, now_ms, ..read(&node) };
        let findings = judge(&answers);
        let mut checks: Vec<&str> = findings.iter().map(|finding| finding.check).collect();
        checks.sort_unstable();
        let said = checks.len();
        checks.dedup();
        prop_assert_eq!(said, checks.len());
        for finding in &findings {
            let bad = matches!(finding.verdict, Verdict::Problem | Verdict::Warning);
            prop_assert!(!bad || finding.advice.is_some(), "{:?}", finding);
            prop_assert!(finding.says.ends_with('.'), "{:?}", finding);
        }
        let report = Report::new(Asked { answered: true, ..Asked::default() }, findings);
        prop_assert!(report.code() <= 1);
        prop_assert!(!report.to_string().is_empty());
        prop_assert!(serde_json::to_string(&report).is_ok());
    }
}
