//! Whose turn it is to send, when less may go out than is wanted.
//!
//! Each viewer is a *lane* with a weight. Lanes that want something take turns by virtual time
//! (start-time fair queueing): a lane's time moves by what it sent, divided by its weight, and the
//! lane that is furthest behind goes next. A lane that wanted nothing for a while starts where the
//! others are, so nobody saves up turns. What one lane leaves, the others share: the outcome is
//! max-min fair, by weight. Within a lane a seek goes before playing, and that before prefetching.
//!
//! A decision costs a logarithm of the lanes. No clock and no waiting here; see [`super::Pace`].

use super::allowance::Allowance;
use crate::wire::Priority;
use libp2p::PeerId;
use lru::LruCache;
use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

/// The weight of a viewer of whom nothing is known; that of others is a multiple or a part of it.
pub(crate) const WEIGHT: u32 = 100;

/// The total's bucket is this long's worth: above the millisecond to which timers are exact.
const BURST: Duration = Duration::from_millis(20);
/// And at least this, the largest piece.
const LEAST_BURST: u64 = 64 * 1024;

/// How fast bytes may go out. A rate of 0 is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rates {
    /// Of all viewers together, in bytes a second.
    pub(crate) total: u64,
    /// Of a viewer of weight [`WEIGHT`], in bytes a second; others in proportion.
    pub(crate) viewer: u64,
    /// How long's worth of its rate a viewer gets at once, after a pause.
    pub(crate) burst: Duration,
    /// Viewers that are remembered. About 300 bytes each: 3 MB for 10,000. Those that wait for a
    /// turn are never forgotten; they are bounded by the requests that go on.
    pub(crate) lanes: usize,
}

/// A piece that waits for its turn. The number is its owner's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ask {
    ticket: u64,
    bytes: u32,
}

/// Where a lane is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It wants nothing.
    Idle,
    /// In line, by the virtual time at which its next piece starts.
    Ready(u64),
    /// Its own rate holds it back until then.
    Held(Instant),
}

#[derive(Debug)]
struct Lane {
    weight: u32,
    /// The virtual time at which its last piece ended.
    finish: u64,
    own: Allowance,
    /// By priority, the least urgent first.
    waiting: [VecDeque<Ask>; 3],
    place: Place,
}

impl Lane {
    /// Its most urgent piece.
    fn head(&mut self) -> Option<&mut VecDeque<Ask>> {
        self.waiting.iter_mut().rev().find(|asks| !asks.is_empty())
    }
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// This piece goes now.
    Go(u64),
    /// Nothing before then.
    At(Instant),
    /// Nobody wants anything.
    Nothing,
}

/// Lanes, and who of them is in line.
#[derive(Debug)]
pub(super) struct Shares {
    rates: Rates,
    total: Allowance,
    /// The virtual time at which the last piece started.
    clock: u64,
    lanes: LruCache<PeerId, Lane>,
    ready: BTreeSet<(u64, PeerId)>,
    held: BTreeSet<(Instant, PeerId)>,
}

impl Shares {
    pub(super) fn new(rates: Rates, now: Instant) -> Self {
        let burst = worth(rates.total, BURST).max(LEAST_BURST);
        Self {
            rates,
            total: Allowance::full(rates.total, burst, now),
            clock: 0,
            lanes: LruCache::unbounded(),
            ready: BTreeSet::new(),
            held: BTreeSet::new(),
        }
    }

    /// Lanes that want something now.
    pub(super) fn busy(&self) -> usize {
        self.ready.len().saturating_add(self.held.len())
    }

