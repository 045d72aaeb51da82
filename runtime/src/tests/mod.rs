//! The runtime as a whole, in blocks that carry signed transactions.
//!
//! What single pallets do is tested beside them; here stands what they do together: genesis, the
//! way of session keys into consensus, and what the runtime APIs answer.

mod audits;
mod chain;
mod equivocation;

use codec::{Decode, Encode};
use frame_support::{
    assert_ok,
    storage::unhashed,
    traits::{Get, GetStorageVersion, KeyOwnerProofSystem, StorageVersion, fungible::InspectHold},
};
use pallet_reputation::{
    Earned, HoldReason, Outcome, PeerChange, PeerEarned, PeerScore, Scores, bind_payload,
};
use pallet_reputation_runtime_api::{
    MAX_CHANGES, runtime_decl_for_reputation_api::ReputationApiV2 as _,
};
use pallet_session::historical::HistoricalSessions;
use serde_json::{Value, json};
use sp_consensus_aura::runtime_decl_for_aura_api::AuraApiV1 as _;
use sp_consensus_grandpa::runtime_decl_for_grandpa_api::GrandpaApiV3 as _;
use sp_core::{Pair, ed25519};
use sp_genesis_builder::{
    DEV_RUNTIME_PRESET, LOCAL_TESTNET_RUNTIME_PRESET,
    runtime_decl_for_genesis_builder::GenesisBuilderV1 as _,
};
use sp_keyring::{Ed25519Keyring, Sr25519Keyring};
use sp_runtime::{DispatchError, key_types};
use sp_session::runtime_decl_for_session_keys::SessionKeysV2 as _;

use crate::{
    AccountId, Audits, Balances, DAYS, Historical, MINUTES, Reputation, Runtime, RuntimeCall,
    Session, SessionKeys, System, Validators,
};
use chain::{Chain, genesis_json};

use Sr25519Keyring::{Alice, Bob, Charlie};

fn account(key: Sr25519Keyring) -> AccountId {
    key.to_account_id()
}

/// The session keys of a well-known name.
fn well_known_keys(sr25519: Sr25519Keyring, ed25519: Ed25519Keyring) -> SessionKeys {
    SessionKeys {
        aura: sr25519.public().into(),
        grandpa: ed25519.public().into(),
        im_online: sr25519.public().into(),
    }
}

fn sudo(call: impl Into<RuntimeCall>) -> RuntimeCall {
    pallet_sudo::Call::sudo { call: Box::new(call.into()) }.into()
}

fn check_state() {
    assert_ok!(Validators::check_state());
    assert_ok!(Reputation::check_state());
    assert_ok!(Audits::check_state());
}

#[test]
fn presets_are_listed_and_no_other_is_known() {
    let names = Runtime::preset_names();
    assert_eq!(names, [DEV_RUNTIME_PRESET, LOCAL_TESTNET_RUNTIME_PRESET]);
    assert!(names.into_iter().all(|name| Runtime::get_preset(&Some(name)).is_some()));
    assert_eq!(Runtime::get_preset(&Some("mainnet".into())), None);
}

#[test]
fn a_preset_starts_with_the_keys_of_its_validators_in_consensus() {
    let alice = (Alice, Ed25519Keyring::Alice);
    let bob = (Bob, Ed25519Keyring::Bob);
    for (preset, mut validators) in
        [(DEV_RUNTIME_PRESET, vec![alice]), (LOCAL_TESTNET_RUNTIME_PRESET, vec![alice, bob])]
    {
        // Authorities are in the order of accounts.
        validators.sort_by_key(|(sr25519, _)| account(*sr25519));
        let (sr25519, ed25519): (Vec<_>, Vec<_>) = validators.into_iter().unzip();
        Chain::preset(preset).run(|| {
            let accounts: Vec<_> = sr25519.iter().map(|key| account(*key)).collect();
            assert_eq!(Session::validators(), accounts);
            let aura: Vec<_> = sr25519.iter().map(|key| key.public().into()).collect();
            assert_eq!(Runtime::authorities(), aura);
            let grandpa: Vec<_> = ed25519.iter().map(|key| (key.public().into(), 1)).collect();
            assert_eq!(Runtime::grandpa_authorities(), grandpa);
            let reporters: Vec<_> = sr25519.iter().map(|key| key.public().into()).collect();
            assert_eq!(pallet_audits::Reporters::<Runtime>::get().into_inner(), reporters);
            assert_eq!(pallet_sudo::Key::<Runtime>::get(), Some(account(Alice)));
            check_state();
        });
    }
}

