//! Which attempts begin when, and which connection stays. Pure: no clock, socket or randomness.

use super::Config;
use crate::{
    Multiaddr, PeerId,
    address::{Circuit, is_circuit, without_peer},
};
use libp2p::swarm::ConnectionId;
use lru::LruCache;
use serde::{Deserialize, Serialize};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, VecDeque},
    num::NonZeroUsize,
    time::{Duration, Instant},
};
use thiserror::Error;

/// Relays of a peer that are remembered: 6 * 340 bytes.
const MAX_CIRCUITS: usize = 6;

/// A peer's own addresses that are remembered, for while it is reached through a relay: 4 * 320 bytes.
const MAX_DIRECT: usize = 4;

/// Attempts of a peer that are remembered, the oldest leaving first: 8 * 32 bytes.
const MAX_HISTORY: usize = 8;

/// Dials whose attempts are looked after. More are never under way (`admission.max_pending_outbound`,
/// 256 by default), so this bounds it only should an end be missed: 4,096 attempts of 100 bytes.
const MAX_ATTEMPTS: usize = 4096;

/// Dials that punch holes and are remembered as such, the oldest leaving first: 256 * 8 bytes.
const MAX_PUNCHES: usize = 256;

/// The same for connections over TURN servers.
const MAX_OVER_TURN: usize = 256;

/// A way to reach a peer: a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// At an address of its own.
    Direct,
    /// Both sides at once, through holes that they punch into their NATs (DCUtR).
    Punch,
    /// At an address at a TURN server.
    Turn,
    /// Through a relay.
    Relay,
}

impl Strategy {
    pub(crate) const ALL: [Self; 4] = [Self::Direct, Self::Punch, Self::Turn, Self::Relay];

    /// The metric label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Punch => "punch",
            Self::Turn => "turn",
            Self::Relay => "relay",
        }
    }
}

/// What a connection came by: a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// At an address of one of the two.
    Direct,
    /// Through holes that both punched.
    Punched,
    /// Over a TURN server.
    Turn,
    /// Through a relay.
    Relayed,
}

impl Method {
    pub(crate) const ALL: [Self; 4] = [Self::Direct, Self::Punched, Self::Turn, Self::Relayed];

    /// The metric label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Punched => "punched",
            Self::Turn => "turn",
            Self::Relayed => "relayed",
        }
    }

    fn strategy(self) -> Strategy {
        match self {
            Self::Direct => Strategy::Direct,
            Self::Punched => Strategy::Punch,
            Self::Turn => Strategy::Turn,
            Self::Relayed => Strategy::Relay,
        }
    }

    /// Whether a third party carries it, so that a better one is worth looking for.
    fn is_carried(self) -> bool {
        matches!(self, Self::Turn | Self::Relayed)
    }
}

/// How an attempt ended: `connected`, or why not, each a metric label.
pub(crate) const CONNECTED: &str = "connected";

/// Why attempts fail, which dashboards see from the start.
pub(crate) const REASONS: [&str; 11] = [
    "refused",
    "timeout",
    "unreachable",
    "not_allowed",
    "relay_full",
    "relay_without_peer",
    "relay_refused",
    "relay_failed",
    "handshake",
    "transport",
    // Another attempt was quicker, or nobody waits any more.
    "overtaken",
];

/// One attempt to reach a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AttemptView {
    /// How it was tried.
    pub strategy: Strategy,
    /// `connected`, or why not.
    pub outcome: &'static str,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// How long ago it ended, in seconds.
    pub ago_secs: u64,
}

/// What carries a connection at a peer's own address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    /// QUIC, from the socket that listens: the other side tells the port that others may dial.
    Datagrams,
    /// TCP: its NAT mapping serves one connection, and its streams wait for each other.
    Stream,
}

/// Names an attempt.
pub(super) type AttemptId = u64;

/// An address is not tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("no attempt is made at that address: there are enough, or it is not to be tried so")]
pub(super) struct NotTried;

/// Whether an attempt may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Now,
    /// Not before then, unless others end before.
    At(Instant),
    /// Once another has ended.
    Later,
}

