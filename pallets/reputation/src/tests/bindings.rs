//! Calls about bindings, and every way they are refused.

use codec::Encode;
use frame_support::{assert_noop, assert_ok, traits::fungible::InspectHold};
use sp_core::Pair;
use sp_runtime::{ArithmeticError, DispatchError, TokenError};

use super::{ALICE, BOB, events, record, scores};
use crate::{
    BindNonce, Bindings, Bound, Call, Error, Event, HoldReason, KeyHistory, KeysOf, NextIndex,
    Outcome::*, Scores, ScoresOf, bind_payload, mock::*,
};

fn held(account: AccountId) -> Balance {
    Balances::balance_on_hold(&HoldReason::Binding.into(), &account)
}

fn bind_call(seed: u8, account: AccountId) -> Call<Test> {
    let proof = proof(seed, account, Reputation::bind_nonce(&account));
    Call::bind_peer { key: key(seed), proof }
}

fn unbind_call(seed: u8) -> Call<Test> {
    Call::unbind_peer { key: key(seed) }
}

fn withdraw_call(seed: u8) -> Call<Test> {
    Call::withdraw { key: key(seed) }
}

fn by(account: AccountId) -> RuntimeOrigin {
    RuntimeOrigin::signed(account)
}

#[test]
fn a_binding_is_seen_from_all_sides_and_told() {
    new_chain().execute_with(|| {
        bind(1, ALICE);

        let binding = Bound::<Test>::get(key(1)).unwrap();
        assert_eq!((binding.account, binding.index, binding.leaves), (ALICE, 0, None));
        assert_eq!(Reputation::keys_of(&ALICE), [key(1)]);
        assert_eq!(<Reputation as Bindings<_>>::get(0), Some((key(1), ALICE)));
        assert_eq!(<Reputation as Bindings<AccountId>>::end(), 1);
        assert_eq!(Reputation::bind_nonce(&ALICE), 1);
        assert_eq!(held(ALICE), DEPOSIT);
        assert_eq!(events(), [Event::PeerBound { account: ALICE, key: key(1), index: 0 }]);
        assert_ok!(Reputation::check_state());
    });
}

#[test]
fn an_account_binds_several_keys_each_with_a_new_nonce_number_and_deposit() {
    new_chain().execute_with(|| {
        bind(1, ALICE);
        bind(2, ALICE);
        assert_eq!(Reputation::keys_of(&ALICE), [key(1), key(2)]);
        assert_eq!(Reputation::bind_nonce(&ALICE), 2);
        assert_eq!(<Reputation as Bindings<_>>::get(1), Some((key(2), ALICE)));
        assert_eq!(held(ALICE), 2 * DEPOSIT);
    });
}

#[test]
fn a_bound_key_is_not_bound_again() {
    new_chain().execute_with(|| {
        bind(1, ALICE);
        for account in [ALICE, BOB] {
            let call = bind_call(1, account);
            assert_noop!(submit(by(account), call), Error::<Test>::KeyAlreadyBound);
        }
    });
}

#[test]
fn only_a_proof_for_this_account_key_nonce_and_chain_binds() {
    new_chain().execute_with(|| {
        let of_other_chain = overlay_node(1).sign(&bind_payload(&[0xee; 32], &ALICE, &key(1), 0)).0;
        let raw_fields = overlay_node(1).sign(&(ALICE, key(1), 0u32).encode()).0;
        let refused = [
            ("another account", proof(1, BOB, 0)),
            ("another key", proof(2, ALICE, 0)),
            ("a later nonce", proof(1, ALICE, 1)),
            ("another chain", of_other_chain),
            ("no context", raw_fields),
            ("no signature", [0; 64]),
        ];
        for (what, proof) in refused {
            let call = Call::bind_peer { key: key(1), proof };
            assert_noop!(submit(by(ALICE), call), Error::<Test>::BadProof);
            assert!(!Bound::<Test>::contains_key(key(1)), "a proof of {what}");
        }
    });
}

#[test]
fn a_proof_is_good_once() {
    new_chain().execute_with(|| {
        // Node 2 signs for nonce 0, then Alice spends that nonce on node 1.
        let early = Call::bind_peer { key: key(2), proof: proof(2, ALICE, 0) };
        let used = Call::bind_peer { key: key(1), proof: proof(1, ALICE, 0) };
        assert_ok!(submit(by(ALICE), used.clone()));
        assert_noop!(submit(by(ALICE), early), Error::<Test>::BadProof);
        // Nor is a used one good again when the key is free again.
        unbind(1, ALICE);
        assert_noop!(submit(by(ALICE), used), Error::<Test>::BadProof);
    });
}

