//! `content_v1_*`: publishing on this node, and finding who holds a content.

use jsonrpsee::{Extensions, core::RpcResult, proc_macros::rpc, types::ErrorObjectOwned};
use nsn_relay::{ContentId, Progress, content::publish::PublishError};
use sc_rpc_api::check_if_safe;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::{bad_argument, count, down, failed};
use crate::offchain::{
    Handles,
    announcements::Announced,
    inbox,
    publish::{self, Published},
};

/// Most providers that one call answers with.
const MAX_PROVIDERS: usize = 20;

/// Most lookups that callers may have going at the same time.
const MAX_LOOKUPS: usize = 16;

/// Entries of a list where the caller does not say, and at most.
const DEFAULT_PAGE: u32 = 100;
const MAX_PAGE: u32 = 1_000;

/// Somebody who says that they hold a content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provider {
    /// The overlay PeerId, base58.
    pub peer_id: String,
    /// Seeder component of the reputation, 0..=1000; absent for a peer that no account answers for.
    pub seeder_score: Option<u16>,
    /// Where its shard service listens, by its signed service record; empty when it gave none.
    pub shard_addrs: Vec<String>,
}

/// A content that this node's origin keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The ContentId, 64 hexadecimal digits.
    pub content_id: String,
    /// Media type, as published.
    pub media_type: String,
    /// Bytes.
    pub total_len: u64,
    /// Number of shards.
    pub shards: u32,
    /// Name of the file it was published from.
    pub name: String,
}

/// The `content_v1_*` methods.
#[rpc(server)]
pub trait ContentApi {
    /// Publishes the file `name` of the inbox on this super-node: cuts it into shards, stores them,
    /// names them in the directory and announces the content. Answers when all that is done. Unsafe.
    #[method(name = "content_v1_publish", with_extensions)]
    async fn publish(&self, name: String, media_type: Option<String>) -> RpcResult<Published>;

    /// How far the publication of `name` is; null when none is under way. Unsafe.
    #[method(name = "content_v1_publishProgress", with_extensions)]
    async fn publish_progress(&self, name: String) -> RpcResult<Option<Progress>>;

    /// The folder from which files are published. Unsafe.
    #[method(name = "content_v1_inbox", with_extensions)]
    async fn inbox(&self) -> RpcResult<String>;

    /// A page of the contents that this node's origin keeps, in the order of their ids: those after
    /// `after` (from the first on without it), at most `limit` of them (100 without it, 1,000 at
    /// most). An empty page is the end.
    #[method(name = "content_v1_list")]
    async fn list(&self, after: Option<String>, limit: Option<u32>) -> RpcResult<Vec<Kept>>;

    /// The newest contents announced on the overlay that this node has heard of, newest first, at
    /// most 256.
    #[method(name = "content_v1_announced")]
    async fn announced(&self) -> RpcResult<Vec<Announced>>;

    /// Asks the directory who holds the content `content_id`, at most `limit` of them (20 without
    /// it, and at most). Nobody is an empty list.
    #[method(name = "content_v1_findProviders")]
    async fn find_providers(
        &self,
        content_id: String,
        limit: Option<u32>,
    ) -> RpcResult<Vec<Provider>>;
}

/// Answers the methods.
pub struct Content {
    offchain: Handles,
    /// Lookups going on for callers of the RPC, so that they leave room for the relay's own.
    lookups: Semaphore,
}

impl Content {
    /// Answers from `offchain`.
    pub fn new(offchain: Handles) -> Self {
        Self { offchain, lookups: Semaphore::new(MAX_LOOKUPS) }
    }
}

/// Why a publication was refused, with the code that a program can act on.
fn refused(error: publish::Error) -> ErrorObjectOwned {
    use inbox::Error::{Missing, Name, NotAFile};
    match error {
        publish::Error::Inbox(Name(_) | Missing { .. } | NotAFile(_)) => bad_argument(error),
        publish::Error::NotRunning
        | publish::Error::Store { source: PublishError::NoOrigin, .. } => {
            down("origin", "--super-node")
        }
        _ => failed(error),
    }
}

#[jsonrpsee::core::async_trait]
impl ContentApiServer for Content {
    async fn publish(
        &self,
        ext: &Extensions,
        name: String,
        media_type: Option<String>,
    ) -> RpcResult<Published> {
        check_if_safe(ext)?;
        self.offchain.publisher.publish(&name, media_type).await.map_err(refused)
    }

    async fn publish_progress(
        &self,
        ext: &Extensions,
        name: String,
    ) -> RpcResult<Option<Progress>> {
        check_if_safe(ext)?;
        Ok(self.offchain.publisher.progress(&name))
    }

    async fn inbox(&self, ext: &Extensions) -> RpcResult<String> {
        check_if_safe(ext)?;
        Ok(self.offchain.publisher.inbox().path().display().to_string())
    }

    async fn list(&self, after: Option<String>, limit: Option<u32>) -> RpcResult<Vec<Kept>> {
        let after = after.map(|id| id.parse::<ContentId>()).transpose().map_err(bad_argument)?;
        let limit = limit.unwrap_or(DEFAULT_PAGE).min(MAX_PAGE) as usize;
        let relay = self
            .offchain
            .relay
            .current()
            .ok_or_else(|| down("shard service", "--super-node or --relay"))?;
        Ok(relay
            .contents()
            .into_iter()
            .filter(|content| after.is_none_or(|after| content.content_id > after))
            .take(limit)
            .map(|content| Kept {
                content_id: content.content_id.to_string(),
                media_type: content.media_type,
                total_len: content.total_len,
                shards: content.shards,
                name: content.name,
            })
            .collect())
    }

    async fn announced(&self) -> RpcResult<Vec<Announced>> {
        Ok(self.offchain.announcements.newest())
    }

    async fn find_providers(
        &self,
        content_id: String,
        limit: Option<u32>,
    ) -> RpcResult<Vec<Provider>> {
        let id = content_id.parse::<ContentId>().map_err(bad_argument)?;
        let limit = count(limit, MAX_PROVIDERS, MAX_PROVIDERS).map_err(bad_argument)?;
        let Ok(_place) = self.lookups.try_acquire() else {
            return Err(failed("many lookups are going on already: try again in a second"));
        };
        if self.offchain.overlay.current().is_none() {
            return Err(down("overlay", "--no-overlay"));
        }
        let found = self.offchain.directory.providers_of_content(id, limit).await;
        let providers = found.map_err(failed)?;
        Ok(providers
            .into_iter()
            .map(|provider| Provider {
                peer_id: provider.peer.to_string(),
                seeder_score: provider.seeder_score,
                shard_addrs: provider.shard_addrs.iter().map(ToString::to_string).collect(),
            })
            .collect())
    }
}
