//! The fetch of one blob: asks the best source, and another where that one fails or is slow.
//!
//! Groups go into the [`Growing`] blob as they are verified, whichever source sends them. A source
//! that comes later is asked for what is missing, so another goes on at the byte where one stopped.
//! Of two that send the same, the one behind is told to stop as soon as the other has passed it.
//!
//! What is decided is decided elsewhere: the order in [`rank`](super::rank), when to ask another in
//! [`hedge`](super::hedge). Here is what runs.

use super::{
    FetchError, Upstream,
    attempt::{AttemptError, Event, Question, attempt},
    blame,
    breaker::Fault,
    hedge::{Progress, due},
    rank::{Candidate, Ranked},
    verdict,
};
use crate::{
    body::{Growing, Room, Whole},
    metrics::count_and_log,
    sync::lock,
    wire::{Code, ExchangeError, GROUP_LEN, Patience, Priority, Span, Way, group_count},
};
use futures::{StreamExt, stream::BoxStream};
use libp2p::PeerId;
use std::{
    collections::HashSet,
    future::{pending, poll_fn},
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};
use tokio::time::{sleep_until, timeout};

/// Groups that a blob is taken to have while nobody has said how long it is: 1 MiB.
const USUAL_GROUPS: u32 = 64;

/// One fetch.
pub(super) struct Fetch<'a> {
    upstream: &'a Upstream,
    growing: &'a Growing,
    /// What is wanted first.
    range: Option<(u64, u64)>,
    priority: Priority,
    /// Who may be asked yet; at most what lookups give, a few dozen of some 200 bytes.
    candidates: Vec<Candidate>,
    /// The same, in their order.
    waiting: Vec<Ranked>,
    /// At most `upstream.parallel`.
    running: Vec<Running<'a>>,
    /// Who was asked; at most `upstream.max_sources`.
    asked: HashSet<PeerId>,
    /// Who was asked again on a new connection.
    again: HashSet<PeerId>,
    /// Who said that the blob is as long as it is taken to be.
    claimants: HashSet<PeerId>,
    failures: Vec<AttemptError>,
    lookups_going_on: bool,
    lookup_failed: bool,
    room: Option<Room>,
    began: Option<Instant>,
}

/// An attempt that is under way.
struct Running<'a> {
    candidate: Candidate,
    task: Task,
    /// The bytes that were asked for.
    range: Option<(u64, u64)>,
    /// The group that comes next, and one past the last; known from the header on.
    span: Option<(u32, u32)>,
    progress: Progress,
    /// How it is reached; known once it is.
    way: Option<Way>,
    why: Why,
    events: BoxStream<'a, Result<Event, AttemptError>>,
    _counted: Counted<'a>,
}

/// What an attempt is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    /// Groups of the blob.
    Blob,
    /// The last group of a blob of this length, which proves that length.
    Proof { len: u32 },
}

/// Why a source was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// No other was.
    First,
    /// Another was slow.
    Hedge,
    /// Another has failed, or gone silent.
    Failover,
}

/// Counts as an attempt at a source while it lives.
struct Counted<'a>(&'a Upstream, PeerId);

impl<'a> Counted<'a> {
    fn new(upstream: &'a Upstream, peer: PeerId) -> Self {
        lock(&upstream.book).began(peer);
        Self(upstream, peer)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        lock(&self.0.book).ended(self.1);
    }
}

/// The end of a fetch.
type End = Result<(Arc<Whole>, Room), FetchError>;

impl<'a> Fetch<'a> {
    pub(super) fn new(
        upstream: &'a Upstream,
        growing: &'a Growing,
        range: Option<(u64, u64)>,
        priority: Priority,
    ) -> Self {
        Self {
            upstream,
            growing,
            range,
            priority,
            candidates: Vec::new(),
            waiting: Vec::new(),
            running: Vec::new(),
            asked: HashSet::new(),
            again: HashSet::new(),
            claimants: HashSet::new(),
            failures: Vec::new(),
            lookups_going_on: true,
            lookup_failed: false,
            room: None,
            began: None,
        }
    }

