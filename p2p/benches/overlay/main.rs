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
//! | `../shared` | what is printed; medians and quantiles; bytes that live |

mod bare;
mod connections;
mod graylist;
#[path = "../../src/bin/nsn-swarm/keys.rs"]
mod keys;
#[path = "../shared/memory.rs"]
mod memory;
mod messages;
mod net100;
mod node;
mod process;
#[path = "../shared/report.rs"]
mod report;
mod slots;
#[path = "../shared/stats.rs"]
mod stats;

use report::Bench;
pub(crate) use report::{Failure, Outcome, Outcomes};

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
    let mut args = std::env::args().skip(1).peekable();
    if args.next_if(|arg| arg == "--node").is_some() {
        return node::serve(&args.next().unwrap_or_default());
    }
    report::run(&BENCHES, args)
}
