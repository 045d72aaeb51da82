//! What the calls of `pallet_reputation` cost: measured, and written by `scripts/benchmark.sh`.
//!
//! 50 steps of 20 runs each, benchmark command 64.0.0, on AMD EPYC.
//! Proof sizes are for maps of 1_000_000 entries.

use core::marker::PhantomData;

use frame_support::{traits::Get, weights::Weight};

/// Weights on the database prices of the runtime `T`.
pub struct Weights<T>(PhantomData<T>);

impl<T: frame_system::Config> pallet_reputation::WeightInfo for Weights<T> {
    // Storage: `Reputation::Bound` (r:1 w:1)
    // Proof: `Reputation::Bound` (`max_values`: None, `max_size`: Some(105), added: 2580, mode: `MaxEncodedLen`)
    // Storage: `Reputation::KeysOf` (r:1 w:1)
    // Proof: `Reputation::KeysOf` (`max_values`: None, `max_size`: Some(561), added: 3036, mode: `MaxEncodedLen`)
    // Storage: `Reputation::BindNonce` (r:1 w:1)
    // Proof: `Reputation::BindNonce` (`max_values`: None, `max_size`: Some(52), added: 2527, mode: `MaxEncodedLen`)
    // Storage: `System::BlockHash` (r:1 w:0)
    // Proof: `System::BlockHash` (`max_values`: None, `max_size`: Some(44), added: 2519, mode: `MaxEncodedLen`)
    // Storage: `Balances::Holds` (r:1 w:1)
    // Proof: `Balances::Holds` (`max_values`: None, `max_size`: Some(85), added: 2560, mode: `MaxEncodedLen`)
    // Storage: `Reputation::NextIndex` (r:1 w:1)
    // Proof: `Reputation::NextIndex` (`max_values`: Some(1), `max_size`: Some(4), added: 499, mode: `MaxEncodedLen`)
    // Storage: `Reputation::Pending` (r:1 w:1)
    // Proof: `Reputation::Pending` (`max_values`: Some(1), `max_size`: Some(67586), added: 68081, mode: `MaxEncodedLen`)
    // Storage: `Reputation::KeyHistory` (r:1 w:1)
    // Proof: `Reputation::KeyHistory` (`max_values`: None, `max_size`: Some(54), added: 2529, mode: `MaxEncodedLen`)
    // Storage: `Reputation::ScoresOf` (r:1 w:1)
    // Proof: `Reputation::ScoresOf` (`max_values`: None, `max_size`: Some(60), added: 2535, mode: `MaxEncodedLen`)
    // Storage: `Reputation::Numbered` (r:0 w:1)
    // Proof: `Reputation::Numbered` (`max_values`: None, `max_size`: Some(76), added: 2551, mode: `MaxEncodedLen`)
    fn bind_peer() -> Weight {
        // Proof as measured: 1_236 bytes.
        // At least 270_806_000 picoseconds.
        Weight::from_parts(437_437_000, 69_071)
            .saturating_add(T::DbWeight::get().reads(9))
            .saturating_add(T::DbWeight::get().writes(9))
    }

    // Storage: `Reputation::ScoresOf` (r:256 w:256)
    // Proof: `Reputation::ScoresOf` (`max_values`: None, `max_size`: Some(60), added: 2535, mode: `MaxEncodedLen`)
    // Storage: `Reputation::KeysOf` (r:256 w:0)
    // Proof: `Reputation::KeysOf` (`max_values`: None, `max_size`: Some(561), added: 3036, mode: `MaxEncodedLen`)
    // Storage: `Reputation::Pending` (r:1 w:1)
    // Proof: `Reputation::Pending` (`max_values`: Some(1), `max_size`: Some(67586), added: 68081, mode: `MaxEncodedLen`)
    // `n` is from 0 to 256.
    fn record(n: u32) -> Weight {
        // Proof as measured: 58 bytes, 151 for each of `n`.
        // At least 13_204_000 picoseconds.
        Weight::from_parts(159_782_088, 69_071)
            // Standard error: 701_343.
            .saturating_add(Weight::from_parts(33_025_692, 0).saturating_mul(n.into()))
            .saturating_add(T::DbWeight::get().reads(1))
            .saturating_add(T::DbWeight::get().reads(2_u64.saturating_mul(n.into())))
            .saturating_add(T::DbWeight::get().writes(1))
            .saturating_add(T::DbWeight::get().writes(1_u64.saturating_mul(n.into())))
            .saturating_add(Weight::from_parts(0, 3_036).saturating_mul(n.into()))
    }

    // Storage: `Reputation::Bound` (r:1 w:1)
    // Proof: `Reputation::Bound` (`max_values`: None, `max_size`: Some(105), added: 2580, mode: `MaxEncodedLen`)
    fn unbind_peer() -> Weight {
        // Proof as measured: 662 bytes.
        // At least 49_603_000 picoseconds.
        Weight::from_parts(77_174_000, 3_570)
            .saturating_add(T::DbWeight::get().reads(1))
            .saturating_add(T::DbWeight::get().writes(1))
    }

