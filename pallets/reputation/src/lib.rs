//! Reputation by account, and the overlay keys an account answers for.
//!
//! - **Scores.** Three components for each account, `0..=1000`, 500 where nothing was recorded. What
//!   is above 500 decays by the week when it is not earned again; what is below stays until it is
//!   earned back. [`Outcome`] is the table of what moves them. Other pallets write through
//!   [`Ledger`], `Config::RecordOrigin` with [`Call::record`], and for a proved GRANDPA equivocation
//!   the runtime calls the pallet's `OnOffenceHandler`.
//! - **Bindings.** An overlay key answers to one account, an account for a bounded number of keys
//!   ([`Call::bind_peer`]); from a key, an account or a binding's number to the others is one storage
//!   read. The key itself agrees, by a signature over [`bind_payload`] that is good for one account,
//!   one chain and one use. A binding costs a deposit and leaves slowly: after
//!   [`Call::unbind_peer`] the account still answers for the key until it may
//!   [`Call::withdraw`] it.
//! - **History.** Scores belong to the account, so a new key of an old account is as bad as the
//!   account. What is below 500 when a binding is withdrawn is remembered for the key
//!   ([`KeyHistory`]), and lowers whatever account binds it next. A key *and* an account that are both
//!   new start at 500; the deposit is the price of that.
//! - **Feed.** [`Revision`] grows by one in each block that changed what a node would read page by
//!   page ([`Pallet::peers`]), and [`Log`] keeps what was touched ([`Pallet::changes_since`]).
//! - **Retention.** Scores that have decayed back to 500 say nothing; once a day `on_idle` walks
//!   through all and removes them, as far as a block's remaining weight allows.
//!
//! | file | what |
//! |---|---|
//! | `lib.rs` | storage, calls, events, errors, genesis: what the chain sees |
//! | `types.rs` | what is stored |
//! | `traits.rs` | what other pallets may ask and tell |
//! | `bindings.rs` | what the calls about bindings do |
//! | `scores.rs` | how scores change |
//! | `feed.rs` | what nodes are told of changes |
//! | `retention.rs` | how stale scores leave |
//! | `offences.rs` | what a proved misbehaviour costs |
//! | `queries.rs` | what the runtime API answers |
//! | `checks.rs` | what must hold of the state |
//! | `migrations.rs` | from one storage version to the next |
//! | `benchmarking.rs`, `weights.rs` | what the calls cost |

#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

mod bindings;
mod checks;
mod feed;
pub mod migrations;
mod offences;
mod queries;
mod retention;
mod scores;
pub mod traits;
pub mod types;
pub mod weights;

#[cfg(feature = "runtime-benchmarks")]
mod benchmarking;
#[cfg(test)]
mod mock;
#[cfg(test)]
mod tests;

pub use pallet::*;
pub use pallet_reputation_runtime_api::{
    Component, Earned, GRAYLIST_BELOW, MAX_SCORE, MIN_SCORE, NEUTRAL_SCORE, Outcome, OverlayKey,
    PeerChange, PeerEarned, PeerScore, Scores, bind_payload,
};
pub use traits::{Bindings, Ledger};
pub use weights::WeightInfo;

// What the macros write out does these things; our own code stands in the other files, except for
// genesis.
#[allow(unused_qualifications, clippy::cast_possible_truncation, clippy::expect_used)]
#[frame_support::pallet]
pub mod pallet {
    use alloc::vec::Vec;

    use frame_support::{
        pallet_prelude::*,
        traits::fungible::{Mutate, MutateHold},
    };
    use frame_system::pallet_prelude::*;
    use sp_core::H256;

    use super::{
        Earned, Outcome, OverlayKey, PeerScore, Scores, WeightInfo,
        types::{BalanceOf, Binding, Logged, Sweep, Touched},
    };

    const STORAGE_VERSION: StorageVersion = StorageVersion::new(2);

    /// For one call of [`Call::record`]: whose, what, how many times.
    pub type Entries<T> = BoundedVec<
        (<T as frame_system::Config>::AccountId, Outcome, u16),
        <T as Config>::MaxRecordEntries,
    >;

    /// A binding of the runtime `T`.
    pub type BindingOf<T> =
        Binding<<T as frame_system::Config>::AccountId, BalanceOf<T>, BlockNumberFor<T>>;

    /// The pallet.
    #[pallet::pallet]
    #[pallet::storage_version(STORAGE_VERSION)]
    pub struct Pallet<T>(_);

