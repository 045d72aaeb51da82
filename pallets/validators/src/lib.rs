//! The list of validators, and the session manager that answers with it.
//!
//! `Config::AdminOrigin` adds and removes validators. The list is asked for when a session is
//! *planned*, one session before it runs, so a change takes effect at the second session boundary
//! after the call. The list never becomes empty.
//!
//! The session manager always answers `Some`: after a `None` the session pallet would keep the old
//! root of session keys, and keys that were rotated since could not be proved to have been a
//! validator's. Roots are kept for [`Config::KeptSessions`] sessions.
//!
//! At genesis the validators are those of [`GenesisConfig::initial`] or, when it is empty, all
//! accounts that have session keys. So whoever writes a chain specification fills in
//! `session.keys` alone, which is all that network tools know of.
//!
//! The length of a session is set at genesis too ([`SessionLength`]), because a development chain
//! wants to see a rotated key at work within a minute or two.
//!
//! | file | what |
//! |---|---|
//! | `lib.rs` | storage, calls, events, errors, genesis: what the chain sees |
//! | `list.rs` | what the calls do to the list |
//! | `manager.rs` | the session manager |
//! | `owners.rs` | whose a session key is, to prove a misbehaviour |
//! | `weights.rs` | what the calls cost, as a trait that the runtime fills in |
//! | `benchmarking.rs` | how that is measured |

#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

#[cfg(feature = "runtime-benchmarks")]
mod benchmarking;
mod list;
mod manager;
mod owners;
pub mod weights;

#[cfg(test)]
mod mock;
#[cfg(test)]
mod tests;

pub use manager::Length;
pub use owners::Owners;
pub use pallet::*;
pub use weights::WeightInfo;

// What the macros write out does these things; our own code stands in the other files, except for
// genesis.
#[allow(unused_qualifications, clippy::cast_possible_truncation, clippy::expect_used)]
#[frame_support::pallet]
pub mod pallet {
    use alloc::vec::Vec;

    use frame_support::pallet_prelude::*;
    use frame_system::pallet_prelude::*;

    use super::WeightInfo;

    const STORAGE_VERSION: StorageVersion = StorageVersion::new(1);

    /// The pallet.
    #[pallet::pallet]
    #[pallet::storage_version(STORAGE_VERSION)]
    pub struct Pallet<T>(_);

    /// What a runtime chooses.
    #[pallet::config]
    pub trait Config:
        frame_system::Config
        + pallet_session::Config<ValidatorId = <Self as frame_system::Config>::AccountId>
        + pallet_session::historical::Config
    {
        /// Who may add and remove validators.
        type AdminOrigin: EnsureOrigin<Self::RuntimeOrigin>;

        /// The most validators; the list is one storage value of 32 bytes each.
        #[pallet::constant]
        type MaxValidators: Get<u32>;

        /// For how many ended sessions the root of the session keys is kept (36 bytes each): how
        /// far back a misbehaviour can be proved.
        #[pallet::constant]
        type KeptSessions: Get<u32>;

        /// The length of a session in blocks where genesis does not say otherwise.
        #[pallet::constant]
        type DefaultSessionLength: Get<BlockNumberFor<Self>>;

        /// What the calls cost.
        type WeightInfo: WeightInfo;
    }

    /// The validators of the sessions that are planned from now on, sorted, each once.
    #[pallet::storage]
    pub type Listed<T: Config> =
        StorageValue<_, BoundedVec<T::AccountId, T::MaxValidators>, ValueQuery>;

    /// The length of a session in blocks. Set once, at genesis.
    #[pallet::storage]
    pub type SessionLength<T: Config> =
        StorageValue<_, BlockNumberFor<T>, ValueQuery, T::DefaultSessionLength>;

    /// The session keys in use, with their owners: those of the running session. At most
    /// `MaxValidators` entries of an account and its keys, so 32 kB with three keys and 256
    /// validators.
    #[pallet::storage]
    #[pallet::unbounded]
    pub type ActiveKeys<T: Config> = StorageValue<
        _,
        Vec<(<T as frame_system::Config>::AccountId, <T as pallet_session::Config>::Keys)>,
        ValueQuery,
    >;

    /// What a chain starts with.
    #[pallet::genesis_config]
    pub struct GenesisConfig<T: Config> {
        /// The validators, each once. Empty: all accounts that have session keys at genesis.
        pub initial: Vec<T::AccountId>,
        /// The length of a session in blocks, at least 1.
        pub session_length: BlockNumberFor<T>,
    }

    impl<T: Config> Default for GenesisConfig<T> {
        fn default() -> Self {
            Self { initial: Vec::new(), session_length: T::DefaultSessionLength::get() }
        }
    }

    #[pallet::genesis_build]
    impl<T: Config> BuildGenesisConfig for GenesisConfig<T> {
        // A wrong genesis must not become a chain; this runs when a chain is made, on input of
        // whoever makes it, and panicking is the only way the trait has to refuse.
        #[allow(clippy::panic)]
        fn build(&self) {
            assert!(
                self.session_length > BlockNumberFor::<T>::default(),
                "genesis: a session of no blocks"
            );
            SessionLength::<T>::put(self.session_length);
            if let Err(reason) = Pallet::<T>::replace_list(self.initial.clone()) {
                panic!("genesis: {reason:?}: a validator twice, or too many");
            }
        }
    }

    /// What happened.
    #[pallet::event]
    #[pallet::generate_deposit(pub(crate) fn deposit_event)]
    pub enum Event<T: Config> {
        /// An account will be a validator from the session after next.
        ValidatorAdded {
            /// Whose.
            account: T::AccountId,
        },
        /// An account will no longer be a validator from the session after next.
        ValidatorRemoved {
            /// Whose.
            account: T::AccountId,
        },
    }

    /// Why a call was refused.
    #[pallet::error]
    pub enum Error<T> {
        /// The account is in the list already.
        AlreadyValidator,
        /// The account is not in the list.
        NotValidator,
        /// The account has set no session keys, so it could neither author nor vote.
        NoSessionKeys,
        /// The list is full.
        TooManyValidators,
        /// The chain would stop without its last validator.
        LastValidator,
    }

    #[pallet::call]
    impl<T: Config> Pallet<T> {
        /// Adds `account` to the validators, from the session after next. It must have set its
        /// session keys.
        ///
        /// # Errors
        /// `BadOrigin`, [`Error::NoSessionKeys`], [`Error::AlreadyValidator`],
        /// [`Error::TooManyValidators`].
        #[pallet::call_index(0)]
        #[pallet::weight(<T as Config>::WeightInfo::add())]
        pub fn add(origin: OriginFor<T>, account: T::AccountId) -> DispatchResult {
            T::AdminOrigin::ensure_origin(origin)?;
            Self::add_to_list(account)
        }

        /// Removes `account` from the validators, from the session after next.
        ///
        /// # Errors
        /// `BadOrigin`, [`Error::NotValidator`], [`Error::LastValidator`].
        #[pallet::call_index(1)]
        #[pallet::weight(<T as Config>::WeightInfo::remove())]
        pub fn remove(origin: OriginFor<T>, account: T::AccountId) -> DispatchResult {
            T::AdminOrigin::ensure_origin(origin)?;
            Self::remove_from_list(account)
        }
    }

    #[pallet::hooks]
    impl<T: Config> Hooks<BlockNumberFor<T>> for Pallet<T> {
        #[cfg(feature = "try-runtime")]
        fn try_state(_: BlockNumberFor<T>) -> Result<(), sp_runtime::TryRuntimeError> {
            Self::check_state()
        }
    }
}
