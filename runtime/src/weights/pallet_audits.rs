//! What the calls of `pallet_audits` cost: measured, and written by `scripts/benchmark.sh`.
//!
//! 50 steps of 20 runs each, benchmark command 64.0.0, on AMD EPYC.
//! Proof sizes are for maps of 1_000_000 entries.

use core::marker::PhantomData;

use frame_support::{traits::Get, weights::Weight};

/// Weights on the database prices of the runtime `T`.
pub struct Weights<T>(PhantomData<T>);

impl<T: frame_system::Config> pallet_audits::WeightInfo for Weights<T> {
    // Storage: `Audits::InProgress` (r:1 w:0)
    // Proof: `Audits::InProgress` (`max_values`: Some(1), `max_size`: Some(138), added: 633, mode: `MaxEncodedLen`)
    // Storage: `Audits::Current` (r:1 w:0)
    // Proof: `Audits::Current` (`max_values`: Some(1), `max_size`: Some(708), added: 1203, mode: `MaxEncodedLen`)
    // Storage: `Audits::Reporters` (r:1 w:0)
    // Proof: `Audits::Reporters` (`max_values`: Some(1), `max_size`: Some(8194), added: 8689, mode: `MaxEncodedLen`)
    // Storage: `System::BlockHash` (r:1 w:0)
    // Proof: `System::BlockHash` (`max_values`: None, `max_size`: Some(44), added: 2519, mode: `MaxEncodedLen`)
    // `e` is from 1 to 1_000.
    fn authorize_report(e: u32) -> Weight {
        // Proof as measured: 8_697 bytes.
        // At least 156_041_000 picoseconds.
        Weight::from_parts(246_164_291, 9_679)
            // Standard error: 41_533.
            .saturating_add(Weight::from_parts(2_400_753, 0).saturating_mul(e.into()))
            .saturating_add(T::DbWeight::get().reads(4))
    }

    // Storage: `Audits::Current` (r:1 w:0)
    // Proof: `Audits::Current` (`max_values`: Some(1), `max_size`: Some(708), added: 1203, mode: `MaxEncodedLen`)
    // Storage: `Audits::InProgress` (r:1 w:1)
    // Proof: `Audits::InProgress` (`max_values`: Some(1), `max_size`: Some(138), added: 633, mode: `MaxEncodedLen`)
    // Storage: `Audits::Reports` (r:0 w:8)
    // Proof: `Audits::Reports` (`max_values`: None, `max_size`: Some(156), added: 2631, mode: `MaxEncodedLen`)
    // `e` is from 1 to 1_000.
    fn report(e: u32) -> Weight {
        // Proof as measured: 478 bytes.
        // At least 82_093_000 picoseconds.
        Weight::from_parts(97_635_642, 2_193)
            // Standard error: 3_975.
            .saturating_add(Weight::from_parts(122_858, 0).saturating_mul(e.into()))
            .saturating_add(T::DbWeight::get().reads(2))
            .saturating_add(T::DbWeight::get().writes(2))
    }

    // Storage: `Audits::Current` (r:1 w:0)
    // Proof: `Audits::Current` (`max_values`: Some(1), `max_size`: Some(708), added: 1203, mode: `MaxEncodedLen`)
    // Storage: `Audits::Tallies` (r:1 w:0)
    // Proof: `Audits::Tallies` (`max_values`: Some(1), `max_size`: Some(343), added: 838, mode: `MaxEncodedLen`)
    // Storage: `Audits::SessionBegins` (r:1 w:0)
    // Proof: `Audits::SessionBegins` (`max_values`: Some(1), `max_size`: Some(4), added: 499, mode: `MaxEncodedLen`)
    // Storage: `Validators::SessionLength` (r:1 w:0)
    // Proof: `Validators::SessionLength` (`max_values`: Some(1), `max_size`: Some(4), added: 499, mode: `MaxEncodedLen`)
    // Storage: `Audits::WindowLength` (r:1 w:0)
    // Proof: `Audits::WindowLength` (`max_values`: Some(1), `max_size`: Some(4), added: 499, mode: `MaxEncodedLen`)
    // Storage: `Session::CurrentIndex` (r:1 w:0)
    // Proof: `Session::CurrentIndex` (`max_values`: Some(1), `max_size`: None, mode: `Measured`)
    fn idle_block() -> Weight {
        // Proof as measured: 1_150 bytes.
        // At least 38_753_000 picoseconds.
        Weight::from_parts(65_021_000, 2_635).saturating_add(T::DbWeight::get().reads(6))
    }

