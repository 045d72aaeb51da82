//! Runs the benchmarks of a runtime's pallets and writes their weights: `benchmark pallet` of
//! polkadot-sdk as a program of its own. `frame-omni-bencher` does the same, and builds RocksDB for
//! it.

use clap::Parser as _;
use frame_benchmarking_cli::PalletCmd;
use sp_runtime::traits::BlakeTwo256;

fn main() -> sc_cli::Result<()> {
    // No host functions beside those of every Substrate node.
    PalletCmd::parse().run_with_spec::<BlakeTwo256, ()>(None)
}
