//! From one block to another: what has to be read, and what can be kept.
//!
//! The finalised view goes forward only. It keeps its table where the revision stands still, applies
//! what the chain's log tells of the changes, and reads all peers where the log does not reach.
//!
//! The best view is the finalised table and what is different at the best block, asked of that block
//! itself: so a reorg costs what differs between the forks and the finalised block, and no fork's
//! changes can be left in it. Where finality lags so far behind that the log does not reach, it goes
//! on from the best view before it, if that is an ancestor.
//!
//! A fork is the trap: revisions count per fork, so equal numbers on two forks do not mean equal
//! content, and a log is only asked about the revision of an *ancestor*.

use std::{collections::HashSet, sync::Arc};

use pallet_reputation_runtime_api::{OverlayKey, PeerChange};

use super::{
    BlockRef, Chain, ReadError, View,
    buffers::{Applied, Buffers, table},
    view::Peers,
};

/// Keys that a best view may hold apart from its table: 65,536 at about 100 bytes, 6.5 MB. It is
/// reached only where finality lags behind by more than the chain's log.
const MAX_DIFFERENT: usize = 65_536;

/// How a view came to its block; a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// A descendant with the same revision: nothing was read but that.
    Kept,
    /// A descendant: the changes were applied.
    Changed,
    /// A block of another fork, by its changes since the finalised one.
    Reorganised,
    /// All peers were read.
    Rebuilt,
}

impl How {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Changed => "changed",
            Self::Reorganised => "reorganised",
            Self::Rebuilt => "rebuilt",
        }
    }
}

/// A view that has moved to another block.
pub(super) struct Moved {
    pub(super) view: View,
    pub(super) how: How,
    /// Changes that were applied.
    pub(super) changes: usize,
    pub(super) applied: Applied,
}

/// Moves the finalised view from `old` to `target`. `buffers` hold the table of `old`, and are
/// touched last, so that after an error all is as it was.
///
/// # Errors
/// When the state of `target` cannot be read.
pub(super) fn finalized<C: Chain>(
    chain: &C,
    buffers: &mut Buffers,
    old: &View,
    target: BlockRef,
) -> Result<Moved, ReadError> {
    let facts = Facts::read(chain, old, target)?;
    let descends = old.block != BlockRef::NONE && chain.descends(target, old.block)?;
    if descends && facts.revision == old.revision {
        let view = facts.with(old.peers.clone());
        return Ok(Moved { view, how: How::Kept, changes: 0, applied: Applied::default() });
    }
    let changes = if descends { changes(chain, target, old.revision) } else { None };
    let (how, changes, applied) = match changes {
        Some(changes) => (How::Changed, changes.len(), buffers.apply(changes)),
        None => {
            let peers = chain.peers(target, buffers.limit())?;
            (How::Rebuilt, 0, buffers.replace(&peers))
        }
    };
    let view = facts.with(Peers::of(buffers.current().clone()));
    Ok(Moved { view, how, changes, applied })
}

/// Moves the best view from `old` to `target`; holds at most `limit` peers if it has to read them
/// all. `finalized` is the finalised view now.
///
/// # Errors
/// When the state of `target` cannot be read.
pub(super) fn best<C: Chain>(
    chain: &C,
    finalized: &View,
    old: &View,
    target: BlockRef,
    limit: usize,
) -> Result<Moved, ReadError> {
    let first = old.block == BlockRef::NONE;
    let descends = !first && chain.descends(target, old.block)?;
    let how = if descends || first { How::Changed } else { How::Reorganised };
    let moved = |view, how, changes| Moved { view, how, changes, applied: Applied::default() };
    if target == finalized.block {
        let kept = descends && finalized.revision == old.revision;
        return Ok(moved(finalized.clone(), if kept { How::Kept } else { how }, 0));
    }
    let facts = Facts::read(chain, old, target)?;
    let kept = descends && facts.revision == old.revision;
    if kept && old.peers.same_table(&finalized.peers) {
        return Ok(moved(facts.with(old.peers.clone()), How::Kept, 0));
    }
    if finalized.block != BlockRef::NONE && chain.descends(target, finalized.block)? {
        if facts.revision == finalized.revision {
            let how = if kept { How::Kept } else { how };
            return Ok(moved(facts.with(finalized.peers.clone()), how, 0));
        }
        if let Some(changes) = changes(chain, target, finalized.revision) {
            let how = if kept { How::Kept } else { how };
            let peers = finalized.peers.with(&changes);
            return Ok(moved(facts.with(peers), how, changes.len()));
        }
    }
    if kept {
        return Ok(moved(facts.with(old.peers.clone()), How::Kept, 0));
    }
    if descends
        && let Some(changes) = changes(chain, target, old.revision)
        && old.peers.different() + changes.len() <= MAX_DIFFERENT
    {
        return Ok(moved(facts.with(old.peers.with(&changes)), how, changes.len()));
    }
    let (table, refused) = table(&chain.peers(target, limit)?, limit);
    let view = facts.with(Peers::of(Arc::new(table)));
    Ok(Moved { view, how: How::Rebuilt, changes: 0, applied: Applied { copied: None, refused } })
}

/// What the log of `target` tells of the changes after `revision`. Without an answer all peers are
/// read instead, so an error is no reason to give up: it comes again if the state is not there.
fn changes<C: Chain>(chain: &C, target: BlockRef, revision: u64) -> Option<Vec<PeerChange>> {
    chain.changes_since(target, revision).unwrap_or_else(|error| {
        tracing::debug!(target: "nsn::chain", "reading all peers, for want of the changes: {error}");
        None
    })
}

/// All of a view but its peers.
struct Facts {
    block: BlockRef,
    revision: u64,
    day: u16,
    validators: Arc<HashSet<OverlayKey>>,
}

impl Facts {
    fn read<C: Chain>(chain: &C, old: &View, block: BlockRef) -> Result<Self, ReadError> {
        Ok(Self {
            block,
            revision: chain.revision(block)?,
            day: chain.day(block)?,
            validators: keep_if_equal(&old.validators, chain.validators(block)?),
        })
    }

    fn with(self, peers: Peers) -> View {
        let Self { block, revision, day, validators } = self;
        View { block, revision, day, validators, peers }
    }
}

/// The old set when nothing changed, so that a pointer comparison tells a change.
fn keep_if_equal(
    old: &Arc<HashSet<OverlayKey>>,
    new: HashSet<OverlayKey>,
) -> Arc<HashSet<OverlayKey>> {
    if **old == new { old.clone() } else { Arc::new(new) }
}
