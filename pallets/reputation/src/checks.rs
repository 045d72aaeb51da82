//! What must hold of the state between blocks.

use alloc::collections::BTreeMap;

use frame_support::{
    ensure,
    traits::{Get, fungible::InspectHold},
};
use sp_runtime::{DispatchError, traits::Saturating};

use crate::{
    Bound, Config, HoldReason, KeyHistory, KeysOf, Log, NextIndex, Numbered, Pallet, Revision,
    Scores, ScoresOf, types::BalanceOf,
};

impl<T: Config> Pallet<T> {
    /// Checks the invariants of the whole state. Reads everything: for tests and for try-runtime.
    ///
    /// # Errors
    /// What does not hold.
    pub fn check_state() -> Result<(), DispatchError> {
        Self::check_bindings()?;
        Self::check_history()?;
        Self::check_log()
    }

    /// All ways to look a binding up say the same, and what is held is what bindings say is held.
    fn check_bindings() -> Result<(), DispatchError> {
        let mut bindings = 0usize;
        let mut deposits = BTreeMap::<T::AccountId, BalanceOf<T>>::new();
        for (key, binding) in Bound::<T>::iter() {
            bindings = bindings.saturating_add(1);
            ensure!(binding.index < NextIndex::<T>::get(), "a number that was never given");
            let account = binding.account;
            ensure!(
                Numbered::<T>::get(binding.index) == Some((key, account.clone())),
                "a binding whose number says otherwise"
            );
            let deposit = deposits.entry(account).or_default();
            *deposit = deposit.saturating_add(binding.deposit);
        }
        ensure!(Numbered::<T>::iter_keys().count() == bindings, "a number without a binding");

        let mut listed = 0usize;
        for (account, keys) in KeysOf::<T>::iter() {
            ensure!(!keys.is_empty(), "an account with an empty list of keys");
            ensure!(
                keys.len() <= T::MaxKeysPerAccount::get() as usize,
                "an account with too many keys"
            );
            listed = listed.saturating_add(keys.len());
            let mut sorted = keys.to_vec();
            sorted.sort();
            sorted.dedup();
            ensure!(sorted.len() == keys.len(), "a key that is listed twice");
            ensure!(
                keys.iter().all(|k| Bound::<T>::get(k).is_some_and(|b| b.account == account)),
                "a listed key that is bound to another account, or to none"
            );
        }
        // Each listed key is bound to the account that lists it, so as many are as many.
        ensure!(listed == bindings, "a bound key that its account does not list");
        for (account, deposit) in deposits {
            let held = T::Currency::balance_on_hold(&HoldReason::Binding.into(), &account);
            ensure!(held == deposit, "an account whose deposits are not what is held");
        }
        Ok(())
    }

    /// Scores are in range, and the past of keys is bad and not that of bound ones.
    fn check_history() -> Result<(), DispatchError> {
        ensure!(
            ScoresOf::<T>::iter_values().all(|earned| earned.scores.in_range()),
            "a score above 1,000"
        );
        for (key, past) in KeyHistory::<T>::iter() {
            ensure!(!Bound::<T>::contains_key(key), "the past of a key that is bound");
            ensure!(past == past.at_most_neutral(), "a past that is better than neutral");
            ensure!(past != Scores::default(), "a past that says nothing");
        }
        Ok(())
    }

    /// The log holds no more than it may, and nothing that is yet to come.
    fn check_log() -> Result<(), DispatchError> {
        for (place, logged) in Log::<T>::iter() {
            ensure!(place < T::KeptRevisions::get(), "a place that the log does not have");
            ensure!(logged.revision <= Revision::<T>::get(), "a revision that is yet to come");
        }
        Ok(())
    }
}
