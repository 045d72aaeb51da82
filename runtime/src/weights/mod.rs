//! What the calls of our pallets cost, as `scripts/benchmark.sh` has measured it.

pub(crate) mod pallet_audits;
pub(crate) mod pallet_reputation;
pub(crate) mod pallet_validators;
