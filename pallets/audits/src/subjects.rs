//! Subjects: which bindings a window audits, and how they are numbered in it.
//!
//! Up to [`MAX_SUBJECTS`] bindings are all audited in every window. Of more, each window takes every
//! `stride`th, shifted by one from window to window, so that all have their turn. Bindings are known
//! by index; in a window a subject is known by its *place*, a small number, so that reports are
//! kept in rows and what is asked of an entry costs no storage access.

use codec::{Decode, Encode, MaxEncodedLen};
use scale_info::TypeInfo;

/// The most subjects of a window. It bounds a report (6 kB), the state of a window, and the tally.
pub const MAX_SUBJECTS: u32 = 1_000;

/// Subjects whose reports are kept together and tallied in one go.
pub const CHUNK: u32 = 128;

/// The most chunks of a window.
pub const MAX_CHUNKS: u32 = MAX_SUBJECTS.div_ceil(CHUNK);

/// The subjects of a window: the bindings `first`, `first + stride`, and so on, `count` of them.
/// Some of these indices may no longer be bound.
#[derive(Clone, Copy, Debug, Decode, Encode, Eq, MaxEncodedLen, PartialEq, TypeInfo)]
pub struct Subjects {
    /// The index of the binding in place 0.
    pub first: u32,
    /// From one place to the next.
    pub stride: u32,
    /// How many places there are, at most [`MAX_SUBJECTS`].
    pub count: u32,
}

impl Subjects {
    /// The subjects of window `number` (counted over all sessions) where binding indices below
    /// `bindings` have been given so far.
    pub fn of(bindings: u32, number: u32) -> Self {
        let stride = bindings.div_ceil(MAX_SUBJECTS).max(1);
        let first = number.checked_rem(stride).unwrap_or(0);
        Self { first, stride, count: bindings.saturating_sub(first).div_ceil(stride) }
    }

    /// The binding in `place`.
    pub fn binding(&self, place: u32) -> Option<u32> {
        if place >= self.count {
            return None;
        }
        place.checked_mul(self.stride)?.checked_add(self.first)
    }

    /// The place of `binding`; `None` if this window does not audit it.
    pub fn place(&self, binding: u32) -> Option<u32> {
        let beyond = binding.checked_sub(self.first)?;
        if beyond.checked_rem(self.stride)? != 0 {
            return None;
        }
        beyond.checked_div(self.stride).filter(|place| *place < self.count)
    }

    /// In how many chunks the places are tallied.
    pub fn chunks(&self) -> u32 {
        self.count.div_ceil(CHUNK)
    }

    /// The places of a chunk.
    pub fn chunk(&self, chunk: u32) -> core::ops::Range<u32> {
        let begin = chunk.saturating_mul(CHUNK).min(self.count);
        begin..begin.saturating_add(CHUNK).min(self.count)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_thousand_bindings_are_all_audited_in_every_window() {
        for number in 0..3 {
            let subjects = Subjects::of(1_000, number);
            assert_eq!(subjects, Subjects { first: 0, stride: 1, count: 1_000 });
        }
        assert_eq!(Subjects::of(0, 7).count, 0);
        assert_eq!(Subjects::of(1_000, 0).chunks(), MAX_CHUNKS);
        assert_eq!(Subjects::of(1_000, 0).chunk(7), 896..1_000);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Each binding has its turn within `stride` windows, exactly once, and places and bindings
        /// say the same.
        #[test]
        fn all_have_their_turn(
            bindings in prop_oneof![0u32..30, 900u32..5_000, 50_000u32..52_000],
            from in 0u32..1_000,
        ) {
            let stride = Subjects::of(bindings, from).stride;
            let mut seen = BTreeSet::new();
            for number in from..from + stride {
                let subjects = Subjects::of(bindings, number);
                prop_assert!(subjects.count <= MAX_SUBJECTS && subjects.chunks() <= MAX_CHUNKS);
                let places: Vec<_> =
                    (0..subjects.chunks()).flat_map(|chunk| subjects.chunk(chunk)).collect();
                prop_assert_eq!(&places, &(0..subjects.count).collect::<Vec<_>>());
                prop_assert_eq!(subjects.binding(subjects.count), None);
                for place in places {
                    let binding = subjects.binding(place).unwrap();
                    prop_assert_eq!(subjects.place(binding), Some(place));
                    prop_assert!(seen.insert(binding));
                }
            }
            prop_assert_eq!(seen.len(), bindings as usize);
            prop_assert!(seen.last().is_none_or(|last| *last < bindings));
        }

        /// An index that is in no place of the window has none.
        #[test]
        fn no_other_binding_has_a_place(bindings in 1u32..9_000, number: u32, binding: u32) {
            let subjects = Subjects::of(bindings, number);
            if let Some(place) = subjects.place(binding) {
                prop_assert_eq!(subjects.binding(place), Some(binding));
            } else {
                prop_assert!(binding >= bindings || binding % subjects.stride != subjects.first);
            }
        }
    }
}
