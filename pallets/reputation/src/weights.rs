//! What the calls cost, worked out by hand and on the safe side: for tests, and for a runtime that
//! has not measured them.
//!
//! Database accesses are counted from the code and priced by the runtime's `DbWeight`; computing is
//! priced at several times what it takes on a slow server core.

use core::marker::PhantomData;

use frame_support::{traits::Get, weights::Weight};

/// Picoseconds in a microsecond: the unit of `ref_time` is the picosecond.
const MICROSECOND: u64 = 1_000_000;

/// Proof size of one storage read, in bytes: more than the largest value the calls read (a list of
/// 16 keys, 513 bytes) and the trie nodes on the way to it.
const READ_PROOF: u64 = 4 * 1024;

/// Size of an entry in the list of what a block touched, in bytes.
const TOUCHED: u64 = 33;

/// What the calls and hooks cost, and what other pallets cause through [`crate::traits`].
pub trait WeightInfo {
    /// Of `bind_peer`.
    fn bind_peer() -> Weight;
    /// Of `record` with `entries` entries.
    fn record(entries: u32) -> Weight;
    /// Of `unbind_peer`.
    fn unbind_peer() -> Weight;
    /// Of `withdraw`.
    fn withdraw() -> Weight;
    /// Of one [`Ledger::add`](crate::Ledger::add).
    fn add() -> Weight;
    /// Of `on_idle` where it looks at `accounts` accounts, all of which it removes.
    fn on_idle(accounts: u32) -> Weight;
    /// Of `on_finalize` in a block that touched `touched` things.
    fn on_finalize(touched: u32) -> Weight;
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
    /// Reads the binding, the account's keys, nonce, balance and holds, the genesis hash, the next
    /// number, the key's past, the account's scores and the list of what was touched; writes all but
    /// the hash, and the number's entry. An ed25519 verification takes about 60 us.
    fn bind_peer() -> Weight {
        Self::cost(250, 10, 10)
    }

    /// For each entry, as if each named another account, reads its scores and keys and writes its
    /// scores; the list of what was touched is in the overlay after the first.
    fn record(entries: u32) -> Weight {
        let entries = u64::from(entries);
        Self::cost(20, 1, 1).saturating_add(Self::cost(15, 2, 1).saturating_mul(entries))
    }

    /// Reads and writes the binding.
    fn unbind_peer() -> Weight {
        Self::cost(40, 1, 1)
    }

    /// Reads the binding, the account's balance, holds, keys and scores and the list of what was
    /// touched; writes all but the scores, and the number's entry and the key's past.
    fn withdraw() -> Weight {
        Self::cost(120, 6, 7)
    }

    /// Reads the account's scores and keys, writes the scores.
    fn add() -> Weight {
        Self::cost(15, 3, 2)
    }

    /// Reads how far the search has come and writes it; for each account, reads and removes its
    /// scores and reads its keys.
    fn on_idle(accounts: u32) -> Weight {
        Self::cost(15, 1, 1)
            .saturating_add(Self::cost(10, 2, 1).saturating_mul(u64::from(accounts)))
    }

    /// Reads the list of what was touched and the revision; writes both and the log's entry. The list
    /// is sorted.
    fn on_finalize(touched: u32) -> Weight {
        Self::cost(20, 2, 3).saturating_add(
            Weight::from_parts(MICROSECOND, TOUCHED).saturating_mul(u64::from(touched)),
        )
    }
}
