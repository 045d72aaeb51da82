//! Does what the plan says.

use super::{
    Config, Inbox, Reading, Refused,
    plan::{Cause, Next, Outcome, Plan, Shelf, Wanted, What},
    refused,
};
use crate::{
    body::{Follower, Whole},
    cache::Cache,
    content::{BlobId, Manifest},
    fill::{Ahead, FillError, Fills},
    metrics::Metrics,
    server::Pressure,
    store::Origin,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{task::JoinSet, time::sleep_until};
use tokio_util::sync::CancellationToken;

/// How often is looked at how full the service is, while there is something to fetch.
const LOOK: Duration = Duration::from_millis(100);

/// Fetches ahead. One task, and one for each of `warm.parallel` fetches and one look into the cache.
pub(crate) struct Runner {
    pub(crate) inbox: Inbox,
    pub(crate) fills: Fills,
    pub(crate) cache: Arc<Cache>,
    pub(crate) origin: Option<Arc<Origin>>,
    pub(crate) pressure: Pressure,
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
}

/// What a task comes to.
enum Done {
    Fetched {
        id: BlobId,
        ours: bool,
        what: What,
        end: End,
    },
    /// A blob of the cache was looked at; `None` if it could not be.
    Looked {
        id: BlobId,
        manifest: Option<Option<Manifest>>,
    },
}

enum End {
    Whole(Arc<Whole>),
    Failed(FillError),
    /// There is too much to do.
    Dropped,
}

/// The tasks that go on.
struct Running {
    tasks: JoinSet<Done>,
    /// Ends the fetches.
    drop: CancellationToken,
    /// Whether a blob of the cache is being looked at.
    looking: bool,
}

/// What the origin and the cache have.
struct Held<'a> {
    cache: &'a Cache,
    origin: Option<&'a Origin>,
}

impl Shelf for Held<'_> {
    fn holds(&self, id: BlobId) -> bool {
        let kept = self.origin.is_some_and(|origin| origin.len_of(id).is_some());
        kept || self.cache.len_of(id).is_some()
    }

    fn would_keep(&self, id: BlobId, len: u32) -> bool {
        self.cache.would_keep(id, len)
    }

    fn would_hold(&self, len: u32) -> bool {
        self.cache.would_hold(len)
    }

    fn capacity(&self) -> u64 {
        self.cache.status().capacity
    }
}

