//! The state transition function of an NSN chain: what a block may do to the state.
//!
//! A proof-of-authority chain. [AURA](pallet_aura) says who authors a block, [GRANDPA](pallet_grandpa)
//! finalises, [`pallet_session`] hands both their keys over session by session, and
//! [`pallet_validators`] says whose keys those are. On top of that stand balances and fees, a
//! privileged account ([sudo](pallet_sudo)) for as long as there is no governance, and
//! [`pallet_reputation`], which is what the video network reads and [`pallet_audits`] moves.
//!
//! | file | what |
//! |---|---|
//! | `lib.rs` | types, times, and the list of pallets |
//! | `configs.rs` | what each pallet is told |
//! | `apis.rs` | what a node may ask: the runtime APIs |
//! | `genesis.rs` | the presets a new chain starts from |
//! | `benchmarks.rs` | what `scripts/benchmark.sh` measures |
//! | `offences.rs` | what a proven misbehaviour in consensus costs |
//!
//! The crate builds twice: natively, for the types, and as wasm ([`WASM_BINARY`]), which is what
//! runs.

#![cfg_attr(not(feature = "std"), no_std)]
#![recursion_limit = "256"]
// The list of pallets is a macro that writes types at the root without documentation. (The crate's
// own items are documented all the same.)
#![allow(missing_docs)]

extern crate alloc;

#[cfg(feature = "std")]
#[allow(dead_code, unreachable_pub)]
mod wasm {
    include!(concat!(env!("OUT_DIR"), "/wasm_binary.rs"));
}
/// The runtime as compact wasm; `None` if it was built with `SKIP_WASM_BUILD`.
#[cfg(feature = "std")]
pub use wasm::WASM_BINARY;

mod apis;
#[cfg(feature = "runtime-benchmarks")]
mod benchmarks;
mod configs;
pub mod genesis;
mod offences;
mod weights;

#[cfg(test)]
mod tests;

use alloc::{borrow::Cow, vec::Vec};

use sp_runtime::{
    MultiAddress, MultiSignature, generic, impl_opaque_keys,
    traits::{BlakeTwo256, IdentifyAccount, Verify},
};
use sp_version::RuntimeVersion;

#[cfg(feature = "std")]
pub use apis::RuntimeApi;

/// A signature of any scheme that accounts may use.
pub type Signature = MultiSignature;
/// An account, named by its public key or the key's hash; 32 bytes.
pub type AccountId = <<Signature as Verify>::Signer as IdentifyAccount>::AccountId;
/// An account as a transaction names it.
pub type Address = MultiAddress<AccountId, ()>;
/// An amount of the chain's currency, in its smallest part: see [`UNIT`].
pub type Balance = u128;
/// The number of transactions an account has sent.
pub type Nonce = u32;
/// A 256-bit hash.
pub type Hash = sp_core::H256;
/// The number of a block.
pub type BlockNumber = u32;
/// A block's header.
pub type Header = generic::Header<BlockNumber, BlakeTwo256>;
/// A block with its transactions in full.
pub type Block = generic::Block<Header, UncheckedExtrinsic>;

/// The block as the node sees it, transactions as bytes: so that the node outlives changes of the
/// calls.
pub mod opaque {
    /// A transaction as bytes.
    pub use sp_runtime::OpaqueExtrinsic as UncheckedExtrinsic;

    /// A block of such transactions.
    pub type Block = sp_runtime::generic::Block<super::Header, UncheckedExtrinsic>;
}

/// One unit of the currency.
pub const UNIT: Balance = 1_000_000_000_000;
/// Below this an account is removed.
pub const EXISTENTIAL_DEPOSIT: Balance = UNIT / 1_000;

/// Time between blocks, in milliseconds. Three seconds leave a block room to cross the world and be
/// executed, and keep the time from a report to its effect short. It cannot be changed on a running
/// chain: AURA derives the author of a slot from it.
pub const SLOT_DURATION_MS: u64 = 3_000;
/// Blocks in a minute.
pub const MINUTES: BlockNumber = 20;
/// Blocks in an hour.
pub const HOURS: BlockNumber = 60 * MINUTES;
/// Blocks in a day.
pub const DAYS: BlockNumber = 24 * HOURS;
/// The length of a session, unless genesis says otherwise.
pub const SESSION_LENGTH: BlockNumber = 10 * MINUTES;
/// The length of a window of audits, unless genesis says otherwise: two to a session.
pub const WINDOW_LENGTH: BlockNumber = SESSION_LENGTH / 2;

