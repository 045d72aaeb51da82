//! Who may be in this node's meshes.
//!
//! gossipsub asks nobody before it takes a peer into a mesh, but takes none whose score is below
//! zero and drops those that fall below. So a peer that is not admitted gets a slightly negative
//! application score: it is in no mesh, and still gets our gossip, our messages and an ear.
//!
//! What is limited is the mesh as it is, not who might be in it. A peer is turned away only where
//! those like it *hold* all the places they may; then it knocks elsewhere. (To choose some of the
//! peers beforehand would need the other side to choose us as well: with many unbound peers hardly
//! any two would choose each other, and the meshes would be empty.)

use super::Topic;
use crate::{
    PeerId,
    address::{IpGroup, Source},
};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};

/// Why a peer is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NotAdmitted {
    /// Unbound peers hold all places that they may.
    Unbound,
    /// Peers of its network hold all places that they may.
    IpGroup,
    /// It is unbound and comes from an address that others misbehaved from.
    Source,
}

impl NotAdmitted {
    /// All reasons.
    pub const ALL: [Self; 3] = [Self::Unbound, Self::IpGroup, Self::Source];

    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unbound => "unbound",
            Self::IpGroup => "ip_group",
            Self::Source => "source",
        }
    }
}

/// A set of topics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Topics(u8);

impl Topics {
    fn bit(topic: Topic) -> u8 {
        match topic {
            Topic::Recipes => 1,
            Topic::Video => 2,
            Topic::Bft => 4,
            Topic::Attestations => 8,
            Topic::Challenges => 16,
            Topic::Tasks => 32,
        }
    }

    pub(crate) fn add(&mut self, topic: Topic) {
        self.0 |= Self::bit(topic);
    }

    pub(crate) fn remove(&mut self, topic: Topic) {
        self.0 &= !Self::bit(topic);
    }

    pub(crate) fn contains(self, topic: Topic) -> bool {
        self.0 & Self::bit(topic) != 0
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Topic> {
        Topic::ALL.into_iter().filter(move |topic| self.contains(*topic))
    }

    fn len(self) -> usize {
        self.iter().count()
    }
}

/// A connected peer that is not otherwise kept out of the meshes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) peer: PeerId,
    pub(crate) bound: bool,
    /// Where it connects from; nothing over the in-process transport.
    pub(crate) group: Option<IpGroup>,
    /// Whether others misbehaved from there lately.
    pub(crate) bad_source: bool,
    /// What it listens to.
    pub(crate) subscribed: Topics,
    /// In which of this node's meshes it is.
    pub(crate) meshes: Topics,
}

/// What is limited.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Peers wanted in a mesh; as many bound ones are enough to turn unbound ones away.
    pub(crate) mesh: usize,
    /// Fewest peers in a mesh: admission leaves as many to choose from, if there are.
    pub(crate) mesh_low: usize,
    /// Places in all meshes together that unbound peers may hold while there are enough bound
    /// ones; none is limited if this node is unbound itself, for then its like are its network.
    pub(crate) unbound_places: Option<usize>,
    /// Peers of one group that may be in a mesh.
    pub(crate) per_group: Option<usize>,
}

/// Who is not admitted, of the candidates in the order of their arrival: those who came first keep
/// their places, so that whoever comes with many keys does not push the others out.
pub(crate) fn refused(candidates: &[Candidate], rules: Rules) -> BTreeMap<PeerId, NotAdmitted> {
    let bound = candidates.iter().filter(|c| c.bound).count();
    let unbound_places = rules.unbound_places.filter(|_| bound >= rules.mesh);
    let mut unbound_held = 0;
    let mut group_held: HashMap<IpGroup, usize> = HashMap::new();
    let mut refused = BTreeMap::new();
    // Members first: only when all of them are counted is it known whether others may come in.
    for members in [true, false] {
        for c in candidates.iter().filter(|c| (c.meshes.len() > 0) == members) {
            let full = |held: usize, asked: usize, places: usize| match members {
                true => held + asked > places,
                false => held >= places,
            };
            let places = c.meshes.len();
            let in_group = c.group.map_or(0, |g| group_held.get(&g).copied().unwrap_or_default());
            let reason = if c.bad_source && !c.bound {
                Some(NotAdmitted::Source)
            } else if !c.bound && unbound_places.is_some_and(|n| full(unbound_held, places, n)) {
                Some(NotAdmitted::Unbound)
            } else if c.group.is_some() && rules.per_group.is_some_and(|n| full(in_group, 1, n)) {
                Some(NotAdmitted::IpGroup)
            } else {
                None
            };
            if let Some(reason) = reason {
                refused.insert(c.peer, reason);
            } else if members {
                unbound_held += if c.bound { 0 } else { places };
                if let Some(group) = c.group {
                    *group_held.entry(group).or_default() += 1;
                }
            }
        }
    }
    for topic in Topic::ALL {
        admit_enough(candidates, topic, rules.mesh_low, &mut refused);
    }
    refused
}

/// Takes refusals back until a topic has enough peers to make a mesh of, members first.
fn admit_enough(
    candidates: &[Candidate],
    topic: Topic,
    enough: usize,
    refused: &mut BTreeMap<PeerId, NotAdmitted>,
) {
    let listens = |c: &&Candidate| c.subscribed.contains(topic) || c.meshes.contains(topic);
    let admitted =
        candidates.iter().filter(listens).filter(|c| !refused.contains_key(&c.peer)).count();
    let mut missing = enough.saturating_sub(admitted);
    for members in [true, false] {
        let group =
            candidates.iter().filter(listens).filter(|c| c.meshes.contains(topic) == members);
        for c in group {
            if missing == 0 {
                return;
            }
            if refused.remove(&c.peer).is_some() {
                missing -= 1;
            }
        }
    }
}

