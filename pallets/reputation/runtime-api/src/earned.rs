//! Scores over time: what is above neutral decays when it is not earned again.

use codec::{Decode, DecodeWithMemTracking, Encode, MaxEncodedLen};
use scale_info::TypeInfo;
use sp_arithmetic::{Perquintill, traits::Saturating};

use crate::{Component, MAX_SCORE, MIN_SCORE, NEUTRAL_SCORE, Scores};

/// The days of a week: the step of decay.
pub const DAYS_PER_WEEK: u16 = 7;

/// `score` after `weeks` whole weeks in which it did not move: what is above [`NEUTRAL_SCORE`] has
/// shrunk to `500 + (score - 500) * 0.95^weeks`, rounded down; what is below stays.
///
/// The power is taken in parts of 10^18. That is exact for nine weeks; after that it may be too
/// small by a few such parts, where the product would have to be a whole number for it to show.
pub fn decayed(score: u16, weeks: u16) -> u16 {
    match score.checked_sub(NEUTRAL_SCORE) {
        None | Some(0) => score,
        Some(_) if weeks == 0 => score,
        Some(above) => {
            let rest = Perquintill::from_percent(95).saturating_pow(usize::from(weeks));
            let above = rest.mul_floor(u64::from(above));
            // No more than it was, so it is a u16.
            NEUTRAL_SCORE.saturating_add(u16::try_from(above).unwrap_or(u16::MAX))
        }
    }
}

/// Scores as they were earned, and when: what they are worth depends on the day they are read.
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
pub struct Earned {
    /// The scores on the day that each component last moved.
    pub scores: Scores,
    /// That day, for director, validator and seeder, counted from the chain's first.
    pub days: [u16; 3],
}

impl Earned {
    /// `scores`, all of which moved on `day`.
    pub fn new(scores: Scores, day: u16) -> Self {
        Self { scores, days: [day; 3] }
    }

    /// What is left of the scores on `day`: see [`decayed`]. A day before a component last moved
    /// counts as that day.
    pub fn on(&self, day: u16) -> Scores {
        let [director, validator, seeder] =
            self.days.map(|moved| day.saturating_sub(moved) / DAYS_PER_WEEK);
        Scores {
            director: decayed(self.scores.director, director),
            validator: decayed(self.scores.validator, validator),
            seeder: decayed(self.scores.seeder, seeder),
        }
    }

    /// Adds `delta` to what is left of `component` on `day`, which is when it then last moved. The
    /// result stays within [`MIN_SCORE`]`..=`[`MAX_SCORE`].
    pub fn apply(&mut self, component: Component, delta: i16, day: u16) {
        let left = self.on(day);
        let [director, validator, seeder] = &mut self.days;
        let (score, left, moved) = match component {
            Component::Director => (&mut self.scores.director, left.director, director),
            Component::Validator => (&mut self.scores.validator, left.validator, validator),
            Component::Seeder => (&mut self.scores.seeder, left.seeder, seeder),
        };
        *score = left.saturating_add_signed(delta).clamp(MIN_SCORE, MAX_SCORE);
        *moved = (*moved).max(day);
    }

