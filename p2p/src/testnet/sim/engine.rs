//! One node at work in the simulated network: events in the order of their time, lookups that ask,
//! and what comes back.

use super::{
    Scenario,
    world::{Index, World},
};
use crate::{
    PeerId,
    address::IpGroup,
    dht::{
        lookup::{Goal, Lookup, Outcome, Settings},
        network::{Contact, Question},
        searches::{self, SearchId, Searches},
        space::Point,
    },
};
use std::{
    cmp::Ordering,
    collections::{BinaryHeap, HashSet},
    time::{Duration, Instant},
};

/// Round trips before the first question to a peer: one of QUIC, in which TLS is, and one in which the
/// protocol of the stream is agreed on.
const ROUND_TRIPS_TO_CONNECT: u32 = 2;

/// What a node sent and received, in messages of the protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Messages {
    /// FIND_NODE and GET_PROVIDERS.
    pub(super) questions: u64,
    pub(super) answers: u64,
}

enum What<T> {
    Answered { search: SearchId, question: Question, peer: Index, asked: Instant, connected: bool },
    Silent { search: SearchId, peer: PeerId },
    Wake,
    Own(T),
}

struct Due<T> {
    at: Instant,
    /// Of two at the same time the one that was put in first comes first.
    order: u64,
    what: What<T>,
}

impl<T> Ord for Due<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives the greatest first.
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl<T> PartialOrd for Due<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Due<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Due<T> {}

/// What [`Engine::step`] came to.
pub(super) enum Step<P, T> {
    /// A lookup has ended, and took as long.
    Ended { purpose: P, outcome: Outcome, took: Duration },
    /// An event of whoever owns the engine.
    Own(T),
}

/// A node, its clock and what is under way. `P` says what a lookup is for, `T` is what else happens.
pub(super) struct Engine<'w, P, T> {
    pub(super) world: &'w mut World,
    pub(super) local: Index,
    settings: Settings,
    paths: usize,
    peer_timeout: Duration,
    max_questions: usize,
    /// When the simulation began, and what time it is in it.
    epoch: Instant,
    pub(super) now: Instant,
    due: BinaryHeap<Due<T>>,
    order: u64,
    /// The earliest event that wakes the lookups.
    wakes: Option<Instant>,
    /// Peers that it is connected to: it stays so.
    connected: HashSet<PeerId>,
    searches: Searches<P>,
    in_flight: usize,
    pub(super) messages: Messages,
}

impl<'w, P, T> Engine<'w, P, T> {
    /// The node `local`, `after` the beginning, connected to nobody.
    pub(super) fn new(
        world: &'w mut World,
        scenario: &Scenario,
        local: Index,
        after: Duration,
    ) -> Self {
        let config = &scenario.dht;
        let epoch = Instant::now();
        Self {
            world,
            local,
            settings: Settings {
                width: config.replication,
                parallelism: config.parallelism,
                paths: 1,
                max_group: config.max_group_in_lookup,
                timeout: config.query_timeout,
            },
            paths: config.lookup_paths,
            peer_timeout: config.peer_timeout,
            max_questions: config.max_questions,
            epoch,
            now: epoch + after,
            due: BinaryHeap::new(),
            order: 0,
            wakes: None,
            connected: HashSet::new(),
            searches: Searches::new(config.min_patience, config.peer_timeout),
            in_flight: 0,
            messages: Messages::default(),
        }
    }

    /// Puts an event of the owner in.
    pub(super) fn at(&mut self, at: Instant, event: T) {
        self.put(at, What::Own(event));
    }

    fn put(&mut self, at: Instant, what: What<T>) {
        self.order += 1;
        self.due.push(Due { at, order: self.order, what });
    }

    /// Begins a lookup at what the node's routing table has near to its target.
    pub(super) fn begin(&mut self, purpose: P, goal: Goal, question: Question) {
        self.begin_with(purpose, goal, question, self.settings.max_group);
    }

    /// Explores around the point of these bytes, as the node's finder does for its sweep.
    pub(super) fn explore(&mut self, purpose: P, target: Vec<u8>, diverse: bool) {
        let max_group = self.settings.max_group.filter(|_| diverse);
        self.begin_with(purpose, Goal::Closest, Question::Closest(target), max_group);
    }

