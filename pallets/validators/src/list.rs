//! The list of validators: what the calls do to it, and what must hold of it.

use alloc::vec::Vec;

use frame_support::{BoundedVec, ensure, pallet_prelude::DispatchResult};
use frame_system::pallet_prelude::BlockNumberFor;
use sp_runtime::DispatchError;

use crate::{Config, Error, Event, Listed, Pallet, SessionLength};

impl<T: Config> Pallet<T> {
    pub(crate) fn add_to_list(account: T::AccountId) -> DispatchResult {
        ensure!(pallet_session::NextKeys::<T>::contains_key(&account), Error::<T>::NoSessionKeys);
        let mut list = Listed::<T>::get();
        let Err(place) = list.binary_search(&account) else {
            return Err(Error::<T>::AlreadyValidator.into());
        };
        list.try_insert(place, account.clone()).map_err(|_| Error::<T>::TooManyValidators)?;
        Listed::<T>::put(list);
        Self::deposit_event(Event::ValidatorAdded { account });
        Ok(())
    }

    pub(crate) fn remove_from_list(account: T::AccountId) -> DispatchResult {
        let mut list = Listed::<T>::get();
        let place = list.binary_search(&account).map_err(|_| Error::<T>::NotValidator)?;
        ensure!(list.len() > 1, Error::<T>::LastValidator);
        list.remove(place);
        Listed::<T>::put(list);
        Self::deposit_event(Event::ValidatorRemoved { account });
        Ok(())
    }

    /// Replaces the list by `accounts`, sorted.
    pub(crate) fn replace_list(mut accounts: Vec<T::AccountId>) -> Result<(), Error<T>> {
        accounts.sort();
        ensure!(accounts.is_sorted_by(|a, b| a < b), Error::<T>::AlreadyValidator);
        let list: BoundedVec<_, _> =
            accounts.try_into().map_err(|_| Error::<T>::TooManyValidators)?;
        Listed::<T>::put(list);
        Ok(())
    }

    /// Checks the invariants: the list is sorted, has nobody twice, and is not empty.
    ///
    /// # Errors
    /// What does not hold.
    pub fn check_state() -> Result<(), DispatchError> {
        let list = Listed::<T>::get();
        ensure!(!list.is_empty(), "no validators");
        ensure!(list.is_sorted_by(|a, b| a < b), "the validators are not sorted, or one is twice");
        ensure!(
            SessionLength::<T>::get() > BlockNumberFor::<T>::default(),
            "a session of no blocks"
        );
        Ok(())
    }
}
