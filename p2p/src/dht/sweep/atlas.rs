//! What lookups have shown of the space lately: the peers, and which parts are known wholly.
//!
//! A lookup for a target that ended gives the `k` peers nearest to it, so every peer nearer than the
//! last of them is known. With a prefix of `c` bits common to the target and that last peer, these
//! are all peers that share `c + 1` bits with the target. If it gave fewer than `k`, there are no
//! more in the whole network.

use super::prefix::{HEAD_BITS, Prefix, head};
use crate::{
    PeerId,
    dht::{
        network::Contact,
        space::{BITS, Point},
    },
};
use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

/// Most peers in the atlas: the explored ones of 50 regions, while five are visited at a time. With
/// four addresses of 65 bytes one takes 500 bytes, so 2 MB; were all addresses as long as can be,
/// 6 MB.
const MAX_PEERS: usize = 4096;

/// Most parts that are known, at 32 bytes each 32 KB.
const MAX_PARTS: usize = 1024;

/// The estimates whose median is the size of the network. One that liars spoil, by a crowd around
/// one key, is outvoted by those for other keys.
const SIZES: usize = 15;

/// Longest prefix of a region: at 20 bits the network has 42 million peers.
const MAX_DEPTH: u32 = 20;

/// Peers that one region holds at least, as a multiple of those a key is announced to. Of 40 peers
/// that are expected, there are fewer than 20 once in 6,000 times; then the region is widened.
const REGION_FACTOR: u64 = 2;

/// A known peer.
#[derive(Debug)]
struct Seen {
    contact: Contact,
    at: Instant,
}

/// What is known.
#[derive(Debug)]
pub(super) struct Atlas {
    /// How many peers a lookup gives.
    k: usize,
    remember: Duration,
    peers: BTreeMap<Point, Seen>,
    /// Wholly known parts, the one looked at longest ago first.
    parts: VecDeque<(Prefix, Instant)>,
    sizes: VecDeque<u64>,
}

impl Atlas {
    pub(super) fn new(k: usize, remember: Duration) -> Self {
        Self { k, remember, peers: BTreeMap::new(), parts: VecDeque::new(), sizes: VecDeque::new() }
    }

    /// A lookup for `target` has shown these peers. `complete` says that it ended by itself, so that
    /// they are the nearest.
    pub(super) fn learn(
        &mut self,
        target: &Point,
        found: Vec<Contact>,
        complete: bool,
        now: Instant,
    ) {
        let mut nearest: Vec<_> = found
            .into_iter()
            .map(|contact| {
                let at = Point::of_peer(&contact.peer);
                (at.distance(target), at, contact)
            })
            .collect();
        nearest.sort_unstable_by_key(|(distance, _, _)| *distance);
        nearest.dedup_by_key(|(_, at, _)| *at);
        nearest.truncate(self.k);
        if complete {
            self.learn_part(target, &nearest.iter().map(|(_, at, _)| *at).collect::<Vec<_>>(), now);
        }
        for (_, at, contact) in nearest {
            self.peers.insert(at, Seen { contact, at: now });
        }
        while self.peers.len() > MAX_PEERS
            && let Some((oldest, _)) = self.peers.iter().min_by_key(|(_, seen)| seen.at)
        {
            let oldest = *oldest;
            self.peers.remove(&oldest);
            self.parts.retain(|(part, _)| !part.contains(head(&oldest)));
        }
    }

    fn learn_part(&mut self, target: &Point, nearest: &[Point], now: Instant) {
        let (part, size) = match nearest.last() {
            None => return,
            Some(last) if nearest.len() >= self.k => {
                let common = last.common_prefix(target);
                if common >= BITS {
                    return;
                }
                (Prefix::of(head(target), common + 1), self.size_by(head(last) ^ head(target)))
            }
            Some(_) => (Prefix::ALL, u64::try_from(nearest.len()).unwrap_or(u64::MAX)),
        };
        self.parts.retain(|(known, _)| !part.overlaps(*known) || known.len() < part.len());
        self.parts.push_back((part, now));
        if self.parts.len() > MAX_PARTS {
            self.parts.pop_front();
        }
        self.sizes.push_back(size);
        if self.sizes.len() > SIZES {
            self.sizes.pop_front();
        }
    }

    /// How many peers there are if the `k`th nearest to a point is this far from it: `k - 1` of them
    /// are nearer, and points are spread evenly.
    fn size_by(&self, distance: u64) -> u64 {
        let nearer = u128::try_from(self.k.saturating_sub(1).max(1)).unwrap_or(1);
        let size = (nearer << HEAD_BITS) / u128::from(distance.max(1));
        u64::try_from(size).unwrap_or(u64::MAX)
    }

