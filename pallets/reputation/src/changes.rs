//! What the calls do to the state, once the caller is known.

use alloc::collections::BTreeMap;

use frame_support::{ensure, pallet_prelude::DispatchResult};
use frame_system::pallet_prelude::BlockNumberFor;
use sp_core::ed25519;
use sp_runtime::ArithmeticError;

use crate::{
    AccountOf, BindNonce, Config, Entries, Error, Event, KeysOf, OverlayKey, Pallet, Revision,
    Scores, ScoresOf, bind_payload,
};

impl<T: Config> Pallet<T> {
    /// Binds `key` to `account` if `proof` says that it agrees.
    pub(crate) fn bind(account: T::AccountId, key: OverlayKey, proof: [u8; 64]) -> DispatchResult {
        // What costs least comes first; the signature is most of the call's price.
        ensure!(!AccountOf::<T>::contains_key(key), Error::<T>::KeyAlreadyBound);
        let mut keys = KeysOf::<T>::get(&account);
        keys.try_push(key).map_err(|_| Error::<T>::TooManyKeys)?;
        let nonce = BindNonce::<T>::get(&account);
        let next = nonce.checked_add(1).ok_or(ArithmeticError::Overflow)?;

        let genesis = frame_system::Pallet::<T>::block_hash(BlockNumberFor::<T>::default());
        let payload = bind_payload(genesis.as_fixed_bytes(), &account, &key, nonce);
        let signed = sp_io::crypto::ed25519_verify(
            &ed25519::Signature::from_raw(proof),
            &payload,
            &ed25519::Public::from_raw(key),
        );
        ensure!(signed, Error::<T>::BadProof);

        BindNonce::<T>::insert(&account, next);
        KeysOf::<T>::insert(&account, keys);
        AccountOf::<T>::insert(key, &account);
        advance_revision::<T>();
        Self::deposit_event(Event::PeerBound { account, key });
        Ok(())
    }

    /// Adds `entries` to the scores, in order.
    pub(crate) fn apply(entries: Entries<T>) {
        // Several entries may name one account; it is read, written and told of once, and entries
        // that cancel out change nothing.
        let mut accounts = BTreeMap::<T::AccountId, (Option<Scores>, Scores)>::new();
        for (account, component, delta) in entries {
            let (_, after) = accounts.entry(account).or_insert_with_key(|account| {
                let before = ScoresOf::<T>::get(account);
                (before, before.unwrap_or_default())
            });
            after.apply(component, delta);
        }

        let mut peers_changed = false;
        for (account, (before, scores)) in accounts {
            if before == Some(scores) {
                continue;
            }
            // A first record that says "neutral" changes no answer about a peer.
            peers_changed |=
                before.unwrap_or_default() != scores && KeysOf::<T>::contains_key(&account);
            ScoresOf::<T>::insert(&account, scores);
            Self::deposit_event(Event::ScoresRecorded { account, scores });
        }
        if peers_changed {
            advance_revision::<T>();
        }
    }
}

/// To be called once by each call that changes what [`Pallet::peers`] answers.
fn advance_revision<T: Config>() {
    // A u64 does not overflow in the life of a chain.
    Revision::<T>::mutate(|revision| *revision = revision.saturating_add(1));
}
