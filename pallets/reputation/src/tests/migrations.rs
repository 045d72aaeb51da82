//! From one storage version to the next, on states written as the earlier version wrote them.

use frame_support::{
    assert_ok,
    traits::{GetStorageVersion, OnRuntimeUpgrade, StorageVersion},
    weights::Weight,
};

use super::{ALICE, BOB, scores};
use crate::{
    Bindings, Bound, Earned, KeysOf, Pallet, ScoresOf,
    migrations::{V1ToV2, v1},
    mock::*,
};

/// The upgrade as the runtime does it; with the feature `try-runtime` also as a rehearsal does.
fn upgrade() -> Weight {
    #[cfg(feature = "try-runtime")]
    return V1ToV2::<Test>::try_on_runtime_upgrade(true).unwrap();
    #[cfg(not(feature = "try-runtime"))]
    V1ToV2::<Test>::on_runtime_upgrade()
}

/// A state of version 1, on day 12: scores of Alice and Bob, and Alice bound to keys 1 and 2.
fn write_v1() {
    System::set_block_number(12 * DAY);
    StorageVersion::new(1).put::<Pallet<Test>>();
    v1::ScoresOf::<Test>::insert(ALICE, scores(900, 500, 100));
    v1::ScoresOf::<Test>::insert(BOB, scores(500, 499, 1_000));
    for seed in [1, 2] {
        v1::AccountOf::<Test>::insert(key(seed), ALICE);
        KeysOf::<Test>::try_append(ALICE, key(seed)).unwrap();
    }
    v1::Reporters::<Test>::put(vec![[7; 32]]);
}

#[test]
fn version_1_becomes_version_2() {
    new_chain().execute_with(|| {
        write_v1();
        let raw =
            frame_support::storage::unhashed::get_raw(&ScoresOf::<Test>::hashed_key_for(ALICE));
        assert_eq!(raw.unwrap().len(), 6, "as version 1 wrote it");
        let weight = upgrade();

        assert_eq!(Reputation::on_chain_storage_version(), 2);
        assert_eq!(ScoresOf::<Test>::get(ALICE), Some(Earned::new(scores(900, 500, 100), 12)));
        assert_eq!(Reputation::account_scores(&BOB), Some(scores(500, 499, 1_000)));
        assert_eq!(<Reputation as Bindings<AccountId>>::end(), 2);
        for seed in [1, 2] {
            let binding = Bound::<Test>::get(key(seed)).unwrap();
            assert_eq!((binding.account, binding.deposit, binding.leaves), (ALICE, 0, None));
            let numbered = <Reputation as Bindings<_>>::get(binding.index);
            assert_eq!(numbered, Some((key(seed), ALICE)));
        }
        assert_eq!(v1::AccountOf::<Test>::iter().count(), 0);
        assert!(!v1::Reporters::<Test>::exists());
        assert_ok!(Reputation::check_state());
        // Two scores and two bindings read, and more written.
        let db = <Test as frame_system::Config>::DbWeight::get();
        assert!(weight.all_gte(db.reads_writes(4, 8)), "{weight:?}");

        // Decay begins with the upgrade, and the bindings can be undone.
        pass_days(7);
        assert_eq!(Reputation::account_scores(&ALICE), Some(scores(880, 500, 100)));
        unbind(1, ALICE);
        assert_ok!(Reputation::check_state());
    });
}

#[test]
fn it_happens_once() {
    new_chain().execute_with(|| {
        write_v1();
        upgrade();
        pass_days(30);
        let root = || sp_io::storage::root(Default::default());
        let before = root();
        upgrade();
        assert_eq!(root(), before);
    });
}

#[test]
fn a_new_chain_needs_none() {
    new_chain().execute_with(|| {
        bind(1, ALICE);
        upgrade();
        assert_eq!(Bound::<Test>::get(key(1)).unwrap().deposit, DEPOSIT);
    });
}

#[cfg(feature = "try-runtime")]
#[test]
fn a_rehearsal_refuses_what_no_block_has_room_for() {
    use frame_support::traits::Get;
    use frame_system::limits::BlockWeights;

    new_chain().execute_with(|| {
        write_v1();
        let db = <Test as frame_system::Config>::DbWeight::get();
        let limits: BlockWeights = <<Test as frame_system::Config>::BlockWeights as Get<_>>::get();
        let limit = limits.max_block;
        let one = db.reads_writes(1, 1).ref_time();
        for account in 0..=limit.ref_time() / one {
            v1::ScoresOf::<Test>::insert(100 + account, scores(1, 2, 3));
        }
        assert!(V1ToV2::<Test>::pre_upgrade().is_err());
    });
}
