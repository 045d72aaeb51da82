//! How scores change.

use alloc::collections::BTreeMap;

use frame_support::traits::Get;
use frame_system::pallet_prelude::BlockNumberFor;
use sp_runtime::traits::{CheckedDiv, UniqueSaturatedInto};

use crate::{
    Component, Config, Earned, Entries, Event, KeysOf, Ledger, Pallet, ScoresOf, types::Touched,
};

impl<T: Config> Pallet<T> {
    /// The day of this block, counted from the chain's first: see `ReputationApi::day`.
    pub fn day() -> u16 {
        let now: BlockNumberFor<T> = frame_system::Pallet::<T>::block_number();
        // A length of 0 does not pass `integrity_test`.
        now.checked_div(&T::DayLength::get()).unwrap_or_default().unique_saturated_into()
    }

    /// Adds `entries` to the scores, in order.
    pub(crate) fn apply(entries: Entries<T>) {
        // Several entries may name one account; it is read, written and told of once.
        let day = Self::day();
        let mut accounts = BTreeMap::<T::AccountId, (Option<Earned>, Earned)>::new();
        for (account, outcome, times) in entries {
            if times == 0 {
                continue;
            }
            let (_, after) = accounts.entry(account).or_insert_with_key(|account| {
                let before = ScoresOf::<T>::get(account);
                (before, before.unwrap_or_default())
            });
            let (component, _) = outcome.effect();
            after.apply(component, outcome.delta_of(times), day);
        }
        for (account, (before, after)) in accounts {
            Self::replace(account, before, after, day);
        }
    }

    /// Changes what `account` has earned by `change`, which is told the day.
    pub(crate) fn change(account: T::AccountId, change: impl FnOnce(&mut Earned, u16)) {
        let day = Self::day();
        let before = ScoresOf::<T>::get(&account);
        let mut after = before.unwrap_or_default();
        change(&mut after, day);
        Self::replace(account, before, after, day);
    }

    /// Writes `after` where `before` stood, if it is anything else, and tells of it.
    fn replace(account: T::AccountId, before: Option<Earned>, after: Earned, day: u16) {
        // To a node, an account without a record is as one that has earned nothing.
        if before.unwrap_or_default() == after {
            return;
        }
        ScoresOf::<T>::insert(&account, after);
        if KeysOf::<T>::contains_key(&account) {
            Self::touch(Touched::Account(account.clone()));
        }
        Self::deposit_event(Event::ScoresRecorded { account, scores: after.on(day) });
    }
}

impl<T: Config> Ledger<T::AccountId> for Pallet<T> {
    fn add(account: &T::AccountId, component: Component, delta: i16) {
        if delta != 0 {
            Self::change(account.clone(), |earned, day| earned.apply(component, delta, day));
        }
    }
}
