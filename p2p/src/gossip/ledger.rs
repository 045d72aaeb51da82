//! What peers did wrong, kept when they leave.
//!
//! gossipsub forgets a peer that disconnects with a positive score, whatever it had done, so good
//! reputation would launder bad behaviour by leaving and coming back. Here each fault stays, fades by
//! half in [`Config::ledger_half_life`](super::Config::ledger_half_life) whether its author is
//! connected or not, and is applied anew at every connect.
//!
//! There are two ledgers: by key, and by where a peer connects from. A key answers with its score. An
//! address is shared (behind one router sit many), so its guilt keeps *new unbound keys* from there
//! out of the mesh and does no more: they are still heard and served. Without it, whoever is
//! graylisted would only have to make another key to be back in the mesh.
//!
//! The table is bounded, and what is dropped is the *least guilty* entry, which because of the
//! common half-life is the same one whenever it is asked. To flush an entry, an attacker needs as
//! many other keys as the table holds, each of them guiltier: each connected, and each cut off after
//! three bad messages. That costs more than waiting.

use std::{
    cmp::Ordering,
    collections::{BTreeSet, HashMap},
    hash::Hash,
    time::{Duration, Instant},
};

/// Most faults that count: more would only make forgiving take longer. From here it takes under two
/// half-lives to be read again, see [`penalty`].
pub const MOST: f64 = 10.0;

/// Guilt below which an entry is dropped: it costs less than 0.1 points.
const FORGIVEN: f64 = 0.1;

/// What guilt costs in points of score: the square, as gossipsub counts invalid messages. One fault
/// is forgiven, two cost the peer our gossip, three the right to be read.
pub fn penalty(guilt: f64) -> f64 {
    -10.0 * guilt * guilt
}

/// Guilt as log2 of what it was, or would have been, when the ledger was begun. Everything fades at
/// one pace, so this number stays the same while time passes, and orders entries for good.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Mark(f64);

impl Eq for Mark {}

impl PartialOrd for Mark {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Mark {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// Guilt by key. Holds no clock.
#[derive(Debug)]
pub struct Ledger<K> {
    half_life: Duration,
    capacity: usize,
    begun: Instant,
    marks: HashMap<K, Mark>,
    /// The same, least guilty first.
    order: BTreeSet<(Mark, K)>,
}

impl<K: Copy + Eq + Hash + Ord> Ledger<K> {
    /// An empty ledger of at most `capacity` entries.
    pub fn new(capacity: usize, half_life: Duration, now: Instant) -> Self {
        let (marks, order) = (HashMap::new(), BTreeSet::new());
        Self { half_life, capacity, begun: now, marks, order }
    }

    fn half_lives(&self, now: Instant) -> f64 {
        now.saturating_duration_since(self.begun).as_secs_f64() / self.half_life.as_secs_f64()
    }

    /// How many faults weigh on `who`, old ones counting less.
    pub fn guilt(&self, who: &K, now: Instant) -> f64 {
        self.marks.get(who).map_or(0.0, |mark| (mark.0 - self.half_lives(now)).exp2())
    }

    /// Adds a fault, and gives the guilt with it. If there is no room, the least guilty entry goes.
    pub fn fault(&mut self, who: K, now: Instant) -> f64 {
        let guilt = (self.guilt(&who, now) + 1.0).min(MOST);
        let mark = Mark(guilt.log2() + self.half_lives(now));
        if let Some(old) = self.marks.insert(who, mark) {
            self.order.remove(&(old, who));
        } else if self.marks.len() > self.capacity
            && let Some((_, least)) = self.order.pop_first()
        {
            self.marks.remove(&least);
        }
        self.order.insert((mark, who));
        guilt
    }

    /// Drops what is forgiven. Costs what is dropped, not what is kept.
    pub fn forget(&mut self, now: Instant) {
        let forgiven = Mark(FORGIVEN.log2() + self.half_lives(now));
        while let Some((mark, who)) = self.order.first().copied() {
            if mark >= forgiven {
                break;
            }
            self.order.pop_first();
            self.marks.remove(&who);
        }
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.marks.len()
    }

    /// Whether nobody did anything wrong lately.
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gossip::score::{SPAN, THRESHOLDS, TOPIC_CAP};
    use proptest::prelude::*;

    const HALF_LIFE: Duration = Duration::from_secs(600);

