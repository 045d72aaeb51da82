//! Benchmarks of the directory: `scripts/bench.sh dht`, or
//! `cargo bench -p nsn-p2p --bench dht -- [NAME ...] [--quick]`.
//!
//! Prints one JSON object a line on standard output and progress on standard error. A name picks
//! every benchmark that begins with it; without one all run. A number never makes it fail.
//!
//! Networks are of real nodes on the in-process transport, all in this process, where the machine
//! carries them; larger ones, and attacks, are simulated (`nsn_p2p::testnet::sim`), and `detail` says
//! which.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `provide.rs` | `dht.provide10k.found`, `dht.sweep.lookups_vs_naive`, `dht.sweep.messages_vs_naive` |
//! | `resume.rs` | `dht.resume`; the node that is killed runs in a process of its own, this program again with `--provider` |
//! | `lookups.rs` | `dht.lookup.n10`, `.n100`, `.n1000` and what is simulated beside them |
//! | `many.rs` | `dht.lookup.5000` |
//! | `flood.rs`, `raw.rs` | `dht.flood`, and the peers that flood |
//! | `eclipse.rs` | `dht.eclipse` |
//! | `net.rs` | networks, keys, and what a node counts |
//! | `../shared` | what is printed; medians and quantiles; bytes that live |

mod eclipse;
mod flood;
mod lookups;
mod many;
#[path = "../shared/memory.rs"]
mod memory;
mod net;
mod provide;
mod raw;
#[path = "../shared/report.rs"]
mod report;
mod resume;
#[path = "../shared/stats.rs"]
mod stats;

use report::Bench;
pub(crate) use report::{Failure, Outcome, Outcomes};

const BENCHES: [Bench; 6] = [
    (
        &["dht.provide10k.found", "dht.sweep.lookups_vs_naive", "dht.sweep.messages_vs_naive"],
        provide::run,
    ),
    (&["dht.resume", "dht.resume.forgotten"], resume::run),
    (&["dht.lookup.n10", "dht.lookup.n100", "dht.lookup.n1000", "dht.lookup.n10000"], lookups::run),
    (&["dht.lookup.5000", "dht.lookup.5000.stall"], many::run),
    (&["dht.flood", "dht.flood.found"], flood::run),
    (&["dht.eclipse"], eclipse::run),
];

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1).peekable();
    if args.next_if(|arg| arg == "--provider").is_some() {
        return resume::serve(&args.next().unwrap_or_default());
    }
    report::run(&BENCHES, args)
}
