//! The three components of a reputation, and what they amount to.

use codec::{Decode, DecodeWithMemTracking, Encode, MaxEncodedLen};
use scale_info::TypeInfo;
use serde::{Deserialize, Serialize};

/// The least value of a component.
pub const MIN_SCORE: u16 = 0;
/// The value a component starts at: nothing good or bad is known.
pub const NEUTRAL_SCORE: u16 = 500;
/// The greatest value of a component.
pub const MAX_SCORE: u16 = 1_000;
/// A component below this value graylists its account.
pub const GRAYLIST_BELOW: u16 = 200;

/// Weights of the components in [`Scores::total`], in percent: director, validator, seeder.
const WEIGHTS: [u32; 3] = [50, 30, 20];

/// The three components of an account's reputation, each [`MIN_SCORE`]`..=`[`MAX_SCORE`].
#[derive(
    Clone,
    Copy,
    Debug,
    Decode,
    DecodeWithMemTracking,
    Deserialize,
    Encode,
    Eq,
    MaxEncodedLen,
    PartialEq,
    Serialize,
    TypeInfo,
)]
pub struct Scores {
    /// For directing: composing what is produced.
    pub director: u16,
    /// For validating: blocks and audits.
    pub validator: u16,
    /// For seeding: keeping shards and serving them.
    pub seeder: u16,
}

impl Default for Scores {
    /// All components [`NEUTRAL_SCORE`].
    fn default() -> Self {
        Self { director: NEUTRAL_SCORE, validator: NEUTRAL_SCORE, seeder: NEUTRAL_SCORE }
    }
}

impl Scores {
    /// The weighed mean of the components: 50 % director, 30 % validator, 20 % seeder, rounded
    /// down. At most [`MAX_SCORE`] when every component is.
    pub fn total(&self) -> u16 {
        let sum: u32 = self
            .components()
            .into_iter()
            .zip(WEIGHTS)
            .map(|(component, weight)| u32::from(component) * weight)
            .sum();
        // The weights add up to 100, so the mean of u16s is a u16.
        u16::try_from(sum / 100).unwrap_or(u16::MAX)
    }

    /// Whether any component is below [`GRAYLIST_BELOW`].
    pub fn graylisted(&self) -> bool {
        self.components().iter().any(|score| *score < GRAYLIST_BELOW)
    }

    /// Whether every component is at most [`MAX_SCORE`].
    pub fn in_range(&self) -> bool {
        self.components().iter().all(|score| *score <= MAX_SCORE)
    }

    /// What is bad about the scores: each component, but none above [`NEUTRAL_SCORE`].
    #[must_use]
    pub fn at_most_neutral(&self) -> Self {
        Self {
            director: self.director.min(NEUTRAL_SCORE),
            validator: self.validator.min(NEUTRAL_SCORE),
            seeder: self.seeder.min(NEUTRAL_SCORE),
        }
    }

    /// Director, validator, seeder.
    pub(crate) fn components(&self) -> [u16; 3] {
        [self.director, self.validator, self.seeder]
    }
}

/// Names one component of [`Scores`].
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
pub enum Component {
    /// [`Scores::director`].
    Director,
    /// [`Scores::validator`].
    Validator,
    /// [`Scores::seeder`].
    Seeder,
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn scores(director: u16, validator: u16, seeder: u16) -> Scores {
        Scores { director, validator, seeder }
    }

    #[test]
    fn total_weighs_components_50_30_20() {
        assert_eq!(Scores::default().total(), 500);
        assert_eq!(scores(1_000, 0, 0).total(), 500);
        assert_eq!(scores(0, 1_000, 0).total(), 300);
        assert_eq!(scores(0, 0, 1_000).total(), 200);
        assert_eq!(scores(1_000, 1_000, 1_000).total(), MAX_SCORE);
        assert_eq!(scores(1, 1, 0).total(), 0, "rounded down");
    }

    #[test]
    fn one_component_below_200_graylists() {
        assert!(!scores(200, 200, 200).graylisted());
        assert!(scores(199, 1_000, 1_000).graylisted());
        assert!(scores(1_000, 199, 1_000).graylisted());
        assert!(scores(1_000, 1_000, 199).graylisted());
    }

    #[test]
    fn what_is_bad_is_what_is_below_neutral() {
        assert_eq!(scores(1_000, 499, 500).at_most_neutral(), scores(500, 499, 500));
        assert_eq!(scores(501, 700, 900).at_most_neutral(), Scores::default());
    }

    #[test]
    fn a_component_above_1000_is_out_of_range() {
        assert!(scores(MAX_SCORE, MAX_SCORE, MAX_SCORE).in_range());
        assert!(!scores(0, 0, MAX_SCORE + 1).in_range());
    }
}
