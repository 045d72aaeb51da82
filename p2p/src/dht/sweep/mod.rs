//! The sweep: when to announce which of the keys this node provides, and to whom.
//!
//! Announced one by one, each key costs a lookup of some thirty questions. But keys that lie close
//! together belong to the same peers. So the space is cut into *regions*, blocks of points that
//! begin with the same bits, each large enough to hold more peers than a key is announced to. A
//! *visit* of a region
//!
//! 1. takes those of its keys that are due, or soon will be,
//! 2. *explores* it with a few lookups, until all its peers are known (`explore`, `atlas`),
//! 3. *allots* each key to the peers nearest to it, and *tells* each peer all its keys, in batches of
//!    hundreds on one stream, no faster than the peer admits them (`visit`, `pace`),
//! 4. asks at the end of each batch for one of its records, and once all are told for a few random
//!    ones at random peers. Whoever fails or forgets is tried again, then passed over for the next
//!    nearest.
//!
//! Keys announced together are due together, so each later round keeps its regions, and the rounds of
//! different regions stay as far apart as they were at first. Nodes begin at different times and each
//! is paced; there is nothing that jitter would have to spread.
//!
//! Nothing here does I/O: [`Sweep::poll`] gives what is to be done, and `on_closest`, `on_told` and
//! `on_read` take what came of it. The clock and the seed come from outside, so a simulation runs
//! the same code.

mod allot;
mod atlas;
mod config;
mod driver;
mod explore;
mod holder;
mod journal;
mod keys;
mod metrics;
mod pace;
mod prefix;
mod provided;
mod random;
mod status;
mod visit;

pub use config::{Config, Quorum};
pub(crate) use driver::{Announcer, Busy, Task};
pub(crate) use keys::{Insertion, Progress};
pub(crate) use metrics::SweepMetrics;
pub(crate) use provided::Full;
pub use status::{Counts, SweepStatus};
pub(crate) use visit::Sample;

use super::{
    Announced, Key,
    network::{Contact, Failure},
    space::Point,
};
use atlas::Atlas;
use journal::Journal;
use keys::Unclaimed;
use pace::Pace;
use prefix::Prefix;
use provided::{Kind, Provided, place};
use random::Random;
use std::{
    cell::Cell,
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};
use visit::{Step, Tools, Visit};

/// What is to be done. `id` is that of the answer.
#[derive(Debug)]
pub(crate) enum Action {
    /// Look for the peers nearest to the point of these bytes, for all of them or, if `diverse`, for
    /// no more of one network than a key is announced to.
    Closest { id: u64, target: Vec<u8>, diverse: bool },
    /// Tell a peer that this node provides these keys, then ask it for one of them.
    Tell { id: u64, to: Contact, keys: Vec<Key>, sample: Key },
    /// Ask a peer whether it has this node's record of a key.
    ReadBack { id: u64, at: Contact, key: Key },
    /// An announcement or renewal of a key has ended. Nothing is to be answered.
    Ended { key: Key, announced: Announced },
}

/// What an answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InFlight {
    Closest { target: Point, diverse: bool },
    Tell { holder: usize },
    ReadBack { holder: usize },
}

/// What this node provides, and what is being done to announce it.
#[derive(Debug)]
pub(crate) struct Sweep {
    config: Config,
    /// How many peers a key is announced to.
    k: usize,
    max_group: Option<usize>,
    renew_after: Duration,
    record_ttl: Duration,
    retry_base: Duration,
    retry_max: Duration,
    provided: Provided,
    unclaimed: HashMap<Key, Unclaimed>,
    /// When unclaimed keys are dropped.
    claim_until: Option<Instant>,
    /// If there is a disk.
    journal: Option<Journal>,
    atlas: Atlas,
    pace: Pace,
    random: Random,
    /// At most `visits`.
    visits: VecDeque<(u64, Visit)>,
    /// At most `lookups`, `tells` and `read_backs` of each visit: 51 entries by default.
    in_flight: HashMap<u64, (u64, InFlight)>,
    last_id: u64,
    /// Ends of announcements to tell of; at most one a key in hand, so 10,000 of 40 bytes.
    ended: VecDeque<(Key, Announced)>,
    /// Something has happened since nothing was left to do.
    stirred: bool,
    wake: Option<Instant>,
    /// Some keys went to fewer peers than they should, as there were no more.
    thin: bool,
    /// When such keys may be announced again, at the earliest.
    thin_again: Option<Instant>,
    thin_wait: Duration,
    counts: Counts,
}

