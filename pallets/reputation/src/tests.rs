//! The pallet on a chain of its own: each call, event and error, the revision, genesis, and random
//! calls against the invariants.

use codec::Encode;
use frame_support::{
    BoundedVec, assert_noop, assert_ok,
    traits::{GetStorageVersion, OneSessionHandler},
};
use proptest::prelude::*;
use sp_core::{H256, Pair, sr25519::Public};
use sp_runtime::{ArithmeticError, BoundToRuntimeAppPublic, DispatchError, RuntimeAppPublic};

use crate::{
    AccountOf, BindNonce, Component, Component::*, Entries, Error, Event, GenesisConfig, KeysOf,
    PeerScore, Reporters, Scores, bind_payload, mock::*, reporter::sr25519::AuthorityId,
};

const ALICE: AccountId = 1;
const BOB: AccountId = 2;

fn scores(director: u16, validator: u16, seeder: u16) -> Scores {
    Scores { director, validator, seeder }
}

fn entries(entries: &[(AccountId, Component, i16)]) -> Entries<Test> {
    entries.to_vec().try_into().unwrap()
}

fn record(list: &[(AccountId, Component, i16)]) {
    assert_ok!(Reputation::record(RuntimeOrigin::root(), entries(list)));
}

fn events() -> Vec<Event<Test>> {
    System::read_events_for_pallet()
}

#[test]
fn binding_is_seen_from_both_sides_and_told() {
    new_chain().execute_with(|| {
        bind(1, ALICE);

        assert_eq!(AccountOf::<Test>::get(key(1)), Some(ALICE));
        assert_eq!(Reputation::keys_of(&ALICE), [key(1)]);
        assert_eq!(Reputation::bind_nonce(&ALICE), 1);
        assert_eq!(Reputation::revision(), 1);
        assert_eq!(events(), [Event::PeerBound { account: ALICE, key: key(1) }]);
        assert_ok!(Reputation::check_state());
    });
}

#[test]
fn an_account_binds_several_keys_each_with_a_new_nonce() {
    new_chain().execute_with(|| {
        bind(1, ALICE);
        bind(2, ALICE);
        assert_eq!(Reputation::keys_of(&ALICE), [key(1), key(2)]);
        assert_eq!(Reputation::bind_nonce(&ALICE), 2);
        assert_eq!(Reputation::revision(), 2);
    });
}

#[test]
fn a_bound_key_is_not_bound_again() {
    new_chain().execute_with(|| {
        bind(1, ALICE);
        for account in [ALICE, BOB] {
            let proof = proof(1, account, Reputation::bind_nonce(&account));
            assert_noop!(
                Reputation::bind_peer(RuntimeOrigin::signed(account), key(1), proof),
                Error::<Test>::KeyAlreadyBound
            );
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
            let result = Reputation::bind_peer(RuntimeOrigin::signed(ALICE), key(1), proof);
            assert_eq!(result, Err(Error::<Test>::BadProof.into()), "a proof of {what}");
        }
        assert_eq!(Reputation::revision(), 0);
        assert_eq!(AccountOf::<Test>::iter().count() + KeysOf::<Test>::iter().count(), 0);
    });
}

#[test]
fn a_proof_is_good_once() {
    new_chain().execute_with(|| {
        // Node 2 signs for nonce 0, then Alice spends that nonce on node 1.
        let early = proof(2, ALICE, 0);
        bind(1, ALICE);
        assert_noop!(
            Reputation::bind_peer(RuntimeOrigin::signed(ALICE), key(2), early),
            Error::<Test>::BadProof
        );
    });
}

#[test]
fn an_account_has_a_bounded_number_of_keys() {
    new_chain().execute_with(|| {
        (0..MAX_KEYS).for_each(|seed| bind(seed, ALICE));
        let proof = proof(100, ALICE, MAX_KEYS.into());
        assert_noop!(
            Reputation::bind_peer(RuntimeOrigin::signed(ALICE), key(100), proof),
            Error::<Test>::TooManyKeys
        );
        bind(100, BOB);
    });
}

