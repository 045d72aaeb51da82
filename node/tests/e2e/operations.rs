//! What operators rely on: a side service's failure never stops the chain, metrics tell, commands work.

use jsonrpsee::rpc_params;

use crate::{
    audits::labelled,
    harness::{Node, PATIENCE, Setup, run},
    main_job::relay_setup,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_service_does_not_stop_blocks_and_the_service_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(&Setup::dev(
        &dir.path().join("node"),
        &["--alice", "--validator", "--force-authoring", "--relay", "--test-panic", "overlay=2"],
    ));
    node.wait_log("overlay: panicked: asked for by --test-panic");
    let height = node.height().await;
    node.wait_height(height + 2).await;
    // Back again: the handle in the slot is a new one, and it answers.
    node.call_until("p2p_v1_status", rpc_params![], |_| true).await;
    assert_eq!(node.metric("nsn_service_failures_total"), 1.0);
    assert_eq!(node.metric("nsn_service_up"), 5.0, "chain view, overlay, relay, wiring, audit");
    assert!(node.stop().1.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_prefer_it_get_an_exit() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(&Setup::dev(
        &dir.path().join("node"),
        &["--alice", "--validator", "--service-failure=exit", "--test-panic", "overlay=1"],
    ));
    node.wait_log("Ending the node, as --service-failure=exit asks");
    let start = std::time::Instant::now();
    while node.try_call("system_name", rpc_params![]).await.is_ok() {
        assert!(start.elapsed() < PATIENCE);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_validator_without_overlay_works_and_says_why_it_has_no_answer() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(&Setup::dev(
        &dir.path().join("node"),
        &["--alice", "--validator", "--force-authoring", "--no-overlay"],
    ));
    node.wait_height(1).await;
    let error = node.try_call("p2p_v1_status", rpc_params![]).await.unwrap_err();
    assert!(error.to_string().contains("--no-overlay"), "{error}");
    let error = node.try_call("relay_v1_status", rpc_params![]).await.unwrap_err();
    assert!(error.to_string().contains("--relay"), "{error}");
    let error = node.try_call("content_v1_publish", rpc_params!["x"]).await.unwrap_err();
    assert!(error.to_string().contains("--super-node"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_of_every_service_stand_on_the_nodes_endpoint_in_a_form_zombienet_reads() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(&Setup::dev(
        &dir.path().join("node"),
        &["--alice", "--validator", "--force-authoring", "--super-node", "--relay"],
    ));
    node.shard_addr().await;
    node.overlay_addrs().await;
    node.wait_height(1).await;
    let text = node.metrics_text();
    for prefix in
        ["nsn_p2p_", "nsn_relay_", "nsn_chain_view_", "nsn_service_", "substrate_block_height"]
    {
        assert!(text.lines().any(|line| line.starts_with(prefix)), "no metric {prefix}*\n{text}");
    }
    for line in text.lines().filter(|line| line.starts_with("nsn_")) {
        let name = line.split(['{', ' ']).next().unwrap();
        assert!(!name.contains("__"), "{name}");
    }
    assert!(!text.contains("# EOF"));
}

#[tokio::test(flavor = "multi_thread")]
async fn session_keys_rotate_with_a_proof_of_their_owner() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(&Setup::dev(&dir.path().join("node"), &["--rpc-methods=unsafe"]));
    let owner = sp_keyring::Sr25519Keyring::Alice.to_account_id();
    let owner = format!("0x{}", hex::encode(<_ as AsRef<[u8]>>::as_ref(&owner)));
    let generated = node.call("author_rotateKeysWithOwner", rpc_params![owner]).await;
    let keys = generated["keys"].as_str().unwrap();
    assert_eq!(keys.len(), 2 + 3 * 64, "aura, grandpa and im_online: {generated}");
    assert!(generated["proof"].as_str().unwrap().len() > 2, "{generated}");
    let has = node.call("author_hasSessionKeys", rpc_params![keys]).await;
    assert_eq!(has, true);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_usual_subcommands_work() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("node");
    let base_arg = base.to_str().unwrap();
    let node = Node::start(&Setup::dev(&base, &["--alice", "--validator", "--force-authoring"]));
    node.wait_height(2).await;
    assert!(node.stop().1.success());

    let blocks = dir.path().join("blocks");
    let exported = run(&[
        "export-blocks",
        "--chain=dev",
        "--base-path",
        base_arg,
        "--to=1",
        blocks.to_str().unwrap(),
    ])
    .await;
    assert!(exported.status.success(), "{}", String::from_utf8_lossy(&exported.stderr));
    assert!(std::fs::metadata(&blocks).unwrap().len() > 0);
    let checked = run(&["check-block", "--chain=dev", "--base-path", base_arg, "1"]).await;
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let purged = run(&["purge-chain", "--chain=dev", "--base-path", base_arg, "-y"]).await;
    assert!(purged.status.success(), "{}", String::from_utf8_lossy(&purged.stderr));

    for command in [&["build-spec", "--chain=local"], &["export-chain-spec", "--chain=local"]] {
        let spec = run(command).await;
        let spec: serde_json::Value = serde_json::from_slice(&spec.stdout).unwrap();
        assert_eq!(spec["chainType"], "Local", "{command:?}");
    }
    let config = run(&["config", "--relay", "--relay-cache-size=5GiB", "--json"]).await;
    let config: serde_json::Value = serde_json::from_slice(&config.stdout).unwrap();
    assert_eq!(config["relay"], true);
    assert_eq!(config["shards"]["cache"]["capacity"], 5_u64 << 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_banned_peer_leaves_and_stays_out_over_a_restart_until_it_is_unbanned() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::dev(
        &dir.path().join("origin"),
        &["--alice", "--validator", "--force-authoring", "--rpc-methods=unsafe"],
    );
    let banning = Node::start(&setup);
    let banned = Node::start(&relay_setup(dir.path(), &banning, &[]).await);
    banning.wait_overlay_peers(1).await;
    let peer = banned.call("p2p_v1_status", rpc_params![]).await["peer_id"].clone();

    let ban = banning.call("p2p_v1_ban", rpc_params![&peer, 3600, "spam"]).await;
    assert_eq!((&ban["peer"], &ban["reason"]), (&peer, &"spam".into()));
    let alone = |status: &serde_json::Value| status["connected_peers"] == 0;
    banning.call_until("p2p_v1_status", rpc_params![], alone).await;
    for (target, said) in [("8.8.8", "a PeerId, an IPv4 address"), ("::/64", "no such ban")] {
        let error = banning.try_call("p2p_v1_unban", rpc_params![target]).await.unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }

    assert!(banning.stop().1.success());
    let banning = Node::start(&setup);
    banning.call_until("p2p_v1_bans", rpc_params![], |bans| bans[0]["peer"] == peer).await;
    // It goes on trying, and is refused each time.
    let refused = || labelled(&banning, "nsn_p2p_connections_refused_total", "\"banned\"");
    let until = std::time::Instant::now() + PATIENCE;
    while refused() < 1.0 {
        assert!(std::time::Instant::now() < until, "the banned peer never tried again");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(banning.call("p2p_v1_unban", rpc_params![&peer]).await, ban);
    banning.wait_overlay_peers(1).await;
    for node in [banning, banned] {
        assert!(node.stop().1.success());
    }
}
