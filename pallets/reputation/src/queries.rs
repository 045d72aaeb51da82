//! What the runtime API answers from the pallet's state, and what must hold of that state.

use alloc::{collections::BTreeSet, vec::Vec};

use frame_support::{ensure, traits::Get};
use pallet_reputation_runtime_api::MAX_PAGE;
use sp_runtime::DispatchError;

use crate::{
    AccountOf, BindNonce, Config, KeysOf, OverlayKey, Pallet, PeerScore, Revision, Scores, ScoresOf,
};

impl<T: Config> Pallet<T> {
    /// See `ReputationApi::revision`. One read.
    pub fn revision() -> u64 {
        Revision::<T>::get()
    }

    /// See `ReputationApi::account_scores`. One read.
    pub fn account_scores(account: &T::AccountId) -> Option<Scores> {
        ScoresOf::<T>::get(account)
    }

    /// See `ReputationApi::peer_score`. Two reads.
    pub fn peer_score(key: OverlayKey) -> Option<PeerScore> {
        let account = AccountOf::<T>::get(key)?;
        Some(PeerScore { key, scores: Self::account_scores(&account).unwrap_or_default() })
    }

    /// See `ReputationApi::peers`. Two reads for each peer of the page.
    pub fn peers(after: Option<OverlayKey>, limit: u32) -> Vec<PeerScore> {
        let bindings = match after {
            Some(key) => AccountOf::<T>::iter_from_key(key),
            None => AccountOf::<T>::iter(),
        };
        bindings
            .take(limit.min(MAX_PAGE) as usize)
            .map(|(key, account)| PeerScore {
                key,
                scores: Self::account_scores(&account).unwrap_or_default(),
            })
            .collect()
    }

    /// The overlay keys that `account` answers for, at most `Config::MaxKeysPerAccount`. One read.
    pub fn keys_of(account: &T::AccountId) -> Vec<OverlayKey> {
        KeysOf::<T>::get(account).into_inner()
    }

    /// See `ReputationApi::bind_nonce`. One read.
    pub fn bind_nonce(account: &T::AccountId) -> u32 {
        BindNonce::<T>::get(account)
    }

    /// Checks the invariants of the whole state: both directions of the bindings say the same, no
    /// list is empty, no score is out of range. Reads everything: for tests and for try-runtime.
    ///
    /// # Errors
    /// What does not hold.
    pub fn check_state() -> Result<(), DispatchError> {
        let mut listed = BTreeSet::new();
        for (account, keys) in KeysOf::<T>::iter() {
            ensure!(!keys.is_empty(), "an account with an empty list of keys");
            ensure!(
                keys.len() <= T::MaxKeysPerAccount::get() as usize,
                "an account with too many keys"
            );
            for key in keys {
                ensure!(
                    AccountOf::<T>::get(key).as_ref() == Some(&account),
                    "a listed key that is bound to another account, or to none"
                );
                ensure!(listed.insert(key), "a key that is listed twice");
            }
        }
        ensure!(
            AccountOf::<T>::iter_keys().all(|key| listed.contains(&key)),
            "a bound key that its account does not list"
        );
        ensure!(
            ScoresOf::<T>::iter_values().all(|scores| scores.in_range()),
            "a score above 1,000"
        );
        Ok(())
    }
}