    /// Runs until the blob is there or no source is left.
    pub(super) async fn run(mut self) -> End {
        let upstream = self.upstream;
        let mut found = upstream.candidates(self.growing.id());
        loop {
            let wake = self.start_what_is_due(Instant::now());
            if self.running.is_empty() && !self.lookups_going_on {
                return Err(self.verdict());
            }
            let wake = async {
                match wake {
                    Some(at) => sleep_until(at.into()).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                (at, event) = next_event(&mut self.running) => {
                    if let Some(end) = self.on_event(at, event).await {
                        return end;
                    }
                }
                more = found.next(), if self.lookups_going_on => match more {
                    Some(Ok(candidates)) => self.add(candidates),
                    Some(Err(())) => self.lookup_failed = true,
                    None => self.lookups_going_on = false,
                },
                () = wake => {}
            }
        }
    }

    fn add(&mut self, found: Vec<Candidate>) {
        let us = self.upstream.us;
        let new = found.into_iter().filter(|candidate| {
            let peer = candidate.source.peer;
            peer != us && !self.asked.contains(&peer)
        });
        self.candidates.extend(new);
        self.rank();
    }

    fn rank(&mut self) {
        let id = self.growing.id();
        self.waiting = lock(&self.upstream.book).rank(id, self.candidates.clone(), Instant::now());
    }

    /// Asks those whose turn it is, and says when it may be another's.
    fn start_what_is_due(&mut self, now: Instant) -> Option<Instant> {
        loop {
            if self.asked.len() >= self.upstream.config.max_sources {
                self.waiting.clear();
            }
            let best = self.waiting.first()?;
            // One with an open breaker only when it is certain that there is no other.
            if best.open && self.lookups_going_on {
                return None;
            }
            let why = if self.running.is_empty() {
                if self.asked.is_empty() { Why::First } else { Why::Failover }
            } else {
                if self.running.len() >= self.upstream.config.parallel {
                    return None;
                }
                let hedge = &self.upstream.config.hedge;
                let dues = self.running.iter().map(|running| {
                    due(&running.progress, self.left(running), &best.forecast, hedge)
                });
                let due = dues.max_by_key(|due| (due.slow, due.silent))?;
                let mut budget = lock(&self.upstream.budget);
                if now >= due.silent {
                    Why::Failover
                } else if now >= due.slow && budget.take() {
                    Why::Hedge
                } else {
                    let may_hedge = now < due.slow && budget.has();
                    return Some(if may_hedge { due.slow } else { due.silent });
                }
            };
            let Ranked { candidate, .. } = self.waiting.remove(0);
            self.candidates.retain(|other| other.source.peer != candidate.source.peer);
            self.start(candidate, why, now);
        }
    }

    /// Groups that an attempt has to go.
    fn left(&self, running: &Running<'_>) -> u32 {
        let all = self.growing.len().map_or(USUAL_GROUPS, group_count);
        running.span.map_or(all, |(next, end)| end.saturating_sub(next))
    }

    fn start(&mut self, candidate: Candidate, why: Why, now: Instant) {
        if self.began.is_none() {
            self.began = Some(now);
            self.upstream.metrics.upstream_fetches_total.inc();
            lock(&self.upstream.budget).earn();
        }
        let begun = self.growing.came().is_some_and(|(came, _)| came > 0);
        match why {
            Why::Hedge => self.upstream.metrics.hedges_total.with_label_values(&["asked"]).inc(),
            Why::Failover if begun => self.upstream.metrics.failovers_total.inc(),
            Why::First | Why::Failover => {}
        }
        self.asked.insert(candidate.source.peer);
        let range = self.wanted();
        self.ask(candidate, Task::Blob, range, why, now);
    }

    /// The bytes to ask for next; `None` for all.
    fn wanted(&self) -> Option<(u64, u64)> {
        let from = self.range.map_or(0, |(first, _)| first / u64::from(GROUP_LEN));
        let from = u32::try_from(from).unwrap_or(0);
        match (self.growing.len(), self.growing.missing(from)) {
            (Some(len), Some((first, end))) => {
                let at = |group: u32| u64::from(group) * u64::from(GROUP_LEN);
                Some((at(first), at(end).min(u64::from(len))))
            }
            _ => self.range,
        }
    }

    fn ask(
        &mut self,
        candidate: Candidate,
        task: Task,
        range: Option<(u64, u64)>,
        why: Why,
        now: Instant,
    ) {
        let config = &self.upstream.config;
        let patience = Patience { header: config.header_timeout, stall: config.stall_timeout };
        let question = Question {
            reach: &self.upstream.reach,
            source: candidate.source.clone(),
            id: self.growing.id(),
            range,
            priority: self.priority,
            patience,
        };
        self.running.push(Running {
            _counted: Counted::new(self.upstream, candidate.source.peer),
            candidate,
            task,
            range,
            span: None,
            progress: Progress::new(now),
            way: None,
            why,
            events: attempt(question),
        });
    }

    async fn on_event(
        &mut self,
        at: usize,
        event: Option<Result<Event, AttemptError>>,
    ) -> Option<End> {
        let now = Instant::now();
        let running = self.running.get_mut(at)?;
        match event {
            Some(Ok(Event::Connected(way))) => {
                running.progress.connected(now);
                running.way = Some(way);
            }
            Some(Ok(Event::Header { len })) => return self.on_header(at, len).await,
            Some(Ok(Event::Group(group, nodes))) => {
                running.progress.group(now);
                self.upstream.count_bytes(running.way, group.bytes.len());
                if running.progress.groups == 1
                    && let Some(took) = running.progress.first()
                {
                    let peer = running.candidate.source.peer;
                    lock(&self.upstream.book).first(peer, took, now);
                    if let Some(way) = running.way {
                        self.upstream.reach.first(peer, way, took, now);
                    }
                    let metrics = &self.upstream.metrics;
                    metrics.upstream_first_group_seconds.observe(took.as_secs_f64());
                }
                if let Task::Proof { len } = running.task {
                    return self.proven(at, len).await;
                }
                if let Some((next, _)) = &mut running.span {
                    *next = group.index.saturating_add(1);
                }
                self.growing.put(group, &nodes);
                let at = self.stop_those_behind(at);
                if self.growing.missing(0).is_none() {
                    return self.complete(at).await;
                }
            }
            Some(Ok(Event::Raw(bytes, outboard))) => {
                self.upstream.count_bytes(running.way, bytes.len());
                // A whole blob proves its length, too.
                if let Task::Proof { len } = running.task {
                    return self.proven(at, len).await;
                }
                let whole = Whole::new(self.growing.id(), bytes, outboard).map(Arc::new)?;
                self.growing.whole(whole);
                return self.complete(at).await;
            }
            None => {
                let running = self.running.remove(at);
                self.delivered(&running);
                // Not all that is missing, then.
                let range = self.wanted();
                self.ask(running.candidate, Task::Blob, range, Why::First, now);
            }
            Some(Err(error)) => {
                let running = self.running.remove(at);
                self.on_failure(running, error, now);
            }
        }
        None
    }

    fn on_failure(&mut self, running: Running<'a>, error: AttemptError, now: Instant) {
        let Running { candidate, task, range, way, why, .. } = running;
        if let AttemptError::Exchange { error: exchange, reused } = &error {
            let peer = candidate.source.peer;
            match exchange {
                // It had closed the connection while that lay in the pool, or is going down.
                exchange if exchange.is_connection() && *reused && self.again.insert(peer) => {
                    let range = if task == Task::Blob { self.wanted() } else { range };
                    return self.ask(candidate, task, range, why, now);
                }
                // What the viewer wants to read lies outside of the blob, which it will be told; or
                // the blob is shorter than another source says. Its header tells.
                ExchangeError::Refused { code: Code::Range, .. }
                    if task == Task::Blob && range.is_some() =>
                {
                    if self.growing.len().is_none() {
                        self.range = None;
                    }
                    return self.ask(candidate, task, None, why, now);
                }
                _ => {}
            }
        }
        self.note(&candidate, way, &error, now);
        self.failures.push(error);
        self.rank();
    }

    /// Counts a failed attempt and remembers it against the source if it is to blame.
    fn note(&self, candidate: &Candidate, way: Option<Way>, error: &AttemptError, now: Instant) {
        let (reason, fault) = blame(error);
        let peer = candidate.source.peer;
        self.upstream.metrics.upstream_failures_total.with_label_values(&[reason]).inc();
        tracing::debug!("{peer} did not deliver {}: {error}", self.growing.id());
        match fault {
            Some(Fault::Corrupt) => self.lied(peer, now),
            Some(fault) => {
                lock(&self.upstream.book).failed(peer, fault, now);
                // One that could not be reached has failed by each way already.
                if let Some(way) = way {
                    self.upstream.reach.failed(peer, way, now);
                }
            }
            None => {}
        }
    }

    fn lied(&self, peer: PeerId, now: Instant) {
        lock(&self.upstream.book).failed(peer, Fault::Corrupt, now);
        let metrics = &self.upstream.metrics;
        if count_and_log(&metrics.corrupt_blobs_total.with_label_values(&["upstream"])) {
            let id = self.growing.id();
            tracing::warn!("{peer} delivered wrong bytes for {id}; it is not asked for a while");
        }
    }

    /// A source has the blob, and claims how long it is.
    async fn on_header(&mut self, at: usize, len: u32) -> Option<End> {
        let running = self.running.get_mut(at)?;
        if let Task::Proof { len: claimed } = running.task {
            if claimed != len {
                let running = self.running.remove(at);
                let error = ExchangeError::Promise { length: 0, total: u64::from(len) };
                let error = AttemptError::Exchange { error, reused: false };
                self.on_failure(running, error, Instant::now());
            }
            return None;
        }
        if self.growing.claim(len).is_err() {
            // Who is right? The last group proves it.
            let Running { candidate, why, .. } = self.running.remove(at);
            let range = Some((u64::from(len).saturating_sub(1), u64::from(len)));
            self.ask(candidate, Task::Proof { len }, range, why, Instant::now());
            return None;
        }
        self.claimants.insert(running.candidate.source.peer);
        let span = Span::covering(len, running.range).map(|span| (span.first(), span.end()));
        running.span = span.or(Some((0, group_count(len))));
        if self.room.is_none() {
            self.reserve(len).await;
        }
        None
    }

    /// Waits for room for the blob; nothing of it is read before. No source is slow for that.
    async fn reserve(&mut self, len: u32) {
        let began = Instant::now();
        self.room = Some(self.upstream.memory.room(len).await);
        for running in &mut self.running {
            running.progress.held_up(began.elapsed());
        }
    }

    /// A source has proved that the blob is of another length than was claimed before.
    async fn proven(&mut self, at: usize, len: u32) -> Option<End> {
        let now = Instant::now();
        let liars = std::mem::take(&mut self.claimants);
        for liar in &liars {
            self.lied(*liar, now);
        }
        self.growing.disclaim();
        if self.growing.claim(len).is_err() {
            // Readers were told the wrong length. They ask again, and the liars are not asked then.
            return Some(Err(FetchError::Corrupt));
        }
        let Running { candidate, why, .. } = self.running.remove(at);
        for running in std::mem::take(&mut self.running) {
            if !liars.contains(&running.candidate.source.peer) {
                self.may_ask_again(running.candidate);
            }
        }
        self.claimants.insert(candidate.source.peer);
        self.room = None;
        self.reserve(len).await;
        let range = self.wanted();
        self.ask(candidate, Task::Blob, range, why, Instant::now());
        None
    }

    /// Tells those to stop that send what the attempt at `at` has sent already. Says where that
    /// attempt is then.
    fn stop_those_behind(&mut self, at: usize) -> usize {
        let Some(Running { span: Some((front, end)), progress, .. }) = self.running.get(at) else {
            return at;
        };
        let (front, end, asked) = (*front, *end, progress.asked);
        let behind = |running: &Running<'_>| {
            running.task == Task::Blob
                && match running.span {
                    Some((next, last)) => last == end && next < front,
                    None => true,
                }
        };
        let (mut place, mut before) = (0, 0);
        let behind: Vec<_> = self
            .running
            .extract_if(.., |running| {
                let stops = place != at && behind(running);
                before += usize::from(stops && place < at);
                place += 1;
                stops
            })
            .collect();
        for running in behind {
            self.outrun(&running, asked);
            self.may_ask_again(running.candidate);
        }
        at.saturating_sub(before)
    }

