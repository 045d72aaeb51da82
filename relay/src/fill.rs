//! Fills: one fetch of a blob however many wait for it, and none of them owns it.
//!
//! Whoever misses a blob joins (`Fills::join`) its fill and follows what comes
//! ([`Growing`](crate::body::Growing)): verified groups as they arrive, then the end of the blob or a
//! failure with its reason. The fill is a task of the `Runner`, so it goes on when every viewer has
//! left, unless less of the blob is there than `fill.finish_from` says; and what it fetched is in the
//! cache for the next. A fill stays joinable until its blob is in the cache, so a blob is never
//! fetched twice in a row for want of a moment. Only the fetching counts against the bound of fills:
//! when the disk is slower than the network, blobs that wait to be written fill up `upstream.memory`,
//! which slows the fetching down and refuses nobody.
//!
//! What is fetched ahead of everybody (`Fills::ahead`) is a fill too, which anybody may join. Until somebody
//! does, it stops when it is given up.

use crate::{
    announce::Announcer,
    body::{Follower, Growing, Room, Whole},
    cache::{Admission, AdmitError, Cache, Refused},
    content::{BlobId, ShardId},
    metrics::{Metrics, count_and_log},
    sync::lock,
    upstream::{FetchError, Record, Upstream},
    warm::Warmer,
    wire::Priority,
};
use lru::LruCache;
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

/// Settings of fills.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Blobs fetched at a time; a miss beyond that is told to come back. Default 64. Their bytes,
    /// and those that wait to be written, are bounded by `upstream.memory`.
    pub parallel: usize,
    /// A blob that nobody held is not looked for again for this long. Default 2 s.
    #[serde(with = "humantime_serde")]
    pub absent_for: Duration,
    /// Absent blobs remembered. Default 10,000, about 1 MB.
    pub absent_table: usize,
    /// At shutdown, how long fills may go on to finish. Default 3 s.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
    /// Whether the relay announces to the directory what its cache holds. Default true.
    pub announce: bool,
    /// A fill that every viewer has left goes on if this much of the blob is there, in percent, and
    /// stops otherwise. Default 0: it always goes on, and the next viewer finds the blob in the cache.
    pub finish_from: u8,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            parallel: 64,
            absent_for: Duration::from_secs(2),
            absent_table: 10_000,
            drain_timeout: Duration::from_secs(3),
            announce: true,
            finish_from: 0,
        }
    }
}

/// Why a fill did not bring the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FillError {
    Fetch(FetchError),
    /// The service stopped, or the task failed, before there was an outcome.
    Stopped,
}

/// What joining a fill gives.
pub(crate) enum Joined {
    /// Read here.
    Fill(Follower),
    /// Nobody held it a moment ago.
    Absent,
    /// Too many fills are going on.
    Full,
    /// The service is going down.
    Closed,
}

/// What fetching ahead of everybody gives.
pub(crate) enum Ahead {
    /// It is being fetched now.
    Begun(Follower),
    /// It was being fetched already.
    Joined(Follower),
    /// Too many fills are going on.
    Later,
    /// Nobody held it a moment ago, or the service is going down.
    Absent,
}

/// Joins and starts fills. Cloning gives another handle.
#[derive(Clone)]
pub(crate) struct Fills(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    parallel: usize,
    /// Holds as many as may be fetched at a time, so there is always a place for one that was counted.
    jobs: mpsc::Sender<Job>,
}

struct State {
    /// At most `parallel` that are being fetched, and those that wait to be written, each of which
    /// takes at least 16 KiB of `upstream.memory`: 16,384 at its default, with their tasks 32 MiB.
    active: HashMap<BlobId, Arc<Growing>>,
    /// How many of them are being fetched.
    fetching: usize,
    absent: Absent,
    closed: bool,
}

/// Blobs that nobody held, for a while.
struct Absent {
    ttl: Duration,
    /// Bounded; 10,000 entries of about 100 bytes are 1 MB. The oldest is forgotten first.
    until: LruCache<BlobId, Instant>,
}

impl Absent {
    fn contains(&mut self, id: BlobId, now: Instant) -> bool {
        match self.until.peek(&id) {
            Some(until) if now < *until => true,
            Some(_) => {
                self.until.pop(&id);
                false
            }
            None => false,
        }
    }

