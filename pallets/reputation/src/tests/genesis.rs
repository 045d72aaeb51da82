//! What a chain starts with, and what it does not start with.

use frame_support::{assert_ok, traits::GetStorageVersion};

use super::{ALICE, BOB, scores};
use crate::{Bindings, GenesisConfig, Scores, mock::*};

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
        assert_eq!(<Reputation as Bindings<_>>::get(2), Some((key(3), BOB)));
        assert_eq!(<Reputation as Bindings<AccountId>>::end(), 3);
        // Nothing was proved, so no nonce was spent.
        assert_eq!(Reputation::bind_nonce(&ALICE), 0);
        assert_eq!(Reputation::revision(), 0);
        assert_ok!(Reputation::check_state());
        assert_eq!(Reputation::on_chain_storage_version(), 2);
    });
}

#[test]
#[should_panic(expected = "two scores for account 1")]
fn two_scores_for_an_account_are_refused() {
    let twice = vec![(ALICE, Scores::default()), (ALICE, Scores::default())];
    chain(GenesisConfig { scores: twice, ..Default::default() });
}

#[test]
#[should_panic(expected = "the scores of 1 exceed 1,000")]
fn a_score_out_of_range_is_refused() {
    let scores = vec![(ALICE, scores(500, 500, 1_001))];
    chain(GenesisConfig { scores, ..Default::default() });
}

#[test]
#[should_panic(expected = "is bound twice")]
fn a_key_bound_to_two_accounts_is_refused() {
    let bindings = vec![(key(1).into(), ALICE), (key(1).into(), BOB)];
    chain(GenesisConfig { bindings, ..Default::default() });
}

#[test]
#[should_panic(expected = "is bound twice")]
fn a_key_bound_twice_to_one_account_is_refused() {
    let bindings = vec![(key(1).into(), ALICE), (key(1).into(), ALICE)];
    chain(GenesisConfig { bindings, ..Default::default() });
}

#[test]
#[should_panic(expected = "too many overlay keys for account 1")]
fn too_many_keys_for_an_account_are_refused() {
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
