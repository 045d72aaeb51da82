//! The pallets whose calls `scripts/benchmark.sh` measures: ours. The others come with weights of
//! their own.

use alloc::{string::String, vec::Vec};

use frame_benchmarking::{BenchmarkBatch, BenchmarkConfig, BenchmarkList};
use frame_support::traits::{
    BuildGenesisConfig, StorageInfo, StorageInfoTrait, WhitelistedStorageKeys,
};
use sp_runtime::traits::{BlakeTwo256, Hash as _};

use crate::{AccountId, AllPalletsWithSystem, Audits, Reputation, Runtime, Validators};

#[macro_use]
mod list {
    frame_benchmarking::define_benchmarks!([pallet_audits, Audits][pallet_reputation, Reputation][pallet_validators, Validators]);
}

/// What there is to measure, and how large each storage item may be.
pub(crate) fn metadata(extra: bool) -> (Vec<BenchmarkList>, Vec<StorageInfo>) {
    let mut list = Vec::new();
    list_benchmarks!(list, extra);
    (list, AllPalletsWithSystem::storage_info())
}

/// Runs what `config` names.
pub(crate) fn dispatch(config: &BenchmarkConfig) -> Result<Vec<BenchmarkBatch>, String> {
    let whitelist = AllPalletsWithSystem::whitelisted_storage_keys();
    let mut batches = Vec::new();
    let params = (config, &whitelist);
    add_benchmarks!(params, batches);
    Ok(batches)
}

/// Binds keys the way a genesis does, which asks for no proof.
pub struct BindAtGenesis;

impl pallet_audits::BenchmarkHelper for BindAtGenesis {
    fn bind(count: u32) {
        let drawn = |kind: &str, n: u32| BlakeTwo256::hash_of(&(kind, n));
        let bindings =
            (0..count).map(|n| (drawn("key", n), AccountId::new(drawn("account", n).0))).collect();
        let genesis =
            pallet_reputation::GenesisConfig::<Runtime> { bindings, ..Default::default() };
        genesis.build();
    }
}
