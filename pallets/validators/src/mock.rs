//! A runtime of sessions and this pallet, for its tests.

use frame_support::{
    derive_impl,
    traits::{ConstU32, ConstU64},
};
use frame_system::EnsureRoot;
use pallet_session::historical::{self, NoteHistoricalRoot};
use sp_io::TestExternalities;
use sp_runtime::{
    BuildStorage, impl_opaque_keys,
    testing::UintAuthorityId,
    traits::{Convert, ConvertInto},
};

pub(crate) type AccountId = u64;

frame_support::construct_runtime!(
    pub enum Test {
        System: frame_system,
        Balances: pallet_balances,
        Validators: crate,
        Session: pallet_session,
        Historical: historical,
    }
);

#[derive_impl(frame_system::config_preludes::TestDefaultConfig)]
impl frame_system::Config for Test {
    type AccountData = pallet_balances::AccountData<u64>;
    type Block = frame_system::mocking::MockBlock<Test>;
}

#[derive_impl(pallet_balances::config_preludes::TestDefaultConfig)]
impl pallet_balances::Config for Test {
    type AccountStore = System;
}

impl_opaque_keys! {
    pub struct Keys {
        pub dummy: UintAuthorityId,
    }
}

pub struct NoStake;

impl Convert<AccountId, Option<()>> for NoStake {
    fn convert(_: AccountId) -> Option<()> {
        Some(())
    }
}

type Periodic = pallet_session::PeriodicSessions<crate::Length<Test>, ConstU64<0>>;

impl pallet_session::Config for Test {
    type Currency = Balances;
    type DisablingStrategy = ();
    type KeyDeposit = ConstU64<0>;
    type Keys = Keys;
    type NextSessionRotation = Periodic;
    type RuntimeEvent = RuntimeEvent;
    type SessionHandler = pallet_session::TestSessionHandler;
    type SessionManager = NoteHistoricalRoot<Test, Validators>;
    type ShouldEndSession = Periodic;
    type ValidatorId = AccountId;
    type ValidatorIdOf = ConvertInto;
    type WeightInfo = ();
}

impl historical::Config for Test {
    type FullIdentification = ();
    type FullIdentificationOf = NoStake;
    type RuntimeEvent = RuntimeEvent;
}

pub(crate) const MAX_VALIDATORS: u32 = 4;
pub(crate) const KEPT_SESSIONS: u32 = 3;

impl crate::Config for Test {
    type AdminOrigin = EnsureRoot<AccountId>;
    type DefaultSessionLength = ConstU64<5>;
    type KeptSessions = ConstU32<KEPT_SESSIONS>;
    type MaxValidators = ConstU32<MAX_VALIDATORS>;
    type WeightInfo = crate::weights::SubstrateWeight<Test>;
}

/// The session keys numbered `n`.
pub(crate) fn keys(n: u64) -> Keys {
    Keys { dummy: UintAuthorityId(n) }
}

/// A chain on which the accounts `holders` have session keys, in its first block.
pub(crate) fn chain(
    holders: &[AccountId],
    genesis: crate::GenesisConfig<Test>,
) -> TestExternalities {
    let genesis = RuntimeGenesisConfig {
        validators: genesis,
        session: pallet_session::GenesisConfig {
            keys: holders.iter().map(|who| (*who, *who, keys(*who))).collect(),
            ..Default::default()
        },
        ..Default::default()
    };
    let mut chain = TestExternalities::new(genesis.build_storage().unwrap());
    chain.execute_with(|| System::set_block_number(1));
    chain
}

/// Goes on to the first block of session `index`.
pub(crate) fn go_to_session(index: u32) {
    while Session::current_index() < index {
        System::run_to_block::<AllPalletsWithSystem>(System::block_number() + 1);
    }
}
