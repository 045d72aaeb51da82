//! Which peers a key belongs to.

use crate::{
    address::IpGroup,
    dht::{
        admission::group_of,
        network::Contact,
        space::{BITS, Point},
    },
};

/// Groups of one peer that count; it has at most as many addresses.
const MAX_GROUPS: usize = 4;

/// Peers looked at for each that is wanted, where those of one network are limited.
const LOOK_AT: usize = 3;

/// The known peers, in the order of their points.
pub(super) struct Candidates<'a> {
    points: Vec<Point>,
    contacts: Vec<&'a Contact>,
    /// The networks that each is said to be in; empty where these do not matter.
    groups: Vec<Vec<IpGroup>>,
    max_group: Option<usize>,
}

impl<'a> Candidates<'a> {
    /// `max_group` is how many peers of one network a key may be announced to.
    pub(super) fn new(
        peers: impl Iterator<Item = (&'a Point, &'a Contact)>,
        max_group: Option<usize>,
    ) -> Self {
        let (points, contacts): (Vec<_>, Vec<&Contact>) =
            peers.map(|(at, contact)| (*at, contact)).unzip();
        let groups = match max_group {
            Some(_) => contacts.iter().map(|contact| groups_of(contact)).collect(),
            None => Vec::new(),
        };
        Self { points, contacts, groups, max_group }
    }

    pub(super) fn contact(&self, at: usize) -> Option<&'a Contact> {
        self.contacts.get(at).copied()
    }

    /// The places of the `n` peers that a key at this point belongs to, nearest first. Of one network
    /// are no more than allowed, so that whoever has many keys and few addresses cannot be all of
    /// them; the next nearest take their places.
    pub(super) fn of(&self, to: &Point, n: usize) -> Vec<usize> {
        let Some(max_group) = self.max_group else { return nearest(&self.points, to, n) };
        let mut taken: Vec<(IpGroup, usize)> = Vec::new();
        let mut found = nearest(&self.points, to, n.saturating_mul(LOOK_AT));
        found.retain(|peer| {
            let groups = self.groups.get(*peer).map(Vec::as_slice).unwrap_or_default();
            let full = |group| taken.iter().any(|(of, count)| of == group && *count >= max_group);
            if groups.iter().any(full) {
                return false;
            }
            for group in groups {
                match taken.iter_mut().find(|(of, _)| of == group) {
                    Some((_, count)) => *count += 1,
                    None => taken.push((*group, 1)),
                }
            }
            true
        });
        found.truncate(n);
        found
    }
}

fn groups_of(contact: &Contact) -> Vec<IpGroup> {
    let mut groups: Vec<_> = contact.addresses.iter().filter_map(group_of).collect();
    groups.sort_unstable();
    groups.dedup();
    groups.truncate(MAX_GROUPS);
    groups
}

/// Of peers in the order of their points, the places of the `n` nearest to a point, nearest first.
pub(super) fn nearest(peers: &[Point], to: &Point, n: usize) -> Vec<usize> {
    let (mut from, mut until) = (0, peers.len());
    // Those that share more bits with the point are nearer, whatever follows.
    for bit in 0..BITS {
        let Some(within) = peers.get(from..until) else { break };
        let split = from + within.partition_point(|peer| !is_set(peer, bit));
        let half = if is_set(to, bit) { (split, until) } else { (from, split) };
        if half.1 - half.0 < n {
            break;
        }
        (from, until) = half;
    }
    let within = peers.iter().enumerate().take(until).skip(from);
    let mut found: Vec<_> = within.map(|(i, peer)| (peer.distance(to), i)).collect();
    found.sort_unstable();
    found.truncate(n);
    found.into_iter().map(|(_, i)| i).collect()
}

fn is_set(point: &Point, bit: u32) -> bool {
    let byte = usize::try_from(bit / 8).ok().and_then(|at| point.bits().get(at));
    byte.is_some_and(|byte| byte & (0x80 >> (bit % 8)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::peer_id_of;
    use proptest::prelude::*;

    fn point(bytes: u64) -> Point {
        Point::of_bytes(&bytes.to_le_bytes())
    }

    proptest! {
        #[test]
        fn the_nearest_are_found_as_by_looking_at_all(
            mut points in proptest::collection::vec(any::<u64>(), 0..60), to: u64, k in 1usize..8,
        ) {
            points.sort_unstable();
            points.dedup();
            let mut points: Vec<_> = points.into_iter().map(point).collect();
            points.sort_unstable();
            let to = point(to);
            let mut truly: Vec<_> = (0..points.len()).collect();
            truly.sort_by_key(|i| points[*i].distance(&to));
            truly.truncate(k);
            prop_assert_eq!(nearest(&points, &to, k), truly);
        }
    }

    #[test]
    fn a_crowd_of_one_network_leaves_room_for_others() {
        let to = point(1);
        let mut peers: Vec<(Point, Contact)> = (0..40u8)
            .map(|n| {
                let peer = peer_id_of(&[n; 32]).unwrap();
                (Point::of_peer(&peer), Contact { peer, addresses: Vec::new() })
            })
            .collect();
        peers.sort_unstable_by_key(|(at, _)| at.distance(&to));
        for (i, (_, contact)) in peers.iter_mut().enumerate() {
            // The ten nearest are of one network, the others each of its own, the last of none.
            let ip = if i < 10 { format!("9.9.1.{i}") } else { format!("8.{i}.1.1") };
            if i < 39 {
                contact.addresses.push(format!("/ip4/{ip}/tcp/1").parse().unwrap());
            }
        }
        let near: Vec<_> = peers.iter().map(|(at, _)| *at).collect();
        peers.sort_unstable_by_key(|(at, _)| *at);
        let of = |max_group, n| {
            let candidates = Candidates::new(peers.iter().map(|(at, c)| (at, c)), max_group);
            let found = candidates.of(&to, n).into_iter().map(|i| candidates.points[i]);
            found.collect::<Vec<_>>()
        };
        assert_eq!(of(None, 20), near[..20]);
        let diverse: Vec<_> = near[..2].iter().chain(&near[10..28]).copied().collect();
        assert_eq!(of(Some(2), 20), diverse);
        assert_eq!(of(Some(2), 40).len(), 32);
    }
}
