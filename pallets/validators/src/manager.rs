//! The session manager: who validates in the next session, and how long a session is.

use alloc::vec::Vec;
use core::marker::PhantomData;

use frame_support::traits::Get;
use frame_system::pallet_prelude::BlockNumberFor;
use pallet_session::historical;
use sp_runtime::traits::{Convert, One};
use sp_staking::SessionIndex;

use crate::{Config, Listed, Pallet, SessionLength};

/// [`SessionLength`] as the period of `pallet_session::PeriodicSessions`. One read.
pub struct Length<T>(PhantomData<T>);

impl<T: Config> Get<BlockNumberFor<T>> for Length<T> {
    fn get() -> BlockNumberFor<T> {
        // Genesis refuses 0; a remainder by it would stop the chain, so it is made sure of here.
        SessionLength::<T>::get().max(One::one())
    }
}

impl<T: Config> Pallet<T> {
    /// The validators of the session being planned. If the list were empty, those of the running
    /// session go on: no answer at all would be worse (see the crate's documentation).
    fn planned() -> Vec<T::AccountId> {
        let list = Listed::<T>::get().into_inner();
        if list.is_empty() { pallet_session::Validators::<T>::get() } else { list }
    }

    /// Fills the list from the session keys of genesis, which are stored by now.
    fn adopt_genesis_keys() {
        if !Listed::<T>::get().is_empty() {
            return;
        }
        let holders = pallet_session::NextKeys::<T>::iter_keys().collect();
        // A wrong genesis must not become a chain, as in `GenesisConfig::build`.
        assert!(
            Self::replace_list(holders).is_ok(),
            "genesis: more accounts have session keys than there may be validators"
        );
    }
}

impl<T: Config> pallet_session::SessionManager<T::AccountId> for Pallet<T> {
    fn new_session(_: SessionIndex) -> Option<Vec<T::AccountId>> {
        Some(Self::planned())
    }

    fn new_session_genesis(_: SessionIndex) -> Option<Vec<T::AccountId>> {
        Self::adopt_genesis_keys();
        Some(Self::planned())
    }

    fn start_session(_: SessionIndex) {
        Self::keep_active_keys();
    }

    fn end_session(ended: SessionIndex) {
        if let Some(up_to) = ended.checked_sub(T::KeptSessions::get()) {
            historical::Pallet::<T>::prune_up_to(up_to);
        }
    }
}

impl<T: Config> historical::SessionManager<T::AccountId, T::FullIdentification> for Pallet<T> {
    fn new_session(index: SessionIndex) -> Option<Vec<(T::AccountId, T::FullIdentification)>> {
        <Self as pallet_session::SessionManager<_>>::new_session(index).map(Self::identify)
    }

    fn new_session_genesis(
        index: SessionIndex,
    ) -> Option<Vec<(T::AccountId, T::FullIdentification)>> {
        <Self as pallet_session::SessionManager<_>>::new_session_genesis(index).map(Self::identify)
    }

    fn start_session(index: SessionIndex) {
        <Self as pallet_session::SessionManager<_>>::start_session(index);
    }

    fn end_session(index: SessionIndex) {
        <Self as pallet_session::SessionManager<_>>::end_session(index);
    }
}

impl<T: Config> Pallet<T> {
    fn identify(validators: Vec<T::AccountId>) -> Vec<(T::AccountId, T::FullIdentification)> {
        validators
            .into_iter()
            .filter_map(|validator| {
                T::FullIdentificationOf::convert(validator.clone()).map(|full| (validator, full))
            })
            .collect()
    }
}
