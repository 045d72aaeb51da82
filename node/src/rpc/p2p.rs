//! `p2p_v1_*`: the overlay of this node.

use std::sync::Arc;

use jsonrpsee::{Extensions, core::RpcResult, proc_macros::rpc};
use nsn_p2p::{Overlay, OverlayKey, PeerId, dht, identity, peers};
use pallet_reputation_runtime_api::Scores;
use sc_rpc_api::check_if_safe;
use serde::Serialize;
use tokio::sync::Mutex;

use super::{bad_argument, down, failed};
use crate::offchain::{Handles, chain_view};

/// What `p2p_v1_status` answers.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Identity, addresses, connections, topics.
    #[serde(flatten)]
    pub overlay: peers::Status,
    /// The directory: what is provided, held and looked up.
    pub directory: dht::Status,
}

/// What `p2p_v1_reputation` answers.
#[derive(Clone, Debug, Serialize)]
pub struct Reputation {
    /// At the finalised block: what penalties act on.
    pub finalized: ReputationAt,
    /// At the best block: what hints are taken from.
    pub best: ReputationAt,
}

/// What the node goes by at one block. Two nodes at the same block say the same.
#[derive(Clone, Debug, Serialize)]
pub struct ReputationAt {
    /// Height of the block.
    pub number: u32,
    /// Hash of the block, `0x` and 64 hexadecimal digits.
    pub hash: String,
    /// The reputation revision of the block's state.
    pub revision: u64,
    /// The block's day, by which scores decay.
    pub day: u16,
    /// Overlay keys that an account answers for.
    pub peers: usize,
    /// BLAKE3 over the SCALE encoding of all of them (key and what was earned, 44 bytes each) in the
    /// order of their keys, 64 hexadecimal digits.
    pub digest: String,
    /// The peer that was asked for, if one was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<PeerReputation>,
}

/// A peer as the node sees it at one block.
#[derive(Clone, Debug, Serialize)]
pub struct PeerReputation {
    /// Its overlay key, 64 hexadecimal digits.
    pub key: String,
    /// What its scores are worth on the block's day; null if no account answers for the key.
    pub scores: Option<Scores>,
    /// The scores weighed to one number, 0..=1000; null likewise.
    pub total: Option<u16>,
    /// Whether the scores graylist it.
    pub graylisted: bool,
}

impl ReputationAt {
    /// Blocks while the digest is worked out, which is once for each content.
    fn of(view: &chain_view::View, key: Option<&OverlayKey>) -> Self {
        Self {
            number: view.block.number,
            hash: format!("{:?}", view.block.hash),
            revision: view.revision,
            day: view.day,
            peers: view.bound(),
            digest: hex::encode(view.digest()),
            peer: key.map(|key| PeerReputation::of(key, view.scores(key))),
        }
    }
}

impl PeerReputation {
    fn of(key: &OverlayKey, scores: Option<Scores>) -> Self {
        Self {
            key: hex::encode(key),
            scores,
            total: scores.map(|scores| scores.total()),
            graylisted: scores.is_some_and(|scores| scores.graylisted()),
        }
    }
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

    /// The reputation that this node goes by, at its finalised and its best block: block, revision,
    /// number of bound keys, and a digest of them all by which nodes can be compared. With `peer` (a
    /// PeerId, or an overlay key in hexadecimal), that peer's scores too.
    #[method(name = "p2p_v1_reputation")]
    async fn reputation(&self, peer: Option<String>) -> RpcResult<Reputation>;
}

/// Answers the methods.
pub struct P2p {
    offchain: Handles,
    /// Held while a digest is worked out: one at a time, since anybody may ask for it.
    digesting: Arc<Mutex<()>>,
}

impl P2p {
    /// Answers from `offchain`.
    pub fn new(offchain: Handles) -> Self {
        Self { offchain, digesting: Arc::default() }
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

    async fn reputation(&self, peer: Option<String>) -> RpcResult<Reputation> {
        let key = peer.map(|peer| overlay_key(&peer)).transpose().map_err(bad_argument)?;
        // Goes into the task: that goes on even if the caller leaves. The snapshot is taken after
        // it, so that those who wait hold none.
        let turn = self.digesting.clone().lock_owned().await;
        let snapshot = self.offchain.chain.snapshot();
        let answer = move || {
            let [finalized, best] = [&snapshot.finalized, &snapshot.best]
                .map(|view| ReputationAt::of(view, key.as_ref()));
            drop(turn);
            Reputation { finalized, best }
        };
        tokio::task::spawn_blocking(answer).await.map_err(failed)
    }
}

/// The overlay key that `peer` names: a PeerId or 64 hexadecimal digits, with or without `0x`.
fn overlay_key(peer: &str) -> Result<OverlayKey, String> {
    let mut key = OverlayKey::default();
    if hex::decode_to_slice(peer.strip_prefix("0x").unwrap_or(peer), &mut key).is_ok() {
        return Ok(key);
    }
    let id: PeerId = peer
        .parse()
        .map_err(|_| format!("{peer:?} is neither a PeerId nor a key of 64 hexadecimal digits"))?;
    identity::key_of(&id).ok_or_else(|| format!("{id} has no ed25519 key, as overlay peers have"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_named_by_id_or_key() {
        let peer = identity::Identity::from_secret([1; 32]).unwrap();
        let key = peer.key();
        assert_eq!(overlay_key(&peer.peer_id().to_string()), Ok(key));
        assert_eq!(overlay_key(&hex::encode(key)), Ok(key));
        assert_eq!(overlay_key(&format!("0x{}", hex::encode(key))), Ok(key));
    }

    #[test]
    fn what_names_no_peer_is_told() {
        for bad in ["", "0x", "12D3Koo", &"ab".repeat(33), &PeerId::random().to_string()] {
            assert!(overlay_key(bad).unwrap_err().contains(bad), "{bad}");
        }
    }

    #[test]
    fn a_key_that_nobody_answers_for_has_no_scores() {
        let unbound = PeerReputation::of(&[1; 32], None);
        assert_eq!((unbound.scores, unbound.total, unbound.graylisted), (None, None, false));
        let slashed = Scores { seeder: 100, ..Scores::default() };
        let slashed = PeerReputation::of(&[1; 32], Some(slashed));
        assert_eq!((slashed.total, slashed.graylisted), (Some(420), true));
    }
}