    fn insert(&mut self, id: BlobId, now: Instant) {
        self.until.put(id, now + self.ttl);
    }
}

struct Job {
    growing: Arc<Growing>,
    /// What the viewer that began it wants to read: fetched first.
    range: Option<(u64, u64)>,
}

/// Makes the handle and what does the work.
pub(crate) fn build(config: &Config) -> (Fills, Runner) {
    let parallel = config.parallel.max(1);
    let (jobs, queue) = mpsc::channel(parallel);
    let table = NonZeroUsize::new(config.absent_table).unwrap_or(NonZeroUsize::MIN);
    let absent = Absent { ttl: config.absent_for, until: LruCache::sparse(table) };
    let state = Mutex::new(State { active: HashMap::new(), fetching: 0, absent, closed: false });
    let fills = Fills(Arc::new(Shared { state, parallel, jobs }));
    (fills.clone(), Runner { fills, queue, config: config.clone() })
}

impl Fills {
    /// Joins the fill of a blob, and starts it if there is none, with the bytes of `range`.
    pub(crate) fn join(&self, id: BlobId, range: Option<(u64, u64)>, now: Instant) -> Joined {
        let mut state = lock(&self.0.state);
        if state.closed {
            return Joined::Closed;
        }
        if let Some(growing) = state.active.get(&id) {
            growing.set_asked();
            return Joined::Fill(growing.follow());
        }
        if state.absent.contains(id, now) {
            return Joined::Absent;
        }
        if state.fetching >= self.0.parallel {
            return Joined::Full;
        }
        match self.begin(&mut state, Growing::new(id), range) {
            Some(follower) => Joined::Fill(follower),
            None => Joined::Full,
        }
    }

    /// Starts the fill of a blob that nobody has asked for, at the priority of a prefetch, or follows the
    /// one there is. At least half of the fills are left to those that somebody waits for. It stops when
    /// its follower is dropped before anybody else joins.
    pub(crate) fn ahead(&self, id: BlobId, now: Instant) -> Ahead {
        let mut state = lock(&self.0.state);
        if let Some(growing) = state.active.get(&id) {
            return Ahead::Joined(growing.follow());
        }
        if state.closed || state.absent.contains(id, now) {
            return Ahead::Absent;
        }
        if (state.fetching + 1) * 2 > self.0.parallel {
            return Ahead::Later;
        }
        let growing = Growing::new(id);
        growing.set_ahead();
        self.begin(&mut state, growing, None).map_or(Ahead::Later, Ahead::Begun)
    }

    fn begin(
        &self,
        state: &mut State,
        growing: Arc<Growing>,
        range: Option<(u64, u64)>,
    ) -> Option<Follower> {
        let follower = growing.follow();
        self.0.jobs.try_send(Job { growing: Arc::clone(&growing), range }).ok()?;
        state.active.insert(growing.id(), growing);
        state.fetching += 1;
        Some(follower)
    }

    /// Whether the service is going down.
    pub(crate) fn closed(&self) -> bool {
        lock(&self.0.state).closed
    }

    /// Fills that are going on, those that wait to be written included.
    pub(crate) fn in_flight(&self) -> usize {
        lock(&self.0.state).active.len()
    }
}

/// Runs the fills.
pub(crate) struct Runner {
    fills: Fills,
    queue: mpsc::Receiver<Job>,
    config: Config,
}

/// What a fill works with.
pub(crate) struct Deps {
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) announcer: Announcer,
    pub(crate) warmer: Warmer,
    pub(crate) metrics: Metrics,
}

impl Runner {
    /// Runs until `stop`, then lets fills finish for `drain_timeout` and ends the rest.
    pub(crate) async fn run(mut self, deps: Deps, stop: CancellationToken) {
        let deps = Arc::new(deps);
        let mut running = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(job) = self.queue.recv() => {
                    let active = Active::new(self.fills.clone(), job);
                    running.spawn(fill(active, Arc::clone(&deps), self.config.clone()));
                }
                // A panic in a fill has been reported by the panic hook, and the fill's guard has
                // told those who waited.
                Some(_) = running.join_next(), if !running.is_empty() => {}
            }
        }
        lock(&self.fills.0.state).closed = true;
        self.queue.close();
        while let Some(job) = self.queue.recv().await {
            drop(Active::new(self.fills.clone(), job));
        }
        let finish = async { while running.join_next().await.is_some() {} };
        if timeout(self.config.drain_timeout, finish).await.is_err() {
            tracing::debug!("{} fills did not finish in time", running.len());
        }
        running.shutdown().await;
        deps.upstream.close().await;
    }
}

