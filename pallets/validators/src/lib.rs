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

#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

mod manager;
pub mod weights;

#[cfg(test)]
mod mock;
#[cfg(test)]
mod tests;

pub use manager::Length;
pub use pallet::*;
pub use weights::WeightInfo;

// The macro writes out paths in full.
#[allow(unused_qualifications)]
#[frame_support::pallet]
pub mod pallet {
    use alloc::vec::Vec;

    use frame_support::pallet_prelude::*;
    use frame_system::pallet_prelude::*;
    use sp_runtime::DispatchError;

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
    #[pallet::generate_deposit(fn deposit_event)]
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
            ensure!(
                pallet_session::NextKeys::<T>::contains_key(&account),
                Error::<T>::NoSessionKeys
            );
            let mut list = Listed::<T>::get();
            let Err(place) = list.binary_search(&account) else {
                return Err(Error::<T>::AlreadyValidator.into());
            };
            list.try_insert(place, account.clone()).map_err(|_| Error::<T>::TooManyValidators)?;
            Listed::<T>::put(list);
            Self::deposit_event(Event::ValidatorAdded { account });
            Ok(())
        }

        /// Removes `account` from the validators, from the session after next.
        ///
        /// # Errors
        /// `BadOrigin`, [`Error::NotValidator`], [`Error::LastValidator`].
        #[pallet::call_index(1)]
        #[pallet::weight(<T as Config>::WeightInfo::remove())]
        pub fn remove(origin: OriginFor<T>, account: T::AccountId) -> DispatchResult {
            T::AdminOrigin::ensure_origin(origin)?;
            let mut list = Listed::<T>::get();
            let place = list.binary_search(&account).map_err(|_| Error::<T>::NotValidator)?;
            ensure!(list.len() > 1, Error::<T>::LastValidator);
            list.remove(place);
            Listed::<T>::put(list);
            Self::deposit_event(Event::ValidatorRemoved { account });
            Ok(())
        }
    }

    #[pallet::hooks]
    impl<T: Config> Hooks<BlockNumberFor<T>> for Pallet<T> {
        #[cfg(feature = "try-runtime")]
        fn try_state(_: BlockNumberFor<T>) -> Result<(), sp_runtime::TryRuntimeError> {
            Self::check_state()
        }
    }

    impl<T: Config> Pallet<T> {
        /// Replaces the list by `accounts`, sorted.
        pub(crate) fn replace_list(mut accounts: Vec<T::AccountId>) -> Result<(), Error<T>> {
            accounts.sort();
            let length = accounts.len();
            accounts.dedup();
            ensure!(accounts.len() == length, Error::<T>::AlreadyValidator);
            let list = accounts.try_into().map_err(|_| Error::<T>::TooManyValidators)?;
            Listed::<T>::put::<BoundedVec<_, _>>(list);
            Ok(())
        }

        /// Checks the invariants: the list is sorted, has nobody twice, and is not empty.
        ///
        /// # Errors
        /// What does not hold.
        pub fn check_state() -> Result<(), DispatchError> {
            let list = Listed::<T>::get();
            ensure!(!list.is_empty(), "no validators");
            ensure!(
                list.is_sorted_by(|a, b| a < b),
                "the validators are not sorted, or one is twice"
            );
            ensure!(
                SessionLength::<T>::get() > BlockNumberFor::<T>::default(),
                "a session of no blocks"
            );
            Ok(())
        }
    }
}
