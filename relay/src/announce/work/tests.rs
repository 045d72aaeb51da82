use super::*;
use crate::{content::ContentId, upstream::Class};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
};

const PAUSE: Duration = Duration::from_millis(50);

fn shard(n: u8) -> Record {
    Record::Shard(ShardId(BlobId([n; 32])))
}

/// A node that keeps the shards and contents of its set, and caches the blobs of its list, the most
/// recently used first.
#[derive(Default)]
struct Node {
    kept: Mutex<BTreeSet<Record>>,
    cached: Mutex<Vec<u8>>,
}

impl Node {
    fn keeping(records: impl IntoIterator<Item = Record>) -> Self {
        Self { kept: Mutex::new(records.into_iter().collect()), ..Self::default() }
    }

    fn all(&self) -> BTreeMap<Record, Class> {
        let cached = self.cached.lock().unwrap();
        let cached = cached.iter().map(|n| (shard(*n), Class::Cached)).collect::<Vec<_>>();
        let kept = self.kept.lock().unwrap();
        cached.into_iter().chain(kept.iter().map(|record| (*record, Class::Kept))).collect()
    }
}

impl Held for Node {
    fn class_of(&self, record: Record) -> Option<Class> {
        self.all().get(&record).copied()
    }

    fn kept_after(&self, after: Option<Record>, limit: usize) -> Vec<Record> {
        let kept = self.kept.lock().unwrap();
        kept.iter().filter(|record| Some(**record) > after).take(limit).copied().collect()
    }

    fn cached(&self, limit: usize) -> Vec<BlobId> {
        let cached = self.cached.lock().unwrap();
        cached.iter().take(limit).map(|n| BlobId([*n; 32])).collect()
    }
}

/// Tells one record after the other until there is nothing left to tell.
fn tell_all(work: &mut Work, node: &Node, now: Instant) -> Vec<Record> {
    let mut told = Vec::new();
    while let Some(record) = work.next(node, now) {
        told.push(record);
        work.ended(record, Outcome::Settled, now);
    }
    told
}

#[test]
fn a_record_waits_once_however_often_it_is_marked() {
    let (node, now) = (Node::default(), Instant::now());
    let mut work = Work::new(10, 10, PAUSE);
    for n in [1, 2, 1, 1, 2] {
        assert!(work.mark(shard(n)));
    }
    assert_eq!(work.waiting(), 2);
    assert_eq!(tell_all(&mut work, &node, now), [shard(1), shard(2)]);
}

#[test]
fn what_changes_while_it_is_told_is_told_once_more_and_never_twice_at_a_time() {
    let (node, now) = (Node::default(), Instant::now());
    let mut work = Work::new(10, 10, PAUSE);
    work.mark(shard(1));
    assert_eq!(work.next(&node, now), Some(shard(1)));
    work.mark(shard(1));
    work.mark(shard(1));
    assert_eq!(work.next(&node, now), None);
    work.ended(shard(1), Outcome::Settled, now);
    assert_eq!(tell_all(&mut work, &node, now), [shard(1)]);
}

#[test]
fn a_busy_directory_is_left_alone_for_a_while_and_for_twice_as_long_the_next_time() {
    let (node, mut now) = (Node::default(), Instant::now());
    let mut work = Work::new(10, 10, PAUSE);
    work.mark(shard(1));
    work.mark(shard(2));
    for pause in [PAUSE, PAUSE * 2, PAUSE * 4] {
        let record = work.next(&node, now).unwrap();
        work.ended(record, Outcome::Busy, now);
        assert_eq!(work.resumes_at(), Some(now + pause));
        assert_eq!(work.next(&node, now), None);
        now += pause;
    }
    assert_eq!(tell_all(&mut work, &node, now).len(), 2, "nothing is lost");
    work.mark(shard(1));
    let record = work.next(&node, now).unwrap();
    work.ended(record, Outcome::Busy, now);
    assert_eq!(work.resumes_at(), Some(now + PAUSE), "it recovered");
    for _ in 0..100 {
        now = work.resumes_at().unwrap();
        let record = work.next(&node, now).unwrap();
        work.ended(record, Outcome::Busy, now);
    }
    assert_eq!(work.resumes_at(), Some(now + LONGEST_PAUSE));
}

#[test]
fn a_scan_tells_what_is_kept_and_then_the_cache_from_old_to_new() {
    let node = Node::keeping((10..13).map(shard));
    *node.cached.lock().unwrap() = vec![1, 2, 3, 4];
    let mut work = Work::new(2, 3, PAUSE);
    work.scan();
    let told = tell_all(&mut work, &node, Instant::now());
    assert_eq!(told, [10, 11, 12, 3, 2, 1].map(shard), "4 is more than the directory carries");
    assert_eq!(tell_all(&mut work, &node, Instant::now()), [], "there is no scan without a cause");
}

#[test]
fn a_mark_goes_before_the_scan() {
    let (node, now) = (Node::keeping((0..100).map(shard)), Instant::now());
    let mut work = Work::new(10, 10, PAUSE);
    work.scan();
    let first = work.next(&node, now).unwrap();
    work.ended(first, Outcome::Settled, now);
    // The rest of the first page waits already.
    work.mark(shard(200));
    let told: Vec<_> = tell_all(&mut work, &node, now);
    assert_eq!(told.len(), 100);
    assert!(told.iter().position(|record| *record == shard(200)).unwrap() < 10);
}