/// A fill that is in the table. However it ends, it leaves the table, and nobody waits for it in
/// vain.
struct Active {
    fills: Fills,
    job: Job,
    fetching: bool,
}

impl Active {
    fn new(fills: Fills, job: Job) -> Self {
        Self { fills, job, fetching: true }
    }

    /// From here on it only waits to be written.
    fn fetched(&mut self) {
        if std::mem::take(&mut self.fetching) {
            let mut state = lock(&self.fills.0.state);
            state.fetching = state.fetching.saturating_sub(1);
        }
    }

    /// Ends when nobody reads and less than `finish_from` percent of the blob is there, or nobody has
    /// ever asked for it. Nobody can join any more by then.
    async fn abandoned(&self, finish_from: u8) {
        let growing = &self.job.growing;
        loop {
            growing.left().await;
            let (came, of) = growing.came().unwrap_or((0, 1));
            let enough = u64::from(came) * 100 >= u64::from(of) * u64::from(finish_from);
            if enough && !growing.is_ahead() {
                // What is there stays there.
                return std::future::pending().await;
            }
            // Who joins does so under this lock.
            let mut state = lock(&self.fills.0.state);
            if growing.followers() == 0 {
                state.active.remove(&growing.id());
                return;
            }
        }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        {
            let mut state = lock(&self.fills.0.state);
            let id = self.job.growing.id();
            // One that was abandoned has left the table already, and the next may be in it.
            if state.active.get(&id).is_some_and(|other| Arc::ptr_eq(other, &self.job.growing)) {
                state.active.remove(&id);
            }
            state.fetching = state.fetching.saturating_sub(usize::from(self.fetching));
        }
        self.job.growing.fail(FillError::Stopped);
    }
}

