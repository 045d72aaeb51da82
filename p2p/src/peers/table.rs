//! What is known of each connected peer.

use crate::{Multiaddr, PeerId};
use libp2p::swarm::ConnectionId;
use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Longest agent version that is kept, in characters.
const MAX_AGENT: usize = 64;

/// Most addresses kept of a peer's own account of itself.
const MAX_ADDRESSES: usize = 16;

/// Who opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Inbound,
    Outbound,
}

impl Direction {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

#[derive(Debug)]
struct Connection {
    id: ConnectionId,
    direction: Direction,
    since: Instant,
    /// Where it comes from or goes to; none over the in-process transport.
    remote: Option<IpAddr>,
}

/// One connected peer: at most 64 characters and 16 addresses, under 6 KiB.
#[derive(Debug, Default)]
pub(crate) struct Peer {
    /// In the order they were opened; never empty in the table.
    connections: Vec<Connection>,
    /// The address by which this node reached it last.
    pub(crate) dialled: Option<Multiaddr>,
    pub(crate) agent: Option<String>,
    pub(crate) addresses: Vec<Multiaddr>,
    pub(crate) ping: Option<Duration>,
}

impl Peer {
    /// Who opened the oldest connection, and when.
    pub(crate) fn oldest(&self) -> Option<(Direction, Instant)> {
        self.connections.first().map(|c| (c.direction, c.since))
    }

    /// The IP address at the other end of the oldest connection.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        self.connections.first().and_then(|c| c.remote)
    }
}

/// All connected peers, bounded by the connection limit.
/// What is new in what a peer says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// It had said who it is before, on these connections.
    pub(crate) again: bool,
    /// It is no longer everywhere where it said before that it was.
    pub(crate) moved: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    peers: HashMap<PeerId, Peer>,
    connections: usize,
}

impl Table {
    pub(crate) fn opened(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        direction: Direction,
        remote: Option<IpAddr>,
        now: Instant,
    ) {
        self.connections += 1;
        let connections = &mut self.peers.entry(peer).or_default().connections;
        connections.push(Connection { id, direction, since: now, remote });
    }

    /// How long the connection lasted, and whether the peer is gone with it.
    pub(crate) fn closed(
        &mut self,
        peer: &PeerId,
        id: ConnectionId,
        now: Instant,
    ) -> Option<(Duration, bool)> {
        let entry = self.peers.get_mut(peer)?;
        let at = entry.connections.iter().position(|c| c.id == id)?;
        let connection = entry.connections.remove(at);
        self.connections -= 1;
        let gone = entry.connections.is_empty();
        if gone {
            self.peers.remove(peer);
        }
        Some((now.saturating_duration_since(connection.since), gone))
    }

    /// A peer says who it is, and where.
    pub(crate) fn identified(
        &mut self,
        peer: &PeerId,
        agent: &str,
        addresses: &[Multiaddr],
    ) -> Told {
        let Some(entry) = self.peers.get_mut(peer) else { return Told::default() };
        // It will be printed on terminals.
        let printable = agent.chars().filter(|c| !c.is_control());
        let addresses: Vec<_> = addresses.iter().take(MAX_ADDRESSES).cloned().collect();
        let moved = entry.addresses.iter().any(|before| !addresses.contains(before));
        entry.addresses = addresses;
        let again = entry.agent.replace(printable.take(MAX_AGENT).collect()).is_some();
        Told { again, moved }
    }

    /// This node reached the peer by an address.
    pub(crate) fn dialled(&mut self, peer: &PeerId, addr: &Multiaddr) {
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.dialled = Some(addr.clone());
        }
    }

    pub(crate) fn get(&self, peer: &PeerId) -> Option<&Peer> {
        self.peers.get(peer)
    }

    pub(crate) fn pinged(&mut self, peer: &PeerId, rtt: Duration) {
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.ping = Some(rtt);
        }
    }

    pub(crate) fn contains(&self, peer: &PeerId) -> bool {
        self.peers.contains_key(peer)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&PeerId, &Peer)> {
        self.peers.iter()
    }

    /// Connected peers.
    pub(crate) fn len(&self) -> usize {
        self.peers.len()
    }

    /// Connections to all of them.
    pub(crate) fn connections(&self) -> usize {
        self.connections
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::peer_id_of;

    #[test]
    fn a_peer_stays_until_its_last_connection_closes() {
        let now = Instant::now();
        let peer = peer_id_of(&[1; 32]).unwrap();
        let id = ConnectionId::new_unchecked;
        let mut table = Table::default();
        table.opened(peer, id(1), Direction::Inbound, Some([8; 4].into()), now);
        table.opened(peer, id(2), Direction::Outbound, None, now);
        let (agent, at) = (format!("a\x1b[31m{}", "b".repeat(100)), |port: u16| -> Multiaddr {
            format!("/ip4/8.8.8.8/tcp/{port}").parse().unwrap()
        });
        let told = |again, moved| Told { again, moved };
        assert_eq!(table.identified(&peer, &agent, &[]), told(false, false));
        assert_eq!(table.identified(&peer, &agent, &[at(1)]), told(true, false));
        assert_eq!(table.identified(&peer, &agent, &[at(1), at(2)]), told(true, false));
        assert_eq!(table.identified(&peer, &agent, &[at(2)]), told(true, true));
        let entry = table.peers.get(&peer).unwrap();
        assert_eq!(entry.oldest(), Some((Direction::Inbound, now)));
        assert_eq!(entry.ip(), Some([8; 4].into()));
        assert_eq!(entry.agent.as_ref().unwrap().chars().count(), MAX_AGENT);
        assert!(!entry.agent.as_ref().unwrap().contains('\x1b'));
        let later = now + Duration::from_secs(3);
        assert_eq!(table.closed(&peer, id(1), later), Some((Duration::from_secs(3), false)));
        assert_eq!(table.closed(&peer, id(1), later), None);
        assert_eq!((table.len(), table.connections()), (1, 1));
        assert_eq!(table.closed(&peer, id(2), later), Some((Duration::from_secs(3), true)));
        assert!(!table.contains(&peer));
        assert_eq!((table.len(), table.connections()), (0, 0));
    }
}
