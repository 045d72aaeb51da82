//! Benchmarks of the overlay under load: `scripts/bench.sh overlay`, or
//! `cargo bench -p nsn-p2p --bench overlay -- [NAME ...] [--quick]`.
//!
//! Prints one JSON object a line on standard output and progress on standard error. A name picks
//! every benchmark that begins with it; without one all run. A number never makes it fail.
//!
//! Where one node is measured, it runs in a process of its own on one core (this program again, with
//! `--node`), and the load comes from `nsn-swarm` on another, so that its CPU time and memory are
//! its own.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `net100.rs` | `overlay.net100` |
//! | `messages.rs` | `overlay.node1000`, `overlay.cpu_vs_bare_gossipsub` |
//! | `graylist.rs` | `overlay.graylist` |
//! | `connections.rs` | `overlay.churn`, `overlay.burst`, `overlay.bytes_per_connection` |
//! | `slots.rs` | `overlay.slots_missed` |
//! | `node.rs`, `bare.rs` | the node that is measured, and the baseline |
//! | `process.rs` | starting and asking them, and the load |
//! | `stats.rs` | medians and quantiles |

mod bare;
mod connections;
mod graylist;
#[path = "../../src/bin/nsn-swarm/keys.rs"]
mod keys;
mod messages;
mod net100;
mod node;
mod process;
mod slots;
mod stats;

use peak_alloc::PeakAlloc;
use serde::Serialize;
use serde_json::Value;
use std::{
    error::Error,
    io::{Write as _, stderr, stdout},
};

/// Counts the bytes that live. It costs every benchmark here, the baseline too, an atomic addition an
/// allocation.
#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// What a benchmark found.
#[derive(Serialize)]
struct Outcome {
    bench: &'static str,
    value: f64,
    unit: &'static str,
    better: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<f64>,
    detail: Value,
}

type Failure = Box<dyn Error + Send + Sync>;
type Outcomes = Result<Vec<Outcome>, Failure>;

/// What a benchmark prints, and what runs it, quickly or not.
type Bench = (&'static [&'static str], fn(bool) -> Outcomes);

const BENCHES: [Bench; 8] = [
    (&["overlay.net100", "overlay.net100.lost", "overlay.net100.ceiling"], net100::run),
    (&["overlay.node1000", "overlay.node1000.lost"], messages::node1000),
    (&["overlay.cpu_vs_bare_gossipsub"], messages::cpu_vs_bare),
    (&["overlay.graylist", "overlay.graylist.delivered"], graylist::run),
    (&["overlay.churn"], connections::churn),
    (
        &["overlay.burst", "overlay.burst.cpu_us_per_refusal", "overlay.burst.bytes_per_refusal"],
        connections::burst,
    ),
    (&["overlay.bytes_per_connection"], connections::idle),
    (&["overlay.slots_missed"], slots::run),
];

fn main() -> Result<(), Failure> {
    let (mut names, mut quick) = (Vec::new(), false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => quick = true,
            "--node" => return node::serve(&args.next().unwrap_or_default()),
            // What cargo adds.
            "--bench" => {}
            _ => names.push(arg),
        }
    }
    let picked =
        |bench: &str| names.is_empty() || names.iter().any(|name| bench.starts_with(name.as_str()));
    let mut failed: Vec<&str> = Vec::new();
    for (prints, run) in BENCHES {
        if !prints.iter().any(|bench| picked(bench)) {
            continue;
        }
        writeln!(stderr(), "{} ...", prints.join(", "))?;
        match run(quick) {
            Ok(outcomes) => {
                for outcome in outcomes {
                    writeln!(stdout(), "{}", serde_json::to_string(&outcome)?)?;
                }
            }
            // The others can run all the same.
            Err(error) => {
                writeln!(stderr(), "could not run: {error}")?;
                failed.extend(prints.first().copied());
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("could not run: {failed:?}").into()) }
}
