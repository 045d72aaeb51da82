//! A bounded list of bits: who of many has, in a few bytes.

use codec::{Decode, Encode, MaxEncodedLen};
use frame_support::{BoundedVec, traits::ConstU32};
use scale_info::TypeInfo;

/// The most bits: as many as a window has subjects, and more than a session has reporters.
pub const MAX_BITS: u32 = 1_024;

/// Up to [`MAX_BITS`] bits in at most 130 bytes; those that were never set are off.
#[derive(Clone, Debug, Decode, Default, Encode, Eq, MaxEncodedLen, PartialEq, TypeInfo)]
pub struct Bits(BoundedVec<u8, ConstU32<{ MAX_BITS / 8 }>>);

impl Bits {
    /// Whether bit `place` is on.
    pub fn has(&self, place: u32) -> bool {
        let (byte, mask) = position(place);
        self.0.get(byte).is_some_and(|bits| bits & mask != 0)
    }

    /// Switches bit `place` on. Beyond [`MAX_BITS`] it does nothing.
    pub fn set(&mut self, place: u32) {
        let (byte, mask) = position(place);
        if byte >= self.0.len() && place < MAX_BITS {
            // Within the bound, so it is lengthened.
            self.0.bounded_resize(byte.saturating_add(1), 0);
        }
        if let Some(bits) = self.0.get_mut(byte) {
            *bits |= mask;
        }
    }

    /// How many bits are on.
    pub fn count(&self) -> u32 {
        self.0.iter().map(|bits| bits.count_ones()).sum()
    }

    /// The bits that are on, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0..MAX_BITS).take(self.0.len().saturating_mul(8)).filter(|place| self.has(*place))
    }
}

/// The byte of bit `place`, and the bit in it.
fn position(place: u32) -> (usize, u8) {
    ((place / 8) as usize, 1 << (place % 8))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bits_are_a_set(places in prop::collection::vec(0u32..1_100, 0..50)) {
            let mut bits = Bits::default();
            let mut set = BTreeSet::new();
            for place in places {
                bits.set(place);
                if place < MAX_BITS {
                    set.insert(place);
                }
            }
            prop_assert_eq!(bits.iter().collect::<Vec<_>>(), Vec::from_iter(set.iter().copied()));
            prop_assert_eq!(bits.count() as usize, set.len());
            prop_assert!((0..1_100).all(|place| bits.has(place) == set.contains(&place)));
            prop_assert!(bits.encoded_size() <= Bits::max_encoded_len());
        }
    }
}