#[derive(Clone, Copy, Debug)]
struct Ended {
    strategy: Strategy,
    outcome: &'static str,
    took: Duration,
    at: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    dial: ConnectionId,
    peer: PeerId,
    strategy: Strategy,
    over: Carrier,
    /// None while it waits for its turn.
    began: Option<Instant>,
}

/// Of what all addresses are dialled now.
#[derive(Clone, Copy, Debug)]
struct Dial {
    id: ConnectionId,
    peer: PeerId,
    /// How its addresses are tried, those apart that lead through relays.
    strategy: Strategy,
    /// Attempts that were made of it.
    attempts: usize,
}

/// An address through a relay, without the peer.
#[derive(Clone, Debug)]
struct Through {
    addr: Multiaddr,
    /// It worked, or the peer itself told it.
    firsthand: bool,
    /// How often others told it. Who lies of a peer speaks alone, as a rule.
    voices: u16,
}

#[derive(Debug, Default)]
struct Peer {
    /// Addresses through relays, the likeliest to work first.
    circuits: Vec<Through>,
    /// Its own addresses, as it told them last.
    direct: Vec<Multiaddr>,
    history: VecDeque<Ended>,
    /// When attempts at its own addresses last failed, if none succeeded since.
    direct_failed: Option<Instant>,
    /// When it is tried at its own addresses again, and how often it was.
    retry: Option<(Instant, u32)>,
}

#[derive(Clone, Copy, Debug)]
struct Connection {
    peer: PeerId,
    method: Method,
    since: Instant,
    /// It was told to close.
    closing: bool,
}

/// What a new connection is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opened {
    pub(super) relayed: bool,
    pub(super) inbound: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A better connection is there, and lasts.
    Close(PeerId, ConnectionId),
    /// Try the peer at its own addresses, although it is connected.
    Dial(PeerId, Vec<Multiaddr>),
}

/// What an answer of the directory or a peer says of another: that it is reached through relays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) peer: PeerId,
    /// Only addresses through relays count here.
    pub(crate) addresses: Vec<Multiaddr>,
}

/// Attempts, connections, and what is remembered of peers.
pub(crate) struct Paths {
    config: Config,
    peers: LruCache<PeerId, Peer>,
    attempts: BTreeMap<AttemptId, Attempt>,
    last: AttemptId,
    dial: Option<Dial>,
    punches: VecDeque<ConnectionId>,
    over_turn: VecDeque<ConnectionId>,
    /// Where this node listens at a TURN server.
    pub(super) turn_address: Option<Multiaddr>,
    /// As many as are open.
    connections: HashMap<ConnectionId, Connection>,
}

impl Paths {
    pub(super) fn new(config: &Config) -> Self {
        let peers = NonZeroUsize::new(config.max_peers).unwrap_or(NonZeroUsize::MIN);
        Self {
            config: config.clone(),
            peers: LruCache::sparse(peers),
            attempts: BTreeMap::new(),
            last: 0,
            dial: None,
            punches: VecDeque::new(),
            over_turn: VecDeque::new(),
            turn_address: None,
            connections: HashMap::new(),
        }
    }

    fn peer(&mut self, peer: PeerId) -> &mut Peer {
        self.peers.get_or_insert_mut(peer, Peer::default)
    }

    // What is known of peers.

    /// A peer is said to be reached through these relays: by itself (or they worked) if `firsthand`,
    /// by others otherwise.
    pub(crate) fn learn(&mut self, known: &Known, firsthand: bool) {
        let circuits = known.addresses.iter().filter(|addr| {
            let of = Circuit::of(addr);
            of.is_some_and(|circuit| {
                circuit.relay != known.peer && circuit.peer.is_none_or(|peer| peer == known.peer)
            })
        });
        let told: Vec<Multiaddr> = circuits.map(without_peer).take(MAX_CIRCUITS).collect();
        if told.is_empty() || self.config.rank(Strategy::Relay).is_none() {
            return;
        }
        let circuits = &mut self.peer(known.peer).circuits;
        if firsthand {
            // What it told before may be no longer so.
            circuits.iter_mut().for_each(|circuit| circuit.firsthand = false);
        }
        for addr in told {
            match circuits.iter_mut().find(|circuit| circuit.addr == addr) {
                Some(circuit) => {
                    circuit.firsthand |= firsthand;
                    circuit.voices = circuit.voices.saturating_add(1);
                }
                None => circuits.push(Through { addr, firsthand, voices: 1 }),
            }
        }
        // Stable: of equals, in the order in which they were told.
        circuits.sort_by_key(|circuit| (!circuit.firsthand, Reverse(circuit.voices)));
        circuits.truncate(MAX_CIRCUITS);
    }

