//! `relay_v1_*`: the shard service of this node, as relay, as origin, or both; and the relays of a
//! region.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use jsonrpsee::{Extensions, core::RpcResult, proc_macros::rpc};
use libp2p::{Multiaddr, multiaddr::Protocol};
use nsn_p2p::peers;
use nsn_relay::BlobId;
use nsn_runtime::AccountId;
use sc_rpc_api::check_if_safe;
use serde::{Deserialize, Serialize};

use super::{bad_argument, count, down, failed};
use crate::offchain::{Handles, directory::shard_multiaddr, region::find};

/// Relays that `relay_v1_find` answers with where the caller does not say how many, and at most.
const DEFAULT_RELAYS: usize = 8;
const MAX_RELAYS: usize = 32;

/// What `relay_v1_status` answers.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Where viewers reach the shard service, with `/p2p/`; empty until it listens.
    pub listen_addrs: Vec<String>,
    /// The region of this node; null if none is set and none was found yet.
    pub region: Option<Region>,
    /// Everything else.
    #[serde(flatten)]
    pub service: nsn_relay::Status,
}

/// The region of this node.
#[derive(Clone, Debug, Serialize)]
pub struct Region {
    /// Its name.
    pub name: String,
    /// Whether the operator named it; if not, it is that of the nearest super-node.
    pub set: bool,
    /// Whether the directory lists this node under it, so that viewers there find it.
    pub listed: bool,
}

/// A relay of a region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relay {
    /// The overlay PeerId, base58.
    pub peer_id: String,
    /// The account that answers for it, in SS58; null if the chain's state cannot be read just now.
    pub account: Option<AccountId>,
    /// Seeder component of the account's reputation, 0..=1000.
    pub seeder_score: u16,
    /// Its region, by its signed service record.
    pub region: String,
    /// Where it serves shards, by the same record, each with `/p2p/`.
    pub shard_addrs: Vec<String>,
    /// How busy it says it is, 0 idle to 255 full.
    pub load: u8,
}

/// What `relay_v1_explain` answers.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// What the cache knows of the blob.
    #[serde(flatten)]
    pub cache: nsn_relay::cache::Explanation,
    /// Whom it would be fetched from, the first in front.
    pub sources: Vec<nsn_relay::upstream::SourceView>,
}

/// The `relay_v1_*` methods.
#[rpc(server)]
pub trait RelayApi {
    /// The shard service of this node: addresses, region, cache, origin, viewers, fills.
    #[method(name = "relay_v1_status")]
    async fn status(&self) -> RpcResult<Status>;

    /// The relays of `region` (this node's own without it) that can be reached and that an account
    /// in good standing answers for, the one to try first in front, at most `limit` of them (8
    /// without it, 32 at most). None is an empty list. What was found is answered for ten seconds.
    #[method(name = "relay_v1_find")]
    async fn find(&self, region: Option<String>, limit: Option<u32>) -> RpcResult<Vec<Relay>>;

    /// Where this relay has a shard or a manifest, why it has it or gave it up, and whom it would
    /// fetch it from, the first in front. `blob` is its id. Asks the directory.
    #[method(name = "relay_v1_explain")]
    async fn explain(&self, blob: String) -> RpcResult<Explanation>;

    /// Keeps a blob that is in the cache from being evicted and from expiring, over restarts too,
    /// until it is unpinned or purged. Unsafe.
    #[method(name = "relay_v1_pin", with_extensions)]
    async fn pin(&self, blob: String) -> RpcResult<()>;

    /// Takes a pin back; false where there was none. Unsafe.
    #[method(name = "relay_v1_unpin", with_extensions)]
    async fn unpin(&self, blob: String) -> RpcResult<bool>;

    /// Removes a blob from the cache, pinned or not, and takes it from the directory; false where it
    /// was not held. It is fetched again when somebody asks for it. Unsafe.
    #[method(name = "relay_v1_purge", with_extensions)]
    async fn purge(&self, blob: String) -> RpcResult<bool>;

    /// Ends the shard service in good order and leaves the node running: it leaves the directory,
    /// tells its viewers where else to go, finishes what they are being sent, and serves nobody until
    /// the node is started again. Answers at once; `phase` of `relay_v1_status` goes to `draining`
    /// and then to `drained`. Unsafe.
    #[method(name = "relay_v1_drain", with_extensions)]
    async fn drain(&self) -> RpcResult<()>;
}

/// Answers the methods.
pub struct RelayRpc {
    offchain: Handles,
}

impl RelayRpc {
    /// Answers from `offchain`.
    pub fn new(offchain: Handles) -> Self {
        Self { offchain }
    }

