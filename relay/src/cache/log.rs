//! What became of blobs that are not held, for those who ask why.

use crate::content::BlobId;
use serde::Serialize;
use std::collections::VecDeque;

/// Events that are remembered: 1,024 of 72 bytes, 72 KiB.
const KEPT: usize = 1024;

/// Why a blob is not held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// It went for another one.
    EvictedFor(BlobId),
    /// It went because the cache became smaller.
    Shrunk,
    /// It was held for longer than `cache.ttl`.
    Expired,
    /// It was not taken: what would have had to go was asked for more often.
    Unwanted,
    /// It was not taken: there was no room to be made.
    NoRoom,
    /// Its file was damaged or gone.
    Lost,
    /// Somebody had it removed.
    Purged,
}

/// The last events, the oldest first.
#[derive(Default)]
pub(super) struct Log {
    events: VecDeque<(BlobId, Event, u32)>,
}

impl Log {
    pub(super) fn push(&mut self, id: BlobId, event: Event, now: u32) {
        if self.events.len() >= KEPT {
            self.events.pop_front();
        }
        self.events.push_back((id, event, now));
    }

    /// The last event of a blob, and when it was.
    pub(super) fn last(&self, id: BlobId) -> Option<(Event, u32)> {
        let mut newest = self.events.iter().rev();
        newest.find(|(other, _, _)| *other == id).map(|(_, event, when)| (*event, *when))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_event_of_a_blob_counts_and_old_ones_are_forgotten() {
        let mut log = Log::default();
        let id = BlobId([1; 32]);
        log.push(id, Event::Unwanted, 1);
        log.push(id, Event::Shrunk, 2);
        assert_eq!(log.last(id), Some((Event::Shrunk, 2)));
        for _ in 0..KEPT {
            log.push(BlobId([2; 32]), Event::Lost, 3);
        }
        assert_eq!((log.last(id), log.events.len()), (None, KEPT));
    }
}