    /// A connected peer tells where it is. `addresses` are such as may be dialled.
    pub(crate) fn told(&mut self, peer: PeerId, addresses: &[Multiaddr], now: Instant) {
        let (circuits, direct): (Vec<_>, Vec<_>) = addresses.iter().cloned().partition(is_circuit);
        self.learn(&Known { peer, addresses: circuits }, true);
        let carried = self.best(&peer).is_some_and(Method::is_carried);
        let known = self.peer(peer);
        let direct: Vec<Multiaddr> = direct.into_iter().take(MAX_DIRECT).collect();
        if direct.is_empty() {
            return;
        }
        // At once if that was not tried yet.
        let untried = known.direct != direct || known.retry.is_some_and(|(_, times)| times == 0);
        if carried && untried {
            known.retry = Some((now, 0));
        }
        known.direct = direct;
    }

    /// Where a peer is reached through relays, for a dial to it.
    pub(crate) fn circuits(&mut self, peer: &PeerId) -> Vec<Multiaddr> {
        let circuits = self.peers.get(peer).map(|peer| peer.circuits.iter());
        circuits.into_iter().flatten().map(|circuit| circuit.addr.clone()).collect()
    }

    // Attempts.

    /// A dial of a peer punches holes.
    pub(super) fn punches(&mut self, id: ConnectionId) {
        if self.punches.len() >= MAX_PUNCHES {
            self.punches.pop_front();
        }
        self.punches.push_back(id);
    }

    /// A dial, or a connection that came in, leads over a TURN server.
    pub(super) fn goes_over_turn(&mut self, id: ConnectionId) {
        if self.over_turn.len() >= MAX_OVER_TURN {
            self.over_turn.pop_front();
        }
        self.over_turn.push_back(id);
    }

    /// The addresses that are dialled next are those of this dial. How it tries the peer's own.
    pub(super) fn dials(&mut self, id: ConnectionId, peer: PeerId) -> Strategy {
        let strategy = if self.punches.contains(&id) {
            Strategy::Punch
        } else if self.over_turn.contains(&id) {
            Strategy::Turn
        } else {
            Strategy::Direct
        };
        self.dial = Some(Dial { id, peer, strategy, attempts: 0 });
        strategy
    }

    /// An address is dialled; `peer` is who should be there. Nothing if it is of no dial that was
    /// told of.
    ///
    /// # Errors
    /// If the strategy is not used, or there are too many attempts.
    pub(super) fn attempt(
        &mut self,
        peer: PeerId,
        relayed: bool,
        over: Carrier,
    ) -> Result<Option<AttemptId>, NotTried> {
        let max_punched = self.config.max_punched_addresses;
        let Some(dial) = self.dial.as_mut().filter(|dial| dial.peer == peer) else {
            return Ok(None);
        };
        let strategy = if relayed { Strategy::Relay } else { dial.strategy };
        let crowd = dial.strategy == Strategy::Punch && dial.attempts >= max_punched;
        if crowd || self.attempts.len() >= MAX_ATTEMPTS || self.config.rank(strategy).is_none() {
            return Err(NotTried);
        }
        dial.attempts += 1;
        let dial = dial.id;
        self.last += 1;
        self.attempts.insert(self.last, Attempt { dial, peer, strategy, over, began: None });
        Ok(Some(self.last))
    }

