//! The contacts a lookup knows of, in the order of their distance, and which of them count.

use super::{MAX_PATHS, kept};
use crate::{
    PeerId,
    address::IpGroup,
    dht::{
        admission::group_of,
        network::{Contact, Dropped},
        space::{Distance, Point},
    },
};
use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

/// Contacts not asked yet that a path keeps for each peer that is wanted near: 60 with the usual 20.
/// One answer names at most 20, so that it takes several liars one after the other on a path to push
/// out what was known before.
const KNOWN_EACH: usize = 3;

/// Peers that a network may have named in vain before its word is doubted, and as many again for each
/// that it named and that answered. Where a quarter of all peers has gone, one that names 20 names
/// five of these, and 15 that answer.
pub(super) const IN_VAIN: usize = 4;
const IN_VAIN_EACH: usize = 2;

/// Who named a contact: the network of the peer that did, where networks are told apart, or nobody but
/// this node's own routing table.
pub(super) type Voice = Option<Option<IpGroup>>;

/// How far a contact has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Known,
    Asked { late_at: Instant },
    Answered,
    Failed,
}

/// A contact.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) peer: PeerId,
    contact: Contact,
    pub(super) path: usize,
    by: Voice,
    /// Peers that were asked one after the other to hear of it.
    pub(super) hops: u32,
    pub(super) state: State,
    /// The networks it is said to be in, or the one it was reached in. All that is in no network
    /// known (a DNS name, a peer without an address) is one.
    groups: Vec<Option<IpGroup>>,
}

impl Candidate {
    pub(super) fn contact(&self) -> Contact {
        self.contact.clone()
    }

    /// It answered from this network; what others said of it no longer counts.
    pub(super) fn reached_in(&mut self, group: Option<IpGroup>) {
        if group.is_some() && !self.groups.is_empty() {
            self.groups = vec![group];
        }
    }

    /// The network that it speaks for: the one it was reached in, or said to be in.
    pub(super) fn network(&self) -> Option<IpGroup> {
        self.groups.first().copied().flatten()
    }

    fn is_late(&self, now: Instant) -> bool {
        matches!(self.state, State::Asked { late_at } if late_at <= now)
    }
}

/// What is to be done about the nearest contacts.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// The nearest contact of each path that is to be asked.
    pub(super) next: [Option<(usize, Distance)>; MAX_PATHS],
    /// Whether one of the nearest is being asked and is not late.
    pub(super) waits: bool,
    /// How many of the nearest have answered.
    pub(super) answered: usize,
}

/// All contacts of a lookup.
#[derive(Debug)]
pub(super) struct Candidates {
    local: PeerId,
    target: Point,
    width: usize,
    /// How many of a path's own nearest must have answered.
    path_width: usize,
    paths: usize,
    max_group: Option<usize>,
    by_distance: BTreeMap<Distance, Candidate>,
    by_peer: HashMap<PeerId, Distance>,
    /// How many of each path are known and not asked, at most [`KNOWN_EACH`] times the width.
    known: [usize; MAX_PATHS],
}

impl Candidates {
    pub(super) fn new(
        local: PeerId,
        target: Point,
        width: usize,
        paths: usize,
        max_group: Option<usize>,
    ) -> Self {
        Self {
            local,
            target,
            width,
            path_width: width.div_ceil(paths),
            paths,
            max_group,
            by_distance: BTreeMap::new(),
            by_peer: HashMap::new(),
            known: [0; MAX_PATHS],
        }
    }

    /// A contact was heard of on a path.
    pub(super) fn hear(
        &mut self,
        contact: Contact,
        path: usize,
        by: Voice,
        hops: u32,
    ) -> Result<(), Dropped> {
        if contact.peer == self.local {
            return Err(Dropped::Local);
        }
        let groups = self.groups_of(&contact);
        if let Some(distance) = self.by_peer.get(&contact.peer) {
            let distance = *distance;
            self.hear_again(&distance, contact, groups);
            return Ok(());
        }
        let distance = Point::of_peer(&contact.peer).distance(&self.target);
        let by = by.filter(|_| self.max_group.is_some());
        self.make_room(&distance, path, by, &groups)?;
        if let Some(known) = self.known.get_mut(path) {
            *known += 1;
        }
        self.by_peer.insert(contact.peer, distance);
        let peer = contact.peer;
        let contact = Contact { peer, addresses: kept(contact.addresses) };
        let state = State::Known;
        let candidate = Candidate { peer, contact, path, by, hops, state, groups };
        self.by_distance.insert(distance, candidate);
        Ok(())
    }

