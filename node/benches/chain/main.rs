//! Benchmarks of the chain's side of the node: `scripts/bench.sh chain`, or
//! `cargo bench -p nsn-node --bench chain -- [NAME ...] [--quick]`.
//!
//! Prints one JSON object a line on standard output and progress on standard error. A name picks
//! every benchmark that begins with it; without one all run. A number never makes it fail.
//!
//! | file | benchmarks |
//! | --- | --- |
//! | `apply.rs` | `chain.feed.apply_vs_rebuild` |
//! | `read.rs` | `chain.feed.read_vs_hashmap`, `chain.feed.read_p999_ns` |
//! | `memory.rs` | `chain.snapshot.bytes_per_peer` |
//! | `slash.rs` | `chain.slash_to_score_ms` |
//! | `script.rs` | the chain that they follow |
//! | `stats.rs` | medians and quantiles |

mod apply;
mod memory;
mod read;
mod script;
mod slash;
mod stats;

use std::{
    error::Error,
    io::{Write as _, stderr, stdout},
};

use peak_alloc::PeakAlloc;
use serde::Serialize;
use serde_json::Value;

/// Counts the bytes that live, for `chain.snapshot.bytes_per_peer`. It costs every benchmark here,
/// and both sides of each, an atomic addition an allocation.
#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// What a benchmark found.
#[derive(Serialize)]
struct Outcome {
    bench: &'static str,
    value: f64,
    unit: &'static str,
    better: &'static str,
    target: f64,
    detail: Value,
}

type Outcomes = Result<Vec<Outcome>, Box<dyn Error + Send + Sync>>;

/// What a benchmark prints, and what runs it, quickly or not.
type Bench = (&'static [&'static str], fn(bool) -> Outcomes);

const BENCHES: [Bench; 4] = [
    (&["chain.feed.apply_vs_rebuild"], apply::run),
    (&["chain.feed.read_vs_hashmap", "chain.feed.read_p999_ns"], read::run),
    (&["chain.snapshot.bytes_per_peer"], memory::run),
    (&["chain.slash_to_score_ms"], slash::run),
];

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let (mut names, mut quick) = (Vec::new(), false);
    for arg in std::env::args().skip(1) {
        match arg.as_str() {
            "--quick" => quick = true,
            // What cargo adds.
            "--bench" => {}
            _ => names.push(arg),
        }
    }
    let picked =
        |bench: &str| names.is_empty() || names.iter().any(|name| bench.starts_with(name.as_str()));
    for (prints, run) in BENCHES {
        if prints.iter().any(|bench| picked(bench)) {
            writeln!(stderr(), "{} ...", prints.join(", "))?;
            for outcome in run(quick)? {
                writeln!(stdout(), "{}", serde_json::to_string(&outcome)?)?;
            }
        }
    }
    Ok(())
}
