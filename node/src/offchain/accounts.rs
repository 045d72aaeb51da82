//! Which account answers for an overlay key.

use std::sync::Arc;

use codec::Decode as _;
use nsn_p2p::OverlayKey;
use nsn_runtime::{AccountId, Runtime};
use sc_client_api::StorageProvider as _;
use sp_blockchain::HeaderBackend as _;
use sp_core::storage::StorageKey;

use crate::service::Client;

/// Reads bindings from the chain's state. Cheap to clone.
#[derive(Clone)]
pub struct Accounts(Arc<Client>);

impl Accounts {
    /// Of the chain of `client`.
    pub(super) fn new(client: Arc<Client>) -> Self {
        Self(client)
    }

    /// The account that a key is bound to at the finalised block; `None` also where that state cannot
    /// be read just now. One read of the database.
    pub fn of(&self, key: &OverlayKey) -> Option<AccountId> {
        let at = self.0.info().finalized_hash;
        let place = StorageKey(pallet_reputation::Bound::<Runtime>::hashed_key_for(key));
        let bound = self.0.storage(at, &place).ok()??;
        let bound =
            pallet_reputation::BindingOf::<Runtime>::decode(&mut bound.0.as_slice()).ok()?;
        Some(bound.account)
    }
}
