//! The one place that listens to the chain.
//!
//! It owns a [`Snapshot`]: the best and the finalised [`View`], each with what every bound overlay
//! key has earned and the keys of the validators *in the state of that block*. Everyone else reads
//! the snapshot ([`ChainView`]): an atomic load, never an await and never a lock. Penalties act on
//! the finalised view ([`ChainView::scores`]), hints such as the order of sources on the best one
//! ([`ChainView::hint`]).
//!
//! ```text
//!  client ── wakeup ──> driver ── what changed? ──> follow ── changes ──> buffers: two tables
//!                         │                                                  │ the new one
//!                         └──────── atomic store of the snapshot <───────────┘
//! ```
//!
//! | file | what it holds |
//! | --- | --- |
//! | `client` | what is asked of a chain, and a full client that answers |
//! | `driver` | wakes, compares the snapshot with the heads, closes the gap |
//! | `follow` | from one block to another: what is kept, applied, read anew |
//! | `buffers` | the two tables that change places |
//! | `table` | reputation by key, in little memory |
//! | `decay` | what is left of a score, quickly |
//! | `view` | what readers hold |
//!
//! Notifications only wake the driver; what it does is always "compare the snapshot with the
//! client's heads and close the gap". So a missed, merged or reordered notification cannot make it
//! wrong: finality is notified before import for the same operation, and initial sync notifies
//! nothing at all.

mod buffers;
mod client;
mod decay;
mod driver;
mod follow;
mod metrics;
mod table;
#[cfg(test)]
pub(super) mod tests;
#[cfg(test)]
mod tests_on_client;
mod view;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use pallet_reputation_runtime_api::{OverlayKey, Scores};
use tokio::sync::watch;

use buffers::Buffers;

pub use client::{Chain, ClientChain, Heads, ReadError};
pub use driver::Driver;
pub use metrics::Metrics;
pub use view::{BlockRef, Snapshot, View};

/// Most bound keys a view holds: 1,000,000, at most 120 MB with both of its tables. A chain with
/// more is followed as far as this reaches (in key order), and the driver says so.
pub const MAX_PEERS: usize = 1_000_000;

/// Reads the chain's facts. Cheap to clone.
#[derive(Clone)]
pub struct ChainView {
    shared: Arc<ArcSwap<Snapshot>>,
    changed: watch::Receiver<u64>,
    heads: watch::Receiver<BlockRef>,
}

impl ChainView {
    /// The latest snapshot; lock-free, some nanoseconds. Not to be held for longer than it is needed:
    /// it keeps a whole table from being used again.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.load_full()
    }

    /// Scores of `key` in the finalised state, which no reorg takes back: what penalties act on.
    /// `None` for a key that no account answers for.
    #[inline]
    pub fn scores(&self, key: &OverlayKey) -> Option<Scores> {
        self.shared.load().finalized.table_scores(key)
    }

    /// Scores of `key` in the best state: some seconds earlier, and possibly undone by a reorg.
    pub fn hint(&self, key: &OverlayKey) -> Option<Scores> {
        self.shared.load().best.scores(key)
    }

    /// Whether `key` is bound to a validator of the finalised state.
    pub fn is_validator(&self, key: &OverlayKey) -> bool {
        self.shared.load().finalized.validators.contains(key)
    }

    /// A counter that grows whenever the *finalised* reputation or validator keys changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }

    /// The block of the best view, now and as it changes.
    pub fn heads(&self) -> watch::Receiver<BlockRef> {
        self.heads.clone()
    }
}

/// Makes the view of `chain` and the driver that keeps it. Reads the chain once, so that the first
/// snapshot is true from the start; needs no runtime and spawns nothing.
///
/// Where the state cannot be read (in the middle of a warp sync there is none yet), the view begins
/// empty and is filled at the first block whose state is there: the chain must not wait for it.
pub fn build<C: Chain>(chain: C, metrics: Metrics) -> (ChainView, Driver<C>) {
    build_with(chain, metrics, MAX_PEERS, buffers::PATIENCE)
}

/// As [`build`], for at most `limit` peers, waiting `patience` for a reader that holds a table.
fn build_with<C: Chain>(
    chain: C,
    metrics: Metrics,
    limit: usize,
    patience: Duration,
) -> (ChainView, Driver<C>) {
    let nothing = Snapshot { best: View::empty(), finalized: View::empty() };
    let shared = Arc::new(ArcSwap::from_pointee(nothing));
    let (changed, changes) = watch::channel(0);
    let (best, heads) = watch::channel(BlockRef::NONE);
    let view = ChainView { shared: shared.clone(), changed: changes, heads };
    let told = driver::Told { changed, best };
    let driver = Driver::new(chain, Buffers::new(limit, patience), shared, told, metrics);
    driver.advance();
    (view, driver)
}
