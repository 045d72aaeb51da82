//! Windows: when a session's blocks are audited, reported on, and tallied.
//!
//! A session is cut into windows of equal length from its first block on. In the first half of a
//! window the reporters audit, in the second half their reports are taken. What is left of a
//! session when no whole window fits any more is no window.

use codec::{Decode, Encode, MaxEncodedLen};
use pallet_audits_runtime_api::Duty;
use scale_info::TypeInfo;

/// The shortest window, in blocks: longer than a tally takes
/// ([`MAX_CHUNKS`](crate::subjects::MAX_CHUNKS), one a block), so that one is done before the next
/// begins.
pub const MIN_LENGTH: u32 = 10;

/// A window's place in time. Blocks are numbers of this chain.
#[derive(Clone, Copy, Debug, Decode, Encode, Eq, MaxEncodedLen, PartialEq, TypeInfo)]
pub struct Span {
    /// The session.
    pub session: u32,
    /// The window of that session, from 0.
    pub window: u32,
    /// The first block.
    pub begins: u32,
    /// The last block.
    pub ends: u32,
}

impl Span {
    /// The window that begins with `block`, if one does: a whole number of windows of `length` lies
    /// between it and `session_begins`, and the window ends before `next_session`, the first block
    /// of the next session where that is known.
    pub fn beginning_at(
        block: u32,
        length: u32,
        session: u32,
        session_begins: u32,
        next_session: Option<u32>,
    ) -> Option<Self> {
        let since = block.checked_sub(session_begins)?;
        if since.checked_rem(length)? != 0 {
            return None;
        }
        let window = since.checked_div(length)?;
        let ends = block.checked_add(length)?.checked_sub(1)?;
        let whole = next_session.is_none_or(|next| ends < next);
        whole.then_some(Self { session, window, begins: block, ends })
    }

    /// The first block that takes reports: the first of the second half. The middle one of an odd
    /// number of blocks is still for audits.
    pub fn reports_from(&self) -> u32 {
        let length = self.ends.saturating_sub(self.begins).saturating_add(1);
        self.begins.saturating_add(length.div_ceil(2))
    }

    /// Whether `block` takes reports.
    pub fn takes_reports(&self, block: u32) -> bool {
        (self.reports_from()..=self.ends).contains(&block)
    }

    /// Whether the window is over in `block`.
    pub fn is_over(&self, block: u32) -> bool {
        block > self.ends
    }

    /// The duty of `reporter` in this window, with nobody to audit yet.
    pub fn duty(&self, reporter: u16) -> Duty {
        Duty {
            session: self.session,
            window: self.window,
            reporter,
            begins: self.begins,
            reports_from: self.reports_from(),
            ends: self.ends,
            subjects: Default::default(),
            reported: false,
        }
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(block: u32, next: Option<u32>) -> Option<Span> {
        Span::beginning_at(block, 10, 3, 40, next)
    }

    #[test]
    fn windows_follow_each_other_from_the_first_block_of_the_session() {
        let first = at(40, Some(60)).unwrap();
        assert_eq!(first, Span { session: 3, window: 0, begins: 40, ends: 49 });
        assert_eq!(at(50, Some(60)).unwrap().window, 1);
        assert_eq!(at(39, Some(60)), None, "before the session");
        assert!((41..50).all(|block| at(block, Some(60)).is_none()));
    }

    #[test]
    fn a_remainder_of_a_session_is_no_window() {
        assert!(at(50, Some(60)).is_some(), "up to the last block");
        assert_eq!(at(50, Some(59)), None);
        assert!(at(50, None).is_some(), "where nobody knows how long it is");
        assert_eq!(Span::beginning_at(u32::MAX, 10, 0, u32::MAX, None), None, "no such blocks");
        assert_eq!(Span::beginning_at(40, 0, 0, 40, None), None, "no blocks");
    }

    #[test]
    fn reports_are_taken_in_the_second_half() {
        let even = Span { session: 0, window: 0, begins: 20, ends: 29 };
        assert_eq!(even.reports_from(), 25);
        let odd = Span { session: 0, window: 0, begins: 20, ends: 30 };
        assert_eq!(odd.reports_from(), 26);
    }

    proptest! {
        /// Every block of a session is in at most one window, and audits and reports share it.
        #[test]
        fn windows_do_not_overlap(
            begins in 0u32..1_000, length in MIN_LENGTH..300, blocks in 1u32..1_000,
        ) {
            let next = begins + blocks;
            let spans: Vec<_> = (begins..next)
                .filter_map(|block| Span::beginning_at(block, length, 1, begins, Some(next)))
                .collect();
            prop_assert_eq!(spans.len(), (blocks / length) as usize);
            for (place, span) in spans.iter().enumerate() {
                prop_assert_eq!(span.window as usize, place);
                prop_assert_eq!(span.begins, begins + span.window * length);
                prop_assert_eq!(span.ends + 1 - span.begins, length);
                prop_assert!(span.ends < next);
                let taking = (begins..next).filter(|block| span.takes_reports(*block)).count();
                prop_assert_eq!(taking, (length / 2) as usize);
                prop_assert!(!span.takes_reports(span.begins));
                prop_assert!(span.is_over(span.ends + 1) && !span.is_over(span.ends));
            }
        }
    }
}
