//! Settings of finding the first peers.

use crate::{BuildError, Multiaddr, PeerId};
use libp2p::multiaddr::Protocol;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Most bootnode addresses.
const MAX_BOOTNODES: usize = 64;

/// Most peers of the book that are dialled at the same time: each may have four addresses.
const MAX_BOOK_DIALS: usize = 256;

/// Settings of finding the first peers. Durations are written like `10s`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Addresses of peers to begin with, each ending in `/p2p/<PeerId>`; several of one peer are
    /// tried together. At most 64. They are dialled whatever the address policy says. Default none.
    pub bootnodes: Vec<Multiaddr>,
    /// Bootnodes are dialled while fewer peers than this are connected. Default 4.
    pub min_peers: usize,
    /// Wait after dialling a bootnode, doubled with each time it does not connect. Default 1 s.
    #[serde(with = "humantime_serde")]
    pub retry_base: Duration,
    /// Longest such wait. Default 60 s.
    #[serde(with = "humantime_serde")]
    pub retry_max: Duration,
    /// Peers of the peer book that are dialled at the same time while fewer than `min_peers` are
    /// connected; zero dials none. Default 8.
    pub book_dials: usize,
    /// How long after it was dialled from the book a peer is dialled from there again. Default 60 s.
    #[serde(with = "humantime_serde")]
    pub book_retry: Duration,
    /// How often the directory is asked for more peers while fewer than `min_peers` are connected.
    /// Default 10 s.
    #[serde(with = "humantime_serde")]
    pub ask_every: Duration,
    /// Look for peers in the local network by mDNS; where that is not possible, one warning says so.
    /// Default off; for dev chains.
    pub mdns: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bootnodes: Vec::new(),
            min_peers: 4,
            retry_base: Duration::from_secs(1),
            retry_max: Duration::from_secs(60),
            book_dials: 8,
            book_retry: Duration::from_secs(60),
            ask_every: Duration::from_secs(10),
            mdns: false,
        }
    }
}

impl Config {
    pub(crate) fn validate(&self) -> Result<(), BuildError> {
        let fail = |setting, problem: String| Err(BuildError::Setting { setting, problem });
        if let Some(bad) = self.bootnodes.iter().find(|a| peer_of(a).is_none()) {
            let problem = format!("{bad} does not end in /p2p/<PeerId>");
            return fail("bootstrap.bootnodes", problem);
        }
        if self.bootnodes.len() > MAX_BOOTNODES {
            let problem = format!("there are more than {MAX_BOOTNODES} addresses");
            return fail("bootstrap.bootnodes", problem);
        }
        if self.book_dials > MAX_BOOK_DIALS {
            let problem = format!("must be at most {MAX_BOOK_DIALS}");
            return fail("bootstrap.book_dials", problem);
        }
        if self.ask_every.is_zero() {
            return fail("bootstrap.ask_every", "must be above zero".to_owned());
        }
        if self.retry_base.is_zero() || self.retry_base > self.retry_max {
            let problem = "must be above zero and at most retry_max".to_owned();
            return fail("bootstrap.retry_base", problem);
        }
        Ok(())
    }

    /// The bootnodes with all their addresses, in the order first named.
    pub(crate) fn nodes(&self) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let mut nodes: Vec<(PeerId, Vec<Multiaddr>)> = Vec::new();
        for addr in &self.bootnodes {
            let Some(peer) = peer_of(addr) else { continue };
            match nodes.iter_mut().find(|(known, _)| *known == peer) {
                Some((_, addrs)) => addrs.push(addr.clone()),
                None => nodes.push((peer, vec![addr.clone()])),
            }
        }
        nodes
    }
}

fn peer_of(addr: &Multiaddr) -> Option<PeerId> {
    match addr.iter().last()? {
        Protocol::P2p(peer) => Some(peer),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::peer_id_of;

    #[test]
    fn addresses_of_one_peer_belong_together() {
        let addr = |text: &str, n: u8| {
            let peer = peer_id_of(&[n; 32]).unwrap();
            text.parse::<Multiaddr>().unwrap().with(Protocol::P2p(peer))
        };
        let config = Config {
            bootnodes: vec![
                addr("/ip4/1.1.1.1/tcp/1", 1),
                addr("/ip4/2.2.2.2/tcp/1", 2),
                addr("/ip4/1.1.1.1/udp/1/quic-v1", 1),
            ],
            ..Config::default()
        };
        config.validate().unwrap();
        let nodes = config.nodes();
        assert_eq!(nodes.len(), 2);
        assert_eq!(nodes[0].1.len(), 2);
    }
}
