//! The view on a scripted block tree: forks, reorgs, equal revisions, gaps in the log, failing reads.

mod tree;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use codec::Encode as _;
use pallet_reputation_runtime_api::{Earned, OverlayKey, Scores};
use proptest::prelude::*;

use super::{
    BlockRef, ChainView, Driver, Metrics, Snapshot, View, buffers::Copied, build, build_with,
    follow::How,
};
use tree::{GENESIS, Tree, block, seeder};

fn metrics() -> Metrics {
    Metrics::register(&prometheus_endpoint::Registry::new()).unwrap()
}

/// A view whose finalised block has a key's scores `before`, and whose best block has those `after`.
pub(in crate::offchain) fn view_of(key: OverlayKey, before: Scores, after: Scores) -> ChainView {
    let tree = Tree::new();
    let earned = |scores| Earned { scores, days: [0; 3] };
    let finalized = tree.grow(block(GENESIS, 0), 2, |n| n.earn(key, earned(before)));
    let best = tree.grow(finalized, 3, |n| n.earn(key, earned(after)));
    tree.set(best, finalized);
    build(tree, metrics()).0
}

/// A view of a tree, its driver, and what it counts.
struct World {
    tree: Tree,
    view: ChainView,
    driver: Driver<Tree>,
    metrics: Metrics,
}

fn world(tree: Tree) -> World {
    world_with(tree, 1_000)
}

fn world_with(tree: Tree, limit: usize) -> World {
    let metrics = metrics();
    let (view, driver) = build_with(tree.clone(), metrics.clone(), limit, Duration::ZERO);
    World { tree, view, driver, metrics }
}

impl World {
    /// The heads are these now, and the driver has seen it.
    fn set(&self, best: BlockRef, finalized: BlockRef) -> Arc<Snapshot> {
        self.tree.set(best, finalized);
        self.driver.refresh();
        let snapshot = self.view.snapshot();
        assert_eq!((snapshot.best.block, snapshot.finalized.block), (best, finalized));
        self.check(&snapshot);
        snapshot
    }

    /// Both views are the state of the block that they name.
    fn check(&self, snapshot: &Snapshot) {
        for view in [&snapshot.best, &snapshot.finalized] {
            if view.block != BlockRef::NONE {
                self.check_one(view);
            }
        }
    }

    fn check_one(&self, view: &View) {
        let truth = self.tree.truth(view.block);
        assert_eq!((view.revision, view.day), (truth.revision, truth.day));
        assert_eq!(*view.validators, truth.validators);
        let all: BTreeMap<OverlayKey, Earned> =
            view.peers().map(|peer| (peer.key, peer.earned)).collect();
        assert_eq!(all, truth.peers);
        assert_eq!((view.bound(), view.peers().count()), (all.len(), all.len()));
        for n in 0..=u8::MAX {
            let earned = truth.peers.get(&[n; 32]);
            assert_eq!(view.earned(&[n; 32]).as_ref(), earned);
            assert_eq!(view.scores(&[n; 32]), earned.map(|earned| earned.on(truth.day)));
        }
        let encoded: Vec<u8> = truth.peers.iter().flat_map(|peer| peer.encode()).collect();
        assert_eq!(view.digest(), *blake3::hash(&encoded).as_bytes());
    }
}

const KEY: OverlayKey = [7; 32];
const OTHER: OverlayKey = [8; 32];

/// The key that block `id` is about.
fn key(id: u64) -> OverlayKey {
    [id.to_le_bytes()[0]; 32]
}

#[test]
fn the_first_snapshot_is_true_before_the_driver_runs() {
    let tree = Tree::new();
    let one = tree.grow(block(GENESIS, 0), 2, |n| n.earn(KEY, seeder(600)));
    tree.set(one, block(GENESIS, 0));
    let (view, _driver) = build(tree, metrics());
    let snapshot = view.snapshot();
    assert_eq!(snapshot.best.block, one);
    assert_eq!(snapshot.best.earned(&KEY), Some(seeder(600)));
    assert_eq!(snapshot.finalized.block.number, 0);
    assert_eq!(view.scores(&KEY), None, "not finalised yet");
    assert_eq!(view.hint(&KEY), Some(seeder(600).scores));
    assert_eq!(*view.changes().borrow(), 0, "nothing was different before");
}