#[test]
fn an_account_has_a_bounded_number_of_keys() {
    new_chain().execute_with(|| {
        (0..MAX_KEYS).for_each(|seed| bind(seed, ALICE));
        assert_noop!(submit(by(ALICE), bind_call(100, ALICE)), Error::<Test>::TooManyKeys);
        bind(100, BOB);
        unbind(0, ALICE);
        bind(101, ALICE);
    });
}

#[test]
fn who_cannot_pay_the_deposit_binds_nothing() {
    new_chain().execute_with(|| {
        let poor = ENDOWED.end() + 1;
        assert_noop!(submit(by(poor), bind_call(1, poor)), TokenError::FundsUnavailable);
        // Enough for the deposit, but not to live on.
        Balances::force_set_balance(RuntimeOrigin::root(), poor, DEPOSIT).unwrap();
        assert_noop!(submit(by(poor), bind_call(1, poor)), TokenError::FundsUnavailable);
    });
}

#[test]
fn nonces_and_numbers_never_start_again() {
    new_chain().execute_with(|| {
        BindNonce::<Test>::insert(ALICE, u32::MAX);
        assert_noop!(submit(by(ALICE), bind_call(1, ALICE)), ArithmeticError::Overflow);
        NextIndex::<Test>::put(u32::MAX);
        assert_noop!(submit(by(BOB), bind_call(1, BOB)), ArithmeticError::Overflow);
    });
}

#[test]
fn calls_need_an_account() {
    new_chain().execute_with(|| {
        bind(1, ALICE);
        for origin in [RuntimeOrigin::none(), RuntimeOrigin::root()] {
            for call in [bind_call(2, ALICE), unbind_call(1), withdraw_call(1)] {
                assert_noop!(submit(origin.clone(), call), DispatchError::BadOrigin);
            }
        }
    });
}

#[test]
fn an_account_answers_for_a_key_until_it_withdraws_it() {
    new_chain().execute_with(|| {
        bind(1, ALICE);
        bind(2, ALICE);
        let answers = || {
            Reputation::peer_score(key(1)).is_some()
                && <Reputation as Bindings<_>>::get(0) == Some((key(1), ALICE))
                && held(ALICE) == 2 * DEPOSIT
        };
        let leaves = System::block_number() + UNBIND_DELAY;
        assert_ok!(submit(by(ALICE), unbind_call(1)));
        assert_eq!(
            events().last(),
            Some(&Event::PeerUnbinding { account: ALICE, key: key(1), leaves })
        );
        assert!(answers());
        assert_noop!(submit(by(ALICE), unbind_call(1)), Error::<Test>::AlreadyUnbinding);
        System::set_block_number(leaves - 1);
        assert_noop!(submit(by(ALICE), withdraw_call(1)), Error::<Test>::StillAnswering);
        System::set_block_number(leaves);
        assert!(answers(), "it may be withdrawn, and was not");

        assert_ok!(submit(by(ALICE), withdraw_call(1)));
        assert_eq!(events().last(), Some(&Event::PeerUnbound { account: ALICE, key: key(1) }));
        assert_eq!(Reputation::peer_score(key(1)), None);
        assert_eq!(<Reputation as Bindings<AccountId>>::get(0), None);
        assert_eq!(Reputation::keys_of(&ALICE), [key(2)]);
        assert_eq!(held(ALICE), DEPOSIT);
        assert_ok!(Reputation::check_state());
    });
}

#[test]
fn only_who_answers_for_a_key_gives_it_up() {
    new_chain().execute_with(|| {
        for call in [unbind_call(1), withdraw_call(1)] {
            assert_noop!(submit(by(ALICE), call), Error::<Test>::NotBound);
        }
        bind(1, ALICE);
        assert_noop!(submit(by(BOB), unbind_call(1)), Error::<Test>::BoundToAnother);
        assert_noop!(submit(by(ALICE), withdraw_call(1)), Error::<Test>::NotUnbinding);
        assert_ok!(submit(by(ALICE), unbind_call(1)));
        System::set_block_number(System::block_number() + UNBIND_DELAY);
        assert_noop!(submit(by(BOB), withdraw_call(1)), Error::<Test>::BoundToAnother);
        assert_ok!(submit(by(ALICE), withdraw_call(1)));
        assert_noop!(submit(by(ALICE), withdraw_call(1)), Error::<Test>::NotBound);
    });
}

