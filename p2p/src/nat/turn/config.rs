//! Settings of TURN.

use crate::{BuildError, nat::config::Wait};
use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf, str::FromStr, time::Duration};
use thiserror::Error;

/// Most TURN servers.
const MAX_SERVERS: usize = 8;

/// Longest host: a DNS name has at most 253 characters, in brackets 255.
const MAX_HOST: usize = 255;

/// The port of TURN (RFC 8656, 21).
const PORT: u16 = 3478;

/// The longest lifetime that is asked for: RFC 8656 (7.2) lets servers give at most an hour.
const MAX_LIFETIME: Duration = Duration::from_secs(3600);

/// The least lifetime: it is renewed at half, and nothing is renewed more often than every 30 s.
pub(super) const MIN_LIFETIME: Duration = Duration::from_secs(60);

/// Most peers at the same time; a permission and two channels take 300 bytes.
const MAX_PEERS: usize = 512;

/// Longest queue in either direction.
const MAX_QUEUE: usize = 4096;

/// How TURN servers are used. Durations are written like `10s` or `5m`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Turn {
    /// When a server is asked for a relayed address. Default `needed`: while this node is not reached
    /// at an address of its own or of its router.
    pub enabled: Enabled,
    /// Servers, each `turn:host:port?transport=udp` or `tcp`, as RFC 7065 writes them; the port may
    /// be left out for 3478, the transport for UDP. At most 8. One is used at a time, the next where it
    /// fails. They carry this node's traffic, so none is asked that the operator did not name. Default
    /// none.
    pub servers: Vec<Server>,
    /// File with the user name in its first line and the password in its second, for all servers. At
    /// most 4 KiB. It is read for each allocation, so it may be changed under way. A node looks for it
    /// beside the file of its settings, unless it has a root. Default none, and then only servers that
    /// ask for neither can be used.
    pub credentials: Option<PathBuf>,
    /// Waits after each time a request is sent over UDP; with the last it has failed. Default 500 ms,
    /// 1 s, 2 s, 4 s (RFC 8489, 6.2.1).
    pub retransmit: Vec<Wait>,
    /// Longest time that an answer over TCP may take, and that connecting over TCP may take. Default 8
    /// s.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Longest time a server's name may take to resolve. Default 2 s.
    #[serde(with = "humantime_serde")]
    pub resolve_timeout: Duration,
    /// How often one server may send on to another. Default 2.
    pub redirects: usize,
    /// How long an allocation is asked for; it is renewed at half of what the server gives. Default 10
    /// min; 1 min to 1 h.
    #[serde(with = "humantime_serde")]
    pub lifetime: Duration,
    /// Silence over UDP after which the server is sent a word, so that NATs on the way to it keep
    /// their mapping. Default 20 s.
    #[serde(with = "humantime_serde")]
    pub keep_alive: Duration,
    /// Wait after all servers have failed, doubled with each time. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub retry: Duration,
    /// Longest such wait. Default 10 min.
    #[serde(with = "humantime_serde")]
    pub retry_max: Duration,
    /// How long giving the allocation back may take at shutdown. Default 1 s.
    #[serde(with = "humantime_serde")]
    pub release_timeout: Duration,
    /// Addresses that may send to this node over the relay at the same time. Default 64. Worst case:
    /// 64 * 300 bytes = 19 KB.
    pub max_peers: usize,
    /// How long a permission or a channel is renewed that carries nothing. Default 5 min.
    #[serde(with = "humantime_serde")]
    pub idle: Duration,
    /// Datagrams that wait in either direction; beyond it those that come are dropped, and those that
    /// go wait in QUIC. Default 256. Worst case: 2 * 256 * 2 KiB = 1 MiB.
    pub queue: usize,
    /// How connections over circuits come to go over TURN.
    pub upgrade: Upgrade,
}

/// How two peers that are connected over a circuit agree on a TURN server's address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Upgrade {
    /// How long a peer is connected over circuits alone until TURN is tried: before that, a hole may be
    /// punched. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub after: Duration,
    /// Longest time a peer may take to answer, and longest time from there to a connection. Default 10
    /// s.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Wait until a peer is asked again with which it failed, doubled with each time. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub retry: Duration,
    /// Longest such wait. Default 10 min.
    #[serde(with = "humantime_serde")]
    pub retry_max: Duration,
    /// Peers with which it is tried at the same time, asked by them or by this node. Default 16. Worst
    /// case: 16 * 1 KiB.
    pub max_attempts: usize,
    /// Requests of others that are answered a minute, of all together. Default 60.
    pub per_minute: u32,
    /// Requests that are answered a minute, of one peer. Default 6.
    pub peer_per_minute: u32,
    /// Peers that are remembered, those connected over circuits and those that asked. Default 256. Worst
    /// case: 256 * 300 bytes = 77 KB.
    pub max_peers: usize,
}

/// When a server is asked for a relayed address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Enabled {
    /// While this node is not reached at an address of its own or of its router.
    #[default]
    Needed,
    /// As long as it runs.
    Always,
    /// Never.
    Never,
}

