//! Settings of the whole crate, each part's own beneath it.

use crate::{
    announce, cache, client, content::publish, error::BuildError, fill, region, server, store,
    upstream, warm,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Settings of a shard service. Anything left out has its default; an unknown key is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Listening, limits of connections and requests, draining.
    pub server: server::Config,
    /// What is on disk.
    pub store: store::Config,
    /// The relay's cache.
    pub cache: cache::Config,
    /// Fetching for several viewers at once.
    pub fill: fill::Config,
    /// Where from, and how long that may take.
    pub upstream: upstream::Config,
    /// Which region this relay is in, where the operator does not say.
    pub region: region::Config,
    /// Fetching what nobody has asked for yet.
    pub warm: warm::Config,
    /// Telling the directory what is held.
    pub announce: announce::Config,
    /// Publishing on a super-node.
    pub publish: publish::Config,
    /// This program as a viewer.
    pub client: client::Config,
}

impl Config {
    /// Whether every setting is in its bounds.
    ///
    /// # Errors
    /// Names the first that is not.
    pub fn validate(&self) -> Result<(), BuildError> {
        let shard = u64::from(crate::content::MAX_BLOB_LEN);
        let rules = [
            (
                "server.sockets",
                u64::try_from(self.server.sockets).unwrap_or(u64::MAX),
                (1..=64).contains(&self.server.sockets),
                "must be from 1 to 64",
            ),
            positive("server.max_connections", self.server.max_connections),
            positive("server.max_requests", self.server.max_requests),
            positive("server.max_streams", self.server.max_streams),
            positive("server.source_table", self.server.source_table),
            positive("server.viewer_table", self.server.viewer_table),
            (
                "server.known_weight",
                u64::from(self.server.known_weight),
                (100..=10_000).contains(&self.server.known_weight),
                "must be from 100 (as much as an unknown viewer) to 10000",
            ),
            positive("server.overlay.max", self.server.overlay.max),
            positive("server.overlay.per_peer", self.server.overlay.per_peer),
            positive("server.overlay.remembered", self.server.overlay.remembered),
            percent("server.shed_prefetch_above", self.server.shed_prefetch_above),
            percent("server.shed_viewers_above", self.server.shed_viewers_above),
            (
                "server.quic.initial_mtu",
                u64::from(self.server.quic.initial_mtu),
                (1200..=1472).contains(&self.server.quic.initial_mtu),
                "must be from 1200 to 1472",
            ),
            least("server.body_memory", self.server.body_memory, shard),
            positive("store.parallel", self.store.parallel),
            positive("store.origin_blobs", self.store.origin_blobs),
            positive("cache.max_entries", self.cache.max_entries),
            positive("cache.writers", self.cache.writers),
            least("cache.capacity", self.cache.capacity, shard),
            least("cache.min_capacity", self.cache.min_capacity, shard),
            positive("store.open_files", self.store.open_files),
            positive("cache.memory_blob", self.cache.memory_blob),
            at_least_a_second("cache.resize_every", self.cache.resize_every),
            at_least_a_second("cache.scrub_every", self.cache.scrub_every),
            at_least_a_second("cache.snapshot_every", self.cache.snapshot_every),
            (
                "cache.ttl",
                self.cache.ttl.as_secs(),
                self.cache.ttl.is_zero() || self.cache.ttl.as_secs() > 0,
                "must be 0 or at least 1 s",
            ),
            (
                "cache.pinned_percent",
                self.cache.pinned_percent.into(),
                self.cache.pinned_percent <= 90,
                "must be at most 90",
            ),
            positive("fill.parallel", self.fill.parallel),
            least("upstream.memory", self.upstream.memory, shard),
            positive("upstream.max_sources", self.upstream.max_sources),
            positive("upstream.max_connections", self.upstream.max_connections),
            positive("upstream.parallel", self.upstream.parallel),
            positive("upstream.assumed_rate", self.upstream.assumed_rate),
            positive("upstream.overlay.book", self.upstream.overlay.book),
            (
                "upstream.overlay.open_timeout",
                u64::try_from(self.upstream.overlay.open_timeout.as_millis()).unwrap_or(u64::MAX),
                !self.upstream.overlay.open_timeout.is_zero(),
                "must be above zero",
            ),
            positive("upstream.breaker.failures", self.upstream.breaker.failures),
            positive("upstream.health.sources", self.upstream.health.sources),
            most("upstream.super_nodes", self.upstream.super_nodes.len(), 64, "must be 64 at most"),
            most(
                "upstream.hedge.budget_percent",
                self.upstream.hedge.budget_percent,
                100,
                "must be from 0 to 100",
            ),
            most("fill.finish_from", self.fill.finish_from, 100, "must be from 0 to 100"),
            at_least_a_second("region.every", self.region.every),
            at_least_a_second("region.retry", self.region.retry),
            positive("region.super_nodes", self.region.super_nodes),
            (
                "region.samples",
                u64::try_from(self.region.samples).unwrap_or(u64::MAX),
                (1..=9).contains(&self.region.samples),
                "must be from 1 to 9",
            ),
            most("region.margin_percent", self.region.margin_percent, 99, "must be from 0 to 99"),
            positive("region.confirm", self.region.confirm),
            positive("warm.parallel", self.warm.parallel),
            most("warm.cache_percent", self.warm.cache_percent, 100, "must be from 0 to 100"),
            most("warm.idle_below", self.warm.idle_below, 100, "must be from 0 to 100"),
            (
                "warm.judge_every",
                self.warm.judge_every.as_secs(),
                !self.warm.judge_every.is_zero(),
                "must be above 0",
            ),
            positive("warm.table", self.warm.table),
            most("warm.min_score", self.warm.min_score, 1000, "must be from 0 to 1000"),
            positive("warm.accounts", self.warm.accounts),
            positive("warm.queue", self.warm.queue),
            positive("warm.contents", self.warm.contents),
            most("warm.ahead", self.warm.ahead, 64, "must be from 0 to 64"),
            positive("warm.shards", self.warm.shards),
            positive("announce.queue", self.announce.queue),
            positive("announce.parallel", self.announce.parallel),
            positive("publish.publishes", self.publish.publishes),
            (
                "publish.shard_len",
                u64::from(self.publish.shard_len),
                (64 * 1024..=shard).contains(&u64::from(self.publish.shard_len)),
                "must be from 65536 (64 KiB) to 16777216 (16 MiB)",
            ),
        ];
        match rules.into_iter().find(|(_, _, holds, _)| !holds) {
            Some((key, value, _, rule)) => {
                Err(BuildError::Config { key, value: value.to_string(), rule })
            }
            None => Ok(()),
        }
    }
}

