//! What an auditor asks the runtime, and what it reports.
//!
//! In each *window* of blocks the chain draws, for every bound overlay key (a *subject*), a committee
//! of reporters. A member asks for its [`Duty`], fetches random parts of shards that the subjects
//! claim to hold, counts what came of it ([`Counts`]), and sends one [`Report`] signed with its
//! session key over [`report_payload`].

#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

use alloc::vec::Vec;
use codec::{Codec, Compact, Decode, DecodeWithMemTracking, Encode, MaxEncodedLen};
use pallet_reputation_runtime_api::OverlayKey;
use scale_info::TypeInfo;

/// The most fetches that [`Counts`] can be of.
pub const MAX_COUNT: u8 = 15;

/// First field of what is signed for a report: no signature made for anything else fits here.
const REPORT_CONTEXT: [u8; 12] = *b"nsn/report/1";

/// What came of one auditor's fetches from one subject in one window, in one byte: the upper four
/// bits are the fetches that were served, the lower four those that were missed.
#[derive(
    Clone,
    Copy,
    Debug,
    Decode,
    DecodeWithMemTracking,
    Default,
    Encode,
    Eq,
    MaxEncodedLen,
    PartialEq,
    TypeInfo,
)]
pub struct Counts(u8);

impl Counts {
    /// Counts of `served` and `missed` fetches; `None` where they are more than [`MAX_COUNT`]
    /// together.
    pub fn new(served: u8, missed: u8) -> Option<Self> {
        let fetches = served.checked_add(missed)?;
        (fetches <= MAX_COUNT).then_some(Self(served << 4 | missed))
    }

    /// Whether a report may say this: something was counted, and no more than [`MAX_COUNT`]. What
    /// was decoded may be anything.
    pub fn is_good(self) -> bool {
        (1..=MAX_COUNT).contains(&self.served().saturating_add(self.missed()))
    }

    /// Fetches that brought the right bytes in time.
    pub fn served(self) -> u8 {
        self.0 >> 4
    }

    /// Fetches that brought nothing, too late, or wrong bytes.
    pub fn missed(self) -> u8 {
        self.0 & MAX_COUNT
    }

    /// Whether nothing was counted, which is nothing to report.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// What a report says of one subject: two to six bytes.
#[derive(Clone, Copy, Debug, Decode, DecodeWithMemTracking, Encode, Eq, PartialEq, TypeInfo)]
pub struct Entry {
    /// The index of the subject's binding.
    #[codec(compact)]
    pub binding: u32,
    /// What came of the fetches from it.
    pub counts: Counts,
}

// The derived one does not see that the number is compact, which makes the greatest a byte longer.
impl MaxEncodedLen for Entry {
    fn max_encoded_len() -> usize {
        Compact::<u32>::max_encoded_len().saturating_add(Counts::max_encoded_len())
    }
}

/// What one reporter saw in one window.
#[derive(Clone, Debug, Decode, DecodeWithMemTracking, Encode, Eq, PartialEq, TypeInfo)]
pub struct Report {
    /// The session.
    pub session: u32,
    /// The window of that session, from 0.
    pub window: u32,
    /// The reporter's place among the reporters of the session.
    pub reporter: u16,
    /// Subjects in ascending order of their binding, each once.
    pub entries: Vec<Entry>,
}

/// Somebody to audit.
#[derive(
    Clone,
    Copy,
    Debug,
    Decode,
    DecodeWithMemTracking,
    Encode,
    Eq,
    MaxEncodedLen,
    PartialEq,
    TypeInfo,
)]
pub struct Subject {
    /// The index of the binding.
    pub binding: u32,
    /// The overlay key that is bound.
    pub key: OverlayKey,
}

