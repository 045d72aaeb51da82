//! Finding the first peers: bootnodes, and mDNS on dev chains.
//!
//! kad fills its routing table by itself once it has a first entry; what is left is to be connected
//! to somebody, and to go on trying, and asking, while there are few.

mod config;
mod schedule;

use crate::{Multiaddr, PeerId};
pub use config::Config;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
pub use schedule::Schedule;
use std::time::Instant;

/// The driver's part: which bootnodes to dial now.
pub(crate) struct Bootstrap {
    schedule: Schedule,
}

impl Bootstrap {
    pub(crate) fn new(config: &Config, local: PeerId, now: Instant) -> Self {
        let nodes = config.nodes().into_iter().filter(|(peer, _)| *peer != local);
        Self { schedule: Schedule::new(config, nodes, now) }
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

    pub(crate) fn on_connected(&mut self, peer: &PeerId, now: Instant) {
        self.schedule.connected(peer, now);
    }
}

/// A dial that does nothing if the peer is connected or being dialled.
pub(crate) fn dial(peer: PeerId, addrs: Vec<Multiaddr>) -> DialOpts {
    DialOpts::peer_id(peer)
        .condition(PeerCondition::DisconnectedAndNotDialing)
        .addresses(addrs)
        .build()
}
