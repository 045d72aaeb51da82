//! `p2p_v1_*`: the overlay of this node.

use jsonrpsee::{Extensions, core::RpcResult, proc_macros::rpc};
use nsn_p2p::{Overlay, dht, peers};
use sc_rpc_api::check_if_safe;
use serde::Serialize;

use super::{down, failed};
use crate::offchain::Handles;

/// What `p2p_v1_status` answers.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Identity, addresses, connections, topics.
    #[serde(flatten)]
    pub overlay: peers::Status,
    /// The directory: what is provided, held and looked up.
    pub directory: dht::Status,
}

/// The `p2p_v1_*` methods.
#[rpc(server)]
pub trait P2pApi {
    /// This node in the overlay: PeerId, addresses, connected peers, topics, directory.
    #[method(name = "p2p_v1_status")]
    async fn status(&self) -> RpcResult<Status>;

    /// The connected peers, each with its reputation (absent for one that no account answers for)
    /// and gossip score. Tells addresses, so unsafe.
    #[method(name = "p2p_v1_peers", with_extensions)]
    async fn peers(&self) -> RpcResult<Vec<peers::PeerView>>;
}

/// Answers the methods.
pub struct P2p {
    offchain: Handles,
}

impl P2p {
    /// Answers from `offchain`.
    pub fn new(offchain: Handles) -> Self {
        Self { offchain }
    }

    fn overlay(&self) -> RpcResult<Overlay> {
        self.offchain.overlay.current().ok_or_else(|| down("overlay", "--no-overlay"))
    }
}

#[jsonrpsee::core::async_trait]
impl P2pApiServer for P2p {
    async fn status(&self) -> RpcResult<Status> {
        let Overlay { dht, peers, .. } = self.overlay()?;
        let overlay = peers.status().await.map_err(failed)?;
        let directory = dht.status().await.map_err(failed)?;
        Ok(Status { overlay, directory })
    }

    async fn peers(&self, ext: &Extensions) -> RpcResult<Vec<peers::PeerView>> {
        check_if_safe(ext)?;
        self.overlay()?.peers.list().await.map_err(failed)
    }
}
