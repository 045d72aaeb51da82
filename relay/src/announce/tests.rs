use super::*;
use crate::upstream::{DirectoryError, Source, SuperNode};
use futures::{
    future::BoxFuture,
    stream::{self, BoxStream},
};
use libp2p::PeerId;
use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};
use tokio::{sync::mpsc, task::JoinHandle};

/// The first telling hangs until it is let go; each that is done is logged.
struct Slow {
    calls: AtomicUsize,
    log: mpsc::UnboundedSender<(Record, bool)>,
    let_go: Notify,
    /// What is answered, the last first; then that it is taken.
    answers: Mutex<Vec<TellError>>,
}

impl Slow {
    fn note(&self, record: Record, held: bool) -> BoxFuture<'_, Result<(), TellError>> {
        Box::pin(async move {
            if self.calls.fetch_add(1, SeqCst) == 0 {
                self.let_go.notified().await;
            }
            if let Some(error) = self.answers.lock().unwrap().pop() {
                return Err(error);
            }
            self.log.send((record, held)).unwrap();
            Ok(())
        })
    }
}

impl Directory for Slow {
    fn sources(&self, _: BlobId) -> BoxFuture<'_, Result<Vec<Source>, DirectoryError>> {
        unreachable!()
    }
    fn super_nodes(
        &self,
        _: Vec<PeerId>,
        _: usize,
    ) -> BoxFuture<'_, Result<Vec<SuperNode>, DirectoryError>> {
        unreachable!()
    }
    fn provide(&self, record: Record, _: Class) -> BoxFuture<'_, Result<(), TellError>> {
        self.note(record, true)
    }
    fn stop_providing(&self, record: Record) -> BoxFuture<'_, Result<(), TellError>> {
        self.note(record, false)
    }
    fn max_cached(&self) -> usize {
        100
    }
    fn starts(&self) -> BoxStream<'static, ()> {
        stream::pending().boxed()
    }
}

fn record(n: u8) -> Record {
    Record::Shard(ShardId(BlobId([n; 32])))
}

/// What a node holds: its blobs by their first byte.
#[derive(Clone, Default)]
struct Set(Arc<Mutex<BTreeSet<u8>>>);

impl Held for Set {
    fn class_of(&self, record: Record) -> Option<Class> {
        let Record::Shard(ShardId(BlobId([n, ..]))) = record else { return None };
        self.0.lock().unwrap().contains(&n).then_some(Class::Cached)
    }
    fn kept_after(&self, _: Option<Record>, _: usize) -> Vec<Record> {
        Vec::new()
    }
    fn cached(&self, limit: usize) -> Vec<BlobId> {
        self.0.lock().unwrap().iter().take(limit).map(|n| BlobId([*n; 32])).collect()
    }
}

struct World {
    directory: Arc<Slow>,
    log: mpsc::UnboundedReceiver<(Record, bool)>,
    held: Set,
    announcer: Announcer,
    metrics: Metrics,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl World {
    fn start(config: &Config) -> Self {
        let (log, logged) = mpsc::unbounded_channel();
        let directory = Arc::new(Slow {
            calls: AtomicUsize::new(0),
            log,
            let_go: Notify::new(),
            answers: Mutex::default(),
        });
        let held = Set::default();
        let metrics = Metrics::unregistered();
        let (announcer, runner) =
            build(config, directory.clone(), Arc::new(held.clone()), metrics.clone());
        let stop = CancellationToken::new();
        let running = tokio::spawn(runner.run(stop.clone()));
        Self { directory, log: logged, held, announcer, metrics, stop, running }
    }

    fn hold(&self, n: u8) {
        self.held.0.lock().unwrap().insert(n);
        self.announcer.provide(record(n));
    }

    async fn drop(&self, n: u8) {
        self.held.0.lock().unwrap().remove(&n);
        self.announcer.withdraw(record(n)).await;
    }

    async fn logged(&mut self) -> (Record, bool) {
        self.log.recv().await.unwrap()
    }

    async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap();
    }
}

