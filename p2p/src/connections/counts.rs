//! How many connections there are, by every measure that something is limited by. Each question is
//! answered in O(1); entries leave with their last connection.

use super::Direction;
use crate::{
    PeerId,
    address::{IpGroup, Source},
};
use libp2p::swarm::ConnectionId;
use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    hash::Hash,
    net::IpAddr,
    time::Instant,
};

/// An established connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    pub(super) peer: PeerId,
    pub(super) direction: Direction,
    /// None over the in-process transport.
    pub(super) remote: Option<IpAddr>,
    pub(super) since: Instant,
}

/// The inbound connections of one source.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    pending: usize,
    open: usize,
}

/// Bounded by the limits on established and pending connections: about 300 bytes for each, with the
/// defaults 256 + 64 + 256 of them, 173 KB.
#[derive(Debug, Default)]
pub(super) struct Counts {
    open: HashMap<ConnectionId, Open>,
    inbound: usize,
    pending_inbound: HashMap<ConnectionId, Option<IpAddr>>,
    pending_outbound: HashSet<ConnectionId>,
    per_peer: HashMap<PeerId, usize>,
    per_source: HashMap<Source, Tally>,
    per_group: HashMap<IpGroup, usize>,
}

fn less_one<K: Eq + Hash>(map: &mut HashMap<K, usize>, key: K) {
    if let Entry::Occupied(mut entry) = map.entry(key) {
        *entry.get_mut() = entry.get().saturating_sub(1);
        if *entry.get() == 0 {
            entry.remove();
        }
    }
}

impl Counts {
    /// An inbound connection begins to shake hands.
    pub(super) fn arrives(&mut self, id: ConnectionId, remote: Option<IpAddr>) {
        if self.pending_inbound.contains_key(&id) {
            return;
        }
        self.pending_inbound.insert(id, remote);
        if let Some(ip) = remote {
            self.per_source.entry(Source::of(ip)).or_default().pending += 1;
            *self.per_group.entry(IpGroup::of(ip)).or_default() += 1;
        }
    }

    /// This node begins to open a connection.
    pub(super) fn dials(&mut self, id: ConnectionId) {
        self.pending_outbound.insert(id);
    }

    /// A pending connection is pending no more.
    pub(super) fn settled(&mut self, id: ConnectionId) {
        self.pending_outbound.remove(&id);
        if let Some(Some(ip)) = self.pending_inbound.remove(&id) {
            self.of_source(ip, |tally| tally.pending = tally.pending.saturating_sub(1));
            less_one(&mut self.per_group, IpGroup::of(ip));
        }
    }

    fn of_source(&mut self, ip: IpAddr, change: impl FnOnce(&mut Tally)) {
        if let Entry::Occupied(mut entry) = self.per_source.entry(Source::of(ip)) {
            change(entry.get_mut());
            if entry.get().pending == 0 && entry.get().open == 0 {
                entry.remove();
            }
        }
    }

    pub(super) fn opened(&mut self, id: ConnectionId, open: Open) {
        self.settled(id);
        if self.open.contains_key(&id) {
            return;
        }
        self.open.insert(id, open);
        *self.per_peer.entry(open.peer).or_default() += 1;
        if open.direction == Direction::Inbound {
            self.inbound += 1;
            if let Some(ip) = open.remote {
                self.per_source.entry(Source::of(ip)).or_default().open += 1;
                *self.per_group.entry(IpGroup::of(ip)).or_default() += 1;
            }
        }
    }

    pub(super) fn closed(&mut self, id: ConnectionId) {
        let Some(open) = self.open.remove(&id) else { return };
        less_one(&mut self.per_peer, open.peer);
        if open.direction == Direction::Inbound {
            self.inbound = self.inbound.saturating_sub(1);
            if let Some(ip) = open.remote {
                self.of_source(ip, |tally| tally.open = tally.open.saturating_sub(1));
                less_one(&mut self.per_group, IpGroup::of(ip));
            }
        }
    }

    /// Established connections.
    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    /// Established connections that others opened.
    pub(super) fn inbound(&self) -> usize {
        self.inbound
    }

    pub(super) fn pending_inbound(&self) -> usize {
        self.pending_inbound.len()
    }

    pub(super) fn pending_outbound(&self) -> usize {
        self.pending_outbound.len()
    }

    /// Connected peers.
    pub(super) fn peers(&self) -> usize {
        self.per_peer.len()
    }

    /// Established connections to a peer.
    pub(super) fn of_peer(&self, peer: &PeerId) -> usize {
        self.per_peer.get(peer).copied().unwrap_or_default()
    }

    /// Who is at the other end of an established connection.
    pub(super) fn peer_of(&self, id: ConnectionId) -> Option<PeerId> {
        self.open.get(&id).map(|open| open.peer)
    }

    /// Inbound connections of a source: those that shake hands, and all.
    pub(super) fn of_ip(&self, ip: IpAddr) -> (usize, usize) {
        let tally = self.per_source.get(&Source::of(ip)).copied().unwrap_or_default();
        (tally.pending, tally.pending + tally.open)
    }

    /// Inbound connections of an IP group, those that shake hands included.
    pub(super) fn of_group(&self, ip: IpAddr) -> usize {
        self.per_group.get(&IpGroup::of(ip)).copied().unwrap_or_default()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ConnectionId, &Open)> {
        self.open.iter().map(|(id, open)| (*id, open))
    }

    /// Whether nothing at all is held.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
            && self.inbound == 0
            && self.pending_inbound.is_empty()
            && self.pending_outbound.is_empty()
            && self.per_peer.is_empty()
            && self.per_source.is_empty()
            && self.per_group.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::peer_id_of;
    use proptest::prelude::*;

    proptest! {
        /// In whatever order connections come, open, fail and close, the sums are those of what is
        /// there, and nothing is left at the end.
        #[test]
        fn the_sums_are_those_of_what_is_there(
            steps in prop::collection::vec((0usize..30, 0u8..4, 0u8..4, any::<bool>()), 0..300),
        ) {
            let now = Instant::now();
            let mut counts = Counts::default();
            let id = ConnectionId::new_unchecked;
            for (n, what, peer, inbound) in steps {
                let remote = (n % 5 != 0).then(|| IpAddr::from([9, peer, peer, 1]));
                match what {
                    0 if inbound => counts.arrives(id(n), remote),
                    0 => counts.dials(id(n)),
                    1 => counts.settled(id(n)),
                    2 => counts.opened(id(n), Open {
                        peer: peer_id_of(&[peer; 32]).unwrap(),
                        direction: if inbound { Direction::Inbound } else { Direction::Outbound },
                        remote,
                        since: now,
                    }),
                    _ => counts.closed(id(n)),
                }
                let inbound = counts.open.values().filter(|o| o.direction == Direction::Inbound);
                prop_assert_eq!(counts.inbound(), inbound.clone().count());
                prop_assert_eq!(counts.per_peer.values().sum::<usize>(), counts.open());
                let addressed = inbound.filter(|o| o.remote.is_some()).count();
                let arriving = counts.pending_inbound.values().flatten().count();
                let of_sources: usize = counts.per_source.values().map(|t| t.open + t.pending).sum();
                prop_assert_eq!(of_sources, addressed + arriving);
                prop_assert_eq!(counts.per_group.values().sum::<usize>(), addressed + arriving);
            }
            for n in 0..30 {
                counts.settled(id(n));
                counts.closed(id(n));
            }
            prop_assert!(counts.is_empty());
        }
    }
}
