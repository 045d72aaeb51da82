//! `content_v1_*`: publishing on this node, and finding who holds a content.

use jsonrpsee::{Extensions, core::RpcResult, proc_macros::rpc};
use nsn_relay::Progress;
use sc_rpc_api::check_if_safe;
use serde::{Deserialize, Serialize};

use super::{bad_argument, down, failed};
use crate::offchain::{Handles, announcements::Announced, publish::Published};

/// Most providers that one call answers with.
const MAX_PROVIDERS: usize = 20;

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

    /// The contents that this node's origin keeps, by ContentId.
    #[method(name = "content_v1_list")]
    async fn list(&self) -> RpcResult<Vec<Kept>>;

    /// The newest contents announced on the overlay that this node has heard of, newest first, at
    /// most 256.
    #[method(name = "content_v1_announced")]
    async fn announced(&self) -> RpcResult<Vec<Announced>>;

    /// Asks the directory who holds the content `content_id`; at most 20 providers.
    #[method(name = "content_v1_findProviders")]
    async fn find_providers(&self, content_id: String) -> RpcResult<Vec<Provider>>;
}

/// Answers the methods.
pub struct Content {
    offchain: Handles,
}

impl Content {
    /// Answers from `offchain`.
    pub fn new(offchain: Handles) -> Self {
        Self { offchain }
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
        self.offchain.publisher.publish(&name, media_type).await.map_err(failed)
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

    async fn list(&self) -> RpcResult<Vec<Kept>> {
        let relay = self
            .offchain
            .relay
            .current()
            .ok_or_else(|| down("shard service", "--super-node or --relay"))?;
        Ok(relay
            .contents()
            .into_iter()
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

    async fn find_providers(&self, content_id: String) -> RpcResult<Vec<Provider>> {
        let id = content_id.parse::<nsn_relay::ContentId>().map_err(bad_argument)?;
        if self.offchain.overlay.current().is_none() {
            return Err(down("overlay", "--no-overlay"));
        }
        let found = self.offchain.directory.providers_of_content(id, MAX_PROVIDERS).await;
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
