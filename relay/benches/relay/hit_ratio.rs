//! What stays in a cache that is too small: the index and its policies, without a disk.
//!
//! Requests are drawn from zipf(1.0) over 100,000 shards of 1 MiB, by a generator that always begins
//! with the same number, so both policies see the same requests. The first half fills the cache and is
//! not counted.

use crate::{Failure, Outcome, Outcomes};
use nsn_relay::{
    BlobId,
    cache::{Bounds, Index, PolicyKind, Use},
};
use serde_json::json;

const SHARDS: u32 = 100_000;
const LEN: u32 = 1 << 20;
/// A shard and the hashes between its 64 groups.
const ON_DISK: u64 = (1 << 20) + 63 * 64;

/// Requests after a disturbance over which its cost is measured: ten for each shard that fits.
const AFTER: usize = 100_000;

pub(crate) fn run(quick: bool) -> Outcomes {
    let requests = if quick { 500_000 } else { 4_000_000 };
    let world = World::new(requests)?;
    let half = requests / 2;
    let tenth = |policy| Sim::new(policy, SHARDS / 10);
    let quarter = |policy| Sim::new(policy, SHARDS / 4);

    let undisturbed = |mut sim: Sim| {
        sim.play(&world, 0..half, 0);
        sim.play(&world, half..requests, 0)
    };
    let lru = undisturbed(tenth(PolicyKind::Lru));
    let ours = undisturbed(tenth(PolicyKind::Frequency));
    let lru_quarter = undisturbed(quarter(PolicyKind::Lru));
    let ours_quarter = undisturbed(quarter(PolicyKind::Frequency));

    let after = half..half + AFTER;
    // Every shard once, in their order.
    let scanned = |mut sim: Sim| {
        sim.play(&world, 0..half, 0);
        sim.scan(&world);
        sim.play(&world, after.clone(), 0)
    };
    // From one request to the next, other shards are the popular ones.
    let changed = |mut sim: Sim| {
        sim.play(&world, 0..half, 0);
        sim.play(&world, after.clone(), SHARDS / 2)
    };
    let calm = |mut sim: Sim| {
        sim.play(&world, 0..half, 0);
        sim.play(&world, after.clone(), 0)
    };
    let [ours_calm, lru_calm] = [calm(tenth(PolicyKind::Frequency)), calm(tenth(PolicyKind::Lru))];
    let lost = ours_calm - scanned(tenth(PolicyKind::Frequency));
    let lru_lost = lru_calm - scanned(tenth(PolicyKind::Lru));

    Ok(vec![
        Outcome {
            bench: "relay.hit_ratio",
            value: ours - lru,
            unit: "points above LRU",
            better: "higher",
            target: Some(7.0),
            detail: json!({
                "percent": ours,
                "lru_percent": lru,
                "best_possible_percent": world.best(SHARDS / 10),
                "requests": requests - half,
                "after_other_shards_became_popular": {
                    "requests": AFTER,
                    "percent": changed(tenth(PolicyKind::Frequency)),
                    "lru_percent": changed(tenth(PolicyKind::Lru)),
                },
            }),
        },
        Outcome {
            bench: "relay.hit_ratio.scan",
            value: lost,
            unit: "points lost",
            better: "lower",
            target: Some(3.0),
            detail: json!({ "lru": lru_lost, "over_requests": AFTER, "scanned": SHARDS }),
        },
        Outcome {
            bench: "relay.hit_ratio.quarter",
            value: ours_quarter,
            unit: "percent",
            better: "higher",
            target: Some(84.0),
            detail: json!({
                "lru_percent": lru_quarter,
                "best_possible_percent": world.best(SHARDS / 4),
            }),
        },
    ])
}

/// The shards, and who is asked for.
struct World {
    ids: Vec<BlobId>,
    requests: Vec<u32>,
    /// The share of requests for the shards up to each.
    shares: Vec<f64>,
}

impl World {
    fn new(requests: usize) -> Result<Self, Failure> {
        let mut sum = 0.0;
        let mut shares: Vec<f64> = (1..=SHARDS)
            .map(|rank| {
                sum += 1.0 / f64::from(rank);
                sum
            })
            .collect();
        for share in &mut shares {
            *share /= sum;
        }
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let drawn = (0..requests).map(|_| {
            let point = uniform(&mut state);
            u32::try_from(shares.partition_point(|share| *share < point))
        });
        let requests = drawn.collect::<Result<_, _>>()?;
        let ids = (0..SHARDS).map(|n| BlobId::of(&n.to_le_bytes())).collect();
        Ok(Self { ids, requests, shares })
    }

    /// The share of requests for the so many most popular shards, in percent.
    fn best(&self, shards: u32) -> f64 {
        let last = usize::try_from(shards).ok().and_then(|shards| shards.checked_sub(1));
        last.and_then(|last| self.shares.get(last)).map_or(0.0, |share| share * 100.0)
    }

    fn id(&self, shard: u32) -> Option<BlobId> {
        self.ids.get(usize::try_from(shard % SHARDS).ok()?).copied()
    }
}

/// From 0 to 1: splitmix64, whose numbers need no library and are the same everywhere.
fn uniform(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    let [a, b, c, d, ..] = mixed.to_le_bytes();
    f64::from(u32::from_le_bytes([a, b, c, d])) / f64::from(u32::MAX)
}

/// A cache.
struct Sim(Index);

impl Sim {
    fn new(policy: PolicyKind, shards: u32) -> Self {
        let capacity = u64::from(shards) * ON_DISK;
        Self(Index::new(Bounds { capacity, entries: usize::MAX, pinned: 0, ttl: 0 }, policy))
    }

    /// Plays some of the requests, each for the shard so many further on, and gives the percentage of
    /// hits.
    fn play(&mut self, world: &World, which: std::ops::Range<usize>, shift: u32) -> f64 {
        let requests = world.requests.get(which).unwrap_or_default();
        let ids = requests.iter().filter_map(|shard| world.id(shard + shift));
        let hits: u32 = ids.map(|id| u32::from(self.ask(id))).sum();
        f64::from(hits) * 100.0 / u32::try_from(requests.len()).map_or(f64::NAN, f64::from)
    }

    fn scan(&mut self, world: &World) {
        for id in &world.ids {
            self.ask(*id);
        }
    }

    /// As the cache does: what is not held is fetched and comes to be kept.
    fn ask(&mut self, id: BlobId) -> bool {
        if matches!(self.0.touch(id, 0), Use::Held(_)) {
            return true;
        }
        self.0.ask(id);
        if let Ok(victims) = self.0.reserve(id, LEN, 0) {
            self.0.commit(id, LEN, 0, !victims.is_empty());
        }
        false
    }
}