#[test]
fn nonces_never_start_again() {
    new_chain().execute_with(|| {
        BindNonce::<Test>::insert(ALICE, u32::MAX);
        let proof = proof(1, ALICE, u32::MAX);
        assert_noop!(
            Reputation::bind_peer(RuntimeOrigin::signed(ALICE), key(1), proof),
            ArithmeticError::Overflow
        );
    });
}

#[test]
fn calls_need_their_origin() {
    new_chain().execute_with(|| {
        assert_noop!(
            Reputation::bind_peer(RuntimeOrigin::none(), key(1), proof(1, ALICE, 0)),
            DispatchError::BadOrigin
        );
        for origin in [RuntimeOrigin::signed(ALICE), RuntimeOrigin::none()] {
            assert_noop!(
                Reputation::record(origin, entries(&[(ALICE, Seeder, 1)])),
                DispatchError::BadOrigin
            );
        }
    });
}

#[test]
fn recording_starts_at_500_and_stays_in_range() {
    new_chain().execute_with(|| {
        assert_eq!(Reputation::account_scores(&ALICE), None);
        record(&[(ALICE, Director, 100), (BOB, Validator, -150)]);
        assert_eq!(Reputation::account_scores(&ALICE), Some(scores(600, 500, 500)));
        assert_eq!(Reputation::account_scores(&BOB), Some(scores(500, 350, 500)));

        record(&[(ALICE, Director, i16::MAX), (BOB, Validator, i16::MIN)]);
        assert_eq!(Reputation::account_scores(&ALICE), Some(scores(1_000, 500, 500)));
        assert_eq!(Reputation::account_scores(&BOB), Some(scores(500, 0, 500)));
    });
}

#[test]
fn entries_apply_in_order_and_an_account_is_told_of_once() {
    new_chain().execute_with(|| {
        // Had the sum been applied, it would be 900.
        record(&[(ALICE, Seeder, 600), (BOB, Seeder, 1), (ALICE, Seeder, -200)]);
        assert_eq!(
            events(),
            [
                Event::ScoresRecorded { account: ALICE, scores: scores(500, 500, 800) },
                Event::ScoresRecorded { account: BOB, scores: scores(500, 500, 501) },
            ]
        );
    });
}

#[test]
fn revision_grows_once_for_a_call_that_changes_bound_peers() {
    new_chain().execute_with(|| {
        record(&[(ALICE, Seeder, 10)]);
        assert_eq!(Reputation::revision(), 0, "nobody is bound");

        bind(1, ALICE);
        bind(2, ALICE);
        bind(3, BOB);
        assert_eq!(Reputation::revision(), 3);
        record(&[(ALICE, Seeder, 10), (BOB, Seeder, 10), (ALICE, Director, 10)]);
        assert_eq!(Reputation::revision(), 4, "three keys changed in one call");
    });
}

#[test]
fn revision_stands_still_when_no_answer_changes() {
    new_chain().execute_with(|| {
        bind(1, ALICE);
        let revision = Reputation::revision();
        System::reset_events();

        record(&[]);
        record(&[(BOB, Seeder, -100)]);
        record(&[(ALICE, Seeder, 0)]);
        assert_eq!(Reputation::account_scores(&ALICE), Some(Scores::default()));
        assert_eq!(events().len(), 2, "Bob's change and Alice's first scores");
        record(&[(ALICE, Seeder, 7), (ALICE, Seeder, -7)]);
        assert_eq!(events().len(), 2, "nothing changed, nothing told");
        assert_eq!(Reputation::revision(), revision);
    });
}

