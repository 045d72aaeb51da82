//! What calls and hooks cost, worked out by hand and on the safe side: for tests, and for a runtime
//! that has not measured them.
//!
//! Database accesses are counted from the code and priced by the runtime's `DbWeight`; computing is
//! priced at several times what it takes on a slow server core.

use core::marker::PhantomData;

use frame_support::{traits::Get, weights::Weight};

use crate::subjects::CHUNK;

/// Picoseconds in a microsecond: the unit of `ref_time` is the picosecond.
const MICROSECOND: u64 = 1_000_000;

/// Proof size of one storage read, in bytes: a value of a few hundred bytes, and the trie nodes on
/// the way to it. The few larger values (keys of reporters, moved accounts) are among several reads
/// that are smaller.
const READ_PROOF: u64 = 4 * 1024;

/// What calls and hooks cost.
pub trait WeightInfo {
    /// Of finding a report of `entries` good or bad.
    fn authorize_report(entries: u32) -> Weight;
    /// Of `report` with `entries` entries and one row that is written.
    fn report(entries: u32) -> Weight;
    /// Of a block in which no window begins or ends, and nothing is tallied.
    fn idle_block() -> Weight;
    /// Of the beginning of a window with that many reporters and places for subjects, all of them
    /// bound.
    fn begin_window(reporters: u32, places: u32) -> Weight;
    /// Of the end of a window.
    fn close_window() -> Weight;
    /// Of working off one chunk of `places`, all of them decided, which `reports` reported on; each
    /// of another account.
    fn tally_chunk(reports: u32, places: u32) -> Weight;
}

/// Weights at the database prices of the runtime `T`.
pub struct SubstrateWeight<T>(PhantomData<T>);

impl<T: frame_system::Config> SubstrateWeight<T> {
    /// `computing` microseconds, `reads` and `writes`.
    fn cost(computing: u64, reads: u64, writes: u64) -> Weight {
        let (time, proof) =
            (computing.saturating_mul(MICROSECOND), reads.saturating_mul(READ_PROOF));
        Weight::from_parts(time, proof)
            .saturating_add(T::DbWeight::get().reads_writes(reads, writes))
    }
}

impl<T: frame_system::Config> WeightInfo for SubstrateWeight<T> {
    /// Reads the window, its progress, the keys and the genesis hash. An sr25519 verification takes
    /// about 60 us, an entry a hash.
    fn authorize_report(entries: u32) -> Weight {
        Self::cost(200_u64.saturating_add(3_u64.saturating_mul(entries.into())), 5, 0)
    }

    /// Reads the window and its progress, writes the progress and a row.
    fn report(entries: u32) -> Weight {
        Self::cost(50_u64.saturating_add(entries.into()), 2, 2)
    }

    /// Reads the window, the tallies, where the session began, and how long it and a window are.
    fn idle_block() -> Weight {
        Self::cost(20, 6, 0)
    }

    /// Reads each binding; the keys of the reporters, the number of windows and of bindings; writes
    /// the window and the number.
    fn begin_window(reporters: u32, places: u32) -> Weight {
        let (reporters, places) = (u64::from(reporters), u64::from(places));
        let computing = 100_u64
            .saturating_add(2_u64.saturating_mul(reporters))
            .saturating_add(2_u64.saturating_mul(places));
        Self::cost(computing, places.saturating_add(4), 2)
    }

    /// Reads and writes the window, its progress and the tallies.
    fn close_window() -> Weight {
        Self::cost(50, 3, 3)
    }

    /// Reads and writes each report's row; for each place reads the binding and the account's
    /// scores and keys and writes its scores; reads and writes the tallies, the moved accounts and
    /// the list of what was touched. Finding a median of 64 takes about 2 us.
    fn tally_chunk(reports: u32, places: u32) -> Weight {
        let (reports, places) = (u64::from(reports), u64::from(places.min(CHUNK)));
        let computing = 300_u64
            .saturating_add(5_u64.saturating_mul(reports))
            .saturating_add(30_u64.saturating_mul(places));
        Self::cost(
            computing,
            reports.saturating_add(3_u64.saturating_mul(places)).saturating_add(4),
            reports.saturating_add(places).saturating_add(3),
        )
    }
}