    /// Forgets what is too old to rely on.
    pub(super) fn expire(&mut self, now: Instant) {
        let remember = self.remember;
        let fresh = |at: Instant| now.saturating_duration_since(at) < remember;
        if self.parts.iter().any(|(_, at)| !fresh(*at)) {
            self.parts.retain(|(_, at)| fresh(*at));
        }
        // A part's peers were seen when the part was, or later.
        if self.peers.values().any(|seen| !fresh(seen.at)) {
            self.peers.retain(|_, seen| fresh(seen.at));
        }
    }

    /// A peer is not to be relied on now: it neither answers nor keeps what it is told. What it
    /// belongs to is to be looked at again, by then without it or with it.
    pub(super) fn forget(&mut self, peer: &PeerId) {
        let at = Point::of_peer(peer);
        if self.peers.remove(&at).is_some() {
            self.parts.retain(|(part, _)| !part.contains(head(&at)));
        }
    }

    /// How many peers there are in the network, once a lookup has shown it.
    pub(super) fn size(&self) -> Option<u64> {
        let mut sizes: Vec<u64> = self.sizes.iter().copied().collect();
        sizes.sort_unstable();
        sizes.get(sizes.len() / 2).copied()
    }

    /// How many bits a region's peers have in common.
    pub(super) fn depth(&self) -> Option<u32> {
        let region = u64::try_from(self.k).unwrap_or(u64::MAX).saturating_mul(REGION_FACTOR);
        let regions = self.size()? / region.max(1);
        Some(regions.checked_ilog2().unwrap_or(0).min(MAX_DEPTH))
    }

    /// The first block of a region that is not known wholly, as large as can be.
    pub(super) fn unknown(&self, region: Prefix) -> Option<Prefix> {
        let mut at = region.first();
        while let Some((known, _)) = self.parts.iter().find(|(part, _)| part.contains(at)) {
            at = known.last().checked_add(1).filter(|next| region.contains(*next))?;
        }
        (region.len()..=HEAD_BITS).map(|len| Prefix::of(at, len)).find(|block| {
            block.first() == at && !self.parts.iter().any(|(part, _)| part.overlaps(*block))
        })
    }

    /// Known peers in a block.
    pub(super) fn count(&self, block: Prefix) -> usize {
        self.peers.range(ends(block)).count()
    }

    /// Whether the `k` peers nearest to this place are known to be just those that are known.
    pub(super) fn settles(&self, place: u64) -> bool {
        let mut smallest = Prefix::ALL;
        while smallest.len() < HEAD_BITS {
            let half = Prefix::of(place, smallest.len() + 1);
            if self.count(half) < self.k {
                break;
            }
            smallest = half;
        }
        self.unknown(smallest).is_none()
    }

    /// The known peers in the order of their points.
    pub(super) fn peers(&self) -> impl Iterator<Item = (&Point, &Contact)> {
        self.peers.iter().map(|(at, seen)| (at, &seen.contact))
    }
}

