//! Committees: who reports on whom.
//!
//! The reporters of a session stand in a ring, in an order that is drawn anew for each window from
//! its seed. The committee of a subject is a stretch of that ring; where it begins is drawn for each
//! subject. So a member is told from two numbers, and every reporter is as likely as any other to
//! be in a committee.
//!
//! The seed is a block hash. Its author may choose among the few blocks that it could make, which
//! gives it a few tries at a draw. Of 100 reporters of which 33 lie, the liars are half of a
//! committee of 64 once in four million draws; of 256 of which 85 lie, once in a thousand (both
//! hypergeometric).

use alloc::vec::Vec;

use codec::{Decode, Encode, MaxEncodedLen};
use frame_support::{BoundedVec, CloneNoBound, DebugNoBound, traits::Get};
use scale_info::TypeInfo;
use sp_core::H256;
use sp_io::hashing::blake2_256;

/// The most members of a committee. A third of liars among the reporters is then rarely half of a
/// committee, and an audit by 64 is as much as a subject should have to answer.
pub const MAX_MEMBERS: u32 = 64;

/// How many members a committee has where there are `reporters`.
pub fn size(reporters: u32) -> u32 {
    reporters.min(MAX_MEMBERS)
}

/// The committees of a window.
#[derive(CloneNoBound, DebugNoBound, Decode, Encode, MaxEncodedLen, TypeInfo)]
#[scale_info(skip_type_params(MaxReporters))]
pub struct Draw<MaxReporters: Get<u32>> {
    /// What everything is drawn from.
    pub seed: H256,
    /// The place in the ring of each reporter: a permutation. Two bytes a reporter.
    pub ring: BoundedVec<u16, MaxReporters>,
}

impl<MaxReporters: Get<u32>> Draw<MaxReporters> {
    /// The committees among `reporters`, drawn from `seed`. More reporters than the bound are left
    /// out of all.
    pub fn new(seed: H256, reporters: u32) -> Self {
        let reporters = reporters.min(MaxReporters::get());
        Self { seed, ring: BoundedVec::truncate_from(permutation(&seed, reporters)) }
    }

    /// How many reporters stand in the ring.
    pub fn reporters(&self) -> u32 {
        u32::try_from(self.ring.len()).unwrap_or(u32::MAX)
    }

    /// What a reporter is asked for its committees; `None` if there is no such reporter.
    pub fn member(&self, reporter: u16) -> Option<Member<'_>> {
        let place = u32::from(*self.ring.get(usize::from(reporter))?);
        Some(Member { seed: &self.seed, place, reporters: self.reporters() })
    }
}

/// A reporter's place in the ring.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    seed: &'a H256,
    place: u32,
    reporters: u32,
}

impl Member<'_> {
    /// Whether the reporter is in the committee of the binding `subject`. One hash.
    pub fn of(&self, subject: u32) -> bool {
        let begin = beginning(self.seed, subject, self.reporters);
        // How far along the ring, from where the committee begins; both are below `reporters`.
        let distance = self
            .place
            .saturating_add(self.reporters)
            .saturating_sub(begin)
            .checked_rem(self.reporters);
        distance.is_some_and(|distance| distance < size(self.reporters))
    }
}

/// Where in a ring of `reporters` the committee of `subject` begins. Eight bytes of a hash, so that
/// the remainder prefers no place by more than one in 2^55.
fn beginning(seed: &H256, subject: u32, reporters: u32) -> u32 {
    let hash = (b"subject", seed, subject).using_encoded(blake2_256);
    let drawn = hash.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let place = drawn.checked_rem(u64::from(reporters)).unwrap_or(0);
    u32::try_from(place).unwrap_or(0)
}

/// A permutation of the numbers below `count`, by Fisher and Yates (D. Knuth, The Art of Computer
/// Programming, volume 2, algorithm 3.4.2P).
fn permutation(seed: &H256, count: u32) -> Vec<u16> {
    let mut numbers: Vec<u16> = (0..=u16::MAX).take(count as usize).collect();
    let mut draws = (0u32..).flat_map(|block| {
        let hash = (b"ring", seed, block).using_encoded(blake2_256);
        hash.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect::<Vec<_>>()
    });
    for last in (1..numbers.len()).rev() {
        let drawn = draws.next().unwrap_or(0) as usize;
        numbers.swap(last, drawn.checked_rem(last.saturating_add(1)).unwrap_or(0));
    }
    numbers
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)]
mod tests {
    use frame_support::traits::ConstU32;
    use proptest::prelude::*;

