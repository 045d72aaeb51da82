//! Who may enter the routing table: a plain decision about a peer and the bucket it belongs to.
//!
//! A node asks the peers in its table whenever it looks for something, so whoever fills the table
//! decides what it finds. Three things make that dear: graylisted peers are kept out, an unbound peer
//! never pushes out a bound one, and one network has only a few places.

use super::Config;
use crate::{
    AddressPolicy, Multiaddr, PeerId,
    address::{IpGroup, ip_of},
};
use std::collections::{HashMap, HashSet};

/// Peers of one network in a bucket, a tenth of it, unless the configuration says otherwise.
const GROUP_IN_BUCKET: usize = 2;

/// Peers of one network in the table, unless the configuration says otherwise. A table that knows a
/// network of 10,000 nodes well holds about 200.
const GROUP_IN_TABLE: usize = 10;

/// Why a peer is not in the routing table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Its account is graylisted.
    Graylisted,
    /// It told no address that may be dialled.
    NoAddress,
    /// Its network has all its places in the bucket.
    GroupInBucket,
    /// Its network has all its places in the table.
    GroupInTable,
    /// The bucket is full of peers that are no worse.
    BucketFull,
    /// It could not be reached at any of the addresses that it told.
    Unreachable,
    /// Too many others wait to be dialled, to see whether they can be reached.
    Unchecked,
}

/// All of them, which dashboards see from the start.
pub(crate) const REFUSALS: [Refused; 7] = [
    Refused::Graylisted,
    Refused::NoAddress,
    Refused::GroupInBucket,
    Refused::GroupInTable,
    Refused::BucketFull,
    Refused::Unreachable,
    Refused::Unchecked,
];

impl Refused {
    /// The metric label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Graylisted => "graylisted",
            Self::NoAddress => "no_address",
            Self::GroupInBucket => "group_in_bucket",
            Self::GroupInTable => "group_in_table",
            Self::BucketFull => "bucket_full",
            Self::Unreachable => "unreachable",
            Self::Unchecked => "unchecked",
        }
    }
}

/// How many places there are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// In a bucket.
    pub(super) bucket: usize,
    /// Of these, for one network; none where there is no limit.
    in_bucket: Option<usize>,
    /// In the whole table for one network.
    in_table: Option<usize>,
}

impl Limits {
    pub(super) fn new(config: &Config, policy: AddressPolicy) -> Self {
        let default = |n| (policy == AddressPolicy::Global).then_some(n);
        Self {
            bucket: config.replication,
            in_bucket: config.max_group_in_bucket.or(default(GROUP_IN_BUCKET)),
            in_table: config.max_group_in_table.or(default(GROUP_IN_TABLE)),
        }
    }

    /// Whether networks are counted at all.
    pub(super) fn apply(&self) -> bool {
        self.in_bucket.is_some() || self.in_table.is_some()
    }
}

/// The networks of the other peers in the table: how many have an address in each.
#[derive(Debug, Default)]
pub(super) struct Groups {
    pub(super) bucket: HashMap<IpGroup, usize>,
    pub(super) table: HashMap<IpGroup, usize>,
}

impl Groups {
    /// Counts a peer that is in the table.
    pub(super) fn add(&mut self, groups: HashSet<IpGroup>, same_bucket: bool) {
        for group in groups {
            *self.table.entry(group).or_default() += 1;
            if same_bucket {
                *self.bucket.entry(group).or_default() += 1;
            }
        }
    }

    fn room(&self, group: IpGroup, limits: Limits) -> Result<(), Refused> {
        let full = |counts: &HashMap<IpGroup, usize>, limit: Option<usize>| {
            limit.is_some_and(|max| counts.get(&group).copied().unwrap_or_default() >= max)
        };
        if full(&self.bucket, limits.in_bucket) {
            return Err(Refused::GroupInBucket);
        }
        if full(&self.table, limits.in_table) {
            return Err(Refused::GroupInTable);
        }
        Ok(())
    }

    /// Those of a peer's addresses in whose network there is room; none at all if there is none in
    /// the network that it connects from, which it cannot invent.
    pub(super) fn allow(
        &self,
        from: Option<IpGroup>,
        addresses: Vec<Multiaddr>,
        limits: Limits,
    ) -> Result<Vec<Multiaddr>, Refused> {
        if let Some(group) = from {
            self.room(group, limits)?;
        }
        let mut refused = Refused::NoAddress;
        let mut allowed = addresses;
        allowed.retain(|addr| match group_of(addr).map(|group| self.room(group, limits)) {
            Some(Err(reason)) => {
                refused = reason;
                false
            }
            _ => true,
        });
        if allowed.is_empty() { Err(refused) } else { Ok(allowed) }
    }
}

/// The network of an address; none if it is a name.
pub(super) fn group_of(addr: &Multiaddr) -> Option<IpGroup> {
    ip_of(addr).map(IpGroup::of)
}

/// A peer in the bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) peer: PeerId,
    pub(super) bound: bool,
    pub(super) connected: bool,
}

/// Where a newcomer goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// There is room.
    Free,
    /// In the place of this one, at once.
    Of(PeerId),
    /// kad dials the peer that was connected longest ago, and gives its place away if that fails.
    OfTheOldest,
}

