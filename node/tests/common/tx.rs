//! Transactions as a wallet makes them. Used by tests on both sides of the RPC.

use codec::Encode as _;
use nsn_runtime::{Hash, RuntimeCall, TxExtension, UncheckedExtrinsic, VERSION};
use pallet_reputation::{Outcome, OverlayKey, bind_payload};
use sp_core::{Pair as _, ed25519};
use sp_keyring::Sr25519Keyring;
use sp_runtime::generic::{Era, SignedPayload};

/// `call`, signed by one of the well-known accounts.
pub(crate) fn signed(
    call: RuntimeCall,
    who: Sr25519Keyring,
    nonce: u32,
    genesis: Hash,
) -> UncheckedExtrinsic {
    let extension: TxExtension = (
        frame_system::AuthorizeCall::new(),
        frame_system::CheckNonZeroSender::new(),
        frame_system::CheckSpecVersion::new(),
        frame_system::CheckTxVersion::new(),
        frame_system::CheckGenesis::new(),
        frame_system::CheckEra::from(Era::immortal()),
        frame_system::CheckNonce::from(nonce),
        frame_system::CheckWeight::new(),
        pallet_transaction_payment::ChargeTransactionPayment::from(0),
        frame_metadata_hash_extension::CheckMetadataHash::new(false),
        frame_system::WeightReclaim::new(),
    );
    let implicit = (
        (),
        (),
        VERSION.spec_version,
        VERSION.transaction_version,
        genesis,
        genesis,
        (),
        (),
        (),
        None,
        (),
    );
    let payload = SignedPayload::from_raw(call.clone(), extension.clone(), implicit);
    let signature = payload.using_encoded(|bytes| who.sign(bytes));
    UncheckedExtrinsic::new_signed(call, who.to_account_id().into(), signature.into(), extension)
}

/// Binds the overlay key of `secret` to `who`, as that account's first binding.
pub(crate) fn bind(secret: &[u8; 32], who: Sr25519Keyring, genesis: Hash) -> RuntimeCall {
    let pair = ed25519::Pair::from_seed(secret);
    let key: OverlayKey = pair.public().0;
    let proof = pair.sign(&bind_payload(&genesis.0, &who.to_account_id(), &key, 0)).0;
    RuntimeCall::Reputation(pallet_reputation::Call::bind_peer { key, proof })
}

/// Records `times` times what came of something `who` did, as root.
pub(crate) fn record(who: Sr25519Keyring, outcome: Outcome, times: u16) -> RuntimeCall {
    let entries = vec![(who.to_account_id(), outcome, times)].try_into().unwrap();
    let call = RuntimeCall::Reputation(pallet_reputation::Call::record { entries });
    RuntimeCall::Sudo(pallet_sudo::Call::sudo { call: Box::new(call) })
}