    /// A viewer wants to send a piece.
    pub(super) fn ask(
        &mut self,
        viewer: PeerId,
        weight: u32,
        priority: Priority,
        (ticket, bytes): (u64, u32),
        now: Instant,
    ) {
        let rate = self.rates.viewer.saturating_mul(u64::from(weight)) / u64::from(WEIGHT);
        let burst = worth(rate, self.rates.burst).max(LEAST_BURST);
        let lane = self.lanes.get_or_insert_mut(viewer, || Lane {
            weight,
            finish: 0,
            own: Allowance::full(rate, burst, now),
            waiting: Default::default(),
            place: Place::Idle,
        });
        lane.weight = weight.max(1);
        let [prefetch, play, seek] = &mut lane.waiting;
        let asks = match priority {
            Priority::Prefetch => prefetch,
            Priority::Play => play,
            Priority::Seek => seek,
        };
        asks.push_back(Ask { ticket, bytes });
        if lane.place == Place::Idle {
            self.line_up(viewer, now);
        }
        self.forget(now);
    }

    /// A piece is wanted no more, whether it had its turn or not.
    pub(super) fn withdraw(&mut self, viewer: PeerId, ticket: u64, now: Instant) {
        let Some(lane) = self.lanes.peek_mut(&viewer) else { return };
        for asks in &mut lane.waiting {
            asks.retain(|ask| ask.ticket != ticket);
        }
        if lane.head().is_none() {
            self.line_up(viewer, now);
        }
    }

    /// Who goes next. A piece that is named has had its turn.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        while let Some((until, viewer)) = self.held.first().copied().filter(|held| held.0 <= now) {
            self.held.remove(&(until, viewer));
            self.line_up(viewer, now);
        }
        let Some((start, viewer)) = self.ready.first().copied() else {
            return self.held.first().map_or(Next::Nothing, |(until, _)| Next::At(*until));
        };
        if let Some(at) = self.total.wait(now) {
            return Next::At(at);
        }
        let gone = self.lanes.peek_mut(&viewer).and_then(|lane| {
            let ask = lane.head()?.pop_front()?;
            lane.own.spend(ask.bytes, now);
            let took = u64::from(ask.bytes).saturating_mul(u64::from(WEIGHT));
            lane.finish = start.saturating_add(took / u64::from(lane.weight));
            Some(ask)
        });
        self.clock = self.clock.max(start);
        self.line_up(viewer, now);
        match gone {
            Some(ask) => {
                self.total.spend(ask.bytes, now);
                Next::Go(ask.ticket)
            }
            // No lane is in line with nothing to send.
            None => Next::At(now),
        }
    }

    /// Puts a lane where it belongs.
    fn line_up(&mut self, viewer: PeerId, now: Instant) {
        let Some(lane) = self.lanes.peek_mut(&viewer) else { return };
        match lane.place {
            Place::Idle => {}
            Place::Ready(start) => {
                self.ready.remove(&(start, viewer));
            }
            Place::Held(until) => {
                self.held.remove(&(until, viewer));
            }
        }
        lane.place = if lane.head().is_none() {
            Place::Idle
        } else if let Some(until) = lane.own.wait(now) {
            self.held.insert((until, viewer));
            Place::Held(until)
        } else {
            let start = lane.finish.max(self.clock);
            self.ready.insert((start, viewer));
            Place::Ready(start)
        };
    }

    /// Forgets the lanes used longest ago, beyond the bound, unless they want something.
    fn forget(&mut self, now: Instant) {
        // Two at a time are enough, since one came; and what expired goes at the same pace.
        for _ in 0..2 {
            let too_many = self.lanes.len() > self.rates.lanes;
            let Some(viewer) = self.lanes.peek_lru().map(|(viewer, _)| *viewer) else { return };
            let Some(lane) = self.lanes.peek_mut(&viewer) else { return };
            if lane.place != Place::Idle {
                // It is in use after all.
                self.lanes.promote(&viewer);
            } else if too_many || (lane.finish <= self.clock && lane.own.is_full(now)) {
                // Nothing is lost with it: a new one would begin where it is.
                self.lanes.pop(&viewer);
            } else {
                return;
            }
        }
    }
}

fn worth(rate: u64, time: Duration) -> u64 {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    rate.saturating_mul(millis) / 1000
}

#[cfg(test)]
mod tests;
