//! The table of what moves a score, and by how much.

use codec::{Decode, DecodeWithMemTracking, Encode, MaxEncodedLen};
use scale_info::TypeInfo;

use crate::Component;

/// What came of something that an account was to do, or of what it did unasked.
///
/// [`Outcome::effect`] is the one table of what each is worth. What is right or done is worth less
/// than what is wrong or left undone costs, so that nobody lives well by doing half.
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
pub enum Outcome {
    /// What it composed for its slot was accepted.
    SlotAccepted,
    /// What it composed for its slot was rejected.
    SlotRejected,
    /// It composed nothing for its slot.
    SlotMissed,
    /// Its vote was that of the outcome.
    VoteRight,
    /// Its vote was against the outcome.
    VoteWrong,
    /// It held what it claims to hold.
    AuditPassed,
    /// It did not hold what it claims to hold, or did not answer in time.
    AuditFailed,
    /// It did a task.
    TaskDone,
    /// It took a task and failed it.
    TaskFailed,
    /// It served a shard to an auditor. Nobody else's word counts for that.
    ShardServed,
    /// It signed two votes of one GRANDPA round. That is proved and not a matter of opinion, so
    /// that once graylists from neutral.
    Equivocated,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::SlotAccepted,
        Self::SlotRejected,
        Self::SlotMissed,
        Self::VoteRight,
        Self::VoteWrong,
        Self::AuditPassed,
        Self::AuditFailed,
        Self::TaskDone,
        Self::TaskFailed,
        Self::ShardServed,
        Self::Equivocated,
    ];

    /// Which component it moves, and by how much.
    pub const fn effect(self) -> (Component, i16) {
        match self {
            Self::SlotAccepted => (Component::Director, 100),
            Self::SlotRejected => (Component::Director, -200),
            Self::SlotMissed => (Component::Director, -150),
            Self::VoteRight => (Component::Validator, 5),
            Self::VoteWrong => (Component::Validator, -10),
            Self::AuditPassed => (Component::Seeder, 10),
            Self::AuditFailed => (Component::Seeder, -50),
            Self::TaskDone => (Component::Director, 5),
            Self::TaskFailed => (Component::Director, -10),
            Self::ShardServed => (Component::Seeder, 1),
            Self::Equivocated => (Component::Validator, -400),
        }
    }

    /// By how much it moves its component.
    pub const fn delta(self) -> i16 {
        self.effect().1
    }

    /// By how much it moves its component when it happened `times` times. Saturates far beyond the
    /// range of a score.
    pub fn delta_of(self, times: u16) -> i16 {
        let sum = i32::from(self.delta()).saturating_mul(i32::from(times));
        let sum = sum.clamp(i16::MIN.into(), i16::MAX.into());
        i16::try_from(sum).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Earned, GRAYLIST_BELOW, MAX_SCORE, NEUTRAL_SCORE};

    #[test]
    fn no_outcome_is_worth_nothing_and_good_is_worth_less_than_bad_costs() {
        for component in [Component::Director, Component::Validator, Component::Seeder] {
            let deltas = Outcome::ALL.map(Outcome::effect).into_iter();
            let (good, bad): (Vec<i16>, Vec<i16>) = deltas
                .filter(|(moved, _)| *moved == component)
                .map(|(_, delta)| delta)
                .partition(|delta| *delta > 0);
            assert!(bad.iter().all(|delta| *delta < 0), "{component:?}");
            assert!(good.iter().max().unwrap() < &bad.iter().map(|delta| -delta).max().unwrap());
        }
    }

    #[test]
    fn many_times_is_the_same_as_one_by_one() {
        for outcome in Outcome::ALL {
            for times in [0, 1, 2, 7, 1_000, u16::MAX] {
                let (component, delta) = outcome.effect();
                let (mut at_once, mut one_by_one) = (Earned::default(), Earned::default());
                at_once.apply(component, outcome.delta_of(times), 0);
                (0..times.min(MAX_SCORE)).for_each(|_| one_by_one.apply(component, delta, 0));
                assert_eq!(at_once, one_by_one, "{outcome:?}, {times} times");
            }
        }
    }

    #[test]
    fn one_equivocation_graylists_from_neutral() {
        let left = NEUTRAL_SCORE.saturating_add_signed(Outcome::Equivocated.delta());
        assert!(left < GRAYLIST_BELOW);
    }
}
