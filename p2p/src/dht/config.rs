//! Settings of the directory.

use super::{lookup::MAX_PATHS, routing, store::Limits, sweep};
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
    /// Longest time one peer may take within a lookup. Default 3 s. An answer is *late* after less:
    /// after the time that answers took of late and four times their deviation (RFC 6298). A late
    /// answer still counts, and in the meantime another peer is asked.
    #[serde(with = "humantime_serde")]
    pub peer_timeout: Duration,
    /// Longest time a batch of records to one peer may take, dialling included. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub tell_timeout: Duration,
    /// Shortest time after which an answer is late. Default 100 ms.
    #[serde(with = "humantime_serde")]
    pub min_patience: Duration,
    /// Peers asked at the same time within a lookup. Default 6.
    pub parallelism: usize,
    /// Disjoint paths of a lookup for providers, at most 8: no peer is asked on two, so that one that
    /// lies leads a part of the lookup astray. Default 3.
    pub lookup_paths: usize,
    /// Most peers of one network (IPv4 /16, IPv6 /32) that count among the nearest to a key. Default
    /// 2, and no limit where `address_policy` is `any`.
    pub max_group_in_lookup: Option<usize>,
    /// Questions to other peers in flight. Default 1,024. Worst case with 320 bytes of four addresses
    /// each, and 16 KiB of each answer while it is read: 19 MB.
    pub max_questions: usize,
    /// Peers dialled at the same time in order to ask them. Default 128, of 1 KB each.
    pub max_dials: usize,
    /// Streams on one connection that carry questions at the same time, at most 32, which is as many
    /// as the other side serves. Default 8.
    pub streams_per_connection: usize,
    /// How long a stream is kept for the next question. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub stream_idle: Duration,
    /// Peers that a record is placed on, and peers in a bucket. Default 20, the k of Kademlia.
    pub replication: usize,
    /// Lookups in flight that callers wait for. Default 256. Worst case 256 * 240 KB = 62 MB, while
    /// every peer that is asked lies; 256 * 20 KB = 5 MB otherwise.
    pub max_queries: usize,
    /// Callers that wait, for lookups in flight or for their turn; beyond it a call answers `Busy`.
    /// Default 8,192. Worst case: 8,192 * 500 bytes = 4 MB, and as many commands of 100 bytes on
    /// their way to the driver.
    pub max_waiting: usize,
    /// Answers remembered, the least recently used leaving first; 0 remembers none. Default 4,096.
    /// Worst case: 4,096 * (64 providers * 32 + 200 bytes) = 9 MB.
    pub cache: usize,
    /// How long it is remembered what a lookup has found. Default 60 s.
    #[serde(with = "humantime_serde")]
    pub cache_found: Duration,
    /// How long it is remembered that a lookup has found nobody. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub cache_nothing: Duration,
    /// Most providers one lookup gathers. Default 64.
    pub max_providers: usize,
    /// Providers of which is remembered where others said that they are, the least recently named
    /// leaving first. Default 1,024. Worst case: 1,024 * 8 addresses of 320 bytes = 3 MB.
    pub whereabouts: usize,
    /// How long a provider record lives. Default 24 h.
    #[serde(with = "humantime_serde")]
    pub record_ttl: Duration,
    /// How long after an announcement it is renewed. Default 12 h.
    #[serde(with = "humantime_serde")]
    pub renew_after: Duration,
    /// Most keys this node provides for good ([`Class::Kept`](super::Class)). Default 100,000. Worst
    /// case: 100,000 * 300 bytes = 30 MB.
    pub max_kept: usize,
    /// Most keys this node provides while it has them cached ([`Class::Cached`](super::Class)); of
    /// more, the least recently provided leave. Default 10,000. Worst case: 10,000 * 300 bytes =
    /// 3 MB.
    pub max_cached: usize,
    /// Wait after a failed announcement, doubled with each failure. Default 2 s.
    #[serde(with = "humantime_serde")]
    pub retry_base: Duration,
    /// Longest such wait, unless peers were reached and refused, see `sweep.refused_max`. Default 5 min.
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
    /// Keeping the routing table in order.
    pub table: routing::Config,
    /// How often what has changed is written to disk, where anything is kept: what a kill can cost.
    /// It is written at shutdown too. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub save_every: Duration,
    /// Bounds of the records held for others.
    pub store: Limits,
    /// How what this node provides is announced.
    pub sweep: sweep::Config,
}

impl Default for Config {
    fn default() -> Self {
        const HOUR: u64 = 3600;
        Self {
            query_timeout: Duration::from_secs(10),
            peer_timeout: Duration::from_secs(3),
            tell_timeout: Duration::from_secs(10),
            min_patience: Duration::from_millis(100),
            parallelism: 6,
            lookup_paths: 3,
            max_group_in_lookup: None,
            max_questions: 1024,
            max_dials: 128,
            streams_per_connection: 8,
            stream_idle: Duration::from_secs(5),
            replication: 20,
            max_queries: 256,
            max_waiting: 8192,
            cache: 4096,
            cache_found: Duration::from_secs(60),
            cache_nothing: Duration::from_secs(5),
            max_providers: 64,
            whereabouts: 1024,
            record_ttl: Duration::from_secs(24 * HOUR),
            renew_after: Duration::from_secs(12 * HOUR),
            max_kept: 100_000,
            max_cached: 10_000,
            retry_base: Duration::from_secs(2),
            retry_max: Duration::from_secs(300),
            refresh: Duration::from_secs(300),
            max_group_in_bucket: None,
            max_group_in_table: None,
            table: routing::Config::default(),
            save_every: Duration::from_secs(5),
            store: Limits::default(),
            sweep: sweep::Config::default(),
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
            ("dht.max_questions", self.max_questions),
            ("dht.max_dials", self.max_dials),
            ("dht.max_queries", self.max_queries),
            ("dht.max_waiting", self.max_waiting),
            ("dht.max_providers", self.max_providers),
            ("dht.whereabouts", self.whereabouts),
            ("dht.max_kept", self.max_kept),
            ("dht.max_cached", self.max_cached),
        ] {
            if value == 0 {
                return fail(setting, "must be above zero");
            }
        }
        if !(1..=MAX_PATHS).contains(&self.lookup_paths) {
            return fail("dht.lookup_paths", "must be 1 to 8");
        }
        if !(1..=32).contains(&self.streams_per_connection) {
            return fail("dht.streams_per_connection", "must be 1 to 32");
        }
        if self.max_group_in_lookup == Some(0) {
            return fail("dht.max_group_in_lookup", "must be above zero");
        }
        if self.min_patience > self.peer_timeout {
            return fail("dht.min_patience", "must be at most peer_timeout");
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
        if self.peer_timeout > self.query_timeout {
            return fail("dht.peer_timeout", "must be at most query_timeout");
        }
        if self.save_every.is_zero() {
            return fail("dht.save_every", "must be above zero");
        }
        if self.refresh.is_zero() {
            return fail("dht.refresh", "must be above zero");
        }
        self.table.validate()?;
        self.store.validate()?;
        self.sweep.validate(self.renew_after, self.retry_base)
    }
}
