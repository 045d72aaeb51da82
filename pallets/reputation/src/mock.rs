//! A runtime of this pallet alone, for its tests.

use frame_support::{derive_impl, traits::ConstU32};
use frame_system::EnsureRoot;
use sp_core::{Pair, ed25519};
use sp_io::TestExternalities;
use sp_runtime::BuildStorage;

use crate::{OverlayKey, bind_payload};

pub(crate) type AccountId = u64;

frame_support::construct_runtime!(
    pub enum Test {
        System: frame_system,
        Reputation: crate,
    }
);

#[derive_impl(frame_system::config_preludes::TestDefaultConfig)]
impl frame_system::Config for Test {
    type Block = frame_system::mocking::MockBlock<Test>;
}

pub(crate) const MAX_KEYS: u8 = 3;

impl crate::Config for Test {
    type MaxKeysPerAccount = ConstU32<{ MAX_KEYS as u32 }>;
    type MaxRecordEntries = ConstU32<8>;
    type MaxReporters = ConstU32<4>;
    type RecordOrigin = EnsureRoot<AccountId>;
    type WeightInfo = crate::weights::SubstrateWeight<Test>;
}

/// A chain with `genesis`, in its first block (in block 0 no event is kept).
pub(crate) fn chain(genesis: crate::GenesisConfig<Test>) -> TestExternalities {
    let genesis = RuntimeGenesisConfig { reputation: genesis, ..Default::default() };
    let mut chain = TestExternalities::new(genesis.build_storage().unwrap());
    chain.execute_with(|| System::set_block_number(1));
    chain
}

/// A chain on which nothing was recorded.
pub(crate) fn new_chain() -> TestExternalities {
    chain(crate::GenesisConfig::default())
}

/// The overlay node number `seed`.
pub(crate) fn overlay_node(seed: u8) -> ed25519::Pair {
    ed25519::Pair::from_seed(&[seed; 32])
}

/// Its key.
pub(crate) fn key(seed: u8) -> OverlayKey {
    overlay_node(seed).public().0
}

/// Its proof for `account` with `nonce`, on this chain.
pub(crate) fn proof(seed: u8, account: AccountId, nonce: u32) -> [u8; 64] {
    let genesis = System::block_hash(0);
    let payload = bind_payload(genesis.as_fixed_bytes(), &account, &key(seed), nonce);
    overlay_node(seed).sign(&payload).0
}

/// Binds node `seed` to `account`.
pub(crate) fn bind(seed: u8, account: AccountId) {
    let proof = proof(seed, account, Reputation::bind_nonce(&account));
    Reputation::bind_peer(RuntimeOrigin::signed(account), key(seed), proof).unwrap();
}