#[test]
fn what_found_no_place_is_told_by_a_scan_after_the_one_that_is_under_way() {
    let (node, now) = (Node::keeping([1, 2, 3].map(shard)), Instant::now());
    let mut work = Work::new(2, 10, PAUSE);
    work.scan();
    let under_way = [work.next(&node, now).unwrap(), work.next(&node, now).unwrap()];
    // It is passed already.
    node.kept.lock().unwrap().insert(shard(0));
    assert!(!work.mark(shard(0)));
    assert!(work.scan_again());
    assert!(!work.scan_again(), "one is enough");
    for record in under_way {
        work.ended(record, Outcome::Settled, now);
    }
    assert_eq!(tell_all(&mut work, &node, now), [3, 0, 1, 2, 3].map(shard));
}

#[derive(Clone, Debug)]
enum Op {
    /// Keeps a record, or caches it.
    Hold(u8, bool),
    /// Holds a record no more.
    Drop(u8),
    /// Takes the next records.
    Next,
    /// Telling the first, or the last, of those being told ends.
    End {
        first: bool,
        busy: bool,
    },
    /// The directory forgets everything and starts again.
    Restart,
    Wait,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0u8..12, any::<bool>()).prop_map(|(n, kept)| Op::Hold(n, kept)),
        3 => (0u8..12).prop_map(Op::Drop),
        4 => Just(Op::Next),
        4 => (any::<bool>(), any::<bool>()).prop_map(|(first, busy)| Op::End { first, busy }),
        1 => Just(Op::Restart),
        1 => Just(Op::Wait),
    ]
}

/// The directory, and what is on its way to it.
struct World {
    node: Node,
    work: Work,
    directory: BTreeMap<Record, Class>,
    in_flight: Vec<(Record, Option<Class>)>,
    /// Withdrawals that wait for a place.
    withdrawals: Vec<Record>,
    now: Instant,
}

impl World {
    fn record(n: u8) -> Record {
        if n.is_multiple_of(3) { Record::Content(ContentId(BlobId([n; 32]))) } else { shard(n) }
    }

    fn withdraw(&mut self, record: Record) {
        if !self.work.mark(record) {
            self.withdrawals.push(record);
        }
    }

    fn next(&mut self) {
        while self.in_flight.len() < 2
            && let Some(record) = self.work.next(&self.node, self.now)
        {
            let twice = self.in_flight.iter().any(|(other, _)| *other == record);
            assert!(!twice, "told twice at a time");
            self.in_flight.push((record, self.node.class_of(record)));
        }
    }

    fn end(&mut self, first: bool, busy: bool) {
        let Some(last) = self.in_flight.len().checked_sub(1) else { return };
        let (record, class) = self.in_flight.remove(if first { 0 } else { last });
        if busy {
            self.work.ended(record, Outcome::Busy, self.now);
        } else {
            match class {
                Some(class) => self.directory.insert(record, class),
                None => self.directory.remove(&record),
            };
            self.work.ended(record, Outcome::Settled, self.now);
        }
        for record in std::mem::take(&mut self.withdrawals) {
            self.withdraw(record);
        }
    }
}

proptest! {
    /// Whatever happens in whatever order, with places for three records only: when all is told, the
    /// directory knows exactly what is held.
    #[test]
    fn nothing_is_lost_however_full_the_queue_is(ops in prop::collection::vec(op(), 0..200)) {
        let mut world = World {
            node: Node::default(),
            work: Work::new(3, 100, PAUSE),
            directory: BTreeMap::new(),
            in_flight: Vec::new(),
            withdrawals: Vec::new(),
            now: Instant::now(),
        };
        world.work.scan();
        for op in ops {
            match op {
                Op::Hold(n, kept) => {
                    let record = World::record(n);
                    if kept || matches!(record, Record::Content(_)) {
                        world.node.kept.lock().unwrap().insert(record);
                    } else {
                        let mut cached = world.node.cached.lock().unwrap();
                        cached.retain(|held| *held != n);
                        cached.insert(0, n);
                    }
                    if !world.work.mark(record) {
                        world.work.scan_again();
                    }
                }
                Op::Drop(n) => {
                    world.node.kept.lock().unwrap().remove(&World::record(n));
                    world.node.cached.lock().unwrap().retain(|held| *held != n);
                    world.withdraw(World::record(n));
                }
                Op::Next => world.next(),
                Op::End { first, busy } => world.end(first, busy),
                Op::Restart => {
                    world.directory.clear();
                    world.work.scan();
                }
                Op::Wait => world.now += LONGEST_PAUSE,
            }
            prop_assert!(world.work.states.len() <= 3);
            prop_assert!(world.work.waiting() <= 3);
        }
        for _ in 0..1000 {
            world.now += LONGEST_PAUSE;
            world.next();
            world.end(true, false);
        }
        prop_assert!(world.in_flight.is_empty() && world.withdrawals.is_empty());
        prop_assert_eq!(world.directory, world.node.all());
    }
}
