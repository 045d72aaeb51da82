//! What the runtime API answers from the pallet's state.

use alloc::vec::Vec;

use pallet_reputation_runtime_api::MAX_PAGE;

use crate::{
    BindNonce, Bound, Config, Earned, KeysOf, OverlayKey, Pallet, PeerEarned, PeerScore, Revision,
    Scores, ScoresOf,
};

impl<T: Config> Pallet<T> {
    /// See `ReputationApi::revision`. One read.
    pub fn revision() -> u64 {
        Revision::<T>::get()
    }

    /// See `ReputationApi::account_scores`. One read.
    pub fn account_scores(account: &T::AccountId) -> Option<Scores> {
        ScoresOf::<T>::get(account).map(|earned| earned.on(Self::day()))
    }

    /// What `account` has earned; neutral if nothing was ever recorded for it. One read.
    pub(crate) fn earned(account: &T::AccountId) -> Earned {
        ScoresOf::<T>::get(account).unwrap_or_default()
    }

    /// See `ReputationApi::peer_score`. Two reads.
    pub fn peer_score(key: OverlayKey) -> Option<PeerScore> {
        let account = Bound::<T>::get(key)?.account;
        Some(PeerScore { key, scores: Self::earned(&account).on(Self::day()) })
    }

    /// See `ReputationApi::peers`. Two reads for each peer of the page.
    pub fn peers(after: Option<OverlayKey>, limit: u32) -> Vec<PeerEarned> {
        let bindings = match after {
            Some(key) => Bound::<T>::iter_from_key(key),
            None => Bound::<T>::iter(),
        };
        bindings
            .take(limit.min(MAX_PAGE) as usize)
            .map(|(key, binding)| PeerEarned { key, earned: Self::earned(&binding.account) })
            .collect()
    }

    /// See the view function `page_of_scores`. One read for each account of the page.
    pub(crate) fn scores(after: Option<T::AccountId>, limit: u32) -> Vec<(T::AccountId, Scores)> {
        let day = Self::day();
        let accounts = match after {
            Some(account) => ScoresOf::<T>::iter_from_key(account),
            None => ScoresOf::<T>::iter(),
        };
        accounts
            .take(limit.min(MAX_PAGE) as usize)
            .map(|(account, earned)| (account, earned.on(day)))
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
}
