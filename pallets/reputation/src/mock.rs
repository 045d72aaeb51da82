//! A runtime of this pallet alone, for its tests.

use std::ops::RangeInclusive;

use frame_support::{
    derive_impl,
    traits::{ConstU32, ConstU64, Hooks},
    weights::{Weight, constants::ParityDbWeight},
};
use frame_system::EnsureRoot;
use sp_core::{Pair, ed25519};
use sp_io::TestExternalities;
use sp_runtime::{BuildStorage, DispatchResult, traits::Dispatchable};

use crate::{OverlayKey, bind_payload};

pub(crate) type AccountId = u64;

frame_support::construct_runtime!(
    pub enum Test {
        System: frame_system,
        Balances: pallet_balances,
        Reputation: crate,
    }
);

#[derive_impl(frame_system::config_preludes::TestDefaultConfig)]
impl frame_system::Config for Test {
    type AccountData = pallet_balances::AccountData<Balance>;
    type Block = frame_system::mocking::MockBlock<Test>;
    type DbWeight = ParityDbWeight;
}

#[derive_impl(pallet_balances::config_preludes::TestDefaultConfig)]
impl pallet_balances::Config for Test {
    type AccountStore = System;
}

pub(crate) type Balance = u64;

pub(crate) const MAX_KEYS: u8 = 3;
pub(crate) const DEPOSIT: Balance = 10;
/// What each of the accounts `0..=9` has to begin with: enough for all deposits but one.
pub(crate) const ENDOWMENT: Balance = 1_000;
pub(crate) const UNBIND_DELAY: u64 = 20;
pub(crate) const DAY: u64 = 10;
pub(crate) const WEEK: u64 = 7 * DAY;
pub(crate) const KEPT_REVISIONS: u32 = 5;
pub(crate) const MAX_TOUCHED: u32 = 6;

impl crate::Config for Test {
    type BindingDeposit = ConstU64<DEPOSIT>;
    type Currency = Balances;
    type DayLength = ConstU64<DAY>;
    type KeptRevisions = ConstU32<KEPT_REVISIONS>;
    type MaxKeysPerAccount = ConstU32<{ MAX_KEYS as u32 }>;
    type MaxRecordEntries = ConstU32<8>;
    type MaxTouched = ConstU32<MAX_TOUCHED>;
    type RecordOrigin = EnsureRoot<AccountId>;
    type RuntimeHoldReason = RuntimeHoldReason;
    type UnbindDelay = ConstU64<UNBIND_DELAY>;
    type WeightInfo = crate::weights::SubstrateWeight<Test>;
}

/// The accounts that have [`ENDOWMENT`].
pub(crate) const ENDOWED: RangeInclusive<AccountId> = 0..=9;

/// A chain with `genesis`, in its first block (in block 0 no event is kept).
pub(crate) fn chain(genesis: crate::GenesisConfig<Test>) -> TestExternalities {
    let genesis = RuntimeGenesisConfig {
        balances: pallet_balances::GenesisConfig {
            balances: ENDOWED.map(|account| (account, ENDOWMENT)).collect(),
            ..Default::default()
        },
        reputation: genesis,
        ..Default::default()
    };
    let mut chain = TestExternalities::new(genesis.build_storage().unwrap());
    chain.execute_with(|| System::set_block_number(1));
    chain
}

/// Ends the running block, with `idle` of its weight left, and begins the next.
pub(crate) fn next_block_idle(idle: Weight) {
    let number = System::block_number();
    let used = Reputation::on_idle(number, idle);
    assert!(used.all_lte(idle), "{used:?} of {idle:?}");
    Reputation::on_finalize(number);
    System::set_block_number(number + 1);
    Reputation::on_initialize(number + 1);
}

/// Ends the running block, which was full, and begins the next.
pub(crate) fn next_block() {
    next_block_idle(Weight::zero());
}

/// Lets `days` pass, in one leap.
pub(crate) fn pass_days(days: u64) {
    next_block();
    System::set_block_number(System::block_number() + days * DAY);
}

/// What becomes of `call`, as it does in a block: a call that fails leaves nothing behind.
pub(crate) fn submit(origin: RuntimeOrigin, call: crate::Call<Test>) -> DispatchResult {
    RuntimeCall::from(call).dispatch(origin).map(drop).map_err(|error| error.error)
}

/// A chain on which nothing was recorded.
pub(crate) fn new_chain() -> TestExternalities {
    chain(crate::GenesisConfig::default())
}

/// The same, where the host can make keys and sign with them.
#[cfg(feature = "runtime-benchmarks")]
pub(crate) fn chain_with_keystore() -> TestExternalities {
    use sp_keystore::{KeystoreExt, testing::MemoryKeystore};

    let mut chain = new_chain();
    chain.register_extension(KeystoreExt::new(MemoryKeystore::new()));
    chain
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
    let call = crate::Call::bind_peer { key: key(seed), proof };
    submit(RuntimeOrigin::signed(account), call).unwrap();
}

/// Takes node `seed` from `account`, and waits for as long as that takes.
pub(crate) fn unbind(seed: u8, account: AccountId) {
    let key = key(seed);
    submit(RuntimeOrigin::signed(account), crate::Call::unbind_peer { key }).unwrap();
    next_block();
    System::set_block_number(System::block_number() + UNBIND_DELAY);
    submit(RuntimeOrigin::signed(account), crate::Call::withdraw { key }).unwrap();
}