#[tokio::test]
async fn what_is_told_of_one_record_keeps_its_order() {
    let mut world = World::start(&Config::default());
    world.hold(2);
    while world.directory.calls.load(SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    world.hold(1);
    world.drop(2).await;
    // Record 2 hangs, record 1 overtakes it, the withdrawal of 2 does not.
    assert_eq!(world.logged().await, (record(1), true));
    world.directory.let_go.notify_one();
    assert_eq!(world.logged().await, (record(2), true));
    assert_eq!(world.logged().await, (record(2), false));
    world.stop().await;
}

#[tokio::test]
async fn what_is_not_true_any_more_when_its_turn_comes_is_not_told() {
    let mut world = World::start(&Config { parallel: 1, ..Config::default() });
    world.hold(1);
    while world.directory.calls.load(SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    world.hold(2);
    world.drop(2).await;
    world.hold(3);
    world.drop(3).await;
    world.hold(3);
    world.directory.let_go.notify_one();
    for expected in [(record(1), true), (record(2), false), (record(3), true)] {
        assert_eq!(world.logged().await, expected);
    }
    world.stop().await;
}

#[tokio::test]
async fn a_withdrawal_waits_for_a_place_and_is_told() {
    let mut world = World::start(&Config { queue: 1, ..Config::default() });
    world.hold(1);
    while world.directory.calls.load(SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    world.held.0.lock().unwrap().insert(2);
    {
        let withdrawal = world.drop(2);
        let mut withdrawal = std::pin::pin!(withdrawal);
        assert!(futures::poll!(withdrawal.as_mut()).is_pending());
        world.directory.let_go.notify_one();
        withdrawal.await;
    }
    assert_eq!(world.logged().await, (record(1), true));
    assert_eq!(world.logged().await, (record(2), false));
    world.stop().await;
}

#[tokio::test]
async fn nobody_waits_for_a_place_once_the_service_is_gone() {
    let world = World::start(&Config { queue: 1, ..Config::default() });
    world.hold(1);
    world.stop.cancel();
    world.running.await.unwrap();
    world.announcer.withdraw(record(2)).await;
}

#[tokio::test]
async fn a_busy_directory_is_told_again_and_one_that_is_full_or_down_is_not() {
    let config = Config { retry_pause: Duration::from_millis(1), ..Config::default() };
    let mut world = World::start(&config);
    world.directory.let_go.notify_one();
    let answers = [TellError::Down, TellError::Full(7), TellError::Busy, TellError::Busy];
    *world.directory.answers.lock().unwrap() = answers.into();
    world.hold(1);
    let failures = world.metrics.directory_failures_total.with_label_values(&["provide"]);
    // Twice busy, then full: that is the end of it.
    while failures.get() < 3 {
        tokio::task::yield_now().await;
    }
    world.hold(2);
    while failures.get() < 4 {
        tokio::task::yield_now().await;
    }
    world.hold(3);
    assert_eq!(world.logged().await, (record(3), true));
    assert_eq!(world.directory.calls.load(SeqCst), 5);
    world.stop().await;
}

#[tokio::test]
async fn touches_are_limited_and_told() {
    let config = Config { touches_per_second: 2, ..Config::default() };
    let mut world = World::start(&config);
    world.directory.let_go.notify_one();
    world.held.0.lock().unwrap().extend(1..=4);
    let now = Instant::now();
    let id = |n| BlobId([n; 32]);
    assert_eq!([1, 2, 3].map(|n| world.announcer.touch(id(n), now)), [true, true, false]);
    let later = now + Duration::from_millis(600);
    assert_eq!([3, 4].map(|n| world.announcer.touch(id(n), later)), [true, false]);
    for n in 1..=3 {
        assert_eq!(world.logged().await, (record(n), true));
    }
    let touches =
        |outcome| world.metrics.announcement_touches_total.with_label_values(&[outcome]).get();
    assert_eq!([touches("told"), touches("limited")], [3, 2]);
    world.stop().await;
}

#[tokio::test]
async fn what_was_told_of_long_ago_or_never_is_stale() {
    let world = World::start(&Config::default());
    let now = Instant::now();
    let age = Config::default().touch_after;
    assert!(world.announcer.is_stale(None, now));
    assert!(!world.announcer.is_stale(Some(now), now));
    assert!(!world.announcer.is_stale(Some(now), now + age - Duration::from_millis(1)));
    assert!(world.announcer.is_stale(Some(now), now + age));
    world.stop().await;
}
