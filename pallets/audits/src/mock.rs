//! A chain of sessions, bindings, scores and audits, for tests and for the benchmark.

use std::collections::BTreeMap;

use codec::Encode;
use frame_support::{
    derive_impl,
    dispatch::RawOrigin,
    parameter_types,
    traits::{Authorize, ConstU32, ConstU64, OnFinalize, OnIdle, OnInitialize},
    weights::Weight,
};
use frame_system::EnsureRoot;
use pallet_audits::{
    Call, Counts, Duty, Entry, Report, report_payload,
    reporter::sr25519::{AuthorityId, AuthoritySignature},
};
use sp_core::{H256, Pair, sr25519};
use sp_io::{TestExternalities, hashing::blake2_256};
use sp_runtime::{
    BuildStorage,
    traits::{ConvertInto, Dispatchable},
    transaction_validity::{TransactionSource, TransactionValidityError, ValidTransaction},
};

pub(crate) type AccountId = u64;

frame_support::construct_runtime!(
    pub enum Test {
        System: frame_system,
        Balances: pallet_balances,
        Session: pallet_session,
        Reputation: pallet_reputation,
        Audits: pallet_audits,
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

sp_runtime::impl_opaque_keys! {
    pub struct Keys {
        pub im_online: Audits,
    }
}

parameter_types! {
    /// The length of a session in blocks.
    pub static SessionLength: u64 = 20;
    /// Whether the end of a session is known beforehand.
    pub static SessionsAreKnown: bool = true;
    /// The validators of the sessions that are planned from now on.
    pub static Validators: Vec<AccountId> = Vec::new();
    /// Makes the block hashes of this chain others.
    pub static Salt: u64 = 0;
    /// The weight that is left at the end of a block.
    pub static IdleWeight: Weight = Weight::zero();
}

/// Plans sessions of [`Validators`].
pub struct Manager;

impl pallet_session::SessionManager<AccountId> for Manager {
    fn new_session(_: u32) -> Option<Vec<AccountId>> {
        Some(Validators::get())
    }
    fn start_session(_: u32) {}
    fn end_session(_: u32) {}
}

type Periodic = pallet_session::PeriodicSessions<SessionLength, ConstU64<0>>;

/// [`Periodic`], where that is known.
pub struct Known;

impl frame_support::traits::EstimateNextSessionRotation<u64> for Known {
    fn average_session_length() -> u64 {
        Periodic::average_session_length()
    }
    fn estimate_current_session_progress(now: u64) -> (Option<sp_runtime::Permill>, Weight) {
        Periodic::estimate_current_session_progress(now)
    }
    fn estimate_next_session_rotation(now: u64) -> (Option<u64>, Weight) {
        let (next, weight) = Periodic::estimate_next_session_rotation(now);
        (next.filter(|_| SessionsAreKnown::get()), weight)
    }
}

impl pallet_session::Config for Test {
    type Currency = Balances;
    type DisablingStrategy = ();
    type KeyDeposit = ConstU64<0>;
    type Keys = Keys;
    type NextSessionRotation = Periodic;
    type RuntimeEvent = RuntimeEvent;
    type SessionHandler = <Keys as sp_runtime::traits::OpaqueKeys>::KeyTypeIdProviders;
    type SessionManager = Manager;
    type ShouldEndSession = Periodic;
    type ValidatorId = AccountId;
    type ValidatorIdOf = ConvertInto;
    type WeightInfo = ();
}

pub(crate) const UNBIND_DELAY: u64 = 3;

impl pallet_reputation::Config for Test {
    type BindingDeposit = ConstU64<1>;
    type Currency = Balances;
    // Longer than the benchmark, so that nothing decays in it.
    type DayLength = ConstU64<28_800>;
    type KeptRevisions = ConstU32<10>;
    type MaxKeysPerAccount = ConstU32<16>;
    type MaxRecordEntries = ConstU32<8>;
    type MaxTouched = ConstU32<4_096>;
    type RecordOrigin = EnsureRoot<AccountId>;
    type RuntimeHoldReason = RuntimeHoldReason;
    type UnbindDelay = ConstU64<UNBIND_DELAY>;
    type WeightInfo = pallet_reputation::weights::SubstrateWeight<Test>;
}

pub(crate) const MAX_REPORTERS: u32 = 128;
pub(crate) const MAX_REPORTS_PER_BLOCK: u32 = 20;

impl pallet_audits::Config for Test {
    #[cfg(feature = "runtime-benchmarks")]
    type BenchmarkHelper = BindAtGenesis;
    type Bindings = Reputation;
    type DefaultWindowLength = ConstU32<10>;
    type Ledger = Reputation;
    type MaxReporters = ConstU32<MAX_REPORTERS>;
    type MaxReportsPerBlock = ConstU32<MAX_REPORTS_PER_BLOCK>;
    type NextSessionRotation = Known;
    type Sessions = Session;
    type WeightInfo = pallet_audits::weights::SubstrateWeight<Test>;
}

/// The first account that answers for a peer; those below are validators.
pub(crate) const FIRST_PEER: AccountId = 1_000;

/// The overlay key of peer `n`, which has binding `n`.
pub(crate) fn peer_key(n: u32) -> [u8; 32] {
    n.using_encoded(blake2_256)
}

/// The account that answers for peer `n`.
pub(crate) fn peer_account(n: u32) -> AccountId {
    FIRST_PEER + AccountId::from(n)
}

/// Binds as many peers more, one to an account.
#[cfg(feature = "runtime-benchmarks")]
pub struct BindAtGenesis;

#[cfg(feature = "runtime-benchmarks")]
impl pallet_audits::BenchmarkHelper for BindAtGenesis {
    fn bind(count: u32) {
        let bindings = (0..count).map(|n| (peer_key(n).into(), peer_account(n))).collect();
        let genesis = pallet_reputation::GenesisConfig::<Test> { bindings, ..Default::default() };
        frame_support::traits::BuildGenesisConfig::build(&genesis);
    }
}

/// A well-known key of validator `n`.
pub(crate) fn pair(n: AccountId) -> sr25519::Pair {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&n.to_le_bytes());
    sr25519::Pair::from_seed(&seed)
}

pub(crate) fn reporter_key(n: AccountId) -> AuthorityId {
    pair(n).public().into()
}

/// A chain before its first block, on which the accounts below `holders` have session keys, those
/// in `validators` are validators, and as many `peers` are bound, one to each of `accounts`, or
/// each to an account of its own.
pub(crate) fn chain_of(
    holders: AccountId,
    validators: Vec<AccountId>,
    peers: u32,
    account: impl Fn(u32) -> AccountId,
) -> TestExternalities {
    Validators::set(validators);
    SessionLength::set(20);
    SessionsAreKnown::set(true);
    Salt::set(0);
    IdleWeight::set(Weight::zero());
    let genesis = RuntimeGenesisConfig {
        session: pallet_session::GenesisConfig {
            keys: (0..holders)
                .map(|who| (who, who, Keys { im_online: reporter_key(who) }))
                .collect(),
            ..Default::default()
        },
        reputation: pallet_reputation::GenesisConfig {
            bindings: (0..peers).map(|n| (peer_key(n).into(), account(n))).collect(),
            ..Default::default()
        },
        ..Default::default()
    };
    TestExternalities::new(genesis.build_storage().unwrap())
}

/// A chain in its first block, with as many `validators` and `peers`.
pub(crate) fn chain(validators: AccountId, peers: u32) -> TestExternalities {
    let mut chain = chain_of(validators, (0..validators).collect(), peers, peer_account);
    chain.execute_with(begin_block);
    chain
}

/// A chain as benchmarks want it: with a keystore, and nobody and nothing on it.
#[cfg(feature = "runtime-benchmarks")]
pub(crate) fn with_keystore() -> TestExternalities {
    let mut chain = chain(0, 0);
    let keystore = sp_keystore::testing::MemoryKeystore::new();
    chain.register_extension(sp_keystore::KeystoreExt::new(keystore));
    chain
}

/// The number of the running block.
pub(crate) fn now() -> u64 {
    System::block_number()
}

/// Begins the next block.
pub(crate) fn begin_block() {
    let next = now() + 1;
    let parent = (Salt::get(), next - 1).using_encoded(blake2_256);
    System::reset_events();
    System::initialize(&next, &H256(parent), &Default::default());
    AllPalletsWithSystem::on_initialize(next);
}

/// Ends the running block.
pub(crate) fn end_block() {
    AllPalletsWithSystem::on_idle(now(), IdleWeight::get());
    AllPalletsWithSystem::on_finalize(now());
}

/// Goes on to the beginning of block `number`.
pub(crate) fn go_to(number: u64) {
    while now() < number {
        end_block();
        begin_block();
    }
}

/// Goes on to the first block of the running window that takes reports.
pub(crate) fn go_to_reports() -> pallet_audits::window::Span {
    let span = pallet_audits::Current::<Test>::get().unwrap().span;
    go_to(span.reports_from().into());
    span
}

/// What reporter `n` has to do.
pub(crate) fn duty(n: AccountId) -> Duty {
    Audits::duty(&reporter_key(n)).unwrap()
}

pub(crate) fn counts(served: u8, missed: u8) -> Counts {
    Counts::new(served, missed).unwrap()
}

/// The report of validator `n` that says `counts` of each of its subjects for which there are any.
pub(crate) fn report_of(n: AccountId, counts: impl Fn(u32) -> Option<Counts>) -> Report {
    let duty = duty(n);
    let entries = duty
        .subjects
        .iter()
        .filter_map(|subject| {
            Some(Entry { binding: subject.binding, counts: counts(subject.binding)? })
        })
        .collect();
    Report { session: duty.session, window: duty.window, reporter: duty.reporter, entries }
}

/// The signature of validator `n` under `report` on this chain.
pub(crate) fn signed(n: AccountId, report: &Report) -> AuthoritySignature {
    let genesis = System::block_hash(0);
    let payload =
        report_payload(genesis.as_fixed_bytes(), report.session, report.window, &report.entries);
    pair(n).sign(&payload).into()
}

/// What the pool or a block says of a report.
pub(crate) fn authorize(
    report: &Report,
    signature: &AuthoritySignature,
) -> Result<ValidTransaction, TransactionValidityError> {
    let (report, signature) = (report.clone(), signature.clone());
    let call = RuntimeCall::Audits(Call::report { report, signature });
    call.authorize(TransactionSource::InBlock).unwrap().map(|(valid, _)| valid)
}

/// Brings a report into the running block, if it may.
pub(crate) fn hand_in_signed(
    report: Report,
    signature: AuthoritySignature,
) -> Result<(), TransactionValidityError> {
    authorize(&report, &signature)?;
    let call = RuntimeCall::Audits(Call::report { report, signature });
    call.dispatch(RawOrigin::Authorized.into()).unwrap();
    Ok(())
}

/// Brings the report of validator `n` into the running block, if it may.
pub(crate) fn hand_in(n: AccountId, report: Report) -> Result<(), TransactionValidityError> {
    let signature = signed(n, &report);
    hand_in_signed(report, signature)
}

/// Brings the reports of these validators in, all saying the same.
pub(crate) fn all_hand_in(
    validators: impl IntoIterator<Item = AccountId>,
    counts: impl Fn(u32) -> Option<Counts>,
) {
    for n in validators {
        hand_in(n, report_of(n, &counts)).unwrap();
    }
}

/// The seeder score of peer `n`.
pub(crate) fn seeder(n: u32) -> u16 {
    Reputation::account_scores(&peer_account(n)).unwrap_or_default().seeder
}

/// All seeder scores that were ever moved.
pub(crate) fn seeders() -> BTreeMap<AccountId, u16> {
    pallet_reputation::ScoresOf::<Test>::iter()
        .map(|(account, earned)| (account, earned.scores.seeder))
        .collect()
}