    /// The shard service.
    fn service(&self) -> RpcResult<nsn_relay::Relay> {
        let running = self.offchain.relay.current();
        running.ok_or_else(|| down("shard service", "--super-node or --relay"))
    }

    /// The sockets that stand for `listening`: with an unspecified IP, loopback and whatever IPs the
    /// overlay listens on.
    async fn sockets(&self, listening: SocketAddr) -> Vec<SocketAddr> {
        if !listening.ip().is_unspecified() {
            return vec![listening];
        }
        let mut ips: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into()];
        if let Some(overlay) = self.offchain.overlay.current()
            && let Ok(status) = overlay.peers.status().await
        {
            ips.extend(status.listen_addrs.iter().filter_map(|addr| ip_of(addr)));
        }
        ips.retain(|ip| ip.is_ipv4() == listening.is_ipv4() && !ip.is_unspecified());
        let mut seen = std::collections::HashSet::new();
        ips.retain(|ip| seen.insert(*ip));
        ips.into_iter().map(|ip| SocketAddr::new(ip, listening.port())).collect()
    }

    /// The region that is asked for.
    fn region(&self, asked: Option<String>) -> RpcResult<peers::Region> {
        match asked {
            Some(asked) => asked.parse().map_err(bad_argument),
            None => self.offchain.region.name().ok_or_else(|| {
                bad_argument("this node is in no region (--region): say which one is asked for")
            }),
        }
    }
}

const NO_CACHE: &str = "this node caches nothing: it is a super-node and no relay (--relay)";

fn blob_id(blob: &str) -> RpcResult<BlobId> {
    blob.parse().map_err(bad_argument)
}

fn ip_of(addr: &str) -> Option<IpAddr> {
    match addr.parse::<Multiaddr>().ok()?.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

#[jsonrpsee::core::async_trait]
impl RelayApiServer for RelayRpc {
    async fn status(&self) -> RpcResult<Status> {
        let relay = self.service()?;
        let service = relay.status();
        let sockets = match relay.local_addr() {
            Some(listening) => self.sockets(listening).await,
            None => Vec::new(),
        };
        let peer = relay.peer_id();
        let listen_addrs = sockets
            .into_iter()
            .map(|socket| shard_multiaddr(socket).with(Protocol::P2p(peer)).to_string())
            .collect();
        let own = &self.offchain.region;
        let region = own.name().map(|name| Region {
            name: name.to_string(),
            set: own.is_set(),
            listed: own.is_listed(),
        });
        Ok(Status { listen_addrs, region, service })
    }

    async fn find(&self, region: Option<String>, limit: Option<u32>) -> RpcResult<Vec<Relay>> {
        let region = self.region(region)?;
        let limit = count(limit, DEFAULT_RELAYS, MAX_RELAYS).map_err(bad_argument)?;
        let found = self.offchain.relays.find(&region).await.map_err(|error| match error {
            find::FindError::Down => down("overlay", "--no-overlay"),
            find::FindError::Busy | find::FindError::Directory(_) => failed(error),
        })?;
        let relays = found.iter().take(limit).map(|relay| Relay {
            peer_id: relay.peer.to_string(),
            account: self.offchain.accounts.of(&relay.key),
            seeder_score: relay.seeder_score,
            region: region.to_string(),
            shard_addrs: relay
                .shard_addrs
                .iter()
                .map(|addr| addr.clone().with(Protocol::P2p(relay.peer)).to_string())
                .collect(),
            load: relay.load,
        });
        Ok(relays.collect())
    }

    async fn explain(&self, blob: String) -> RpcResult<Explanation> {
        let id = blob_id(&blob)?;
        let relay = self.service()?;
        let cache = relay.explain(id).ok_or_else(|| failed(NO_CACHE))?;
        Ok(Explanation { cache, sources: relay.sources(id).await })
    }

    async fn pin(&self, ext: &Extensions, blob: String) -> RpcResult<()> {
        check_if_safe(ext)?;
        self.service()?.pin(blob_id(&blob)?).await.map_err(failed)
    }

    async fn unpin(&self, ext: &Extensions, blob: String) -> RpcResult<bool> {
        check_if_safe(ext)?;
        Ok(self.service()?.unpin(blob_id(&blob)?).await)
    }

    async fn purge(&self, ext: &Extensions, blob: String) -> RpcResult<bool> {
        check_if_safe(ext)?;
        Ok(self.service()?.purge(blob_id(&blob)?).await)
    }

    async fn drain(&self, ext: &Extensions) -> RpcResult<()> {
        check_if_safe(ext)?;
        self.service()?.drain();
        Ok(())
    }
}
