//! A scripted block tree: a chain that a test grows by hand.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex},
};

use futures::{StreamExt, channel::mpsc, stream::BoxStream};
use nsn_runtime::Hash;
use pallet_reputation_runtime_api::{Earned, OverlayKey, PeerChange, PeerEarned, Scores};

use super::super::{BlockRef, Chain, Heads, ReadError};

/// The state of a block.
#[derive(Clone)]
pub(super) struct Node {
    parent: Option<Hash>,
    pub(super) number: u32,
    pub(super) revision: u64,
    pub(super) day: u16,
    pub(super) peers: BTreeMap<OverlayKey, Earned>,
    pub(super) validators: HashSet<OverlayKey>,
    pub(super) readable: bool,
}

impl Node {
    /// The scores of `key` move, as in a block that changes something.
    pub(super) fn earn(&mut self, key: OverlayKey, earned: Earned) {
        self.revision += 1;
        self.peers.insert(key, earned);
    }

    /// `key` is not bound any more.
    pub(super) fn unbind(&mut self, key: OverlayKey) {
        self.revision += 1;
        self.peers.remove(&key);
    }
}

struct State {
    nodes: HashMap<Hash, Node>,
    heads: Heads,
    wake: Vec<mpsc::UnboundedSender<()>>,
    /// Revisions that the log reaches back; `None` for a runtime without a log.
    log: Option<u64>,
    reads: usize,
}

/// A block tree that a test grows by hand.
#[derive(Clone)]
pub(super) struct Tree(Arc<Mutex<State>>);

pub(super) fn block(id: u64, number: u32) -> BlockRef {
    BlockRef { number, hash: Hash::from_low_u64_be(id) }
}

pub(super) const GENESIS: u64 = 1;

/// Neutral but for the seeder component, which moved on day 0.
pub(super) fn seeder(score: u16) -> Earned {
    Earned { scores: Scores { seeder: score, ..Default::default() }, days: [0; 3] }
}

impl Tree {
    pub(super) fn new() -> Self {
        let genesis = block(GENESIS, 0);
        let node = Node {
            parent: None,
            number: 0,
            revision: 0,
            day: 0,
            peers: BTreeMap::new(),
            validators: HashSet::new(),
            readable: true,
        };
        Self(Arc::new(Mutex::new(State {
            nodes: [(genesis.hash, node)].into(),
            heads: Heads { best: genesis, finalized: genesis },
            wake: Vec::new(),
            log: Some(u64::MAX),
            reads: 0,
        })))
    }

    /// Adds a child of `parent`, changed by `change`.
    pub(super) fn grow(
        &self,
        parent: BlockRef,
        id: u64,
        change: impl FnOnce(&mut Node),
    ) -> BlockRef {
        let mut state = self.0.lock().unwrap();
        let mut node = state.nodes[&parent.hash].clone();
        node.parent = Some(parent.hash);
        node.number += 1;
        node.readable = true;
        change(&mut node);
        let new = block(id, node.number);
        assert!(state.nodes.insert(new.hash, node).is_none(), "an id is used once");
        new
    }

    pub(super) fn set(&self, best: BlockRef, finalized: BlockRef) {
        let mut state = self.0.lock().unwrap();
        state.heads = Heads { best, finalized };
        state.wake.retain(|wake| wake.unbounded_send(()).is_ok());
    }

    /// The log reaches `revisions` back from now on; `None` takes the call away.
    pub(super) fn set_log(&self, revisions: Option<u64>) {
        self.0.lock().unwrap().log = revisions;
    }

    /// Whether the state of `at` can be read.
    pub(super) fn set_readable(&self, at: BlockRef, readable: bool) {
        self.0.lock().unwrap().nodes.get_mut(&at.hash).unwrap().readable = readable;
    }

    /// How often all peers were read.
    pub(super) fn reads(&self) -> usize {
        self.0.lock().unwrap().reads
    }

    /// The state of `at`, readable or not.
    pub(super) fn truth(&self, at: BlockRef) -> Node {
        self.0.lock().unwrap().nodes[&at.hash].clone()
    }

    fn node(&self, at: BlockRef) -> Result<Node, ReadError> {
        let node = self.truth(at);
        node.readable
            .then_some(node)
            .ok_or_else(|| ReadError::Ancestry(sp_blockchain::Error::UnknownBlock("pruned".into())))
    }
}

impl Chain for Tree {
    fn heads(&self) -> Heads {
        self.0.lock().unwrap().heads
    }

    fn descends(&self, block: BlockRef, ancestor: BlockRef) -> Result<bool, ReadError> {
        let state = self.0.lock().unwrap();
        let mut at = Some(block.hash);
        while let Some(hash) = at {
            if hash == ancestor.hash {
                return Ok(true);
            }
            at = state.nodes[&hash].parent;
        }
        Ok(false)
    }

    fn revision(&self, at: BlockRef) -> Result<u64, ReadError> {
        Ok(self.node(at)?.revision)
    }

    fn day(&self, at: BlockRef) -> Result<u16, ReadError> {
        Ok(self.node(at)?.day)
    }

    /// What differs from the ancestor *on this block's fork* that had `revision`, as a chain answers
    /// that knows nothing of who asks.
    fn changes_since(
        &self,
        at: BlockRef,
        revision: u64,
    ) -> Result<Option<Vec<PeerChange>>, ReadError> {
        let node = self.node(at)?;
        let state = self.0.lock().unwrap();
        let reach = state
            .log
            .ok_or_else(|| ReadError::Ancestry(sp_blockchain::Error::Backend("no call".into())))?;
        if revision > node.revision || node.revision - revision > reach {
            return Ok(None);
        }
        let mut before = &node;
        while before.revision > revision {
            match before.parent {
                Some(parent) => before = &state.nodes[&parent],
                None => return Ok(None),
            }
        }
        if before.revision != revision {
            return Ok(None);
        }
        let gone = before.peers.keys().filter(|key| !node.peers.contains_key(*key));
        let gone = gone.map(|key| PeerChange { key: *key, earned: None });
        let moved = node.peers.iter().filter(|(key, now)| before.peers.get(*key) != Some(now));
        let moved = moved.map(|(key, now)| PeerChange { key: *key, earned: Some(*now) });
        Ok(Some(moved.chain(gone).collect()))
    }

    fn peers(&self, at: BlockRef, limit: usize) -> Result<Vec<PeerEarned>, ReadError> {
        let node = self.node(at)?;
        self.0.lock().unwrap().reads += 1;
        let all = node.peers.into_iter().map(|(key, earned)| PeerEarned { key, earned });
        Ok(all.take(limit + 1).collect())
    }

    fn validators(&self, at: BlockRef) -> Result<HashSet<OverlayKey>, ReadError> {
        Ok(self.node(at)?.validators)
    }

    fn wakeups(&self) -> BoxStream<'static, ()> {
        let (sender, receiver) = mpsc::unbounded();
        self.0.lock().unwrap().wake.push(sender);
        receiver.boxed()
    }
}