#[test]
fn a_descendant_with_the_same_revision_keeps_the_table() {
    let world = world(Tree::new());
    let reads = world.tree.reads();
    let mut head = block(GENESIS, 0);
    for id in 2..50 {
        head = world.tree.grow(head, id, |_| {});
        world.set(head, head);
    }
    assert_eq!(world.tree.reads(), reads);
    assert_eq!(*world.view.changes().borrow(), 0);
    assert_eq!(world.metrics.advances("finalized", How::Kept), 48);
    assert_eq!(world.metrics.block("best"), 48);
}

#[test]
fn changes_are_followed_by_the_log_and_all_peers_are_read_once() {
    let world = world(Tree::new());
    let mut head = block(GENESIS, 0);
    for (id, score) in (2..50).zip(300..) {
        let key = key(id % 9);
        head = world.tree.grow(head, id, |node| match id % 5 {
            0 => node.unbind(key),
            _ => node.earn(key, seeder(score)),
        });
        world.set(head, head);
    }
    assert_eq!(world.tree.reads(), 1, "when there was nothing");
    assert_eq!(world.metrics.advances("finalized", How::Changed), 48);
    assert!((40..=48).contains(&world.metrics.changes("finalized")));
    assert_eq!(world.metrics.copies(Copied::First), 1, "the spare table");
    assert_eq!(world.metrics.copies(Copied::Held), 0);
    assert_eq!(world.metrics.seconds("finalized"), 49);
    assert_eq!(*world.view.changes().borrow(), 48);
}

#[test]
fn a_snapshot_stays_what_it_was_and_costs_a_copy() {
    let world = world(Tree::new());
    let mut head = block(GENESIS, 0);
    let mut held = Vec::new();
    for id in 2..12 {
        head = world.tree.grow(head, id, |n| n.earn(key(id), seeder(300)));
        held.push(world.set(head, head));
    }
    for snapshot in &held {
        world.check(snapshot);
    }
    // But for the first two steps, which found no spare, and one that nobody had seen.
    assert_eq!(world.metrics.copies(Copied::Held), 8);
    // Once they are gone, the tables change places again.
    held.clear();
    for id in 12..22 {
        head = world.tree.grow(head, id, |n| n.earn(key(id), seeder(300)));
        world.set(head, head);
    }
    assert_eq!(world.metrics.copies(Copied::Held), 8);
    assert_eq!(world.metrics.peers(), 20);
}

#[test]
fn where_the_log_does_not_reach_all_peers_are_read() {
    for log in [Some(3), None] {
        let world = world(Tree::new());
        world.tree.set_log(log);
        let mut head = block(GENESIS, 0);
        for id in 2..12 {
            head = world.tree.grow(head, id, |n| n.earn(key(id), seeder(300)));
        }
        world.set(head, head);
        assert_eq!(world.metrics.advances("finalized", How::Rebuilt), 2, "the first is one");
        assert_eq!(world.view.scores(&[11; 32]), Some(seeder(300).scores));
    }
}

#[test]
fn a_best_block_far_ahead_of_finality_costs_its_changes_too() {
    let world = world(Tree::new());
    let base = block(GENESIS, 0);
    world.tree.set_log(Some(3));
    let mut head = base;
    for id in 2..40 {
        head = world.tree.grow(head, id, |n| n.earn(key(id), seeder(300)));
        world.set(head, base);
    }
    assert_eq!(world.tree.reads(), 1, "the best view goes on from the one before");
    // Finality has caught up: the best view stands on the finalised table again.
    let snapshot = world.set(head, head);
    assert!(snapshot.best.peers.same(&snapshot.finalized.peers));
    // A jump beyond the log, away from both: read, and then followed from there.
    for id in 40..50 {
        head = world.tree.grow(head, id, |n| n.earn(key(id), seeder(300)));
    }
    let finalized = world.view.snapshot().finalized.block;
    world.set(head, finalized);
    assert_eq!(world.metrics.advances("best", How::Rebuilt), 1);
    let next = world.tree.grow(head, 50, |n| n.unbind([41; 32]));
    world.set(next, finalized);
    assert_eq!(world.metrics.advances("best", How::Rebuilt), 1);
}

