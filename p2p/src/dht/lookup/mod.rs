//! One iterative lookup: which peers are nearest to a point, or who provides the key that lies there.
//!
//! A plain state machine. It is given contacts to begin with and says whom to ask next; it is told
//! what came back and says when it is done. Time is passed in; nothing here dials, sends or waits.
//!
//! **Order.** Of the contacts known it asks the nearest that was not asked yet, several at a time. It
//! has converged once the nearest that are alive have all answered.
//!
//! **Disjoint paths** (S/Kademlia, section 4.4). A lookup may follow several paths: a contact belongs
//! to the path that first heard of it and is never asked for another, so a peer that lies can only
//! lead astray the path that came upon it. Nor does one path alone provide all that is wanted, as long
//! as others are on their way: each counts for its share, see `providers`.
//!
//! **Diversity.** Among the nearest only a few of one network count (`max_group`); the next nearest of
//! other networks takes the place of the rest. Who has many keys in few networks can surround a point,
//! and still is a minority of those that are asked.
//!
//! **Doubt.** A network that named too many who do not answer is no longer followed while others are
//! left: names of peers that are not there cost nothing to invent.
//!
//! **Patience.** An answer that is late by the measure of others no longer holds up the lookup: the
//! next peer is asked in the meantime. It still counts if it comes. What others took says nothing
//! while this node itself is slow, so a lookup that nobody has answered yet gives nobody up by it.

mod candidates;
mod patience;
mod providers;
#[cfg(test)]
mod tests;

use super::{
    network::{Answer, Contact, Dropped},
    space::Point,
};
use crate::{Multiaddr, PeerId, address::IpGroup};
use candidates::{Candidate, Candidates, State};
pub(crate) use patience::Patience;
use providers::{Providers, Voice};
use std::time::{Duration, Instant};

/// Most paths of a lookup.
pub(crate) const MAX_PATHS: usize = 8;

/// Peers that a lookup may ask for each one that it wants near: 160 with the usual 20. A lookup in a
/// network of 10,000 asks about 30; the rest is room for peers that have gone.
const QUESTIONS_EACH: usize = 8;

/// How many times its patience a question is waited for where nobody else is left to be asked.
const LAST_HOPE: u32 = 4;

/// How lookups are made.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// How many of the nearest peers are wanted, the k of Kademlia.
    pub(crate) width: usize,
    /// Questions in flight that are not late.
    pub(crate) parallelism: usize,
    /// Disjoint paths, 1 to [`MAX_PATHS`].
    pub(crate) paths: usize,
    /// Peers of one network that count among the nearest; no limit if none.
    pub(crate) max_group: Option<usize>,
    /// The longest that it takes.
    pub(crate) timeout: Duration,
}

/// What a lookup is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// The nearest peers.
    Closest,
    /// As many providers, then it ends.
    Providers(usize),
    /// One peer: it ends when that peer has answered, or will not.
    Peer(PeerId),
}

/// Why a lookup has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// As many providers are known as are wanted, or the peer that is wanted was asked.
    Enough,
    /// The nearest peers have all answered.
    Converged,
    /// The time was up.
    Timeout,
}

/// What a lookup has found.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) end: End,
    /// The nearest peers that answered, the nearest first; at most the width.
    pub(crate) closest: Vec<Contact>,
    /// Providers, those that count for the shares of their paths first; at most as many as wanted.
    pub(crate) providers: Vec<PeerId>,
    /// Questions asked.
    pub(crate) asked: usize,
    /// Answers that came.
    pub(crate) answered: usize,
    /// How many peers one after the other were asked to come upon the last of those in `closest`; or
    /// upon the last provider, if it ended with enough of them.
    pub(crate) hops: u32,
}

