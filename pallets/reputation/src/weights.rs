//! What the calls cost, worked out by hand and on the safe side.
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

/// What the calls cost.
pub trait WeightInfo {
    /// Of `bind_peer`.
    fn bind_peer() -> Weight;
    /// Of `record` with `entries` entries.
    fn record(entries: u32) -> Weight;
}

/// Weights on the database prices of the runtime `T`.
pub struct SubstrateWeight<T>(PhantomData<T>);

impl<T: frame_system::Config> WeightInfo for SubstrateWeight<T> {
    /// Reads the key's account, the account's keys and nonce, the genesis hash and the revision;
    /// writes all but the hash. An ed25519 verification takes about 60 us.
    fn bind_peer() -> Weight {
        Weight::from_parts(200 * MICROSECOND, 5 * READ_PROOF)
            .saturating_add(T::DbWeight::get().reads_writes(5, 4))
    }

    /// Reads and writes the revision once; for each entry, as if each named another account, reads
    /// its scores and keys and writes its scores.
    fn record(entries: u32) -> Weight {
        let entries = u64::from(entries);
        Weight::from_parts(20 * MICROSECOND, READ_PROOF)
            .saturating_add(
                Weight::from_parts(10 * MICROSECOND, 2 * READ_PROOF).saturating_mul(entries),
            )
            .saturating_add(T::DbWeight::get().reads_writes(1 + 2 * entries, 1 + entries))
    }
}