    /// What a runtime chooses.
    #[pallet::config]
    pub trait Config: frame_system::Config<Hash = H256> {
        /// Who may record outcomes.
        type RecordOrigin: EnsureOrigin<Self::RuntimeOrigin>;

        /// Where deposits are held.
        type Currency: Mutate<Self::AccountId>
            + MutateHold<Self::AccountId, Reason = Self::RuntimeHoldReason>;

        /// Why something is held, in the whole runtime.
        type RuntimeHoldReason: From<HoldReason>;

        /// What is held for each binding: the price of a peer that starts at 500.
        #[pallet::constant]
        type BindingDeposit: Get<BalanceOf<Self>>;

        /// For how many blocks an account answers for a key after it asked to unbind it. Longer than
        /// it takes until what the key did is recorded.
        #[pallet::constant]
        type UnbindDelay: Get<BlockNumberFor<Self>>;

        /// Blocks in a day, the unit in which scores age; at least 1. Days are counted in 16 bits:
        /// 179 years.
        #[pallet::constant]
        type DayLength: Get<BlockNumberFor<Self>>;

        /// Of how many revisions the chain knows what was touched, at least 1. A node that is
        /// further behind reads all peers.
        #[pallet::constant]
        type KeptRevisions: Get<u32>;

        /// How many accounts and keys a block may touch, at least 1, and nodes are still told which.
        /// [`Log`] keeps 33 bytes for each.
        #[pallet::constant]
        type MaxTouched: Get<u32>;

        /// The most overlay keys one account may bind. An account's list is one storage value of
        /// 32 bytes a key.
        #[pallet::constant]
        type MaxKeysPerAccount: Get<u32>;

        /// The most entries in one call of [`Call::record`].
        #[pallet::constant]
        type MaxRecordEntries: Get<u32>;

        /// What the calls cost.
        type WeightInfo: WeightInfo;
    }

    /// Why the pallet holds a part of somebody's balance.
    #[pallet::composite_enum]
    pub enum HoldReason {
        /// The deposit for a binding.
        Binding,
    }

    /// What accounts have earned for which anything was recorded. 12 bytes each, and removed when
    /// it has decayed to nothing; bad scores stay until earned back.
    #[pallet::storage]
    pub type ScoresOf<T: Config> = StorageMap<_, Blake2_128Concat, T::AccountId, Earned>;

    /// The bindings, by overlay key. Each has a deposit held for it, except those of genesis and of
    /// storage version 1.
    #[pallet::storage]
    pub type Bound<T: Config> = StorageMap<_, Blake2_128Concat, OverlayKey, BindingOf<T>>;

    /// The overlay keys an account answers for, in no particular order. Never an empty list.
    #[pallet::storage]
    pub type KeysOf<T: Config> = StorageMap<
        _,
        Blake2_128Concat,
        T::AccountId,
        BoundedVec<OverlayKey, T::MaxKeysPerAccount>,
        ValueQuery,
    >;

    /// Key and account of each binding, by its number.
    #[pallet::storage]
    pub type Numbered<T: Config> = StorageMap<_, Twox64Concat, u32, (OverlayKey, T::AccountId)>;

    /// The number of the next binding: how many were ever made.
    #[pallet::storage]
    pub type NextIndex<T: Config> = StorageValue<_, u32, ValueQuery>;

    /// What is bad about the past of keys that are bound to nobody: the scores that their last
    /// account had when it withdrew them, none above 500 and one at least below. Whoever binds such
    /// a key takes it over. 6 bytes each, for each of which somebody paid three calls and had a
    /// deposit locked for [`Config::UnbindDelay`].
    #[pallet::storage]
    pub type KeyHistory<T: Config> = StorageMap<_, Blake2_128Concat, OverlayKey, Scores>;

    /// How many bindings an account ever made by call: the nonce of its next one. Kept for good, or
    /// else an old proof would be good again.
    #[pallet::storage]
    pub type BindNonce<T: Config> = StorageMap<_, Blake2_128Concat, T::AccountId, u32, ValueQuery>;

    /// Grows by one in each block that changes what [`Pallet::peers`] answers, and in few others.
    #[pallet::storage]
    pub type Revision<T: Config> = StorageValue<_, u64, ValueQuery>;

    /// What was touched in this block so far; a full list may lack something. Empty between blocks.
    #[pallet::storage]
    pub type Pending<T: Config> =
        StorageValue<_, BoundedVec<Touched<T::AccountId>, T::MaxTouched>, ValueQuery>;

