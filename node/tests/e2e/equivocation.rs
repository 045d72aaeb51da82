//! Misbehaviour in consensus, by real processes, and what it costs.

use codec::{Decode as _, Encode as _};
use jsonrpsee::rpc_params;
use pallet_reputation_runtime_api::{NEUTRAL_SCORE, Scores};
use sp_keyring::Sr25519Keyring::{self, Alice, Bob};

use crate::{
    harness::{Node, Setup},
    main_job::chain_addrs,
};

/// Scores of `who` in the newest finalised block, as `node` tells.
async fn finalised_scores(node: &Node, who: Sr25519Keyring) -> Option<Scores> {
    let head = node.call("chain_getFinalizedHead", rpc_params![]).await;
    let account = format!("0x{}", hex::encode(who.to_account_id().encode()));
    let call = rpc_params!["ReputationApi_account_scores", account, head];
    let answer = node.call("state_call", call).await;
    let bytes = hex::decode(answer.as_str().unwrap().trim_start_matches("0x")).unwrap();
    Option::decode(&mut &bytes[..]).unwrap()
}

/// Waits until `node`, alone on a chain of two validators, has cast its vote in the first round.
async fn wait_first_vote(node: &Node) {
    node.call_until("grandpa_roundState", rpc_params![], |state| {
        let best = &state["best"];
        best["round"] == 1 && best["prevotes"]["currentWeight"] == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_that_share_keys_cost_their_validator_reputation() {
    let dir = tempfile::tempdir().unwrap();
    let setup = |name: &str, args: &[&str]| {
        Setup::of_chain("local", &dir.path().join(name), &["--no-overlay"]).with(args)
    };

    // One process writes some blocks without voting; so it will vote for one of them in the first
    // round, and the other process, which has no block, for genesis.
    let ahead = setup("second", &["--alice", "--force-authoring", "--no-grandpa"]);
    let second = Node::start(&ahead);
    second.wait_height(3).await;
    second.stop();

    let first = Node::start(&setup("first", &["--alice"]));
    let second = Node::start(&setup("second", &["--alice"]));
    wait_first_vote(&first).await;
    wait_first_vote(&second).await;

    // Now comes one that hears both.
    let mut witness = setup("witness", &["--bob"]);
    for node in [&first, &second] {
        for addr in chain_addrs(node).await {
            witness = witness.with(&["--bootnodes", &addr]);
        }
    }
    let witness = Node::start(&witness);
    witness.wait_log("Submitted equivocation report");

    // The score in the state of each block that gets finalised, until it has fallen.
    let charged = loop {
        let before = witness.call("chain_getFinalizedHead", rpc_params![]).await;
        if let Some(scores) = finalised_scores(&witness, Alice).await {
            break scores;
        }
        witness.call_until("chain_getFinalizedHead", rpc_params![], |head| *head != before).await;
    };
    // Once for each round of which two votes were seen, so perhaps twice by now.
    assert!([NEUTRAL_SCORE - 400, 0].contains(&charged.validator), "{charged:?}");
    assert_eq!((charged.director, charged.seeder), (NEUTRAL_SCORE, NEUTRAL_SCORE));
    assert_eq!(finalised_scores(&witness, Bob).await, None, "Bob voted once a round");
}