impl Sweep {
    /// Provides nothing yet. A key is announced to at most `max_group` peers of one network, if that is
    /// limited. The seed decides what is read back.
    pub(crate) fn new(config: &super::Config, max_group: Option<usize>, seed: u64) -> Self {
        let sweep = config.sweep.clone();
        Self {
            k: config.replication,
            max_group,
            renew_after: config.renew_after,
            record_ttl: config.record_ttl,
            retry_base: config.retry_base,
            retry_max: config.retry_max,
            provided: Provided::new(config.max_kept, config.max_cached),
            unclaimed: HashMap::new(),
            claim_until: None,
            journal: None,
            atlas: Atlas::new(config.replication, sweep.remember),
            pace: Pace::new(&sweep),
            random: Random::new(seed),
            visits: VecDeque::new(),
            in_flight: HashMap::new(),
            last_id: 0,
            ended: VecDeque::new(),
            stirred: false,
            wake: None,
            thin: false,
            thin_again: None,
            thin_wait: sweep.remember,
            counts: Counts::default(),
            config: sweep,
        }
    }

    /// Whether this node is bound to an account, by which others admit more of its records.
    pub(crate) fn set_bound(&mut self, is_bound: bool) {
        self.pace.set_bound(is_bound);
    }

    /// Tries at once whatever failed. For when the first peers appear.
    pub(crate) fn retry_failed(&mut self, now: Instant) {
        self.provided.due_now(now, |entry| entry.failures > 0);
        self.stirred = true;
    }

    /// This node has other addresses than it has told: some keys are announced anew.
    pub(crate) fn moved(&mut self, now: Instant) {
        let keys = self.provided.kept() + self.provided.cached();
        let every = keys.div_ceil(self.config.moved_keys.max(1)).max(1);
        // The order of a hash table is as good as random.
        let passed = Cell::new(0usize);
        self.provided.due_now(now, |entry| {
            let at = passed.replace(passed.get() + 1);
            entry.announced_ms.is_some() && at.is_multiple_of(every)
        });
        self.stirred = true;
    }

    /// As many peers are in the routing table. Once these are as many as a key is announced to, keys
    /// that went to fewer are announced again: a network that was just begun has grown. Should that
    /// find no more peers, it is tried less and less often.
    pub(crate) fn on_routing_table(&mut self, peers: usize, now: Instant) {
        if !self.thin || peers < self.k || self.thin_again.is_some_and(|at| now < at) {
            return;
        }
        self.thin = false;
        self.thin_again = now.checked_add(self.thin_wait);
        self.thin_wait = self.thin_wait.saturating_mul(2).min(self.renew_after);
        self.provided.due_now(now, |entry| entry.thin);
        self.stirred = true;
    }

    /// Whether [`Self::poll`] may have something already.
    pub(crate) fn is_stirred(&self) -> bool {
        self.stirred || !self.ended.is_empty()
    }

    /// When [`Self::poll`] has something again, if nothing happens before.
    pub(crate) fn wake(&self) -> Option<Instant> {
        self.wake
    }