    /// A source that was told to stop may be asked again, should others fail.
    fn may_ask_again(&mut self, candidate: Candidate) {
        self.asked.remove(&candidate.source.peer);
        self.candidates.push(candidate);
        self.rank();
    }

    /// Another source, asked at `asked`, was quicker.
    fn outrun(&self, running: &Running<'_>, asked: Instant) {
        // That one which was asked later is behind says nothing about it.
        if running.progress.asked <= asked {
            let now = Instant::now();
            let peer = running.candidate.source.peer;
            let mut book = lock(&self.upstream.book);
            book.outrun(peer);
            if running.progress.came.is_none() {
                book.first(peer, now.saturating_duration_since(running.progress.asked), now);
            }
            if let Some(pace) = running.progress.pace() {
                book.pace(peer, pace, now);
            }
        }
        if running.why == Why::Hedge {
            self.upstream.metrics.hedges_total.with_label_values(&["lost"]).inc();
        }
    }

    /// A source has delivered what was asked of it.
    fn delivered(&self, running: &Running<'_>) {
        let now = Instant::now();
        let source = &running.candidate.source;
        let mut book = lock(&self.upstream.book);
        if let Some(pace) = running.progress.pace() {
            book.pace(source.peer, pace, now);
        }
        book.succeeded(source.peer, now);
        drop(book);
        if let Some(way) = running.way {
            self.upstream.reach.delivered(source.peer, way, running.progress.pace(), now);
        }
        lock(&self.upstream.schedule).delivered(source, now);
        if running.why == Why::Hedge {
            self.upstream.metrics.hedges_total.with_label_values(&["won"]).inc();
        }
    }

