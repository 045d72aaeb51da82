//! From one storage version to the next.
//!
//! A step runs within one block, the first of the new runtime, ahead of all transactions.

use frame_support::migrations::VersionedMigration;

use crate::Pallet;

/// From storage version 1 to 2: see [`v2`]. Does nothing on any other version.
pub type V1ToV2<T> =
    VersionedMigration<1, 2, v2::Step<T>, Pallet<T>, <T as frame_system::Config>::DbWeight>;

/// What version 1 stored.
pub(crate) mod v1 {
    use alloc::vec::Vec;

    use frame_support::{Blake2_128Concat, storage_alias};

    use crate::{Config, OverlayKey, Pallet};

    /// Scores, without days.
    #[cfg(any(test, feature = "try-runtime"))]
    #[storage_alias]
    pub(crate) type ScoresOf<T: Config> = StorageMap<
        Pallet<T>,
        Blake2_128Concat,
        <T as frame_system::Config>::AccountId,
        crate::Scores,
    >;

    /// The account that an overlay key is bound to.
    #[storage_alias]
    pub(crate) type AccountOf<T: Config> =
        StorageMap<Pallet<T>, Blake2_128Concat, OverlayKey, <T as frame_system::Config>::AccountId>;

    /// The session keys of the reporters.
    #[storage_alias]
    pub(crate) type Reporters<T: Config> = StorageValue<Pallet<T>, Vec<[u8; 32]>>;
}

/// Version 2: scores remember the day on which they moved, bindings have numbers, deposits and an
/// end, and the reporters' session keys are no concern of this pallet's.
///
/// One block is enough. What version 1 holds was written by hand: each score by root, each binding by
/// a call that earned nobody anything. A block has room for some thousands of them, and where there
/// are more, `pre_upgrade` says so in the rehearsal (try-runtime): then the step has to be spread
/// over blocks (pallet-migrations) before the upgrade.
pub mod v2 {
    #[cfg(feature = "try-runtime")]
    use alloc::{collections::BTreeMap, vec::Vec};
    use core::marker::PhantomData;

    #[cfg(feature = "try-runtime")]
    use codec::{Decode, Encode};
    #[cfg(feature = "try-runtime")]
    use frame_support::ensure;
    use frame_support::{
        traits::{Get, UncheckedOnRuntimeUpgrade},
        weights::Weight,
    };
    #[cfg(feature = "try-runtime")]
    use sp_runtime::TryRuntimeError;

    #[cfg(feature = "try-runtime")]
    use crate::OverlayKey;
    use crate::{Config, Earned, Pallet, Scores, ScoresOf, migrations::v1, types::BalanceOf};

    /// The step.
    pub struct Step<T>(PhantomData<T>);

    impl<T: Config> UncheckedOnRuntimeUpgrade for Step<T> {
        fn on_runtime_upgrade() -> Weight {
            let mut scores = 0u64;
            // Decay begins with the upgrade: version 1 does not know when anything moved.
            let today = Pallet::<T>::day();
            ScoresOf::<T>::translate_values::<Scores, _>(|old| {
                scores = scores.saturating_add(1);
                Some(Earned::new(old, today))
            });
            let mut bindings = 0u64;
            for (key, account) in v1::AccountOf::<T>::drain() {
                bindings = bindings.saturating_add(1);
                // Nothing was held for it, so nothing will be released. Numbers cannot run out: the
                // first is given here.
                let _ = Pallet::<T>::enter(key, account, BalanceOf::<T>::default());
            }
            v1::Reporters::<T>::kill();
            cost::<T>(scores, bindings)
        }

        #[cfg(feature = "try-runtime")]
        fn pre_upgrade() -> Result<Vec<u8>, TryRuntimeError> {
            let scores: BTreeMap<_, _> = v1::ScoresOf::<T>::iter().collect();
            let bindings: BTreeMap<_, _> = v1::AccountOf::<T>::iter().collect();
            let weight = cost::<T>(scores.len() as u64, bindings.len() as u64);
            ensure!(
                weight.all_lte(T::BlockWeights::get().max_block),
                "the migration does not fit into a block"
            );
            Ok((scores, bindings).encode())
        }

        #[cfg(feature = "try-runtime")]
        fn post_upgrade(before: Vec<u8>) -> Result<(), TryRuntimeError> {
            type Before<A> = (BTreeMap<A, Scores>, BTreeMap<OverlayKey, A>);
            let (scores, bindings) = Before::<T::AccountId>::decode(&mut &before[..])
                .map_err(|_| "what `pre_upgrade` encoded")?;
            let scores_now: BTreeMap<_, _> =
                ScoresOf::<T>::iter().map(|(account, earned)| (account, earned.scores)).collect();
            ensure!(scores_now == scores, "other scores than before");
            let bindings_now: BTreeMap<_, _> =
                crate::Bound::<T>::iter().map(|(key, binding)| (key, binding.account)).collect();
            ensure!(bindings_now == bindings, "other bindings than before");
            ensure!(v1::AccountOf::<T>::iter().next().is_none(), "an old binding is left");
            ensure!(!v1::Reporters::<T>::exists(), "the old reporters are left");
            Pallet::<T>::check_state()
        }
    }

    /// Of migrating so many scores and bindings: a score is read and written, a binding read, removed
    /// and written under its key and its number. Two for the next number and the reporters.
    fn cost<T: Config>(scores: u64, bindings: u64) -> Weight {
        let reads = scores.saturating_add(bindings);
        let writes = scores.saturating_add(bindings.saturating_mul(3));
        T::DbWeight::get().reads_writes(reads.saturating_add(2), writes.saturating_add(2))
    }
}
