//! The presets a new chain starts from: `development` and `local_testnet`.
//!
//! A preset is a patch, in JSON, of the default genesis. The validators are given by their session
//! keys in `session.keys` alone: AURA and GRANDPA take theirs from there (and refuse to start with
//! both), and `pallet_validators` adopts their owners. So tools that start test networks only have
//! to rewrite that one list.

use alloc::vec::Vec;

use frame_support::build_struct_json_patch;
use serde_json::Value;
use sp_genesis_builder::{DEV_RUNTIME_PRESET, LOCAL_TESTNET_RUNTIME_PRESET, PresetId};
use sp_keyring::{Ed25519Keyring, Sr25519Keyring};

use crate::{
    AccountId, AuditsConfig, BalancesConfig, BlockNumber, MINUTES, RuntimeGenesisConfig,
    SessionConfig, SessionKeys, SudoConfig, UNIT, ValidatorsConfig,
};

/// Names of the presets.
pub const PRESETS: [&str; 2] = [DEV_RUNTIME_PRESET, LOCAL_TESTNET_RUNTIME_PRESET];

/// What each well-known account gets on a test chain.
const ENDOWMENT: u128 = 1_000_000 * UNIT;

/// Sessions of a minute, so that a rotated key is at work within two.
const TEST_SESSION_LENGTH: BlockNumber = MINUTES;

/// Windows of half a minute: the shortest that there are.
const TEST_WINDOW_LENGTH: BlockNumber = TEST_SESSION_LENGTH / 2;

/// The preset `id` as JSON, or `None` if there is none of that name.
pub fn preset(id: &PresetId) -> Option<Vec<u8>> {
    let patch = match id.as_str() {
        DEV_RUNTIME_PRESET => test_chain(&[(Sr25519Keyring::Alice, Ed25519Keyring::Alice)]),
        LOCAL_TESTNET_RUNTIME_PRESET => test_chain(&[
            (Sr25519Keyring::Alice, Ed25519Keyring::Alice),
            (Sr25519Keyring::Bob, Ed25519Keyring::Bob),
        ]),
        _ => return None,
    };
    serde_json::to_vec(&patch).ok()
}

/// A chain on well-known keys, which anybody holds: only for testing. Alice has the sudo key.
fn test_chain(validators: &[(Sr25519Keyring, Ed25519Keyring)]) -> Value {
    let balances: Vec<(AccountId, u128)> =
        Sr25519Keyring::iter().map(|key| (key.to_account_id(), ENDOWMENT)).collect();
    let keys: Vec<(AccountId, AccountId, SessionKeys)> = validators
        .iter()
        .map(|(sr25519, ed25519)| {
            let account = sr25519.to_account_id();
            let keys = SessionKeys {
                aura: sr25519.public().into(),
                grandpa: ed25519.public().into(),
                im_online: sr25519.public().into(),
            };
            (account.clone(), account, keys)
        })
        .collect();
    build_struct_json_patch!(RuntimeGenesisConfig {
        audits: AuditsConfig { window_length: TEST_WINDOW_LENGTH },
        balances: BalancesConfig { balances },
        session: SessionConfig { keys },
        sudo: SudoConfig { key: Some(Sr25519Keyring::Alice.to_account_id()) },
        validators: ValidatorsConfig { session_length: TEST_SESSION_LENGTH },
    })
}