#[test]
fn rewriting_session_keys_in_a_preset_replaces_the_validators() {
    // What network tools do to a chain specification, keys of other chains' pallets included.
    let mut genesis = genesis_json(LOCAL_TESTNET_RUNTIME_PRESET);
    let mut keys = serde_json::to_value(well_known_keys(Charlie, Ed25519Keyring::Charlie)).unwrap();
    keys["babe"] = json!(Charlie.to_account_id());
    genesis["session"]["keys"] = json!([[account(Charlie), account(Charlie), keys]]);

    Chain::new(&genesis).run(|| {
        assert_eq!(Session::validators(), [account(Charlie)]);
        assert_eq!(Runtime::authorities(), [Charlie.public().into()]);
        check_state();
    });
}

#[test]
fn consensus_lists_in_genesis_are_empty_so_that_session_keys_fill_them() {
    for preset in [DEV_RUNTIME_PRESET, LOCAL_TESTNET_RUNTIME_PRESET] {
        let genesis = genesis_json(preset);
        assert_eq!(genesis["aura"]["authorities"], json!([]));
        assert_eq!(genesis["grandpa"]["authorities"], json!([]));
        assert_eq!(genesis["validators"]["initial"], json!([]));
        let keys: Vec<_> =
            genesis["session"]["keys"][0][2].as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["aura", "grandpa", "im_online"]);
    }
}

#[test]
fn reputation_of_genesis_is_answered_by_the_runtime_api() {
    let key = [7; 32];
    let scores = Scores { director: 900, validator: 800, seeder: 100 };
    let mut genesis = genesis_json(DEV_RUNTIME_PRESET);
    genesis["reputation"]["scores"] = json!([[account(Alice), scores]]);
    genesis["reputation"]["bindings"] = json!([[format!("0x{}", "07".repeat(32)), account(Alice)]]);

    Chain::new(&genesis).run(|| {
        let earned = Earned::new(scores, 0);
        assert_eq!(Runtime::peers(None, 10), [PeerEarned { key, earned }]);
        assert_eq!(Runtime::peer_score(key), Some(PeerScore { key, scores }));
        assert_eq!(Runtime::account_scores(account(Alice)), Some(scores));
        assert_eq!(Runtime::account_scores(account(Bob)), None);
        assert_eq!(Runtime::validator_keys(), [key]);
        assert_eq!(Runtime::revision(), 0);
        assert_eq!(Runtime::changes_since(0), Some(Vec::new()));
        assert_eq!(Runtime::day(), 0);
        check_state();
    });
}

#[test]
fn scores_are_answered_by_view_functions() {
    use frame_support::view_functions::ViewFunction;
    use pallet_reputation::{
        PageOfScoresViewFunction, ScoreOfAccountViewFunction, ScoreOfPeerViewFunction,
    };
    let scores = Scores { director: 900, validator: 800, seeder: 100 };
    let mut genesis = genesis_json(DEV_RUNTIME_PRESET);
    genesis["reputation"]["scores"] = json!([[account(Alice), scores]]);
    genesis["reputation"]["bindings"] = json!([[format!("0x{}", "07".repeat(32)), account(Alice)]]);

    fn ask<V: ViewFunction<ReturnType: Decode> + Encode>(question: V) -> V::ReturnType {
        let answer = Runtime::execute_view_function(V::id(), question.encode()).unwrap();
        Decode::decode(&mut &answer[..]).unwrap()
    }
    Chain::new(&genesis).run(|| {
        let of_account = ScoreOfAccountViewFunction::<Runtime>::new(account(Alice));
        assert_eq!(ask(of_account), Some(scores));
        let of_peer = ScoreOfPeerViewFunction::<Runtime>::new([7; 32]);
        assert_eq!(ask(of_peer), Some(PeerScore { key: [7; 32], scores }));
        let page = PageOfScoresViewFunction::<Runtime>::new(None, 10);
        assert_eq!(ask(page), [(account(Alice), scores)]);
    });
}