    /// Whether an attempt that was made at `since` may begin.
    pub(super) fn turn(&self, id: AttemptId, since: Instant, now: Instant) -> Turn {
        let Some(attempt) = self.attempts.get(&id) else { return Turn::Now };
        let of_peer = || self.attempts.iter().filter(|(_, other)| other.peer == attempt.peer);
        if of_peer().filter(|(_, other)| other.began.is_some()).count() >= self.config.max_attempts
        {
            return Turn::Later;
        }
        let rank = |strategy| self.config.rank(strategy).unwrap_or(usize::MAX);
        // What the same dial has that goes before it, and relays that it tries first.
        let same = of_peer().filter(|(_, other)| other.dial == attempt.dial);
        let (mut before, mut relays, mut datagrams) = (0u32, 0u32, false);
        let mut strategies = Vec::new();
        for (other, what) in same {
            let earlier = rank(what.strategy) < rank(attempt.strategy);
            let hopeless = what.strategy == Strategy::Direct && self.fails(&what.peer, now);
            if earlier && !hopeless && !strategies.contains(&what.strategy) {
                strategies.push(what.strategy);
                before += 1;
            }
            let both = what.strategy == Strategy::Relay && attempt.strategy == Strategy::Relay;
            relays += u32::from(both && *other < id);
            let own = what.strategy == Strategy::Direct && attempt.strategy == Strategy::Direct;
            datagrams |= own && (attempt.over, what.over) == (Carrier::Stream, Carrier::Datagrams);
        }
        let wait = self.config.head_start.saturating_mul(before)
            + self.config.next_relay.saturating_mul(relays)
            + if datagrams { self.config.tcp_after } else { Duration::ZERO };
        let at = since + wait;
        if at <= now { Turn::Now } else { Turn::At(at) }
    }

    /// Whether a peer's own addresses were tried in vain not long ago.
    fn fails(&self, peer: &PeerId, now: Instant) -> bool {
        let failed = self.peers.peek(peer).and_then(|peer| peer.direct_failed);
        failed.is_some_and(|at| now.saturating_duration_since(at) < self.config.forget_failure)
    }

    /// An attempt begins. How it is tried, and how long it may take.
    pub(super) fn begin(&mut self, id: AttemptId, now: Instant) -> Option<(Strategy, Duration)> {
        let attempt = self.attempts.get_mut(&id)?;
        attempt.began = Some(now);
        Some((attempt.strategy, self.config.timeout(attempt.strategy)))
    }

    /// An attempt has ended, with [`CONNECTED`] or one of [`REASONS`]. How it was tried and how long
    /// it took; nothing if it never began.
    pub(super) fn end(
        &mut self,
        id: AttemptId,
        outcome: &'static str,
        now: Instant,
    ) -> Option<(Strategy, Duration)> {
        let Attempt { peer, strategy, began, dial, .. } = self.attempts.remove(&id)?;
        let took = now.saturating_duration_since(began?);
        let others = |a: &Attempt| a.dial == dial && a.strategy == strategy;
        let last = !self.attempts.values().any(others);
        let known = self.peer(peer);
        if strategy == Strategy::Direct {
            match outcome {
                CONNECTED => known.direct_failed = None,
                "overtaken" | "not_allowed" => {}
                _ if last => known.direct_failed = Some(now),
                _ => {}
            }
        }
        if known.history.len() >= MAX_HISTORY {
            known.history.pop_front();
        }
        known.history.push_back(Ended { strategy, outcome, took, at: now });
        Some((strategy, took))
    }

    /// The attempts that are remembered of a peer, the oldest first.
    pub(crate) fn history(&self, peer: &PeerId, now: Instant) -> Vec<AttemptView> {
        let history = self.peers.peek(peer).map(|peer| &peer.history);
        let view = |ended: &Ended| AttemptView {
            strategy: ended.strategy,
            outcome: ended.outcome,
            took_ms: u64::try_from(ended.took.as_millis()).unwrap_or(u64::MAX),
            ago_secs: now.saturating_duration_since(ended.at).as_secs(),
        };
        history.into_iter().flatten().map(view).collect()
    }