/// How a TURN server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Carrier {
    /// Each message is a datagram.
    Udp,
    /// Messages follow each other on one stream.
    Tcp,
}

impl Carrier {
    /// As a URI has it, and metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// A TURN server as an operator names it: `turn:host:port?transport=udp` (RFC 7065).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Server {
    /// A name, or an address; that of IPv6 in brackets.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) carrier: Carrier,
}

/// Why a text names no TURN server.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ServerError {
    /// Another scheme, or none.
    #[error("{0:?} does not begin with turn: (TLS to the server, turns:, is not supported)")]
    Scheme(String),
    /// A host that is none.
    #[error("{0:?} has no host, or one of more than 255 characters")]
    Host(String),
    /// A port that is none.
    #[error("{0:?} has no port from 1 to 65535")]
    Port(String),
    /// A transport that is neither UDP nor TCP, or another parameter.
    #[error("{0:?} has another parameter than transport=udp or transport=tcp")]
    Transport(String),
}

impl FromStr for Server {
    type Err = ServerError;

    fn from_str(text: &str) -> Result<Self, ServerError> {
        let own = || text.to_owned();
        let rest = text.strip_prefix("turn:").ok_or_else(|| ServerError::Scheme(own()))?;
        let (place, carrier) = match rest.split_once('?') {
            None => (rest, Carrier::Udp),
            Some((place, "transport=udp")) => (place, Carrier::Udp),
            Some((place, "transport=tcp")) => (place, Carrier::Tcp),
            Some(_) => return Err(ServerError::Transport(own())),
        };
        // An address of IPv6 has colons of its own, within brackets.
        let colon = place.rfind(':').filter(|at| place.rfind(']').is_none_or(|end| end < *at));
        let (host, port) = match colon.and_then(|at| place.split_at_checked(at)) {
            None => (place, PORT),
            Some((host, port)) => {
                let port = port.trim_start_matches(':').parse().ok().filter(|port| *port != 0);
                (host, port.ok_or_else(|| ServerError::Port(own()))?)
            }
        };
        let bare = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
        let is_host = !host.is_empty()
            && host.len() <= MAX_HOST
            && match bare {
                Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
                None => host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
            };
        if !is_host {
            return Err(ServerError::Host(own()));
        }
        Ok(Self { host: host.to_owned(), port, carrier })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "turn:{}:{}?transport={}", self.host, self.port, self.carrier.label())
    }
}

impl TryFrom<String> for Server {
    type Error = ServerError;

    fn try_from(text: String) -> Result<Self, ServerError> {
        text.parse()
    }
}

impl From<Server> for String {
    fn from(server: Server) -> Self {
        server.to_string()
    }
}

impl Default for Turn {
    fn default() -> Self {
        Self {
            enabled: Enabled::Needed,
            servers: Vec::new(),
            credentials: None,
            retransmit: [500, 1000, 2000, 4000].map(|ms| Wait(Duration::from_millis(ms))).to_vec(),
            timeout: Duration::from_secs(8),
            resolve_timeout: Duration::from_secs(2),
            redirects: 2,
            lifetime: Duration::from_secs(600),
            keep_alive: Duration::from_secs(20),
            retry: Duration::from_secs(10),
            retry_max: Duration::from_secs(600),
            release_timeout: Duration::from_secs(1),
            max_peers: 64,
            idle: Duration::from_secs(300),
            queue: 256,
            upgrade: Upgrade::default(),
        }
    }
}

impl Default for Upgrade {
    fn default() -> Self {
        Self {
            after: Duration::from_secs(5),
            timeout: Duration::from_secs(10),
            retry: Duration::from_secs(30),
            retry_max: Duration::from_secs(600),
            max_attempts: 16,
            per_minute: 60,
            peer_per_minute: 6,
            max_peers: 256,
        }
    }
}

