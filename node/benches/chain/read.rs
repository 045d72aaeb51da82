//! `chain.feed.read_vs_hashmap` and `chain.feed.read_p999_ns`: what it costs to ask for a peer's
//! scores.

use std::{
    collections::HashMap,
    hash::BuildHasher,
    hint::black_box,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Instant,
};

use nsn_node::offchain::chain_view::{self, ChainView, Driver};
use pallet_reputation_runtime_api::{OverlayKey, PeerChange, PeerEarned, Scores};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use serde_json::{Value, json};

use crate::{
    Outcome, Outcomes,
    script::{self, Script},
    stats::{median, quantile, rounded},
};

const PEERS: usize = 100_000;
/// Changes in each block of the writer that never stops.
const CHANGES: usize = 1_000;

type Map<S> = HashMap<OverlayKey, Scores, S>;

/// Reads of known and of unknown keys in random order, of the view and of plain maps, in turns.
///
/// The reads that count *follow* each other: which key is read next depends on the answer, as it is
/// where one message, then another, asks for its sender. In a loop whose reads do not depend on each
/// other the processor overlaps the cache misses of a plain map, which it cannot do across the atomic
/// operations that protect a snapshot; that is in the detail too.
pub(crate) fn run(quick: bool) -> Outcomes {
    let rounds = if quick { 7 } else { 31 };
    let mut rng = StdRng::seed_from_u64(2);
    let peers = script::peers(PEERS);
    let fast: Map<foldhash::quality::RandomState> = map(&peers);
    let std: Map<std::hash::RandomState> = map(&peers);
    let mut hits: Vec<OverlayKey> = peers.iter().map(|peer| peer.key).collect();
    hits.shuffle(&mut rng);
    let misses: Vec<OverlayKey> = (PEERS..2 * PEERS).map(script::key).collect();
    let script = Script::new(peers);
    let (view, driver) = chain_view::build(script.clone(), script::metrics()?);

    let [hit, hit_loop] = compare(&hits, rounds, &view, &fast, &std);
    let [miss, miss_loop] = compare(&misses, rounds, &view, &fast, &std);
    let ratio = |times: &Times| rounded(times.view / times.map);
    let mut tail = tail(&hits, &view, &driver, &script, if quick { 1 << 20 } else { 1 << 23 });
    let p999 = quantile(&mut tail.reads, 0.999);
    let detail = json!({
        "reads": tail.reads.len(),
        "p50_ns": rounded(median(&mut tail.reads)),
        "p99_ns": rounded(quantile(&mut tail.reads, 0.99)),
        "p9999_ns": rounded(quantile(&mut tail.reads, 0.9999)),
        "timer_p50_ns": rounded(median(&mut tail.timer)),
        "timer_p999_ns": rounded(quantile(&mut tail.timer, 0.999)),
        "blocks_written_meanwhile": tail.blocks,
        "changes_a_block": CHANGES,
        "note": "the timer is part of what is measured",
    });
    Ok(vec![
        Outcome {
            bench: "chain.feed.read_vs_hashmap",
            value: ratio(&hit),
            unit: "x plain HashMap",
            better: "lower",
            target: 1.5,
            detail: json!({
                "peers": PEERS,
                "decayed": "one read in ten",
                "miss_ratio": ratio(&miss),
                "hit": hit.json(),
                "miss": miss.json(),
                "independent_reads": {
                    "hit_ratio": ratio(&hit_loop),
                    "miss_ratio": ratio(&miss_loop),
                    "hit": hit_loop.json(),
                    "miss": miss_loop.json(),
                },
            }),
        },
        Outcome {
            bench: "chain.feed.read_p999_ns",
            value: rounded(p999),
            unit: "ns",
            better: "lower",
            target: 1_000.0,
            detail,
        },
    ])
}

fn map<S: BuildHasher + Default>(peers: &[PeerEarned]) -> Map<S> {
    let mut map = Map::with_capacity_and_hasher(peers.len(), S::default());
    map.extend(peers.iter().map(|peer| (peer.key, peer.earned.on(script::DAY))));
    map
}

