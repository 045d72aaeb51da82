//! What the calls and hooks cost, each measured where it costs most.

use alloc::vec::Vec;

use frame_benchmarking::v2::*;
use frame_support::{
    BoundedVec,
    traits::{
        EnsureOrigin, Get,
        fungible::{Inspect, Mutate},
    },
};
use frame_system::{RawOrigin, pallet_prelude::BlockNumberFor};
use sp_core::crypto::KeyTypeId;
use sp_runtime::traits::Saturating;

use crate::{
    Bound, Call, Config, Earned, KeyHistory, KeysOf, Ledger, Log, MIN_SCORE, Outcome, OverlayKey,
    Pallet, Pending, Revision, Scores, ScoresOf, bind_payload,
    retention::MAX_SWEPT,
    types::{BalanceOf, Touched},
};

/// The keystore's name for overlay keys that benchmarks make.
const OVERLAY_KEY: KeyTypeId = KeyTypeId(*b"bnch");

/// The worst there is.
const BAD: Scores = Scores { director: MIN_SCORE, validator: MIN_SCORE, seeder: MIN_SCORE };

/// An account that can pay a deposit, is known as neutral, and answers for `keys` keys.
fn account_with<T: Config>(keys: u32) -> Result<T::AccountId, BenchmarkError> {
    let who: T::AccountId = whitelisted_caller();
    let enough: BalanceOf<T> =
        T::Currency::minimum_balance().saturating_add(T::BindingDeposit::get());
    T::Currency::set_balance(&who, enough.saturating_mul(2u32.into()));
    ScoresOf::<T>::insert(&who, Earned::default());
    for n in 0..keys {
        let key = numbered_key(n);
        KeysOf::<T>::try_append(&who, key).map_err(|()| "more keys than there may be")?;
        Pallet::<T>::enter(key, who.clone(), BalanceOf::<T>::default())
            .map_err(|_| "more bindings than there may be")?;
    }
    Ok(who)
}

/// A key of nobody's.
fn numbered_key(n: u32) -> OverlayKey {
    sp_io::hashing::blake2_256(&n.to_le_bytes())
}

/// A new overlay key, and its proof for `account`.
fn proved_key<T: Config>(account: &T::AccountId) -> Result<(OverlayKey, [u8; 64]), BenchmarkError> {
    let public = sp_io::crypto::ed25519_generate(OVERLAY_KEY, None);
    let genesis = frame_system::Pallet::<T>::block_hash(BlockNumberFor::<T>::default());
    let nonce = Pallet::<T>::bind_nonce(account);
    let payload = bind_payload(genesis.as_fixed_bytes(), account, &public.0, nonce);
    let proof = sp_io::crypto::ed25519_sign(OVERLAY_KEY, &public, &payload)
        .ok_or("the keystore signs with what it made")?;
    Ok((public.0, proof.0))
}

/// An account that answers for as many keys as it may, and the last of them, bound by call.
fn account_with_bound_key<T: Config>() -> Result<(T::AccountId, OverlayKey), BenchmarkError> {
    let who = account_with::<T>(T::MaxKeysPerAccount::get().saturating_sub(1))?;
    let (key, proof) = proved_key::<T>(&who)?;
    Pallet::<T>::bind(who.clone(), key, proof)?;
    Ok((who, key))
}

/// `count` accounts, each with `earned` and a key.
fn recorded_accounts<T: Config>(
    count: u32,
    earned: Earned,
) -> Result<Vec<T::AccountId>, BenchmarkError> {
    let mut accounts = Vec::new();
    for n in 0..count {
        let who: T::AccountId = account("recorded", n, 0);
        ScoresOf::<T>::insert(&who, earned);
        KeysOf::<T>::try_append(&who, numbered_key(n)).map_err(|()| "one key is not too many")?;
        accounts.push(who);
    }
    Ok(accounts)
}

#[benchmarks]
mod benchmarks {
    use super::*;

