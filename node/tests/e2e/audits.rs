//! The loop that reputation is: a validator audits, reports, the chain decides, every node acts on it.

use jsonrpsee::rpc_params;
use serde_json::Value;
use sp_keyring::Sr25519Keyring::{self, Bob, Charlie};

use crate::{
    harness::{Node, Setup, make_file, publish},
    reputation::{genesis, submit},
    tx,
};

/// A super-node of `bootnode`'s network, under the node key `secret`.
async fn super_node(
    dir: &std::path::Path,
    bootnode: &Node,
    secret: [u8; 32],
    args: &[&str],
) -> Node {
    let mut setup =
        Setup::dev(dir, &["--super-node", "--node-key", &hex::encode(secret)]).with(args);
    for addr in bootnode.overlay_addrs().await {
        setup = setup.with(&["--overlay-bootnodes", &addr]);
    }
    let addrs = bootnode.call("system_localListenAddresses", rpc_params![]).await;
    let addrs = addrs.as_array().unwrap().iter().map(|addr| addr.as_str().unwrap());
    for addr in addrs.filter(|addr| addr.contains("127.0.0.1")) {
        setup = setup.with(&["--bootnodes", addr]);
    }
    Node::start(&setup)
}

async fn bind(node: &Node, secret: [u8; 32], who: Sr25519Keyring) {
    submit(node, tx::bind(&secret, who, genesis(node).await), who, 0).await;
}

async fn peer_id(node: &Node) -> Value {
    node.call("p2p_v1_status", rpc_params![]).await["peer_id"].clone()
}

/// The overlay key of a node key, in hex.
fn key_of(secret: [u8; 32]) -> String {
    use sp_core::Pair as _;
    hex::encode(sp_core::ed25519::Pair::from_seed(&secret).public().0)
}

/// The seeder component of the peer `of`, as a node's overlay has it.
fn seeder_of(peers: &Value, of: &Value) -> Option<u64> {
    let peers = peers.as_array()?;
    peers.iter().find(|peer| peer["peer_id"] == *of)?["reputation"]["seeder"].as_u64()
}

/// What `nodes` say of `peer` at one finalised block: all of them the same.
async fn at_one_block(nodes: &[&Node], peer: &Value) -> Value {
    let ask = async |node: &Node| {
        let answer = node.call("p2p_v1_reputation", rpc_params![peer]).await;
        answer["finalized"].clone()
    };
    let mut views = Vec::new();
    // A block lasts six seconds and the questions milliseconds, so the first round mostly does.
    for _ in 0..20 {
        views.clear();
        for node in nodes {
            views.push(ask(node).await);
        }
        let number = views[0]["number"].as_u64().unwrap();
        if views.iter().all(|view| view["number"] == number) {
            break;
        }
        nodes[0]
            .call_until("p2p_v1_reputation", rpc_params![], |answer| {
                answer["finalized"]["number"].as_u64() > Some(number)
            })
            .await;
    }
    assert!(views.iter().all(|view| *view == views[0]), "{views:?}");
    views.remove(0)
}

/// The sum of a metric's values with this label.
pub(crate) fn labelled(node: &Node, name: &str, label: &str) -> f64 {
    let text = node.metrics_text();
    let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_serves_rises_and_who_withholds_falls_by_audits_alone() {
    let dir = tempfile::tempdir().unwrap();
    let validator = Node::start(&Setup::dev(
        &dir.path().join("validator"),
        &["--alice", "--validator", "--force-authoring", "--rpc-methods=unsafe"],
    ));
    let (good, bad) = ([41; 32], [42; 32]);
    let honest = super_node(&dir.path().join("honest"), &validator, good, &[]).await;
    let withholder =
        super_node(&dir.path().join("withholder"), &validator, bad, &["--test-withhold"]).await;
    validator.wait_overlay_peers(2).await;

    let file = dir.path().join("film.mp4");
    make_file(&file, 3_500_000);
    let published = publish(&honest, &file).await;
    assert_eq!(published["content_id"], publish(&withholder, &file).await["content_id"]);
    bind(&validator, good, Bob).await;
    bind(&validator, bad, Charlie).await;

    let (of_honest, of_withholder) = (peer_id(&honest).await, peer_id(&withholder).await);
    let judged = |peers: &Value| {
        let [honest, withholder] =
            [&of_honest, &of_withholder].map(|peer| seeder_of(peers, peer).unwrap_or(500));
        honest > 500 && withholder < 500
    };
    let peers = validator.call_until("p2p_v1_peers", rpc_params![], judged).await;
    // One window: three probes served are +10 and +3; two that were not, -50.
    assert_eq!(seeder_of(&peers, &of_honest), Some(513), "{peers}");
    assert_eq!(seeder_of(&peers, &of_withholder), Some(450), "{peers}");
    let score = rpc_params!["ReputationApi_peer_score", format!("0x{}", key_of(bad))];
    let on_chain = validator.call("state_call", score.clone()).await;
    honest.call_until("state_call", score, |answer| *answer == on_chain).await;

    let view = at_one_block(&[&validator, &honest, &withholder], &of_withholder).await;
    assert_eq!(
        (view["peers"].as_u64(), view["digest"].as_str().map(str::len)),
        (Some(2), Some(64))
    );
    assert_eq!(view["peer"]["key"], key_of(bad));
    assert!(view["peer"]["scores"]["seeder"].as_u64() < Some(500), "{view}");
    assert!(view["peer"]["total"].as_u64() < Some(500), "{view}");
    let bad_peer = validator.try_call("p2p_v1_reputation", rpc_params!["nobody"]).await;
    assert!(bad_peer.unwrap_err().to_string().contains("neither a PeerId nor a key"));

    assert!(labelled(&validator, "nsn_audit_probes_total", "outcome=\"served\"") >= 3.0);
    assert!(labelled(&validator, "nsn_audit_probes_total", "outcome=\"not_found\"") >= 2.0);
    assert!(labelled(&validator, "nsn_audit_reports_total", "outcome=\"submitted\"") >= 1.0);
    assert!(!honest.metrics_text().contains("nsn_audit_"), "only validators audit");
    for node in [validator, honest, withholder] {
        assert!(node.stop().1.success());
    }
}
