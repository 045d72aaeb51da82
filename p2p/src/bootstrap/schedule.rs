//! When to dial which bootnode, and when to ask the directory for more peers.

use super::Config;
use crate::{Multiaddr, PeerId};
use std::time::{Duration, Instant};

/// The bootnodes, each with the time it may be dialled next. Bounded by the configuration's 64
/// addresses.
#[derive(Debug)]
pub struct Schedule {
    min_peers: usize,
    retry_base: Duration,
    retry_max: Duration,
    nodes: Vec<Node>,
    ask_every: Duration,
    next_ask: Instant,
}

#[derive(Debug)]
struct Node {
    peer: PeerId,
    addrs: Vec<Multiaddr>,
    next: Instant,
    tries: u32,
}

impl Schedule {
    /// All bootnodes due at once.
    pub fn new(
        config: &Config,
        nodes: impl IntoIterator<Item = (PeerId, Vec<Multiaddr>)>,
        now: Instant,
    ) -> Self {
        let nodes = nodes
            .into_iter()
            .map(|(peer, addrs)| Node { peer, addrs, next: now, tries: 0 })
            .collect();
        Self {
            min_peers: config.min_peers,
            retry_base: config.retry_base,
            retry_max: config.retry_max,
            nodes,
            ask_every: config.ask_every,
            next_ask: now + config.ask_every,
        }
    }

    /// Whether the directory is to be asked for more peers now. kad asks by itself only when it
    /// learns of a new peer: a node that lost its connections and still has its routing table would
    /// not reach the peers in it.
    pub fn ask_due(&mut self, connected: usize, now: Instant) -> bool {
        let due = connected < self.min_peers && self.next_ask <= now;
        if due {
            self.next_ask = now + self.ask_every;
        }
        due
    }

    /// The bootnodes to dial now: none while enough peers are connected, else those that are not
    /// connected and whose wait is over. Each then waits twice as long as before.
    pub fn due(
        &mut self,
        connected: usize,
        is_connected: impl Fn(&PeerId) -> bool,
        now: Instant,
    ) -> Vec<(PeerId, Vec<Multiaddr>)> {
        if connected >= self.min_peers {
            return Vec::new();
        }
        let (base, max) = (self.retry_base, self.retry_max);
        self.nodes
            .iter_mut()
            .filter(|node| node.next <= now && !is_connected(&node.peer))
            .map(|node| {
                let doubled = 1u32.checked_shl(node.tries).unwrap_or(u32::MAX);
                node.next = now + base.saturating_mul(doubled).min(max);
                node.tries = node.tries.saturating_add(1);
                (node.peer, node.addrs.clone())
            })
            .collect()
    }

    /// A peer has connected; if it is a bootnode, its waits begin anew.
    pub fn connected(&mut self, peer: &PeerId, now: Instant) {
        if let Some(node) = self.nodes.iter_mut().find(|node| node.peer == *peer) {
            node.tries = 0;
            node.next = now + self.retry_base;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::peer_id_of;

    fn peer(n: u8) -> PeerId {
        peer_id_of(&[n; 32]).unwrap()
    }

    fn schedule(now: Instant) -> Schedule {
        let config = Config {
            min_peers: 2,
            retry_base: Duration::from_secs(1),
            retry_max: Duration::from_secs(5),
            ..Config::default()
        };
        let addr: Multiaddr = "/memory/1".parse().unwrap();
        Schedule::new(&config, [(peer(1), vec![addr.clone()]), (peer(2), vec![addr])], now)
    }

    fn due(schedule: &mut Schedule, connected: &[PeerId], now: Instant) -> Vec<PeerId> {
        let due = schedule.due(connected.len(), |p| connected.contains(p), now);
        due.into_iter().map(|(peer, _)| peer).collect()
    }

    #[test]
    fn waits_double_up_to_a_limit() {
        let mut now = Instant::now();
        let mut schedule = schedule(now);
        for wait in [1, 2, 4, 5, 5] {
            assert_eq!(due(&mut schedule, &[], now), [peer(1), peer(2)]);
            now += Duration::from_secs(wait);
            assert!(due(&mut schedule, &[], now - Duration::from_millis(1)).is_empty());
        }
    }

    #[test]
    fn the_directory_is_asked_now_and_then_while_peers_are_few() {
        let now = Instant::now();
        let mut schedule = schedule(now);
        let later = now + Config::default().ask_every;
        assert!(!schedule.ask_due(0, now));
        assert!(!schedule.ask_due(2, later), "enough peers");
        assert!(schedule.ask_due(1, later));
        assert!(!schedule.ask_due(1, later));
        assert!(schedule.ask_due(1, later + Config::default().ask_every));
    }

    #[test]
    fn enough_peers_are_enough() {
        let now = Instant::now();
        let mut schedule = schedule(now);
        assert!(due(&mut schedule, &[peer(8), peer(9)], now).is_empty());
        assert_eq!(due(&mut schedule, &[peer(1)], now), [peer(2)]);
    }

    #[test]
    fn a_bootnode_that_was_connected_is_tried_soon_again() {
        let mut now = Instant::now();
        let mut schedule = schedule(now);
        for _ in 0..4 {
            due(&mut schedule, &[], now);
            now += Duration::from_secs(5);
        }
        schedule.connected(&peer(1), now);
        now += Duration::from_secs(1);
        assert!(due(&mut schedule, &[], now).contains(&peer(1)));
    }
}
