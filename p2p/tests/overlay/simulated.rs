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

fn sum(net: &Testnet, what: &str) -> f64 {
    let sample = format!("nsn_p2p_kademlia_{what}{{kind=\"find\"}}");
    net.nodes.iter().map(|node| node.metric(&sample)).sum()
}

#[tokio::test]
async fn lookups_of_real_nodes_take_what_the_simulation_says() {
    // Gossip has nothing to say here, and forty nodes share the cores.
    let quiet = |config: &mut Config| {
        config.tick = Duration::from_secs(1);
        config.gossip.heartbeat = Duration::from_secs(10);
    };
    let net = Testnet::join(NODES, quiet).await.unwrap();
    let keys: Vec<Key> = (0..NODES).map(|n| Key::shard(&[n as u8; 32])).collect();
    for (node, key) in net.nodes.iter().zip(&keys) {
        node.overlay.dht.provide(*key, Class::Kept).await.unwrap();
    }
    for (node, key) in net.nodes.iter().zip(&keys) {
        assert_eq!(node.overlay.dht.announced(*key).await, Ok(Announced::Yes));
    }
    for (n, (provider, key)) in net.nodes.iter().zip(&keys).enumerate() {
        for distance in [7, 19, 31] {
            let asker: &Node = &net.nodes[(n + distance) % net.nodes.len()];
            let found = asker.overlay.dht.find_providers(*key, 1).await;
            assert_eq!(found, Ok(vec![provider.peer_id()]));
        }
    }
    let made = sum(&net, "query_questions_count");
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
