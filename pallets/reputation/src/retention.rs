//! How stale scores leave.
//!
//! What has decayed to 500 in each component is what an account counts as that was never recorded,
//! so it is removed. Scores decay by the day and not otherwise, so one walk through all accounts a
//! day finds them all. A block does as much of the walk as its remaining weight allows.

use alloc::vec::Vec;

use frame_support::weights::Weight;

use crate::{
    Config, KeysOf, Pallet, Scores, ScoresOf, Sweeping, WeightInfo,
    types::{Sweep, Touched},
};

/// The most accounts that one block looks at, however much weight is left: a walk through a million
/// takes 4,000 blocks, a seventh of a day of three-second blocks.
pub(crate) const MAX_SWEPT: u32 = 256;

impl<T: Config> Pallet<T> {
    /// Looks at the next accounts and removes those that have nothing left to tell, at a cost of no
    /// more than `limit`. Returns the cost.
    pub(crate) fn sweep(limit: Weight) -> Weight {
        let least = T::WeightInfo::on_idle(0);
        let each = T::WeightInfo::on_idle(1).saturating_sub(least);
        let Some(rest) = limit.checked_sub(&least) else {
            return Weight::zero();
        };
        let affordable = rest.checked_div_per_component(&each).unwrap_or(u64::MAX);
        let affordable = u32::try_from(affordable).unwrap_or(u32::MAX).min(MAX_SWEPT);
        T::WeightInfo::on_idle(Self::sweep_next(affordable))
    }

    /// Looks at the next `count` accounts, and says at how many it did.
    pub(crate) fn sweep_next(count: u32) -> u32 {
        let today = Self::day();
        let (day, after) = match Sweeping::<T>::get() {
            Some(Sweep { day, after: Some(account) }) => (day, Some(account)),
            Some(Sweep { day, after: None }) if day >= today => return 0,
            Some(Sweep { after: None, .. }) | None => (today, None),
        };
        if count == 0 {
            return 0;
        }
        let accounts = match after {
            Some(account) => ScoresOf::<T>::iter_from_key(account),
            None => ScoresOf::<T>::iter(),
        };
        // Collected, because a map is not to be changed while it is walked through.
        let seen: Vec<_> = accounts.take(count as usize).collect();
        let looked_at = u32::try_from(seen.len()).unwrap_or(u32::MAX);
        let last = seen.last().map(|(account, _)| account.clone());
        for (account, earned) in seen {
            if earned.on(today) == Scores::default() {
                ScoresOf::<T>::remove(&account);
                // Nodes count the key as neutral already, and still are told the same whether they
                // follow or read all anew.
                if KeysOf::<T>::contains_key(&account) {
                    Self::touch(Touched::Account(account));
                }
            }
        }
        let after = last.filter(|_| looked_at == count);
        Sweeping::<T>::put(Sweep { day, after });
        looked_at
    }
}