/// A lookup under way.
///
/// Worst case 240 KB, if every peer of it lies: with the usual width of 20 and three paths 160 peers
/// asked and 180 known (see [`candidates`]), of 250 bytes and four addresses of 100 bytes each, and
/// four times 64 providers of 96 bytes. Without lies some 60 peers, 20 KB.
#[derive(Debug)]
pub(crate) struct Lookup {
    settings: Settings,
    goal: Goal,
    candidates: Candidates,
    providers: Providers,
    deadline: Instant,
    /// Questions without an answer, at most [`QUESTIONS_EACH`] times the width.
    waiting: Vec<Waiting>,
    asked: usize,
    answered: usize,
}

/// A question in flight.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    peer: PeerId,
    path: usize,
    late_at: Instant,
    lost_at: Instant,
}

impl Lookup {
    /// A lookup of `local` for what lies at `target`, beginning at contacts it knows.
    pub(crate) fn new(
        settings: Settings,
        goal: Goal,
        local: PeerId,
        target: Point,
        seeds: impl IntoIterator<Item = Contact>,
        now: Instant,
    ) -> Self {
        let paths = settings.paths.clamp(1, MAX_PATHS);
        let mut candidates =
            Candidates::new(local, target, settings.width, paths, settings.max_group);
        let mut begun = 0;
        // Dealt out one after the other, so that each path begins with near ones.
        for (seed, path) in seeds.into_iter().zip((0..paths).cycle()) {
            // This node itself, or more than are kept: no loss.
            let _ = candidates.hear(seed, path, None, 0);
            begun = begun.max(path + 1);
        }
        let deadline = now + settings.timeout;
        Self {
            settings,
            goal,
            candidates,
            providers: Providers::new(begun),
            deadline,
            waiting: Vec::new(),
            asked: 0,
            answered: 0,
        }
    }

    /// Whom to ask now, if anybody; it counts as asked. `patience` says after how long the answer of
    /// this peer is late.
    pub(crate) fn next(
        &mut self,
        now: Instant,
        patience: impl FnOnce(&PeerId) -> Duration,
    ) -> Option<Contact> {
        if self.asked >= self.settings.width * QUESTIONS_EACH || self.end(now).is_some() {
            return None;
        }
        let mut of_path = [0_usize; MAX_PATHS];
        let mut in_flight = 0;
        for waiting in self.waiting.iter().filter(|waiting| waiting.late_at > now) {
            in_flight += 1;
            if let Some(count) = of_path.get_mut(waiting.path) {
                *count += 1;
            }
        }
        if in_flight >= self.settings.parallelism {
            return None;
        }
        let next = self.candidates.survey(now).next;
        // The path with the fewest questions in flight; of equals that of the nearest contact.
        let load = |path: usize| of_path.get(path).copied().unwrap_or_default();
        let each = next.into_iter().flatten();
        let (_, distance) = each.min_by_key(|(path, distance)| (load(*path), *distance))?;
        let candidate = self.candidates.get_mut(&distance)?;
        let patience = patience(&candidate.peer);
        let late_at = now + patience;
        candidate.state = State::Asked { late_at };
        let (contact, path) = (candidate.contact(), candidate.path);
        self.candidates.no_longer_known(path);
        let lost_at = now + patience.saturating_mul(LAST_HOPE);
        self.waiting.push(Waiting { peer: contact.peer, path, late_at, lost_at });
        self.asked += 1;
        Some(contact)
    }

    /// A peer that was asked has answered, from the network `reached` if that is known. What is not
    /// taken of the answer is told to `dropped`.
    pub(crate) fn on_answer(
        &mut self,
        peer: &PeerId,
        reached: Option<IpGroup>,
        answer: Answer,
        mut dropped: impl FnMut(Dropped),
    ) {
        let Some(candidate) = self.asked_of(peer) else { return };
        candidate.state = State::Answered;
        candidate.reached_in(reached);
        let (path, hops, network) = (candidate.path, candidate.hops + 1, candidate.network());
        self.waiting.retain(|waiting| waiting.peer != *peer);
        self.answered += 1;
        for contact in answer.closer {
            let taken = if contact.peer == *peer {
                Err(Dropped::Itself)
            } else {
                self.candidates.hear(contact, path, Some(network), hops)
            };
            if let Err(reason) = taken {
                dropped(reason);
            }
        }
        if let Goal::Providers(wanted) = self.goal {
            let apart = self.settings.max_group.is_some();
            let voice = if apart { Voice::Network(network) } else { Voice::Path(path) };
            for provider in answer.providers {
                self.providers.told(provider.peer, voice, hops, wanted);
            }
        }
    }

