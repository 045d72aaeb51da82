//! What the directory is still to be told: the decision, without the directory and the clock.
//!
//! A record is *marked* when what this node holds has changed in its regard. Marks wait in a bounded
//! queue, each record once. Whether it is held is looked up when its turn has come, so only the last
//! of several changes is told, and a mark that comes while its record is being told has it told once
//! more afterwards.
//!
//! Beside the queue there is the *scan*: it goes through all that is held, page by page, whenever the
//! queue is empty. It runs when the directory starts, and once more when marks of what is held found
//! the queue full.

use super::Held;
use crate::{
    content::{BlobId, ShardId},
    upstream::Record,
};
use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    time::{Duration, Instant},
};

/// Records that the scan takes at a time: 256 of 33 bytes, 8 KiB.
const PAGE: usize = 256;

/// No pause after a busy directory is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How telling a record ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The directory knows, or will never take it, or has to be told everything anyway.
    Settled,
    /// The directory was too busy: the record waits again, and all others with it.
    Busy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the queue.
    Waiting,
    /// Being told.
    Told,
    /// Being told what may be outdated already.
    ToldAndMarked,
}

/// The queue and the scan.
pub(super) struct Work {
    /// Most records in `states`.
    capacity: usize,
    /// Cached blobs that a scan goes through at most.
    max_cached: usize,
    first_pause: Duration,
    /// Those that wait and those that are being told. With the queue about 100 bytes each: 400 KiB
    /// at the default of 4,096.
    states: HashMap<Record, State>,
    waiting: VecDeque<Record>,
    scan: Scan,
    pause: Duration,
    paused_until: Option<Instant>,
}

impl Work {
    pub(super) fn new(capacity: usize, max_cached: usize, first_pause: Duration) -> Self {
        Self {
            capacity,
            max_cached,
            first_pause,
            states: HashMap::new(),
            waiting: VecDeque::new(),
            scan: Scan { stage: Stage::Done, again: false },
            pause: first_pause,
            paused_until: None,
        }
    }

    /// What is held has changed in regard of `record`. False when there is no place for it.
    pub(super) fn mark(&mut self, record: Record) -> bool {
        let full = self.states.len() >= self.capacity;
        match self.states.entry(record) {
            Entry::Occupied(mut known) => {
                if *known.get() == State::Told {
                    known.insert(State::ToldAndMarked);
                }
            }
            Entry::Vacant(_) if full => return false,
            Entry::Vacant(place) => {
                place.insert(State::Waiting);
                self.waiting.push_back(record);
            }
        }
        true
    }

    /// The directory knows nothing: all that is held is gone through, from the beginning.
    pub(super) fn scan(&mut self) {
        self.scan = Scan { stage: Stage::Kept(None), again: false };
    }

    /// Something that is held could not be marked: all that is held is gone through, once a scan
    /// that may have passed it already has ended. Not at once, or a queue that is always full would
    /// keep a scan from ever getting to its end. False if that was to be done already.
    pub(super) fn scan_again(&mut self) -> bool {
        match self.scan.stage {
            Stage::Done => {
                self.scan();
                true
            }
            Stage::Kept(None) => false,
            Stage::Kept(Some(_)) | Stage::Cached(_) => {
                !std::mem::replace(&mut self.scan.again, true)
            }
        }
    }

    /// The next record to tell; [`Self::ended`] says how that ended.
    pub(super) fn next(&mut self, held: &dyn Held, now: Instant) -> Option<Record> {
        if self.paused_until.is_some_and(|until| now < until) {
            return None;
        }
        self.paused_until = None;
        loop {
            if let Some(record) = self.waiting.pop_front() {
                self.states.insert(record, State::Told);
                return Some(record);
            }
            let room = self.capacity.saturating_sub(self.states.len()).min(PAGE);
            if room == 0 {
                return None;
            }
            let page = self.scan.page(held, room, self.max_cached);
            if page.is_empty() {
                return None;
            }
            for record in page {
                self.mark(record);
            }
        }
    }

    /// A record was told.
    pub(super) fn ended(&mut self, record: Record, outcome: Outcome, now: Instant) {
        let Some(state) = self.states.remove(&record) else { return };
        match outcome {
            Outcome::Settled => self.pause = self.first_pause,
            Outcome::Busy => {
                self.paused_until = Some(now + self.pause);
                self.pause = self.pause.saturating_mul(2).min(LONGEST_PAUSE);
            }
        }
        if outcome == Outcome::Busy || state == State::ToldAndMarked {
            self.states.insert(record, State::Waiting);
            self.waiting.push_back(record);
        }
    }

    /// When [`Self::next`] has something again, if it has nothing now because of a busy directory.
    pub(super) fn resumes_at(&self) -> Option<Instant> {
        self.paused_until
    }

    /// Records that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

/// A pass over all that is held: what is kept, in its order, then the cache.
struct Scan {
    stage: Stage,
    /// Once more after this pass.
    again: bool,
}

enum Stage {
    /// What is kept, after this record.
    Kept(Option<Record>),
    /// The blobs of the cache that were used last, the least recently used first, so that those used
    /// most recently are told last and stay. At most the directory's `max_cached` of 32 bytes: 320
    /// KB at 10,000.
    Cached(std::vec::IntoIter<BlobId>),
    Done,
}

impl Scan {
    /// The next records, at most `limit`; none at the end.
    fn page(&mut self, held: &dyn Held, limit: usize, max_cached: usize) -> Vec<Record> {
        loop {
            match &mut self.stage {
                Stage::Kept(after) => {
                    let page = held.kept_after(*after, limit);
                    if let Some(last) = page.last() {
                        *after = Some(*last);
                        return page;
                    }
                    let mut newest = held.cached(max_cached);
                    newest.reverse();
                    self.stage = Stage::Cached(newest.into_iter());
                }
                Stage::Cached(blobs) => {
                    let page: Vec<_> = blobs.take(limit).map(ShardId).map(Record::Shard).collect();
                    if !page.is_empty() {
                        return page;
                    }
                    self.stage = match std::mem::take(&mut self.again) {
                        true => Stage::Kept(None),
                        false => Stage::Done,
                    };
                }
                Stage::Done => return Vec::new(),
            }
        }
    }
}

#[cfg(test)]
mod tests;
