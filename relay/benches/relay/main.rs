//! Benchmarks of the shard service: `scripts/bench.sh relay`, or
//! `cargo bench -p nsn-relay --bench relay -- [NAME ...] [--quick]`.
//!
//! Prints one JSON object a line on standard output and progress on standard error. A name picks
//! every benchmark that begins with it; without one all run. A number never makes it fail.
//!
//! Services are the real driver with real files, on real loopback sockets, on threads of their own;
//! viewers share the cores with them, as they do in every number that they are compared with.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `fair_share.rs` | `relay.fair_share` |
//! | `hit.rs` | `relay.hit.memory.c1`, `.c16`, `relay.hit.disk.c16`, `relay.hit.verified.c1` |
//! | `hit_ratio.rs` | `relay.hit_ratio`, `.scan`, `.quarter` |
//! | `index.rs` | `relay.index.bytes_per_entry`, `relay.index.open_ms` |
//! | `load.rs` | `nsn-load` as a process of its own |
//! | `viewers.rs` | `relay.viewers1000`, `relay.viewers100`, `relay.ttfb_p99_ms`, `relay.viewers_max` |
//! | `miss.rs` | `relay.miss.ttfb`, `.whole`, `.cold`, `relay.coalesce`, `relay.failover_ms`, `relay.hedge` |
//! | `node.rs` | a service in this process, with a directory that knows all of them |
//! | `../../../p2p/benches/shared` | what is printed; medians and quantiles |

mod fair_share;
mod hit;
mod hit_ratio;
mod index;
mod load;
mod miss;
mod node;
#[path = "../../../p2p/benches/shared/report.rs"]
mod report;
#[path = "../../../p2p/benches/shared/stats.rs"]
mod stats;
mod viewers;

use report::Bench;
pub(crate) use report::{Failure, Outcome, Outcomes};

const BENCHES: [Bench; 9] = [
    (
        &[
            "relay.hit.memory.c1",
            "relay.hit.memory.c16",
            "relay.hit.disk.c16",
            "relay.hit.verified.c1",
        ],
        hit::run,
    ),
    (
        &["relay.viewers1000", "relay.viewers100", "relay.ttfb_p99_ms", "relay.viewers_max"],
        viewers::run,
    ),
    (&["relay.fair_share"], fair_share::run),
    (&["relay.miss.ttfb", "relay.miss.whole", "relay.miss.cold"], miss::run),
    (&["relay.coalesce"], miss::coalesce),
    (&["relay.failover_ms"], miss::failover),
    (&["relay.hedge"], miss::hedge),
    (&["relay.hit_ratio", "relay.hit_ratio.scan", "relay.hit_ratio.quarter"], hit_ratio::run),
    (&["relay.index.bytes_per_entry", "relay.index.open_ms"], index::run),
];

fn main() -> Result<(), Failure> {
    if index::in_child()? {
        return Ok(());
    }
    report::run(&BENCHES, std::env::args().skip(1))
}
