//! The one place that listens to the chain.
//!
//! It owns a [`Snapshot`]: the best and the finalised block, and for each the reputation of every
//! bound overlay key and the keys of the validators *in the state of that block*. Everyone else
//! reads the snapshot ([`ChainView::snapshot`]): an atomic load, never an await and never a lock.
//!
//! Notifications only wake the driver; what it does is always "compare the snapshot with the
//! client's heads and close the gap". So a missed, merged or reordered notification cannot make it
//! wrong: finality is notified before import for the same operation, and initial sync notifies
//! nothing at all.
//!
//! A fork is the trap: the revision counter counts per fork, so that equal numbers on two forks do
//! not mean equal content. The tables are kept only when the new block *descends* from the old one
//! and the revision is the same; after a reorg they are read anew.

mod client;
mod driver;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_on_client;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use arc_swap::ArcSwap;
use pallet_reputation_runtime_api::{OverlayKey, Scores};
use tokio::sync::watch;

pub use client::{Chain, ClientChain, ReadError};
pub use driver::{Driver, Metrics};

/// A block by number and hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRef {
    /// Height; genesis is 0.
    pub number: u32,
    /// Hash of the header.
    pub hash: nsn_runtime::Hash,
}

impl BlockRef {
    /// No block: what a view names that could not be read yet.
    const NONE: Self = Self { number: 0, hash: nsn_runtime::Hash::zero() };
}

/// What the state of one block says.
#[derive(Clone, Debug)]
pub struct View {
    /// The block whose state this is.
    pub block: BlockRef,
    /// The reputation revision in that state; comparable along one fork only.
    pub revision: u64,
    /// Scores by bound overlay key. At most [`MAX_PEERS`] entries; about 64 bytes each, so 64 MB.
    pub reputation: Arc<HashMap<OverlayKey, Scores>>,
    /// Overlay keys bound to current validators. At most a few for each validator.
    pub validators: Arc<HashSet<OverlayKey>>,
}

impl View {
    /// The view of no block: nobody is bound.
    fn empty() -> Self {
        Self {
            block: BlockRef::NONE,
            revision: 0,
            reputation: Arc::default(),
            validators: Arc::default(),
        }
    }
}

/// Most bound keys a view holds: 1,000,000, about 64 MB. A chain with more is followed as far as
/// this reaches (in key order), and the driver says so.
pub const MAX_PEERS: usize = 1_000_000;

/// The best and the finalised view, taken together.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// State of the best block: early, and may be undone by a reorg.
    pub best: Arc<View>,
    /// State of the finalised block: what penalties act on.
    pub finalized: Arc<View>,
}

/// Reads the chain's facts. Cheap to clone.
#[derive(Clone)]
pub struct ChainView {
    shared: Arc<ArcSwap<Snapshot>>,
    changed: watch::Receiver<u64>,
}

impl ChainView {
    /// The latest snapshot; lock-free, some nanoseconds.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.load_full()
    }

    /// Scores of `key` in the finalised state; `None` for a key that no account answers for.
    pub fn scores(&self, key: &OverlayKey) -> Option<Scores> {
        self.shared.load().finalized.reputation.get(key).copied()
    }

    /// Whether `key` is bound to a validator of the finalised state.
    pub fn is_validator(&self, key: &OverlayKey) -> bool {
        self.shared.load().finalized.validators.contains(key)
    }

    /// A counter that grows whenever the *finalised* reputation or validator keys changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }
}

/// Makes the view of `chain` and the driver that keeps it. Reads the chain once, so that the first
/// snapshot is true from the start; needs no runtime and spawns nothing.
///
/// Where the state cannot be read (in the middle of a warp sync there is none yet), the view begins
/// empty and is filled at the first block whose state is there: the chain must not wait for it.
pub fn build<C: Chain>(chain: C, metrics: Metrics) -> (ChainView, Driver<C>) {
    let heads = chain.heads();
    let empty = Arc::new(View::empty());
    let finalized = read(&chain, heads.finalized).map_or_else(|_| empty.clone(), Arc::new);
    let best = match advance(&chain, &finalized, heads.best) {
        _ if heads.best == heads.finalized => finalized.clone(),
        Ok((best, _)) => Arc::new(best),
        Err(_) => empty,
    };
    let shared = Arc::new(ArcSwap::from_pointee(Snapshot { best, finalized }));
    let (changed, changes) = watch::channel(0);
    let view = ChainView { shared: shared.clone(), changed: changes };
    (view, Driver::new(chain, shared, changed, metrics))
}

/// How a view came to its block; a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Advance {
    /// A descendant with the same revision: the table was kept.
    Kept,
    /// A descendant with another revision: the table was read anew.
    Revised,
    /// Another fork: the table was read anew whatever its revision says.
    Reorganised,
}

impl Advance {
    const fn label(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Revised => "revised",
            Self::Reorganised => "reorganised",
        }
    }
}

/// The view of `target`, reusing what `from` has where that is sound.
fn advance<C: Chain>(
    chain: &C,
    from: &View,
    target: BlockRef,
) -> Result<(View, Advance), ReadError> {
    if from.block == BlockRef::NONE {
        return Ok((read(chain, target)?, Advance::Revised));
    }
    if !chain.descends(target, from.block)? {
        return Ok((read(chain, target)?, Advance::Reorganised));
    }
    let revision = chain.revision(target)?;
    if revision != from.revision {
        return Ok((read(chain, target)?, Advance::Revised));
    }
    let kept = View {
        block: target,
        revision,
        reputation: from.reputation.clone(),
        validators: keep_if_equal(&from.validators, chain.validators(target)?),
    };
    Ok((kept, Advance::Kept))
}

/// Reads the whole view of `block`.
fn read<C: Chain>(chain: &C, block: BlockRef) -> Result<View, ReadError> {
    Ok(View {
        block,
        revision: chain.revision(block)?,
        reputation: Arc::new(chain.reputation(block, MAX_PEERS)?),
        validators: Arc::new(chain.validators(block)?),
    })
}

/// The old set when nothing changed, so that a pointer comparison tells a change.
fn keep_if_equal(
    old: &Arc<HashSet<OverlayKey>>,
    new: HashSet<OverlayKey>,
) -> Arc<HashSet<OverlayKey>> {
    if **old == new { old.clone() } else { Arc::new(new) }
}
