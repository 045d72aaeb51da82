//! The pallet together with the session pallet: who validates when, and what can be proved of it.

use codec::Encode;
use frame_support::{
    assert_noop, assert_ok,
    traits::{Get, GetStorageVersion, KeyOwnerProofSystem},
};
use pallet_session::{SessionManager, historical::HistoricalSessions};
use sp_runtime::{DispatchError, key_types::DUMMY, testing::UintAuthorityId};

use crate::{Error, Event, GenesisConfig, Length, Listed, Owners, mock::*};

fn listed() -> Vec<AccountId> {
    Listed::<Test>::get().into_inner()
}

fn events() -> Vec<Event<Test>> {
    System::read_events_for_pallet()
}

/// A key, as the historical sessions name it.
fn owned(key: u64) -> (sp_runtime::KeyTypeId, Vec<u8>) {
    (DUMMY, sp_runtime::RuntimeAppPublic::to_raw_vec(&UintAuthorityId(key)))
}

#[test]
fn genesis_adopts_whoever_has_session_keys() {
    chain(&[3, 1, 2], GenesisConfig::default()).execute_with(|| {
        assert_eq!(listed(), [1, 2, 3]);
        assert_eq!(Session::validators(), [1, 2, 3]);
        assert_ok!(Validators::check_state());
        assert_eq!(Validators::on_chain_storage_version(), 1);
    });
}

#[test]
fn genesis_takes_the_named_validators_alone() {
    let genesis = GenesisConfig { initial: vec![3, 1], ..Default::default() };
    chain(&[1, 2, 3], genesis).execute_with(|| {
        assert_eq!(listed(), [1, 3]);
        assert_eq!(Session::validators(), [1, 3]);
    });
}

#[test]
#[should_panic(expected = "a validator twice, or too many")]
fn genesis_with_a_validator_twice_is_refused() {
    chain(&[1], GenesisConfig { initial: vec![1, 1], ..Default::default() });
}

#[test]
#[should_panic(expected = "more accounts have session keys than there may be validators")]
fn genesis_with_too_many_session_keys_is_refused() {
    chain(&[1, 2, 3, 4, 5], GenesisConfig::default());
}

#[test]
#[should_panic(expected = "a session of no blocks")]
fn genesis_with_empty_sessions_is_refused() {
    chain(&[1], GenesisConfig { session_length: 0, ..Default::default() });
}

#[test]
fn genesis_sets_the_length_of_sessions() {
    chain(&[1], GenesisConfig { session_length: 7, ..Default::default() }).execute_with(|| {
        assert_eq!(<Length<Test> as Get<u64>>::get(), 7);
        go_to_session(2);
        assert_eq!(System::block_number(), 14);
    });
    chain(&[1], GenesisConfig::default()).execute_with(|| {
        go_to_session(2);
        assert_eq!(System::block_number(), 10, "the default is 5");
    });
}

#[test]
fn an_added_validator_validates_from_the_session_after_next() {
    let genesis = GenesisConfig { initial: vec![1], ..Default::default() };
    chain(&[1, 2], genesis).execute_with(|| {
        assert_ok!(Validators::add(RuntimeOrigin::root(), 2));
        assert_eq!(events(), [Event::ValidatorAdded { account: 2 }]);
        go_to_session(1);
        assert_eq!(Session::validators(), [1]);
        go_to_session(2);
        assert_eq!(Session::validators(), [1, 2]);
        assert_ok!(Validators::check_state());
    });
}

#[test]
fn a_removed_validator_validates_until_the_session_after_next() {
    chain(&[1, 2], GenesisConfig::default()).execute_with(|| {
        assert_ok!(Validators::remove(RuntimeOrigin::root(), 1));
        assert_eq!(events(), [Event::ValidatorRemoved { account: 1 }]);
        go_to_session(1);
        assert_eq!(Session::validators(), [1, 2]);
        go_to_session(2);
        assert_eq!(Session::validators(), [2]);
        assert_ok!(Validators::check_state());
    });
}

#[test]
fn a_validator_needs_session_keys_and_is_added_once() {
    chain(&[1, 2], GenesisConfig::default()).execute_with(|| {
        let root = RuntimeOrigin::root;
        assert_noop!(Validators::add(root(), 9), Error::<Test>::NoSessionKeys);
        assert_noop!(Validators::add(root(), 2), Error::<Test>::AlreadyValidator);
    });
}

#[test]
fn the_list_is_bounded() {
    let genesis = GenesisConfig { initial: vec![1, 2, 3, 4], ..Default::default() };
    chain(&[1, 2, 3, 4, 5], genesis).execute_with(|| {
        assert_eq!(MAX_VALIDATORS, 4);
        assert_noop!(Validators::add(RuntimeOrigin::root(), 5), Error::<Test>::TooManyValidators);
    });
}