    /// Another peer says where a contact is: as true as what the first one said.
    fn hear_again(&mut self, distance: &Distance, told: Contact, groups: Vec<Option<IpGroup>>) {
        let Some(candidate) = self.by_distance.get_mut(distance) else { return };
        if candidate.state != State::Known {
            return;
        }
        let mut addresses = std::mem::take(&mut candidate.contact.addresses);
        for address in told.addresses {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        candidate.contact.addresses = kept(addresses);
        for group in groups {
            if !candidate.groups.contains(&group) {
                candidate.groups.push(group);
            }
        }
        // As many as there can be addresses.
        candidate.groups.truncate(MAX_GROUPS);
    }

    fn groups_of(&self, contact: &Contact) -> Vec<Option<IpGroup>> {
        if self.max_group.is_none() {
            return Vec::new();
        }
        let mut groups = Vec::new();
        for group in contact.addresses.iter().take(MAX_GROUPS).map(group_of) {
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        if groups.is_empty() {
            groups.push(None);
        }
        groups
    }

    /// Makes room in a path that is full: whoever named most of what is known there gives the farthest
    /// of it away. Tells if that is the newcomer itself. A network has room for twice as many as count
    /// of it, so that it cannot push out all others.
    fn make_room(
        &mut self,
        distance: &Distance,
        path: usize,
        by: Voice,
        groups: &[Option<IpGroup>],
    ) -> Result<(), Dropped> {
        let full = self.known.get(path).is_none_or(|known| *known >= self.width * KNOWN_EACH);
        let last_of_network = self.max_group.and_then(|max| {
            let same = self
                .by_distance
                .iter()
                .filter(|(_, c)| c.path == path && c.state == State::Known && c.groups == groups);
            same.map(|(distance, _)| *distance).nth((2 * max).saturating_sub(1))
        });
        let farthest = match last_of_network {
            None if full => {
                let most = self.named_most(path, by);
                let mut from_far = self.by_distance.iter().rev();
                let known = |c: &Candidate| c.path == path && c.state == State::Known;
                let last = from_far.find(|(_, c)| known(c) && c.by == most);
                let last = *last.ok_or(Dropped::Far)?.0;
                if most != by {
                    self.remove(&last, path);
                    return Ok(());
                }
                Some(last)
            }
            last => last,
        };
        let Some(farthest) = farthest else { return Ok(()) };
        if farthest < *distance {
            return Err(Dropped::Far);
        }
        self.remove(&farthest, path);
        Ok(())
    }

    /// Who named most of the contacts that are known on a path, with one more by `newcomer`.
    fn named_most(&self, path: usize, newcomer: Voice) -> Voice {
        let mut counts: Vec<(Voice, usize)> = vec![(newcomer, 1)];
        for candidate in self.by_distance.values() {
            if candidate.path != path || candidate.state != State::Known {
                continue;
            }
            match counts.iter_mut().find(|(by, _)| *by == candidate.by) {
                Some((_, count)) => *count += 1,
                None => counts.push((candidate.by, 1)),
            }
        }
        // The newcomer's, if it is one of those.
        let most = counts.iter().map(|(_, count)| *count).max();
        counts.iter().find(|(_, count)| Some(*count) == most).map_or(newcomer, |(by, _)| *by)
    }

    fn remove(&mut self, distance: &Distance, path: usize) {
        if let Some(leaves) = self.by_distance.remove(distance) {
            self.by_peer.remove(&leaves.peer);
            self.no_longer_known(path);
        }
    }

    /// One of a path was asked, or left.
    pub(super) fn no_longer_known(&mut self, path: usize) {
        if let Some(known) = self.known.get_mut(path) {
            *known = known.saturating_sub(1);
        }
    }

    pub(super) fn get_mut(&mut self, distance: &Distance) -> Option<&mut Candidate> {
        self.by_distance.get_mut(distance)
    }

    /// Whether a peer was asked and has answered or failed.
    pub(super) fn is_settled(&self, peer: &PeerId) -> bool {
        let candidate = self.by_peer.get(peer).and_then(|at| self.by_distance.get(at));
        candidate.is_some_and(|c| matches!(c.state, State::Answered | State::Failed))
    }

    pub(super) fn of_peer_mut(&mut self, peer: &PeerId) -> Option<&mut Candidate> {
        self.by_distance.get_mut(self.by_peer.get(peer)?)
    }

    /// Looks at the nearest of all and the nearest of each path, without those that failed, are late,
    /// or are too many of one network. Whom a network named that has named too many in vain is passed
    /// over as long as there are others.
    pub(super) fn survey(&self, now: Instant) -> Survey {
        let doubted = self.doubted(now);
        let survey = self.look(now, &doubted);
        let nothing_else = survey.next.iter().all(Option::is_none) && !survey.waits;
        if !doubted.is_empty() && nothing_else && survey.answered < self.width {
            return self.look(now, &[]);
        }
        survey
    }

    /// The networks whose word is doubted.
    fn doubted(&self, now: Instant) -> Vec<Option<IpGroup>> {
        let mut heard: Vec<(Option<IpGroup>, usize, usize)> = Vec::new();
        if self.max_group.is_none() {
            return Vec::new();
        }
        for candidate in self.by_distance.values() {
            let Some(by) = candidate.by else { continue };
            let vain = candidate.state == State::Failed || candidate.is_late(now);
            let answered = candidate.state == State::Answered;
            if !vain && !answered {
                continue;
            }
            match heard.iter_mut().find(|(network, ..)| *network == by) {
                Some((_, in_vain, well)) => {
                    *in_vain += usize::from(vain);
                    *well += usize::from(answered);
                }
                None => heard.push((by, usize::from(vain), usize::from(answered))),
            }
        }
        heard.retain(|(_, in_vain, well)| *in_vain >= IN_VAIN + IN_VAIN_EACH * well);
        heard.into_iter().map(|(network, ..)| network).collect()
    }

    fn look(&self, now: Instant, doubted: &[Option<IpGroup>]) -> Survey {
        let mut survey = Survey::default();
        let mut networks = Networks::new(self.max_group);
        let mut placed = 0;
        let mut of_path = [0_usize; MAX_PATHS];
        let mut short = self.paths;
        for (distance, candidate) in &self.by_distance {
            if placed >= self.width && short == 0 {
                break;
            }
            if candidate.state == State::Failed || candidate.is_late(now) {
                continue;
            }
            let in_doubt = candidate.by.is_some_and(|by| doubted.contains(&by));
            if in_doubt && candidate.state == State::Known {
                continue;
            }
            let Some(in_path) = of_path.get_mut(candidate.path) else { continue };
            if placed >= self.width && *in_path >= self.path_width {
                continue;
            }
            if !networks.admit(&candidate.groups) {
                continue;
            }
            placed += 1;
            *in_path += 1;
            if *in_path == self.path_width {
                short = short.saturating_sub(1);
            }
            match candidate.state {
                State::Known => {
                    if let Some(next) = survey.next.get_mut(candidate.path) {
                        next.get_or_insert((candidate.path, *distance));
                    }
                }
                State::Asked { .. } => survey.waits = true,
                State::Answered => survey.answered += 1,
                State::Failed => {}
            }
        }
        survey
    }

    /// The nearest that answered, with the depth at which each was heard of.
    pub(super) fn closest(&self) -> Vec<(Contact, u32)> {
        let mut networks = Networks::new(self.max_group);
        let answered = self.by_distance.values().filter(|c| c.state == State::Answered);
        let counted = answered.filter(|c| networks.admit(&c.groups));
        counted.take(self.width).map(|c| (c.contact(), c.hops)).collect()
    }

    /// Contacts held.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_distance.len()
    }
}

/// Networks remembered of one contact.
const MAX_GROUPS: usize = 4;

/// How many peers of each network were counted. Of at most width times paths peers.
struct Networks {
    max: Option<usize>,
    counts: Vec<(Option<IpGroup>, usize)>,
}

impl Networks {
    fn new(max: Option<usize>) -> Self {
        Self { max, counts: Vec::new() }
    }

    /// Counts a peer in the first of its networks that has room; whether there was one.
    fn admit(&mut self, groups: &[Option<IpGroup>]) -> bool {
        let Some(max) = self.max else { return true };
        for group in groups {
            match self.counts.iter_mut().find(|(counted, _)| counted == group) {
                Some((_, count)) if *count >= max => {}
                Some((_, count)) => {
                    *count += 1;
                    return true;
                }
                None => {
                    self.counts.push((*group, 1));
                    return true;
                }
            }
        }
        false
    }
}