/// Nanoseconds a read.
struct Times {
    view: f64,
    /// A plain map with the view's hasher.
    map: f64,
    /// A plain map as the library makes it.
    std: f64,
}

impl Times {
    fn json(&self) -> Value {
        json!({
            "view_ns": rounded(self.view),
            "hashmap_ns": rounded(self.map),
            "hashmap_siphash_ns": rounded(self.std),
        })
    }
}

/// Medians of `rounds` over all `keys`: of reads that follow each other, and of independent ones.
fn compare(
    keys: &[OverlayKey],
    rounds: usize,
    view: &ChainView,
    fast: &Map<impl BuildHasher>,
    std: &Map<impl BuildHasher>,
) -> [Times; 2] {
    let mut times: [[Vec<f64>; 3]; 2] = Default::default();
    for _ in 0..rounds {
        let [following, independent] = &mut times;
        let [a, b, c] = following;
        a.push(follow(keys, |key| view.scores(key)));
        b.push(follow(keys, |key| fast.get(key).copied()));
        c.push(follow(keys, |key| std.get(key).copied()));
        let [a, b, c] = independent;
        a.push(each(keys, |key| view.scores(key)));
        b.push(each(keys, |key| fast.get(key).copied()));
        c.push(each(keys, |key| std.get(key).copied()));
    }
    times.map(|times| {
        let [view, map, std] = times.map(|mut times| median(&mut times));
        Times { view, map, std }
    })
}

/// Reads as many keys as there are, each one named by the answer before. (Those of every second peer
/// leave one out, so the walk goes around the keys more than once.)
fn follow(keys: &[OverlayKey], read: impl Fn(&OverlayKey) -> Option<Scores>) -> f64 {
    let started = Instant::now();
    let mut at = 0;
    for _ in keys {
        let scores = keys.get(at).and_then(&read);
        at += 1 + usize::from(scores.map_or(0, |scores| scores.seeder) & 1);
        if at >= keys.len() {
            at -= keys.len();
        }
    }
    black_box(at);
    started.elapsed().as_secs_f64() * 1e9 / keys.len() as f64
}

/// Reads every key once.
fn each(keys: &[OverlayKey], read: impl Fn(&OverlayKey) -> Option<Scores>) -> f64 {
    let started = Instant::now();
    for key in keys {
        black_box(read(key));
    }
    started.elapsed().as_secs_f64() * 1e9 / keys.len() as f64
}

struct Tail {
    /// Nanoseconds of single reads, the timer included.
    reads: Vec<f64>,
    /// Nanoseconds of nothing.
    timer: Vec<f64>,
    blocks: usize,
}

/// Single reads while another thread publishes block after block.
fn tail(
    keys: &[OverlayKey],
    view: &ChainView,
    driver: &Driver<Script>,
    script: &Script,
    reads: usize,
) -> Tail {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let (mut rng, mut blocks) = (StdRng::seed_from_u64(3), 0);
            while !done.load(Ordering::Relaxed) {
                let changes = (0..CHANGES).map(|_| {
                    let peer = rng.random_range(0..PEERS);
                    let earned = Some(script::earned(peer, blocks));
                    PeerChange { key: script::key(peer), earned }
                });
                script.push(changes.collect());
                driver.refresh();
                blocks += 1;
            }
            blocks
        });
        let one = |read: &dyn Fn(&OverlayKey) -> Option<Scores>, key| {
            let started = Instant::now();
            black_box(read(key));
            started.elapsed().as_secs_f64() * 1e9
        };
        let keys = || keys.iter().cycle();
        let timer = keys().take(reads / 8).map(|key| one(&|_| None, key)).collect();
        let reads = keys().take(reads).map(|key| one(&|key| view.scores(key), key)).collect();
        done.store(true, Ordering::Relaxed);
        Tail { reads, timer, blocks: writer.join().unwrap_or_default() }
    })
}
