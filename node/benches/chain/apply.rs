//! `chain.feed.apply_vs_rebuild`: what a block costs against building the map anew.

use std::{collections::HashMap, hint::black_box, time::Instant};

use nsn_node::offchain::chain_view;
use pallet_reputation_runtime_api::{Earned, OverlayKey, PeerChange, PeerEarned};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;

use crate::{
    Outcome, Outcomes,
    script::{self, Script},
    stats::{median, quantile, rounded},
};

const PEERS: usize = 100_000;
/// In each block.
const CHANGES: usize = 1_000;
/// Of them new bindings: the tables grow once in about 800 blocks.
const BOUND: usize = 10;
const BLOCKS_A_ROUND: usize = 100;

type Map = HashMap<OverlayKey, Earned, foldhash::quality::RandomState>;

/// One driver takes block after block (bringing the spare table up, applying, swapping, and growing
/// now and then); between rounds the map is built from the decoded pairs: as a library map of the
/// right size, and as the view's own table. The faster one is what the blocks are held against.
pub(crate) fn run(quick: bool) -> Outcomes {
    let rounds = if quick { 10 } else { 40 };
    let mut rng = StdRng::seed_from_u64(1);
    let script = Script::new(script::peers(PEERS));
    let (view, driver) = chain_view::build(script.clone(), script::metrics()?);
    let mut known = PEERS;
    let (mut blocks, mut maps, mut tables) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        for _ in 0..BLOCKS_A_ROUND {
            script.push(changes(&mut rng, &mut known, blocks.len()));
            let started = Instant::now();
            driver.refresh();
            blocks.push(started.elapsed().as_secs_f64() * 1e6);
        }
        let peers = script::peers(PEERS);
        maps.push(build_map(&peers));
        tables.push(build_table(peers)?);
    }
    if view.snapshot().finalized.bound() != known {
        return Err("the view does not hold what the blocks told".into());
    }
    // All blocks count, those with a growth too.
    let block = blocks.iter().sum::<f64>() / blocks.len() as f64;
    let (map, table) = (median(&mut maps), median(&mut tables));
    Ok(vec![Outcome {
        bench: "chain.feed.apply_vs_rebuild",
        value: rounded(block / map.min(table)),
        unit: "x building the map",
        better: "lower",
        target: rounded(1.0 / 30.0),
        detail: json!({
            "peers": PEERS,
            "changes": CHANGES,
            "new_bindings": BOUND,
            "blocks": blocks.len(),
            "block_us_mean": rounded(block),
            "block_us_p50": rounded(median(&mut blocks)),
            "block_us_p99": rounded(quantile(&mut blocks, 0.99)),
            "block_us_max": rounded(quantile(&mut blocks, 1.0)),
            "build_hashmap_us": rounded(map),
            "build_own_table_us": rounded(table),
        }),
    }])
}

fn changes(rng: &mut StdRng, known: &mut usize, step: usize) -> Vec<PeerChange> {
    (0..CHANGES)
        .map(|n| {
            let peer = if n < BOUND {
                *known += 1;
                *known - 1
            } else {
                rng.random_range(0..*known)
            };
            PeerChange { key: script::key(peer), earned: Some(script::earned(peer, step)) }
        })
        .collect()
}

/// Microseconds to build a library map, pre-sized, with the hasher that the view uses.
fn build_map(peers: &[PeerEarned]) -> f64 {
    let started = Instant::now();
    let mut map = Map::with_capacity_and_hasher(peers.len(), Default::default());
    map.extend(peers.iter().map(|peer| (peer.key, peer.earned)));
    let took = started.elapsed();
    black_box(map);
    took.as_secs_f64() * 1e6
}

/// Microseconds to build a whole view.
fn build_table(peers: Vec<PeerEarned>) -> Result<f64, prometheus_endpoint::PrometheusError> {
    let (script, metrics) = (Script::new(peers), script::metrics()?);
    let started = Instant::now();
    let built = chain_view::build(script, metrics);
    let took = started.elapsed();
    black_box(built);
    Ok(took.as_secs_f64() * 1e6)
}