/// Which runtime this is, as nodes and wallets see it.
#[sp_version::runtime_version]
pub const VERSION: RuntimeVersion = RuntimeVersion {
    spec_name: Cow::Borrowed("nsn"),
    impl_name: Cow::Borrowed("nsn-node"),
    authoring_version: 1,
    spec_version: 2,
    impl_version: 1,
    apis: apis::VERSIONS,
    transaction_version: 2,
    system_version: 1,
};

impl_opaque_keys! {
    /// The keys a validator works with, apart from its account. Network tools fill these fields in
    /// by name, so the reporters' key has the name of one they know.
    pub struct SessionKeys {
        /// Authors blocks.
        pub aura: Aura,
        /// Votes on finality.
        pub grandpa: Grandpa,
        /// Signs reports about peers: [`pallet_audits::reporter`].
        pub im_online: Audits,
    }
}

/// What a transaction carries beside its call, and what is checked before the call runs, in order.
pub type TxExtension = (
    // Calls that authorise themselves, without a signed origin, are recognised first.
    frame_system::AuthorizeCall<Runtime>,
    frame_system::CheckNonZeroSender<Runtime>,
    frame_system::CheckSpecVersion<Runtime>,
    frame_system::CheckTxVersion<Runtime>,
    frame_system::CheckGenesis<Runtime>,
    frame_system::CheckEra<Runtime>,
    frame_system::CheckNonce<Runtime>,
    frame_system::CheckWeight<Runtime>,
    pallet_transaction_payment::ChargeTransactionPayment<Runtime>,
    frame_metadata_hash_extension::CheckMetadataHash<Runtime>,
    frame_system::WeightReclaim<Runtime>,
);

/// What a transaction carries whose call authorises itself: it has no sender, so no nonce and no tip,
/// and is good for as long as the call says.
pub fn authorized_extension() -> TxExtension {
    (
        frame_system::AuthorizeCall::new(),
        frame_system::CheckNonZeroSender::new(),
        frame_system::CheckSpecVersion::new(),
        frame_system::CheckTxVersion::new(),
        frame_system::CheckGenesis::new(),
        frame_system::CheckEra::from(generic::Era::Immortal),
        frame_system::CheckNonce::from(0),
        frame_system::CheckWeight::new(),
        pallet_transaction_payment::ChargeTransactionPayment::from(0),
        frame_metadata_hash_extension::CheckMetadataHash::new(false),
        frame_system::WeightReclaim::new(),
    )
}

/// A transaction.
pub type UncheckedExtrinsic =
    generic::UncheckedExtrinsic<Address, RuntimeCall, Signature, TxExtension>;

/// Executes blocks and transactions.
type Executive = frame_executive::Executive<
    Runtime,
    Block,
    frame_system::ChainContext<Runtime>,
    Runtime,
    AllPalletsWithSystem,
>;

// The list of pallets. An index is part of the encoding of calls and events and never changes.
//
// The order counts in four places: genesis of `Validators` comes before that of `Session`, which
// asks it; `Authorship` looks the author up before `Session` may change who holds its index; the
// timestamp is set before anything reads it; and a session begins before `Audits` begins a window
// of it.
#[frame_support::runtime]
mod runtime {
    #[runtime::runtime]
    #[runtime::derive(
        RuntimeCall,
        RuntimeEvent,
        RuntimeError,
        RuntimeOrigin,
        RuntimeFreezeReason,
        RuntimeHoldReason,
        RuntimeSlashReason,
        RuntimeLockId,
        RuntimeTask,
        RuntimeViewFunction
    )]
    pub struct Runtime;

    #[runtime::pallet_index(0)]
    pub type System = frame_system;

    #[runtime::pallet_index(1)]
    pub type Timestamp = pallet_timestamp;

    #[runtime::pallet_index(2)]
    pub type Aura = pallet_aura;

    #[runtime::pallet_index(3)]
    pub type Grandpa = pallet_grandpa;

    #[runtime::pallet_index(4)]
    pub type Balances = pallet_balances;

    #[runtime::pallet_index(5)]
    pub type TransactionPayment = pallet_transaction_payment;

    #[runtime::pallet_index(6)]
    pub type Sudo = pallet_sudo;

    #[runtime::pallet_index(7)]
    pub type Authorship = pallet_authorship;

    #[runtime::pallet_index(8)]
    pub type Validators = pallet_validators;

    #[runtime::pallet_index(9)]
    pub type Session = pallet_session;

    #[runtime::pallet_index(10)]
    pub type Historical = pallet_session::historical;

    #[runtime::pallet_index(11)]
    pub type Reputation = pallet_reputation;

    #[runtime::pallet_index(12)]
    pub type Audits = pallet_audits;

    #[runtime::pallet_index(13)]
    pub type Offences = pallet_offences;
}
