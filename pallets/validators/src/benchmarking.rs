//! What the calls cost, measured with the longest list there may be.

use alloc::vec::Vec;

use codec::Decode;
use frame_benchmarking::v2::*;
use frame_support::traits::{EnsureOrigin, Get};
use sp_runtime::traits::TrailingZeroInput;

use crate::{Call, Config, Listed, Pallet};

/// Lists `count` accounts, and gives one back that is not among them but has session keys.
fn list<T: Config>(count: u32) -> Result<T::AccountId, BenchmarkError> {
    let accounts: Vec<T::AccountId> = (0..count).map(|n| account("validator", n, 0)).collect();
    Pallet::<T>::replace_list(accounts).map_err(|_| "the list takes that many")?;
    let candidate: T::AccountId = account("candidate", 0, 0);
    let keys: T::Keys = Decode::decode(&mut TrailingZeroInput::zeroes())
        .map_err(|_| "session keys of zeroes are session keys")?;
    pallet_session::NextKeys::<T>::insert(&candidate, keys);
    Ok(candidate)
}

#[benchmarks]
mod benchmarks {
    use super::*;

    #[benchmark]
    fn add() -> Result<(), BenchmarkError> {
        let admin =
            T::AdminOrigin::try_successful_origin().map_err(|_| BenchmarkError::Weightless)?;
        let account = list::<T>(T::MaxValidators::get().saturating_sub(1))?;

        #[extrinsic_call]
        _(admin as T::RuntimeOrigin, account.clone());

        assert!(Listed::<T>::get().contains(&account));
        Ok(())
    }

    #[benchmark]
    fn remove() -> Result<(), BenchmarkError> {
        let admin =
            T::AdminOrigin::try_successful_origin().map_err(|_| BenchmarkError::Weightless)?;
        list::<T>(T::MaxValidators::get())?;
        // The first: all others move.
        let account = Listed::<T>::get().first().cloned().ok_or("the list is not empty")?;

        #[extrinsic_call]
        _(admin as T::RuntimeOrigin, account.clone());

        assert!(!Listed::<T>::get().contains(&account));
        Ok(())
    }

    impl_benchmark_test_suite!(
        Pallet,
        crate::mock::chain(&[1], crate::GenesisConfig::default()),
        crate::mock::Test,
    );
}