    use super::*;

    type Committees = Draw<ConstU32<256>>;

    /// The members by enumeration: the reporters in the order of the ring, from where it begins.
    fn members(draw: &Committees, subject: u32) -> Vec<u16> {
        let reporters = draw.reporters();
        let mut in_order = vec![0u16; reporters as usize];
        for (reporter, place) in draw.ring.iter().enumerate() {
            in_order[usize::from(*place)] = reporter as u16;
        }
        let begin = beginning(&draw.seed, subject, reporters) as usize;
        in_order.iter().cycle().skip(begin).take(size(reporters) as usize).copied().collect()
    }

    proptest! {
        #[test]
        fn membership_agrees_with_enumeration(
            seed: [u8; 32], reporters in 1u32..=256, subjects in prop::collection::vec(any::<u32>(), 1..8),
        ) {
            let draw = Committees::new(seed.into(), reporters);
            for subject in subjects {
                let mut expected = members(&draw, subject);
                expected.sort_unstable();
                let found: Vec<u16> = (0..reporters as u16)
                    .filter(|reporter| draw.member(*reporter).unwrap().of(subject))
                    .collect();
                prop_assert_eq!(&found, &expected);
                prop_assert_eq!(found.len() as u32, size(reporters));
            }
            prop_assert!(draw.member(reporters as u16).is_none());
        }

        #[test]
        fn the_ring_is_a_permutation(seed: [u8; 32], reporters in 0u32..=256) {
            let mut ring = Committees::new(seed.into(), reporters).ring.into_inner();
            ring.sort_unstable();
            prop_assert_eq!(ring, (0..reporters as u16).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_few_reporters_are_all_in_every_committee() {
        for reporters in [1, 2, 3, 4, 64] {
            let draw = Committees::new([9; 32].into(), reporters);
            for reporter in 0..reporters as u16 {
                assert!((0..50).all(|subject| draw.member(reporter).unwrap().of(subject)));
            }
        }
        assert!(Committees::new([9; 32].into(), 0).member(0).is_none());
    }

    #[test]
    fn reporters_beyond_the_bound_are_left_out() {
        let draw = Draw::<ConstU32<4>>::new([1; 32].into(), 9);
        assert_eq!(draw.reporters(), 4);
        assert!(draw.member(4).is_none());
    }

    /// Over many windows each reporter is in the committee of a subject about as often as any
    /// other, and so is each pair. With 64 of 100 in 4,000 draws, a reporter's count has a standard
    /// deviation of `sqrt(4000 * 0.64 * 0.36) = 30`, and that of a pair (`0.64 * 63 / 99 = 0.407`)
    /// of 31; the bounds are five of them. The draws are the same each time.
    #[test]
    fn the_draw_is_fair() {
        const DRAWS: u32 = 4_000;
        let mut single = [0i32; 100];
        let mut with_first = [0i32; 100];
        for number in 0..DRAWS {
            let mut seed = [0; 32];
            seed[..4].copy_from_slice(&number.to_le_bytes());
            let draw = Committees::new(seed.into(), 100);
            let first = draw.member(0).unwrap().of(5);
            for reporter in 0..100u16 {
                let member = draw.member(reporter).unwrap().of(5);
                single[usize::from(reporter)] += i32::from(member);
                with_first[usize::from(reporter)] += i32::from(member && first);
            }
        }
        assert!(single.iter().all(|count| (count - 2_560).abs() < 150), "{single:?}");
        assert!(with_first[1..].iter().all(|count| (count - 1_629).abs() < 155), "{with_first:?}");
    }

    #[test]
    fn subjects_and_windows_are_drawn_apart() {
        let (one, other) =
            (Committees::new([1; 32].into(), 200), Committees::new([2; 32].into(), 200));
        assert_ne!(one.ring, other.ring);
        let differ = (0..200).filter(|subject| members(&one, *subject) != members(&one, 0)).count();
        assert!(differ > 190, "{differ}");
    }
}