#[test]
fn a_key_that_is_bound_again_gets_a_new_number() {
    new_chain().execute_with(|| {
        bind(1, ALICE);
        unbind(1, ALICE);
        assert!(!KeysOf::<Test>::contains_key(ALICE), "no empty list stays");
        bind(1, BOB);
        assert_eq!(<Reputation as Bindings<AccountId>>::get(0), None);
        assert_eq!(<Reputation as Bindings<_>>::get(1), Some((key(1), BOB)));
        assert_eq!((held(ALICE), held(BOB)), (0, DEPOSIT));
    });
}

#[test]
fn a_new_key_of_an_old_account_is_as_bad_as_the_account() {
    new_chain().execute_with(|| {
        bind(1, ALICE);
        record(&[(ALICE, AuditFailed, 7)]);
        unbind(1, ALICE);
        bind(2, ALICE);
        assert_eq!(Reputation::peer_score(key(2)).unwrap().scores, scores(500, 500, 150));
    });
}

#[test]
fn a_new_account_of_an_old_key_is_as_bad_as_the_key_was() {
    new_chain().execute_with(|| {
        bind(1, ALICE);
        bind(2, BOB);
        record(&[(ALICE, AuditFailed, 7), (ALICE, SlotAccepted, 1), (BOB, VoteWrong, 10)]);
        unbind(1, ALICE);
        // What Alice earns back later is hers alone.
        record(&[(ALICE, AuditPassed, 30)]);
        System::reset_events();
        bind(1, BOB);

        let bad = scores(500, 400, 150);
        assert_eq!(Reputation::account_scores(&BOB), Some(bad), "the worse of both");
        assert_eq!(Reputation::peer_score(key(2)).unwrap().scores, bad, "for all keys of Bob");
        assert_eq!(
            events(),
            [
                Event::PeerBound { account: BOB, key: key(1), index: 2 },
                Event::ScoresRecorded { account: BOB, scores: bad },
            ]
        );
        assert!(!KeyHistory::<Test>::contains_key(key(1)), "it is Bob's now");
        assert_ok!(Reputation::check_state());
    });
}

#[test]
fn a_key_without_a_bad_past_changes_nothing() {
    new_chain().execute_with(|| {
        bind(1, ALICE);
        record(&[(ALICE, AuditPassed, 7), (BOB, AuditPassed, 1)]);
        unbind(1, ALICE);
        assert!(!KeyHistory::<Test>::contains_key(key(1)));
        bind(1, BOB);
        assert_eq!(Reputation::account_scores(&BOB), Some(scores(500, 500, 510)));
    });
}

#[test]
fn a_past_that_is_no_worse_than_the_account_is_not_told_of() {
    new_chain().execute_with(|| {
        bind(1, ALICE);
        record(&[(ALICE, AuditFailed, 1), (BOB, AuditFailed, 2)]);
        unbind(1, ALICE);
        let before = ScoresOf::<Test>::get(BOB);
        System::reset_events();
        bind(1, BOB);
        assert_eq!(ScoresOf::<Test>::get(BOB), before);
        assert_eq!(events().len(), 1, "bound, and nothing recorded");
        assert_ne!(Reputation::account_scores(&BOB), Some(Scores::default()));
    });
}

#[test]
fn a_deposit_is_released_as_it_was_held() {
    let genesis =
        crate::GenesisConfig { bindings: vec![(key(1).into(), 99)], ..Default::default() };
    chain(genesis).execute_with(|| {
        // Of genesis: nothing was held, and the account owns nothing.
        unbind(1, 99);
        assert_eq!(Balances::free_balance(99), 0);
        bind(2, ALICE);
        // At another price.
        Bound::<Test>::mutate(key(2), |binding| binding.as_mut().unwrap().deposit -= 1);
        unbind(2, ALICE);
        assert_eq!(held(ALICE), 1, "what the binding says, and not what a new one would cost");
    });
}
