//! Settings of reachability.

use super::{TurnConfig, relay, strategies};
use crate::{AddressPolicy, BuildError};
use serde::{Deserialize, Serialize};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::Deref,
    time::Duration,
};

/// Most STUN servers.
const MAX_SERVERS: usize = 16;

/// Longest name of a STUN server with its port: a DNS name has at most 253 characters.
const MAX_SERVER_NAME: usize = 260;

/// Most candidates; one takes about 600 bytes.
const MAX_CANDIDATES: usize = 1024;

/// How reachability is found out. Durations are written like `10s` or `5m`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Most addresses that are tried and told, beside those listened on and given by the operator;
    /// beyond it the one that fewest peers speak for leaves, and one that works never does. Default
    /// 32. Worst case: 32 * 600 bytes = 19 KB.
    pub max_candidates: usize,
    /// How often an address that works is dialled back again. Default 5 min.
    #[serde(with = "humantime_serde")]
    pub retest: Duration,
    /// How soon an address is tried again that could not be reached, or about which nobody could
    /// say anything. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub retry: Duration,
    /// Longest time one dial-back may take. Default 15 s.
    #[serde(with = "humantime_serde")]
    pub test_timeout: Duration,
    /// Dial-backs asked for at the same time. Default 4.
    pub max_tests: usize,
    /// Dial-backs that fail in a row until an address is withdrawn, each by another peer as long as
    /// there are others. Default 2.
    pub withdraw_after: u32,
    /// How long an address is still told that this node has reason to doubt, because its network or
    /// its public address changed. A dial-back within this time keeps it. Default 20 s.
    #[serde(with = "humantime_serde")]
    pub prove_within: Duration,
    /// How long an address is told after the last dial-back that reached it. Default 15 min, more
    /// than `retest`.
    #[serde(with = "humantime_serde")]
    pub proof_lasts: Duration,
    /// How long what a peer says of this node's address counts. Default 10 min.
    #[serde(with = "humantime_serde")]
    pub observed_lasts: Duration,
    /// How long a node without any connection waits until it takes itself for offline. Default 30
    /// s.
    #[serde(with = "humantime_serde")]
    pub offline_after: Duration,
    /// Dial-backs of others.
    pub server: Server,
    /// STUN.
    pub stun: Stun,
    /// Port mapping on the router.
    pub mapping: Mapping,
    /// How others are reached.
    pub strategies: strategies::Config,
    /// Circuit relays.
    pub relay: relay::Config,
    /// TURN servers.
    pub turn: TurnConfig,
}

/// What this node does for others that want to know whether they can be reached: AutoNAT v2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Whether it dials back at all. Default on.
    pub enabled: bool,
    /// Dial-backs a minute, for all peers together. Default 60.
    pub per_minute: u32,
    /// Dial-backs a minute, for one peer. Default 12.
    pub peer_per_minute: u32,
    /// Peers whose rate is remembered, those that asked longest ago leaving first. Default 1,024.
    /// Worst case: 1,024 * 150 bytes = 150 KB.
    pub max_peers: usize,
    /// Dial-backs under way. Default 16, at most 128.
    pub max_dials: usize,
}

/// STUN (RFC 8489, RFC 5780).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stun {
    /// Servers, each `host:port`. At most 16; two at different addresses are enough to tell what
    /// kind of NAT there is. They learn this node's address, so none is asked that the operator did
    /// not name. Default none.
    pub servers: Vec<String>,
    /// Waits after each time a question is sent; with the last it has failed. Default 250 ms, 500
    /// ms, 1 s.
    pub retransmit: Vec<Wait>,
    /// How often the public address is asked for. Default 20 s.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
    /// How often it is found out what kind of NAT there is. Default 30 min.
    #[serde(with = "humantime_serde")]
    pub discover_every: Duration,
    /// How often one server may send on to another in one round. Default 2.
    pub redirects: usize,
    /// Longest time a server's name may take to resolve. Default 2 s.
    #[serde(with = "humantime_serde")]
    pub resolve_timeout: Duration,
}