    /// What was touched at the last revisions, each at its number modulo [`Config::KeptRevisions`],
    /// so that a new one takes the place of one that is not kept any more. At most
    /// [`Config::KeptRevisions`] values of 33 bytes for each of [`Config::MaxTouched`].
    #[pallet::storage]
    pub type Log<T: Config> = StorageMap<_, Twox64Concat, u32, Logged<T::AccountId, T::MaxTouched>>;

    /// The search for accounts whose scores say nothing any more.
    #[pallet::storage]
    pub type Sweeping<T: Config> = StorageValue<_, Sweep<T::AccountId>>;

    /// What a chain starts with.
    #[pallet::genesis_config]
    #[derive(frame_support::DefaultNoBound)]
    pub struct GenesisConfig<T: Config> {
        /// Scores by account, as earned on the first day. Each account at most once, each component
        /// at most 1,000.
        pub scores: Vec<(T::AccountId, Scores)>,
        /// Overlay keys (in JSON, `0x` and 64 hex digits) with the account each is bound to, taken
        /// without a proof and without a deposit, which the account may not have. Each key at most
        /// once.
        pub bindings: Vec<(H256, T::AccountId)>,
    }

    #[pallet::genesis_build]
    impl<T: Config> BuildGenesisConfig for GenesisConfig<T> {
        // A wrong genesis must not become a chain; this runs when a chain is made, on input of
        // whoever makes it, and panicking is the only way the trait has to refuse.
        #[allow(clippy::panic)]
        fn build(&self) {
            for (account, scores) in &self.scores {
                assert!(scores.in_range(), "genesis: the scores of {account:?} exceed 1,000");
                assert!(
                    !ScoresOf::<T>::contains_key(account),
                    "genesis: two scores for account {account:?}"
                );
                ScoresOf::<T>::insert(account, Earned::new(*scores, 0));
            }
            for (key, account) in &self.bindings {
                let key = key.to_fixed_bytes();
                assert!(
                    !Bound::<T>::contains_key(key),
                    "genesis: overlay key {key:02x?} is bound twice"
                );
                if KeysOf::<T>::try_append(account, key).is_err() {
                    panic!("genesis: too many overlay keys for account {account:?}");
                }
                if Pallet::<T>::enter(key, account.clone(), BalanceOf::<T>::default()).is_err() {
                    panic!("genesis: too many bindings");
                }
            }
        }
    }

    /// What happened.
    #[pallet::event]
    #[pallet::generate_deposit(pub(crate) fn deposit_event)]
    pub enum Event<T: Config> {
        /// An account's scores were set: by an outcome, or by the past of a key that it bound.
        ScoresRecorded {
            /// Whose.
            account: T::AccountId,
            /// The new scores.
            scores: Scores,
        },
        /// An overlay key now answers to an account.
        PeerBound {
            /// The account.
            account: T::AccountId,
            /// The overlay key.
            key: OverlayKey,
            /// The number of the binding.
            index: u32,
        },
        /// An account asked to answer for an overlay key no longer.
        PeerUnbinding {
            /// The account.
            account: T::AccountId,
            /// The overlay key.
            key: OverlayKey,
            /// The first block in which it can be withdrawn.
            leaves: BlockNumberFor<T>,
        },
        /// An account answers for an overlay key no longer, and got its deposit back.
        PeerUnbound {
            /// The account.
            account: T::AccountId,
            /// The overlay key.
            key: OverlayKey,
        },
    }

    /// Why a call was refused.
    #[pallet::error]
    pub enum Error<T> {
        /// The overlay key is bound already, to this account or another.
        KeyAlreadyBound,
        /// The proof is no signature of the overlay key over this account, chain and nonce.
        BadProof,
        /// The account answers for as many keys as it may.
        TooManyKeys,
        /// The overlay key is bound to nobody.
        NotBound,
        /// The overlay key is bound to another account.
        BoundToAnother,
        /// The binding is being undone already.
        AlreadyUnbinding,
        /// Nobody asked to undo the binding.
        NotUnbinding,
        /// The account has to answer for the key for some time yet.
        StillAnswering,
    }

