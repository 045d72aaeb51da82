//! Configuration of the overlay. Each domain owns its part.

use crate::{
    AddressPolicy, BuildError, Multiaddr, bootstrap, connections, dht, gossip, nat, peers,
};
use libp2p::multiaddr::Protocol;
use serde::{Deserialize, Serialize};
use std::{path::PathBuf, time::Duration};

/// The overlay's settings. Durations are written like `10s` or `12h`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Addresses to listen on. Default `/ip4/0.0.0.0/udp/9000/quic-v1` and `/ip4/0.0.0.0/tcp/9000`.
    pub listen: Vec<Multiaddr>,
    /// Addresses under which others reach this node, where it cannot find them out itself: behind a
    /// router that forwards a port, say. They are told whatever dial-backs say. Addresses it
    /// listens on count by themselves if `address_policy` allows them, until dial-backs fail; what
    /// a router maps or peers see counts once it was dialled back. A node without any takes no part
    /// in serving the directory. Default none.
    pub public_addrs: Vec<Multiaddr>,
    /// Which addresses are dialled and kept. Default `global`; `any` on dev and local chains.
    pub address_policy: AddressPolicy,
    /// Agent version told to peers. Default `nsn-node/<version>`.
    pub agent: String,
    /// Folder for what the overlay keeps over a restart: known peers, bans, the directory. Made if
    /// it is not there. Without one, a restart begins with nothing. The node sets it to `overlay`
    /// under its base path.
    #[serde(skip)]
    pub dir: Option<PathBuf>,
    /// Period of the driver's housekeeping: scores, expiry, retries. Default 1 s.
    #[serde(with = "humantime_serde")]
    pub tick: Duration,
    /// How long shutdown may take, closing all connections included. Closing one takes at most half
    /// of it, at any time. Default 2 s.
    #[serde(with = "humantime_serde")]
    pub close_timeout: Duration,
    /// Commands that may wait in the channel of the peers and in that of reachability, and in that
    /// of the directory unless `dht.max_waiting` is more; beyond it a call answers `Busy`. Default
    /// 1,024. Worst case 1,024 * 1 KiB = 1 MiB each. (Gossip commands hold payloads and have a
    /// queue of their own, `gossip.publish_queue`.)
    pub command_queue: usize,
    /// Gossip.
    pub gossip: gossip::Config,
    /// The directory.
    pub dht: dht::Config,
    /// Connections and service records.
    pub peers: peers::Config,
    /// Who is let in.
    pub admission: connections::Config,
    /// Finding the first peers.
    pub bootstrap: bootstrap::Config,
    /// Being reached from outside.
    pub nat: nat::Config,
}

impl Default for Config {
    fn default() -> Self {
        let any = Protocol::Ip4(std::net::Ipv4Addr::UNSPECIFIED);
        let quic =
            Multiaddr::empty().with(any.clone()).with(Protocol::Udp(9000)).with(Protocol::QuicV1);
        let tcp = Multiaddr::empty().with(any).with(Protocol::Tcp(9000));
        Self {
            listen: vec![quic, tcp],
            public_addrs: Vec::new(),
            address_policy: AddressPolicy::Global,
            agent: concat!("nsn-node/", env!("CARGO_PKG_VERSION")).to_owned(),
            dir: None,
            tick: Duration::from_secs(1),
            close_timeout: Duration::from_secs(2),
            command_queue: 1024,
            gossip: gossip::Config::default(),
            dht: dht::Config::default(),
            peers: peers::Config::default(),
            admission: connections::Config::default(),
            bootstrap: bootstrap::Config::default(),
            nat: nat::Config::default(),
        }
    }
}

impl Config {
    /// Checks what types cannot say. [`build`](crate::build) does it too; whoever wants to refuse
    /// bad settings before anything starts calls it first.
    ///
    /// # Errors
    /// Names the first setting that makes no sense, and what would.
    pub fn validate(&self) -> Result<(), BuildError> {
        let positive = |setting, value: usize| {
            if value == 0 {
                Err(BuildError::Setting { setting, problem: "must be above zero".to_owned() })
            } else {
                Ok(())
            }
        };
        positive("listen", self.listen.len())?;
        positive("command_queue", self.command_queue)?;
        if self.tick.is_zero() {
            return Err(BuildError::Setting {
                setting: "tick",
                problem: "must be above zero".to_owned(),
            });
        }
        if let Some(bad) = self.public_addrs.iter().find(|a| !self.address_policy.allows(a)) {
            return Err(BuildError::Setting {
                setting: "public_addrs",
                problem: format!("{bad} is not an address that others may dial on this chain"),
            });
        }
        self.gossip.validate()?;
        self.dht.validate()?;
        self.peers.validate()?;
        self.admission.validate()?;
        self.bootstrap.validate()?;
        self.nat.validate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid() {
        Config::default().validate().unwrap();
    }

    #[test]
    fn it_is_written_and_read_as_toml() {
        let mut config = Config { address_policy: AddressPolicy::Any, ..Config::default() };
        let peer = crate::identity::peer_id_of(&[1; 32]).unwrap();
        let bootnode = "/dns/boot.example/tcp/9000".parse::<Multiaddr>().unwrap();
        config.bootstrap.bootnodes = vec![bootnode.with(Protocol::P2p(peer))];
        let text = toml::to_string(&config).unwrap();
        assert!(text.contains("query_timeout = \"10s\""), "{text}");
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), config);
        assert_eq!(toml::from_str::<Config>("").unwrap(), Config::default());
        let error = toml::from_str::<Config>("[gossip]\nmesh_size = 3\n").unwrap_err();
        assert!(error.to_string().contains("mesh_size"), "{error}");
    }

    #[test]
    fn a_private_public_address_is_refused_on_a_public_network() {
        let config = Config {
            public_addrs: vec!["/ip4/10.0.0.1/tcp/9000".parse().unwrap()],
            ..Config::default()
        };
        let text = config.validate().unwrap_err().to_string();
        assert!(text.contains("public_addrs") && text.contains("10.0.0.1"), "{text}");
        Config { address_policy: AddressPolicy::Any, ..config }.validate().unwrap();
    }

    #[test]
    fn what_would_make_answers_too_long_or_records_too_old_is_refused() {
        let mut config = Config::default();
        config.dht.store.addresses = 3;
        let text = config.validate().unwrap_err().to_string();
        assert!(text.contains("dht.store.addresses"), "{text}");
        let mut config = Config::default();
        config.peers.service_max_age = Duration::MAX;
        let text = config.validate().unwrap_err().to_string();
        assert!(text.contains("peers.service_max_age"), "{text}");
    }

    #[test]
    fn a_bootnode_without_a_peer_is_refused() {
        let mut config = Config::default();
        config.bootstrap.bootnodes = vec!["/ip4/8.8.8.8/tcp/9000".parse().unwrap()];
        let text = config.validate().unwrap_err().to_string();
        assert!(text.contains("bootstrap.bootnodes") && text.contains("/p2p/"), "{text}");
    }
}
