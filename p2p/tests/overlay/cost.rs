//! What a refused connection costs the node, by transport. It prints the numbers too:
//! `cargo nextest run --workspace --no-capture -E 'test(a_refusal_costs)'`.

use crate::bare::Bare;
use futures::StreamExt;
use nix::sys::resource::{UsageWho, getrusage};
use nsn_p2p::{
    Config, Identity,
    testnet::{self, Node},
};
use std::{sync::Arc, time::Duration};

const ATTEMPTS: usize = 1000;

/// Most CPU time of a refusal. It takes 55 to 95 us in a dev build; a node that begins a TLS handshake
/// before it refuses, as libp2p's QUIC does, takes 560 us.
const MOST: Duration = Duration::from_micros(400);

/// CPU time that the calling thread has used.
fn thread_cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
    [usage.user_time(), usage.system_time()]
        .into_iter()
        .map(|t| Duration::from_micros((t.tv_sec() * 1_000_000 + t.tv_usec()).try_into().unwrap()))
        .sum()
}

/// Bytes of memory that this process has, client and node.
fn resident() -> i64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<i64>().unwrap() * 4096
}

/// CPU time of the node's one thread for each refusal, and bytes by which the process grew for
/// each, client included.
fn cost(listen: &str) -> (Duration, f64) {
    let (config, identity) = (testnet::config(), Identity::from_secret([1; 32]).unwrap());
    let mut config = Config { listen: vec![listen.parse().unwrap()], ..config };
    config.tick = Duration::from_secs(1);
    config.admission.source_burst = 1;
    config.admission.source_rate = 1;
    let (addressed, address) = std::sync::mpsc::channel();
    let (go, mut going) = tokio::sync::mpsc::channel::<std::sync::mpsc::Sender<_>>(1);
    let node = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let node = Node::start(config, identity, testnet::GENESIS, &Arc::default()).unwrap();
            addressed.send(node.address().await.unwrap()).unwrap();
            while let Some(answer) = going.recv().await {
                let refused =
                    node.metric("nsn_p2p_connections_refused_total{reason=\"source_rate\"}");
                answer.send((thread_cpu(), refused)).unwrap();
            }
            node.stop().await.unwrap().unwrap();
        });
    });
    let address = address.recv().unwrap();
    let ask = || {
        let (answer, answered) = std::sync::mpsc::channel();
        go.blocking_send(answer).unwrap();
        answered.recv().unwrap()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let attempts = || {
        runtime.block_on(async {
            let mut client = Bare::new([9; 32]);
            let dials: Vec<_> = (0..ATTEMPTS).map(|_| client.dial(&address)).collect();
            let mut dials = futures::stream::iter(dials).buffer_unordered(16);
            while dials.next().await.is_some() {}
        });
    };
    // Once for what is allocated once.
    attempts();
    let (before, memory_before) = (ask(), resident());
    attempts();
    let (after, memory) = (ask(), resident() - memory_before);
    drop(go);
    node.join().unwrap();
    let refused = after.1 - before.1;
    assert!(refused >= 0.9 * ATTEMPTS as f64, "{refused}");
    ((after.0 - before.0).div_f64(refused), memory as f64 / refused)
}

#[test]
fn a_refusal_costs_less_than_a_handshake() {
    for (name, listen) in
        [("TCP", "/ip4/127.0.0.1/tcp/0"), ("QUIC", "/ip4/127.0.0.1/udp/0/quic-v1")]
    {
        let (cpu, memory) = cost(listen);
        println!("{name}: {cpu:?} of CPU and {memory:.0} bytes a refusal");
        assert!(cpu < MOST, "{name}: {cpu:?}");
    }
}