#[test]
fn the_last_validator_stays() {
    chain(&[1, 2], GenesisConfig::default()).execute_with(|| {
        let root = RuntimeOrigin::root;
        assert_noop!(Validators::remove(root(), 9), Error::<Test>::NotValidator);
        assert_ok!(Validators::remove(root(), 2));
        assert_noop!(Validators::remove(root(), 2), Error::<Test>::NotValidator);
        assert_noop!(Validators::remove(root(), 1), Error::<Test>::LastValidator);
    });
}

#[test]
fn only_the_admin_changes_the_list() {
    let genesis = GenesisConfig { initial: vec![1], ..Default::default() };
    chain(&[1, 2], genesis).execute_with(|| {
        for origin in [RuntimeOrigin::signed(1), RuntimeOrigin::none()] {
            assert_noop!(Validators::add(origin.clone(), 2), DispatchError::BadOrigin);
            assert_noop!(Validators::remove(origin, 1), DispatchError::BadOrigin);
        }
    });
}

#[test]
fn the_session_manager_always_answers() {
    chain(&[1, 2], GenesisConfig::default()).execute_with(|| {
        for index in 0..20 {
            assert_eq!(
                <Validators as SessionManager<_>>::new_session(index),
                Some(vec![1, 2]),
                "session {index}"
            );
        }
        // Not reachable by calls; but nothing would be worse than no answer.
        Listed::<Test>::kill();
        assert_eq!(<Validators as SessionManager<_>>::new_session(20), Some(vec![1, 2]));
    });
}

#[test]
fn every_session_has_a_root_of_its_keys_for_as_long_as_kept() {
    chain(&[1], GenesisConfig::default()).execute_with(|| {
        let with_root = || {
            let mut sessions: Vec<_> = HistoricalSessions::<Test>::iter_keys().collect();
            sessions.sort();
            sessions
        };
        assert_eq!(with_root(), [0, 1], "genesis plans two sessions");
        go_to_session(2);
        assert_eq!(with_root(), [0, 1, 2, 3]);
        for index in 3..12 {
            go_to_session(index);
            // The next session is planned; the one that just ended and those before it are kept.
            let first = (index - 1).saturating_sub(KEPT_SESSIONS);
            assert_eq!(with_root(), (first..=index + 1).collect::<Vec<_>>());
        }
    });
}

#[test]
fn an_old_key_and_a_rotated_key_are_both_proved_in_their_sessions() {
    chain(&[1, 2], GenesisConfig::default()).execute_with(|| {
        go_to_session(1);
        let old = <Owners<Test> as KeyOwnerProofSystem<_>>::prove(owned(2)).unwrap();

        System::inc_providers(&2);
        let proof = keys(22).create_ownership_proof(&2u64.encode()).unwrap();
        assert_ok!(Session::set_keys(RuntimeOrigin::signed(2), keys(22), proof.encode()));
        go_to_session(3);
        let new = <Owners<Test> as KeyOwnerProofSystem<_>>::prove(owned(22)).unwrap();
        go_to_session(4);

        let check = <Owners<Test> as KeyOwnerProofSystem<_>>::check_proof;
        assert_eq!(check(owned(2), old.clone()), Some((2, ())));
        assert_eq!(check(owned(22), new.clone()), Some((2, ())));
        assert_eq!(check(owned(22), old.clone()), None, "not its key at that time");

        go_to_session(4 + KEPT_SESSIONS);
        assert_eq!(check(owned(2), old), None, "no longer kept");
        assert_eq!(check(owned(22), new), Some((2, ())));
    });
}

#[test]
fn a_key_in_use_is_proved_while_its_owner_has_set_another() {
    chain(&[1, 2], GenesisConfig::default()).execute_with(|| {
        go_to_session(1);
        System::inc_providers(&2);
        let proof = keys(22).create_ownership_proof(&2u64.encode()).unwrap();
        assert_ok!(Session::set_keys(RuntimeOrigin::signed(2), keys(22), proof.encode()));

        let check = <Owners<Test> as KeyOwnerProofSystem<_>>::check_proof;
        let proof = <Owners<Test> as KeyOwnerProofSystem<_>>::prove(owned(2)).unwrap();
        assert_eq!(check(owned(2), proof.clone()), Some((2, ())));
        assert_eq!(check(owned(22), proof.clone()), None, "not in use yet");
        let set = pallet_session::NextKeys::<Test>::get(2).unwrap();
        assert_eq!(set.dummy, UintAuthorityId(22), "proving changed nothing");

        go_to_session(2);
        assert_eq!(check(owned(2), proof), Some((2, ())), "by the root of that session");
        let again = <Owners<Test> as KeyOwnerProofSystem<_>>::prove(owned(2)).unwrap();
        assert_eq!(check(owned(2), again), Some((2, ())), "its last session");
        go_to_session(3);
        let gone = <Owners<Test> as KeyOwnerProofSystem<_>>::prove(owned(2));
        assert!(gone.is_none_or(|gone| check(owned(2), gone).is_none()));
    });
}
