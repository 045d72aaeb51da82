//! `chain.snapshot.bytes_per_peer`: what a view of 1,000,000 peers holds.

use nsn_node::offchain::chain_view::{self, MAX_PEERS};
use pallet_reputation_runtime_api::PeerChange;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;

use crate::{
    ALLOCATOR, Outcome, Outcomes,
    script::{self, Script},
    stats::rounded,
};

/// Bound before the first block; the blocks bind the rest.
const AT_FIRST: usize = 990_000;
/// In each block.
const CHANGES: usize = 1_000;

/// Live bytes of the allocator that the view, its driver and all they hold are, after each of some
/// hundred blocks; the most of them.
pub(crate) fn run(quick: bool) -> Outcomes {
    let blocks = if quick { 100 } else { 400 };
    let bound = (MAX_PEERS - AT_FIRST) / blocks;
    let before = ALLOCATOR.current_usage();
    let script = Script::new(script::peers(AT_FIRST));
    let (view, driver) = chain_view::build(script.clone(), script::metrics()?);
    ALLOCATOR.reset_peak_usage();
    let mut rng = StdRng::seed_from_u64(4);
    let (mut known, mut most) = (AT_FIRST, 0);
    for block in 0..blocks {
        let changes = (0..CHANGES).map(|n| {
            let peer = if n < bound { known + n } else { rng.random_range(0..known) };
            PeerChange { key: script::key(peer), earned: Some(script::earned(peer, block)) }
        });
        script.push(changes.collect());
        driver.refresh();
        known += bound;
        most = most.max(ALLOCATOR.current_usage().saturating_sub(before));
    }
    if view.snapshot().finalized.bound() != known {
        return Err("the view does not hold what the blocks told".into());
    }
    let a_peer = |bytes: usize| rounded(bytes as f64 / known as f64);
    Ok(vec![Outcome {
        bench: "chain.snapshot.bytes_per_peer",
        value: a_peer(most),
        unit: "bytes",
        better: "lower",
        target: 120.0,
        detail: json!({
            "peers": known,
            "blocks": blocks,
            "live_bytes": most,
            "peak_bytes_a_peer_while_stepping": a_peer(
                ALLOCATOR.peak_usage().saturating_sub(before)
            ),
        }),
    }])
}
