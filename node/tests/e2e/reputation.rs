//! Reputation through the whole of it: from a transaction to what the overlay thinks of a peer.

use codec::Encode as _;
use jsonrpsee::rpc_params;
use nsn_runtime::Hash;
use pallet_reputation::Outcome;
use sp_keyring::Sr25519Keyring::{Alice, Bob};

use crate::{
    harness::{Node, run},
    main_job::{origin, relay_setup},
    tx,
};

pub(crate) async fn submit(
    node: &Node,
    call: nsn_runtime::RuntimeCall,
    who: sp_keyring::Sr25519Keyring,
    nonce: u32,
) {
    let genesis = genesis(node).await;
    let extrinsic = tx::signed(call, who, nonce, genesis).encode();
    node.call("author_submitExtrinsic", rpc_params![format!("0x{}", hex::encode(extrinsic))]).await;
}

pub(crate) async fn genesis(node: &Node) -> Hash {
    let hash = node.call("chain_getBlockHash", rpc_params![0]).await;
    serde_json::from_value(hash).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_reputation_on_chain_reaches_every_nodes_overlay() {
    let dir = tempfile::tempdir().unwrap();
    let origin = origin(dir.path());
    let secret = [42; 32];
    let setup = relay_setup(dir.path(), &origin, &["--node-key", &hex::encode(secret)]).await;
    let relay = Node::start(&setup);
    origin.wait_overlay_peers(1).await;
    let relay_peer = relay.call("p2p_v1_status", rpc_params![]).await["peer_id"].clone();
    let of_relay = |peers: &serde_json::Value| {
        let all = peers.as_array()?.clone();
        all.into_iter().find(|peer| peer["peer_id"] == relay_peer)
    };

    let before =
        origin.call_until("p2p_v1_peers", rpc_params![], |peers| of_relay(peers).is_some()).await;
    assert!(of_relay(&before).unwrap()["reputation"].is_null(), "unbound to begin with: {before}");

    submit(&origin, tx::bind(&secret, Bob, genesis(&origin).await), Bob, 0).await;
    origin
        .call_until("p2p_v1_peers", rpc_params![], |peers| {
            of_relay(peers).is_some_and(|peer| peer["reputation"]["total"] == 500)
        })
        .await;

    // Down to 150 in one component: graylisted, so the origin lets the relay go.
    submit(&origin, tx::record(Bob, Outcome::AuditFailed, 7), Alice, 0).await;
    origin.call_until("p2p_v1_peers", rpc_params![], |peers| of_relay(peers).is_none()).await;
    // And up again: it may come back by itself.
    submit(&origin, tx::record(Bob, Outcome::AuditPassed, 40), Alice, 1).await;
    origin
        .call_until("p2p_v1_peers", rpc_params![], |peers| {
            of_relay(peers).is_some_and(|peer| peer["reputation"]["seeder"] == 550)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_that_makes_a_proof_makes_one_the_chain_takes() {
    let dir = tempfile::tempdir().unwrap();
    let node = origin(dir.path());
    let secret = [9; 32];
    let key_file = dir.path().join("key");
    std::fs::write(&key_file, hex::encode(secret)).unwrap();
    let genesis = genesis(&node).await;
    let account = sp_core::crypto::Ss58Codec::to_ss58check(&Bob.to_account_id());
    let out = run(&[
        "peer",
        "bind-proof",
        "--account",
        &account,
        "--node-key-file",
        key_file.to_str().unwrap(),
        "--genesis",
        &format!("{genesis:?}"),
        "--json",
    ])
    .await;
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let made: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let key: [u8; 32] = hex::decode(made["key"].as_str().unwrap()).unwrap().try_into().unwrap();
    let proof: [u8; 64] = hex::decode(made["proof"].as_str().unwrap()).unwrap().try_into().unwrap();
    let call = pallet_reputation::Call::bind_peer { key, proof };
    submit(&node, nsn_runtime::RuntimeCall::Reputation(call), Bob, 0).await;

    let asked = format!("0x{}", hex::encode(key));
    node.call_until(
        "state_call",
        rpc_params!["ReputationApi_peer_score", asked.clone()],
        |score| {
            // SCALE of None is 0x00; of Some, 0x01 and the score.
            score.as_str().is_some_and(|score| score.starts_with("0x01"))
        },
    )
    .await;
}