#[test]
fn equal_revisions_on_two_forks_do_not_mix() {
    let world = world(Tree::new());
    let base = block(GENESIS, 0);
    let left = world.tree.grow(base, 2, |n| n.earn(KEY, seeder(900)));
    let right = world.tree.grow(base, 3, |n| n.earn(OTHER, seeder(100)));
    let right_tip = world.tree.grow(right, 4, |_| {});
    let snapshot = world.set(left, base);
    assert_eq!(snapshot.best.earned(&KEY), Some(seeder(900)));
    let snapshot = world.set(right_tip, base);
    assert_eq!(snapshot.best.earned(&OTHER), Some(seeder(100)));
    assert_eq!(snapshot.best.earned(&KEY), None);
    assert_eq!(world.view.scores(&KEY), None, "nothing of either fork is final");
    assert_eq!(world.metrics.advances("best", How::Reorganised), 1);
    assert_eq!(world.tree.reads(), 1, "a reorg costs what differs");
    // And back, deeper, with the finalised block moving under it at the same time.
    let left_tip = world.tree.grow(left, 5, |n| n.earn(OTHER, seeder(901)));
    let snapshot = world.set(left_tip, left);
    assert_eq!(snapshot.finalized.earned(&OTHER), None);
    assert_eq!(world.metrics.advances("best", How::Reorganised), 2);
}

#[test]
fn a_reorg_without_a_log_reads_all_peers() {
    let world = world(Tree::new());
    world.tree.set_log(None);
    let base = block(GENESIS, 0);
    let left = world.tree.grow(base, 2, |n| n.earn(KEY, seeder(900)));
    let right = world.tree.grow(base, 3, |n| n.earn(OTHER, seeder(100)));
    world.set(left, base);
    world.set(right, base);
    assert_eq!(world.metrics.advances("best", How::Rebuilt), 2);
}

#[test]
fn a_binding_that_a_reorg_undoes_is_gone() {
    let world = world(Tree::new());
    let base = block(GENESIS, 0);
    let bound = world.tree.grow(base, 2, |n| n.earn(KEY, seeder(500)));
    let other = world.tree.grow(base, 3, |_| {});
    assert_eq!(world.set(bound, base).best.bound(), 1);
    assert_eq!(world.set(other, base).best.bound(), 0);
}

#[test]
fn scores_decay_with_the_day_and_that_is_told() {
    let world = world(Tree::new());
    let one = world.tree.grow(block(GENESIS, 0), 2, |n| n.earn(KEY, seeder(900)));
    world.set(one, one);
    let week = world.tree.grow(one, 3, |n| n.day = 7);
    world.set(week, week);
    assert_eq!(world.view.scores(&KEY).unwrap().seeder, 880);
    assert_eq!(world.metrics.advances("finalized", How::Kept), 1, "the table is the same");
    assert_eq!(*world.view.changes().borrow(), 2);
}

#[test]
fn an_unreadable_block_leaves_the_last_true_view() {
    let world = world(Tree::new());
    let base = block(GENESIS, 0);
    let gone = world.tree.grow(base, 2, |n| n.earn(KEY, seeder(300)));
    world.tree.set_readable(gone, false);
    world.tree.set(gone, base);
    world.driver.refresh();
    assert_eq!(world.view.snapshot().best.block, base);
    assert_eq!(world.metrics.failures("best"), 1);
    let next = world.tree.grow(gone, 3, |n| n.unbind(KEY));
    world.set(next, base);
    // The best one fails, and finality overtakes what was known of it.
    let last = world.tree.grow(next, 4, |_| {});
    let lost = world.tree.grow(last, 5, |_| {});
    world.tree.set_readable(lost, false);
    world.tree.set(lost, last);
    world.driver.refresh();
    assert_eq!(world.view.snapshot().best.block, last);
}

