//! The simulation of the directory beside real nodes.

use nsn_p2p::{
    Config,
    dht::{Announced, Class, Key},
    testnet::{
        Node, Testnet,
        sim::{LookupReport, Scenario, lookups},
    },
};
use std::time::Duration;

/// By how much hops and messages of a lookup may differ, either way.
const TOLERANCE: f64 = 0.3;

const NODES: u32 = 40;

/// Those who look for each key, so many nodes after its provider.
const ASKERS: [usize; 3] = [7, 19, 31];

/// Longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn sum(net: &Testnet, what: &str) -> f64 {
    let sample = format!("nsn_p2p_kademlia_{what}{{kind=\"find\"}}");
    net.nodes.iter().map(|node| node.metric(&sample)).sum()
}

#[tokio::test]
async fn lookups_of_real_nodes_take_what_the_simulation_says() {
    // Gossip has nothing to say here, and forty nodes share the cores. However busy those are, no peer
    // is given up or passed over for it: in the simulation no node is slow.
    let quiet = |config: &mut Config| {
        config.tick = Duration::from_secs(1);
        config.gossip.heartbeat = Duration::from_secs(10);
        config.dht.query_timeout = PATIENCE;
        config.dht.tell_timeout = PATIENCE;
        config.dht.peer_timeout = PATIENCE;
        config.dht.min_patience = PATIENCE;
    };
    let net = Testnet::join(NODES, quiet).await.unwrap();
    let keys: Vec<Key> = (0..NODES).map(|n| Key::shard(&[n as u8; 32])).collect();
    for (node, key) in net.nodes.iter().zip(&keys) {
        node.overlay.dht.provide(*key, Class::Kept).await.unwrap();
    }
    for (node, key) in net.nodes.iter().zip(&keys) {
        // What does not succeed at once is tried again.
        let told = async {
            while node.overlay.dht.announced(*key).await != Ok(Announced::Yes) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, told).await.unwrap();
    }
    for (n, (provider, key)) in net.nodes.iter().zip(&keys).enumerate() {
        for distance in ASKERS {
            let asker: &Node = &net.nodes[(n + distance) % net.nodes.len()];
            let found = asker.overlay.dht.find_providers(*key, 1).await;
            assert_eq!(found, Ok(vec![provider.peer_id()]));
        }
    }
    // Callers are answered before their lookups have ended, and metrics signal nothing.
    let made = f64::from(NODES) * ASKERS.len() as f64;
    let ended = async {
        while sum(&net, "query_questions_count") < made {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.unwrap();
    assert_eq!(sum(&net, "query_questions_count"), made, "there were no others");
    let real = [sum(&net, "query_hops_sum"), 2.0 * sum(&net, "query_questions_sum")];
    net.stop().await.unwrap();
    let scenario = Scenario { nodes: NODES as usize, ..Scenario::default() };
    let LookupReport { hops, messages, .. } = lookups(&scenario, 300);
    for (what, real, simulated) in
        [("hops", real[0] / made, hops.mean), ("messages", real[1] / made, messages.mean)]
    {
        let times = real / simulated;
        assert!((times - 1.0).abs() < TOLERANCE, "{what}: {real} are {times} times {simulated}");
    }
}