/// Port mapping on the router: UPnP IGD, PCP (RFC 6887) and NAT-PMP (RFC 6886).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mapping {
    /// Whether the router is asked to map the ports that are listened on. Default `auto`: where
    /// `address_policy` is `global`.
    pub enabled: When,
    /// Whether UPnP is tried. Default on.
    pub upnp: bool,
    /// Whether PCP is tried, and NAT-PMP where the router knows no PCP. Default on.
    pub pcp: bool,
    /// The router. Default none: as the routing table says.
    pub gateway: Option<IpAddr>,
    /// Where UPnP routers are looked for. Default `239.255.255.250:1900`.
    pub upnp_search: SocketAddr,
    /// Longest time one call of a router may take. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// How long a mapping is asked for; it is renewed at half of what the router gives. Default 1
    /// h, at least 2 min.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// Wait after a mapping was refused, doubled with each time. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub retry: Duration,
    /// Longest such wait. Default 30 min.
    #[serde(with = "humantime_serde")]
    pub retry_max: Duration,
    /// How long the removal of all mappings may take at shutdown. Default 1 s.
    #[serde(with = "humantime_serde")]
    pub remove_timeout: Duration,
    /// Ports that are mapped, the first that are listened on. Default 8. Worst case: each by two
    /// protocols, 16 mappings of 300 bytes, and 16 calls that read at most 64 KiB each: 1 MB.
    pub max_ports: usize,
}

/// When something is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// Where `address_policy` is `global`, and not on dev and local chains.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

impl When {
    pub(crate) fn applies(self, policy: AddressPolicy) -> bool {
        match self {
            Self::Auto => policy == AddressPolicy::Global,
            Self::On => true,
            Self::Off => false,
        }
    }
}

/// A duration in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Wait(#[serde(with = "humantime_serde")] pub Duration);

impl Deref for Wait {
    type Target = Duration;

    fn deref(&self) -> &Duration {
        &self.0
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_candidates: 32,
            retest: Duration::from_secs(300),
            retry: Duration::from_secs(10),
            test_timeout: Duration::from_secs(15),
            max_tests: 4,
            withdraw_after: 2,
            prove_within: Duration::from_secs(20),
            proof_lasts: Duration::from_secs(900),
            observed_lasts: Duration::from_secs(600),
            offline_after: Duration::from_secs(30),
            server: Server::default(),
            stun: Stun::default(),
            mapping: Mapping::default(),
            strategies: strategies::Config::default(),
            relay: relay::Config::default(),
            turn: TurnConfig::default(),
        }
    }
}

impl Default for Server {
    fn default() -> Self {
        Self { enabled: true, per_minute: 60, peer_per_minute: 12, max_peers: 1024, max_dials: 16 }
    }
}

impl Default for Stun {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            retransmit: [250, 500, 1000].map(|ms| Wait(Duration::from_millis(ms))).to_vec(),
            every: Duration::from_secs(20),
            discover_every: Duration::from_secs(1800),
            redirects: 2,
            resolve_timeout: Duration::from_secs(2),
        }
    }
}

impl Default for Mapping {
    fn default() -> Self {
        Self {
            enabled: When::Auto,
            upnp: true,
            pcp: true,
            gateway: None,
            upnp_search: (Ipv4Addr::new(239, 255, 255, 250), 1900).into(),
            timeout: Duration::from_secs(5),
            lease: Duration::from_secs(3600),
            retry: Duration::from_secs(30),
            retry_max: Duration::from_secs(1800),
            remove_timeout: Duration::from_secs(1),
            max_ports: 8,
        }
    }
}

/// The least lease: it is renewed at half, and a router may be slow.
const MIN_LEASE: Duration = Duration::from_secs(120);

/// The longest lease: PCP counts seconds in 32 bits, and nobody wants a mapping for weeks.
const MAX_LEASE: Duration = Duration::from_secs(7 * 86_400);

