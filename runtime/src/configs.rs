//! What each pallet is told.

use frame_support::{
    derive_impl,
    dispatch::DispatchClass,
    parameter_types,
    traits::{ConstBool, ConstU8, ConstU32, ConstU64, ConstU128, VariantCountOf},
    weights::{
        IdentityFee, Weight,
        constants::{ParityDbWeight, WEIGHT_REF_TIME_PER_SECOND},
    },
};
use frame_system::{
    EnsureRoot,
    limits::{BlockLength, BlockWeights},
};
use pallet_transaction_payment::{ConstFeeMultiplier, FungibleAdapter, Multiplier};
use sp_consensus_aura::sr25519::AuthorityId as AuraId;
use sp_runtime::{
    Perbill,
    traits::{Convert, One, OpaqueKeys},
};
use sp_version::RuntimeVersion;

use crate::{
    AccountId, Aura, Balance, Balances, Block, BlockNumber, DAYS, EXISTENTIAL_DEPOSIT, Hash, Nonce,
    PalletInfo, Reputation, Runtime, RuntimeCall, RuntimeEvent, RuntimeFreezeReason,
    RuntimeHoldReason, RuntimeOrigin, RuntimeTask, SESSION_LENGTH, SLOT_DURATION_MS, Session,
    SessionKeys, System, UNIT, VERSION, Validators, WINDOW_LENGTH, offences::Penalty,
};

/// The most validators. It bounds every list of them, in consensus and in reports.
const MAX_VALIDATORS: u32 = 256;

/// Sessions for which a misbehaviour can still be proved: a week of ten-minute sessions.
const KEPT_SESSIONS: u32 = 7 * 24 * 6;

/// The share of a block that ordinary transactions may fill; the rest is for operational ones.
const NORMAL_RATIO: Perbill = Perbill::from_percent(75);

parameter_types! {
    /// Block hashes kept in the state: transactions are mortal for at most so many blocks.
    pub const BlockHashCount: BlockNumber = 2_400;
    pub const Version: RuntimeVersion = VERSION;
    /// One second of execution in three seconds of block time.
    pub Weights: BlockWeights = BlockWeights::with_sensible_defaults(
        Weight::from_parts(WEIGHT_REF_TIME_PER_SECOND, u64::MAX),
        NORMAL_RATIO,
    );
    /// 5 MiB.
    pub Length: BlockLength = BlockLength::builder()
        .max_length(5 * 1024 * 1024)
        .modify_max_length_for_class(DispatchClass::Normal, |max| *max = NORMAL_RATIO * *max)
        .build();
    /// The generic Substrate prefix of addresses.
    pub const AddressPrefix: u8 = 42;
    pub FeeMultiplier: Multiplier = Multiplier::one();
    /// Blocks for which a report of an equivocation waits for a place in a block: as long as it can
    /// be proved, in sessions of the usual length.
    pub const ReportLongevity: u64 = KEPT_SESSIONS as u64 * SESSION_LENGTH as u64;
}

/// What the first block of this runtime does to the state of an earlier one, in this order.
type Migrations = (pallet_reputation::migrations::V1ToV2<Runtime>,);

#[derive_impl(frame_system::config_preludes::SolochainDefaultConfig)]
impl frame_system::Config for Runtime {
    type AccountData = pallet_balances::AccountData<Balance>;
    type AccountId = AccountId;
    type Block = Block;
    type BlockHashCount = BlockHashCount;
    type BlockLength = Length;
    type BlockWeights = Weights;
    type DbWeight = ParityDbWeight;
    type Hash = Hash;
    type MaxConsumers = ConstU32<16>;
    type Nonce = Nonce;
    type SS58Prefix = AddressPrefix;
    type SingleBlockMigrations = Migrations;
    type Version = Version;
}

impl pallet_timestamp::Config for Runtime {
    type MinimumPeriod = ConstU64<{ SLOT_DURATION_MS / 2 }>;
    type Moment = u64;
    type OnTimestampSet = Aura;
    type WeightInfo = ();
}

impl pallet_aura::Config for Runtime {
    type AllowMultipleBlocksPerSlot = ConstBool<false>;
    type AuthorityId = AuraId;
    type DisabledValidators = ();
    type MaxAuthorities = ConstU32<MAX_VALIDATORS>;
    type SlotDuration = ConstU64<SLOT_DURATION_MS>;
}

impl pallet_grandpa::Config for Runtime {
    type EquivocationReportSystem = pallet_grandpa::EquivocationReportSystem<
        Runtime,
        Penalty,
        pallet_validators::Owners<Runtime>,
        ReportLongevity,
    >;
    type KeyOwnerProof = sp_session::MembershipProof;
    type MaxAuthorities = ConstU32<MAX_VALIDATORS>;
    type MaxNominators = ConstU32<0>;
    // A set lasts at least a session.
    type MaxSetIdSessionEntries = ConstU64<{ KEPT_SESSIONS as u64 }>;
    type RuntimeEvent = RuntimeEvent;
    type WeightInfo = ();
}

impl pallet_balances::Config for Runtime {
    type AccountStore = System;
    type Balance = Balance;
    type DoneSlashHandler = ();
    type DustRemoval = ();
    type ExistentialDeposit = ConstU128<EXISTENTIAL_DEPOSIT>;
    type FreezeIdentifier = RuntimeFreezeReason;
    type MaxFreezes = VariantCountOf<RuntimeFreezeReason>;
    type MaxLocks = ConstU32<50>;
    type MaxReserves = ();
    type ReserveIdentifier = [u8; 8];
    type RuntimeEvent = RuntimeEvent;
    type RuntimeFreezeReason = RuntimeFreezeReason;
    type RuntimeHoldReason = RuntimeHoldReason;
    type WeightInfo = pallet_balances::weights::SubstrateWeight<Runtime>;
}

