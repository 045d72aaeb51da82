//! Benchmarks of reachability that need no lab: part of `scripts/bench.sh nat`, or
//! `cargo bench -p nsn-p2p --bench nat -- [NAME ...] [--quick]`.
//!
//! Prints one JSON object a line on standard output and progress on standard error. A name picks
//! every benchmark that begins with it; without one all run. A number never makes it fail.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `leak.rs` | `nat.leak`, `nat.leak.kb` |
//! | `dial.rs` | `nat.dial100_s` |
//! | `liars.rs` | the servers and routers that are asked in vain |
//! | `../shared` | what is printed; bytes that live |

mod dial;
mod leak;
mod liars;
#[path = "../shared/memory.rs"]
mod memory;
#[path = "../shared/report.rs"]
mod report;

use report::Bench;
pub(crate) use report::{Failure, Outcome, Outcomes};
use std::future::Future;

const BENCHES: [Bench; 2] =
    [(&["nat.leak", "nat.leak.kb"], leak::run), (&["nat.dial100_s"], dial::run)];

fn main() -> Result<(), Failure> {
    report::run(&BENCHES, std::env::args().skip(1))
}

/// Runs what is asynchronous on all cores.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}
