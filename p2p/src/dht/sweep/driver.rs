//! The sweep's part of the driver: what it wants becomes lookups and requests, what comes of these
//! goes back to it, and callers hear of their keys.

use super::{Action, Counts, Full, Insertion, Progress, Sample, Sweep, SweepMetrics, SweepStatus};
use crate::{
    OverlayKey, PeerId,
    dht::{
        Announced, Class, Config, Key, ProvideError,
        client::Reply,
        disk::Change,
        finder::{Asker, Errand, Finder, Purpose},
        handle::Answer,
        lookup::{End, Outcome},
        network::{Answer as Answered, Contact, Failure, Question},
        space::Point,
        task::Behaviours,
    },
    identity::key_of,
};
use std::{collections::HashMap, time::Instant};

/// Callers that wait for first announcements; one more is told `Busy`. 100 bytes each, so 800 KB at
/// most.
const MAX_WAITERS: usize = 8192;

/// Actions begun in one turn of the loop. Most are ends of announcements, a map's look-up each; 32
/// at most are batches for peers. 1 ms in all; the rest waits for the next turn.
const ACTIONS: usize = 256;

/// What a request of the sweep to one peer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// It was told a batch that ends with this sample.
    Tell { id: u64, sample: Key },
    /// It is asked for a record.
    ReadBack { id: u64, key: Key },
    /// It did not have the sample: are there many other providers?
    OthersOfTold { id: u64 },
    /// It did not have the record that was read back: are there many other providers?
    OthersOfRead { id: u64 },
}

/// The sweep, and what it needs of the world.
pub(crate) struct Announcer {
    local: OverlayKey,
    /// How many providers of a key are many: a peer keeps and names no more.
    many: usize,
    sweep: Sweep,
    waiters: HashMap<Key, Vec<Answer>>,
    waiting: usize,
    /// What of the counts is in the metrics.
    shown: Counts,
    metrics: SweepMetrics,
}

impl Announcer {
    pub(crate) fn new(
        local: &PeerId,
        config: &Config,
        max_group: Option<usize>,
        seed: u64,
        metrics: SweepMetrics,
    ) -> Self {
        Self {
            // A node's own key is always of the kind that PeerIds are made of here.
            local: key_of(local).unwrap_or_default(),
            many: config.replication,
            sweep: Sweep::new(config, max_group, seed),
            waiters: HashMap::new(),
            waiting: 0,
            shown: Counts::default(),
            metrics,
        }
    }

    /// Provides a key from now on.
    pub(crate) fn provide(
        &mut self,
        key: Key,
        class: Class,
        now: Instant,
    ) -> Result<Insertion, ProvideError> {
        let inserted = self.sweep.insert(key, class, now);
        let inserted = inserted.map_err(|Full(most)| ProvideError::Full(most))?;
        if let Some(left) = &inserted.left {
            self.answer(left, Err(ProvideError::NotProvided));
        }
        Ok(inserted)
    }

    /// Provides a key no longer. Whether it was provided.
    pub(crate) fn stop_providing(&mut self, key: &Key) -> bool {
        self.answer(key, Err(ProvideError::NotProvided));
        self.sweep.remove(key)
    }

    /// Answers once the first announcement of a key has ended.
    pub(crate) fn await_announced(&mut self, key: Key, waiter: Answer) -> Result<(), Busy> {
        let answer = match self.sweep.progress(&key) {
            None => Err(ProvideError::NotProvided),
            Some(Progress::Announced) => Ok(Announced::Yes),
            Some(Progress::Failed) => Ok(Announced::Pending),
            Some(Progress::First) if self.waiting >= MAX_WAITERS => {
                let _ = waiter.send(Err(ProvideError::Busy));
                return Err(Busy);
            }
            Some(Progress::First) => {
                self.waiting += 1;
                self.waiters.entry(key).or_default().push(waiter);
                return Ok(());
            }
        };
        // A caller that has gone away wants no answer.
        let _ = waiter.send(answer);
        Ok(())
    }

    fn answer(&mut self, key: &Key, answer: Result<Announced, ProvideError>) {
        for waiter in self.waiters.remove(key).unwrap_or_default() {
            self.waiting -= 1;
            let _ = waiter.send(answer);
        }
    }

    /// Takes in what was kept over a restart, see [`Sweep::restore`].
    pub(crate) fn restore(
        &mut self,
        kept: impl IntoIterator<Item = (Key, Class, Option<u64>)>,
        now: Instant,
        now_ms: u64,
    ) {
        self.sweep.restore(kept, now, now_ms);
    }

    /// Up to `max` changes for the disk.
    pub(crate) fn take_changes(&mut self, max: usize) -> Vec<Change> {
        self.sweep.take_changes(max)
    }

    /// Peers have appeared where there were none.
    pub(crate) fn on_first_peers(&mut self, now: Instant) {
        self.sweep.retry_failed(now);
    }

    /// This node has other addresses than it has told.
    pub(crate) fn moved(&mut self, now: Instant) {
        self.sweep.moved(now);
    }

