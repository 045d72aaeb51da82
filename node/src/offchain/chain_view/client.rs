//! What the view asks of a chain, and how a full client answers.

use std::{collections::HashSet, sync::Arc};

use futures::{StreamExt, stream, stream::BoxStream};
use nsn_runtime::{AccountId, opaque::Block};
use pallet_reputation_runtime_api::{MAX_PAGE, OverlayKey, PeerChange, PeerEarned, ReputationApi};
use sc_client_api::{BlockchainEvents, HeaderBackend};
use sp_api::{ApiError, ProvideRuntimeApi};
use sp_blockchain::{HeaderMetadata, lowest_common_ancestor};

use super::BlockRef;

/// Blocks of distance above which descent is not looked up (it walks headers one by one): the
/// table is read anew instead, which is right on every fork.
const MAX_WALK: u32 = 1_000;

/// Why the state of a block could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The runtime call failed, for want of the state or of the API.
    #[error("the runtime did not answer about reputation: {0}")]
    Runtime(#[from] ApiError),
    /// The header chain could not be walked.
    #[error("the block's ancestry could not be read: {0}")]
    Ancestry(#[from] sp_blockchain::Error),
}

/// Best and finalised block at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// The best block.
    pub best: BlockRef,
    /// The finalised block.
    pub finalized: BlockRef,
}

/// What [`super::ChainView`] needs from a chain. Implemented by a full client, and by a scripted
/// block tree in tests.
pub trait Chain: Send + Sync + 'static {
    /// The heads now.
    fn heads(&self) -> Heads;

    /// Whether `block` is `ancestor` or descends from it. May say `false` for one that is too far
    /// away to tell cheaply.
    ///
    /// # Errors
    /// When a header on the way is missing.
    fn descends(&self, block: BlockRef, ancestor: BlockRef) -> Result<bool, ReadError>;

    /// The reputation revision in the state of `at`.
    ///
    /// # Errors
    /// When the state or the runtime API is not there.
    fn revision(&self, at: BlockRef) -> Result<u64, ReadError>;

    /// The day of `at`, by which scores decay.
    ///
    /// # Errors
    /// As [`Chain::revision`].
    fn day(&self, at: BlockRef) -> Result<u16, ReadError>;

    /// What changed on the way to `at` since an ancestor that had `revision`, each key once; `None`
    /// if the chain's log does not tell.
    ///
    /// # Errors
    /// As [`Chain::revision`].
    fn changes_since(
        &self,
        at: BlockRef,
        revision: u64,
    ) -> Result<Option<Vec<PeerChange>>, ReadError>;

    /// All bound keys in the state of `at`, each once, and no more pages of them than needed to pass
    /// `limit`. At 44 bytes each, the 1,000,000 of a full view are 44 MB.
    ///
    /// # Errors
    /// As [`Chain::revision`].
    fn peers(&self, at: BlockRef, limit: usize) -> Result<Vec<PeerEarned>, ReadError>;

    /// The overlay keys bound to the validators of the state of `at`.
    ///
    /// # Errors
    /// As [`Chain::revision`].
    fn validators(&self, at: BlockRef) -> Result<HashSet<OverlayKey>, ReadError>;

    /// Wakes once for each import and each finality notification.
    fn wakeups(&self) -> BoxStream<'static, ()>;
}

/// A full client as a [`Chain`].
pub struct ClientChain<C>(Arc<C>);

impl<C> ClientChain<C> {
    /// Wraps `client`.
    pub fn new(client: Arc<C>) -> Self {
        Self(client)
    }
}

impl<C> Chain for ClientChain<C>
where
    C: ProvideRuntimeApi<Block>
        + HeaderBackend<Block>
        + HeaderMetadata<Block, Error = sp_blockchain::Error>
        + BlockchainEvents<Block>
        + Send
        + Sync
        + 'static,
    C::Api: ReputationApi<Block, AccountId>,
{
    fn heads(&self) -> Heads {
        let info = self.0.info();
        Heads {
            best: BlockRef { number: info.best_number, hash: info.best_hash },
            finalized: BlockRef { number: info.finalized_number, hash: info.finalized_hash },
        }
    }

    fn descends(&self, block: BlockRef, ancestor: BlockRef) -> Result<bool, ReadError> {
        if block.hash == ancestor.hash {
            return Ok(true);
        }
        match block.number.checked_sub(ancestor.number) {
            None | Some(0) => Ok(false),
            Some(distance) if distance > MAX_WALK => Ok(false),
            Some(_) => {
                let common = lowest_common_ancestor(&*self.0, block.hash, ancestor.hash)?;
                Ok(common.hash == ancestor.hash)
            }
        }
    }

    fn revision(&self, at: BlockRef) -> Result<u64, ReadError> {
        Ok(self.0.runtime_api().revision(at.hash)?)
    }

    fn day(&self, at: BlockRef) -> Result<u16, ReadError> {
        Ok(self.0.runtime_api().day(at.hash)?)
    }

    fn changes_since(
        &self,
        at: BlockRef,
        revision: u64,
    ) -> Result<Option<Vec<PeerChange>>, ReadError> {
        Ok(self.0.runtime_api().changes_since(at.hash, revision)?)
    }

    fn peers(&self, at: BlockRef, limit: usize) -> Result<Vec<PeerEarned>, ReadError> {
        let mut peers: Vec<PeerEarned> = Vec::new();
        // One more than the limit, so that it is known that there are more.
        while peers.len() <= limit {
            let after = peers.last().map(|peer| peer.key);
            let page = self.0.runtime_api().peers(at.hash, after, MAX_PAGE)?;
            if page.is_empty() {
                break;
            }
            peers.extend(page);
        }
        Ok(peers)
    }

    fn validators(&self, at: BlockRef) -> Result<HashSet<OverlayKey>, ReadError> {
        Ok(self.0.runtime_api().validator_keys(at.hash)?.into_iter().collect())
    }

    fn wakeups(&self) -> BoxStream<'static, ()> {
        // Each notification pins its block until it is dropped, so both are reduced to () at once.
        let imported = self.0.import_notification_stream().map(drop);
        let finalized = self.0.finality_notification_stream().map(drop);
        stream::select(imported, finalized).boxed()
    }
}
