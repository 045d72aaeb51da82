//! Relays found by their region, through the directory, by a node that was told of none; and a relay that
//! is told of no region and no content.

use jsonrpsee::rpc_params;
use pallet_reputation::Outcome;
use sp_core::crypto::Ss58Codec as _;
use sp_keyring::Sr25519Keyring::{Alice, Bob};

use crate::{
    harness::{Node, Setup, get, make_file, publish, run, same},
    main_job::{origin, relay_setup_at},
    reputation::{genesis, submit},
    tx,
};

/// Waits until `relay` says that it is listed under its region, or that it is not.
async fn wait_listed(relay: &Node, listed: bool) {
    let says = |status: &serde_json::Value| status["region"]["listed"] == listed;
    relay.call_until("relay_v1_status", rpc_params![], says).await;
}

/// Asks `node` for the relays of `eu` until it finds so many.
async fn wait_found(node: &Node, count: usize) -> serde_json::Value {
    let found = |found: &serde_json::Value| found.as_array().is_some_and(|all| all.len() == count);
    node.call_until("relay_v1_find", rpc_params!["eu"], found).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_relay_is_found_by_its_region_while_it_serves_and_an_unbound_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let node = origin(dir.path());
    let secret = [43; 32];
    let node_key = hex::encode(secret);
    let args = ["--region", "eu", "--node-key", &node_key];
    let relay = Node::start(&relay_setup_at(&dir.path().join("bound"), &node, &args).await);
    let unbound = relay_setup_at(&dir.path().join("unbound"), &node, &["--region", "eu"]).await;
    let unbound = Node::start(&unbound);
    node.wait_overlay_peers(2).await;
    for relay in [&relay, &unbound] {
        relay.wait_log("no account answers for this node's key");
        wait_listed(relay, false).await;
    }
    wait_found(&node, 0).await;

    submit(&node, tx::bind(&secret, Bob, genesis(&node).await), Bob, 0).await;
    wait_listed(&relay, true).await;
    let found = wait_found(&node, 1).await;
    let found = &found[0];
    let status = relay.call("p2p_v1_status", rpc_params![]).await;
    assert_eq!(found["peer_id"], status["peer_id"]);
    assert_eq!(found["account"], Bob.to_account_id().to_ss58check());
    assert_eq!((&found["seeder_score"], &found["region"]), (&500.into(), &"eu".into()));
    assert_eq!(found["shard_addrs"][0], relay.shard_addr().await);
    assert_eq!(found["load"], 0);
    wait_listed(&unbound, false).await;

    // A relay asks for its own region if for none.
    let own = relay.call("relay_v1_find", rpc_params![]).await;
    assert_eq!(own[0]["peer_id"], status["peer_id"]);
    for (params, said) in [
        (rpc_params![], "--region"),
        (rpc_params!["EU"], "1 to 32"),
        (rpc_params!["eu", 0], "at least 1"),
    ] {
        let error = node.try_call("relay_v1_find", params).await.unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }

    // A viewer needs the region and any node.
    let file = dir.path().join("film");
    make_file(&file, 2_500_000);
    let id = publish(&node, &file).await["content_id"].as_str().unwrap().to_owned();
    let out = dir.path().join("out");
    let out = out.to_str().unwrap();
    let get = async |region: &str| {
        let args = ["content", "get", &id, "--region", region, "--rpc", &node.rpc_url, "-o", out];
        run(&[&args[..], &["--json"]].concat()).await
    };
    let some = |found: &serde_json::Value| found.as_array().is_some_and(|all| !all.is_empty());
    relay.call_until("content_v1_findProviders", rpc_params![&id, 1], some).await;
    let fetched = get("eu").await;
    assert!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stderr));
    let fetched: serde_json::Value = serde_json::from_slice(&fetched.stdout).unwrap();
    assert_eq!(fetched["from"], found["shard_addrs"][0]);
    assert!(same(&file, out.as_ref()));
    let nowhere = get("us").await;
    assert!(!nowhere.status.success());
    let said = String::from_utf8_lossy(&nowhere.stderr);
    assert!(said.contains("no relay in region us") && said.contains(&node.rpc_url), "{said}");

    // Low reputation takes it off the list, and earning it back puts it there again.
    submit(&node, tx::record(Bob, Outcome::AuditFailed, 7), Alice, 0).await;
    wait_listed(&relay, false).await;
    wait_found(&node, 0).await;
    submit(&node, tx::record(Bob, Outcome::AuditPassed, 40), Alice, 1).await;
    wait_listed(&relay, true).await;
    wait_found(&node, 1).await;

    assert!(relay.stop().1.success());
    wait_found(&node, 0).await;
    assert!(unbound.stop().1.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_takes_the_region_of_a_super_node_that_is_answered_for_and_fetches_what_it_announces()
 {
    let dir = tempfile::tempdir().unwrap();
    let secret = [44; 32];
    let node_key = hex::encode(secret);
    let args = [
        "--alice",
        "--validator",
        "--force-authoring",
        "--super-node",
        "--rpc-methods=unsafe",
        "--region",
        "eu",
        "--node-key",
        &node_key,
    ];
    let node = Node::start(&Setup::dev(&dir.path().join("origin"), &args));
    let relay = Node::start(&relay_setup_at(&dir.path().join("relay"), &node, &[]).await);
    node.wait_overlay_peers(1).await;
    relay.wait_log("In no region yet");
    let status = relay.call("relay_v1_status", rpc_params![]).await;
    assert!(status["region"].is_null(), "nobody answers for the super-node: {status}");

    submit(&node, tx::bind(&secret, Bob, genesis(&node).await), Bob, 0).await;
    let found = |status: &serde_json::Value| status["region"]["name"] == "eu";
    let status = relay.call_until("relay_v1_status", rpc_params![], found).await;
    assert_eq!(status["region"]["set"], false);
    assert_eq!(status["relay"]["region"]["measured"][0]["region"], "eu");
    relay.wait_log("no account answers for this node's key");

    let file = dir.path().join("film");
    make_file(&file, 2_500_000);
    let id = publish(&node, &file).await["content_id"].as_str().unwrap().to_owned();
    // The manifest and three shards, before anybody has asked for one.
    let warm = |status: &serde_json::Value| status["relay"]["cache"]["entries"] == 4;
    let status = relay.call_until("relay_v1_status", rpc_params![], warm).await;
    assert_eq!(status["relay"]["prefetch"]["announced"], 4);
    assert_eq!(status["relay"]["misses"], 0);
    let out = dir.path().join("out");
    get(&id, &relay.shard_addr().await, &out).await.unwrap();
    assert!(same(&file, &out));
    let used = |status: &serde_json::Value| status["relay"]["prefetch"]["used"] == 4;
    let status = relay.call_until("relay_v1_status", rpc_params![], used).await;
    assert_eq!(
        (&status["relay"]["misses"], &status["relay"]["upstream_fetches"]),
        (&0.into(), &4.into())
    );
}