async fn fill(mut active: Active, deps: Arc<Deps>, config: Config) {
    let announce = config.announce;
    let growing = Arc::clone(&active.job.growing);
    let id = growing.id();
    let priority = if growing.is_ahead() { Priority::Prefetch } else { Priority::Play };
    // Whoever started this fill may have looked into the cache just before the last one was done.
    if deps.cache.len_of(id).is_some() {
        if let Some(whole) = deps.cache.whole(id).await {
            growing.whole(whole);
            return;
        }
        if announce {
            deps.announcer.withdraw(Record::Shard(ShardId(id))).await;
        }
    }
    let fetched: Result<(Arc<Whole>, Room), _> = tokio::select! {
        fetched = deps.upstream.fetch(&growing, active.job.range, priority) => fetched,
        () = active.abandoned(config.finish_from) => {
            deps.metrics.fills_abandoned_total.inc();
            return;
        }
    };
    let (whole, room) = match fetched {
        Ok(fetched) => fetched,
        Err(error) => {
            if error == FetchError::NotFound {
                lock(&active.fills.0.state).absent.insert(id, Instant::now());
            }
            growing.fail(FillError::Fetch(error));
            return;
        }
    };
    active.fetched();
    if !growing.is_ahead() {
        deps.warmer.fetched(&whole);
    }
    let Admission { evicted, kept } = deps.cache.admit(whole).await;
    if announce {
        for victim in evicted {
            deps.announcer.withdraw(Record::Shard(ShardId(victim))).await;
        }
    }
    match kept {
        Ok(()) if announce => {
            // The relay cannot know whether it is a shard or a manifest; sources are looked up
            // under both keys, so one of them is enough.
            deps.cache.set_told(id, Instant::now());
            deps.announcer.provide(Record::Shard(ShardId(id)));
        }
        // That others are asked for more often is no failure, and is counted by the cache.
        Ok(()) | Err(AdmitError::Refused { refused: Refused::Unwanted, .. }) => {}
        Err(error) => {
            if count_and_log(&deps.metrics.cache_write_failures_total) {
                tracing::warn!("{id} is served but not cached: {error}");
            }
        }
    }
    drop(room);
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn config() -> Config {
        Config { parallel: 2, ..Config::default() }
    }

    fn id(n: u8) -> BlobId {
        BlobId([n; 32])
    }

    #[test]
    fn one_job_a_blob_and_no_more_jobs_than_allowed() {
        let (fills, mut runner) = build(&config());
        let now = Instant::now();
        for _ in 0..3 {
            assert!(matches!(fills.join(id(1), None, now), Joined::Fill(_)));
        }
        assert!(matches!(fills.join(id(2), None, now), Joined::Fill(_)));
        assert!(matches!(fills.join(id(3), None, now), Joined::Full));
        assert_eq!(fills.in_flight(), 2);
        let jobs: Vec<_> = std::iter::from_fn(|| runner.queue.try_recv().ok()).collect();
        assert_eq!(jobs.iter().map(|job| job.growing.id()).collect::<Vec<_>>(), [id(1), id(2)]);
    }

    #[test]
    fn a_fill_that_is_dropped_tells_those_who_wait_and_leaves_the_table() {
        let (fills, mut runner) = build(&config());
        let Joined::Fill(follower) = fills.join(id(1), None, Instant::now()) else { panic!() };
        let job = runner.queue.try_recv().unwrap();
        drop(Active::new(fills.clone(), job));
        assert_eq!(follower.begun().now_or_never(), Some(Err(FillError::Stopped)));
        assert_eq!(fills.in_flight(), 0);
    }

    #[test]
    fn a_fill_that_all_have_left_ends_unless_enough_is_there_or_somebody_joins() {
        let (fills, mut runner) = build(&config());
        let now = Instant::now();
        let Joined::Fill(follower) = fills.join(id(1), None, now) else { panic!() };
        let active = Active::new(fills.clone(), runner.queue.try_recv().unwrap());
        assert!(active.abandoned(50).now_or_never().is_none(), "somebody reads");
        drop(follower);
        assert!(active.abandoned(0).now_or_never().is_none(), "it always goes on");
        assert!(active.abandoned(50).now_or_never().is_some());
        // The next who comes begins anew, and the end of the old one leaves that alone.
        let Joined::Fill(next) = fills.join(id(1), None, now) else { panic!() };
        drop(active);
        assert_eq!(fills.in_flight(), 1);
        assert!(next.begun().now_or_never().is_none());
    }

    #[test]
    fn what_is_fetched_ahead_leaves_half_to_others_and_stops_when_given_up_unless_somebody_joins() {
        let (fills, mut runner) = build(&config());
        let now = Instant::now();
        let Ahead::Begun(ahead) = fills.ahead(id(1), now) else { panic!() };
        assert!(matches!(fills.ahead(id(2), now), Ahead::Later), "the other half is for viewers");
        let Ahead::Joined(again) = fills.ahead(id(1), now) else { panic!() };
        drop(again);
        let active = Active::new(fills.clone(), runner.queue.try_recv().unwrap());
        assert!(active.abandoned(0).now_or_never().is_none());
        drop(ahead);
        assert!(active.abandoned(0).now_or_never().is_some(), "even where others always go on");
        assert_eq!(fills.in_flight(), 0);
        drop(active);

        let Ahead::Begun(ahead) = fills.ahead(id(1), now) else { panic!() };
        let active = Active::new(fills.clone(), runner.queue.try_recv().unwrap());
        let Joined::Fill(viewer) = fills.join(id(1), None, now) else { panic!() };
        drop((ahead, viewer));
        assert!(active.abandoned(0).now_or_never().is_none(), "somebody has asked for it");
    }

    #[test]
    fn what_was_absent_is_looked_for_again_after_a_while() {
        let (fills, _runner) = build(&config());
        let now = Instant::now();
        let later = now + config().absent_for;
        lock(&fills.0.state).absent.insert(id(1), now);
        assert!(matches!(fills.join(id(1), None, now), Joined::Absent));
        assert!(matches!(fills.join(id(1), None, later), Joined::Fill(_)));
    }

    #[test]
    fn the_table_of_the_absent_is_bounded() {
        let (fills, _runner) = build(&Config { absent_table: 4, ..config() });
        let mut state = lock(&fills.0.state);
        for n in 0..100 {
            state.absent.insert(id(n), Instant::now());
            assert!(state.absent.until.len() <= 4);
        }
    }
}