#[test]
fn a_binding_and_a_record_go_through_blocks() {
    let overlay = ed25519::Pair::from_seed(&[9; 32]);
    let key = overlay.public().0;
    let mut chain = Chain::preset(DEV_RUNTIME_PRESET);
    chain.block();

    let payload = chain.run(|| {
        let genesis = System::block_hash(0);
        let nonce = Runtime::bind_nonce(account(Bob));
        bind_payload(genesis.as_fixed_bytes(), &account(Bob), &key, nonce)
    });
    let bind = pallet_reputation::Call::bind_peer { key, proof: overlay.sign(&payload).0 };
    chain.submit(Bob, bind).unwrap();
    chain.run(|| {
        assert_eq!(Runtime::peer_score(key), Some(PeerScore { key, scores: Scores::default() }));
        assert_eq!(Runtime::revision(), 1);
        assert_eq!(Runtime::validator_keys(), [[0; 32]; 0], "Bob is no validator here");
        let held = Balances::balance_on_hold(&HoldReason::Binding.into(), &account(Bob));
        assert!(held > 0, "a deposit");
        let neutral = PeerChange { key, earned: Some(Earned::default()) };
        assert_eq!(Runtime::changes_since(0), Some(vec![neutral]));
    });

    let entries = vec![(account(Bob), Outcome::AuditFailed, 7)].try_into().unwrap();
    let record = pallet_reputation::Call::record { entries };
    assert_eq!(chain.submit(Bob, record.clone()), Err(DispatchError::BadOrigin));
    chain.submit(Alice, sudo(record)).unwrap();
    chain.run(|| {
        let scores = Scores { seeder: 150, ..Scores::default() };
        assert_eq!(Runtime::peer_score(key), Some(PeerScore { key, scores }));
        assert!(scores.graylisted());
        assert_eq!(Runtime::revision(), 2);
        let change = PeerChange { key, earned: Some(Earned::new(scores, 0)) };
        assert_eq!(Runtime::changes_since(1), Some(vec![change]));
        check_state();
    });
}

#[test]
fn rotated_keys_author_and_vote_from_the_session_after_next() {
    let mut chain = Chain::preset(LOCAL_TESTNET_RUNTIME_PRESET);
    chain.add_keystore();
    chain.block();

    let (keys, proof) = chain.run(|| {
        let generated = Runtime::generate_session_keys(account(Alice).encode(), None);
        let keys: SessionKeys = Decode::decode(&mut &generated.keys[..]).unwrap();
        assert_eq!(
            Runtime::decode_session_keys(generated.keys),
            Some(keys.clone().into_raw_public_keys())
        );
        (keys, generated.proof)
    });
    let for_bob =
        chain.run(|| keys.clone().create_ownership_proof(&account(Bob).encode()).unwrap());
    let bad = pallet_session::Call::set_keys { keys: keys.clone(), proof: for_bob.encode() };
    assert_eq!(
        chain.submit(Alice, bad),
        Err(pallet_session::Error::<Runtime>::InvalidProof.into()),
        "the keys' owner signed for Bob"
    );
    chain.submit(Alice, pallet_session::Call::set_keys { keys: keys.clone(), proof }).unwrap();

    let in_consensus = |chain: &mut Chain| {
        chain.run(|| {
            (
                Runtime::authorities().contains(&keys.aura),
                Runtime::grandpa_authorities().contains(&(keys.grandpa.clone(), 1)),
                pallet_audits::Reporters::<Runtime>::get().contains(&keys.im_online),
            )
        })
    };
    chain.blocks_to_session(1);
    assert_eq!(in_consensus(&mut chain), (false, false, false));
    chain.blocks_to_session(2);
    assert_eq!(in_consensus(&mut chain), (true, true, true));

    // And misbehaviour by the new key can be laid to Alice.
    chain.run(|| {
        let key = (key_types::GRANDPA, keys.grandpa.encode());
        let proof = <Historical as KeyOwnerProofSystem<_>>::prove(key.clone()).unwrap();
        let (owner, ()) = <Historical as KeyOwnerProofSystem<_>>::check_proof(key, proof).unwrap();
        assert_eq!(owner, account(Alice));
    });
}

#[test]
fn the_session_manager_always_answers() {
    let mut chain = Chain::preset(LOCAL_TESTNET_RUNTIME_PRESET);
    for session in 1..=4 {
        chain.blocks_to_session(session);
        chain.run(|| {
            // A session without an answer would repeat the last root; without keys, have none.
            let (_, count) = HistoricalSessions::<Runtime>::get(session + 1).unwrap();
            assert_eq!(count, 2);
            assert!(pallet_session::QueuedChanged::<Runtime>::get(), "an answer was given");
            assert_eq!(Session::validators().len(), 2);
        });
    }
}

#[test]
fn test_chains_have_sessions_of_a_minute() {
    let mut chain = Chain::preset(DEV_RUNTIME_PRESET);
    chain.blocks_to_session(2);
    assert_eq!(chain.number(), 2 * MINUTES);
}

