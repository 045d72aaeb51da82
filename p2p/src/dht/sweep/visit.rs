//! One visit of a region: explore it, tell its peers, look whether they keep what they were told.

use super::{
    allot::Candidates,
    atlas::Atlas,
    config::{Config, as_usize},
    explore::{Explore, FEW_KEYS, Look},
    holder::Holder,
    pace::Pace,
    prefix::Prefix,
    provided::Kind,
    random::Random,
};
use crate::dht::{
    Key,
    network::{Contact, Failure},
    space::Point,
};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Peers ranked for a key: those it is announced to, at most 20, and those that may take the place of
/// others. As many as a `u32` has bits.
const MAX_RANKED: usize = 32;

/// Peers that may take the places of others, for each key.
const SPARE: usize = 12;

/// In the ranks, for a place where there is no peer.
const NOBODY: u16 = u16::MAX;

/// Records that a peer should be able to take at once. One that does not is refusing.
const LEAST_PART: usize = 32;

/// A peer is told once this part of a batch may be told, rather than wait for a whole one.
const LEAST_OF_BATCH: usize = 5;

/// What a peer showed when it was asked for a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sample {
    /// It has it.
    Kept,
    /// It does not have it, and knows as many other providers of the key as it keeps at most. Whoever
    /// looks for the key lacks nothing.
    Crowded,
    /// It does not have it.
    Missing,
}

/// What is to be done next for a visit.
#[derive(Debug)]
pub(super) enum Step {
    Closest {
        target: Vec<u8>,
        diverse: bool,
    },
    Tell {
        holder: usize,
        to: Contact,
        keys: Vec<Key>,
        sample: Key,
    },
    ReadBack {
        holder: usize,
        at: Contact,
        key: Key,
    },
    /// Nothing before this instant, or before something in flight has ended.
    Wait(Option<Instant>),
    Done,
}

/// What a visit uses of the sweep.
pub(super) struct Tools<'a> {
    pub(super) config: &'a Config,
    /// How many peers a key is announced to.
    pub(super) k: usize,
    /// How many of them may be of one network.
    pub(super) max_group: Option<usize>,
    pub(super) retry_base: Duration,
    pub(super) atlas: &'a mut Atlas,
    pub(super) pace: &'a mut Pace,
    pub(super) random: &'a mut Random,
    pub(super) retries: &'a mut u64,
    pub(super) now: Instant,
    /// Whether a lookup may start.
    pub(super) may_look: bool,
    /// Whether another peer may be told.
    pub(super) may_tell: bool,
}

#[derive(Debug)]
enum Phase {
    Exploring(Explore),
    Telling,
    Checking { left: usize, in_flight: usize },
}

/// What became of one key.
#[derive(Debug, Default)]
struct Work {
    /// Which of its ranked peers took its record, a bit each.
    took: u32,
    /// How many of its ranked peers it was given to.
    given: usize,
    /// How many must take it.
    needed: usize,
    /// It was announced to enough peers, and that was said.
    reached: bool,
    /// It is provided no longer.
    gone: bool,
}

/// A visit.
#[derive(Debug)]
pub(super) struct Visit {
    kind: Kind,
    since: Instant,
    region: Option<Prefix>,
    phase: Phase,
    keys: Vec<(u64, Key)>,
    work: Vec<Work>,
    /// For each key its nearest peers, `width` of them, as places in `holders`.
    ranks: Vec<u16>,
    width: usize,
    holders: Vec<Holder>,
    thin: bool,
    refused: bool,
    checked: bool,
    /// The holder to look at first, so that each has its turn.
    turn: usize,
}

