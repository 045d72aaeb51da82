//! Which relays hold a place for this node. Pure: no clock, socket or randomness.
//!
//! A relay is any peer that says it is one and may be dialled. As many as configured are asked, one
//! after the other fails: those of accounts with the best reputation first, in networks that hold no
//! reservation yet, and of equals the nearest. One that refuses or fails is left alone for a while,
//! and the next takes its place.
//!
//! A listener is never removed while its connection is open: libp2p's client panics if the answer to
//! a request for a reservation comes after that. To give a reservation back is to close the
//! connection.

use super::ClientConfig as Config;
use crate::{
    Multiaddr, PeerId,
    address::{IpGroup, ip_of},
};
use libp2p::{core::transport::ListenerId, multiaddr::Protocol};
use serde::Serialize;
use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

/// Reputation is told apart in steps of so much, so that of two nearly as good the nearer is asked.
const STEP: u16 = 100;

/// What a connected peer says of itself.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    /// Whether it is a relay.
    pub(crate) relay: bool,
    /// Where it is reached, of its addresses that may be dialled: the one that is known to work, or
    /// the first that it tells.
    pub(crate) addr: Option<Multiaddr>,
}

/// One reservation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReservationView {
    /// The relay's PeerId.
    pub relay: String,
    /// Where this node is reached through it.
    pub address: String,
    /// Since when, in seconds.
    pub held_secs: u64,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Listen at this address, which asks the relay for a reservation; what came of it is to be
    /// told to [`Reservations::asked`].
    Reserve(PeerId, Multiaddr),
    /// Close all connections to this relay.
    Leave(PeerId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    /// Asked, and it has not answered. After the configured time another is asked as well.
    Asked(ListenerId, Instant),
    Held(ListenerId, Instant),
}

#[derive(Clone, Debug)]
struct Relay {
    addr: Multiaddr,
    connected: bool,
    rtt: Option<Duration>,
    state: State,
    failures: u32,
    not_before: Instant,
    heard: Instant,
}

/// The relays that are known. Worst case in bytes: see [`Config::max_relays`].
pub(crate) struct Reservations {
    config: Config,
    relays: HashMap<PeerId, Relay>,
    /// Since when reservations are needed, or are not.
    needed: Option<(bool, Instant)>,
}

impl Reservations {
    pub(crate) fn new(config: &Config) -> Self {
        Self { config: config.clone(), relays: HashMap::new(), needed: None }
    }

    /// A connected peer says what it is.
    pub(crate) fn told(&mut self, peer: PeerId, offer: Offer, now: Instant) {
        let (true, Some(addr)) = (offer.relay, offer.addr) else {
            // It may say so because it is no longer reached itself; what is held goes on.
            if self.relays.get(&peer).is_some_and(|relay| relay.state == State::Idle) {
                self.relays.remove(&peer);
            }
            return;
        };
        if let Some(relay) = self.relays.get_mut(&peer) {
            (relay.connected, relay.heard) = (true, now);
            if relay.state == State::Idle {
                relay.addr = addr;
            }
            return;
        }
        if self.relays.len() >= self.config.max_relays {
            let idle = |relay: &Relay| relay.state == State::Idle && !relay.connected;
            let leaves = self.relays.iter().filter(|(_, relay)| idle(relay));
            let leaves = leaves.min_by_key(|(_, relay)| relay.heard).map(|(peer, _)| *peer);
            let Some(leaves) = leaves else { return };
            self.relays.remove(&leaves);
        }
        let relay = Relay {
            addr,
            connected: true,
            rtt: None,
            state: State::Idle,
            failures: 0,
            not_before: now,
            heard: now,
        };
        self.relays.insert(peer, relay);
    }

    /// The last connection to a peer is gone.
    pub(crate) fn disconnected(&mut self, peer: &PeerId, now: Instant) {
        if let Some(relay) = self.relays.get_mut(peer) {
            (relay.connected, relay.heard) = (false, now);
        }
    }

    pub(crate) fn pinged(&mut self, peer: &PeerId, rtt: Duration) {
        if let Some(relay) = self.relays.get_mut(peer) {
            relay.rtt = Some(rtt);
        }
    }

    /// A relay is asked by this listener, or could not be.
    pub(crate) fn asked(&mut self, peer: &PeerId, by: Option<ListenerId>, now: Instant) {
        match by {
            Some(listener) => {
                if let Some(relay) = self.relays.get_mut(peer) {
                    relay.state = State::Asked(listener, now);
                }
            }
            None => self.failed(peer, now),
        }
    }

    /// A relay holds a place, or holds it for longer.
    pub(crate) fn accepted(&mut self, peer: &PeerId, now: Instant) {
        if let Some(relay) = self.relays.get_mut(peer)
            && let State::Asked(listener, _) = relay.state
        {
            relay.state = State::Held(listener, now);
            relay.failures = 0;
        }
    }

