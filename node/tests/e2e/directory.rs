//! What a node tells the shard directory.

use std::{fs, path::Path, time::Instant};

use jsonrpsee::rpc_params;
use serde_json::Value;

use crate::harness::{Node, Setup, make_file, publish};

/// Puts `count` small blobs where a relay's cache is, as an earlier run would have left them.
fn fill_cache(base: &Path, count: u32) {
    let cache = base.join("relay");
    for n in 0..count {
        let blob = n.to_le_bytes();
        let name = blake3::hash(&blob).to_hex();
        let folder = cache.join(&name[..2]);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name.as_str()), blob).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_tells_the_directory_of_ten_thousand_cached_blobs_within_seconds_of_its_start() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("node");
    fill_cache(&base, 12_000);
    let node = Node::start(&Setup::dev(&base, &["--alice", "--relay"]));
    node.shard_addr().await;
    let start = Instant::now();
    let full = |status: &Value| status["provided"] == 10_000;
    node.call_until("p2p_v1_dhtStatus", rpc_params![], full).await;
    let took = start.elapsed();
    assert!(took.as_secs() < 20, "{took:?}");
    eprintln!("10,000 blobs were told in {took:?}");
    // There is more in the cache than the directory carries, which pushes nothing out of either.
    let status = node.call("relay_v1_status", rpc_params![]).await;
    assert_eq!(status["relay"]["cache"]["entries"], 12_000);
    assert_eq!(node.metric("nsn_relay_announcement_scans_total"), 1.0);
    assert_eq!(node.metric("nsn_relay_directory_failures_total"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_built_again_is_told_again_what_is_held() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(&Setup::dev(
        &dir.path().join("node"),
        &["--alice", "--super-node", "--rpc-methods=unsafe", "--test-panic", "overlay=4"],
    ));
    let file = dir.path().join("film");
    make_file(&file, 2_500_000);
    publish(&node, &file).await;
    node.wait_log("overlay: panicked: asked for by --test-panic");
    // The manifest and three shards, told once for each start.
    let told = |status: &Value| {
        status["provided"] == 4 && node.metric("nsn_relay_announcement_scans_total") >= 2.0
    };
    node.call_until("p2p_v1_dhtStatus", rpc_params![], told).await;
    assert!(node.stop().1.success());
}