/// The place for a newcomer in a bucket of `size` places, whose peers are in kad's order: those not
/// connected first, and among them the one that was connected longest ago.
pub(super) fn place(bucket: &[Held], size: usize, bound: bool) -> Result<Place, Refused> {
    if bucket.len() < size {
        return Ok(Place::Free);
    }
    if bound && let Some(worse) = bucket.iter().find(|held| !held.bound) {
        return Ok(Place::Of(worse.peer));
    }
    match bucket.first() {
        Some(oldest) if !oldest.connected && (bound || !oldest.bound) => Ok(Place::OfTheOldest),
        _ => Err(Refused::BucketFull),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::peer_id_of;
    use proptest::prelude::*;

    fn peer(n: u8) -> PeerId {
        peer_id_of(&[n; 32]).unwrap()
    }

    fn held(n: u8, bound: bool, connected: bool) -> Held {
        Held { peer: peer(n), bound, connected }
    }

    fn addr(group: u8) -> Multiaddr {
        format!("/ip4/8.{group}.0.1/tcp/1").parse().unwrap()
    }

    #[test]
    fn a_full_bucket_gives_way_to_the_bound_alone() {
        let (bound, unbound) = (true, false);
        let place = |held: &[Held], newcomer| place(held, 2, newcomer);
        assert_eq!(place(&[held(1, bound, true)], unbound), Ok(Place::Free));
        let mixed = [held(1, bound, false), held(2, unbound, true)];
        assert_eq!(place(&mixed, unbound), Err(Refused::BucketFull));
        assert_eq!(place(&mixed, bound), Ok(Place::Of(peer(2))));
        let old = [held(1, unbound, false), held(2, bound, false)];
        assert_eq!(place(&old, unbound), Ok(Place::OfTheOldest));
        assert_eq!(place(&old, bound), Ok(Place::Of(peer(1))));
        let all_bound = [held(1, bound, false), held(2, bound, true)];
        assert_eq!(place(&all_bound, bound), Ok(Place::OfTheOldest));
        let all_here = [held(1, bound, true), held(2, bound, true)];
        assert_eq!(place(&all_here, bound), Err(Refused::BucketFull));
    }

    #[test]
    fn the_caps_are_those_of_a_public_network_unless_configured() {
        let config = Config::default();
        assert!(Limits::new(&config, AddressPolicy::Global).apply());
        assert!(!Limits::new(&config, AddressPolicy::Any).apply());
        let config = Config { max_group_in_table: Some(3), ..config };
        assert!(Limits::new(&config, AddressPolicy::Any).apply());
    }

    #[test]
    fn addresses_in_full_networks_are_left_out_and_the_network_it_comes_from_counts() {
        let limits = Limits { bucket: 20, in_bucket: Some(1), in_table: Some(2) };
        let group = |n| group_of(&addr(n)).unwrap();
        let mut groups = Groups::default();
        groups.add(HashSet::from([group(1)]), true);
        groups.add(HashSet::from([group(2)]), false);
        groups.add(HashSet::from([group(2)]), false);
        let allow = |from: Option<u8>, told: &[u8]| {
            groups.allow(from.map(group), told.iter().map(|n| addr(*n)).collect(), limits)
        };
        assert_eq!(allow(None, &[1]), Err(Refused::GroupInBucket));
        assert_eq!(allow(None, &[2]), Err(Refused::GroupInTable));
        assert_eq!(allow(None, &[1, 3, 2]), Ok(vec![addr(3)]));
        assert_eq!(allow(Some(1), &[3]), Err(Refused::GroupInBucket));
        assert_eq!(allow(Some(3), &[]), Err(Refused::NoAddress));
        let name: Multiaddr = "/dns/a.org/tcp/1".parse().unwrap();
        assert_eq!(groups.allow(Some(group(3)), vec![name.clone()], limits), Ok(vec![name]));
    }

    proptest! {
        #[test]
        fn nobody_unbound_takes_the_place_of_anybody_bound(
            mut bucket in proptest::collection::vec((any::<bool>(), any::<bool>()), 1..20),
            bound: bool,
        ) {
            // kad's order.
            bucket.sort_by_key(|(connected, _)| *connected);
            let bucket: Vec<Held> = bucket
                .into_iter()
                .zip(1u8..)
                .map(|((connected, bound), n)| held(n, bound, connected))
                .collect();
            let leaves = match place(&bucket, bucket.len(), bound) {
                Ok(Place::Of(peer)) => bucket.iter().find(|held| held.peer == peer),
                Ok(Place::OfTheOldest) => bucket.first(),
                Ok(Place::Free) => panic!("it is full"),
                Err(reason) => {
                    prop_assert_eq!(reason, Refused::BucketFull);
                    prop_assert!(!bound || bucket.iter().all(|held| held.bound));
                    return Ok(());
                }
            };
            let leaves = leaves.unwrap();
            prop_assert!(bound || !leaves.bound);
            prop_assert!(!leaves.connected || (bound && !leaves.bound));
        }

        /// Whoever tells whatever: no network ever has more than its places.
        #[test]
        fn no_network_has_more_than_its_places(
            told in proptest::collection::vec(
                (any::<bool>(), 0..5u8, proptest::collection::vec(0..5u8, 1..4)), 1..60,
            ),
        ) {
            let limits = Limits { bucket: 20, in_bucket: Some(2), in_table: Some(5) };
            let mut groups = Groups::default();
            for (same_bucket, from, told) in told {
                let from = group_of(&addr(from));
                let addresses = told.into_iter().map(addr).collect();
                // What is allowed in another bucket is a matter of the table alone.
                let bucket = std::mem::take(&mut groups.bucket);
                if same_bucket {
                    groups.bucket = bucket.clone();
                }
                let allowed = groups.allow(from, addresses, limits);
                groups.bucket = bucket;
                if let Ok(allowed) = allowed {
                    let of = allowed.iter().filter_map(group_of).chain(from).collect();
                    groups.add(of, same_bucket);
                }
                prop_assert!(groups.bucket.values().all(|count| *count <= 2));
                prop_assert!(groups.table.values().all(|count| *count <= 5));
            }
        }
    }
}
