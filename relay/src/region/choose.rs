//! Which region is nearest, and when that is reason enough to move.
//!
//! Decisions only. A region is as far as the nearest of its super-nodes. The first look decides at
//! once; from then on another region has to be clearly nearer, in several looks one after the other,
//! so that neither noise nor one congested minute moves a relay, which viewers and the directory would
//! have to follow.

use super::{Config, Region};
use serde::{Serialize, Serializer};
use std::{collections::BTreeMap, time::Duration};

/// How far a region is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Measured {
    /// Which.
    pub region: Region,
    /// Median round trip to the nearest of its super-nodes.
    #[serde(rename = "round_trip_ms", serialize_with = "as_ms")]
    pub round_trip: Duration,
}

fn as_ms<S: Serializer>(round_trip: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(round_trip.as_secs_f64() * 1000.0)
}

/// What came of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// No super-node of any region answered.
    Nobody,
    /// The region stays as it was, and nothing speaks against it.
    Settled,
    /// Another one was clearly nearer, or this one did not answer; not for long enough yet.
    Contested,
    /// There is a region where there was none, or another one.
    Changed,
}

/// Chooses the region.
pub(super) struct Chooser {
    margin_percent: u8,
    margin: Duration,
    confirm: u32,
    chosen: Option<Region>,
    /// Who would take its place, and in how many looks in a row that was so.
    challenger: Option<(Region, u32)>,
}

impl Chooser {
    pub(super) fn new(config: &Config) -> Self {
        let Config { margin_percent, margin, confirm, .. } = *config;
        Self { margin_percent, margin, confirm, chosen: None, challenger: None }
    }

    /// The region that is chosen.
    pub(super) fn chosen(&self) -> Option<&Region> {
        self.chosen.as_ref()
    }

    /// Takes in how far the regions are, as [`by_region`] gives it.
    pub(super) fn look(&mut self, measured: &[Measured]) -> Look {
        let before = self.challenger.take();
        let Some(nearest) = measured.first() else { return Look::Nobody };
        if let Some(chosen) = &self.chosen {
            let current = measured.iter().find(|other| other.region == *chosen);
            let holds = current.is_some_and(|current| {
                current.region == nearest.region || !self.clearly_nearer(nearest, current)
            });
            if holds {
                return Look::Settled;
            }
            let looks = match before {
                Some((region, looks)) if region == nearest.region => looks.saturating_add(1),
                _ => 1,
            };
            if looks < self.confirm {
                self.challenger = Some((nearest.region.clone(), looks));
                return Look::Contested;
            }
        }
        self.chosen = Some(nearest.region.clone());
        Look::Changed
    }

    fn clearly_nearer(&self, other: &Measured, current: &Measured) -> bool {
        let share = u32::from(100u8.saturating_sub(self.margin_percent));
        let (other, current) = (other.round_trip, current.round_trip);
        other.saturating_add(self.margin) <= current && other <= current.saturating_mul(share) / 100
    }
}

/// How far each region is, the nearest first, from how far its super-nodes are.
pub(super) fn by_region(nodes: impl IntoIterator<Item = Measured>) -> Vec<Measured> {
    let mut regions = BTreeMap::new();
    for Measured { region, round_trip } in nodes {
        let nearest = regions.entry(region).or_insert(round_trip);
        *nearest = round_trip.min(*nearest);
    }
    let mut measured: Vec<_> =
        regions.into_iter().map(|(region, round_trip)| Measured { region, round_trip }).collect();
    // Regions that are equally far stay in the order of their names.
    measured.sort_by_key(|measured| measured.round_trip);
    measured
}