#[test]
fn a_chain_whose_state_is_not_there_yet_gives_an_empty_view_that_fills_later() {
    let tree = Tree::new();
    let unreadable = tree.grow(block(GENESIS, 0), 2, |_| {});
    tree.set_readable(unreadable, false);
    tree.set(unreadable, unreadable);
    let world = world(tree);
    assert_eq!(world.view.snapshot().best.bound(), 0);
    world.driver.refresh();
    let next = world.tree.grow(unreadable, 3, |n| n.earn(KEY, seeder(300)));
    world.set(next, next);
    assert_eq!(world.view.scores(&KEY), Some(seeder(300).scores));
}

#[test]
fn a_change_of_validators_alone_is_seen_and_told() {
    let world = world(Tree::new());
    let next = world.tree.grow(block(GENESIS, 0), 2, |n| {
        n.validators.insert(KEY);
    });
    assert!(!world.view.is_validator(&KEY));
    world.set(next, next);
    assert!(world.view.is_validator(&KEY));
    assert_eq!(*world.view.changes().borrow(), 1);
}

#[test]
fn a_view_that_is_full_says_so() {
    let tree = Tree::new();
    let three = tree.grow(block(GENESIS, 0), 2, |n| {
        for key in 0..3 {
            n.earn([key; 32], Earned::default());
        }
    });
    tree.set(three, three);
    let world = world_with(tree, 2);
    assert_eq!(world.view.snapshot().finalized.bound(), 2);
    assert_eq!(world.metrics.refused("finalized"), 1);
    let four = world.tree.grow(three, 3, |n| n.earn([3; 32], Earned::default()));
    world.tree.set(four, four);
    world.driver.refresh();
    assert_eq!(world.view.snapshot().finalized.bound(), 2);
    assert_eq!(world.metrics.refused("finalized"), 2);
}

#[tokio::test]
async fn the_driver_wakes_on_notifications_and_ends_on_its_token() {
    let World { tree, view, driver, .. } = world(Tree::new());
    let shutdown = tokio_util::sync::CancellationToken::new();
    let running = tokio::spawn(Arc::new(driver).run(shutdown.clone()));
    let next = tree.grow(block(GENESIS, 0), 2, |n| n.earn(KEY, seeder(250)));
    let mut changes = view.changes();
    tree.set(next, next);
    changes.changed().await.unwrap();
    assert_eq!(view.scores(&KEY), Some(seeder(250).scores));
    shutdown.cancel();
    running.await.unwrap();
}

/// What a step of the property test does.
#[derive(Clone, Debug)]
enum Step {
    /// A new block on a block, with changes of keys.
    Grow { parent: usize, changes: Vec<(u8, Option<u16>)>, day: bool, validator: bool },
    /// Another best block.
    Best(usize),
    /// Another finalised block, near or far.
    Finalize(usize),
    /// The log reaches so far.
    Log(Option<u64>),
    /// The state of a block cannot be read, or can again.
    Readable(usize, bool),
    /// Somebody keeps the snapshot.
    Hold,
    /// Those who keep one let go.
    Release,
    /// The driver wakes.
    Refresh,
}

