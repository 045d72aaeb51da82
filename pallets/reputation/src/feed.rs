//! What nodes are told of changes.
//!
//! While a block runs, whatever is touched is appended to [`Pending`], which costs the same however
//! long that list is. At the end of the block it becomes the [`Log`] entry of a new revision. The log
//! names accounts, not their keys: which keys those are, and what is true of them, is looked up when
//! a node asks.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};

use frame_support::{BoundedVec, traits::Get};
use pallet_reputation_runtime_api::MAX_CHANGES;

use crate::{
    Bound, Config, Earned, KeysOf, Log, OverlayKey, Pallet, PeerChange, Pending, Revision,
    types::{Logged, Touched},
};

impl<T: Config> Pallet<T> {
    /// Notes that nodes have to be told of `what`.
    pub(crate) fn touch(what: Touched<T::AccountId>) {
        // A full list is taken for one that lacks something, so nothing is lost by refusing here.
        let _ = Pending::<T>::try_append(what);
    }

    /// Makes a revision of what was touched in this block, if anything was.
    pub(crate) fn log_touched() {
        let pending = Pending::<T>::take();
        if pending.is_empty() {
            return;
        }
        let complete = (pending.len() as u64) < u64::from(T::MaxTouched::get());
        // Each thing once: several calls may touch the same.
        let touched: BTreeSet<_> = pending.into_iter().collect();
        let touched = complete.then(|| BoundedVec::truncate_from(touched.into_iter().collect()));
        // A u64 does not overflow in the life of a chain.
        let revision = Revision::<T>::get().saturating_add(1);
        Revision::<T>::put(revision);
        Log::<T>::insert(place::<T>(revision), Logged { revision, touched });
    }

    /// See `ReputationApi::changes_since`. A read for each revision since, one for each account that
    /// was touched and its list of keys, and two for each other key.
    pub fn changes_since(revision: u64) -> Option<Vec<PeerChange>> {
        let newest = Revision::<T>::get();
        let missing = newest.checked_sub(revision)?;
        if missing > u64::from(T::KeptRevisions::get()) {
            return None;
        }
        let mut touched = BTreeSet::new();
        for revision in revision.saturating_add(1)..=newest {
            let logged = Log::<T>::get(place::<T>(revision)).filter(|l| l.revision == revision)?;
            touched.extend(logged.touched?);
            // Each has at least a key to tell of, unless its keys are told of by themselves. So this
            // gives up where there is too much to tell, and before the list is of any size: at most
            // `MAX_CHANGES` and one block's, under 1 MB.
            if touched.len() > MAX_CHANGES as usize {
                return None;
            }
        }

        let mut changes = BTreeMap::<OverlayKey, Option<Earned>>::new();
        for what in touched {
            match what {
                Touched::Account(account) => {
                    let earned = Self::earned(&account);
                    changes
                        .extend(KeysOf::<T>::get(account).into_iter().map(|k| (k, Some(earned))));
                }
                Touched::Key(key) => {
                    // The key may have been told of with its account.
                    changes.entry(key).or_insert_with(|| {
                        Bound::<T>::get(key).map(|binding| Self::earned(&binding.account))
                    });
                }
            }
            if changes.len() > MAX_CHANGES as usize {
                return None;
            }
        }
        Some(changes.into_iter().map(|(key, earned)| PeerChange { key, earned }).collect())
    }
}

/// Where the log keeps `revision`.
fn place<T: Config>(revision: u64) -> u32 {
    let place = revision.checked_rem(T::KeptRevisions::get().into()).unwrap_or_default();
    // Less than a u32, by which it was divided.
    u32::try_from(place).unwrap_or_default()
}
