//! What the calls about bindings do to the state, once the caller is known.

use frame_support::{
    ensure,
    pallet_prelude::DispatchResult,
    traits::{Get, fungible::MutateHold, tokens::Precision},
};
use frame_system::pallet_prelude::BlockNumberFor;
use sp_core::ed25519;
use sp_runtime::{
    ArithmeticError,
    traits::{Saturating, Zero},
};

use crate::{
    BindNonce, BindingOf, Bindings, Bound, Config, Error, Event, HoldReason, KeyHistory, KeysOf,
    NextIndex, Numbered, OverlayKey, Pallet, Scores, bind_payload,
    types::{BalanceOf, Binding, Touched},
};

impl<T: Config> Pallet<T> {
    /// Binds `key` to `account` if `proof` says that it agrees.
    pub(crate) fn bind(account: T::AccountId, key: OverlayKey, proof: [u8; 64]) -> DispatchResult {
        // What costs least comes first; the signature is most of the call's price.
        ensure!(!Bound::<T>::contains_key(key), Error::<T>::KeyAlreadyBound);
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

        let deposit = T::BindingDeposit::get();
        T::Currency::hold(&HoldReason::Binding.into(), &account, deposit)?;
        let index = Self::enter(key, account.clone(), deposit)?;
        BindNonce::<T>::insert(&account, next);
        KeysOf::<T>::insert(&account, keys);
        Self::touch(Touched::Key(key));
        Self::deposit_event(Event::PeerBound { account: account.clone(), key, index });
        if let Some(past) = KeyHistory::<T>::take(key) {
            Self::change(account, |earned, day| earned.lower_to(&past, day));
        }
        Ok(())
    }

    /// Writes a binding down and numbers it, in all but [`KeysOf`].
    pub(crate) fn enter(
        key: OverlayKey,
        account: T::AccountId,
        deposit: BalanceOf<T>,
    ) -> Result<u32, ArithmeticError> {
        let index = NextIndex::<T>::get();
        NextIndex::<T>::put(index.checked_add(1).ok_or(ArithmeticError::Overflow)?);
        Numbered::<T>::insert(index, (key, account.clone()));
        Bound::<T>::insert(key, Binding { account, index, deposit, leaves: None });
        Ok(index)
    }

    /// Sets the block from which `account` may withdraw `key`.
    pub(crate) fn unbind(account: T::AccountId, key: OverlayKey) -> DispatchResult {
        let mut binding = Self::binding_of(&account, key)?;
        ensure!(binding.leaves.is_none(), Error::<T>::AlreadyUnbinding);
        let now = frame_system::Pallet::<T>::block_number();
        let leaves = now.saturating_add(T::UnbindDelay::get());
        binding.leaves = Some(leaves);
        Bound::<T>::insert(key, binding);
        Self::deposit_event(Event::PeerUnbinding { account, key, leaves });
        Ok(())
    }

    /// Ends the binding of `key` to `account`.
    pub(crate) fn end(account: T::AccountId, key: OverlayKey) -> DispatchResult {
        let binding = Self::binding_of(&account, key)?;
        let leaves = binding.leaves.ok_or(Error::<T>::NotUnbinding)?;
        let now = frame_system::Pallet::<T>::block_number();
        ensure!(now >= leaves, Error::<T>::StillAnswering);
        if !binding.deposit.is_zero() {
            // Exact: this much was held for this binding, and nothing else takes from it.
            T::Currency::release(
                &HoldReason::Binding.into(),
                &account,
                binding.deposit,
                Precision::Exact,
            )?;
        }

        Bound::<T>::remove(key);
        Numbered::<T>::remove(binding.index);
        KeysOf::<T>::mutate_exists(&account, |keys| {
            if let Some(list) = keys {
                list.retain(|other| *other != key);
            }
            // An account without keys has no list.
            *keys = keys.take().filter(|list| !list.is_empty());
        });
        let past = Self::account_scores(&account).unwrap_or_default().at_most_neutral();
        if past != Scores::default() {
            KeyHistory::<T>::insert(key, past);
        }
        Self::touch(Touched::Key(key));
        Self::deposit_event(Event::PeerUnbound { account, key });
        Ok(())
    }

    /// The binding of `key`, which must be to `account`.
    fn binding_of(account: &T::AccountId, key: OverlayKey) -> Result<BindingOf<T>, Error<T>> {
        let binding = Bound::<T>::get(key).ok_or(Error::<T>::NotBound)?;
        ensure!(binding.account == *account, Error::<T>::BoundToAnother);
        Ok(binding)
    }
}

impl<T: Config> Bindings<T::AccountId> for Pallet<T> {
    fn end() -> u32 {
        NextIndex::<T>::get()
    }

    fn get(index: u32) -> Option<(OverlayKey, T::AccountId)> {
        Numbered::<T>::get(index)
    }
}