/// What a reporter has to do in a window. Block numbers are those of this chain, `u32`.
#[derive(Clone, Debug, Decode, DecodeWithMemTracking, Encode, Eq, PartialEq, TypeInfo)]
pub struct Duty {
    /// The session.
    pub session: u32,
    /// The window of that session.
    pub window: u32,
    /// The reporter's place among the reporters of the session.
    pub reporter: u16,
    /// The window's first block.
    pub begins: u32,
    /// The first block that takes reports. Once it is there nodes pass a report on that are a block
    /// behind, too.
    pub reports_from: u32,
    /// The last block that takes reports, which is the window's last.
    pub ends: u32,
    /// Those in whose committee the reporter is.
    pub subjects: Vec<Subject>,
    /// Whether its report of this window is in already.
    pub reported: bool,
}

/// What a reporter's session key signs: the SCALE encoding of
/// `("nsn/report/1", genesis, session, window, entries)`. `genesis` is the hash of the chain's
/// genesis block, so that a report holds on one chain only.
pub fn report_payload(genesis: &[u8; 32], session: u32, window: u32, entries: &[Entry]) -> Vec<u8> {
    (REPORT_CONTEXT, genesis, session, window, entries).encode()
}

/// The most bytes that a report of `entries` subjects takes.
pub fn report_len(entries: usize) -> usize {
    let fixed = 2 * size_of::<u32>() + size_of::<u16>() + Compact::<u32>::max_encoded_len();
    entries.saturating_mul(Entry::max_encoded_len()).saturating_add(fixed)
}

sp_api::decl_runtime_apis! {
    /// Audits, as the state of one block has them.
    pub trait AuditsApi<ReporterId, Signature>
    where
        ReporterId: Codec,
        Signature: Codec,
    {
        /// What `reporter` has to do in the window that this block is in. `None` between windows,
        /// and for a key that is no reporter's of the session.
        fn duty(reporter: ReporterId) -> Option<Duty>;

        /// The transaction that hands in `report` with the reporter's signature over
        /// [`report_payload`]. Nothing is checked.
        fn report_extrinsic(report: Report, signature: Signature) -> Block::Extrinsic;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_two_nibbles() {
        let counts = Counts::new(3, 12).unwrap();
        assert_eq!((counts.served(), counts.missed()), (3, 12));
        assert_eq!(counts.encode(), [0x3c]);
        for (served, missed) in [(16, 0), (0, 16), (8, 8), (255, 1)] {
            assert_eq!(Counts::new(served, missed), None);
        }
        assert!(Counts::new(0, 0).unwrap().is_empty());
        assert!(!Counts::new(0, 1).unwrap().is_empty());
    }

    #[test]
    fn what_was_decoded_is_good_or_not() {
        for byte in 0..=u8::MAX {
            let counts = Counts::decode(&mut &[byte][..]).unwrap();
            let made = Counts::new(counts.served(), counts.missed());
            assert_eq!(counts.is_good(), made.is_some_and(|made| !made.is_empty()));
            assert!(made.is_none_or(|made| made == counts));
        }
    }

    #[test]
    fn an_entry_is_a_few_bytes() {
        let entry = |binding| Entry { binding, counts: Counts::new(1, 0).unwrap() };
        assert_eq!(entry(63).encode().len(), 2);
        assert_eq!(entry(16_383).encode().len(), 3);
        assert_eq!(entry(u32::MAX).encode().len(), Entry::max_encoded_len());
    }

    #[test]
    fn what_is_signed_names_chain_session_and_window() {
        let entries = [Entry { binding: 1, counts: Counts::new(2, 3).unwrap() }];
        let payload = report_payload(&[7; 32], 5, 6, &entries);
        let mut expected = b"nsn/report/1".to_vec();
        expected.extend([7; 32]);
        expected.extend([5, 0, 0, 0, 6, 0, 0, 0]);
        expected.extend([4, 4, 0x23]);
        assert_eq!(payload, expected);
    }

    #[test]
    fn no_report_is_longer_than_said() {
        let entries = alloc::vec![
            Entry { binding: u32::MAX, counts: Counts::new(15, 0).unwrap() };
            1_000
        ];
        let report = Report { session: 1, window: 2, reporter: 3, entries };
        assert!(report.encode().len() <= report_len(1_000));
    }
}