    #[pallet::call]
    impl<T: Config> Pallet<T> {
        /// Binds the overlay key `key` to the calling account, and holds a deposit for it. If the key
        /// has a bad past, the account's scores become no better than it.
        ///
        /// `proof` is the ed25519 signature of `key` over [`bind_payload`] of this chain's genesis
        /// hash, the account, the key, and the account's [`BindNonce`].
        ///
        /// # Errors
        /// [`Error::KeyAlreadyBound`], [`Error::TooManyKeys`], [`Error::BadProof`], or what the
        /// currency says if the account cannot pay the deposit.
        #[pallet::call_index(0)]
        #[pallet::weight(T::WeightInfo::bind_peer())]
        pub fn bind_peer(origin: OriginFor<T>, key: OverlayKey, proof: [u8; 64]) -> DispatchResult {
            let account = ensure_signed(origin)?;
            Self::bind(account, key, proof)
        }

        /// Adds what came of things to scores, entry by entry in the given order, each result kept
        /// within `0..=1000`. An account that was never recorded starts from 500 in each component.
        /// An entry of 0 times says nothing.
        ///
        /// # Errors
        /// `BadOrigin`, if the caller is not `Config::RecordOrigin`.
        #[pallet::call_index(1)]
        #[pallet::weight(T::WeightInfo::record(entries.len() as u32))]
        pub fn record(origin: OriginFor<T>, entries: Entries<T>) -> DispatchResult {
            T::RecordOrigin::ensure_origin(origin)?;
            Self::apply(entries);
            Ok(())
        }

        /// Begins to undo the binding of `key` to the calling account. The account answers for the
        /// key, and the deposit stays, until it is withdrawn: `Config::UnbindDelay` blocks from now at
        /// the earliest.
        ///
        /// # Errors
        /// [`Error::NotBound`], [`Error::BoundToAnother`], [`Error::AlreadyUnbinding`].
        #[pallet::call_index(2)]
        #[pallet::weight(T::WeightInfo::unbind_peer())]
        pub fn unbind_peer(origin: OriginFor<T>, key: OverlayKey) -> DispatchResult {
            let account = ensure_signed(origin)?;
            Self::unbind(account, key)
        }

        /// Ends the binding of `key` to the calling account and releases the deposit. The account's
        /// scores below 500 are remembered for the key.
        ///
        /// # Errors
        /// [`Error::NotBound`], [`Error::BoundToAnother`], [`Error::NotUnbinding`],
        /// [`Error::StillAnswering`], or what the currency says if it does not hold the deposit.
        #[pallet::call_index(3)]
        #[pallet::weight(T::WeightInfo::withdraw())]
        pub fn withdraw(origin: OriginFor<T>, key: OverlayKey) -> DispatchResult {
            let account = ensure_signed(origin)?;
            Self::end(account, key)
        }
    }

    #[pallet::view_functions]
    impl<T: Config> Pallet<T> {
        /// The scores of `account` as of this block, or `None` if nothing is recorded for it: it
        /// then counts as 500 in each component.
        pub fn score_of_account(account: T::AccountId) -> Option<Scores> {
            Self::account_scores(&account)
        }

        /// The scores of the account that answers for the overlay key `key` as of this block, or
        /// `None` if none does.
        pub fn score_of_peer(key: OverlayKey) -> Option<PeerScore> {
            Self::peer_score(key)
        }

        /// A page of the recorded accounts with their scores as of this block: those after `after`
        /// (`None` for the first page) in the storage map's own fixed order, at most `limit` and at
        /// most 1,000 of them. An empty page is the end.
        pub fn page_of_scores(
            after: Option<T::AccountId>,
            limit: u32,
        ) -> Vec<(T::AccountId, Scores)> {
            Self::scores(after, limit)
        }
    }

    #[pallet::hooks]
    impl<T: Config> Hooks<BlockNumberFor<T>> for Pallet<T> {
        fn on_initialize(_: BlockNumberFor<T>) -> Weight {
            // Of this block's `on_finalize`, as if as much had been touched as can be.
            T::WeightInfo::on_finalize(T::MaxTouched::get())
        }

        fn on_finalize(_: BlockNumberFor<T>) {
            Self::log_touched();
        }

        fn on_idle(_: BlockNumberFor<T>, remaining: Weight) -> Weight {
            Self::sweep(remaining)
        }

        fn integrity_test() {
            assert!(T::MaxKeysPerAccount::get() > 0, "an account must be able to bind a key");
            assert!(T::DayLength::get() > BlockNumberFor::<T>::default(), "a day has blocks");
            assert!(T::KeptRevisions::get() > 0, "the newest revision must be kept");
            assert!(T::MaxTouched::get() > 0, "a block must be able to touch something");
        }

        #[cfg(feature = "try-runtime")]
        fn try_state(_: BlockNumberFor<T>) -> Result<(), sp_runtime::TryRuntimeError> {
            Self::check_state()
        }
    }
}