    /// Lowers each component to that of `past` where more than that is left on `day`; a component
    /// that is no better stays as it was earned.
    pub fn lower_to(&mut self, past: &Scores, day: u16) {
        let left = self.on(day).components();
        let scores =
            [&mut self.scores.director, &mut self.scores.validator, &mut self.scores.seeder];
        for (((score, moved), left), past) in
            scores.into_iter().zip(&mut self.days).zip(left).zip(past.components())
        {
            if left > past {
                *score = past;
                *moved = (*moved).max(day);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seeder(score: u16) -> Scores {
        Scores { seeder: score, ..Scores::default() }
    }

    fn any_score() -> impl Strategy<Value = u16> {
        MIN_SCORE..=MAX_SCORE
    }

    fn any_scores() -> impl Strategy<Value = Scores> {
        (any_score(), any_score(), any_score()).prop_map(|(director, validator, seeder)| Scores {
            director,
            validator,
            seeder,
        })
    }

    fn any_earned() -> impl Strategy<Value = Earned> {
        (any_scores(), any::<[u16; 3]>()).prop_map(|(scores, days)| Earned { scores, days })
    }

    fn any_component() -> impl Strategy<Value = Component> {
        prop_oneof![Just(Component::Director), Just(Component::Validator), Just(Component::Seeder)]
    }

    #[test]
    fn decay_is_that_of_the_formula_in_exact_arithmetic() {
        // 19^28 * 500 is just below 2^128.
        for weeks in 0..=28u16 {
            for above in 0..=500u16 {
                let exact = u128::from(above) * 19u128.pow(weeks.into()) / 20u128.pow(weeks.into());
                let expected = NEUTRAL_SCORE + u16::try_from(exact).unwrap();
                assert_eq!(decayed(NEUTRAL_SCORE + above, weeks), expected, "{above}, {weeks}");
            }
        }
        assert_eq!(decayed(900, 1), 880);
        assert_eq!(decayed(900, 2), 861);
    }

    #[test]
    fn decay_ends_at_neutral() {
        // 500 * 0.95^122 < 1.
        assert_eq!(decayed(MAX_SCORE, 121), 501);
        assert_eq!(decayed(MAX_SCORE, 122), NEUTRAL_SCORE);
        assert_eq!(decayed(MAX_SCORE, u16::MAX), NEUTRAL_SCORE);
    }

    #[test]
    fn only_whole_weeks_of_inactivity_count() {
        let earned = Earned::new(seeder(900), 3);
        assert_eq!(earned.on(9).seeder, 900);
        assert_eq!(earned.on(10).seeder, 880);
        assert_eq!(earned.on(0).seeder, 900, "a day before it was earned");
    }

    #[test]
    fn a_delta_adds_to_what_is_left_and_starts_the_week_of_its_component_anew() {
        let scores = Scores { director: 900, validator: 900, seeder: 900 };
        let mut earned = Earned::new(scores, 0);
        earned.apply(Component::Seeder, 10, 8);
        assert_eq!(earned.scores, Scores { seeder: 890, ..scores });
        assert_eq!(earned.days, [0, 0, 8]);
        assert_eq!(earned.on(14), Scores { director: 861, validator: 861, seeder: 890 });
    }

    #[test]
    fn a_delta_saturates_at_the_ends() {
        let mut earned = Earned::default();
        earned.apply(Component::Validator, i16::MAX, 0);
        earned.apply(Component::Director, i16::MIN, 0);
        let ends = Scores { director: MIN_SCORE, validator: MAX_SCORE, ..Scores::default() };
        assert_eq!(earned.scores, ends);
    }

    proptest! {
        #[test]
        fn decay_never_raises_nor_crosses_neutral(score in any_score(), weeks in any::<u16>()) {
            let left = decayed(score, weeks);
            prop_assert!(left <= score);
            prop_assert!(left >= score.min(NEUTRAL_SCORE));
            prop_assert!(decayed(score, weeks.saturating_add(1)) <= left);
        }

        #[test]
        fn a_delta_moves_one_component_by_itself_or_to_the_end(
            earned in any_earned(), component in any_component(), delta: i16, day: u16,
        ) {
            let (before, mut after) = (earned.on(day), earned);
            after.apply(component, delta, day);
            let mut expected = before;
            let score = match component {
                Component::Director => &mut expected.director,
                Component::Validator => &mut expected.validator,
                Component::Seeder => &mut expected.seeder,
            };
            *score = u16::try_from((i32::from(*score) + i32::from(delta)).clamp(0, 1_000)).unwrap();
            prop_assert_eq!(after.on(day), expected);
        }

        #[test]
        fn lowering_leaves_the_worse_of_both(
            earned in any_earned(), past in any_scores(), day: u16,
        ) {
            let (before, mut after) = (earned.on(day), earned);
            after.lower_to(&past, day);
            let worse = Scores {
                director: before.director.min(past.director),
                validator: before.validator.min(past.validator),
                seeder: before.seeder.min(past.seeder),
            };
            prop_assert_eq!(after.on(day), worse);
            let once = after;
            after.lower_to(&past, day);
            prop_assert_eq!(after, once);
        }
    }
}