/// The middle one of the round trips, if more than half of `asked` questions were answered; of an even
/// number the longer one of the two.
pub(super) fn median(mut round_trips: Vec<Duration>, asked: usize) -> Option<Duration> {
    round_trips.sort_unstable();
    let enough = round_trips.len() * 2 > asked;
    enough.then(|| round_trips.get(round_trips.len() / 2).copied()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn region(name: &str) -> Region {
        name.parse().unwrap()
    }

    fn at(name: &str, ms: u64) -> Measured {
        Measured { region: region(name), round_trip: Duration::from_millis(ms) }
    }

    fn chooser() -> Chooser {
        Chooser::new(&Config::default())
    }

    /// In which region `chooser` is after a look at which the regions were so far away.
    fn after(chooser: &mut Chooser, measured: &[(&str, u64)]) -> (Look, Option<Region>) {
        let look = chooser.look(&by_region(measured.iter().map(|(name, ms)| at(name, *ms))));
        (look, chooser.chosen().cloned())
    }

    #[test]
    fn the_first_look_decides_for_the_region_with_the_nearest_super_node() {
        let mut chooser = chooser();
        assert_eq!(after(&mut chooser, &[]), (Look::Nobody, None));
        let far_and_near = [("eu", 80), ("us", 30), ("eu", 12), ("asia", 200)];
        assert_eq!(after(&mut chooser, &far_and_near), (Look::Changed, Some(region("eu"))));
        assert_eq!(after(&mut chooser, &far_and_near), (Look::Settled, Some(region("eu"))));
    }

    #[test]
    fn another_region_has_to_be_clearly_nearer_three_times_in_a_row() {
        let mut chooser = chooser();
        after(&mut chooser, &[("eu", 50), ("us", 90)]);
        let eu = Some(region("eu"));
        // Nearer, by too little: by 18 percent, and by 4 ms.
        assert_eq!(after(&mut chooser, &[("eu", 50), ("us", 41)]), (Look::Settled, eu.clone()));
        assert_eq!(after(&mut chooser, &[("eu", 10), ("us", 6)]), (Look::Settled, eu.clone()));
        let nearer = [("eu", 50), ("us", 40)];
        for _ in 0..2 {
            assert_eq!(after(&mut chooser, &nearer), (Look::Contested, eu.clone()));
        }
        // Once not, and it begins anew; so it does when yet another one is nearest.
        assert_eq!(after(&mut chooser, &[("eu", 50), ("us", 50)]), (Look::Settled, eu.clone()));
        for name in ["us", "us", "asia", "us", "us"] {
            assert_eq!(
                after(&mut chooser, &[("eu", 50), (name, 9)]),
                (Look::Contested, eu.clone())
            );
        }
        assert_eq!(after(&mut chooser, &nearer), (Look::Changed, Some(region("us"))));
    }

    #[test]
    fn a_region_whose_super_nodes_are_gone_is_left_and_silence_of_all_changes_nothing() {
        let mut chooser = chooser();
        after(&mut chooser, &[("eu", 10), ("us", 90)]);
        let eu = Some(region("eu"));
        for _ in 0..10 {
            assert_eq!(after(&mut chooser, &[]), (Look::Nobody, eu.clone()));
        }
        for _ in 0..2 {
            assert_eq!(after(&mut chooser, &[("us", 90)]), (Look::Contested, eu.clone()));
        }
        assert_eq!(after(&mut chooser, &[("us", 90)]), (Look::Changed, Some(region("us"))));
    }

    #[test]
    fn the_median_of_three_ignores_one_that_is_off_and_wants_two() {
        let ms = |all: &[u64]| all.iter().map(|n| Duration::from_millis(*n)).collect::<Vec<_>>();
        let of = |all| median(ms(all), 3).map(|median| median.as_millis());
        assert_eq!(of(&[10, 900, 11]), Some(11));
        assert_eq!(of(&[11, 10]), Some(11));
        assert_eq!((of(&[10]), of(&[])), (None, None));
    }

    fn looks() -> impl Strategy<Value = Vec<(u8, u64)>> {
        prop::collection::vec((0u8..4, 1u64..300), 0..12)
    }

    fn measured(nodes: &[(u8, u64)]) -> Vec<Measured> {
        by_region(nodes.iter().map(|(name, ms)| at(&format!("r{name}"), *ms)))
    }

    proptest! {
        #[test]
        fn whoever_is_nearest_first_is_chosen_whatever_the_order(mut nodes in looks(), by in 0usize..12) {
            let mut one = chooser();
            one.look(&measured(&nodes));
            let nearest = nodes.iter().map(|(_, ms)| *ms).min();
            let by = by.min(nodes.len());
            nodes.rotate_left(by);
            let mut other = chooser();
            other.look(&measured(&nodes));
            prop_assert_eq!(one.chosen(), other.chosen());
            let chosen = measured(&nodes).into_iter().find(|m| Some(&m.region) == one.chosen());
            let chosen = chosen.map(|m| m.round_trip);
            prop_assert_eq!(chosen, nearest.map(Duration::from_millis));
        }

        #[test]
        fn a_change_takes_as_many_looks_in_a_row_as_it_should(all in prop::collection::vec(looks(), 1..40)) {
            let mut chooser = chooser();
            let mut contested = 0;
            let mut before = None;
            for nodes in all {
                let look = chooser.look(&measured(&nodes));
                let chosen = chooser.chosen().cloned();
                match look {
                    Look::Changed => {
                        prop_assert!(before.is_none() || contested + 1 >= Config::default().confirm);
                        prop_assert_ne!(&chosen, &before);
                        contested = 0;
                    }
                    Look::Contested => contested += 1,
                    Look::Settled | Look::Nobody => contested = 0,
                }
                if look != Look::Changed {
                    prop_assert_eq!(&chosen, &before);
                }
                before = chosen;
            }
        }

        #[test]
        fn what_stays_the_same_moves_nobody_twice(first in looks(), then in looks()) {
            let mut chooser = chooser();
            chooser.look(&measured(&first));
            let moved = (0..20).filter(|_| chooser.look(&measured(&then)) == Look::Changed).count();
            prop_assert!(moved <= 1, "{moved}");
        }

        #[test]
        fn noise_within_the_margin_never_moves_anybody(
            base in 20u64..300,
            noise in prop::collection::vec((0u64..=9, 0u64..=9), 1..50),
        ) {
            let mut chooser = chooser();
            chooser.look(&[at("eu", base), at("us", base + 1)]);
            for (eu, us) in noise {
                // Up to 9 percent either way.
                let measured = [at("eu", base + base * eu / 100), at("us", base - base * us / 100)];
                prop_assert_eq!(chooser.look(&by_region(measured)), Look::Settled);
            }
        }
    }
}