impl Runner {
    /// Runs until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut plan = Plan::new(self.config.clone(), Instant::now());
        let mut running =
            Running { tasks: JoinSet::new(), drop: CancellationToken::new(), looking: false };
        let mut judged = Instant::now();
        loop {
            let wake =
                self.work(&mut plan, &mut running).unwrap_or(judged + self.config.judge_every);
            self.metrics.prefetch_unread_bytes.set(plan.unread());
            tokio::select! {
                () = stop.cancelled() => break,
                Some(announced) = self.inbox.announced.recv() => {
                    if let Err(reason) = plan.announced(&announced, &self.held(), Instant::now()) {
                        refused(&self.metrics, reason);
                    }
                }
                Some(Reading { id, leads }) = self.inbox.read.recv() => match leads {
                    true => self.on_read(id, &mut plan, &mut running),
                    false => self.count_use(plan.used(id)),
                },
                Some(whole) = self.inbox.manifests.recv() => {
                    plan.learn(whole.id(), Manifest::decode(whole.bytes()).ok().as_ref());
                    // Whoever asked for it is about to ask for what it names.
                    self.go_on(whole.id(), &mut plan);
                }
                // A panic in one has been reported by the panic hook; what it fetched is lost to the
                // plan's bound of fetches, so the service is better started again.
                Some(done) = running.tasks.join_next(), if !running.tasks.is_empty() => match done {
                    Ok(done) => self.on_done(done, &mut plan, &mut running),
                    Err(_) => break,
                },
                () = sleep_until(wake.into()) => {}
            }
            let now = Instant::now();
            if now.saturating_duration_since(judged) >= self.config.judge_every {
                judged = now;
                let wasted = u64::try_from(plan.judge(&self.held(), now)).unwrap_or(0);
                self.metrics.prefetches_wasted_total.inc_by(wasted);
            }
        }
        running.tasks.shutdown().await;
    }

    fn held(&self) -> Held<'_> {
        Held { cache: &self.cache, origin: self.origin.as_deref() }
    }

    /// Begins what can begin, and says when to look again at the latest if there is something to do.
    fn work(&self, plan: &mut Plan, running: &mut Running) -> Option<Instant> {
        if plan.is_idle() {
            return None;
        }
        let now = Instant::now();
        let look = now + LOOK;
        let fullness = self.pressure.percent();
        if self.pressure.sheds_prefetches(fullness) {
            for _ in 0..plan.shed() {
                refused(&self.metrics, Refused::Busy);
            }
            std::mem::take(&mut running.drop).cancel();
            return Some(look);
        }
        loop {
            match plan.next(&self.held(), fullness, now) {
                Next::Refused(reason) => refused(&self.metrics, reason),
                Next::Fetch(wanted) => {
                    if !self.begin(wanted, plan, running, now) {
                        return Some(look);
                    }
                }
                Next::At(at) => return Some(at.min(look)),
                Next::Full | Next::Nothing => return Some(look),
            }
        }
    }

    /// Begins a fetch; `false` if it has to wait for others.
    fn begin(&self, wanted: Wanted, plan: &mut Plan, running: &mut Running, now: Instant) -> bool {
        let Wanted { id, what, cause, .. } = wanted;
        let (follower, ours) = match self.fills.ahead(id, now) {
            Ahead::Begun(follower) => (follower, true),
            Ahead::Joined(follower) => (follower, false),
            Ahead::Later => {
                plan.put_back(id);
                return false;
            }
            Ahead::Absent => {
                refused(&self.metrics, Refused::Absent);
                let _ = plan.done(id, Outcome::Nothing, now);
                return true;
            }
        };
        if ours {
            let label = match cause {
                Cause::Announced(_) => "announced",
                Cause::Ahead => "ahead",
            };
            self.metrics.prefetches_started_total.with_label_values(&[label]).inc();
        }
        let drop = running.drop.clone();
        running.tasks.spawn(async move {
            let end = followed(follower, drop).await;
            Done::Fetched { id, ours, what, end }
        });
        true
    }

    fn on_done(&self, done: Done, plan: &mut Plan, running: &mut Running) {
        match done {
            Done::Looked { id, manifest } => {
                running.looking = false;
                if let Some(manifest) = manifest {
                    plan.learn(id, manifest.as_ref());
                    // Whoever asked for it is about to ask for what it names.
                    self.go_on(id, plan);
                }
            }
            Done::Fetched { id, ours, what, end } => {
                // What was read counts as used, and not as failed besides.
                let failed = |reason| {
                    if ours && !plan.was_read(id) {
                        self.metrics.prefetches_failed_total.with_label_values(&[reason]).inc();
                    }
                };
                let outcome = match end {
                    End::Whole(whole) => Outcome::Whole {
                        len: whole.len(),
                        manifest: match what {
                            What::Manifest { .. } => Manifest::decode(whole.bytes()).ok(),
                            What::Shard => None,
                        },
                        ours,
                    },
                    End::Failed(error) => {
                        tracing::debug!("{id} was not fetched ahead: {error:?}");
                        failed("failed");
                        Outcome::Nothing
                    }
                    End::Dropped => {
                        failed("dropped");
                        Outcome::Nothing
                    }
                };
                if let Err(reason) = plan.done(id, outcome, Instant::now()) {
                    refused(&self.metrics, reason);
                }
            }
        }
    }

    fn on_read(&self, id: BlobId, plan: &mut Plan, running: &mut Running) {
        self.go_on(id, plan);
        if self.config.ahead > 0 && !running.looking && !plan.knows(id) {
            running.looking = true;
            let (cache, most) = (Arc::clone(&self.cache), self.config.manifest_bytes);
            running.tasks.spawn(async move {
                let manifest = cache.manifest(id, most).await;
                Done::Looked { id, manifest }
            });
        }
    }

    fn count_use(&self, used: bool) {
        if used {
            self.metrics.prefetches_used_total.inc();
        }
    }

    fn go_on(&self, id: BlobId, plan: &mut Plan) {
        let reading = plan.read(id, &self.held(), self.pressure.percent(), Instant::now());
        self.count_use(reading.used);
        if let Some(reason) = reading.refused {
            refused(&self.metrics, reason);
        }
    }
}

/// Follows a fill to its end, unless told to let go: a fill that nobody else follows ends then.
async fn followed(follower: Follower, drop: CancellationToken) -> End {
    tokio::select! {
        whole = follower.whole() => whole.map_or_else(End::Failed, End::Whole),
        () = drop.cancelled() => End::Dropped,
    }
}
