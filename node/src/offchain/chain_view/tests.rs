//! The view on a scripted block tree: forks, reorgs, equal revisions, failing reads.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::{StreamExt, channel::mpsc, stream::BoxStream};
use nsn_runtime::Hash;
use pallet_reputation_runtime_api::{OverlayKey, Scores};
use proptest::prelude::*;

use super::{BlockRef, Chain, Metrics, ReadError, build, client::Heads};

#[derive(Clone)]
struct Node {
    parent: Option<Hash>,
    number: u32,
    revision: u64,
    scores: HashMap<OverlayKey, Scores>,
    validators: HashSet<OverlayKey>,
    readable: bool,
}

struct State {
    nodes: HashMap<Hash, Node>,
    heads: Heads,
    wake: Vec<mpsc::UnboundedSender<()>>,
}

/// A block tree that a test grows by hand.
#[derive(Clone)]
struct Tree {
    state: Arc<Mutex<State>>,
    full_reads: Arc<AtomicUsize>,
}

fn block(id: u64, number: u32) -> BlockRef {
    BlockRef { number, hash: Hash::from_low_u64_be(id) }
}

fn seeder(score: u16) -> Scores {
    Scores { seeder: score, ..Default::default() }
}

impl Tree {
    fn new() -> Self {
        let genesis = block(1, 0);
        let node = Node {
            parent: None,
            number: 0,
            revision: 0,
            scores: HashMap::new(),
            validators: HashSet::new(),
            readable: true,
        };
        let state = State {
            nodes: [(genesis.hash, node)].into(),
            heads: Heads { best: genesis, finalized: genesis },
            wake: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), full_reads: Arc::default() }
    }

    /// Adds a child of `parent`, changed by `change`.
    fn grow(&self, parent: BlockRef, id: u64, change: impl FnOnce(&mut Node)) -> BlockRef {
        let mut state = self.state.lock().unwrap();
        let mut node = state.nodes[&parent.hash].clone();
        node.parent = Some(parent.hash);
        node.number += 1;
        change(&mut node);
        let new = block(id, node.number);
        state.nodes.insert(new.hash, node);
        new
    }

    fn set(&self, best: BlockRef, finalized: BlockRef) {
        let mut state = self.state.lock().unwrap();
        state.heads = Heads { best, finalized };
        state.wake.retain(|wake| wake.unbounded_send(()).is_ok());
    }

    fn node(&self, at: BlockRef) -> Result<Node, ReadError> {
        let node = self.state.lock().unwrap().nodes[&at.hash].clone();
        node.readable
            .then_some(node)
            .ok_or_else(|| ReadError::Ancestry(sp_blockchain::Error::UnknownBlock("pruned".into())))
    }
}

impl Chain for Tree {
    fn heads(&self) -> Heads {
        self.state.lock().unwrap().heads
    }

    fn descends(&self, block: BlockRef, ancestor: BlockRef) -> Result<bool, ReadError> {
        let state = self.state.lock().unwrap();
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

    fn reputation(
        &self,
        at: BlockRef,
        limit: usize,
    ) -> Result<HashMap<OverlayKey, Scores>, ReadError> {
        self.full_reads.fetch_add(1, Ordering::SeqCst);
        Ok(self.node(at)?.scores.into_iter().take(limit).collect())
    }

    fn validators(&self, at: BlockRef) -> Result<HashSet<OverlayKey>, ReadError> {
        Ok(self.node(at)?.validators)
    }

    fn wakeups(&self) -> BoxStream<'static, ()> {
        let (sender, receiver) = mpsc::unbounded();
        self.state.lock().unwrap().wake.push(sender);
        receiver.boxed()
    }
}

fn metrics() -> Metrics {
    Metrics::register(&prometheus_endpoint::Registry::new()).unwrap()
}

const KEY: OverlayKey = [7; 32];

#[test]
fn the_first_snapshot_is_true_before_the_driver_runs() {
    let tree = Tree::new();
    let one = tree.grow(block(1, 0), 2, |n| {
        n.revision = 1;
        n.scores.insert(KEY, seeder(600));
    });
    tree.set(one, block(1, 0));
    let (view, _driver) = build(tree, metrics());
    let snapshot = view.snapshot();
    assert_eq!(snapshot.best.block, one);
    assert_eq!(snapshot.best.reputation.get(&KEY), Some(&seeder(600)));
    assert_eq!(snapshot.finalized.block.number, 0);
    assert_eq!(view.scores(&KEY), None, "not finalised yet");
}

#[test]
fn a_descendant_with_the_same_revision_keeps_the_table() {
    let tree = Tree::new();
    let (view, driver) = build(tree.clone(), metrics());
    let reads = tree.full_reads.load(Ordering::SeqCst);
    let mut head = block(1, 0);
    for id in 2..50 {
        head = tree.grow(head, id, |_| {});
        tree.set(head, head);
        driver.refresh();
    }
    assert_eq!(view.snapshot().best.block, head);
    assert_eq!(tree.full_reads.load(Ordering::SeqCst), reads);
    assert_eq!(*view.changes().borrow(), 0);
}

