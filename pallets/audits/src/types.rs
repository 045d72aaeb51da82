//! What is kept in storage of a window: while it runs, and while it is tallied.

use codec::{Decode, Encode, MaxEncodedLen};
use frame_support::{
    BoundedBTreeMap, BoundedVec, CloneNoBound, DebugNoBound, traits::ConstU32, traits::Get,
};
use pallet_audits_runtime_api::Counts;
use scale_info::TypeInfo;

use crate::{
    bits::Bits,
    committee::{self, Draw},
    subjects::{CHUNK, MAX_SUBJECTS, Subjects},
    window::Span,
};

/// What one reporter counted of the subjects of one chunk, by their place in it; nothing where
/// nothing was counted. At most 130 bytes.
pub type Row = BoundedVec<Counts, ConstU32<CHUNK>>;

/// What was done to accounts in one window: see [`tally::account`](crate::tally::account). At most
/// 34 kB.
pub type Moved<AccountId> = BoundedBTreeMap<AccountId, i16, ConstU32<MAX_SUBJECTS>>;

/// A running window. With 256 reporters 730 bytes.
#[derive(CloneNoBound, DebugNoBound, Decode, Encode, MaxEncodedLen, TypeInfo)]
#[scale_info(skip_type_params(MaxReporters))]
pub struct Window<MaxReporters: Get<u32>> {
    /// How many windows began before it, over all sessions.
    pub number: u32,
    /// Its blocks.
    pub span: Span,
    /// Whom it audits.
    pub subjects: Subjects,
    /// Which of the places are of bindings that stood when it began.
    pub bound: Bits,
    /// Who audits whom.
    pub draw: Draw<MaxReporters>,
}

/// Which reports of the running window are in. At most 140 bytes.
#[derive(Clone, Debug, Decode, Default, Encode, Eq, MaxEncodedLen, PartialEq, TypeInfo)]
pub struct Progress {
    /// The reporters.
    pub reported: Bits,
    /// The block that took the latest report.
    pub block: u32,
    /// How many reports that block took.
    pub in_block: u32,
}

impl Progress {
    /// How many reports `block` took so far. This needs no resetting at the end of a block, so that
    /// the pool, which asks the state between two blocks, does not take the next block for full.
    pub fn taken_in(&self, block: u32) -> u32 {
        if block == self.block { self.in_block } else { 0 }
    }

    /// Notes a report.
    pub fn take(&mut self, reporter: u16, block: u32) {
        self.in_block = self.taken_in(block).saturating_add(1);
        self.block = block;
        self.reported.set(reporter.into());
    }
}

/// A window that is over and whose reports have not all been worked off. At most 180 bytes.
#[derive(Clone, Debug, Decode, Encode, Eq, MaxEncodedLen, PartialEq, TypeInfo)]
pub struct Tally {
    /// The window's number, over all sessions.
    pub number: u32,
    /// The window's session.
    pub session: u32,
    /// Which window of that session.
    pub window: u32,
    /// Whether it ended before its last block, with its session. Its reports then only leave.
    pub void: bool,
    /// Whom it audited.
    pub subjects: Subjects,
    /// How many members each committee has.
    pub committee: u32,
    /// Who reported.
    pub reported: Bits,
    /// The chunk that is next.
    pub next_chunk: u32,
    /// How many subjects had an outcome so far.
    pub decided: u32,
    /// How many subjects were reported on and had none so far.
    pub undecided: u32,
}

impl Tally {
    /// The tally of `window`, on which `reported` reported.
    pub fn new<MaxReporters: Get<u32>>(
        window: &Window<MaxReporters>,
        reported: Bits,
        void: bool,
    ) -> Self {
        Self {
            number: window.number,
            session: window.span.session,
            window: window.span.window,
            void,
            subjects: window.subjects,
            committee: committee::size(window.draw.reporters()),
            reported,
            next_chunk: 0,
            decided: 0,
            undecided: 0,
        }
    }

    /// Whether nothing is left to do.
    pub fn is_done(&self) -> bool {
        self.next_chunk >= self.subjects.chunks()
    }
}
