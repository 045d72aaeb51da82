//! JSON-RPC: what every Substrate node answers, and three groups of our own.
//!
//! - `p2p_v1_*`: the overlay of this node ([`p2p`]).
//! - `relay_v1_*`: its shard service ([`relay`]).
//! - `content_v1_*`: publishing and finding content ([`content`]).
//!
//! They tell about *this node*. Facts of the chain, reputation among them, are runtime APIs, so that
//! any client library types them. Calls that change something or tell of peers' addresses or local
//! paths are unsafe-only (`--rpc-methods`). Where somebody serves shards is no such address: whoever
//! serves signs it into a record for everybody who asks, so that viewers come.

pub mod content;
pub mod p2p;
pub mod relay;

use std::sync::Arc;

use jsonrpsee::{
    RpcModule,
    types::{ErrorObject, ErrorObjectOwned},
};
use nsn_runtime::opaque::Block;
use sc_consensus_grandpa::{
    FinalityProofProvider, GrandpaJustificationStream, SharedAuthoritySet, SharedVoterState,
};
use sc_rpc::SubscriptionTaskExecutor;

use crate::{
    offchain,
    service::{Backend, Client, Pool},
};

/// Error codes of our groups, beside those of JSON-RPC itself.
pub mod code {
    /// The service that would answer is switched off, starting or restarting.
    pub const SERVICE_DOWN: i32 = -33_001;
    /// What was asked for cannot be had now; the message says why and whether to try again.
    pub const FAILED: i32 = -33_002;
    /// An argument is not what the method takes.
    pub const BAD_ARGUMENT: i32 = -33_003;
}

/// A call that cannot be answered because `service` is not running.
fn down(service: &str, switched_on_by: &str) -> ErrorObjectOwned {
    ErrorObject::owned(
        code::SERVICE_DOWN,
        format!(
            "the {service} is not running on this node: it is switched off ({switched_on_by}) or \
             (re)starting, which the node's log tells"
        ),
        None::<()>,
    )
}

/// A call that failed.
fn failed(error: impl std::fmt::Display) -> ErrorObjectOwned {
    ErrorObject::owned(code::FAILED, error.to_string(), None::<()>)
}

/// A call with a bad argument.
fn bad_argument(error: impl std::fmt::Display) -> ErrorObjectOwned {
    ErrorObject::owned(code::BAD_ARGUMENT, error.to_string(), None::<()>)
}

/// How many entries a caller gets who asks for `asked` of them: `default` without it, and never more
/// than `most`.
fn count(asked: Option<u32>, default: usize, most: usize) -> Result<usize, &'static str> {
    match asked {
        None => Ok(default.min(most)),
        Some(0) => Err("limit must be at least 1"),
        Some(asked) => Ok(usize::try_from(asked).unwrap_or(most).min(most)),
    }
}

/// What the GRANDPA methods need.
#[derive(Clone)]
pub struct Grandpa {
    authorities: SharedAuthoritySet<nsn_runtime::Hash, nsn_runtime::BlockNumber>,
    voter_state: SharedVoterState,
    justifications: GrandpaJustificationStream<Block>,
    proofs: Arc<FinalityProofProvider<Backend, Block>>,
}

impl Grandpa {
    /// Takes what it needs of the node's consensus.
    pub fn new(
        backend: &Arc<Backend>,
        link: &crate::service::GrandpaLink,
        voter_state: &SharedVoterState,
    ) -> Self {
        let authorities = link.shared_authority_set().clone();
        Self {
            proofs: FinalityProofProvider::new_for_service(
                backend.clone(),
                Some(authorities.clone()),
            ),
            authorities,
            voter_state: voter_state.clone(),
            justifications: link.justification_stream(),
        }
    }
}

/// What the methods answer from.
#[derive(Clone)]
pub struct Deps {
    /// The chain.
    pub client: Arc<Client>,
    /// The waiting transactions.
    pub pool: Arc<Pool>,
    /// The video network.
    pub offchain: offchain::Handles,
    /// Finality.
    pub grandpa: Grandpa,
}

/// All methods beside those that `sc-service` adds itself.
///
/// # Errors
/// When two groups claim one method name.
pub fn module(
    deps: &Deps,
    executor: SubscriptionTaskExecutor,
) -> Result<RpcModule<()>, Box<dyn std::error::Error + Send + Sync>> {
    use content::ContentApiServer;
    use p2p::P2pApiServer;
    use pallet_transaction_payment_rpc::{TransactionPayment, TransactionPaymentApiServer};
    use relay::RelayApiServer;
    use sc_consensus_grandpa_rpc::{Grandpa, GrandpaApiServer};
    use substrate_frame_rpc_system::{System, SystemApiServer};

    let Deps { client, pool, offchain, grandpa } = deps.clone();
    let mut module = RpcModule::new(());
    module.merge(System::new(client.clone(), pool).into_rpc())?;
    module.merge(TransactionPayment::new(client.clone()).into_rpc())?;
    module.merge(
        Grandpa::new(
            executor,
            grandpa.authorities,
            grandpa.voter_state,
            grandpa.justifications,
            grandpa.proofs,
        )
        .into_rpc(),
    )?;
    module.merge(p2p::P2p::new(offchain.clone()).into_rpc())?;
    module.merge(relay::RelayRpc::new(offchain.clone()).into_rpc())?;
    module.merge(content::Content::new(offchain).into_rpc())?;
    Ok(module)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_kept_below_the_most_and_above_zero() {
        assert_eq!(count(None, 8, 32), Ok(8));
        assert_eq!(count(Some(1), 8, 32), Ok(1));
        assert_eq!(count(Some(u32::MAX), 8, 32), Ok(32));
        assert!(count(Some(0), 8, 32).is_err());
    }
}