impl Visit {
    /// A visit for these keys, with their places. Without a region, it first learns how large one
    /// is. `since` is when its first key was due.
    pub(super) fn new(
        kind: Kind,
        since: Instant,
        region: Option<Prefix>,
        keys: Vec<(u64, Key)>,
    ) -> Self {
        Self {
            kind,
            since,
            region,
            phase: Phase::Exploring(Explore::default()),
            work: keys.iter().map(|_| Work::default()).collect(),
            keys,
            ranks: Vec::new(),
            width: 0,
            holders: Vec::new(),
            thin: false,
            refused: false,
            checked: false,
            turn: 0,
        }
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// The region, once it is known.
    pub(super) fn region(&self) -> Option<Prefix> {
        self.region
    }

    /// Whether a lookup is in flight for it that others may profit from.
    pub(super) fn is_looking(&self) -> bool {
        matches!(&self.phase, Phase::Exploring(explore) if explore.is_busy())
    }

    /// Whether its peers were refusing; `false` if they could not be reached.
    pub(super) fn was_refused(&self) -> bool {
        self.refused
    }

    /// Whether there are fewer peers than the keys are to be announced to.
    pub(super) fn is_thin(&self) -> bool {
        self.thin
    }

    /// The first of its keys that are still provided.
    fn first_key(&self) -> Option<&(u64, Key)> {
        self.keys.iter().zip(&self.work).find(|(_, work)| !work.gone).map(|(key, _)| key)
    }

    /// A key is provided no longer.
    pub(super) fn remove(&mut self, key: &Key) {
        if let Some(i) = self.keys.iter().position(|(_, held)| held == key)
            && let Some(work) = self.work.get_mut(i)
        {
            work.gone = true;
        }
    }

    /// What to do next.
    pub(super) fn step(&mut self, tools: &mut Tools<'_>) -> Step {
        loop {
            match &mut self.phase {
                Phase::Exploring(_) => match self.look(tools) {
                    Some(step) => return step,
                    None => {
                        self.allot(tools);
                        self.phase = Phase::Telling;
                    }
                },
                Phase::Telling => match self.tell(tools) {
                    Some(step) => return step,
                    None if self.checked || self.keys.len() <= FEW_KEYS => return Step::Done,
                    None => {
                        self.checked = true;
                        let left = tools.config.read_backs;
                        self.phase = Phase::Checking { left, in_flight: 0 };
                    }
                },
                Phase::Checking { left: 0, in_flight: 0 } => {
                    if self.holders.iter().all(|holder| holder.pending.is_empty()) {
                        return Step::Done;
                    }
                    self.phase = Phase::Telling;
                }
                Phase::Checking { left: 0, .. } => return Step::Wait(None),
                Phase::Checking { left, in_flight } => {
                    *left -= 1;
                    *in_flight += 1;
                    match self.read_back(tools.random) {
                        Some(step) => return step,
                        None => self.read_ended(),
                    }
                }
            }
        }
    }

    fn look(&mut self, tools: &mut Tools<'_>) -> Option<Step> {
        if !tools.may_look {
            return Some(Step::Wait(None));
        }
        let first = self.first_key().copied();
        let Phase::Exploring(explore) = &mut self.phase else { return None };
        let look = match (&mut self.region, first) {
            (_, None) => Look::Explored,
            (None, Some((_, key))) => explore.probe(&key, tools.max_group.is_some()),
            (Some(region), Some(_)) => {
                let of_key = (tools.k, tools.max_group.is_some());
                explore.next(region, &self.keys, of_key, tools.atlas, tools.random)
            }
        };
        match look {
            Look::For { target, diverse } => Some(Step::Closest { target, diverse }),
            Look::Wait => Some(Step::Wait(None)),
            Look::Again => Some(Step::Wait(Some(tools.now))),
            Look::Explored => None,
        }
    }

    /// A lookup has ended, and the atlas knows what it has shown. The keys that turned out to be of
    /// other regions are given back.
    pub(super) fn on_closest(&mut self, complete: bool, atlas: &Atlas) -> Vec<Key> {
        if let Phase::Exploring(explore) = &mut self.phase {
            explore.ended(complete);
        }
        let (None, Some(depth)) = (self.region, atlas.depth()) else { return Vec::new() };
        let Some((place, _)) = self.first_key() else { return Vec::new() };
        let region = Prefix::of(*place, depth);
        self.region = Some(region);
        let (mut outside, mut keys, mut work) = (Vec::new(), Vec::new(), Vec::new());
        for (key, state) in self.keys.drain(..).zip(self.work.drain(..)) {
            if region.contains(key.0) {
                keys.push(key);
                work.push(state);
            } else if !state.gone {
                outside.push(key.1);
            }
        }
        (self.keys, self.work) = (keys, work);
        outside
    }

    /// Ranks the known peers for each key, and gives each key to its nearest.
    fn allot(&mut self, tools: &Tools<'_>) {
        let candidates = Candidates::new(tools.atlas.peers(), tools.max_group);
        self.width = (tools.k + SPARE).min(MAX_RANKED);
        self.ranks = vec![NOBODY; self.keys.len() * self.width];
        let mut places: HashMap<usize, u16> = HashMap::new();
        let ranks = self.ranks.chunks_mut(self.width);
        for (((_, key), work), ranks) in self.keys.iter().zip(&mut self.work).zip(ranks) {
            let found = candidates.of(&Point::of_key(key), self.width);
            self.thin |= found.len() < tools.k;
            work.needed = tools.config.quorum.of(tools.k.min(found.len()));
            for (rank, peer) in ranks.iter_mut().zip(found) {
                *rank = *places.entry(peer).or_insert_with(|| {
                    let holder = u16::try_from(self.holders.len()).unwrap_or(NOBODY);
                    self.holders.extend(candidates.contact(peer).cloned().map(Holder::new));
                    holder
                });
            }
        }
        for key in 0..self.keys.len() {
            for _ in 0..tools.k {
                self.give(key);
            }
        }
    }

    /// Gives a key to the nearest peer that does not have it yet.
    fn give(&mut self, key: usize) {
        let Some(work) = self.work.get_mut(key) else { return };
        while work.given < self.width && !work.gone {
            let rank = key * self.width + work.given;
            work.given += 1;
            let holder = self.ranks.get(rank).and_then(|at| self.holders.get_mut(usize::from(*at)));
            if let Some(holder) = holder.filter(|holder| !holder.out) {
                holder.pending.extend(u32::try_from(key));
                return;
            }
        }
    }

    fn tell(&mut self, tools: &mut Tools<'_>) -> Option<Step> {
        let (now, batch) = (tools.now, tools.config.batch);
        let (mut is_open, mut wake) = (false, None);
        let holders = self.holders.len();
        for offset in 0..holders {
            let at = (self.turn + offset) % holders;
            let Some(holder) = self.holders.get_mut(at) else { continue };
            if !holder.batch.is_empty() {
                is_open = true;
                continue;
            }
            let work = &self.work;
            let is_gone = |key: &u32| work.get(as_usize(*key)).is_none_or(|work| work.gone);
            if holder.pending.is_empty() {
                continue;
            }
            is_open = true;
            if !tools.may_tell {
                continue;
            }
            let want = holder.pending.len().min(batch).min(holder.most.max(LEAST_PART));
            let least = want.min(batch.div_ceil(LEAST_OF_BATCH));
            let available = tools.pace.available(&holder.contact.peer, now);
            let ready = match holder.not_before {
                Some(at) if at > now => at,
                _ if available >= least => {
                    let taken = holder.pending.drain(..want.min(available));
                    holder.batch = taken.filter(|key| !is_gone(key)).collect();
                    if holder.batch.is_empty() {
                        // All of these have gone; others wait.
                        wake = Some(now);
                        continue;
                    }
                    self.turn = at + 1;
                    tools.pace.take(&holder.contact.peer, holder.batch.len(), now);
                    return Some(holder.tell(at, &self.keys));
                }
                _ => tools.pace.ready_at(&holder.contact.peer, least, now),
            };
            wake = Some(wake.map_or(ready, |wake: Instant| wake.min(ready)));
        }
        is_open.then_some(Step::Wait(wake))
    }

    /// What became of what a holder was told. The keys that enough peers have taken now.
    pub(super) fn on_told(
        &mut self,
        at: usize,
        told: Result<Sample, Failure>,
        tools: &mut Tools<'_>,
    ) -> Vec<Key> {
        let Some(holder) = self.holders.get_mut(at) else { return Vec::new() };
        let batch = std::mem::take(&mut holder.batch);
        let failure = match told {
            Ok(Sample::Kept | Sample::Crowded) => {
                holder.tries = 0;
                return self.took(at, &batch);
            }
            Ok(Sample::Missing) => None,
            Err(failure) => Some(failure),
        };
        *tools.retries += 1;
        if failure.is_none() {
            self.refused = true;
            holder.most = batch.len() / 2;
        }
        // What is too much at once may be taken in parts.
        if failure.is_some() || batch.len() <= LEAST_PART {
            holder.tries += 1;
        }
        holder.pending.splice(..0, batch);
        let is_hopeless = failure == Some(Failure::Unsupported);
        if is_hopeless || holder.tries >= tools.config.attempts {
            self.give_up(at, tools.atlas);
        } else {
            let doubled = 1u32.checked_shl(holder.tries.saturating_sub(1)).unwrap_or(u32::MAX);
            let wait = tools.retry_base.saturating_mul(doubled);
            holder.not_before = tools.now.checked_add(wait);
        }
        Vec::new()
    }

    fn took(&mut self, at: usize, batch: &[u32]) -> Vec<Key> {
        let mut reached = Vec::new();
        for key in batch.iter().map(|key| as_usize(*key)) {
            let rank = self.rank_of(key, at);
            let Some(work) = self.work.get_mut(key) else { continue };
            work.took |= rank;
            if !work.reached && !work.gone && work.has_enough() {
                work.reached = true;
                reached.extend(self.keys.get(key).map(|(_, key)| *key));
            }
        }
        reached
    }

    /// The bit of a holder among the peers ranked for a key; 0 if it is none of them.
    fn rank_of(&self, key: usize, holder: usize) -> u32 {
        let ranks = self.ranks.get(key * self.width..(key + 1) * self.width).unwrap_or_default();
        let rank = ranks.iter().position(|ranked| usize::from(*ranked) == holder);
        rank.and_then(|rank| 1u32.checked_shl(u32::try_from(rank).ok()?)).unwrap_or(0)
    }

    /// A holder is told no more; the next nearest of each key takes its place.
    fn give_up(&mut self, at: usize, atlas: &mut Atlas) {
        let Some(holder) = self.holders.get_mut(at) else { return };
        holder.out = true;
        atlas.forget(&holder.contact.peer);
        for key in std::mem::take(&mut holder.pending) {
            self.give(as_usize(key));
        }
    }

    /// A random key at a random peer that took it.
    fn read_back(&self, random: &mut Random) -> Option<Step> {
        let key = random.below(self.keys.len());
        let work = self.work.get(key).filter(|work| !work.gone)?;
        let skip = random.below(as_usize(work.took.count_ones()));
        let rank = (0..self.width).filter(|rank| (work.took >> rank) & 1 == 1).nth(skip)?;
        let holder = usize::from(*self.ranks.get(key * self.width + rank)?);
        let at = self.holders.get(holder)?.contact.clone();
        Some(Step::ReadBack { holder, at, key: self.keys.get(key)?.1 })
    }

    fn read_ended(&mut self) {
        if let Phase::Checking { in_flight, .. } = &mut self.phase {
            *in_flight = in_flight.saturating_sub(1);
        }
    }

    /// Whether a holder has the record that it was asked for. One that has not cannot be relied on
    /// for the others either.
    pub(super) fn on_read(
        &mut self,
        at: usize,
        read: Result<Sample, Failure>,
        tools: &mut Tools<'_>,
    ) {
        self.read_ended();
        if read != Ok(Sample::Missing) || self.holders.get(at).is_none_or(|holder| holder.out) {
            return;
        }
        self.refused = true;
        *tools.retries += 1;
        self.give_up(at, tools.atlas);
        for key in 0..self.keys.len() {
            let rank = self.rank_of(key, at);
            if let Some(work) = self.work.get_mut(key)
                && work.took & rank != 0
            {
                work.took &= !rank;
                self.give(key);
            }
        }
    }

    /// The keys that are still provided, each with whether enough peers have it.
    pub(super) fn end(&self) -> impl Iterator<Item = (&Key, bool)> {
        self.keys
            .iter()
            .zip(&self.work)
            .filter(|(_, work)| !work.gone)
            .map(|((_, key), work)| (key, work.has_enough()))
    }
}

impl Work {
    fn has_enough(&self) -> bool {
        let took = as_usize(self.took.count_ones());
        took > 0 && took >= self.needed
    }
}