    fn begin_with(&mut self, purpose: P, goal: Goal, question: Question, max_group: Option<usize>) {
        let Some(local) = self.world.contact(self.local).map(|contact| contact.peer) else {
            return;
        };
        let target = target_of(&question);
        let paths = if matches!(goal, Goal::Providers(_)) { self.paths } else { 1 };
        let settings = Settings { paths, max_group, ..self.settings.clone() };
        let seeds = self.world.known_near(self.local, &target, settings.width);
        let mut lookup = Lookup::new(settings, goal, local, target, seeds, self.now);
        if let Question::Providers(key) = &question {
            for provider in self.world.providers_at(self.local, key) {
                lookup.knows(provider);
            }
        }
        self.searches.start(lookup, question, purpose, self.now);
    }

    /// The next thing that happens. Nothing once all is done.
    pub(super) fn step(&mut self) -> Option<Step<P, T>> {
        loop {
            if let Some(ended) = self.go_on() {
                return Some(ended);
            }
            let Due { at, what, .. } = self.due.pop()?;
            self.now = self.now.max(at);
            match what {
                What::Own(event) => return Some(Step::Own(event)),
                What::Wake => self.wakes = None,
                What::Silent { search, peer } => {
                    self.in_flight = self.in_flight.saturating_sub(1);
                    self.searches.on_failure(search, &peer);
                }
                What::Answered { search, question, peer, asked, connected } => {
                    self.in_flight = self.in_flight.saturating_sub(1);
                    self.searches.observe(connected, self.now.saturating_duration_since(asked));
                    self.answered(search, &question, peer);
                }
            }
        }
    }

    fn answered(&mut self, search: SearchId, question: &Question, peer: Index) {
        self.messages.answers += 1;
        let answer = self.world.answer(peer, self.local, question);
        let Some(Contact { peer, addresses }) = self.world.contact(peer) else { return };
        self.connected.insert(*peer);
        let reached = addresses.first().and_then(network_of);
        self.searches.on_answer(search, peer, reached, answer, |_| {});
    }

    /// Asks what the lookups want asked, until one of them ends.
    fn go_on(&mut self) -> Option<Step<P, T>> {
        loop {
            let room = self.in_flight < self.max_questions;
            let connected = |peer: &PeerId| self.connected.contains(peer);
            match self.searches.step(self.now, room, connected) {
                Some(searches::Step::Ended { purpose, outcome, took, .. }) => {
                    return Some(Step::Ended { purpose, outcome, took });
                }
                Some(searches::Step::Ask { search, to, question }) => {
                    self.ask(search, &to.peer, question);
                }
                None => break,
            }
        }
        if let Some(wakes_at) = self.searches.wakes_at()
            && self.wakes.is_none_or(|at| wakes_at < at)
        {
            self.wakes = Some(wakes_at);
            self.put(wakes_at, What::Wake);
        }
        None
    }

    fn ask(&mut self, search: SearchId, to: &PeerId, question: Question) {
        self.messages.questions += 1;
        self.in_flight += 1;
        let (asked, connected) = (self.now, self.connected.contains(to));
        // Nobody answers for a peer that was invented.
        let peer = self.world.index_of(to);
        match peer.and_then(|peer| Some((peer, self.exchange(peer)?))) {
            Some((peer, at)) => {
                self.put(at, What::Answered { search, question, peer, asked, connected });
            }
            None => self.put(asked + self.peer_timeout, What::Silent { search, peer: *to }),
        }
    }

    /// When the answer to something that is sent to a peer now is there; nothing if it never comes.
    pub(super) fn exchange(&mut self, peer: Index) -> Option<Instant> {
        let round_trip = self.world.round_trip(self.local, peer);
        let contact = self.world.contact(peer)?;
        let connects = if self.connected.contains(&contact.peer) {
            Duration::ZERO
        } else {
            round_trip * ROUND_TRIPS_TO_CONNECT
        };
        let arrives = self.now + connects + round_trip / 2;
        let lives = self.world.lives(peer, arrives.saturating_duration_since(self.epoch));
        (lives && connects + round_trip <= self.peer_timeout).then_some(arrives + round_trip / 2)
    }
}

/// What lies where is asked for.
pub(super) fn target_of(question: &Question) -> Point {
    match question {
        Question::Closest(bytes) => Point::of_bytes(bytes),
        Question::Providers(key) | Question::Held(key, _) => Point::of_key(key),
    }
}

/// The network of an address.
fn network_of(address: &crate::Multiaddr) -> Option<IpGroup> {
    crate::address::ip_of(address).map(IpGroup::of)
}