#[test]
fn a_peer_has_the_scores_of_its_account() {
    new_chain().execute_with(|| {
        assert_eq!(Reputation::peer_score(key(1)), None);
        bind(1, ALICE);
        let neutral = PeerScore { key: key(1), scores: Scores::default() };
        assert_eq!(Reputation::peer_score(key(1)), Some(neutral));
        record(&[(ALICE, Seeder, -400)]);
        assert_eq!(Reputation::peer_score(key(1)).unwrap().scores, scores(500, 500, 100));
    });
}

#[test]
fn pages_give_every_peer_once_whatever_their_size() {
    new_chain().execute_with(|| {
        for seed in 0..20 {
            bind(seed, AccountId::from(seed / 3));
        }
        record(&[(3, Director, -1)]);
        let all = Reputation::peers(None, u32::MAX);
        assert_eq!(all.len(), 20);
        assert!(all.iter().all(|peer| Reputation::peer_score(peer.key) == Some(*peer)));

        for size in [1, 7, 20, 1_000] {
            let mut paged = Vec::new();
            loop {
                let page = Reputation::peers(paged.last().map(|peer: &PeerScore| peer.key), size);
                assert!(page.len() <= size as usize);
                if page.is_empty() {
                    break;
                }
                paged.extend(page);
            }
            assert_eq!(paged, all, "pages of {size}");
        }
        assert!(Reputation::peers(None, 0).is_empty());
    });
}

#[test]
fn a_page_is_capped_at_1000() {
    let bindings = (0..1_001).map(|n| (H256::from_low_u64_be(n), n)).collect();
    chain(GenesisConfig { bindings, ..Default::default() }).execute_with(|| {
        let page = Reputation::peers(None, u32::MAX);
        assert_eq!(page.len(), 1_000);
        assert_eq!(Reputation::peers(page.last().map(|peer| peer.key), u32::MAX).len(), 1);
    });
}

#[test]
fn genesis_sets_scores_and_bindings() {
    let genesis = GenesisConfig {
        scores: vec![(ALICE, scores(900, 800, 700))],
        bindings: vec![(key(1).into(), ALICE), (key(2).into(), ALICE), (key(3).into(), BOB)],
    };
    chain(genesis).execute_with(|| {
        assert_eq!(Reputation::peer_score(key(2)).unwrap().scores, scores(900, 800, 700));
        assert_eq!(Reputation::peer_score(key(3)).unwrap().scores, Scores::default());
        assert_eq!(Reputation::keys_of(&ALICE), [key(1), key(2)]);
        // Nothing was proved, so no nonce was spent.
        assert_eq!(Reputation::bind_nonce(&ALICE), 0);
        assert_eq!(Reputation::revision(), 0);
        assert_ok!(Reputation::check_state());
        assert_eq!(Reputation::on_chain_storage_version(), 1);
    });
}

#[test]
#[should_panic(expected = "two scores for account 1")]
fn genesis_with_two_scores_for_an_account_is_refused() {
    let twice = vec![(ALICE, Scores::default()), (ALICE, Scores::default())];
    chain(GenesisConfig { scores: twice, ..Default::default() });
}

#[test]
#[should_panic(expected = "the scores of 1 exceed 1,000")]
fn genesis_with_a_score_out_of_range_is_refused() {
    let scores = vec![(ALICE, scores(500, 500, 1_001))];
    chain(GenesisConfig { scores, ..Default::default() });
}

#[test]
#[should_panic(expected = "is bound twice")]
fn genesis_with_a_key_bound_twice_is_refused() {
    let bindings = vec![(key(1).into(), ALICE), (key(1).into(), BOB)];
    chain(GenesisConfig { bindings, ..Default::default() });
}

#[test]
#[should_panic(expected = "too many overlay keys for account 1")]
fn genesis_with_too_many_keys_for_an_account_is_refused() {
    let bindings = (0..=MAX_KEYS).map(|seed| (key(seed).into(), ALICE)).collect();
    chain(GenesisConfig { bindings, ..Default::default() });
}

