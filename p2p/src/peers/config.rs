//! Settings of connections and service records.

use super::{book, breaker};
use crate::BuildError;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Settings of connections and service records. Durations are written like `10s` or `5m`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Most connections; a part is kept for outbound ones, see `admission.outbound_reserve`.
    /// Default 256.
    pub max_connections: usize,
    /// Most connections to one peer. Default 2.
    pub max_per_peer: usize,
    /// Most inbound connections that are still shaking hands, half of them for known sources.
    /// Default 64.
    pub max_pending_inbound: usize,
    /// How long a connection that nothing uses is kept. Streams use it, and so does a place that is
    /// held at a relay; two nodes that gossip have streams for it as long as they are connected.
    /// Default 60 s.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// How long the service record of this node is valid; it is signed anew at half of it. Default
    /// 10 min.
    #[serde(with = "humantime_serde")]
    pub service_lifetime: Duration,
    /// Longest time asking a peer for its service record takes, finding and dialling it included.
    /// Default 10 s.
    #[serde(with = "humantime_serde")]
    pub service_timeout: Duration,
    /// How long the service record of another is used before the peer is asked for it again; load
    /// and addresses change more often than a record expires. Zero asks every time. Default 60 s.
    #[serde(with = "humantime_serde")]
    pub service_max_age: Duration,
    /// The same for a record that names no shard address: its peer may just not know yet where it is
    /// reached, and is reached over the overlay until then. At most `service_max_age`. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub service_max_age_without_address: Duration,
    /// Service records of others that are kept until they expire, the least recently used leaving
    /// first. Default 10,000. Worst case: 10,000 * 4 KiB = 40 MB; a usual record takes 500 bytes.
    pub service_cache: usize,
    /// Peers asked for their service record at the same time. Default 256.
    pub max_service_lookups: usize,
    /// Callers that wait for service records. Default 1,024.
    pub max_service_waiting: usize,
    /// Calls to connect that are under way. Default 64.
    pub max_connecting: usize,
    /// Most dials of one IP (IPv6 by /64) in a minute, each address of a peer being one. Bootnodes
    /// given by IP are exempt. Default 10, and no limit where `address_policy` is `any`.
    pub dials_per_ip: Option<u32>,
    /// How long peers that could not be reached are left alone.
    pub breaker: breaker::Config,
    /// Peers that are remembered, over a restart too.
    pub book: book::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_connections: 256,
            max_per_peer: 2,
            max_pending_inbound: 64,
            idle_timeout: Duration::from_secs(60),
            service_lifetime: Duration::from_secs(600),
            service_timeout: Duration::from_secs(10),
            service_max_age: Duration::from_secs(60),
            service_max_age_without_address: Duration::from_secs(10),
            service_cache: 10_000,
            max_service_lookups: 256,
            max_service_waiting: 1024,
            max_connecting: 64,
            dials_per_ip: None,
            breaker: breaker::Config::default(),
            book: book::Config::default(),
        }
    }
}

impl Config {
    pub(crate) fn validate(&self) -> Result<(), BuildError> {
        let fail = |setting, problem: &str| {
            Err(BuildError::Setting { setting, problem: problem.to_owned() })
        };
        for (setting, value) in [
            ("peers.max_connections", self.max_connections),
            ("peers.max_per_peer", self.max_per_peer),
            ("peers.max_pending_inbound", self.max_pending_inbound),
            ("peers.service_cache", self.service_cache),
            ("peers.max_service_lookups", self.max_service_lookups),
            ("peers.max_service_waiting", self.max_service_waiting),
            ("peers.max_connecting", self.max_connecting),
        ] {
            if value == 0 {
                return fail(setting, "must be above zero");
            }
        }
        let max = super::record::MAX_LIFETIME;
        if self.service_lifetime < Duration::from_secs(2) || self.service_lifetime > max {
            return fail("peers.service_lifetime", "must be 2s to 24h");
        }
        if self.service_max_age > max {
            return fail("peers.service_max_age", "must be at most 24h");
        }
        if self.dials_per_ip == Some(0) {
            return fail("peers.dials_per_ip", "must be above zero");
        }
        self.breaker.validate()?;
        self.book.validate()
    }
}