    /// Does the next part of what is to be done. `reachable` says that the routing table holds
    /// anybody.
    pub(crate) fn advance(
        &mut self,
        finder: &mut Finder,
        parts: &mut Behaviours<'_>,
        reachable: bool,
        now: Instant,
    ) {
        for _ in 0..ACTIONS {
            match self.sweep.poll(now) {
                None => break,
                Some(Action::Closest { id, .. }) if !reachable => {
                    self.sweep.on_closest(id, Vec::new(), false, now);
                }
                Some(Action::Closest { id, target, diverse }) => {
                    let at = Point::of_bytes(&target);
                    let purpose = Purpose::Explore { id, at, diverse };
                    finder.closest(target, purpose, parts, now);
                }
                Some(Action::Tell { id, to, keys, sample }) => {
                    let task = Errand::Sweep(Task::Tell { id, sample });
                    finder.tell(task, to, keys, sample, parts.client, now);
                }
                Some(Action::ReadBack { id, at, key }) => {
                    let task = Asker::Errand(Errand::Sweep(Task::ReadBack { id, key }));
                    let question = Question::Held(key, self.local);
                    finder.ask(task, at, question, parts.client, now);
                }
                Some(Action::Ended { key, announced }) => {
                    if announced == Announced::Yes {
                        self.metrics.published.inc();
                    }
                    self.answer(&key, Ok(announced));
                }
            }
        }
    }

    /// When [`Self::advance`] has something to do, if nothing else happens.
    pub(crate) fn wakes_at(&self, now: Instant) -> Option<Instant> {
        if self.sweep.is_stirred() { Some(now) } else { self.sweep.wake() }
    }

    /// A lookup of [`Purpose::Explore`] has ended.
    pub(crate) fn on_lookup(&mut self, id: u64, outcome: Outcome, now: Instant) {
        let complete = outcome.end == End::Converged;
        self.sweep.on_closest(id, outcome.closest, complete, now);
    }

    /// A request to one peer has ended.
    pub(crate) fn on_errand(
        &mut self,
        task: Task,
        peer: PeerId,
        result: Result<Reply, Failure>,
        finder: &mut Finder,
        parts: &mut Behaviours<'_>,
        (now, now_ms): (Instant, u64),
    ) {
        // It was connected a moment ago, so its addresses are not needed.
        let peer = Contact { peer, addresses: Vec::new() };
        let (task, key) = match (task, &result) {
            (Task::Tell { id, sample }, Ok(Reply::Told { kept: false })) => {
                (Task::OthersOfTold { id }, sample)
            }
            (Task::ReadBack { id, key }, Ok(Reply::Answer(Answered { held: false, .. }))) => {
                (Task::OthersOfRead { id }, key)
            }
            (Task::Tell { id, .. } | Task::OthersOfTold { id }, _) => {
                let told = self.shown_by(task, result);
                self.metrics.tells.with_label_values(&[outcome(&told)]).inc();
                self.sweep.on_told(id, told, now, now_ms);
                return;
            }
            (Task::ReadBack { id, .. } | Task::OthersOfRead { id }, _) => {
                let read = self.shown_by(task, result);
                self.metrics.read_backs.with_label_values(&[outcome(&read)]).inc();
                self.sweep.on_read(id, read, now);
                return;
            }
        };
        let asker = Asker::Errand(Errand::Sweep(task));
        finder.ask(asker, peer, Question::Providers(key), parts.client, now);
    }

    fn shown_by(&self, task: Task, result: Result<Reply, Failure>) -> Result<Sample, Failure> {
        match (task, result) {
            (Task::OthersOfTold { .. } | Task::OthersOfRead { .. }, Ok(Reply::Answer(answer))) => {
                let is_many = answer.providers.len() >= self.many;
                Ok(if is_many { Sample::Crowded } else { Sample::Missing })
            }
            // It showed that it does not have the record, and nothing more.
            (Task::OthersOfTold { .. } | Task::OthersOfRead { .. }, _) => Ok(Sample::Missing),
            (_, Ok(_)) => Ok(Sample::Kept),
            (_, Err(failure)) => Err(failure),
        }
    }

    /// Once a tick: what only changes slowly, and the metrics.
    pub(crate) fn on_tick(&mut self, routing_table: usize, is_bound: bool, now: Instant) {
        self.sweep.set_bound(is_bound);
        self.sweep.on_routing_table(routing_table, now);
        let status = self.sweep.status(now);
        self.metrics.show(&status, &self.shown);
        self.shown = status.done;
    }

    /// The sweep as it stands.
    pub(crate) fn status(&self, now: Instant) -> SweepStatus {
        self.sweep.status(now)
    }
}

/// Too many callers wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Busy;

/// The metric label of what a peer showed.
fn outcome(shown: &Result<Sample, Failure>) -> &'static str {
    match shown {
        Ok(Sample::Kept) => "kept",
        Ok(Sample::Crowded) => "crowded",
        Ok(Sample::Missing) => "missing",
        Err(failure) => failure.label(),
    }
}
