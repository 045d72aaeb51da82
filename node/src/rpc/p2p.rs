//! `p2p_v1_*`: the overlay of this node.

mod topics;

use std::{sync::Arc, time::Duration};

use jsonrpsee::{
    Extensions, PendingSubscriptionSink,
    core::{RpcResult, SubscriptionResult},
    proc_macros::rpc,
};
use nsn_p2p::{
    Overlay, OverlayKey, PeerId,
    connections::{self, BanError, BanTarget},
    dht, gossip, identity, nat, peers,
};
use pallet_reputation_runtime_api::Scores;
use sc_rpc_api::check_if_safe;
use serde::Serialize;
use sp_core::Bytes;
use tokio::sync::Mutex;

use super::{bad_argument, down, failed};
use crate::offchain::{Handles, chain_view};
pub use topics::TopicMessage;
use topics::Topics;

/// What `p2p_v1_status` answers.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Identity, addresses, connections, topics.
    #[serde(flatten)]
    pub overlay: peers::Status,
    /// The directory: what is provided, held and looked up.
    pub directory: dht::Status,
}

/// What `p2p_v1_peer` answers.
#[derive(Clone, Debug, Serialize)]
pub struct Peer {
    /// Its connection, what the book has kept of it, and whether it is left alone.
    #[serde(flatten)]
    pub known: peers::KnownPeer,
    /// The ban in force against it; null if there is none. Bans of addresses are in `p2p_v1_bans`.
    pub ban: Option<connections::Ban>,
    /// Why it is scored so, in numbers and in words.
    pub gossip: gossip::PeerScore,
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
    /// This node in the overlay: PeerId, addresses, connected peers, connections refused by reason,
    /// topics, directory.
    #[method(name = "p2p_v1_status")]
    async fn status(&self) -> RpcResult<Status>;

    /// The directory as this node sees it: what it provides and how far that is announced, what it
    /// holds for others, and what it looks up.
    #[method(name = "p2p_v1_dhtStatus")]
    async fn dht_status(&self) -> RpcResult<dht::Status>;

    /// How this node can be reached from outside and how sure that is: state, kind of NAT, its
    /// addresses with their standing, the router's mappings and how asking for them ended, the STUN
    /// servers' last answers, the relays that hold a place for it and how many are wanted, what it
    /// carries for others, and how each connected peer is connected (`direct`, `punched` or `relayed`).
    #[method(name = "p2p_v1_natStatus")]
    async fn nat_status(&self) -> RpcResult<nat::Status>;

    /// The connected peers, each with its reputation (absent for one that no account answers for)
    /// and gossip score. Tells addresses, so unsafe.
    #[method(name = "p2p_v1_peers", with_extensions)]
    async fn peers(&self) -> RpcResult<Vec<peers::PeerView>>;

    /// All that this node knows of one peer (a PeerId, or an overlay key in hexadecimal), connected or
    /// not: connection, book, failing dials, the last attempts to reach it, ban, and why it is scored
    /// so, in words. Tells addresses, so unsafe.
    #[method(name = "p2p_v1_peer", with_extensions)]
    async fn peer(&self, peer: String) -> RpcResult<Peer>;

    /// The peers whose dials failed of late, each with how often, why, and when it is tried again.
    /// Unsafe.
    #[method(name = "p2p_v1_breakers", with_extensions)]
    async fn breakers(&self) -> RpcResult<Vec<peers::BreakerView>>;

    /// The reputation that this node goes by, at its finalised and its best block: block, revision,
    /// number of bound keys, and a digest of them all by which nodes can be compared. With `peer` (a
    /// PeerId, or an overlay key in hexadecimal), that peer's scores too.
    #[method(name = "p2p_v1_reputation")]
    async fn reputation(&self, peer: Option<String>) -> RpcResult<Reputation>;

    /// Signs `payload` (`0x` and hexadecimal digits; at most 1 MiB, 16 MiB on `video`) with this
    /// node's overlay key and sends it to the peers that listen to `topic` (a short name as `tasks`,
    /// or the one on the wire). Answers null once it is in their queues, which is no promise of
    /// delivery. Speaks in this node's name, so unsafe.
    #[method(name = "p2p_v1_publish", with_extensions)]
    async fn publish(&self, topic: String, payload: Bytes) -> RpcResult<()>;

    /// Shuts out `target`, a PeerId or an IP address (an IPv6 address stands for its /64): its
    /// connections are closed at once, and it is neither let in nor dialled, over restarts too, for
    /// `seconds` or for good. `reason` is kept with it, at most 200 bytes. Takes the place of an
    /// earlier ban of the same target; answers the ban as it is in force. Unsafe.
    #[method(name = "p2p_v1_ban", with_extensions)]
    async fn ban(
        &self,
        target: String,
        seconds: Option<u64>,
        reason: Option<String>,
    ) -> RpcResult<connections::Ban>;