    /// A provider is known without being asked for.
    pub(crate) fn knows(&mut self, provider: PeerId) {
        self.providers.known(provider);
    }

    /// At least as many providers are wanted now.
    pub(crate) fn want(&mut self, providers: usize) {
        if let Goal::Providers(wanted) = &mut self.goal {
            *wanted = providers.max(*wanted);
        }
    }

    /// The providers that count so far.
    pub(crate) fn providers(&self) -> Vec<PeerId> {
        match self.goal {
            Goal::Providers(wanted) => self.providers.counted(wanted),
            Goal::Closest | Goal::Peer(_) => Vec::new(),
        }
    }

    /// A peer that was asked will not answer.
    pub(crate) fn on_failure(&mut self, peer: &PeerId) {
        if let Some(candidate) = self.asked_of(peer) {
            candidate.state = State::Failed;
            self.waiting.retain(|waiting| waiting.peer != *peer);
        }
    }

    fn asked_of(&mut self, peer: &PeerId) -> Option<&mut Candidate> {
        let candidate = self.candidates.of_peer_mut(peer)?;
        matches!(candidate.state, State::Asked { .. }).then_some(candidate)
    }

    /// Whether it has ended, and why.
    pub(crate) fn end(&self, now: Instant) -> Option<End> {
        let enough = match &self.goal {
            Goal::Closest => false,
            Goal::Providers(wanted) => self.providers.are_enough(*wanted),
            Goal::Peer(peer) => self.candidates.is_settled(peer),
        };
        if enough {
            return Some(End::Enough);
        }
        if now >= self.deadline {
            return Some(End::Timeout);
        }
        let survey = self.candidates.survey(now);
        let may_ask = self.asked < self.settings.width * QUESTIONS_EACH;
        let asks = may_ask && survey.next.iter().any(Option::is_some);
        // Where others are too few, the late ones are waited for some more. Where nobody has answered,
        // it may be this node that is slow, and nobody is given up before their questions have failed.
        let hopes = survey.answered < self.settings.width
            && self.waiting.iter().any(|waiting| waiting.lost_at > now || self.answered == 0);
        (!asks && !survey.waits && !hopes).then_some(End::Converged)
    }

    /// When time alone may change what it wants: call [`Self::next`] and [`Self::end`] then.
    pub(crate) fn wakes_at(&self, now: Instant) -> Instant {
        let times = self.waiting.iter().flat_map(|waiting| [waiting.late_at, waiting.lost_at]);
        times.filter(|at| *at > now).min().map_or(self.deadline, |at| at.min(self.deadline))
    }

    /// What it has found, however it ended.
    pub(crate) fn outcome(&self, end: End) -> Outcome {
        let closest = self.candidates.closest();
        let hops = closest.iter().map(|(_, hops)| hops + 1).max().unwrap_or_default();
        let providers = match self.goal {
            Goal::Providers(wanted) => self.providers.all(wanted),
            Goal::Closest | Goal::Peer(_) => Vec::new(),
        };
        Outcome {
            end,
            closest: closest.into_iter().map(|(contact, _)| contact).collect(),
            hops: if end == End::Enough { self.providers.hops() } else { hops },
            providers,
            asked: self.asked,
            answered: self.answered,
        }
    }
}

/// Those of a contact's addresses that a lookup keeps: QUIC and TCP, over IPv4 and IPv6.
fn kept(addresses: Vec<Multiaddr>) -> Vec<Multiaddr> {
    const ADDRESSES: usize = 4;
    let mut kept = addresses;
    kept.truncate(ADDRESSES);
    kept
}
