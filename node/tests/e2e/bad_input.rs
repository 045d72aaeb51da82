//! What people and peers get wrong: each gives one clear line that says what and what to do.

use std::{fs, net::UdpSocket, os::unix::fs::symlink};

use jsonrpsee::rpc_params;

use crate::{
    harness::{Node, Setup, free_port, get, make_file, publish, run, same},
    main_job::origin,
};

/// Runs `nsn-node` with arguments that must fail; its standard error.
async fn refused(args: &[&str]) -> String {
    let out = run(args).await;
    assert!(!out.status.success(), "{args:?} was taken");
    String::from_utf8_lossy(&out.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_flags_and_config_keys_end_at_once_with_a_line_that_helps() {
    let dir = tempfile::tempdir().unwrap();
    let text = refused(&["--relay-cache-size", "many"]).await;
    assert!(text.contains("relay-cache-size") && text.contains("GiB"), "{text}");
    let text = refused(&["--dev", "--region", "Über"]).await;
    assert!(text.contains("1 to 32"), "{text}");
    let text = refused(&["--overlay-bootnodes", "here"]).await;
    assert!(text.contains("overlay-bootnodes"), "{text}");
    let text = refused(&["--no-overlay", "--relay"]).await;
    assert!(text.contains("--no-overlay") && text.contains("--relay"), "{text}");

    let config = dir.path().join("nsn.toml");
    fs::write(&config, "[shards]\nlisten = 5\n").unwrap();
    let text = refused(&["--dev", "--nsn-config", config.to_str().unwrap()]).await;
    assert!(text.contains("nsn.toml") && text.contains("listen"), "{text}");
    let text = refused(&["--dev", "--nsn-config", "/does/not/exist.toml"]).await;
    assert!(text.contains("/does/not/exist.toml"), "{text}");

    let bootnode = format!("/ip4/127.0.0.1/tcp/{}", free_port());
    let text = refused(&["--dev", "--tmp", "--overlay-bootnodes", &bootnode]).await;
    assert!(text.contains("/p2p/"), "a bootnode without its PeerId: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_that_cannot_be_written_ends_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    // A file where a folder should be: that stops root too, as which tests often run.
    fs::write(dir.path().join("inbox"), b"").unwrap();
    let text = refused(&[
        "--dev",
        "--base-path",
        dir.path().to_str().unwrap(),
        "--rpc-port=0",
        "--port=0",
        "--no-prometheus",
    ])
    .await;
    assert!(text.contains("inbox") && text.contains("--base-path"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named_and_the_chain_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let setup = Setup::dev(
        &dir.path().join("node"),
        &["--alice", "--validator", "--force-authoring", "--relay"],
    );
    let mut setup = setup;
    let at = setup.args.iter().position(|arg| arg == "--shard-listen-addr").unwrap();
    setup.args[at + 1] = address.to_string();
    let node = Node::start(&setup);
    let line = node.wait_log(&address.port().to_string());
    assert!(line.contains("shard-listen-addr") || line.contains("listen"), "{line}");
    node.wait_height(2).await;
    // Once the port is free, the service comes by itself.
    drop(taken);
    node.shard_addr().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_takes_plain_files_of_the_inbox_only() {
    let dir = tempfile::tempdir().unwrap();
    let origin = origin(dir.path());
    let inbox = origin.call("content_v1_inbox", rpc_params![]).await;
    let inbox = std::path::PathBuf::from(inbox.as_str().unwrap());
    make_file(&dir.path().join("secret"), 100);
    symlink(dir.path().join("secret"), inbox.join("link")).unwrap();
    for name in ["../secret", "/etc/hostname", "link", "missing.mp4", ""] {
        let error = origin.try_call("content_v1_publish", rpc_params![name]).await.unwrap_err();
        assert!(error.to_string().contains("inbox"), "{name}: {error}");
        let jsonrpsee::core::ClientError::Call(refusal) = &error else { panic!("{error}") };
        assert_eq!(refusal.code(), nsn_node::rpc::code::BAD_ARGUMENT, "{name}: {error}");
    }
    let list = origin.call("content_v1_list", rpc_params![]).await;
    assert_eq!(list, serde_json::json!([]), "nothing was published");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_things_is_refused_where_only_safe_calls_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let node =
        Node::start(&Setup::dev(&dir.path().join("n"), &["--super-node", "--rpc-methods=safe"]));
    for method in ["content_v1_publish", "content_v1_publishProgress"] {
        let error = node.try_call(method, rpc_params!["x"]).await.unwrap_err();
        assert!(error.to_string().contains("unsafe"), "{method}: {error}");
    }
    node.try_call("content_v1_inbox", rpc_params![]).await.unwrap_err();
    node.call_until("p2p_v1_status", rpc_params![], |_| true).await;
    for (method, params) in [
        ("p2p_v1_peers", rpc_params![]),
        ("p2p_v1_peer", rpc_params!["00".repeat(32)]),
        ("p2p_v1_breakers", rpc_params![]),
        ("p2p_v1_bans", rpc_params![]),
        ("p2p_v1_ban", rpc_params!["8.8.8.8"]),
        ("p2p_v1_unban", rpc_params!["8.8.8.8"]),
        ("p2p_v1_publish", rpc_params!["tasks", "0x00"]),
    ] {
        let error = node.try_call(method, params).await.unwrap_err();
        assert!(error.to_string().contains("unsafe"), "{method}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_id_and_a_wrong_peer_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let origin = origin(dir.path());
    let from = origin.shard_addr().await;
    let out = dir.path().join("out");
    let text = get(&"00".repeat(32), &from, &out).await.unwrap_err();
    assert!(text.contains("not found"), "{text}");
    assert!(!out.exists());

    let text = get("1234", &from, &out).await.unwrap_err();
    assert!(text.contains("64 hex digits"), "{text}");

    let stranger = Setup::dev(&dir.path().join("other"), &["--super-node"]);
    let stranger = Node::start(&stranger);
    let wrong_key = stranger.shard_addr().await;
    let peer = wrong_key.rsplit('/').next().unwrap();
    let lie = format!("{}/p2p/{peer}", from.split("/p2p/").next().unwrap());
    get(&"00".repeat(32), &lie, &out).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupted_shard_is_never_served_and_publishing_again_heals_it() {
    let dir = tempfile::tempdir().unwrap();
    let origin = origin(dir.path());
    let file = dir.path().join("film");
    make_file(&file, 3 * 1024 * 1024);
    let id = publish(&origin, &file).await["content_id"].as_str().unwrap().to_owned();
    let shard = blake3::hash(&fs::read(&file).unwrap()[..1024 * 1024]).to_hex().to_string();
    // Under its first two digits; the hashes between its groups have its name too, elsewhere.
    let path = find(&origin.base.join("shards").join(&shard[..2]), &shard);
    let mut bytes = fs::read(&path).unwrap();
    bytes[500_000] ^= 1;
    fs::write(&path, bytes).unwrap();

    let out = dir.path().join("out");
    let text = get(&id, &origin.shard_addr().await, &out).await.unwrap_err();
    assert!(
        text.contains(&shard[..8]) || text.contains("not found") || text.contains("corrupt"),
        "{text}"
    );
    assert!(!out.exists(), "nothing wrong is left under the asked name");

    publish(&origin, &file).await;
    get(&id, &origin.shard_addr().await, &out).await.unwrap();
    assert!(same(&file, &out));
}

fn find(root: &std::path::Path, name: &str) -> std::path::PathBuf {
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else if entry.file_name().to_str() == Some(name) {
                return entry.path();
            }
        }
    }
    panic!("no file {name} under {}", root.display());
}
