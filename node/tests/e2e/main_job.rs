//! Publish on one node, fetch through another's relay, verify every byte.

use std::{fs, path::Path};

use jsonrpsee::rpc_params;

use crate::harness::{Node, Setup, get, make_file, publish, same};

/// A validator that is the super-node.
pub(crate) fn origin(dir: &Path) -> Node {
    Node::start(&Setup::dev(
        &dir.join("origin"),
        &["--alice", "--validator", "--force-authoring", "--super-node", "--rpc-methods=unsafe"],
    ))
}

/// How a relay is started that knows nothing but a bootnode.
pub(crate) async fn relay_setup(dir: &Path, bootnode: &Node, args: &[&str]) -> Setup {
    relay_setup_at(&dir.join("relay"), bootnode, args).await
}

/// The same in a folder of its own.
pub(crate) async fn relay_setup_at(base: &Path, bootnode: &Node, args: &[&str]) -> Setup {
    let mut setup = Setup::dev(base, &["--relay"]).with(args);
    for addr in bootnode.overlay_addrs().await {
        setup = setup.with(&["--overlay-bootnodes", &addr]);
    }
    for addr in chain_addrs(bootnode).await {
        setup = setup.with(&["--bootnodes", &addr]);
    }
    setup
}

/// Where the chain's own network of `node` listens, with `/p2p/`.
pub(crate) async fn chain_addrs(node: &Node) -> Vec<String> {
    let addrs = node.call("system_localListenAddresses", rpc_params![]).await;
    let all = addrs.as_array().unwrap().iter().map(|addr| addr.as_str().unwrap().to_owned());
    all.filter(|addr| addr.contains("127.0.0.1")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_does_the_whole_job() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(&Setup::dev(
        &dir.path().join("node"),
        &["--alice", "--validator", "--force-authoring", "--super-node", "--relay"],
    ));
    let file = dir.path().join("film.mp4");
    make_file(&file, 3_500_000);
    let published = publish(&node, &file).await;
    assert_eq!(published["total_len"], 3_500_000);
    assert_eq!(published["shards"], 4);
    let id = published["content_id"].as_str().unwrap();

    let out = dir.path().join("back.mp4");
    let fetched = get(id, &node.shard_addr().await, &out).await.unwrap();
    assert!(same(&file, &out));
    assert_eq!(fetched["media_type"], "video/mp4");

    // The directory was told of the manifest and of each shard, with nobody there to tell.
    let told = |status: &serde_json::Value| status["provided"] == 5 && status["unannounced"] == 5;
    node.call_until("p2p_v1_dhtStatus", rpc_params![], told).await;

    let list = node.call("content_v1_list", rpc_params![]).await;
    assert_eq!(list[0]["content_id"], id);
    assert!(fs::read_dir(node.base.join("inbox")).unwrap().next().is_none(), "inbox is left empty");

    let (took, status, log) = node.stop();
    assert!(status.success(), "{status}; {log}");
    assert!(log.contains("off-chain services stopped"), "drained before the end: {log}");
    assert!(took.as_secs() < 20, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_100_mb_file_arrives_through_the_relay_and_the_second_fetch_asks_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let origin = origin(dir.path());
    let relay = Node::start(&relay_setup(dir.path(), &origin, &[]).await);
    relay.wait_overlay_peers(1).await;
    let file = dir.path().join("long.mp4");
    make_file(&file, 100 * 1024 * 1024 + 12_345);

    let id = publish(&origin, &file).await["content_id"].as_str().unwrap().to_owned();
    let providers = relay
        .call_until("content_v1_findProviders", rpc_params![&id], |found| {
            found.as_array().is_some_and(|all| !all.is_empty())
        })
        .await;
    let origin_status = origin.call("p2p_v1_status", rpc_params![]).await;
    assert_eq!(providers[0]["peer_id"], origin_status["peer_id"]);

    let from = relay.shard_addr().await;
    let first = dir.path().join("first");
    get(&id, &from, &first).await.unwrap();
    assert!(same(&file, &first));
    let asked = relay.metric("nsn_relay_upstream_fetches_total");
    assert_eq!(asked, 102.0, "101 shards and the manifest");

    let second = dir.path().join("second");
    let fetched = get(&id, &from, &second).await.unwrap();
    assert!(same(&file, &second));
    assert_eq!(fetched["from_upstream"], 0);
    assert_eq!(
        relay.metric("nsn_relay_upstream_fetches_total"),
        asked,
        "second fetch asked upstream"
    );
    assert!(relay.metric("nsn_relay_cache_hits_total") >= 102.0);
    assert!(relay.metric("nsn_relay_bytes_served_total") >= 2.0 * 104_000_000.0);

    let announced = relay.call("content_v1_announced", rpc_params![]).await;
    assert_eq!(announced[0]["content_id"], id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_killed_in_the_middle_of_a_fill_serves_no_wrong_byte_and_keeps_what_was_complete() {
    let dir = tempfile::tempdir().unwrap();
    let origin = origin(dir.path());
    let setup = relay_setup(dir.path(), &origin, &[]).await;
    let relay = Node::start(&setup);
    relay.wait_overlay_peers(1).await;
    let file = dir.path().join("film");
    make_file(&file, 60 * 1024 * 1024);
    let id = publish(&origin, &file).await["content_id"].as_str().unwrap().to_owned();

    let from = relay.shard_addr().await;
    let out = dir.path().join("out");
    let viewer = tokio::spawn({
        let (id, from, out) = (id.clone(), from.clone(), out.clone());
        async move { get(&id, &from, &out).await }
    });
    // In the middle: some shards are in the cache, and not all of them.
    relay
        .call_until("relay_v1_status", rpc_params![], |status| {
            status["relay"]["cache"]["entries"].as_u64().is_some_and(|entries| entries >= 5)
        })
        .await;
    relay.sigkill();
    let complete = complete_files(&setup.base.join("relay"));

    let relay = Node::start(&setup);
    let status = relay
        .call_until("relay_v1_status", rpc_params![], |status| {
            status["listen_addrs"].as_array().is_some_and(|all| !all.is_empty())
        })
        .await;
    let kept = status["relay"]["cache"]["entries"].as_u64().unwrap();
    assert!(kept >= 5, "what was complete is still there: {status}");
    assert_eq!(kept, complete, "every complete file is served again");
    relay.wait_overlay_peers(1).await;
    // The viewer retried by itself and may have got through; if not, the same command goes on.
    let _ = viewer.await.unwrap();
    if !out.exists() {
        get(&id, &relay.shard_addr().await, &out).await.unwrap();
    }
    assert!(same(&file, &out));
}

/// Files in a cache whose name is the hash of their bytes.
fn complete_files(root: &Path) -> u64 {
    let mut complete = 0;
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else if let Some(name) = entry.file_name().to_str()
                && blake3::Hash::from_hex(name)
                    .is_ok_and(|hash| hash == blake3::hash(&fs::read(entry.path()).unwrap()))
            {
                complete += 1;
            }
        }
    }
    complete
}

#[tokio::test(flavor = "multi_thread")]
async fn a_super_node_still_provides_its_content_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let bootnode = Node::start(&Setup::dev(
        &dir.path().join("bootnode"),
        &["--alice", "--validator", "--force-authoring"],
    ));
    let mut setup = Setup::dev(&dir.path().join("origin"), &["--super-node"]);
    for addr in bootnode.overlay_addrs().await {
        setup = setup.with(&["--overlay-bootnodes", &addr]);
    }
    let origin = Node::start(&setup);
    origin.wait_overlay_peers(1).await;
    let file = dir.path().join("film");
    make_file(&file, 2_000_000);
    let id = publish(&origin, &file).await["content_id"].as_str().unwrap().to_owned();
    assert!(origin.stop().1.success());

    let origin = Node::start(&setup);
    origin.wait_overlay_peers(1).await;
    let relay = Node::start(&relay_setup(dir.path(), &bootnode, &[]).await);
    relay.wait_overlay_peers(1).await;
    relay
        .call_until("content_v1_findProviders", rpc_params![&id], |found| {
            found.as_array().is_some_and(|all| !all.is_empty())
        })
        .await;
    let out = dir.path().join("out");
    get(&id, &relay.shard_addr().await, &out).await.unwrap();
    assert!(same(&file, &out));
}
