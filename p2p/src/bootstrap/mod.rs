//! Finding the first peers: bootnodes, the peer book, and mDNS on dev chains.
//!
//! kad fills its routing table by itself once it has a first entry; what is left is to be connected
//! to somebody, and to go on trying, and asking, while there are few.

mod config;
mod schedule;

use crate::{Multiaddr, PeerId};
pub use config::Config;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
pub use schedule::Schedule;
use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

/// The driver's part: which bootnodes to dial now, and how many peers of the book.
pub(crate) struct Bootstrap {
    schedule: Schedule,
    min_peers: usize,
    book_dials: usize,
    book_retry: Duration,
    /// Peers of the book that are being dialled: at most `book_dials`.
    dialling: HashSet<PeerId>,
}

impl Bootstrap {
    pub(crate) fn new(config: &Config, local: PeerId, now: Instant) -> Self {
        let nodes = config.nodes().into_iter().filter(|(peer, _)| *peer != local);
        Self {
            schedule: Schedule::new(config, nodes, now),
            min_peers: config.min_peers,
            book_dials: config.book_dials,
            book_retry: config.book_retry,
            dialling: HashSet::new(),
        }
    }

    /// Dials for the bootnodes that are due.
    pub(crate) fn due(
        &mut self,
        connected: usize,
        is_connected: impl Fn(&PeerId) -> bool,
        now: Instant,
    ) -> Vec<DialOpts> {
        let due = self.schedule.due(connected, is_connected, now);
        due.into_iter().map(|(peer, addrs)| dial(peer, addrs)).collect()
    }

    /// Whether to ask the directory for more peers now.
    pub(crate) fn ask_due(&mut self, connected: usize, now: Instant) -> bool {
        self.schedule.ask_due(connected, now)
    }

    /// How many peers of the book to dial now, and how long they then wait for their next turn.
    pub(crate) fn wanted_of_book(&self, connected: usize) -> (usize, Duration) {
        let enough = connected >= self.min_peers;
        let wanted = if enough { 0 } else { self.book_dials.saturating_sub(self.dialling.len()) };
        (wanted, self.book_retry)
    }

    /// A dial of a peer of the book; it is counted until it has ended.
    pub(crate) fn dial_of_book(&mut self, peer: PeerId, addrs: Vec<Multiaddr>) -> DialOpts {
        self.dialling.insert(peer);
        dial(peer, addrs)
    }

    pub(crate) fn on_connected(&mut self, peer: &PeerId, now: Instant) {
        self.dialling.remove(peer);
        self.schedule.connected(peer, now);
    }

    /// A dial has ended without a connection.
    pub(crate) fn on_failed(&mut self, peer: &PeerId) {
        self.dialling.remove(peer);
    }
}

/// A dial that does nothing if the peer is connected or being dialled.
pub(crate) fn dial(peer: PeerId, addrs: Vec<Multiaddr>) -> DialOpts {
    DialOpts::peer_id(peer)
        .condition(PeerCondition::DisconnectedAndNotDialing)
        .addresses(addrs)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::peer_id_of;

    #[test]
    fn the_book_is_dialled_a_few_at_a_time_until_there_are_enough() {
        let peer = |n| peer_id_of(&[n; 32]).unwrap();
        let config = Config { min_peers: 2, book_dials: 3, ..Config::default() };
        let now = Instant::now();
        let mut bootstrap = Bootstrap::new(&config, peer(0), now);
        let wanted = |bootstrap: &Bootstrap, connected| bootstrap.wanted_of_book(connected).0;
        assert_eq!(wanted(&bootstrap, 0), 3);
        for n in 1..=3 {
            bootstrap.dial_of_book(peer(n), vec!["/memory/1".parse().unwrap()]);
        }
        assert_eq!(wanted(&bootstrap, 0), 0);
        bootstrap.on_failed(&peer(1));
        bootstrap.on_failed(&peer(1));
        bootstrap.on_failed(&peer(9));
        assert_eq!(wanted(&bootstrap, 0), 1);
        bootstrap.on_connected(&peer(2), now);
        assert_eq!(wanted(&bootstrap, 1), 2);
        assert_eq!(wanted(&bootstrap, 2), 0, "enough");
    }
}
