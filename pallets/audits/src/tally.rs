//! The tally: from what auditors counted to a change of a score.
//!
//! The counts of one auditor make a *step*, and the steps of a committee one *outcome*: their
//! median. Where more than half of those who count are honest, at least one honest member said so
//! much or more, and one so much or less: the outcome lies within what honest members said.
//!
//! If more than two thirds of the committee reported, those who did are the ones who count. If not,
//! the whole committee counts, and who is silent stands for no change: then only what more than half
//! of *all* members agree on changes anything. This asks for more agreement than the first rule, of
//! which a third of the committee can be enough (half of two thirds), so it opens no way that the
//! first does not. Without it, a third of the reporters could keep a subject from ever being judged
//! by saying nothing of it: of 100 of which 33 are silent, two in five committees of 64 have no
//! more than two thirds left, and hardly any where one or two more happen to be away.

use alloc::vec::Vec;

use pallet_audits_runtime_api::Counts;
use pallet_reputation::Outcome;

/// What a failed audit changes.
pub const FAILED: i16 = Outcome::AuditFailed.delta();
/// What a passed audit changes.
pub const PASSED: i16 = Outcome::AuditPassed.delta();
/// What each fetch that was served adds.
pub const SERVED: i16 = Outcome::ShardServed.delta();
/// How many served fetches of a window are counted.
pub const MAX_SERVED: u8 = 5;

/// The worst that a window can do to a score.
pub const WORST: i16 = FAILED;
/// The best that a window can do to a score.
pub const BEST: i16 = PASSED + SERVED * MAX_SERVED as i16;

/// The step that `counts` make, in [`WORST`]`..=`[`BEST`]; `None` if nothing was counted. A subject
/// that missed as many fetches as it served, or more, has failed.
pub fn step(counts: Counts) -> Option<i16> {
    let (served, missed) = (counts.served(), counts.missed());
    let audit = match (served, missed) {
        (0, 0) => return None,
        (served, missed) if missed > 0 && missed >= served => FAILED,
        _ => PASSED,
    };
    Some(audit.saturating_add(SERVED.saturating_mul(i16::from(served.min(MAX_SERVED)))))
}

/// Whether `reported` of `committee` members are more than two thirds.
pub fn quorum(reported: u32, committee: u32) -> bool {
    reported.saturating_mul(3) > committee.saturating_mul(2)
}

/// What follows from the `steps` that members of a `committee` reported, in any order; `None` if
/// nothing does. See the module's documentation.
pub fn outcome(mut steps: Vec<i16>, committee: u32) -> Option<i16> {
    let reported = u32::try_from(steps.len()).unwrap_or(u32::MAX);
    if quorum(reported, committee) {
        steps.sort_unstable();
        return lower_middle(&steps);
    }
    steps.resize(committee.max(reported) as usize, 0);
    steps.sort_unstable();
    let (lower, upper) = (lower_middle(&steps)?, upper_middle(&steps)?);
    // Of two middles that which changes less, so that half of the members is not enough.
    let outcome = if lower > 0 { lower } else { upper.min(0) };
    (outcome != 0).then_some(outcome)
}

/// The median of `sorted`, or of its two middles the lower.
fn lower_middle(sorted: &[i16]) -> Option<i16> {
    sorted.get(sorted.len().checked_sub(1)? / 2).copied()
}

/// The median of `sorted`, or of its two middles the upper.
fn upper_middle(sorted: &[i16]) -> Option<i16> {
    sorted.get(sorted.len() / 2).copied()
}

