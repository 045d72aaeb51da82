//! `relay_v1_*`: the shard service of this node, as relay, as origin, or both.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use jsonrpsee::{core::RpcResult, proc_macros::rpc};
use libp2p::{Multiaddr, multiaddr::Protocol};
use serde::Serialize;

use super::down;
use crate::offchain::{Handles, directory::shard_multiaddr};

/// What `relay_v1_status` answers.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Where viewers reach the shard service, with `/p2p/`; empty until it listens.
    pub listen_addrs: Vec<String>,
    /// Everything else.
    #[serde(flatten)]
    pub service: nsn_relay::Status,
}

/// The `relay_v1_*` methods.
#[rpc(server)]
pub trait RelayApi {
    /// The shard service of this node: addresses, cache, origin, viewers, fills.
    #[method(name = "relay_v1_status")]
    async fn status(&self) -> RpcResult<Status>;
}

/// Answers the methods.
pub struct Relay {
    offchain: Handles,
}

impl Relay {
    /// Answers from `offchain`.
    pub fn new(offchain: Handles) -> Self {
        Self { offchain }
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
}

fn ip_of(addr: &str) -> Option<IpAddr> {
    match addr.parse::<Multiaddr>().ok()?.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

#[jsonrpsee::core::async_trait]
impl RelayApiServer for Relay {
    async fn status(&self) -> RpcResult<Status> {
        let relay = self
            .offchain
            .relay
            .current()
            .ok_or_else(|| down("shard service", "--super-node or --relay"))?;
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
        Ok(Status { listen_addrs, service })
    }
}
