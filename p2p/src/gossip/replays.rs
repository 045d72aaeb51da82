//! Messages that were seen already, each with its sequence number.
//!
//! A message is known by its topic, author and data; the number is the word of whoever passed it on.
//! gossipsub takes the same message under another number for a duplicate, which it is, and does not
//! tell. Somebody has touched it, though, so it is counted apart.

use super::params::MESSAGE_ID_BYTES;
use std::{collections::HashMap, mem};

/// What is known of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Nothing.
    First,
    /// It came before, under this number.
    Again,
    /// It came before, under another number.
    Renumbered,
}

/// Remembers at least the last `capacity` messages and at most twice as many.
pub(super) struct Replays {
    capacity: usize,
    newer: HashMap<[u8; MESSAGE_ID_BYTES], Option<u64>>,
    older: HashMap<[u8; MESSAGE_ID_BYTES], Option<u64>>,
}

impl Replays {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, newer: HashMap::new(), older: HashMap::new() }
    }

    /// A message came. The number it came under first stands.
    pub(super) fn see(&mut self, id: [u8; MESSAGE_ID_BYTES], number: Option<u64>) -> Seen {
        if let Some(known) = self.newer.get(&id).or_else(|| self.older.get(&id)) {
            return if *known == number { Seen::Again } else { Seen::Renumbered };
        }
        if self.newer.len() >= self.capacity {
            self.older = mem::take(&mut self.newer);
        }
        self.newer.insert(id, number);
        Seen::First
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(n: u16) -> [u8; MESSAGE_ID_BYTES] {
        let mut id = [0; MESSAGE_ID_BYTES];
        id[..2].copy_from_slice(&n.to_be_bytes());
        id
    }

    #[test]
    fn the_first_number_stands() {
        let mut replays = Replays::new(10);
        assert_eq!(replays.see(id(1), Some(1)), Seen::First);
        assert_eq!(replays.see(id(1), Some(1)), Seen::Again);
        assert_eq!(replays.see(id(1), Some(2)), Seen::Renumbered);
        assert_eq!(replays.see(id(1), None), Seen::Renumbered);
        assert_eq!(replays.see(id(1), Some(1)), Seen::Again);
        assert_eq!(replays.see(id(2), Some(1)), Seen::First);
    }

    proptest! {
        #[test]
        fn the_last_ones_are_known_and_memory_is_bounded(
            sent in prop::collection::vec(0u16..100, 1..300),
        ) {
            let mut replays = Replays::new(20);
            let mut fresh: Vec<u16> = Vec::new();
            for n in sent {
                let is_new = replays.see(id(n), None) == Seen::First;
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