    /// All groups are there, and the attempt at `at` has sent the last of them.
    async fn complete(&mut self, at: usize) -> Option<End> {
        let whole = self.growing.finish()?;
        if let Some(began) = self.began {
            let took = began.elapsed().as_secs_f64();
            self.upstream.metrics.upstream_fetch_latency_seconds.observe(took);
        }
        let mut winner = self.running.remove(at);
        self.delivered(&winner);
        for running in std::mem::take(&mut self.running) {
            self.outrun(&running, winner.progress.asked);
        }
        // The readers have it all. Whether it ends where it should is for the next choice.
        if let Ok(Some(Err(error))) = timeout(END_WITHIN, winner.events.next()).await {
            self.note(&winner.candidate, winner.way, &error, Instant::now());
        }
        let room = match self.room.take() {
            Some(room) => room,
            None => self.upstream.memory.room(whole.len()).await,
        };
        Some(Ok((whole, room)))
    }

    /// What the failures amount to.
    fn verdict(&self) -> FetchError {
        match verdict(&self.failures) {
            // Those who were not found may have it.
            FetchError::NotFound if self.lookup_failed => FetchError::Failed,
            verdict => verdict,
        }
    }
}

/// How long the end of a body is waited for when all of the blob is there.
const END_WITHIN: Duration = Duration::from_millis(100);

/// The next event of any attempt, and whose it is.
async fn next_event(running: &mut [Running<'_>]) -> (usize, Option<Result<Event, AttemptError>>) {
    poll_fn(|context| {
        for (at, running) in running.iter_mut().enumerate() {
            if let Poll::Ready(event) = running.events.poll_next_unpin(context) {
                return Poll::Ready((at, event));
            }
        }
        Poll::Pending
    })
    .await
}