#[test]
fn governance_exchanges_a_validator() {
    let mut chain = Chain::preset(LOCAL_TESTNET_RUNTIME_PRESET);
    chain.add_keystore();
    chain.block();

    let remove_bob = pallet_validators::Call::remove { account: account(Bob) };
    assert_eq!(chain.submit(Bob, remove_bob.clone()), Err(DispatchError::BadOrigin));
    let add_charlie = pallet_validators::Call::add { account: account(Charlie) };

    let generated = chain.run(|| Runtime::generate_session_keys(account(Charlie).encode(), None));
    let keys: SessionKeys = Decode::decode(&mut &generated.keys[..]).unwrap();
    let set_keys = pallet_session::Call::set_keys { keys: keys.clone(), proof: generated.proof };
    chain.submit(Charlie, set_keys).unwrap();
    chain.submit(Alice, sudo(add_charlie)).unwrap();
    chain.submit(Alice, sudo(remove_bob)).unwrap();

    chain.blocks_to_session(2);
    chain.run(|| {
        let mut expected = [account(Alice), account(Charlie)];
        expected.sort();
        assert_eq!(Session::validators(), expected);
        assert!(Runtime::authorities().contains(&keys.aura));
        check_state();
    });
}

#[test]
fn genesis_with_duplicates_does_not_become_a_chain() {
    let scores = Scores::default();
    let twice = json!([[account(Alice), scores], [account(Alice), scores]]);
    let mut genesis: Value = genesis_json(DEV_RUNTIME_PRESET);
    genesis["reputation"]["scores"] = twice;
    let result = std::panic::catch_unwind(|| Chain::new(&genesis));
    let message = *result.err().unwrap().downcast::<String>().unwrap();
    assert!(message.contains("two scores for account"), "{message}");
}

#[test]
fn an_unbound_key_is_answered_for_until_a_week_later() {
    let mut genesis = genesis_json(DEV_RUNTIME_PRESET);
    genesis["reputation"]["bindings"] = json!([[format!("0x{}", "07".repeat(32)), account(Bob)]]);
    let mut chain = Chain::new(&genesis);
    chain.block();

    let key = [7; 32];
    chain.submit(Bob, pallet_reputation::Call::unbind_peer { key }).unwrap();
    let leaves = chain.number() + 7 * DAYS;
    let withdraw = pallet_reputation::Call::withdraw { key };
    let refused = Err(pallet_reputation::Error::<Runtime>::StillAnswering.into());
    assert_eq!(chain.submit(Bob, withdraw), refused);
    chain.run(|| {
        let binding = pallet_reputation::Bound::<Runtime>::get(key).unwrap();
        assert_eq!(binding.leaves, Some(leaves));
        assert!(Runtime::peer_score(key).is_some());
        check_state();
    });
}

#[test]
fn a_chain_of_the_first_runtime_is_upgraded_in_its_next_block() {
    let mut chain = Chain::preset(DEV_RUNTIME_PRESET);
    chain.block();
    chain.run(|| {
        // As the first runtime left it.
        StorageVersion::new(1).put::<Reputation>();
        let first = frame_system::LastRuntimeUpgradeInfo {
            spec_version: 1.into(),
            spec_name: "nsn".into(),
        };
        frame_system::LastRuntimeUpgrade::<Runtime>::put(first);
        let scores_of_bob = pallet_reputation::ScoresOf::<Runtime>::hashed_key_for(account(Bob));
        let scores = Scores { seeder: 900, ..Scores::default() };
        unhashed::put(&scores_of_bob, &scores);
    });
    chain.block();
    chain.run(|| {
        assert_eq!(Reputation::on_chain_storage_version(), 2);
        assert_eq!(Runtime::account_scores(account(Bob)).unwrap().seeder, 900);
        check_state();
    });
}

#[test]
fn more_changes_than_an_answer_holds_are_not_told() {
    use pallet_reputation::{
        Log, Revision,
        types::{Logged, Touched},
    };

    // As many as nodes are told of in one block; a chain with so many bindings would take long.
    let most: u32 = <<Runtime as pallet_reputation::Config>::MaxTouched as Get<u32>>::get() - 1;
    Chain::preset(DEV_RUNTIME_PRESET).run(|| {
        let (mut revision, mut key) = (0u64, 0u32);
        while key <= MAX_CHANGES {
            revision += 1;
            let keys = (key..key + most).map(|key| {
                let mut bytes = [0; 32];
                bytes[..4].copy_from_slice(&key.to_be_bytes());
                Touched::Key(bytes)
            });
            let touched = Some(keys.collect::<Vec<_>>().try_into().unwrap());
            let place = u32::try_from(revision).unwrap();
            Log::<Runtime>::insert(place, Logged { revision, touched });
            key += most;
        }
        Revision::<Runtime>::put(revision);

        assert_eq!(Runtime::changes_since(0), None);
        let changes = Runtime::changes_since(1).unwrap();
        assert_eq!(changes.len(), (key - most) as usize);
        assert!(changes.iter().all(|change| change.earned.is_none()), "nobody is bound");
    });
}
