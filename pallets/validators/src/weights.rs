//! What the calls cost, worked out by hand and on the safe side.

use core::marker::PhantomData;

use frame_support::{traits::Get, weights::Weight};

/// Picoseconds in a microsecond: the unit of `ref_time` is the picosecond.
const MICROSECOND: u64 = 1_000_000;

/// Proof size of one storage read, in bytes: more than the list of 256 validators (8 KiB) and the
/// trie nodes on the way to it.
const READ_PROOF: u64 = 12 * 1024;

/// What the calls cost.
pub trait WeightInfo {
    /// Of `add`.
    fn add() -> Weight;
    /// Of `remove`.
    fn remove() -> Weight;
}

/// Weights on the database prices of the runtime `T`.
pub struct SubstrateWeight<T>(PhantomData<T>);

impl<T: frame_system::Config> WeightInfo for SubstrateWeight<T> {
    /// Reads the account's session keys and the list; writes the list.
    fn add() -> Weight {
        Weight::from_parts(50 * MICROSECOND, 2 * READ_PROOF)
            .saturating_add(T::DbWeight::get().reads_writes(2, 1))
    }

    /// Reads and writes the list.
    fn remove() -> Weight {
        Weight::from_parts(50 * MICROSECOND, READ_PROOF)
            .saturating_add(T::DbWeight::get().reads_writes(1, 1))
    }
}