impl Turn {
    pub(in crate::nat) fn validate(&self) -> Result<(), BuildError> {
        let fail = |setting, problem: &str| {
            Err(BuildError::Setting { setting, problem: problem.to_owned() })
        };
        for (setting, value) in [
            ("nat.turn.timeout", self.timeout),
            ("nat.turn.resolve_timeout", self.resolve_timeout),
            ("nat.turn.keep_alive", self.keep_alive),
            ("nat.turn.retry", self.retry),
            ("nat.turn.release_timeout", self.release_timeout),
            ("nat.turn.idle", self.idle),
            ("nat.turn.upgrade.timeout", self.upgrade.timeout),
            ("nat.turn.upgrade.retry", self.upgrade.retry),
        ] {
            if value.is_zero() {
                return fail(setting, "must be above zero");
            }
        }
        if self.servers.len() > MAX_SERVERS {
            return fail("nat.turn.servers", "must be at most 8");
        }
        let fit = |wait: &Wait| !wait.is_zero() && **wait <= Duration::from_secs(10);
        if self.retransmit.is_empty()
            || self.retransmit.len() > 8
            || !self.retransmit.iter().all(fit)
        {
            return fail("nat.turn.retransmit", "must be 1 to 8 waits of at most 10 s");
        }
        if self.redirects > 8 {
            return fail("nat.turn.redirects", "must be at most 8");
        }
        if self.lifetime < MIN_LIFETIME || self.lifetime > MAX_LIFETIME {
            return fail("nat.turn.lifetime", "must be 1 minute to 1 hour");
        }
        if self.retry_max < self.retry {
            return fail("nat.turn.retry_max", "must be at least nat.turn.retry");
        }
        if self.max_peers == 0 || self.max_peers > MAX_PEERS {
            return fail("nat.turn.max_peers", "must be 1 to 512");
        }
        if self.queue == 0 || self.queue > MAX_QUEUE {
            return fail("nat.turn.queue", "must be 1 to 4096");
        }
        if self.upgrade.retry_max < self.upgrade.retry {
            return fail("nat.turn.upgrade.retry_max", "must be at least nat.turn.upgrade.retry");
        }
        if self.upgrade.max_attempts == 0 || self.upgrade.max_attempts > self.max_peers {
            return fail("nat.turn.upgrade.max_attempts", "must be 1 to nat.turn.max_peers");
        }
        if self.upgrade.max_peers < self.upgrade.max_attempts {
            let problem = "must be at least nat.turn.upgrade.max_attempts";
            return fail("nat.turn.upgrade.max_peers", problem);
        }
        if self.upgrade.per_minute == 0 || self.upgrade.peer_per_minute == 0 {
            return fail("nat.turn.upgrade.per_minute", "must be above zero");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn servers_are_read_as_rfc_7065_writes_them() {
        for (text, host, port, carrier) in [
            ("turn:turn.example", "turn.example", 3478, Carrier::Udp),
            ("turn:turn.example:80?transport=tcp", "turn.example", 80, Carrier::Tcp),
            ("turn:9.8.7.6:1?transport=udp", "9.8.7.6", 1, Carrier::Udp),
            ("turn:[2606::1]", "[2606::1]", 3478, Carrier::Udp),
            ("turn:[2606::1]:5349?transport=tcp", "[2606::1]", 5349, Carrier::Tcp),
        ] {
            let wanted = Server { host: host.to_owned(), port, carrier };
            assert_eq!(text.parse(), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn what_names_no_server_is_told_apart() {
        let read = |text: &str| text.parse::<Server>().unwrap_err();
        assert!(matches!(read("turns:a.org"), ServerError::Scheme(_)));
        assert!(matches!(read("a.org:3478"), ServerError::Scheme(_)));
        assert!(matches!(read("turn:"), ServerError::Host(_)));
        assert!(matches!(read("turn:[::x]:1"), ServerError::Host(_)));
        assert!(matches!(read("turn:a b:1"), ServerError::Host(_)));
        assert!(matches!(read("turn:user@a.org:1"), ServerError::Host(_)));
        assert!(matches!(read("turn:a.org:0"), ServerError::Port(_)));
        assert!(matches!(read("turn:a.org:70000"), ServerError::Port(_)));
        assert!(matches!(read("turn:a.org?transport=sctp"), ServerError::Transport(_)));
    }

    #[test]
    fn the_default_is_valid_and_survives_toml() {
        let mut config = Turn::default();
        config.validate().unwrap();
        config.servers = vec!["turn:turn.example:3478?transport=tcp".parse().unwrap()];
        config.credentials = Some("turn.secret".into());
        let text = toml::to_string(&config).unwrap();
        assert!(text.contains("\"turn:turn.example:3478?transport=tcp\""), "{text}");
        assert_eq!(toml::from_str::<Turn>(&text).unwrap(), config);
        let wrong = toml::from_str::<Turn>("servers = [\"stun:a.org\"]").unwrap_err();
        assert!(wrong.to_string().contains("turn:"), "{wrong}");
    }

    #[test]
    fn what_cannot_work_is_named() {
        let problem = |change: fn(&mut Turn)| {
            let mut config = Turn::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        for (change, setting) in [
            ((|c| c.lifetime = Duration::from_secs(59)) as fn(&mut Turn), "nat.turn.lifetime"),
            (|c| c.retransmit = vec![], "nat.turn.retransmit"),
            (|c| c.queue = 0, "nat.turn.queue"),
            (|c| c.upgrade.max_attempts = 65, "nat.turn.upgrade.max_attempts"),
            (|c| c.retry_max = Duration::from_secs(1), "nat.turn.retry_max"),
        ] {
            let text = problem(change);
            assert!(text.contains(setting), "{text}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_written_so_that_it_reads_the_same(text in ".{0,40}") {
            for text in [text.clone(), format!("turn:{text}")] {
                if let Ok(server) = text.parse::<Server>() {
                    prop_assert_eq!(server.to_string().parse(), Ok(server));
                }
            }
        }
    }
}