    /// What is to be done now. To be called again until there is nothing, after any other call and
    /// at [`Self::wake`].
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Action> {
        loop {
            if let Some((key, announced)) = self.ended.pop_front() {
                return Some(Action::Ended { key, announced });
            }
            if !self.stirred && self.wake.is_none_or(|wake| now < wake) {
                return None;
            }
            self.stirred = true;
            self.drop_unclaimed(now);
            self.pace.expire(now);
            self.start_visits(now);
            let mut wake = self.next_due();
            let mut ended = false;
            for _ in 0..self.visits.len() {
                match self.step(now) {
                    (_, Step::Wait(at)) => wake = earlier(wake, at),
                    (_, Step::Done) => ended = true,
                    (visit, step) => return self.start(visit, step),
                }
            }
            if !ended {
                self.stirred = false;
                self.wake = earlier(wake, self.claim_until);
                return None;
            }
        }
    }

    /// Whether another visit may begin for a queue: each leaves one to the other.
    fn may_visit(&self, kind: Kind) -> bool {
        if self.atlas.depth().is_none() && !self.visits.is_empty() {
            // The first visit shows how large a region is.
            return false;
        }
        let of_kind = self.visits.iter().filter(|(_, visit)| visit.kind() == kind).count();
        self.visits.len() < self.config.visits && of_kind + 1 < self.config.visits
    }

    fn start_visits(&mut self, now: Instant) {
        for kind in [Kind::New, Kind::Renewal] {
            while self.may_visit(kind)
                && let Some((due, key)) = self.provided.first(kind).filter(|(due, _)| *due <= now)
            {
                self.atlas.expire(now);
                let region = self.atlas.depth().map(|depth| Prefix::of(place(&key), depth));
                let from = region.unwrap_or(Prefix::ALL);
                let (ahead, max) = (self.config.renew_ahead, self.config.visit_keys);
                let keys = self.provided.take(from, &key, now, ahead, max);
                debug_assert!(!keys.is_empty(), "the key itself is due");
                self.last_id += 1;
                self.visits.push_back((self.last_id, Visit::new(kind, due, region, keys)));
            }
        }
    }

    /// When the first key is due for which there is a visit left.
    fn next_due(&self) -> Option<Instant> {
        [Kind::New, Kind::Renewal]
            .into_iter()
            .filter(|kind| self.may_visit(*kind))
            .filter_map(|kind| self.provided.first(kind))
            .map(|(due, _)| due)
            .min()
    }

    /// The next step of the visit whose turn it is, which then goes to the end of the line. One that
    /// has ended is gone.
    fn step(&mut self, now: Instant) -> (u64, Step) {
        let Some((id, mut visit)) = self.visits.pop_front() else { return (0, Step::Done) };
        // Two visits of one region need not look for the same peers.
        let others = self.visits.iter().filter(|(_, other)| other.is_looking());
        let may_look = self.in_flight_of(is_lookup) < self.config.lookups
            && !others
                .filter_map(|(_, other)| other.region())
                .any(|region| visit.region().is_none_or(|own| own.overlaps(region)));
        let may_tell = self.in_flight_of(is_tell) < self.config.tells;
        let step = visit.step(&mut Tools { may_look, may_tell, ..self.tools(now) });
        if matches!(step, Step::Done) {
            self.settle(&visit, now);
        } else {
            self.visits.push_back((id, visit));
        }
        (id, step)
    }