    fn ledger(capacity: usize) -> (Ledger<u32>, Instant) {
        let now = Instant::now();
        (Ledger::new(capacity, HALF_LIFE, now), now)
    }

    #[test]
    fn guilt_halves_and_is_forgiven() {
        let (mut ledger, now) = ledger(10);
        for _ in 0..4 {
            ledger.fault(1, now);
        }
        assert!((ledger.guilt(&1, now) - 4.0).abs() < 1e-9);
        assert!((ledger.guilt(&1, now + HALF_LIFE) - 2.0).abs() < 1e-9);
        ledger.forget(now + 5 * HALF_LIFE);
        assert_eq!(ledger.len(), 1);
        ledger.forget(now + 6 * HALF_LIFE);
        assert!(ledger.is_empty());
        assert_eq!(ledger.guilt(&1, now), 0.0);
    }

    #[test]
    fn one_fault_is_forgiven_and_four_graylist_whatever_the_reputation() {
        assert!(penalty(1.0) > THRESHOLDS.gossip);
        assert!(penalty(2.0) < THRESHOLDS.gossip);
        assert!(penalty(3.0) < THRESHOLDS.graylist);
        assert!(penalty(4.0) + SPAN + TOPIC_CAP < THRESHOLDS.graylist);
        // From the worst there is, two half-lives bring a peer back over the threshold.
        assert!(penalty(MOST / 4.0) > THRESHOLDS.graylist);
    }

    #[test]
    fn a_flood_of_other_keys_does_not_flush_a_guilty_one() {
        let (mut ledger, now) = ledger(100);
        for _ in 0..5 {
            ledger.fault(0, now);
        }
        // A thousand keys that each do what a key can do before it is cut off.
        for key in 1..=1000 {
            for _ in 0..4 {
                ledger.fault(key, now);
            }
        }
        assert_eq!(ledger.len(), 100);
        assert!((ledger.guilt(&0, now) - 5.0).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn the_table_is_bounded_and_faults_only_add(
            faults in prop::collection::vec((0u32..40, 0u64..300), 1..300),
        ) {
            let (mut ledger, start) = ledger(16);
            let mut at = 0;
            for (who, wait) in faults {
                at += wait;
                let now = start + Duration::from_secs(at);
                let before = ledger.guilt(&who, now);
                let after = ledger.fault(who, now);
                prop_assert!((1.0..=MOST).contains(&after));
                prop_assert!(after >= before);
                prop_assert!((ledger.guilt(&who, now) - after).abs() < 1e-6);
                prop_assert!(ledger.guilt(&who, now + HALF_LIFE) < after);
                prop_assert!(ledger.len() <= 16);
                prop_assert_eq!(ledger.marks.len(), ledger.order.len());
            }
        }

        /// The order of two entries is that of their guilt at any time, so dropping the first entry
        /// of the table drops the least guilty one.
        #[test]
        fn who_is_dropped_is_never_guiltier_than_who_stays(
            faults in prop::collection::vec((0u32..40, 0u64..300), 50..300),
        ) {
            let (mut ledger, start) = ledger(8);
            let mut at = 0;
            for (who, wait) in faults {
                at += wait;
                let now = start + Duration::from_secs(at);
                let before: HashMap<u32, f64> =
                    ledger.marks.keys().map(|k| (*k, ledger.guilt(k, now))).collect();
                ledger.fault(who, now);
                let dropped = before.iter().find(|(k, _)| !ledger.marks.contains_key(k));
                if let Some((_, guilt)) = dropped {
                    let least = before
                        .iter()
                        .filter(|(k, _)| ledger.marks.contains_key(k))
                        .map(|(_, guilt)| *guilt)
                        .fold(f64::INFINITY, f64::min);
                    prop_assert!(*guilt <= least + 1e-9);
                }
            }
        }

        /// Whatever a peer's comings and goings: the ledger does not hear of them, so what is left
        /// after any time depends on the faults alone.
        #[test]
        fn only_time_forgives(faults in 1usize..12, wait in 0u64..3000) {
            let (mut ledger, start) = ledger(8);
            for _ in 0..faults {
                ledger.fault(7, start);
            }
            let now = start + Duration::from_secs(wait);
            let wanted = (faults as f64).min(MOST) * 0.5f64.powf(wait as f64 / 600.0);
            prop_assert!((ledger.guilt(&7, now) - wanted).abs() < 1e-6);
        }
    }
}
