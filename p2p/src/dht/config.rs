//! Settings of the directory.

use super::store::{self, Limits};
use crate::BuildError;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Directory settings. Durations are written like `10s` or `12h`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Longest time a lookup takes. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub query_timeout: Duration,
    /// Longest time one peer may take within a lookup. Default 3 s.
    #[serde(with = "humantime_serde")]
    pub peer_timeout: Duration,
    /// Peers asked at the same time within a lookup. Default 6.
    pub parallelism: usize,
    /// Peers that a record is placed on, and peers in a bucket. Default 20, the k of Kademlia.
    pub replication: usize,
    /// Lookups for providers in flight. Default 256.
    pub max_queries: usize,
    /// Callers that wait, for lookups in flight or for their turn; beyond it a call answers `Busy`.
    /// Default 1,024. Worst case with the lookups: 1,280 * 64 providers * 80 bytes = 7 MB.
    pub max_waiting: usize,
    /// Most providers one lookup gathers. Default 64.
    pub max_providers: usize,
    /// How long a provider record lives. Default 24 h.
    #[serde(with = "humantime_serde")]
    pub record_ttl: Duration,
    /// How long after an announcement it is renewed. Default 12 h.
    #[serde(with = "humantime_serde")]
    pub renew_after: Duration,
    /// Most keys this node provides. Default 100,000. Worst case: 100,000 * 400 bytes = 40 MB.
    pub max_provided: usize,
    /// Announcements in flight. Default 8.
    pub announce_parallelism: usize,
    /// Wait after a failed announcement, doubled with each failure. Default 2 s.
    #[serde(with = "humantime_serde")]
    pub retry_base: Duration,
    /// Longest such wait. Default 5 min.
    #[serde(with = "humantime_serde")]
    pub retry_max: Duration,
    /// How often the routing table is refreshed. Default 5 min.
    #[serde(with = "humantime_serde")]
    pub refresh: Duration,
    /// Most peers of one network (IPv4 /16, IPv6 /32) in a bucket of the routing table. Default 2,
    /// and no limit where `address_policy` is `any`.
    pub max_group_in_bucket: Option<usize>,
    /// Most peers of one network in the whole routing table. Default 10, and no limit where
    /// `address_policy` is `any`.
    pub max_group_in_table: Option<usize>,
    /// Bounds of the records held for others.
    pub store: Limits,
}

impl Default for Config {
    fn default() -> Self {
        const HOUR: u64 = 3600;
        Self {
            query_timeout: Duration::from_secs(10),
            peer_timeout: Duration::from_secs(3),
            parallelism: 6,
            replication: 20,
            max_queries: 256,
            max_waiting: 1024,
            max_providers: 64,
            record_ttl: Duration::from_secs(24 * HOUR),
            renew_after: Duration::from_secs(12 * HOUR),
            max_provided: 100_000,
            announce_parallelism: 8,
            retry_base: Duration::from_secs(2),
            retry_max: Duration::from_secs(300),
            refresh: Duration::from_secs(300),
            max_group_in_bucket: None,
            max_group_in_table: None,
            store: Limits::default(),
        }
    }
}

impl Config {
    pub(crate) fn validate(&self) -> Result<(), BuildError> {
        let fail = |setting, problem: &str| {
            Err(BuildError::Setting { setting, problem: problem.to_owned() })
        };
        for (setting, value) in [
            ("dht.parallelism", self.parallelism),
            ("dht.max_queries", self.max_queries),
            ("dht.max_waiting", self.max_waiting),
            ("dht.max_providers", self.max_providers),
            ("dht.max_provided", self.max_provided),
            ("dht.announce_parallelism", self.announce_parallelism),
        ] {
            if value == 0 {
                return fail(setting, "must be above zero");
            }
        }
        if !(1..=20).contains(&self.replication) {
            return fail("dht.replication", "must be 1 to 20");
        }
        if self.max_group_in_bucket == Some(0) {
            return fail("dht.max_group_in_bucket", "must be above zero");
        }
        if self.max_group_in_table == Some(0) {
            return fail("dht.max_group_in_table", "must be above zero");
        }
        if self.renew_after >= self.record_ttl || self.renew_after.is_zero() {
            return fail("dht.renew_after", "must be above zero and below record_ttl");
        }
        if self.retry_base.is_zero() || self.retry_base > self.retry_max {
            return fail("dht.retry_base", "must be above zero and at most retry_max");
        }
        if self.store.addresses > store::MAX_ADDRESSES {
            return fail("dht.store.addresses", "must be at most 2");
        }
        if self.peer_timeout > self.query_timeout {
            return fail("dht.peer_timeout", "must be at most query_timeout");
        }
        Ok(())
    }
}