    // Storage: `Reputation::Bound` (r:1 w:1)
    // Proof: `Reputation::Bound` (`max_values`: None, `max_size`: Some(105), added: 2580, mode: `MaxEncodedLen`)
    // Storage: `Balances::Holds` (r:1 w:1)
    // Proof: `Balances::Holds` (`max_values`: None, `max_size`: Some(85), added: 2560, mode: `MaxEncodedLen`)
    // Storage: `Reputation::KeysOf` (r:1 w:1)
    // Proof: `Reputation::KeysOf` (`max_values`: None, `max_size`: Some(561), added: 3036, mode: `MaxEncodedLen`)
    // Storage: `Reputation::ScoresOf` (r:1 w:0)
    // Proof: `Reputation::ScoresOf` (`max_values`: None, `max_size`: Some(60), added: 2535, mode: `MaxEncodedLen`)
    // Storage: `Reputation::Pending` (r:1 w:1)
    // Proof: `Reputation::Pending` (`max_values`: Some(1), `max_size`: Some(67586), added: 68081, mode: `MaxEncodedLen`)
    // Storage: `Reputation::Numbered` (r:0 w:1)
    // Proof: `Reputation::Numbered` (`max_values`: None, `max_size`: Some(76), added: 2551, mode: `MaxEncodedLen`)
    // Storage: `Reputation::KeyHistory` (r:0 w:1)
    // Proof: `Reputation::KeyHistory` (`max_values`: None, `max_size`: Some(54), added: 2529, mode: `MaxEncodedLen`)
    fn withdraw() -> Weight {
        // Proof as measured: 1_346 bytes.
        // At least 153_307_000 picoseconds.
        Weight::from_parts(271_757_000, 69_071)
            .saturating_add(T::DbWeight::get().reads(5))
            .saturating_add(T::DbWeight::get().writes(6))
    }

    // Storage: `Reputation::ScoresOf` (r:1 w:1)
    // Proof: `Reputation::ScoresOf` (`max_values`: None, `max_size`: Some(60), added: 2535, mode: `MaxEncodedLen`)
    // Storage: `Reputation::KeysOf` (r:1 w:0)
    // Proof: `Reputation::KeysOf` (`max_values`: None, `max_size`: Some(561), added: 3036, mode: `MaxEncodedLen`)
    // Storage: `Reputation::Pending` (r:1 w:1)
    // Proof: `Reputation::Pending` (`max_values`: Some(1), `max_size`: Some(67586), added: 68081, mode: `MaxEncodedLen`)
    fn add() -> Weight {
        // Proof as measured: 282 bytes.
        // At least 29_646_000 picoseconds.
        Weight::from_parts(53_259_000, 69_071)
            .saturating_add(T::DbWeight::get().reads(3))
            .saturating_add(T::DbWeight::get().writes(2))
    }

    // Storage: `Reputation::Sweeping` (r:1 w:1)
    // Proof: `Reputation::Sweeping` (`max_values`: Some(1), `max_size`: Some(35), added: 530, mode: `MaxEncodedLen`)
    // Storage: `Reputation::ScoresOf` (r:257 w:256)
    // Proof: `Reputation::ScoresOf` (`max_values`: None, `max_size`: Some(60), added: 2535, mode: `MaxEncodedLen`)
    // Storage: `Reputation::KeysOf` (r:256 w:0)
    // Proof: `Reputation::KeysOf` (`max_values`: None, `max_size`: Some(561), added: 3036, mode: `MaxEncodedLen`)
    // Storage: `Reputation::Pending` (r:1 w:1)
    // Proof: `Reputation::Pending` (`max_values`: Some(1), `max_size`: Some(67586), added: 68081, mode: `MaxEncodedLen`)
    // `n` is from 1 to 256.
    fn on_idle(n: u32) -> Weight {
        // Proof as measured: 61 bytes, 151 for each of `n`.
        // At least 52_578_000 picoseconds.
        Weight::from_parts(60_213_000, 69_071)
            // Standard error: 208_687.
            .saturating_add(Weight::from_parts(27_655_947, 0).saturating_mul(n.into()))
            .saturating_add(T::DbWeight::get().reads(3))
            .saturating_add(T::DbWeight::get().reads(2_u64.saturating_mul(n.into())))
            .saturating_add(T::DbWeight::get().writes(2))
            .saturating_add(T::DbWeight::get().writes(1_u64.saturating_mul(n.into())))
            .saturating_add(Weight::from_parts(0, 3_036).saturating_mul(n.into()))
    }

    // Storage: `Reputation::Pending` (r:1 w:1)
    // Proof: `Reputation::Pending` (`max_values`: Some(1), `max_size`: Some(67586), added: 68081, mode: `MaxEncodedLen`)
    // Storage: `Reputation::Revision` (r:1 w:1)
    // Proof: `Reputation::Revision` (`max_values`: Some(1), `max_size`: Some(8), added: 503, mode: `MaxEncodedLen`)
    // Storage: `Reputation::Log` (r:0 w:1)
    // Proof: `Reputation::Log` (`max_values`: None, `max_size`: Some(67607), added: 70082, mode: `MaxEncodedLen`)
    // `n` is from 1 to 2_047.
    fn on_finalize(n: u32) -> Weight {
        // Proof as measured: 36 bytes, 33 for each of `n`.
        // At least 14_687_000 picoseconds.
        Weight::from_parts(7_491_897, 69_071)
            // Standard error: 593.
            .saturating_add(Weight::from_parts(310_911, 0).saturating_mul(n.into()))
            .saturating_add(T::DbWeight::get().reads(2))
            .saturating_add(T::DbWeight::get().writes(3))
    }
}