#[test]
fn genesis_reads_keys_as_hex_and_scores_by_name() {
    let json = format!(
        r#"{{"scores": [[1, {{"director": 1, "validator": 2, "seeder": 3}}]],
             "bindings": [["0x{}", 1]]}}"#,
        "ab".repeat(32)
    );
    let genesis: GenesisConfig<Test> = serde_json::from_str(&json).unwrap();
    chain(genesis).execute_with(|| {
        assert_eq!(Reputation::peer_score([0xab; 32]).unwrap().scores, scores(1, 2, 3));
    });
}

#[test]
fn reporters_are_those_of_the_running_session() {
    type Handler = Reputation;
    let reporter = |n: u8| AuthorityId::from(Public::from_raw([n; 32]));
    let validators = [(ALICE, reporter(1)), (BOB, reporter(2))];
    let session = |n: usize| validators.iter().take(n).map(|(who, key)| (who, key.clone()));
    let stored = || Reporters::<Test>::get().into_inner();

    assert_eq!(
        <<Reputation as BoundToRuntimeAppPublic>::Public as RuntimeAppPublic>::ID.0,
        *b"imon"
    );
    new_chain().execute_with(|| {
        Handler::on_genesis_session(session(1));
        assert_eq!(stored(), [reporter(1)]);
        Handler::on_new_session(false, session(2), session(2));
        assert_eq!(stored(), [reporter(1)], "not changed, so not written");
        Handler::on_new_session(true, session(2), session(1));
        assert_eq!(stored(), [reporter(1), reporter(2)]);
        <Handler as OneSessionHandler<AccountId>>::on_disabled(0);
        assert_eq!(stored(), [reporter(1), reporter(2)]);
    });
}

/// A call as the property below makes it.
#[derive(Clone, Debug)]
enum Act {
    Bind { seed: u8, account: AccountId, nonce_off_by: u32 },
    Record { by_root: bool, entries: Vec<(AccountId, Component, i16)> },
}

fn act() -> impl Strategy<Value = Act> {
    let component = prop_oneof![Just(Director), Just(Validator), Just(Seeder)];
    let entry = (0..4u64, component, prop_oneof![any::<i16>(), -3..=3i16]);
    prop_oneof![
        (0..6u8, 0..4u64, prop_oneof![4 => Just(0), 1 => Just(1u32)])
            .prop_map(|(seed, account, nonce_off_by)| Act::Bind { seed, account, nonce_off_by }),
        (prop::bool::weighted(0.9), prop::collection::vec(entry, 0..8))
            .prop_map(|(by_root, entries)| Act::Record { by_root, entries }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is called, the invariants hold, a refused call changes nothing, and the revision
    /// grows by one exactly when the answers about peers change.
    #[test]
    fn random_calls_keep_the_state_sound(acts in prop::collection::vec(act(), 1..40)) {
        new_chain().execute_with(|| {
            for act in acts {
                let (peers, revision) = (Reputation::peers(None, 1_000), Reputation::revision());
                let result = match act.clone() {
                    Act::Bind { seed, account, nonce_off_by } => {
                        let nonce = Reputation::bind_nonce(&account) + nonce_off_by;
                        let proof = proof(seed, account, nonce);
                        Reputation::bind_peer(RuntimeOrigin::signed(account), key(seed), proof)
                    }
                    Act::Record { by_root, entries } => {
                        let origin =
                            if by_root { RuntimeOrigin::root() } else { RuntimeOrigin::signed(ALICE) };
                        Reputation::record(origin, BoundedVec::try_from(entries).unwrap())
                    }
                };
                let changed = Reputation::peers(None, 1_000) != peers;
                prop_assert_eq!(
                    Reputation::revision() - revision, u64::from(changed), "after {:?}", act
                );
                prop_assert!(result.is_ok() || !changed, "{:?} failed and changed", act);
                prop_assert_eq!(Reputation::check_state(), Ok(()), "after {:?}", act);
            }
            Ok(())
        })?;
    }
}