/// The network and the source that a peer connects from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) source: Source,
    pub(crate) group: IpGroup,
}

impl Origin {
    pub(crate) fn of(ip: std::net::IpAddr) -> Self {
        Self { source: Source::of(ip), group: IpGroup::of(ip) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::peer_id_of;
    use proptest::prelude::*;

    const RULES: Rules =
        Rules { mesh: 6, mesh_low: 4, unbound_places: Some(12), per_group: Some(2) };

    fn topics(bits: u8) -> Topics {
        Topics(bits & 63)
    }

    fn candidate(n: u8, bound: bool, meshes: u8) -> Candidate {
        Candidate {
            peer: peer_id_of(&[n; 32]).unwrap(),
            bound,
            group: None,
            bad_source: false,
            subscribed: topics(63),
            meshes: topics(meshes),
        }
    }

    fn from(n: u8, group: u8, meshes: u8) -> Candidate {
        let group = Some(IpGroup::of([group, 0, 0, n].into()));
        Candidate { group, ..candidate(n, true, meshes) }
    }

    #[test]
    fn without_enough_bound_peers_nobody_is_turned_away() {
        let all: Vec<_> = (0..50).map(|n| candidate(n, n < 5, 63)).collect();
        assert!(refused(&all, RULES).is_empty());
    }

    #[test]
    fn unbound_peers_hold_their_share_of_places_and_no_more() {
        // Six bound peers, ten unbound ones in all six meshes each: twelve places are two of them.
        let all: Vec<_> = (0..16).map(|n| candidate(n, n < 6, 63)).collect();
        let out = refused(&all, RULES);
        assert_eq!(out.len(), 8);
        assert!(!out.contains_key(&all[6].peer) && !out.contains_key(&all[7].peer), "first come");
        // One place is left: others may still knock.
        let mut fewer: Vec<_> = (0..8).map(|n| candidate(n, n < 6, 63)).collect();
        fewer[7].meshes = topics(31);
        fewer.push(candidate(20, false, 0));
        assert!(refused(&fewer, RULES).is_empty());
        fewer[7].meshes = topics(63);
        assert_eq!(
            refused(&fewer, RULES).into_values().collect::<Vec<_>>(),
            [NotAdmitted::Unbound]
        );
    }

    #[test]
    fn an_unbound_node_turns_no_unbound_peer_away() {
        let all: Vec<_> = (0..30).map(|n| candidate(n, n < 6, 63)).collect();
        assert!(refused(&all, Rules { unbound_places: None, ..RULES }).is_empty());
    }

    #[test]
    fn of_one_network_only_so_many_are_in_the_mesh() {
        let mut all: Vec<_> = (0..4).map(|n| from(n, 1, 1)).collect();
        all.extend((10..16).map(|n| from(n, n, 1)));
        all.push(from(20, 1, 0));
        all.push(from(21, 30, 0));
        let out = refused(&all, RULES);
        let wanted: BTreeMap<_, _> =
            [2, 3, 10].map(|at| (all[at].peer, NotAdmitted::IpGroup)).into();
        assert_eq!(out, wanted, "two stay, the others of the group stay out");
        assert!(refused(&all, Rules { per_group: None, ..RULES }).is_empty());
    }

    #[test]
    fn a_new_key_from_a_bad_address_stays_out_and_a_bound_one_does_not() {
        let mut all: Vec<_> = (0..8).map(|n| candidate(n, true, 63)).collect();
        for bound in [false, true] {
            let n = if bound { 30 } else { 31 };
            all.push(Candidate { bad_source: true, ..candidate(n, bound, 0) });
        }
        let out = refused(&all, RULES);
        assert_eq!(out.into_iter().collect::<Vec<_>>(), [(all[8].peer, NotAdmitted::Source)]);
    }

    fn any_candidates() -> impl Strategy<Value = Vec<Candidate>> {
        let one = (any::<bool>(), 0u8..4, any::<bool>(), 0u8..64, 0u8..64);
        prop::collection::vec(one, 0..60).prop_map(|all| {
            let with = |(n, (bound, group, bad_source, subscribed, meshes)): (usize, _)| {
                let n = u8::try_from(n).unwrap();
                let group = (group > 0).then(|| IpGroup::of([group, 0, 0, n].into()));
                let subscribed = topics(subscribed | meshes);
                Candidate { group, bad_source, subscribed, ..candidate(n, bound, meshes) }
            };
            all.into_iter().enumerate().map(with).collect()
        })
    }

    proptest! {
        #[test]
        fn every_topic_keeps_enough_peers_to_make_a_mesh_of(all in any_candidates()) {
            let out = refused(&all, RULES);
            for topic in Topic::ALL {
                let listeners = all.iter().filter(|c| c.subscribed.contains(topic));
                let left = listeners.clone().filter(|c| !out.contains_key(&c.peer)).count();
                prop_assert!(left >= listeners.count().min(RULES.mesh_low));
            }
        }

        #[test]
        fn who_is_bound_and_alone_in_its_network_is_always_admitted(all in any_candidates()) {
            let out = refused(&all, RULES);
            for c in all.iter().filter(|c| c.bound && c.group.is_none()) {
                prop_assert!(!out.contains_key(&c.peer));
            }
        }
    }
}