    fn tools(&mut self, now: Instant) -> Tools<'_> {
        Tools {
            config: &self.config,
            k: self.k,
            max_group: self.max_group,
            retry_base: self.retry_base,
            atlas: &mut self.atlas,
            pace: &mut self.pace,
            random: &mut self.random,
            retries: &mut self.counts.retries,
            now,
            may_look: false,
            may_tell: false,
        }
    }

    fn in_flight_of(&self, kind: fn(&InFlight) -> bool) -> usize {
        self.in_flight.values().filter(|(_, what)| kind(what)).count()
    }

    /// A step that is an action.
    fn start(&mut self, visit: u64, step: Step) -> Option<Action> {
        self.last_id += 1;
        let id = self.last_id;
        let (what, action) = match step {
            Step::Closest { target, diverse } => {
                self.counts.lookups += 1;
                let what = InFlight::Closest { target: Point::of_bytes(&target), diverse };
                (what, Action::Closest { id, target, diverse })
            }
            Step::Tell { holder, to, keys, sample } => {
                self.counts.tells += 1;
                self.counts.records += u64::try_from(keys.len()).unwrap_or(u64::MAX);
                (InFlight::Tell { holder }, Action::Tell { id, to, keys, sample })
            }
            Step::ReadBack { holder, at, key } => {
                self.counts.read_backs += 1;
                (InFlight::ReadBack { holder }, Action::ReadBack { id, at, key })
            }
            Step::Wait(_) | Step::Done => return None,
        };
        self.in_flight.insert(id, (visit, what));
        Some(action)
    }

    /// Takes what an answer is for out of those in flight, and its visit out of the line.
    fn answered(&mut self, id: u64) -> Option<(InFlight, u64, Visit)> {
        let (visit, what) = self.in_flight.remove(&id)?;
        self.stirred = true;
        let at = self.visits.iter().position(|(id, _)| *id == visit)?;
        self.visits.remove(at).map(|(_, found)| (what, visit, found))
    }

    /// A lookup has ended with these peers, the nearest of all if it ended by itself.
    pub(crate) fn on_closest(
        &mut self,
        id: u64,
        found: Vec<Contact>,
        complete: bool,
        now: Instant,
    ) {
        let Some((what, at, mut visit)) = self.answered(id) else { return };
        if let InFlight::Closest { target, diverse } = what {
            let complete = complete && !found.is_empty();
            self.atlas.learn(&target, found, complete && !diverse, now);
            for key in visit.on_closest(complete, &self.atlas) {
                self.provided.give_back(&key);
            }
        }
        self.visits.push_back((at, visit));
    }

    /// A peer was told, and showed whether it has the sample; or it could not be told.
    pub(crate) fn on_told(
        &mut self,
        id: u64,
        told: Result<Sample, Failure>,
        now: Instant,
        now_ms: u64,
    ) {
        let Some((what, at, mut visit)) = self.answered(id) else { return };
        if let InFlight::Tell { holder } = what {
            let reached = visit.on_told(holder, told, &mut self.tools(now));
            for key in reached {
                let due = now + self.renew_after;
                self.provided.announced(&key, due, now_ms, visit.is_thin());
                self.thin |= visit.is_thin();
                self.counts.announced += 1;
                if let Some(journal) = &mut self.journal {
                    journal.changed(&key);
                }
                self.ended.push_back((key, Announced::Yes));
            }
        }
        self.visits.push_back((at, visit));
    }

    /// A peer has a record, or has not; or it could not be asked.
    pub(crate) fn on_read(&mut self, id: u64, read: Result<Sample, Failure>, now: Instant) {
        let Some((what, at, mut visit)) = self.answered(id) else { return };
        if let InFlight::ReadBack { holder } = what {
            visit.on_read(holder, read, &mut self.tools(now));
        }
        self.visits.push_back((at, visit));
    }

    /// A visit has ended: its keys wait for their next turn.
    fn settle(&mut self, visit: &Visit, now: Instant) {
        self.counts.visits += 1;
        let longest = if visit.was_refused() { self.config.refused_max } else { self.retry_max };
        for (key, reached) in visit.end() {
            if !reached {
                self.counts.failed += 1;
                self.provided.failed(key, now, |failures| {
                    let doubled = 1u32.checked_shl(failures).unwrap_or(u32::MAX);
                    self.retry_base.saturating_mul(doubled).min(longest)
                });
                self.ended.push_back((*key, Announced::Pending));
            }
            self.provided.give_back(key);
        }
    }
}

fn is_lookup(what: &InFlight) -> bool {
    matches!(what, InFlight::Closest { .. })
}

fn is_tell(what: &InFlight) -> bool {
    matches!(what, InFlight::Tell { .. })
}

/// The earlier of two instants, if there are any.
fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests;
