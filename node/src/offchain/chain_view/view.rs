//! What the state of one block says, as readers hold it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, OnceLock},
};

use codec::Encode as _;
use pallet_reputation_runtime_api::{Earned, OverlayKey, PeerChange, PeerEarned, Scores};

use super::{decay, table::Table};

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
    pub(super) const NONE: Self = Self { number: 0, hash: nsn_runtime::Hash::zero() };
}

/// What differs from a table: what a key has earned, or that it is not bound.
type Delta = HashMap<OverlayKey, Option<Earned>, foldhash::quality::RandomState>;

/// What all peers have earned: a table, and what is different since.
///
/// Views at which nothing changed share it, so a comparison of pointers tells a change.
#[derive(Clone)]
pub(super) struct Peers {
    table: Arc<Table>,
    /// Empty in a finalised view.
    delta: Arc<Delta>,
    len: usize,
    digest: Arc<OnceLock<[u8; 32]>>,
}

impl Peers {
    pub(super) fn of(table: Arc<Table>) -> Self {
        Self { len: table.len(), table, delta: Arc::default(), digest: Arc::default() }
    }

    /// The same table with `changes` on top of what is different already.
    pub(super) fn with(&self, changes: &[PeerChange]) -> Self {
        let mut delta = Delta::clone(&self.delta);
        delta.reserve(changes.len());
        delta.extend(changes.iter().map(|change| (change.key, change.earned)));
        let mut len = self.table.len();
        for (key, earned) in &delta {
            match (self.table.get(key), earned) {
                (None, Some(_)) => len += 1,
                (Some(_), None) => len -= 1,
                _ => {}
            }
        }
        Self { table: self.table.clone(), delta: Arc::new(delta), len, digest: Arc::default() }
    }

    /// Keys that are different from the table.
    pub(super) fn different(&self) -> usize {
        self.delta.len()
    }

    /// Whether both stand on one table.
    pub(super) fn same_table(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.table, &other.table)
    }

    /// Whether both are one: the same table and the same differences.
    pub(super) fn same(&self, other: &Self) -> bool {
        self.same_table(other) && Arc::ptr_eq(&self.delta, &other.delta)
    }

    fn earned(&self, key: &OverlayKey) -> Option<&Earned> {
        if !self.delta.is_empty()
            && let Some(earned) = self.delta.get(key)
        {
            return earned.as_ref();
        }
        self.table.get(key)
    }

    fn iter(&self) -> impl Iterator<Item = PeerEarned> {
        let kept = self.table.iter().filter(|peer| !self.delta.contains_key(&peer.key)).copied();
        let different = self
            .delta
            .iter()
            .filter_map(|(key, earned)| earned.map(|earned| PeerEarned { key: *key, earned }));
        kept.chain(different)
    }
}

/// What the state of one block says. Cheap to clone.
#[derive(Clone)]
pub struct View {
    /// The block whose state this is.
    pub block: BlockRef,
    /// The reputation revision in that state; comparable along one fork only.
    pub revision: u64,
    /// The day of the block, counted from the chain's first: scores decay with it.
    pub day: u16,
    /// Overlay keys bound to current validators. At most a few for each validator.
    pub validators: Arc<HashSet<OverlayKey>>,
    pub(super) peers: Peers,
}

impl View {
    /// The view of no block: nobody is bound.
    pub(super) fn empty() -> Self {
        Self {
            block: BlockRef::NONE,
            revision: 0,
            day: 0,
            validators: Arc::default(),
            peers: Peers::of(Arc::default()),
        }
    }

    /// What the scores of `key` are worth on this block's day; `None` for a key that no account
    /// answers for. Some ten nanoseconds.
    pub fn scores(&self, key: &OverlayKey) -> Option<Scores> {
        self.peers.earned(key).map(|earned| decay::on(earned, self.day))
    }

    /// The same, for a view that is known to differ in nothing from its table: a finalised one.
    #[inline]
    pub(super) fn table_scores(&self, key: &OverlayKey) -> Option<Scores> {
        self.peers.table.get(key).map(|earned| decay::on(earned, self.day))
    }

    /// What the account of `key` has earned, before any decay.
    pub fn earned(&self, key: &OverlayKey) -> Option<Earned> {
        self.peers.earned(key).copied()
    }

    /// The keys that an account answers for.
    pub const fn bound(&self) -> usize {
        self.peers.len
    }

    /// All of them, in no order that means anything.
    pub fn peers(&self) -> impl Iterator<Item = PeerEarned> {
        self.peers.iter()
    }

    /// The digest if it is known already: see [`View::digest`].
    pub fn known_digest(&self) -> Option<[u8; 32]> {
        self.peers.digest.get().copied()
    }

    /// BLAKE3 over the SCALE encoding of all peers (key and what was earned, 44 bytes each) in the
    /// order of their keys: what two nodes compare that stand at the same block.
    ///
    /// Worked out once for each content, and that is work: at 1,000,000 peers some hundred
    /// milliseconds and 44 MB for as long as it takes. For a thread that may block.
    pub fn digest(&self) -> [u8; 32] {
        *self.peers.digest.get_or_init(|| {
            let mut peers: Vec<PeerEarned> = self.peers.iter().collect();
            peers.sort_unstable_by_key(|peer| peer.key);
            let mut hasher = blake3::Hasher::new();
            for peer in &peers {
                peer.using_encoded(|bytes| hasher.update(bytes));
            }
            *hasher.finalize().as_bytes()
        })
    }
}

/// The best and the finalised view, taken together.
#[derive(Clone)]
pub struct Snapshot {
    /// State of the best block: early, and may be undone by a reorg. What hints are taken from.
    pub best: View,
    /// State of the finalised block: what penalties act on.
    pub finalized: View,
}
