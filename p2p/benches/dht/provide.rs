//! `dht.provide10k.found`, `dht.sweep.lookups_vs_naive`, `dht.sweep.messages_vs_naive`: many shards on
//! one node of a network of a hundred.

use crate::{
    Outcome, Outcomes,
    net::{Work, all_announced, block_on, found, key, provide, quiet},
    stats::{real, rounded},
};
use futures::{StreamExt, stream};
use nsn_p2p::{Standing, testnet::Testnet};
use serde_json::json;
use std::{
    io::{Write as _, stderr},
    time::Instant,
};

const NODES: u32 = 100;
/// Shards on one node, and those that are announced one by one beside it.
const SHARDS: usize = 10_000;
const ALONE: usize = 2_000;
const QUICK_SHARDS: usize = 2_000;
const QUICK_ALONE: usize = 200;
/// Lookups in flight: as many as the sweep has for the baseline, and more to read quickly.
const AT_ONCE: usize = 4;
const READS_AT_ONCE: usize = 64;
/// Targets.
const FOUND: f64 = 0.99;
const LOOKUPS: f64 = 0.01;
const MESSAGES: f64 = 0.5;

pub(crate) fn run(quick: bool) -> Outcomes {
    block_on(provide10k(quick))
}

async fn provide10k(quick: bool) -> Outcomes {
    let (shards, alone) = if quick { (QUICK_SHARDS, QUICK_ALONE) } else { (SHARDS, ALONE) };
    let started = Instant::now();
    let mut net = Testnet::join(NODES, quiet).await?;
    let joined = started.elapsed();
    let publisher = net.nodes.pop().ok_or("there are no nodes")?;
    let baseline = net.nodes.last().ok_or("there is but one node")?;
    // A super-node is bound to an account.
    for node in [&publisher, baseline] {
        net.reputation.set(node.identity.key(), Some(Standing::NEUTRAL));
    }

    writeln!(stderr(), "  {alone} keys, each looked up alone ...")?;
    let (before, began) = (Work::of(baseline, "closest"), Instant::now());
    let lookups = (shards..shards + alone).map(|n| {
        let dht = baseline.overlay.dht.clone();
        async move { dht.closest_peers(key(n)).await }
    });
    let mut told = 0;
    let mut lookups = stream::iter(lookups).buffer_unordered(AT_ONCE);
    while let Some(closest) = lookups.next().await {
        // Each of the nearest peers is told once, on the connection that there is, and nothing is read
        // back: what is counted is the least that it takes.
        told += closest?.len();
    }
    drop(lookups);
    let naive_took = began.elapsed();
    let naive = Work::of(baseline, "closest").since(before);
    let each = real(alone.try_into()?);
    let naive_messages = (naive.messages() + real(told.try_into()?)) / each;

    writeln!(stderr(), "  {shards} keys by the sweep ...")?;
    let (before, began) = (Work::of(&publisher, "explore"), Instant::now());
    provide(&publisher, (0..shards).map(key)).await?;
    all_announced(&publisher).await?;
    let took = began.elapsed();
    let explored = Work::of(&publisher, "explore").since(before);
    let done = publisher.overlay.dht.status().await?.sweep.done;
    // A batch ends with a question and its answer, and so does each record that is read back.
    let asked = real(2 * (done.tells + done.read_backs));
    let messages = explored.messages() + real(done.records) + asked;
    let all = real(shards.try_into()?);

    let provider = publisher.peer_id();
    publisher.stop().await??;
    writeln!(stderr(), "  reading them after their publisher has gone ...")?;
    let began = Instant::now();
    let read = found(&net.nodes, (0..shards).map(key), provider, READS_AT_ONCE).await;
    let reading = began.elapsed();
    net.stop().await?;

    Ok(vec![
        Outcome {
            bench: "dht.provide10k.found",
            value: rounded(real(read.try_into()?) / all),
            unit: "share found",
            better: "higher",
            target: Some(FOUND),
            detail: json!({
                "how": "real nodes on the in-process transport",
                "nodes": NODES,
                "shards": shards,
                "found": read,
                "seconds_to_join": rounded(joined.as_secs_f64()),
                "seconds_to_announce": rounded(took.as_secs_f64()),
                "seconds_to_read_all": rounded(reading.as_secs_f64()),
            }),
        },
        Outcome {
            bench: "dht.sweep.lookups_vs_naive",
            value: rounded(explored.lookups / all),
            unit: "x one lookup a key",
            better: "lower",
            target: Some(LOOKUPS),
            detail: json!({ "lookups": explored.lookups, "keys": shards }),
        },
        Outcome {
            bench: "dht.sweep.messages_vs_naive",
            value: rounded(messages / all / naive_messages),
            unit: "x announcing each key alone",
            better: "lower",
            target: Some(MESSAGES),
            detail: json!({
                "sweep_messages_a_key": rounded(messages / all),
                "sweep_records_a_key": rounded(real(done.records) / all),
                "sweep_lookup_messages": explored.messages(),
                "sweep_batches": done.tells,
                "sweep_read_backs": done.read_backs,
                "alone_messages_a_key": rounded(naive_messages),
                "alone_lookup_messages_a_key": rounded(naive.messages() / each),
                "alone_keys": alone,
                "alone_seconds_a_key": rounded(naive_took.as_secs_f64() / each),
            }),
        },
    ])
}
