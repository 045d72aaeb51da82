//! The chain that the benchmarks' views follow: one fork, every block final at once, and no runtime
//! behind it, so that what is measured is the view.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{StreamExt as _, channel::mpsc, stream::BoxStream};
use nsn_node::offchain::chain_view::{BlockRef, Chain, Heads, Metrics, ReadError};
use nsn_runtime::Hash;
use pallet_reputation_runtime_api::{Earned, OverlayKey, PeerChange, PeerEarned, Scores};
use prometheus_endpoint::{PrometheusError, Registry};

/// Day of every block.
pub(crate) const DAY: u16 = 100;

/// The key of a number, as evenly spread as a real one.
pub(crate) fn key(n: usize) -> OverlayKey {
    *blake3::hash(&n.to_le_bytes()).as_bytes()
}

/// What peer `n` has earned by its `step`th change. One in ten earned above neutral and rested since:
/// its scores have to be decayed when they are read.
pub(crate) fn earned(n: usize, step: usize) -> Earned {
    let seeder = 400 + u16::try_from((n + step) % 500).unwrap_or_default();
    let moved = if n.is_multiple_of(10) { DAY - 30 } else { DAY };
    Earned { scores: Scores { seeder, ..Scores::default() }, days: [moved; 3] }
}

/// Peers `0..count`.
pub(crate) fn peers(count: usize) -> Vec<PeerEarned> {
    (0..count).map(|n| PeerEarned { key: key(n), earned: earned(n, 0) }).collect()
}

/// Metrics that nobody reads.
pub(crate) fn metrics() -> Result<Metrics, PrometheusError> {
    Metrics::register(&Registry::new())
}

#[derive(Default)]
struct State {
    number: u32,
    /// Handed over when it is read, so that nothing is copied in between.
    peers: Vec<PeerEarned>,
    changes: Vec<PeerChange>,
    wake: Vec<mpsc::UnboundedSender<()>>,
}

/// See the module's description. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Script(Arc<Mutex<State>>);

impl Script {
    /// A chain whose first block has `peers`.
    pub(crate) fn new(peers: Vec<PeerEarned>) -> Self {
        Self(Arc::new(Mutex::new(State { peers, ..State::default() })))
    }

    /// A block with `changes` is imported and final.
    pub(crate) fn push(&self, changes: Vec<PeerChange>) {
        let mut state = self.lock();
        state.number += 1;
        state.changes = changes;
        state.wake.retain(|wake| wake.unbounded_send(()).is_ok());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Chain for Script {
    fn heads(&self) -> Heads {
        let number = self.lock().number;
        let head = BlockRef { number, hash: Hash::from_low_u64_be(u64::from(number) + 1) };
        Heads { best: head, finalized: head }
    }

    fn descends(&self, _: BlockRef, _: BlockRef) -> Result<bool, ReadError> {
        Ok(true)
    }

    fn revision(&self, at: BlockRef) -> Result<u64, ReadError> {
        Ok(u64::from(at.number))
    }

    fn day(&self, _: BlockRef) -> Result<u16, ReadError> {
        Ok(DAY)
    }

    /// What was pushed last; the view asks once for each block.
    fn changes_since(&self, _: BlockRef, _: u64) -> Result<Option<Vec<PeerChange>>, ReadError> {
        Ok(Some(std::mem::take(&mut self.lock().changes)))
    }

    fn peers(&self, _: BlockRef, _: usize) -> Result<Vec<PeerEarned>, ReadError> {
        Ok(std::mem::take(&mut self.lock().peers))
    }

    fn validators(&self, _: BlockRef) -> Result<HashSet<OverlayKey>, ReadError> {
        Ok(HashSet::new())
    }

    fn wakeups(&self) -> BoxStream<'static, ()> {
        let (sender, receiver) = mpsc::unbounded();
        self.lock().wake.push(sender);
        receiver.boxed()
    }
}
