//! A peer's application score: what this node knows of it beyond what gossipsub measures.
//!
//! gossipsub adds this number (weight 1) to what it measured itself. Its thresholds, see
//! [`THRESHOLDS`]: below zero a peer is in no mesh; below `gossip` it gets no gossip about messages;
//! below `publish` none of ours; below `graylist` everything it sends is dropped unread.
//!
//! It is a sum: reputation on the chain ([`reputation`]), and what its faults cost
//! ([`super::ledger::penalty`]). Admission takes it below zero, no further, where a peer is to stay
//! out of the meshes ([`NOT_ADMITTED`]).

use super::{admission::NotAdmitted, ledger};
use crate::Standing;
use serde::Serialize;

/// What full reputation gives (total 1,000), and what none costs (total 0).
pub const SPAN: f64 = 40.0;

/// What a peer binding gives by itself, so that bound peers rank above unbound ones of the same
/// conduct.
pub const BOUND: f64 = 1.0;

/// What an unbound peer gets: next to nothing, and above zero. gossipsub forgets at once who leaves
/// with a score above zero, and keeps the record of everybody else, 1.5 KB in both behaviours, for
/// as long as `retain_score`: with many strangers that come and go these were most of what it held.
/// What is to be remembered of them is the ledger's.
pub const UNBOUND: f64 = 0.01;

/// The most a peer can earn by good behaviour on all topics together; the params cap it there.
pub const TOPIC_CAP: f64 = 10.0;

/// What a graylisted peer gets: under the graylist threshold whatever it earns besides.
pub const GRAYLISTED: f64 = THRESHOLDS.graylist - 2.0 * TOPIC_CAP;

/// What a peer that is not admitted to the meshes has at most: with anything it earns below zero,
/// without anything above the gossip threshold.
pub const NOT_ADMITTED: f64 = -15.0;
const _: () = assert!(NOT_ADMITTED + TOPIC_CAP < 0.0 && NOT_ADMITTED > THRESHOLDS.gossip);

/// Score thresholds of both gossipsub behaviours.
pub const THRESHOLDS: Thresholds = Thresholds { gossip: -20.0, publish: -50.0, graylist: -80.0 };

/// See the module's description.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Thresholds {
    /// Below it a peer gets no gossip about messages.
    pub gossip: f64,
    /// Below it a peer gets no messages of ours.
    pub publish: f64,
    /// Below it nothing from the peer is read.
    pub graylist: f64,
}

/// The application score and what it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Application {
    /// By the chain, see [`reputation`].
    pub reputation: f64,
    /// What its faults cost, zero or less.
    pub faults: f64,
    /// Why it is kept out of the meshes, if it is.
    pub not_admitted: Option<NotAdmitted>,
    /// What gossipsub is told.
    pub total: f64,
}

impl Application {
    /// The score of a peer of this standing whose faults weigh `guilt`.
    pub fn new(standing: Option<Standing>, guilt: f64, not_admitted: Option<NotAdmitted>) -> Self {
        let (reputation, faults) = (reputation(standing), ledger::penalty(guilt));
        let sum = reputation + faults;
        let total = if not_admitted.is_some() { sum.min(NOT_ADMITTED) } else { sum };
        Self { reputation, faults, not_admitted, total }
    }
}

/// What the chain says: [`BOUND`] at a total of 500, linear to ±[`SPAN`] around it at 1,000 and 0. A
/// graylisted peer gets [`GRAYLISTED`].
///
/// An unbound peer gets [`UNBOUND`]. It cannot get less, although it ranks below bound ones: a negative score
/// keeps a peer out of every mesh, and a network of fresh nodes is all unbound. What it may not have
/// is [`super::admission`]'s to say.
pub fn reputation(standing: Option<Standing>) -> f64 {
    match standing {
        None => UNBOUND,
        Some(standing) if standing.graylisted() => GRAYLISTED,
        Some(standing) => BOUND + (f64::from(standing.total.min(1000)) - 500.0) / 500.0 * SPAN,
    }
}

/// What a score means for a peer, in words that follow "it".
pub(crate) fn effect(score: f64) -> &'static str {
    if score < THRESHOLDS.graylist {
        "is graylisted: nothing it sends is read"
    } else if score < THRESHOLDS.publish {
        "is read, but gets neither messages nor gossip of ours"
    } else if score < THRESHOLDS.gossip {
        "is read and gets our own messages, but no gossip, and is in no mesh"
    } else if score < 0.0 {
        "is read and gets messages and gossip, but is in no mesh"
    } else {
        "may be in our meshes"
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
    fn a_binding_ranks_above_none_and_reputation_moves_it() {
        assert!(reputation(None) > 0.0 && reputation(None) < BOUND);
        assert_eq!(reputation(Some(Standing::NEUTRAL)), BOUND);
        assert_eq!(reputation(Some(standing(1000))), BOUND + SPAN);
        assert_eq!(reputation(Some(standing(250))), BOUND - SPAN / 2.0);
    }

    #[test]
    fn good_behaviour_does_not_lift_a_graylisted_peer() {
        let graylisted = Standing { total: 1000, director: 1000, validator: 1000, seeder: 199 };
        assert!(reputation(Some(graylisted)) + TOPIC_CAP < THRESHOLDS.graylist);
    }

    #[test]
    fn an_effect_is_told_for_every_score() {
        let told: std::collections::BTreeSet<_> =
            [-1000.0, -60.0, -30.0, -1.0, 0.0].into_iter().map(effect).collect();
        assert_eq!(told.len(), 5);
    }

    proptest! {
        #[test]
        fn more_reputation_is_never_a_lower_score(a in 0u16..=1000, b in 0u16..=1000) {
            let (low, high) = (a.min(b), a.max(b));
            prop_assert!(reputation(Some(standing(low))) <= reputation(Some(standing(high))));
        }

        #[test]
        fn a_peer_that_is_not_graylisted_is_read(
            director in 200u16..=1000, validator in 200u16..=1000, seeder in 200u16..=1000,
        ) {
            let total = (50 * u32::from(director) + 30 * u32::from(validator)
                + 20 * u32::from(seeder)) / 100;
            let total = u16::try_from(total).unwrap();
            let score = reputation(Some(Standing { total, director, validator, seeder }));
            prop_assert!(score > THRESHOLDS.publish, "{}", score);
        }

        #[test]
        fn who_is_not_admitted_is_in_no_mesh_whatever_it_earns_and_still_gets_gossip(
            total in proptest::option::of(500u16..=1000), earned in 0.0..=TOPIC_CAP,
        ) {
            let out = Application::new(total.map(standing), 0.0, Some(NotAdmitted::Unbound));
            prop_assert!(out.total + earned < 0.0);
            prop_assert!(out.total + earned > THRESHOLDS.gossip);
            let admitted = Application::new(total.map(standing), 0.0, None);
            prop_assert!(admitted.total >= 0.0);
        }

        #[test]
        fn no_reputation_buys_faults(total in 0u16..=1000, guilt in 4.0..ledger::MOST) {
            let score = Application::new(Some(standing(total)), guilt, None).total;
            prop_assert!(score + TOPIC_CAP < THRESHOLDS.graylist);
        }
    }
}