impl pallet_transaction_payment::Config for Runtime {
    type FeeMultiplierUpdate = ConstFeeMultiplier<FeeMultiplier>;
    type LengthToFee = IdentityFee<Balance>;
    type OnChargeTransaction = FungibleAdapter<Balances, ()>;
    type OperationalFeeMultiplier = ConstU8<5>;
    type RuntimeEvent = RuntimeEvent;
    type WeightInfo = pallet_transaction_payment::weights::SubstrateWeight<Runtime>;
    type WeightToFee = IdentityFee<Balance>;
}

impl pallet_sudo::Config for Runtime {
    type RuntimeCall = RuntimeCall;
    type RuntimeEvent = RuntimeEvent;
    type WeightInfo = pallet_sudo::weights::SubstrateWeight<Runtime>;
}

impl pallet_authorship::Config for Runtime {
    type EventHandler = ();
    type FindAuthor = pallet_session::FindAccountFromAuthorIndex<Runtime, Aura>;
}

impl pallet_validators::Config for Runtime {
    type AdminOrigin = EnsureRoot<AccountId>;
    type DefaultSessionLength = ConstU32<SESSION_LENGTH>;
    type KeptSessions = ConstU32<KEPT_SESSIONS>;
    type MaxValidators = ConstU32<MAX_VALIDATORS>;
    type WeightInfo = crate::weights::pallet_validators::Weights<Runtime>;
}

/// Sessions end after a fixed number of blocks.
type Periodic = pallet_session::PeriodicSessions<pallet_validators::Length<Runtime>, ConstU32<0>>;

impl pallet_session::Config for Runtime {
    type Currency = Balances;
    type DisablingStrategy = ();
    // Setting keys writes about 600 bytes of state for as long as the account likes.
    type KeyDeposit = ConstU128<UNIT>;
    type Keys = SessionKeys;
    type NextSessionRotation = Periodic;
    type RuntimeEvent = RuntimeEvent;
    type SessionHandler = <SessionKeys as OpaqueKeys>::KeyTypeIdProviders;
    type SessionManager = pallet_session::historical::NoteHistoricalRoot<Runtime, Validators>;
    type ShouldEndSession = Periodic;
    type ValidatorId = AccountId;
    type ValidatorIdOf = sp_runtime::traits::ConvertInto;
    type WeightInfo = pallet_session::weights::SubstrateWeight<Runtime>;
}

/// A validator is identified by its account; nobody stands behind it with a stake.
pub struct NoStake;

impl Convert<AccountId, Option<()>> for NoStake {
    fn convert(_: AccountId) -> Option<()> {
        Some(())
    }
}

impl pallet_session::historical::Config for Runtime {
    type FullIdentification = ();
    type FullIdentificationOf = NoStake;
    type RuntimeEvent = RuntimeEvent;
}

impl pallet_offences::Config for Runtime {
    type IdentificationTuple = pallet_session::historical::IdentificationTuple<Runtime>;
    // What an offence costs is said by `Penalty`, which stands before this pallet.
    type OnOffenceHandler = ();
    type RuntimeEvent = RuntimeEvent;
}

/// What a peer costs that starts with a neutral reputation, for as long as it is bound.
const BINDING_DEPOSIT: Balance = 10 * UNIT;

/// How long an account answers for an overlay key that it no longer wants: as long as misbehaviour
/// can be proved. Windows of audits are done much sooner.
const UNBIND_DELAY: BlockNumber = KEPT_SESSIONS * SESSION_LENGTH;

/// Of how many blocks that changed a reputation the chain can tell what they changed. If every block
/// does, that is two hours, the age at which block hashes go too.
const KEPT_REVISIONS: u32 = 2_400;

/// How many accounts and keys a block may touch and still tell which: twice what a window of audits
/// can. 68 KB a block; the whole log is 162 MB if every block is full, and 10 MB where each window of
/// audits moves 1,000 peers in 8 blocks.
const MAX_TOUCHED: u32 = 2_048;

impl pallet_reputation::Config for Runtime {
    type BindingDeposit = ConstU128<BINDING_DEPOSIT>;
    type Currency = Balances;
    type DayLength = ConstU32<DAYS>;
    type KeptRevisions = ConstU32<KEPT_REVISIONS>;
    type MaxKeysPerAccount = ConstU32<16>;
    type MaxRecordEntries = ConstU32<256>;
    type MaxTouched = ConstU32<MAX_TOUCHED>;
    type RecordOrigin = EnsureRoot<AccountId>;
    type RuntimeHoldReason = RuntimeHoldReason;
    type UnbindDelay = ConstU32<UNBIND_DELAY>;
    type WeightInfo = crate::weights::pallet_reputation::Weights<Runtime>;
}

/// The most reports in a block. With sessions of the usual length all validators could report in the
/// last tenth of a window.
const MAX_REPORTS_PER_BLOCK: u32 = 32;

impl pallet_audits::Config for Runtime {
    #[cfg(feature = "runtime-benchmarks")]
    type BenchmarkHelper = crate::benchmarks::BindAtGenesis;
    type Bindings = Reputation;
    type DefaultWindowLength = ConstU32<WINDOW_LENGTH>;
    type Ledger = Reputation;
    type MaxReporters = ConstU32<MAX_VALIDATORS>;
    type MaxReportsPerBlock = ConstU32<MAX_REPORTS_PER_BLOCK>;
    type NextSessionRotation = Periodic;
    type Sessions = Session;
    type WeightInfo = crate::weights::pallet_audits::Weights<Runtime>;
}