    // Storage: `Audits::WindowsBegun` (r:1 w:1)
    // Proof: `Audits::WindowsBegun` (`max_values`: Some(1), `max_size`: Some(4), added: 499, mode: `MaxEncodedLen`)
    // Storage: `Reputation::NextIndex` (r:1 w:0)
    // Proof: `Reputation::NextIndex` (`max_values`: Some(1), `max_size`: Some(4), added: 499, mode: `MaxEncodedLen`)
    // Storage: `Reputation::Numbered` (r:999 w:0)
    // Proof: `Reputation::Numbered` (`max_values`: None, `max_size`: Some(76), added: 2551, mode: `MaxEncodedLen`)
    // Storage: `Audits::Reporters` (r:1 w:0)
    // Proof: `Audits::Reporters` (`max_values`: Some(1), `max_size`: Some(8194), added: 8689, mode: `MaxEncodedLen`)
    // Storage: `System::ParentHash` (r:1 w:0)
    // Proof: `System::ParentHash` (`max_values`: Some(1), `max_size`: Some(32), added: 527, mode: `MaxEncodedLen`)
    // Storage: `Audits::Current` (r:0 w:1)
    // Proof: `Audits::Current` (`max_values`: Some(1), `max_size`: Some(708), added: 1203, mode: `MaxEncodedLen`)
    // `r` is from 1 to 256.
    // `s` is from 1 to 1_000.
    fn begin_window(_r: u32, s: u32) -> Weight {
        // Proof as measured: 116 bytes, 32 for each of `r`, 83 for each of `s`.
        // At least 161_131_000 picoseconds.
        Weight::from_parts(172_202_000, 9_679)
            // Standard error: 103_933.
            .saturating_add(Weight::from_parts(11_213_183, 0).saturating_mul(s.into()))
            .saturating_add(T::DbWeight::get().reads(4))
            .saturating_add(T::DbWeight::get().reads(1_u64.saturating_mul(s.into())))
            .saturating_add(T::DbWeight::get().writes(2))
            .saturating_add(Weight::from_parts(0, 2_551).saturating_mul(s.into()))
    }

    // Storage: `Audits::Current` (r:1 w:1)
    // Proof: `Audits::Current` (`max_values`: Some(1), `max_size`: Some(708), added: 1203, mode: `MaxEncodedLen`)
    // Storage: `Audits::InProgress` (r:1 w:1)
    // Proof: `Audits::InProgress` (`max_values`: Some(1), `max_size`: Some(138), added: 633, mode: `MaxEncodedLen`)
    // Storage: `Audits::Tallies` (r:1 w:1)
    // Proof: `Audits::Tallies` (`max_values`: Some(1), `max_size`: Some(343), added: 838, mode: `MaxEncodedLen`)
    fn close_window() -> Weight {
        // Proof as measured: 910 bytes.
        // At least 41_598_000 picoseconds.
        Weight::from_parts(64_380_000, 2_193)
            .saturating_add(T::DbWeight::get().reads(3))
            .saturating_add(T::DbWeight::get().writes(3))
    }

    // Storage: `Audits::Tallies` (r:1 w:1)
    // Proof: `Audits::Tallies` (`max_values`: Some(1), `max_size`: Some(343), added: 838, mode: `MaxEncodedLen`)
    // Storage: `Audits::Reports` (r:256 w:256)
    // Proof: `Audits::Reports` (`max_values`: None, `max_size`: Some(156), added: 2631, mode: `MaxEncodedLen`)
    // Storage: `Audits::MovedAccounts` (r:1 w:1)
    // Proof: `Audits::MovedAccounts` (`max_values`: Some(1), `max_size`: Some(34002), added: 34497, mode: `MaxEncodedLen`)
    // Storage: `Reputation::Numbered` (r:128 w:0)
    // Proof: `Reputation::Numbered` (`max_values`: None, `max_size`: Some(76), added: 2551, mode: `MaxEncodedLen`)
    // Storage: `Reputation::ScoresOf` (r:128 w:128)
    // Proof: `Reputation::ScoresOf` (`max_values`: None, `max_size`: Some(60), added: 2535, mode: `MaxEncodedLen`)
    // Storage: `Reputation::KeysOf` (r:128 w:0)
    // Proof: `Reputation::KeysOf` (`max_values`: None, `max_size`: Some(561), added: 3036, mode: `MaxEncodedLen`)
    // Storage: `Reputation::Pending` (r:1 w:1)
    // Proof: `Reputation::Pending` (`max_values`: Some(1), `max_size`: Some(67586), added: 68081, mode: `MaxEncodedLen`)
    // `r` is from 1 to 256.
    // `s` is from 1 to 128.
    fn tally_chunk(r: u32, s: u32) -> Weight {
        // Proof as measured: 4_559 bytes, 147 for each of `r`, 367 for each of `s`.
        // At least 1_862_516_000 picoseconds.
        Weight::from_parts(2_491_139_000, 69_071)
            // Standard error: 352_688.
            .saturating_add(Weight::from_parts(8_751_605, 0).saturating_mul(r.into()))
            // Standard error: 705_488.
            .saturating_add(Weight::from_parts(38_022_610, 0).saturating_mul(s.into()))
            .saturating_add(T::DbWeight::get().reads(3))
            .saturating_add(T::DbWeight::get().reads(1_u64.saturating_mul(r.into())))
            .saturating_add(T::DbWeight::get().reads(3_u64.saturating_mul(s.into())))
            .saturating_add(T::DbWeight::get().writes(3))
            .saturating_add(T::DbWeight::get().writes(1_u64.saturating_mul(r.into())))
            .saturating_add(T::DbWeight::get().writes(1_u64.saturating_mul(s.into())))
            .saturating_add(Weight::from_parts(0, 2_631).saturating_mul(r.into()))
            .saturating_add(Weight::from_parts(0, 3_036).saturating_mul(s.into()))
    }
}