fn positive<N: TryInto<u64>>(
    key: &'static str,
    value: N,
) -> (&'static str, u64, bool, &'static str) {
    let value = value.try_into().unwrap_or(u64::MAX);
    (key, value, value > 0, "must be at least 1")
}

fn at_least_a_second(
    key: &'static str,
    value: Duration,
) -> (&'static str, u64, bool, &'static str) {
    (key, value.as_secs(), value.as_secs() > 0, "must be at least 1 s")
}

fn most<N: TryInto<u64>>(
    key: &'static str,
    value: N,
    most: u64,
    rule: &'static str,
) -> (&'static str, u64, bool, &'static str) {
    let value = value.try_into().unwrap_or(u64::MAX);
    (key, value, value <= most, rule)
}

fn percent(key: &'static str, value: u8) -> (&'static str, u64, bool, &'static str) {
    (key, value.into(), value <= 100, "must be at most 100, or 0 for never")
}

fn least(key: &'static str, value: u64, least: u64) -> (&'static str, u64, bool, &'static str) {
    (key, value, value >= least, "must be at least 16777216, the length of the largest shard")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_survive_being_written() {
        let config = Config::default();
        config.validate().unwrap();
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
    }

    #[test]
    fn a_setting_out_of_bounds_is_named() {
        let mut config = Config::default();
        config.publish.shard_len = 10;
        assert_eq!(
            config.validate().unwrap_err().to_string(),
            "publish.shard_len = 10: must be from 65536 (64 KiB) to 16777216 (16 MiB)"
        );
        config = Config::default();
        config.server.max_requests = 0;
        assert!(config.validate().unwrap_err().to_string().contains("server.max_requests = 0"));
    }

    #[test]
    fn an_unknown_key_is_an_error() {
        let error = serde_json::from_str::<Config>(r#"{"server":{"max_conections":1}}"#);
        assert!(error.unwrap_err().to_string().contains("max_conections"));
    }
}