    /// A listener has closed. The relay, if it was for one's reservation.
    pub(crate) fn ended(&mut self, listener: ListenerId, now: Instant) -> Option<PeerId> {
        let by = |relay: &Relay| match relay.state {
            State::Idle => false,
            State::Asked(by, _) | State::Held(by, _) => by == listener,
        };
        let peer = self.relays.iter().find(|(_, relay)| by(relay)).map(|(peer, _)| *peer)?;
        self.failed(&peer, now);
        Some(peer)
    }

    fn failed(&mut self, peer: &PeerId, now: Instant) {
        let (retry, most) = (self.config.retry, self.config.retry_max);
        if let Some(relay) = self.relays.get_mut(peer) {
            let doubled = 1u32.checked_shl(relay.failures).unwrap_or(u32::MAX);
            relay.state = State::Idle;
            relay.failures = relay.failures.saturating_add(1);
            relay.not_before = now + retry.saturating_mul(doubled).min(most);
        }
    }

    /// Reservations that are held.
    pub(crate) fn held(&self) -> usize {
        self.relays.values().filter(|relay| matches!(relay.state, State::Held(..))).count()
    }

    /// Reservations that are to be held, as was said last.
    pub(crate) fn wanted(&self) -> usize {
        match self.needed {
            Some((true, _)) => self.config.reservations,
            _ => 0,
        }
    }

    /// Relays that are remembered.
    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        self.relays.len()
    }

    /// The same, as they are shown.
    pub(crate) fn views(&self, local: &PeerId, now: Instant) -> Vec<ReservationView> {
        let held = self.relays.iter().filter_map(|(peer, relay)| match relay.state {
            State::Held(_, since) => Some(ReservationView {
                relay: peer.to_string(),
                address: through(&relay.addr, peer).with(Protocol::P2p(*local)).to_string(),
                held_secs: now.saturating_duration_since(since).as_secs(),
            }),
            State::Idle | State::Asked(..) => None,
        });
        let mut held: Vec<ReservationView> = held.collect();
        held.sort_by(|a, b| a.relay.cmp(&b.relay));
        held
    }

    /// What is to be done now. `needed`: whether there is no address at which this node is reached
    /// directly. `worth` is what a relay's reputation is, nothing if it is not to be asked. To be
    /// called every second or so, and after every change.
    pub(crate) fn poll(
        &mut self,
        needed: bool,
        worth: impl Fn(&PeerId) -> Option<u16>,
        now: Instant,
    ) -> Vec<Action> {
        let since = match self.needed {
            Some((before, since)) if before == needed => since,
            _ => {
                self.needed = Some((needed, now));
                now
            }
        };
        let lasted = now.saturating_duration_since(since);
        if !needed {
            // One at a time: peers that are connected so have time to come another way.
            let held = self.relays.iter().filter(|(_, r)| matches!(r.state, State::Held(..)));
            let first = held.map(|(peer, _)| *peer).min();
            return match first.filter(|_| lasted >= self.config.release_after) {
                Some(peer) => vec![Action::Leave(peer)],
                None => Vec::new(),
            };
        }
        if lasted < self.config.ask_after {
            return Vec::new();
        }
        let waits = |since: Instant| now.saturating_duration_since(since) < self.config.timeout;
        let counts = |relay: &&Relay| match relay.state {
            State::Idle => false,
            State::Asked(_, since) => waits(since),
            State::Held(..) => true,
        };
        let there = self.relays.values().filter(counts);
        let mut groups: HashSet<IpGroup> = there.clone().filter_map(|r| group(&r.addr)).collect();
        let wanted = self.config.reservations.saturating_sub(there.count());
        let mut actions = Vec::new();
        for _ in 0..wanted {
            let usable = self.relays.iter().filter(|(peer, relay)| {
                let asked = |action: &Action| matches!(action, Action::Reserve(p, _) if p == *peer);
                relay.state == State::Idle && relay.not_before <= now && !actions.iter().any(asked)
            });
            let best = usable
                .filter_map(|(peer, relay)| Some((peer, relay, worth(peer)?)))
                .min_by_key(|(peer, relay, worth)| {
                    let crowded = group(&relay.addr).is_some_and(|group| groups.contains(&group));
                    let rtt = relay.rtt.unwrap_or(Duration::MAX);
                    (crowded, !relay.connected, Reverse(worth / STEP), rtt, peer.to_bytes())
                });
            let Some((peer, relay, _)) = best else { break };
            groups.extend(group(&relay.addr));
            actions.push(Action::Reserve(*peer, through(&relay.addr, peer)));
        }
        actions
    }
}

fn group(addr: &Multiaddr) -> Option<IpGroup> {
    ip_of(addr).map(IpGroup::of)
}

/// The address through a relay.
fn through(addr: &Multiaddr, relay: &PeerId) -> Multiaddr {
    addr.clone().with(Protocol::P2p(*relay)).with(Protocol::P2pCircuit)
}
