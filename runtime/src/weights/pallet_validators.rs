//! What the calls of `pallet_validators` cost: measured, and written by `scripts/benchmark.sh`.
//!
//! 50 steps of 20 runs each, benchmark command 64.0.0, on AMD EPYC.
//! Proof sizes are for maps of 1_000_000 entries.

use core::marker::PhantomData;

use frame_support::{traits::Get, weights::Weight};

/// Weights on the database prices of the runtime `T`.
pub struct Weights<T>(PhantomData<T>);

impl<T: frame_system::Config> pallet_validators::WeightInfo for Weights<T> {
    // Storage: `Session::NextKeys` (r:1 w:0)
    // Proof: `Session::NextKeys` (`max_values`: None, `max_size`: None, mode: `Measured`)
    // Storage: `Validators::Listed` (r:1 w:1)
    // Proof: `Validators::Listed` (`max_values`: Some(1), `max_size`: Some(8194), added: 8689, mode: `MaxEncodedLen`)
    fn add() -> Weight {
        // Proof as measured: 8_493 bytes.
        // At least 38_211_000 picoseconds.
        Weight::from_parts(70_251_000, 11_958)
            .saturating_add(T::DbWeight::get().reads(2))
            .saturating_add(T::DbWeight::get().writes(1))
    }

    // Storage: `Validators::Listed` (r:1 w:1)
    // Proof: `Validators::Listed` (`max_values`: Some(1), `max_size`: Some(8194), added: 8689, mode: `MaxEncodedLen`)
    fn remove() -> Weight {
        // Proof as measured: 8_283 bytes.
        // At least 27_802_000 picoseconds.
        Weight::from_parts(53_700_000, 9_679)
            .saturating_add(T::DbWeight::get().reads(1))
            .saturating_add(T::DbWeight::get().writes(1))
    }
}
