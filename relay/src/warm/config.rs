//! Settings of fetching ahead.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Settings of fetching what nobody has asked for yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Blobs fetched ahead at a time. Default 2; never more than half of `fill.parallel` is taken from
    /// those that somebody waits for.
    pub parallel: usize,
    /// Bytes a second that are fetched ahead; 0 for no limit. Default 16 MiB.
    pub bytes_per_second: u64,
    /// Of the cache's size, what may be held that was fetched ahead and not read yet, in percent; 0 for
    /// nothing is ever fetched ahead. Default 10.
    pub cache_percent: u8,
    /// Requests, memory or bandwidth taken, in percent, from which nothing is begun. Default 50. From
    /// `server.shed_prefetch_above` on, what waits and what is under way is given up.
    pub idle_below: u8,
    /// What is fetched ahead and was not read within this counts as wasted. Default 24 h.
    #[serde(with = "humantime_serde")]
    pub judge_after: Duration,
    /// How often that is looked at, and whether it is still held. Default 1 min.
    #[serde(with = "humantime_serde")]
    pub judge_every: Duration,
    /// Blobs of which is remembered that they were fetched ahead. Default 10,000 of about 150 bytes:
    /// 1.5 MB.
    pub table: usize,
    /// Least seeder score, 0..=1000, of the account that answers for who announces a content. Default
    /// 500, which is what an account begins with.
    pub min_score: u16,
    /// Bytes that the announcements of one account cause to be fetched in any hour, whichever keys it
    /// uses; 0 for none at all. Default 256 MiB.
    pub account_bytes: u64,
    /// Accounts of which that is remembered; while so many have caused something within the hour,
    /// others cause nothing. Default 1,000 of about 250 bytes: 250 KB.
    pub accounts: usize,
    /// Bytes from the beginning of an announced content; readers cause the rest to be fetched. Default
    /// 32 MiB.
    pub content_bytes: u64,
    /// Announced blobs that wait for their turn. Default 256 of about 150 bytes.
    pub queue: usize,
    /// How long they wait. Default 10 min.
    #[serde(with = "humantime_serde")]
    pub patience: Duration,
    /// Announced contents that are remembered, so that announcing again causes nothing. Default 10,000
    /// of about 100 bytes: 1 MB.
    pub contents: usize,
    /// Shards fetched ahead of one that is read; 0 for none. Default 4.
    pub ahead: usize,
    /// And their bytes at most. Default 16 MiB.
    pub ahead_bytes: u64,
    /// How long they wait for their turn. Default 5 s: the reader is there by then.
    #[serde(with = "humantime_serde")]
    pub ahead_patience: Duration,
    /// The longest manifest that is looked into, in bytes. Default 1 MiB, 29,000 shards.
    pub manifest_bytes: u32,
    /// Shards of which is known what follows them, of the contents read last. Default 100,000 of about
    /// 150 bytes: 15 MB.
    pub shards: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            parallel: 2,
            bytes_per_second: 16 * 1024 * 1024,
            cache_percent: 10,
            idle_below: 50,
            judge_after: Duration::from_secs(24 * 3600),
            judge_every: Duration::from_secs(60),
            table: 10_000,
            min_score: 500,
            account_bytes: 256 * 1024 * 1024,
            accounts: 1000,
            content_bytes: 32 * 1024 * 1024,
            queue: 256,
            patience: Duration::from_secs(600),
            contents: 10_000,
            ahead: 4,
            ahead_bytes: 16 * 1024 * 1024,
            ahead_patience: Duration::from_secs(5),
            manifest_bytes: 1024 * 1024,
            shards: 100_000,
        }
    }
}
