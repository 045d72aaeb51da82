//! A peer's gossip score from its reputation on the chain.
//!
//! gossipsub adds this number (its "application score", weight 1) to what it measured itself. Its
//! thresholds, see [`THRESHOLDS`]: below zero a peer is in no mesh; below `gossip` it gets no
//! gossip about messages; below `publish` none of ours; below `graylist` everything it sends is
//! dropped unread.

use crate::Standing;

/// What full reputation gives (total 1,000), and what none costs (total 0).
pub const SPAN: f64 = 40.0;

/// The most a peer can earn by good behaviour on all topics together; the params cap it there.
pub const TOPIC_CAP: f64 = 10.0;

/// What a graylisted peer gets: under the graylist threshold whatever it earns besides.
pub const GRAYLISTED: f64 = THRESHOLDS.graylist - 2.0 * TOPIC_CAP;

/// Score thresholds of both gossipsub behaviours.
pub const THRESHOLDS: Thresholds = Thresholds { gossip: -10.0, publish: -50.0, graylist: -80.0 };

/// See the module's description.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// Below it a peer gets no gossip about messages.
    pub gossip: f64,
    /// Below it a peer gets no messages of ours.
    pub publish: f64,
    /// Below it nothing from the peer is read.
    pub graylist: f64,
}

/// The application score: 0 at a total of 500, linear to ±[`SPAN`] at 1,000 and 0. A graylisted
/// peer gets [`GRAYLISTED`].
///
/// An unbound peer gets 0 as well. It cannot get less, although it ranks below bound ones: a
/// negative score keeps a peer out of every mesh, and a network of fresh nodes is all unbound.
pub fn application(standing: Option<Standing>) -> f64 {
    match standing {
        None => 0.0,
        Some(standing) if standing.graylisted() => GRAYLISTED,
        Some(standing) => (f64::from(standing.total.min(1000)) - 500.0) / 500.0 * SPAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn standing(total: u16) -> Standing {
        Standing { total, ..Standing::NEUTRAL }
    }

    #[test]
    fn neutral_and_unbound_are_zero() {
        assert_eq!(application(Some(Standing::NEUTRAL)), 0.0);
        assert_eq!(application(None), 0.0);
        assert_eq!(application(Some(standing(1000))), SPAN);
        assert_eq!(application(Some(standing(250))), -SPAN / 2.0);
    }

    #[test]
    fn good_behaviour_does_not_lift_a_graylisted_peer() {
        let graylisted = Standing { total: 1000, director: 1000, validator: 1000, seeder: 199 };
        assert!(application(Some(graylisted)) + TOPIC_CAP < THRESHOLDS.graylist);
    }

    proptest! {
        #[test]
        fn more_reputation_is_never_a_lower_score(a in 0u16..=1000, b in 0u16..=1000) {
            let (low, high) = (a.min(b), a.max(b));
            prop_assert!(application(Some(standing(low))) <= application(Some(standing(high))));
        }

        #[test]
        fn a_peer_that_is_not_graylisted_is_read(
            director in 200u16..=1000, validator in 200u16..=1000, seeder in 200u16..=1000,
        ) {
            let total = (50 * u32::from(director) + 30 * u32::from(validator)
                + 20 * u32::from(seeder)) / 100;
            let total = u16::try_from(total).unwrap();
            let score = application(Some(Standing { total, director, validator, seeder }));
            prop_assert!(score > THRESHOLDS.publish, "{}", score);
        }
    }
}