    // Connections.

    /// A connection is there.
    pub(super) fn opened(&mut self, id: ConnectionId, peer: PeerId, how: Opened, now: Instant) {
        // Both sides dial when they punch, and each is let in by the other's dial as well. Nobody else
        // dials a peer that it has a connection to.
        let let_in = how.inbound && self.of(&peer).any(|other| other.method == Method::Relayed);
        let punched = let_in || self.punches.contains(&id);
        let method = match (how.relayed, punched && self.config.rank(Strategy::Punch).is_some()) {
            (true, _) => Method::Relayed,
            (false, _) if self.over_turn.contains(&id) => Method::Turn,
            (false, true) => Method::Punched,
            (false, false) => Method::Direct,
        };
        self.connections.insert(id, Connection { peer, method, since: now, closing: false });
        let best = self.best(&peer);
        let retry = self.config.retry_after(0);
        let known = self.peer(peer);
        if best.is_some_and(Method::is_carried) {
            known.retry.get_or_insert((now + retry, 0));
        } else {
            (known.retry, known.direct_failed) = (None, None);
        }
    }

    /// It is gone.
    pub(super) fn closed(&mut self, id: ConnectionId, now: Instant) {
        let Some(closed) = self.connections.remove(&id) else { return };
        let best = self.best(&closed.peer);
        let Some(known) = self.peers.peek_mut(&closed.peer) else { return };
        match best {
            None => known.retry = None,
            // A better one was there for a moment, such as a dial-back.
            Some(method) if method.is_carried() => {
                known.retry.get_or_insert((now, 0));
            }
            Some(_) => {}
        }
    }

    fn of<'a>(&'a self, peer: &'a PeerId) -> impl Iterator<Item = &'a Connection> {
        self.connections.values().filter(move |connection| connection.peer == *peer)
    }

    /// What the best connection to a peer came by.
    fn best(&self, peer: &PeerId) -> Option<Method> {
        self.of(peer).map(|connection| connection.method).min_by_key(|method| self.worth(*method))
    }

    /// Less is better.
    fn worth(&self, method: Method) -> (usize, Method) {
        (self.config.rank(method.strategy()).unwrap_or(usize::MAX), method)
    }

    /// What is to be done now. To be called every second or so.
    pub(crate) fn poll(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        let lasts = |c: &Connection| {
            now.saturating_duration_since(c.since) >= self.config.upgrade_after && !c.closing
        };
        let worse = self.connections.iter().filter(|(_, connection)| {
            // Direct and punched are the same once they are there.
            connection.method.is_carried()
                && !connection.closing
                && self.of(&connection.peer).any(|other| {
                    lasts(other) && self.worth(other.method) < self.worth(connection.method)
                })
        });
        let worse: Vec<ConnectionId> = worse.map(|(id, _)| *id).collect();
        for id in worse {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.closing = true;
                actions.push(Action::Close(connection.peer, id));
            }
        }
        let config = &self.config;
        for (peer, known) in &mut self.peers {
            let Some((at, times)) = known.retry else { continue };
            if at > now || known.direct.is_empty() {
                continue;
            }
            known.retry = (times + 1 < config.retries)
                .then(|| (now + config.retry_after(times), times.saturating_add(1)));
            actions.push(Action::Dial(*peer, known.direct.clone()));
        }
        actions
    }

    /// The connected peers, each with what its best connection came by.
    pub(crate) fn methods(&self) -> BTreeMap<PeerId, Method> {
        let mut methods = BTreeMap::new();
        for Connection { peer, method, .. } in self.connections.values() {
            let best = methods.entry(*peer).or_insert(*method);
            if self.worth(*method) < self.worth(*best) {
                *best = *method;
            }
        }
        methods
    }

    /// How many connections came by each method.
    pub(crate) fn count(&self, method: Method) -> usize {
        self.connections.values().filter(|connection| connection.method == method).count()
    }

    /// Attempts under way or waiting for their turn.
    #[cfg(test)]
    pub(super) fn attempts(&self) -> usize {
        self.attempts.len()
    }
}
