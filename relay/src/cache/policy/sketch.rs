//! How often blobs were asked for of late, roughly, in a few bytes for each that is held.

use crate::content::BlobId;
use std::hash::{BuildHasher, RandomState};

/// Counters of a block: one line of the processor's cache.
const BLOCK: usize = 64;

/// Rows of a block, and counters in each.
const ROWS: usize = 4;
const ROW: usize = BLOCK / ROWS;

/// Entries for which one block is enough: 32 counters for each. With four, a blob that was asked for
/// once is taken for one that was asked for often, and the filter lets it in; with 16 the cache of
/// `relay.hit_ratio` has 0.06 points fewer.
const ENTRIES: usize = BLOCK / 32;

/// Askings for each entry after which all counts are halved, so that what was wanted once makes way. The
/// more, the better the least popular blob that is held is told from those that are not: with 10 the
/// cache of `relay.hit_ratio` has 1.7 points fewer. What makes way sooner, when others become popular,
/// is up to [`Sketch::fade`].
const SAMPLE: usize = 200;

/// A count-min sketch with aging: each blob has one counter in each of four rows, and its count is
/// the least of them, so never too small but by aging. It grows with the cache: 32 to 64 bytes for
/// each entry, 32 MiB at a million.
pub(super) struct Sketch {
    blocks: Vec<[u8; BLOCK]>,
    /// Askings since the counts were halved.
    asked: usize,
    /// Keyed, so nobody can choose ids that share counters.
    hasher: RandomState,
}

impl Sketch {
    pub(super) fn new() -> Self {
        Self { blocks: vec![[0; BLOCK]; 64], asked: 0, hasher: RandomState::new() }
    }

    /// Makes room for the counts of so many entries. What was counted stays.
    pub(super) fn grow(&mut self, entries: usize) {
        while self.blocks.len() * ENTRIES < entries {
            // A blob's block is the hash modulo their number, so when that doubles it is this one
            // or its copy.
            self.blocks.extend_from_within(..);
        }
    }

    /// Counts one asking.
    pub(super) fn add(&mut self, id: BlobId) {
        self.raise(id, self.count(id).saturating_add(1));
        self.asked += 1;
        if self.asked >= SAMPLE * ENTRIES * self.blocks.len() {
            self.age();
        }
    }

    /// Lets a blob count as asked for at least so often. Only the smallest counters are raised, which
    /// keeps blobs from lending their counts to others.
    pub(super) fn raise(&mut self, id: BlobId, count: u8) {
        let hash = self.hash(id);
        let at = self.block(hash);
        if let Some(block) = self.blocks.get_mut(at) {
            for place in places(hash) {
                if let Some(counter) = block.get_mut(place) {
                    *counter = (*counter).max(count);
                }
            }
        }
    }

    /// How often a blob was asked for of late.
    pub(super) fn count(&self, id: BlobId) -> u8 {
        let hash = self.hash(id);
        let block = self.blocks.get(self.block(hash));
        let counters = block.into_iter().flat_map(|block| {
            places(hash).into_iter().filter_map(|place| block.get(place).copied())
        });
        counters.min().unwrap_or(0)
    }

    /// 4 ms for a million entries, once in two hundred million askings.
    fn age(&mut self) {
        self.shift(1);
        self.asked /= 2;
    }

    /// Lets all counts be an eighth of what they were: what is popular has changed.
    pub(super) fn fade(&mut self) {
        self.shift(3);
        self.asked /= 8;
    }

    fn shift(&mut self, by: u32) {
        for counter in self.blocks.as_flattened_mut() {
            *counter >>= by;
        }
    }

    fn hash(&self, id: BlobId) -> u64 {
        self.hasher.hash_one(id.0)
    }

    /// Which block is a blob's: their number is a power of two.
    fn block(&self, hash: u64) -> usize {
        let [.., a, b, c, d] = hash.to_be_bytes();
        usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(0) & (self.blocks.len() - 1)
    }
}

/// Which counters of its block are a blob's: one in each row.
fn places(hash: u64) -> [usize; ROWS] {
    let [a, b, ..] = hash.to_be_bytes();
    let mut at = 0;
    [a / 16, a % 16, b / 16, b % 16].map(|column| {
        let place = at + usize::from(column);
        at += ROW;
        place
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn id(n: u32) -> BlobId {
        BlobId::of(&n.to_le_bytes())
    }

    #[test]
    fn every_place_lies_in_its_row() {
        for hash in [0, u64::MAX, 0x1234_5678_9abc_def0] {
            for (row, place) in places(hash).into_iter().enumerate() {
                assert_eq!(place / ROW, row);
            }
        }
    }

    #[test]
    fn what_was_asked_for_long_ago_fades() {
        let mut sketch = Sketch::new();
        for _ in 0..100 {
            sketch.add(id(0));
        }
        assert_eq!(sketch.count(id(0)), 100);
        for n in 0..u32::try_from(3 * SAMPLE * ENTRIES * 64).unwrap() {
            sketch.add(id(1 + n % 50));
        }
        assert!(sketch.count(id(0)) < 30, "{}", sketch.count(id(0)));
    }

    #[test]
    fn counts_stay_when_it_grows_and_never_overflow() {
        let mut sketch = Sketch::new();
        for n in 0..200 {
            for _ in 0..n % 7 {
                sketch.add(id(n));
            }
        }
        let before: Vec<_> = (0..200).map(|n| sketch.count(id(n))).collect();
        sketch.grow(100_000);
        assert!(sketch.blocks.len() * ENTRIES >= 100_000);
        assert_eq!((0..200).map(|n| sketch.count(id(n))).collect::<Vec<_>>(), before);
        for _ in 0..1000 {
            sketch.add(id(7));
        }
        assert_eq!(sketch.count(id(7)), 255);
    }

    proptest! {
        #[test]
        fn a_count_is_never_too_small_before_it_ages(asked in prop::collection::vec(0u32..60, 0..500)) {
            let mut sketch = Sketch::new();
            let mut right: HashMap<u32, u8> = HashMap::new();
            for n in asked {
                sketch.add(id(n));
                *right.entry(n).or_default() += 1;
            }
            for (n, count) in right {
                prop_assert!(sketch.count(id(n)) >= count);
            }
        }
    }
}
