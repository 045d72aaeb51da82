//! Decay on the hot path.
//!
//! What is left of a score is worked out at each read. [`Earned::on`] raises 0.95 to a power for each
//! component and divides 128-bit numbers, some hundred nanoseconds. Here a peer whose components moved
//! this week needs none of it, and for the others the powers are worked out once, as fractions of
//! 2^64, so that a multiplication is left.

use std::sync::LazyLock;

use pallet_reputation_runtime_api::{DAYS_PER_WEEK, Earned, NEUTRAL_SCORE, Scores};
use sp_runtime::{Perquintill, Saturating};

/// Weeks after which nothing above neutral is left: `500 * 0.95^122 < 1`.
const WEEKS: u16 = 122;

/// `0.95^weeks` as the runtime works it out, in parts of 2^64, rounded up. (The place of week 0, which
/// has no such fraction, is not used.) That is too much by less than one part, so that a product is
/// right unless the true one lies within 500 parts below a whole number; none does, as a test sees.
static LEFT: LazyLock<[u64; WEEKS as usize]> = LazyLock::new(|| {
    std::array::from_fn(|weeks| {
        let left = Perquintill::from_percent(95).saturating_pow(weeks);
        let parts = (u128::from(left.deconstruct()) << 64)
            .div_ceil(u128::from(Perquintill::one().deconstruct()));
        u64::try_from(parts).unwrap_or(u64::MAX)
    })
});

/// Exactly [`Earned::on`], faster.
#[inline]
pub(super) fn on(earned: &Earned, day: u16) -> Scores {
    let Scores { director, validator, seeder } = earned.scores;
    let [d, v, s] = earned.days;
    let stays = |score: u16, moved: u16| {
        score <= NEUTRAL_SCORE || day.saturating_sub(moved) < DAYS_PER_WEEK
    };
    if stays(director, d) & stays(validator, v) & stays(seeder, s) {
        return earned.scores;
    }
    Scores {
        director: left(director, day.saturating_sub(d)),
        validator: left(validator, day.saturating_sub(v)),
        seeder: left(seeder, day.saturating_sub(s)),
    }
}

fn left(score: u16, days: u16) -> u16 {
    let above = score.saturating_sub(NEUTRAL_SCORE);
    let weeks = days / DAYS_PER_WEEK;
    if above == 0 || weeks == 0 {
        return score;
    }
    let left = LEFT.get(usize::from(weeks)).copied().unwrap_or_default();
    let above = (u128::from(above) * u128::from(left)) >> 64;
    // No more than it was, so it is a u16.
    NEUTRAL_SCORE.saturating_add(u16::try_from(above).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests {
    use pallet_reputation_runtime_api::{MAX_SCORE, decayed};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_score_at_every_age_is_what_the_runtime_says() {
        for weeks in (0..WEEKS + 10).chain([u16::MAX / DAYS_PER_WEEK]) {
            for score in 0..=MAX_SCORE {
                assert_eq!(left(score, weeks * DAYS_PER_WEEK), decayed(score, weeks));
            }
        }
    }

    proptest! {
        #[test]
        fn it_is_what_earned_says(
            scores in prop::array::uniform3(0u16..=1_000),
            days in prop::array::uniform3(0u16..2_000),
            day in 0u16..2_000,
        ) {
            let [director, validator, seeder] = scores;
            let earned = Earned { scores: Scores { director, validator, seeder }, days };
            prop_assert_eq!(on(&earned, day), earned.on(day));
        }
    }
}