    /// Lifts a ban, and answers it. Unsafe.
    #[method(name = "p2p_v1_unban", with_extensions)]
    async fn unban(&self, target: String) -> RpcResult<connections::Ban>;

    /// The bans in force, the oldest first. Tells addresses, so unsafe.
    #[method(name = "p2p_v1_bans", with_extensions)]
    async fn bans(&self) -> RpcResult<Vec<connections::Ban>>;

    /// The messages that others publish on `topic` from now on and that pass validation: for
    /// programs whose payloads the node itself does not read. Who reads too slowly misses the oldest
    /// ones (all but the last 256, or 16 of `video`) and is told how many. At most 32 at a time on
    /// the whole node.
    #[subscription(
        name = "p2p_v1_subscribe" => "p2p_v1_message",
        unsubscribe = "p2p_v1_unsubscribe",
        item = TopicMessage
    )]
    async fn subscribe(&self, topic: String) -> SubscriptionResult;
}

/// Answers the methods.
pub struct P2p {
    offchain: Handles,
    /// Held while a digest is worked out: one at a time, since anybody may ask for it.
    digesting: Arc<Mutex<()>>,
    topics: Topics,
}

impl P2p {
    /// Answers from `offchain`.
    pub fn new(offchain: Handles) -> Self {
        Self { offchain, digesting: Arc::default(), topics: Topics::default() }
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

    async fn dht_status(&self) -> RpcResult<dht::Status> {
        self.overlay()?.dht.status().await.map_err(failed)
    }

    async fn nat_status(&self) -> RpcResult<nat::Status> {
        self.overlay()?.nat.status().await.map_err(failed)
    }

    async fn peers(&self, ext: &Extensions) -> RpcResult<Vec<peers::PeerView>> {
        check_if_safe(ext)?;
        self.overlay()?.peers.list().await.map_err(failed)
    }

    async fn peer(&self, ext: &Extensions, peer: String) -> RpcResult<Peer> {
        check_if_safe(ext)?;
        let id = peer_id(&peer).map_err(bad_argument)?;
        let Overlay { gossip, peers, .. } = self.overlay()?;
        let bans = peers.bans().await.map_err(failed)?;
        Ok(Peer {
            known: peers.known(id).await.map_err(failed)?,
            ban: bans.into_iter().find(|ban| ban.target == BanTarget::Peer(id)),
            gossip: gossip.peer(id).await.map_err(failed)?,
        })
    }

    async fn breakers(&self, ext: &Extensions) -> RpcResult<Vec<peers::BreakerView>> {
        check_if_safe(ext)?;
        self.overlay()?.peers.breakers().await.map_err(failed)
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

    async fn publish(&self, ext: &Extensions, topic: String, payload: Bytes) -> RpcResult<()> {
        check_if_safe(ext)?;
        let topic = topic.parse().map_err(bad_argument)?;
        Ok(topics::publish(&self.overlay()?.gossip, topic, payload.0).await?)
    }

    async fn ban(
        &self,
        ext: &Extensions,
        target: String,
        seconds: Option<u64>,
        reason: Option<String>,
    ) -> RpcResult<connections::Ban> {
        check_if_safe(ext)?;
        let target = target.parse().map_err(bad_argument)?;
        let duration = seconds.map(Duration::from_secs);
        let banned = self.overlay()?.peers.ban(target, duration, reason.unwrap_or_default()).await;
        banned.map_err(|error| match error {
            BanError::Reason | BanError::Duration | BanError::OwnKey => bad_argument(error),
            BanError::Full | BanError::Busy | BanError::Closed(_) => failed(error),
        })
    }

    async fn unban(&self, ext: &Extensions, target: String) -> RpcResult<connections::Ban> {
        check_if_safe(ext)?;
        let target = target.parse().map_err(bad_argument)?;
        self.overlay()?.peers.unban(target).await.map_err(failed)
    }

    async fn bans(&self, ext: &Extensions) -> RpcResult<Vec<connections::Ban>> {
        check_if_safe(ext)?;
        self.overlay()?.peers.bans().await.map_err(failed)
    }

    async fn subscribe(
        &self,
        pending: PendingSubscriptionSink,
        topic: String,
    ) -> SubscriptionResult {
        let asked = topic.parse().map_err(bad_argument).and_then(|topic| {
            let heard = self.overlay()?.gossip.subscribe(topic).map_err(failed)?;
            Ok((heard, self.topics.place()?))
        });
        match asked {
            Ok((heard, place)) => topics::hand_on(pending, heard, place).await,
            Err(error) => pending.reject(error).await,
        }
        Ok(())
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

/// The PeerId that `peer` names, as [`overlay_key`] reads it.
fn peer_id(peer: &str) -> Result<PeerId, String> {
    let key = overlay_key(peer)?;
    identity::peer_id_of(&key).ok_or_else(|| format!("{peer:?} is no ed25519 key"))
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
        assert_eq!(peer_id(&hex::encode(key)), Ok(peer.peer_id()));
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