/// The lowest and the highest point of a block.
fn ends(block: Prefix) -> std::ops::RangeInclusive<Point> {
    let point = |head: u64, rest: u8| {
        let mut bits = [rest; 32];
        for (to, from) in bits.iter_mut().zip(head.to_be_bytes()) {
            *to = from;
        }
        Point::from_bits(bits)
    };
    point(block.first(), 0)..=point(block.last(), u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::{super::allot::nearest, *};
    use crate::identity::peer_id_of;
    use proptest::prelude::*;

    const K: usize = 5;
    const REMEMBER: Duration = Duration::from_secs(60);

    fn peers(n: u32, seed: u64) -> Vec<PeerId> {
        let name = |i: u32| [&i.to_le_bytes()[..], &seed.to_le_bytes()].concat();
        (0..n).map(|i| peer_id_of(blake3::hash(&name(i)).as_bytes()).unwrap()).collect()
    }

    /// What a lookup in a network of these peers ends with.
    fn lookup(peers: &[PeerId], target: &Point, k: usize) -> Vec<Contact> {
        let mut sorted = peers.to_vec();
        sorted.sort_by_cached_key(|peer| Point::of_peer(peer).distance(target));
        let contact = |peer: &PeerId| Contact { peer: *peer, addresses: Vec::new() };
        sorted.iter().take(k).map(contact).collect()
    }

    fn point(bytes: u64) -> Point {
        Point::of_bytes(&bytes.to_le_bytes())
    }

    proptest! {
        /// What is called known is known: in such a block there is no peer that no lookup has shown,
        /// and for a place that is settled the nearest known peers are the nearest of all.
        #[test]
        fn nothing_is_missing_where_all_is_said_to_be_known(
            n in 0u32..80, seed: u64, targets in proptest::collection::vec(any::<u64>(), 0..20),
        ) {
            let (all, now) = (peers(n, seed), Instant::now());
            let mut atlas = Atlas::new(K, REMEMBER);
            for target in targets {
                let target = point(target);
                let found = lookup(&all, &target, K);
                let complete = !found.is_empty();
                atlas.learn(&target, found, complete, now);
            }
            let known: Vec<Point> = atlas.peers().map(|(at, _)| *at).collect();
            let missing = || all.iter().map(Point::of_peer).filter(|at| !known.contains(at));
            for (part, _) in &atlas.parts {
                prop_assert!(missing().all(|at| !part.contains(head(&at))));
            }
            match atlas.unknown(Prefix::ALL) {
                None => prop_assert_eq!(missing().count(), 0),
                Some(block) => {
                    prop_assert!(atlas.parts.iter().all(|(part, _)| !part.overlaps(block)));
                    let wider = atlas.parts.iter().any(|(part, _)| part.overlaps(block.parent()));
                    prop_assert!(wider || block == Prefix::ALL, "as large as can be");
                }
            }
            for place in 0..20 {
                let place = point(place);
                if atlas.settles(head(&place)) && n > 0 {
                    let near = nearest(&known, &place, K);
                    let near: Vec<_> = near.into_iter().map(|i| known[i]).collect();
                    let truly = lookup(&all, &place, K);
                    let truly: Vec<_> = truly.iter().map(|c| Point::of_peer(&c.peer)).collect();
                    prop_assert_eq!(near, truly);
                }
            }
        }
    }

    #[test]
    fn the_size_of_the_network_is_about_right_and_outlasts_a_few_liars() {
        let (all, now) = (peers(1000, 7), Instant::now());
        let mut atlas = Atlas::new(20, REMEMBER);
        assert_eq!((atlas.size(), atlas.depth()), (None, None));
        for target in 0..15 {
            let target = point(target);
            atlas.learn(&target, lookup(&all, &target, 20), true, now);
        }
        let size = atlas.size().unwrap();
        assert!((600..1600).contains(&size), "{size}");
        assert_eq!(atlas.depth(), Some(4), "16 regions of 62 peers");
        // Around some keys there seem to be five times as many.
        let crowd = peers(5_000, 8);
        for target in 20..25 {
            let target = point(target);
            atlas.learn(&target, lookup(&crowd, &target, 20), true, now);
        }
        assert_eq!(atlas.depth(), Some(4));
    }

    #[test]
    fn a_network_smaller_than_one_answer_is_known_by_one() {
        let (all, now) = (peers(4, 1), Instant::now());
        let mut atlas = Atlas::new(K, REMEMBER);
        atlas.learn(&point(1), lookup(&all, &point(1), K), true, now);
        assert_eq!((atlas.size(), atlas.depth()), (Some(4), Some(0)));
        assert_eq!(atlas.unknown(Prefix::ALL), None);
        assert!(atlas.settles(17));
        atlas.forget(&all[2]);
        assert_eq!(atlas.count(Prefix::ALL), 3);
        assert_eq!(atlas.unknown(Prefix::ALL), Some(Prefix::ALL), "it may be back by then");
        atlas.learn(&point(1), lookup(&all, &point(1), K), true, now);
        atlas.expire(now + REMEMBER);
        assert_eq!((atlas.unknown(Prefix::ALL), atlas.count(Prefix::ALL)), (Some(Prefix::ALL), 0));
        assert_eq!(atlas.size(), Some(4), "how large it was is a guess still");
    }

    #[test]
    fn a_lookup_that_was_cut_off_shows_peers_but_no_part() {
        let (all, now) = (peers(4, 1), Instant::now());
        let mut atlas = Atlas::new(K, REMEMBER);
        atlas.learn(&point(1), lookup(&all, &point(1), K), false, now);
        assert_eq!((atlas.count(Prefix::ALL), atlas.size()), (4, None));
        assert_eq!(atlas.unknown(Prefix::ALL), Some(Prefix::ALL));
    }

    #[test]
    fn the_atlas_is_bounded_and_what_leaves_is_not_said_to_be_known() {
        let start = Instant::now();
        let mut atlas = Atlas::new(K, Duration::from_secs(1_000_000));
        let first = peers(4, 1);
        atlas.learn(&point(0), lookup(&first, &point(0), K), true, start);
        assert_eq!(atlas.unknown(Prefix::ALL), None);
        for i in 1..1000 {
            let (target, now) = (point(i), start + Duration::from_secs(i));
            atlas.learn(&target, lookup(&peers(5, i + 1), &target, K), false, now);
        }
        assert_eq!(atlas.peers.len(), MAX_PEERS);
        assert_eq!(atlas.unknown(Prefix::ALL), Some(Prefix::ALL), "the first four were forgotten");
        let mut atlas = Atlas::new(1, REMEMBER);
        for i in 0..2000 {
            // Parts of some 60 bits, so that none covers another.
            let near = Contact { peer: peers(1, i)[0], addresses: Vec::new() };
            let mut bits = *Point::of_peer(&near.peer).bits();
            bits[7] ^= 1;
            atlas.learn(&Point::from_bits(bits), vec![near], true, start);
        }
        assert_eq!(atlas.parts.len(), MAX_PARTS);
    }
}