    /// As the last key that the account may have, with a past that lowers its scores.
    #[benchmark]
    fn bind_peer() -> Result<(), BenchmarkError> {
        let who = account_with::<T>(T::MaxKeysPerAccount::get().saturating_sub(1))?;
        let (key, proof) = proved_key::<T>(&who)?;
        KeyHistory::<T>::insert(key, BAD);

        #[extrinsic_call]
        _(RawOrigin::Signed(who.clone()), key, proof);

        assert!(Bound::<T>::contains_key(key));
        assert_eq!(Pallet::<T>::account_scores(&who), Some(BAD));
        Ok(())
    }

    /// Each entry names another account, which was recorded before and is bound.
    #[benchmark]
    fn record(n: Linear<0, { T::MaxRecordEntries::get() }>) -> Result<(), BenchmarkError> {
        let origin =
            T::RecordOrigin::try_successful_origin().map_err(|_| BenchmarkError::Weightless)?;
        let accounts = recorded_accounts::<T>(n, Earned::default())?;
        let entries: Vec<_> =
            accounts.iter().map(|who| (who.clone(), Outcome::AuditFailed, 1)).collect();
        let entries =
            BoundedVec::try_from(entries).map_err(|_| "more entries than there may be")?;

        #[extrinsic_call]
        _(origin as T::RuntimeOrigin, entries);

        assert!(accounts.iter().all(|who| Pallet::<T>::earned(who) != Earned::default()));
        Ok(())
    }

    #[benchmark]
    fn unbind_peer() -> Result<(), BenchmarkError> {
        let (who, key) = account_with_bound_key::<T>()?;

        #[extrinsic_call]
        _(RawOrigin::Signed(who), key);

        assert!(Bound::<T>::get(key).is_some_and(|binding| binding.leaves.is_some()));
        Ok(())
    }

    /// By an account with as many keys as it may have and bad scores.
    #[benchmark]
    fn withdraw() -> Result<(), BenchmarkError> {
        let (who, key) = account_with_bound_key::<T>()?;
        ScoresOf::<T>::insert(&who, Earned::new(BAD, 0));
        Pallet::<T>::unbind(who.clone(), key)?;
        let leaves = Bound::<T>::get(key).and_then(|binding| binding.leaves);
        frame_system::Pallet::<T>::set_block_number(leaves.ok_or("it was just unbound")?);

        #[extrinsic_call]
        _(RawOrigin::Signed(who), key);

        assert!(!Bound::<T>::contains_key(key));
        assert_eq!(KeyHistory::<T>::get(key), Some(BAD));
        Ok(())
    }

    /// To an account that was recorded before and is bound.
    #[benchmark]
    fn add() -> Result<(), BenchmarkError> {
        let who = account_with::<T>(T::MaxKeysPerAccount::get())?;
        let (component, delta) = Outcome::Equivocated.effect();

        #[block]
        {
            Pallet::<T>::add(&who, component, delta);
        }

        assert_ne!(Pallet::<T>::earned(&who), Earned::default());
        Ok(())
    }

    /// All accounts looked at are bound and leave.
    #[benchmark]
    fn on_idle(n: Linear<1, MAX_SWEPT>) -> Result<(), BenchmarkError> {
        recorded_accounts::<T>(n, Earned::default())?;

        #[block]
        {
            Pallet::<T>::sweep_next(n);
        }

        assert_eq!(ScoresOf::<T>::iter().count(), 0);
        Ok(())
    }

    /// All that was touched is told of; if one more were, none would be.
    #[benchmark]
    fn on_finalize(
        n: Linear<1, { T::MaxTouched::get().saturating_sub(1) }>,
    ) -> Result<(), BenchmarkError> {
        let touched: Vec<_> = (0..n).map(|n| Touched::Key(numbered_key(n))).collect();
        let touched = BoundedVec::try_from(touched).map_err(|_| "more than may be touched")?;
        Pending::<T>::put(touched);

        #[block]
        {
            Pallet::<T>::log_touched();
        }

        assert_eq!(Revision::<T>::get(), 1);
        assert_eq!(Log::<T>::iter().count(), 1);
        Ok(())
    }

    impl_benchmark_test_suite!(Pallet, crate::mock::chain_with_keystore(), crate::mock::Test,);
}