/// What is done to an account one of whose keys made `step`, and what counts as done to it in this
/// window from then on, where `moved` counted so before.
///
/// Its first key moves it; another that failed moves it further down, to no less than the worst of
/// them; another that passed does nothing. So whoever has many keys is neither lifted nor punished
/// many times, and good keys do not make up for a bad one. All that is done to an account in a
/// window lies in [`WORST`]`..=`[`BEST`] (also where its score was at a bound and only a part of a
/// change had an effect, which is why a rise is not taken back before a fall).
pub fn account(moved: Option<i16>, step: i16) -> (i16, i16) {
    let step = step.clamp(WORST, BEST);
    match moved {
        None => (step, step),
        Some(moved) if step < 0 => {
            let fallen = moved.min(0);
            let worst = step.min(fallen);
            (worst.saturating_sub(fallen), worst)
        }
        Some(moved) => (0, moved),
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(served: u8, missed: u8) -> Counts {
        Counts::new(served, missed).unwrap()
    }

    #[test]
    fn counts_make_steps() {
        assert_eq!(step(counts(0, 0)), None);
        assert_eq!(step(counts(1, 0)), Some(11));
        assert_eq!(step(counts(3, 0)), Some(13));
        assert_eq!(step(counts(3, 1)), Some(13));
        assert_eq!(step(counts(5, 0)), Some(15));
        assert_eq!(step(counts(15, 0)), Some(15), "no more than five are counted");
        assert_eq!(step(counts(0, 1)), Some(-50));
        assert_eq!(step(counts(0, 15)), Some(-50));
        assert_eq!(step(counts(1, 1)), Some(-49), "a tie has failed");
        assert_eq!(step(counts(1, 2)), Some(-49));
    }

    #[test]
    fn the_steps_are_those_of_the_table_of_deltas() {
        assert_eq!((WORST, BEST), (-50, 15));
    }

    #[test]
    fn a_quorum_is_more_than_two_thirds() {
        for (committee, needed) in [(1, 1), (2, 2), (3, 3), (4, 3), (6, 5), (63, 43), (64, 43)] {
            assert!(quorum(needed, committee), "{needed} of {committee}");
            assert!(!quorum(needed - 1, committee), "{needed} - 1 of {committee}");
        }
    }

    #[test]
    fn with_a_quorum_the_median_of_those_who_reported_decides() {
        assert_eq!(outcome(vec![11], 1), Some(11));
        assert_eq!(outcome(vec![-50, 11], 2), Some(-50), "the lower middle");
        assert_eq!(outcome(vec![13, -50, 12], 4), Some(12));
        assert_eq!(outcome(vec![13, -50, 12, 11], 4), Some(11));
    }

    #[test]
    fn without_a_quorum_it_takes_more_than_half_of_all() {
        assert_eq!(outcome(vec![], 1), None);
        assert_eq!(outcome(vec![-50], 2), None);
        assert_eq!(outcome(vec![-50, -50], 4), None, "half");
        assert_eq!(outcome(vec![-50; 32], 64), None, "half");
        assert_eq!(outcome(vec![-50; 33], 64), Some(-50));
        assert_eq!(outcome(vec![11; 32], 64), None, "half");
        assert_eq!(outcome(vec![11; 33], 64), Some(11));
        let split: Vec<_> = [vec![-50; 32], vec![11; 10]].concat();
        assert_eq!(outcome(split, 64), None);
        let split: Vec<_> = [vec![-50; 32], vec![-49], vec![11; 9]].concat();
        assert_eq!(outcome(split, 64), Some(-49), "what more than half say, or worse");
    }

    #[test]
    fn an_account_with_many_keys_moves_once_or_to_its_worst() {
        assert_eq!(account(None, 11), (11, 11));
        assert_eq!(account(Some(11), 13), (0, 11), "one rise");
        assert_eq!(account(Some(11), -49), (-49, -49));
        assert_eq!(account(Some(-49), -50), (-1, -50), "the worst");
        assert_eq!(account(Some(-50), 15), (0, -50), "nothing makes up for it");
    }

    fn reported() -> impl Strategy<Value = i16> {
        (0u8..=15, 0u8..=15).prop_filter_map("nothing counted", |(served, missed)| {
            step(Counts::new(served, missed)?)
        })
    }

    proptest! {
        #[test]
        fn steps_are_bounded(byte: u8) {
            // Whatever was decoded.
            let counts: Counts = codec::Decode::decode(&mut &[byte][..]).unwrap();
            let (served, missed) = (counts.served(), counts.missed());
            if let Some(step) = step(counts) {
                prop_assert!((WORST..=BEST).contains(&step));
                prop_assert_eq!(step < 0, missed > 0 && missed >= served);
            }
        }

        /// Whatever fewer than half of those who count say, the outcome lies within what the others
        /// said, silence being no change.
        #[test]
        fn the_outcome_lies_within_what_the_honest_said(
            honest in prop::collection::vec(prop::option::weighted(0.9, reported()), 1..43),
            lies in prop::collection::vec(prop::option::weighted(0.7, reported()), 0..42),
        ) {
            // Fewer than half of all members, and of those who report.
            let said: Vec<i16> = honest.iter().flatten().copied().collect();
            let lies: Vec<_> = lies.into_iter().take(honest.len() - 1).collect();
            let lied: Vec<i16> =
                lies.iter().flatten().copied().take(said.len().saturating_sub(1)).collect();
            let committee = (honest.len() + lies.len()) as u32;
            let with_quorum = quorum((said.len() + lied.len()) as u32, committee);

            if let Some(outcome) = outcome([said.clone(), lied].concat(), committee) {
                let silence = honest.iter().any(Option::is_none) && !with_quorum;
                let range = said.iter().copied().chain(silence.then_some(0));
                prop_assert!(range.clone().min().is_some_and(|least| least <= outcome));
                prop_assert!(range.max().is_some_and(|most| outcome <= most));
            }
        }

        /// The order of reports says nothing, and no step is zero or out of bounds.
        #[test]
        fn the_outcome_is_bounded_and_of_no_order(
            steps in prop::collection::vec(reported(), 0..64), silent in 0u32..64,
        ) {
            let committee = steps.len() as u32 + silent;
            let found = outcome(steps.clone(), committee);
            prop_assert!(found.is_none_or(|step| step != 0 && (WORST..=BEST).contains(&step)));
            prop_assert_eq!(found, outcome(steps.into_iter().rev().collect(), committee));
        }

        /// What the rule without a quorum changes, more than half of the committee wanted at least.
        #[test]
        fn without_a_quorum_a_majority_of_all_wanted_it(
            steps in prop::collection::vec(reported(), 1..64), silent in 0u32..64,
        ) {
            let committee = steps.len() as u32 + silent;
            prop_assume!(!quorum(steps.len() as u32, committee));
            let found = outcome(steps.clone(), committee);
            let wanting = |step: i16| {
                let so = steps.iter().filter(|s| if step < 0 { **s <= step } else { **s >= step });
                so.count() as u32
            };
            if let Some(step) = found {
                prop_assert!(2 * wanting(step) > committee);
            } else {
                prop_assert!(2 * wanting(-1) <= committee && 2 * wanting(1) <= committee);
            }
        }

        /// However many keys an account has, wherever its score is kept within its bounds: a
        /// window lowers it by no more than the worst step and lifts it by no more than the best.
        #[test]
        fn an_account_moves_within_the_bounds_of_one_step(
            steps in prop::collection::vec(-60i16..20, 1..16), start in 0i16..=1_000,
        ) {
            let (mut moved, mut score) = (None, start);
            for step in &steps {
                let (now, all) = account(moved, *step);
                moved = Some(all);
                score = (score + now).clamp(0, 1_000);
                prop_assert!((WORST..=BEST).contains(&(score - start)));
            }
            let worst = (*steps.iter().min().unwrap()).clamp(WORST, BEST);
            if worst < 0 {
                prop_assert_eq!(moved, Some(worst));
                prop_assert!(score <= start + BEST + worst || score == 0);
            }
        }
    }
}
