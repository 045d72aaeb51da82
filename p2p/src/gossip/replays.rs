//! Envelopes that were seen already.
//!
//! gossipsub knows a message by topic, author and sequence number, so an author (nobody else can
//! sign) may send one envelope again under the next number, and have the whole network carry it
//! twice. Here an envelope is known by its topic, author and bytes.

use super::Topic;
use crate::OverlayKey;
use std::{collections::HashSet, mem};

/// Remembers at least the last `capacity` envelopes and at most twice as many.
pub(crate) struct Replays {
    capacity: usize,
    newer: HashSet<[u8; 16]>,
    older: HashSet<[u8; 16]>,
}

impl Replays {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, newer: HashSet::new(), older: HashSet::new() }
    }

    /// Remembers an envelope; false if it is remembered already.
    pub(crate) fn insert(&mut self, topic: Topic, author: &OverlayKey, envelope: &[u8]) -> bool {
        let mut hasher = blake3::Hasher::new();
        hasher.update(topic.name().as_bytes());
        hasher.update(author);
        hasher.update(envelope);
        let mut id = [0; 16];
        hasher.finalize_xof().fill(&mut id);
        if self.older.contains(&id) || !self.newer.insert(id) {
            return false;
        }
        if self.newer.len() >= self.capacity {
            self.older = mem::take(&mut self.newer);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn topic_author_and_bytes_make_an_envelope() {
        let mut replays = Replays::new(10);
        assert!(replays.insert(Topic::Tasks, &[1; 32], b"a"));
        assert!(!replays.insert(Topic::Tasks, &[1; 32], b"a"));
        assert!(replays.insert(Topic::Bft, &[1; 32], b"a"));
        assert!(replays.insert(Topic::Tasks, &[2; 32], b"a"));
        assert!(replays.insert(Topic::Tasks, &[1; 32], b"b"));
    }

    proptest! {
        #[test]
        fn the_last_ones_are_known_and_memory_is_bounded(
            sent in prop::collection::vec(0u16..100, 1..300),
        ) {
            let mut replays = Replays::new(20);
            let mut fresh: Vec<u16> = Vec::new();
            for n in sent {
                let is_new = replays.insert(Topic::Tasks, &[1; 32], &n.to_be_bytes());
                let recent = &fresh[fresh.len().saturating_sub(20)..];
                prop_assert!(!(is_new && recent.contains(&n)));
                if is_new {
                    fresh.push(n);
                }
                prop_assert!(replays.newer.len() + replays.older.len() <= 40);
            }
        }
    }
}
