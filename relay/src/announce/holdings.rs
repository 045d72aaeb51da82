//! What this node holds, as far as the directory is to know it.

use super::Held;
use crate::{
    cache::Cache,
    content::{BlobId, ShardId},
    store::Origin,
    upstream::{Class, Record},
};
use std::sync::Arc;

/// The origin's store and the relay's cache.
pub(crate) struct Holdings {
    pub(crate) origin: Option<Arc<Origin>>,
    /// `None` also where the directory is not told what the cache holds.
    pub(crate) cache: Option<Arc<Cache>>,
}

impl Held for Holdings {
    fn class_of(&self, record: Record) -> Option<Class> {
        let kept = self.origin.as_ref().is_some_and(|origin| match record {
            Record::Content(id) => origin.holds_content(id),
            Record::Shard(id) => origin.holds_shard(id),
        });
        let cached = || match record {
            Record::Shard(ShardId(id)) => self.cache.as_ref()?.len_of(id),
            // A relay cannot know whether what it fetched is a shard or a manifest. Sources are
            // looked for under both names, so one is enough.
            Record::Content(_) => None,
        };
        if kept { Some(Class::Kept) } else { cached().map(|_| Class::Cached) }
    }

    fn kept_after(&self, after: Option<Record>, limit: usize) -> Vec<Record> {
        self.origin.as_ref().map(|origin| origin.held_after(after, limit)).unwrap_or_default()
    }

    fn cached(&self, limit: usize) -> Vec<BlobId> {
        self.cache.as_ref().map(|cache| cache.newest(limit)).unwrap_or_default()
    }
}
