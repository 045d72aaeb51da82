//! Whose a session key is: what a proof of misbehaviour has to show.
//!
//! [`historical`] keeps a root of the keys of each session, made when the session was planned, and a
//! proof is a path to it. For the *running* session it makes the root anew, from the keys that are
//! set at the moment, which are not those that are in use: keys that are set now are used from the
//! session after next. A validator that sets new keys could so misbehave by its old ones until then,
//! and nobody could prove whose they are. Here the keys in use are kept beside.

use alloc::vec::Vec;
use core::marker::PhantomData;

use frame_support::{storage::with_transaction, traits::KeyOwnerProofSystem};
use pallet_session::historical::{self, IdentificationTuple};
use sp_runtime::{
    DispatchError, KeyTypeId, TransactionOutcome,
    traits::{Convert, OpaqueKeys},
};
use sp_session::{GetSessionNumber, GetValidatorCount, MembershipProof};

use crate::{ActiveKeys, Config, Pallet};

/// Proves whose a session key is, and checks such proofs, for the running session and for those
/// kept.
pub struct Owners<T>(PhantomData<T>);

impl<T: Config, D: AsRef<[u8]>> KeyOwnerProofSystem<(KeyTypeId, D)> for Owners<T> {
    type IdentificationTuple = IdentificationTuple<T>;
    type Proof = MembershipProof;

    /// A proof for the running session; it stays valid when that is over. To be called off-chain,
    /// since it costs a trie of all keys.
    fn prove(key: (KeyTypeId, D)) -> Option<MembershipProof> {
        // The trie is made from the keys that are set, so set those in use, for as long as it takes.
        with_transaction(|| {
            for (validator, keys) in ActiveKeys::<T>::get() {
                pallet_session::NextKeys::<T>::insert(validator, keys);
            }
            let proof = <historical::Pallet<T> as KeyOwnerProofSystem<_>>::prove(key);
            TransactionOutcome::Rollback(Ok::<_, DispatchError>(proof))
        })
        .ok()?
    }

    fn check_proof(
        (id, key): (KeyTypeId, D),
        proof: MembershipProof,
    ) -> Option<Self::IdentificationTuple> {
        let active = ActiveKeys::<T>::get();
        let running = proof.session() == pallet_session::CurrentIndex::<T>::get();
        // There are none yet where this pallet was upgraded in the running session.
        if !running || active.is_empty() {
            return <historical::Pallet<T> as KeyOwnerProofSystem<_>>::check_proof(
                (id, key),
                proof,
            );
        }
        // What a report costs is counted by the number of validators that its proof names.
        if usize::try_from(proof.validator_count()) != Ok(active.len()) {
            return None;
        }
        let (owner, _) = active.into_iter().find(|(_, keys)| keys.get_raw(id) == key.as_ref())?;
        let full = T::FullIdentificationOf::convert(owner.clone())?;
        Some((owner, full))
    }
}

impl<T: Config> Pallet<T> {
    /// Keeps the keys of the session that begins: those that were queued for it.
    pub(crate) fn keep_active_keys() {
        let keys: Vec<(T::AccountId, T::Keys)> = pallet_session::QueuedKeys::<T>::get();
        ActiveKeys::<T>::put(keys);
    }
}