#[test]
fn equal_revisions_on_two_forks_do_not_mix() {
    let tree = Tree::new();
    let base = block(1, 0);
    let left = tree.grow(base, 2, |n| {
        n.revision = 1;
        n.scores.insert(KEY, seeder(900));
    });
    let right = tree.grow(base, 3, |n| {
        n.revision = 1;
        n.scores.insert(KEY, seeder(100));
    });
    let right_tip = tree.grow(right, 4, |_| {});
    let (view, driver) = build(tree.clone(), metrics());
    tree.set(left, base);
    driver.refresh();
    assert_eq!(view.snapshot().best.reputation.get(&KEY), Some(&seeder(900)));
    tree.set(right_tip, base);
    driver.refresh();
    assert_eq!(view.snapshot().best.reputation.get(&KEY), Some(&seeder(100)));
    assert_eq!(view.scores(&KEY), None, "nothing of either fork is final");
}

#[test]
fn a_binding_that_a_reorg_undoes_is_gone() {
    let tree = Tree::new();
    let base = block(1, 0);
    let bound = tree.grow(base, 2, |n| {
        n.revision = 1;
        n.scores.insert(KEY, seeder(500));
    });
    let other = tree.grow(base, 3, |_| {});
    let (view, driver) = build(tree.clone(), metrics());
    tree.set(bound, base);
    driver.refresh();
    assert!(view.snapshot().best.reputation.contains_key(&KEY));
    tree.set(other, base);
    driver.refresh();
    assert!(view.snapshot().best.reputation.is_empty());
}

#[test]
fn an_unreadable_block_leaves_the_last_true_view() {
    let tree = Tree::new();
    let base = block(1, 0);
    let gone = tree.grow(base, 2, |n| n.readable = false);
    let (view, driver) = build(tree.clone(), metrics());
    tree.set(gone, base);
    driver.refresh();
    assert_eq!(view.snapshot().best.block, base);
    let next = tree.grow(gone, 3, |n| n.readable = true);
    tree.set(next, base);
    driver.refresh();
    assert_eq!(view.snapshot().best.block, next);
}

#[test]
fn a_chain_whose_state_is_not_there_yet_gives_an_empty_view_that_fills_later() {
    let tree = Tree::new();
    let base = block(1, 0);
    let unreadable = tree.grow(base, 2, |n| n.readable = false);
    tree.set(unreadable, unreadable);
    let (view, driver) = build(tree.clone(), metrics());
    assert!(view.snapshot().best.reputation.is_empty());
    driver.refresh();
    let next = tree.grow(unreadable, 3, |n| {
        n.readable = true;
        n.scores.insert(KEY, seeder(300));
    });
    tree.set(next, next);
    driver.refresh();
    assert_eq!(view.snapshot().best.block, next);
    assert_eq!(view.scores(&KEY), Some(seeder(300)));
}

#[test]
fn a_change_of_validators_alone_is_seen_and_told() {
    let tree = Tree::new();
    let base = block(1, 0);
    let next = tree.grow(base, 2, |n| {
        n.validators.insert(KEY);
    });
    let (view, driver) = build(tree.clone(), metrics());
    assert!(!view.is_validator(&KEY));
    tree.set(next, next);
    driver.refresh();
    assert!(view.is_validator(&KEY));
    assert_eq!(*view.changes().borrow(), 1);
}

#[tokio::test]
async fn the_driver_wakes_on_notifications_and_ends_on_its_token() {
    let tree = Tree::new();
    let base = block(1, 0);
    let (view, driver) = build(tree.clone(), metrics());
    let shutdown = tokio_util::sync::CancellationToken::new();
    let running = tokio::spawn(Arc::new(driver).run(shutdown.clone()));
    let next = tree.grow(base, 2, |n| {
        n.revision = 5;
        n.scores.insert(KEY, seeder(250));
    });
    let mut changes = view.changes();
    tree.set(next, next);
    changes.changed().await.unwrap();
    assert_eq!(view.scores(&KEY), Some(seeder(250)));
    shutdown.cancel();
    running.await.unwrap();
}

proptest! {
    /// Whatever the order of growth, reorgs and finality, a view is exactly the state of the block
    /// that it names, and it names the head.
    #[test]
    fn a_view_always_equals_the_state_of_its_block(
        steps in prop::collection::vec((any::<u16>(), 0u16..1000, any::<bool>(), any::<bool>()), 1..60)
    ) {
        let tree = Tree::new();
        let (view, driver) = build(tree.clone(), metrics());
        let mut blocks = vec![block(1, 0)];
        for (index, (pick, score, touch, refresh)) in steps.into_iter().enumerate() {
            let parent = blocks[usize::from(pick) % blocks.len()];
            let new = tree.grow(parent, index as u64 + 2, |node| if touch {
                node.revision += 1;
                node.scores.insert([(pick % 5) as u8; 32], seeder(score));
            });
            blocks.push(new);
            let finalized = view.snapshot().finalized.block;
            tree.set(new, finalized);
            if refresh {
                driver.refresh();
                let snapshot = view.snapshot();
                prop_assert_eq!(snapshot.best.block, new);
                let truth = tree.node(new).unwrap();
                prop_assert_eq!(&*snapshot.best.reputation, &truth.scores);
                prop_assert_eq!(snapshot.best.revision, truth.revision);
            }
        }
    }
}
