//! What a relay's operator can ask of it and tell it.

use jsonrpsee::rpc_params;

use crate::{
    harness::{Node, get, make_file, publish, same},
    main_job::{origin, relay_setup},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_explains_pins_and_purges_what_it_holds_and_drains_while_its_node_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let origin = origin(dir.path());
    let relay = Node::start(&relay_setup(dir.path(), &origin, &["--rpc-methods=unsafe"]).await);
    relay.wait_overlay_peers(1).await;
    let file = dir.path().join("film");
    make_file(&file, 3_000_000);
    let id = publish(&origin, &file).await["content_id"].as_str().unwrap().to_owned();

    // The manifest of the content is a blob as its shards are.
    let absent = |explained: &serde_json::Value| {
        explained["tiers"].as_array().is_some_and(Vec::is_empty)
            && explained["sources"].as_array().is_some_and(|sources| sources.len() == 1)
    };
    let explained = relay.call_until("relay_v1_explain", rpc_params![&id], absent).await;
    let status = origin.call("relay_v1_status", rpc_params![]).await;
    assert_eq!(explained["sources"][0]["peer_id"], status["peer_id"]);
    assert_eq!(explained["sources"][0]["named"], true);
    let error = relay.try_call("relay_v1_pin", rpc_params![&id]).await.unwrap_err();
    assert!(error.to_string().contains("fetch it first"), "{error}");
    let error = relay.try_call("relay_v1_explain", rpc_params!["x"]).await.unwrap_err();
    assert!(error.to_string().contains("64 hex digits"), "{error}");
    let error = origin.try_call("relay_v1_explain", rpc_params![&id]).await.unwrap_err();
    assert!(error.to_string().contains("--relay"), "{error}");

    let out = dir.path().join("out");
    get(&id, &relay.shard_addr().await, &out).await.unwrap();
    assert!(same(&file, &out));
    let on_disk = |explained: &serde_json::Value| {
        explained["tiers"].as_array().is_some_and(|tiers| tiers.contains(&"disk".into()))
    };
    let explained = relay.call_until("relay_v1_explain", rpc_params![&id], on_disk).await;
    assert_eq!((&explained["why"], &explained["pinned"]), (&"room".into(), &false.into()));
    relay.call("relay_v1_pin", rpc_params![&id]).await;
    assert_eq!(relay.call("relay_v1_explain", rpc_params![&id]).await["pinned"], true);
    assert_eq!(relay.call("relay_v1_unpin", rpc_params![&id]).await, true);
    assert_eq!(relay.call("relay_v1_purge", rpc_params![&id]).await, true);
    assert_eq!(relay.call("relay_v1_purge", rpc_params![&id]).await, false);
    let explained = relay.call("relay_v1_explain", rpc_params![&id]).await;
    assert_eq!(explained["last"][0], "purged", "{explained}");

    relay.call("relay_v1_drain", rpc_params![]).await;
    let drained = |status: &serde_json::Value| status["phase"] == "drained";
    let status = relay.call_until("relay_v1_status", rpc_params![], drained).await;
    assert_eq!(status["listen_addrs"].as_array().map(Vec::len), Some(0));
    let height = relay.height().await;
    relay.wait_height(height + 2).await;
    assert_eq!(relay.metric("nsn_service_failures_total"), 0.0);
    assert!(relay.stop().1.success());
}
