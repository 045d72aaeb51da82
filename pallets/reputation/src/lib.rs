//! Reputation by account, and the overlay keys an account answers for.
//!
//! Two facts are kept, and one counter:
//!
//! - **Scores.** Three components for each account, `0..=1000`. Whoever `Config::RecordOrigin`
//!   stands for moves them with [`Call::record`]; an account that was never recorded counts as
//!   neutral, 500 everywhere.
//! - **Bindings.** An overlay key answers to one account, an account for a bounded number of keys
//!   ([`Call::bind_peer`]); both directions are one storage read. The key itself agrees, by a
//!   signature over [`bind_payload`] that is good for one account, one chain and one use.
//! - **[`Revision`]** grows by one with each call that changes what a node would read page by page
//!   ([`Pallet::peers`]), so that a node reads again only then.
//!
//! The pallet also keeps the session keys (`imon`) of those who will report what they saw peers do:
//! see [`reporter`].
//!
//! | file | what |
//! |---|---|
//! | `lib.rs` | storage, calls, events, errors, genesis: what the chain sees |
//! | `changes.rs` | what the calls do |
//! | `queries.rs` | what the runtime API answers; `try_state` |
//! | `reporter.rs` | the reporters' session key and how sessions hand it over |
//! | `weights.rs` | what the calls cost |

#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

mod changes;
mod queries;
pub mod reporter;
pub mod weights;

#[cfg(test)]
mod mock;
#[cfg(test)]
mod tests;

pub use pallet::*;
pub use pallet_reputation_runtime_api::{Component, OverlayKey, PeerScore, Scores, bind_payload};
pub use weights::WeightInfo;

// What the macros write out does these things; our own code stands in the other files, except for
// genesis.
#[allow(unused_qualifications, clippy::cast_possible_truncation, clippy::expect_used)]
#[frame_support::pallet]
pub mod pallet {
    use alloc::vec::Vec;

    use frame_support::{WeakBoundedVec, pallet_prelude::*};
    use frame_system::pallet_prelude::*;
    use sp_core::H256;

    use super::{Component, OverlayKey, Scores, WeightInfo, reporter::sr25519::AuthorityId};

    const STORAGE_VERSION: StorageVersion = StorageVersion::new(1);

    /// Changes for one call of [`Call::record`]: whose, which component, by how much.
    pub type Entries<T> = BoundedVec<
        (<T as frame_system::Config>::AccountId, Component, i16),
        <T as Config>::MaxRecordEntries,
    >;

    /// The pallet.
    #[pallet::pallet]
    #[pallet::storage_version(STORAGE_VERSION)]
    pub struct Pallet<T>(_);

    /// What a runtime chooses.
    #[pallet::config]
    pub trait Config: frame_system::Config<Hash = H256> {
        /// Who may record changes of scores.
        type RecordOrigin: EnsureOrigin<Self::RuntimeOrigin>;

        /// The most overlay keys one account may bind. An account's list is one storage value of
        /// 32 bytes a key.
        #[pallet::constant]
        type MaxKeysPerAccount: Get<u32>;

        /// The most changes in one call of [`Call::record`].
        #[pallet::constant]
        type MaxRecordEntries: Get<u32>;

        /// The most reporters of a session, normally the most validators (32 bytes each).
        #[pallet::constant]
        type MaxReporters: Get<u32>;

        /// What the calls cost.
        type WeightInfo: WeightInfo;
    }

    /// The scores of accounts for which anything was recorded.
    #[pallet::storage]
    pub type ScoresOf<T: Config> = StorageMap<_, Blake2_128Concat, T::AccountId, Scores>;

    /// The account that an overlay key is bound to.
    #[pallet::storage]
    pub type AccountOf<T: Config> = StorageMap<_, Blake2_128Concat, OverlayKey, T::AccountId>;

    /// The overlay keys an account answers for, in the order of binding. Never an empty list.
    #[pallet::storage]
    pub type KeysOf<T: Config> = StorageMap<
        _,
        Blake2_128Concat,
        T::AccountId,
        BoundedVec<OverlayKey, T::MaxKeysPerAccount>,
        ValueQuery,
    >;

    /// How many bindings an account ever made by call: the nonce of its next one.
    #[pallet::storage]
    pub type BindNonce<T: Config> = StorageMap<_, Blake2_128Concat, T::AccountId, u32, ValueQuery>;

    /// Grows by one with each call that changes what [`Pallet::peers`] answers, and only then.
    #[pallet::storage]
    pub type Revision<T: Config> = StorageValue<_, u64, ValueQuery>;

    /// The reporters' keys of the running session, in the order of its validators.
    #[pallet::storage]
    pub type Reporters<T: Config> =
        StorageValue<_, WeakBoundedVec<AuthorityId, T::MaxReporters>, ValueQuery>;

    /// What a chain starts with.
    #[pallet::genesis_config]
    #[derive(frame_support::DefaultNoBound)]
    pub struct GenesisConfig<T: Config> {
        /// Scores by account. Each account at most once, each component at most 1,000.
        pub scores: Vec<(T::AccountId, Scores)>,
        /// Overlay keys (in JSON, `0x` and 64 hex digits) with the account each is bound to, taken
        /// without a proof. Each key at most once.
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
                ScoresOf::<T>::insert(account, scores);
            }
            for (key, account) in &self.bindings {
                let key = key.to_fixed_bytes();
                assert!(
                    !AccountOf::<T>::contains_key(key),
                    "genesis: overlay key {key:02x?} is bound twice"
                );
                if KeysOf::<T>::try_append(account, key).is_err() {
                    panic!("genesis: too many overlay keys for account {account:?}");
                }
                AccountOf::<T>::insert(key, account);
            }
        }
    }

    /// What happened.
    #[pallet::event]
    #[pallet::generate_deposit(pub(crate) fn deposit_event)]
    pub enum Event<T: Config> {
        /// An account's scores were set: by a change, or for the first time.
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
    }

    #[pallet::call]
    impl<T: Config> Pallet<T> {
        /// Binds the overlay key `key` to the calling account.
        ///
        /// `proof` is the ed25519 signature of `key` over [`bind_payload`] of this chain's genesis
        /// hash, the account, the key, and the account's [`BindNonce`].
        ///
        /// # Errors
        /// [`Error::KeyAlreadyBound`], [`Error::TooManyKeys`], [`Error::BadProof`].
        #[pallet::call_index(0)]
        #[pallet::weight(T::WeightInfo::bind_peer())]
        pub fn bind_peer(origin: OriginFor<T>, key: OverlayKey, proof: [u8; 64]) -> DispatchResult {
            let account = ensure_signed(origin)?;
            Self::bind(account, key, proof)
        }

        /// Adds to scores, entry by entry in the given order, each result kept within `0..=1000`.
        /// An account that was never recorded starts from 500 in each component.
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
    }

    #[pallet::hooks]
    impl<T: Config> Hooks<BlockNumberFor<T>> for Pallet<T> {
        fn integrity_test() {
            assert!(T::MaxKeysPerAccount::get() > 0, "an account must be able to bind a key");
        }

        #[cfg(feature = "try-runtime")]
        fn try_state(_: BlockNumberFor<T>) -> Result<(), sp_runtime::TryRuntimeError> {
            Self::check_state()
        }
    }
}