fn step() -> impl Strategy<Value = Step> {
    let change = (0u8..12, prop::option::weighted(0.8, 0u16..=1_000));
    let grow = (any::<usize>(), prop::collection::vec(change, 0..5), any::<bool>(), any::<bool>())
        .prop_map(|(parent, changes, day, validator)| Step::Grow {
            parent,
            changes,
            day,
            validator,
        });
    prop_oneof![
        8 => grow,
        4 => any::<usize>().prop_map(Step::Best),
        2 => any::<usize>().prop_map(Step::Finalize),
        1 => prop_oneof![Just(None), (0u64..4).prop_map(Some), Just(Some(u64::MAX))].prop_map(Step::Log),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(at, readable)| Step::Readable(at, readable)),
        1 => Just(Step::Hold),
        1 => Just(Step::Release),
        8 => Just(Step::Refresh),
    ]
}

/// Blocks and heads as the chain has them.
struct Script {
    world: World,
    blocks: Vec<BlockRef>,
    best: BlockRef,
    finalized: BlockRef,
}

impl Script {
    fn new() -> Self {
        let genesis = block(GENESIS, 0);
        let world = world(Tree::new());
        Self { world, blocks: vec![genesis], best: genesis, finalized: genesis }
    }

    /// One of the blocks that descend from the finalised one, which is among them.
    fn pick(&self, which: usize) -> BlockRef {
        let ours = |block: &&BlockRef| self.descends(**block, self.finalized);
        let ours: Vec<&BlockRef> = self.blocks.iter().filter(ours).collect();
        *ours[which % ours.len()]
    }

    fn descends(&self, block: BlockRef, ancestor: BlockRef) -> bool {
        super::Chain::descends(&self.world.tree, block, ancestor).unwrap()
    }

    fn grow(&mut self, parent: usize, changes: Vec<(u8, Option<u16>)>, day: bool, validator: bool) {
        let id = self.blocks.len() as u64 + GENESIS;
        let new = self.world.tree.grow(self.pick(parent), id, |node| {
            node.day += u16::from(day) * 5;
            if validator {
                node.validators = [[(id % 3) as u8; 32]].into();
            }
            // At most one revision a block, and only if something is different.
            let before = node.peers.clone();
            for (key, score) in changes {
                match score {
                    Some(score) => {
                        let scores = Scores { seeder: score, director: 700, ..Scores::default() };
                        node.peers.insert([key; 32], Earned { scores, days: [node.day; 3] });
                    }
                    None => {
                        node.peers.remove(&[key; 32]);
                    }
                }
            }
            node.revision += u64::from(before != node.peers);
        });
        self.blocks.push(new);
    }

    fn refresh(&self) {
        self.world.driver.refresh();
        let snapshot = self.world.view.snapshot();
        self.world.check(&snapshot);
        for (view, head) in [(&snapshot.best, self.best), (&snapshot.finalized, self.finalized)] {
            if self.world.tree.truth(head).readable {
                assert_eq!(view.block, head);
            }
        }
    }

    fn run(&mut self, steps: Vec<Step>) {
        let mut held = Vec::new();
        for step in steps {
            match step {
                Step::Grow { parent, changes, day, validator } => {
                    self.grow(parent, changes, day, validator);
                }
                Step::Best(which) => self.best = self.pick(which),
                Step::Finalize(which) => {
                    self.finalized = self.pick(which);
                    if !self.descends(self.best, self.finalized) {
                        self.best = self.finalized;
                    }
                }
                Step::Log(reach) => self.world.tree.set_log(reach),
                Step::Readable(which, readable) => {
                    self.world.tree.set_readable(self.pick(which), readable);
                }
                Step::Hold => held.push(self.world.view.snapshot()),
                Step::Release => held.clear(),
                Step::Refresh => self.refresh(),
            }
            self.world.tree.set(self.best, self.finalized);
            for snapshot in &held {
                self.world.check(snapshot);
            }
        }
        self.refresh();
    }
}

proptest! {
    /// Whatever the order of growth, reorgs, jumps of finality, gaps in the log, blocks that cannot
    /// be read and readers that hold on: a view is exactly the state of the block that it names, and
    /// it names the head if that can be read.
    #[test]
    fn a_view_always_equals_the_state_of_its_block(steps in prop::collection::vec(step(), 1..80)) {
        Script::new().run(steps);
    }
}