impl Config {
    pub(crate) fn validate(&self) -> Result<(), BuildError> {
        let fail = |setting, problem: &str| {
            Err(BuildError::Setting { setting, problem: problem.to_owned() })
        };
        for (setting, value) in [
            ("nat.retest", self.retest),
            ("nat.retry", self.retry),
            ("nat.test_timeout", self.test_timeout),
            ("nat.prove_within", self.prove_within),
            ("nat.observed_lasts", self.observed_lasts),
            ("nat.stun.every", self.stun.every),
            ("nat.stun.resolve_timeout", self.stun.resolve_timeout),
            ("nat.mapping.timeout", self.mapping.timeout),
            ("nat.mapping.retry", self.mapping.retry),
            ("nat.mapping.remove_timeout", self.mapping.remove_timeout),
        ] {
            if value.is_zero() {
                return fail(setting, "must be above zero");
            }
        }
        for (setting, value) in [
            ("nat.max_tests", self.max_tests),
            ("nat.server.max_peers", self.server.max_peers),
            ("nat.server.max_dials", self.server.max_dials),
            ("nat.mapping.max_ports", self.mapping.max_ports),
        ] {
            if value == 0 {
                return fail(setting, "must be above zero");
            }
        }
        if self.max_candidates == 0 || self.max_candidates > MAX_CANDIDATES {
            return fail("nat.max_candidates", "must be 1 to 1024");
        }
        if self.withdraw_after == 0 {
            return fail("nat.withdraw_after", "must be above zero");
        }
        if self.server.per_minute == 0 || self.server.peer_per_minute == 0 {
            return fail("nat.server.per_minute", "must be above zero; enabled = false dials none");
        }
        if self.server.max_dials > 128 {
            return fail("nat.server.max_dials", "must be at most 128");
        }
        if self.proof_lasts <= self.retest {
            return fail("nat.proof_lasts", "must be more than nat.retest");
        }
        self.stun.validate()?;
        self.strategies.validate()?;
        self.relay.validate()?;
        self.turn.validate()?;
        let Mapping { lease, retry, retry_max, max_ports, .. } = self.mapping;
        if lease < MIN_LEASE || lease > MAX_LEASE {
            return fail("nat.mapping.lease", "must be 2 minutes to 7 days");
        }
        if retry_max < retry {
            return fail("nat.mapping.retry_max", "must be at least nat.mapping.retry");
        }
        if max_ports > 64 {
            return fail("nat.mapping.max_ports", "must be at most 64");
        }
        Ok(())
    }
}

impl Stun {
    fn validate(&self) -> Result<(), BuildError> {
        let fail = |setting, problem: String| Err(BuildError::Setting { setting, problem });
        if self.servers.len() > MAX_SERVERS {
            return fail("nat.stun.servers", format!("there are more than {MAX_SERVERS}"));
        }
        let no_server = |name: &&String| {
            let port = name.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            name.len() > MAX_SERVER_NAME || port.is_none_or(|port| port == 0)
        };
        if let Some(bad) = self.servers.iter().find(no_server) {
            return fail("nat.stun.servers", format!("{bad:?} is not host:port"));
        }
        let waits = &self.retransmit;
        let fit = |wait: &Wait| !wait.is_zero() && **wait <= Duration::from_secs(10);
        if waits.is_empty() || waits.len() > 8 || !waits.iter().all(fit) {
            return fail("nat.stun.retransmit", "must be 1 to 8 waits of at most 10 s".to_owned());
        }
        if self.redirects > 8 {
            return fail("nat.stun.redirects", "must be at most 8".to_owned());
        }
        if self.discover_every < self.every {
            let problem = "must be at least nat.stun.every".to_owned();
            return fail("nat.stun.discover_every", problem);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::default();
        change(&mut config);
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn the_default_is_valid_and_survives_toml() {
        let mut config = Config::default();
        config.validate().unwrap();
        config.stun.servers = vec!["stun.example:3478".to_owned(), "[2606::1]:3478".to_owned()];
        config.validate().unwrap();
        let text = toml::to_string(&config).unwrap();
        assert!(text.contains("retransmit = [\"250ms\", \"500ms\", \"1s\"]"), "{text}");
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), config);
    }

    #[test]
    fn what_cannot_work_is_named() {
        let bad = problem(|c| c.stun.servers = vec!["stun.example".to_owned()]);
        assert!(bad.contains("nat.stun.servers") && bad.contains("host:port"), "{bad}");
        let bad = problem(|c| c.stun.servers = vec!["a:1".to_owned(); 17]);
        assert!(bad.contains("more than 16"), "{bad}");
        let bad = problem(|c| c.stun.retransmit = vec![]);
        assert!(bad.contains("nat.stun.retransmit"), "{bad}");
        let bad = problem(|c| c.proof_lasts = c.retest);
        assert!(bad.contains("nat.proof_lasts"), "{bad}");
        let bad = problem(|c| c.mapping.lease = Duration::from_secs(60));
        assert!(bad.contains("nat.mapping.lease"), "{bad}");
        let bad = problem(|c| c.max_candidates = 0);
        assert!(bad.contains("nat.max_candidates"), "{bad}");
    }
}
