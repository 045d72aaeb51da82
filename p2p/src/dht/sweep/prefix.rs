//! Aligned blocks of the directory's space.
//!
//! The sweep looks at the first 64 bits of a point alone, its *head*: no region is that small, and a
//! block of heads is two numbers.

use super::super::space::Point;

/// Bits of a head.
pub(super) const HEAD_BITS: u32 = u64::BITS;

/// The first 64 bits of a point.
pub(super) fn head(point: &Point) -> u64 {
    point.bits().first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

/// All points that begin with the same bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct Prefix {
    /// The bits that matter; those after them are zero.
    first: u64,
    len: u32,
}

impl Prefix {
    /// The whole space.
    pub(super) const ALL: Self = Self { first: 0, len: 0 };

    /// The block of a head's first `len` bits, at most 64.
    pub(super) fn of(head: u64, len: u32) -> Self {
        let len = len.min(HEAD_BITS);
        Self { first: head & !below(len), len }
    }

    /// Its number of bits.
    pub(super) fn len(self) -> u32 {
        self.len
    }

    /// The lowest head in it.
    pub(super) fn first(self) -> u64 {
        self.first
    }

    /// The highest head in it.
    pub(super) fn last(self) -> u64 {
        self.first | below(self.len)
    }

    pub(super) fn contains(self, head: u64) -> bool {
        head & !below(self.len) == self.first
    }

    /// The block twice as large that it is one half of; the whole space is its own.
    pub(super) fn parent(self) -> Self {
        Self::of(self.first, self.len.saturating_sub(1))
    }

    /// Whether one contains the other; blocks never overlap otherwise.
    pub(super) fn overlaps(self, other: Self) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }
}

/// The bits after the first `len`.
fn below(len: u32) -> u64 {
    u64::MAX.checked_shr(len).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_block_is_what_its_ends_enclose(at: u64, other: u64, len in 0u32..70) {
            let block = Prefix::of(at, len);
            prop_assert!(block.contains(at));
            prop_assert_eq!(block.contains(other), (block.first()..=block.last()).contains(&other));
            let common = (at ^ other).leading_zeros();
            prop_assert_eq!(block.contains(other), common >= block.len());
            prop_assert!(block.parent().contains(block.first()));
            prop_assert!(block.parent().contains(block.last()));
        }

        #[test]
        fn blocks_that_overlap_are_one_in_the_other(a: u64, b: u64, la in 0u32..8, lb in 0u32..8) {
            let (a, b) = (Prefix::of(a, la), Prefix::of(b, lb));
            let overlap = a.first() <= b.last() && b.first() <= a.last();
            prop_assert_eq!(a.overlaps(b), overlap);
        }
    }

    #[test]
    fn the_head_is_the_first_bits() {
        let mut bits = [0; 32];
        bits[0] = 0x80;
        bits[7] = 1;
        bits[8] = 0xff;
        assert_eq!(head(&Point::from_bits(bits)), (1 << 63) + 1);
        assert_eq!(Prefix::ALL.parent(), Prefix::ALL);
        assert_eq!(Prefix::of(u64::MAX, 64).parent().len(), 63);
    }
}
