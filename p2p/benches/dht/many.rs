//! `dht.lookup.5000`: so many lookups asked of one node in one moment.

use crate::{
    Failure, Outcome, Outcomes,
    memory::{Peak, live},
    net::{all_announced, block_on, key, provide, quiet},
    stats::{median, quantile, real, rounded},
};
use nsn_p2p::{
    Multiaddr,
    testnet::{GENESIS, Node, StaticReputation, Testnet, config, numbered},
};
use serde_json::json;
use std::{
    io::{Write as _, stderr},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

const NODES: u32 = 100;
const QUICK_NODES: u32 = 30;
const LOOKUPS: usize = 5_000;
const QUICK_LOOKUPS: usize = 2_000;
/// Longest time an answer may take.
const LIMIT: Duration = Duration::from_secs(30);
/// How often the loop is asked for something that it answers at once.
const PROBE_EVERY: Duration = Duration::from_millis(2);
/// Targets: the share answered, and the longest stall in milliseconds.
const ANSWERED: f64 = 0.99;
const STALL_MS: f64 = 50.0;

pub(crate) fn run(quick: bool) -> Outcomes {
    block_on(lookup5000(quick))
}

/// What the node that is asked has seen.
struct Asked {
    answered: usize,
    right: usize,
    took_ms: Vec<f64>,
    probes_ms: Vec<f64>,
    peak: usize,
    live: usize,
}

async fn lookup5000(quick: bool) -> Outcomes {
    let (nodes, lookups) = if quick { (QUICK_NODES, QUICK_LOOKUPS) } else { (NODES, LOOKUPS) };
    let net = Testnet::join(nodes, quiet).await?;
    let publisher = net.nodes.last().ok_or("there are no nodes")?;
    net.reputation.set(publisher.identity.key(), Some(nsn_p2p::Standing::NEUTRAL));
    provide(publisher, (0..lookups).map(key)).await?;
    all_announced(publisher).await?;
    let bootnode = net.nodes.first().ok_or("there are no nodes")?.address().await?;
    let chain = net.reputation.clone();
    writeln!(stderr(), "  {lookups} lookups at once ...")?;
    // On a thread of its own, so that what the other nodes do delays it no more than another process
    // would.
    let (answer, answered) = oneshot::channel();
    let thread = thread::Builder::new().name("asked".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let asked = runtime
            .map_err(Failure::from)
            .and_then(|runtime| runtime.block_on(ask(lookups, nodes, bootnode, &chain)));
        // Whoever waited for it has gone otherwise.
        let _ = answer.send(asked);
    })?;
    let mut asked = answered.await??;
    thread.join().map_err(|_| "the node that was asked has panicked")?;
    net.stop().await?;
    let share = real(asked.answered.try_into()?) / real(lookups.try_into()?);
    let stall = quantile(&mut asked.probes_ms, 1.0);
    Ok(vec![
        Outcome {
            bench: "dht.lookup.5000",
            value: rounded(share),
            unit: "share answered",
            better: "higher",
            target: Some(ANSWERED),
            detail: json!({
                "how": "real nodes on the in-process transport",
                "nodes": nodes,
                "lookups": lookups,
                "answered_rightly": asked.right,
                "within_s": LIMIT.as_secs(),
                "p50_ms": rounded(median(&mut asked.took_ms)),
                "p95_ms": rounded(quantile(&mut asked.took_ms, 0.95)),
                "p99_ms": rounded(quantile(&mut asked.took_ms, 0.99)),
                "max_ms": rounded(quantile(&mut asked.took_ms, 1.0)),
                "peak_bytes": asked.peak.saturating_sub(asked.live),
            }),
        },
        Outcome {
            bench: "dht.lookup.5000.stall",
            value: rounded(stall),
            unit: "ms",
            better: "lower",
            target: Some(STALL_MS),
            detail: json!({
                "probes": asked.probes_ms.len(),
                "p50_ms": rounded(median(&mut asked.probes_ms)),
                "p99_ms": rounded(quantile(&mut asked.probes_ms, 0.99)),
            }),
        },
    ])
}

/// Starts a node, and asks it.
async fn ask(
    lookups: usize,
    others: u32,
    bootnode: Multiaddr,
    chain: &Arc<StaticReputation>,
) -> Result<Asked, Failure> {
    let mut config = config();
    quiet(&mut config);
    config.bootstrap.bootnodes = vec![bootnode];
    let node = Node::start(config, numbered(others)?, GENESIS, chain)?;
    node.wait_for("peers to ask", |c| c.routing_table >= 10).await?;
    let handle = node.overlay.peers.clone();
    // The peers' commands have a channel of their own, which nobody else uses here: an answer takes as
    // long as the loop takes to come to it.
    let probing = tokio::spawn(async move {
        let mut took = Vec::new();
        let mut ticks = interval(PROBE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let asked = Instant::now();
            if handle.status().await.is_err() {
                return took;
            }
            took.push(asked.elapsed().as_secs_f64() * 1e3);
        }
    });
    let live = live()?;
    let peak = Peak::begin()?;
    let began = Instant::now();
    let mut asked = JoinSet::new();
    for n in 0..lookups {
        let dht = node.overlay.dht.clone();
        asked.spawn(async move {
            let found = dht.find_providers(key(n), 1).await;
            (began.elapsed(), found)
        });
    }
    let (mut answered, mut right, mut took_ms) = (0, 0, Vec::new());
    while let Some(one) = asked.join_next().await {
        let (took, found) = one?;
        if let Ok(found) = found
            && took <= LIMIT
        {
            answered += 1;
            right += found.len();
        }
        took_ms.push(took.as_secs_f64() * 1e3);
    }
    let peak = peak.most()?;
    node.stop().await??;
    let probes_ms = probing.await?;
    Ok(Asked { answered, right, took_ms, probes_ms, peak, live })
}
