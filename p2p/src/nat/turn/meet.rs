//! Which peers meet at a TURN server, and who dials whom. Pure: no clock, no network.
//!
//! A peer that is connected over circuits alone is asked, over one of them, where it is seen; that is
//! what the permission needs. One relayed address is enough for two peers:
//!
//! - If the one that was asked has one, it gives the asker's addresses permission, answers, and is
//!   dialled at its relayed address.
//! - Otherwise the asker has one: it gives the other permission once it has the answer, and is dialled
//!   by the other, whose first packets may come before the permission and are sent again.
//!
//! Whoever dials does so from its own port, through any NAT, for a permission is of an IP address and
//! of all ports there. Only where UDP does not get out at all does it dial from a relayed address of its
//! own.

use super::{
    config::Upgrade,
    metrics::Met,
    wire::{Place, Refusal, Response},
};
use crate::{AddressPolicy, PeerId, nat::rates::Rates};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// What this node has of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Here {
    /// Where others see it.
    pub(super) seen_at: Vec<SocketAddr>,
    /// Its address at a TURN server.
    pub(super) relayed: Option<SocketAddr>,
    /// Whether UDP gets out.
    pub(super) udp: bool,
}

impl Here {
    fn place(&self) -> Place {
        Place::new(self.seen_at.iter().copied(), self.relayed)
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Ask a peer.
    Ask(PeerId, Place),
    /// Answer it.
    Answer(PeerId, Response),
    /// Let these addresses send to the relayed one; [`Meetings::on_permitted`] with this token says
    /// what came of it.
    Permit(u64, Vec<IpAddr>),
    /// Dial a peer at its relayed address: from this node's own if `through`.
    Dial { peer: PeerId, to: SocketAddr, through: bool },
    /// It has ended: for the metrics. Whether the peer had asked.
    Ended { by_peer: bool, met: Met },
}

/// Whom this node may do something about; 200 bytes.
#[derive(Debug)]
struct Peer {
    circuits: usize,
    others: usize,
    /// Not asked before.
    next: Instant,
    /// The wait after the next failure.
    wait: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It was asked.
    Asked,
    /// The server was asked for permission; what comes then.
    Permits(u64, Then),
    /// It is being dialled.
    Dials,
    /// It dials.
    Waits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Answer,
    Dial(SocketAddr),
    Wait,
}

#[derive(Debug)]
struct Attempt {
    by_peer: bool,
    step: Step,
    ends: Instant,
}

/// Peers connected over circuits, those asked and those that asked; all bounded by the configuration.
#[derive(Debug)]
pub(super) struct Meetings {
    config: Upgrade,
    local: PeerId,
    policy: AddressPolicy,
    here: Here,
    peers: HashMap<PeerId, Peer>,
    attempts: BTreeMap<PeerId, Attempt>,
    rates: Rates,
    tokens: u64,
    actions: VecDeque<Action>,
}

impl Meetings {
    pub(super) fn new(config: &Upgrade, local: PeerId, policy: AddressPolicy) -> Self {
        Self {
            config: config.clone(),
            local,
            policy,
            here: Here { udp: true, ..Here::default() },
            peers: HashMap::new(),
            attempts: BTreeMap::new(),
            rates: Rates::new(config.per_minute, config.peer_per_minute, config.max_peers),
            tokens: 0,
            actions: VecDeque::new(),
        }
    }

    /// What this node has now.
    pub(super) fn on_here(&mut self, here: Here) {
        let lost = self.here.relayed.is_some() && self.here.relayed != here.relayed;
        self.here = here;
        if lost {
            // Whoever dials the old address finds nobody.
            let waiting: Vec<PeerId> = self
                .attempts
                .iter()
                .filter(|(_, attempt)| matches!(attempt.step, Step::Waits | Step::Permits(..)))
                .map(|(peer, _)| *peer)
                .collect();
            for peer in waiting {
                self.end(&peer, Met::Gone, None);
            }
        }
    }

    /// A connection is there, over a circuit or not.
    pub(super) fn on_connected(&mut self, peer: PeerId, circuit: bool, now: Instant) {
        if !circuit {
            self.end(&peer, Met::Connected, None);
        }
        let room = self.peers.len() < self.config.max_peers;
        let (next, wait) = (now + self.config.after, self.config.retry);
        // Only who has a circuit is of interest.
        let known = match (circuit && room, self.peers.get_mut(&peer)) {
            (_, Some(known)) => known,
            (true, None) => {
                let fresh = Peer { circuits: 0, others: 0, next, wait };
                self.peers.entry(peer).or_insert(fresh)
            }
            (false, None) => return,
        };
        if circuit {
            known.circuits += 1;
        } else {
            known.others += 1;
            known.wait = self.config.retry;
        }
    }

    /// A connection has closed.
    pub(super) fn on_closed(&mut self, peer: &PeerId, circuit: bool, now: Instant) {
        let after = self.config.after;
        let Some(known) = self.peers.get_mut(peer) else { return };
        let count = if circuit { &mut known.circuits } else { &mut known.others };
        *count = count.saturating_sub(1);
        if known.circuits == 0 && known.others == 0 {
            self.peers.remove(peer);
            self.end(peer, Met::Gone, None);
        } else if known.others == 0 && !circuit {
            known.next = known.next.max(now + after);
        }
    }

    /// Begins what is due and ends what has taken too long.
    pub(super) fn on_tick(&mut self, now: Instant) {
        let late: Vec<PeerId> = self
            .attempts
            .iter()
            .filter(|(_, attempt)| attempt.ends <= now)
            .map(|(peer, _)| *peer)
            .collect();
        for peer in late {
            self.end(&peer, Met::Timeout, Some(now));
        }
        if self.here.relayed.is_none() {
            return;
        }
        let mut due: Vec<(Instant, PeerId)> = self
            .peers
            .iter()
            .filter(|(peer, known)| {
                let alone = known.circuits > 0 && known.others == 0 && known.next <= now;
                alone && !self.attempts.contains_key(*peer)
            })
            .map(|(peer, known)| (known.next, *peer))
            .collect();
        due.sort_unstable();
        for (_, peer) in due {
            if !self.begin(peer, false, Step::Asked, now) {
                return;
            }
            self.actions.push_back(Action::Ask(peer, self.here.place()));
        }
    }

    fn begin(&mut self, peer: PeerId, by_peer: bool, step: Step, now: Instant) -> bool {
        let room = self.attempts.len() < self.config.max_attempts;
        if room {
            let ends = now + self.config.timeout;
            self.attempts.insert(peer, Attempt { by_peer, step, ends });
        }
        room
    }

    /// A peer asks. What is answered comes as an action, at once or later.
    pub(super) fn on_request(&mut self, peer: PeerId, place: &Place, now: Instant) {
        if let Some(refusal) = self.judge(peer, place, now).err() {
            self.refuse(peer, refusal);
        }
    }

    fn refuse(&mut self, peer: PeerId, refusal: Refusal) {
        self.actions.push_back(Action::Answer(peer, Response::Refused(refusal)));
        self.actions.push_back(Action::Ended { by_peer: true, met: Met::Refused });
    }

    fn judge(&mut self, peer: PeerId, place: &Place, now: Instant) -> Result<(), Refusal> {
        if !self.rates.take(&peer, now) {
            return Err(Refusal::Busy);
        }
        if self.peers.get(&peer).is_some_and(|known| known.others > 0) {
            return Err(Refusal::Underway);
        }
        if let Some(attempt) = self.attempts.get(&peer) {
            // Both asked at the same time: the one of the lower id asks.
            if attempt.step != Step::Asked || self.local < peer {
                return Err(Refusal::Underway);
            }
            self.attempts.remove(&peer);
        }
        if self.here.relayed.is_some() {
            let token = self.token();
            if !self.begin(peer, true, Step::Permits(token, Then::Answer), now) {
                return Err(Refusal::Busy);
            }
            self.actions.push_back(Action::Permit(token, place.sends_from(self.policy)));
            return Ok(());
        }
        let relayed = place.relayed(self.policy).filter(|_| self.here.udp);
        let to = relayed.ok_or(Refusal::NoRelay)?;
        if !self.begin(peer, true, Step::Dials, now) {
            return Err(Refusal::Busy);
        }
        self.actions.push_back(Action::Answer(peer, Response::Meets(self.here.place())));
        self.actions.push_back(Action::Dial { peer, to, through: false });
        Ok(())
    }

    fn token(&mut self) -> u64 {
        self.tokens += 1;
        self.tokens
    }

    /// A peer that was asked has answered.
    pub(super) fn on_response(&mut self, peer: &PeerId, response: &Response, now: Instant) {
        if self.attempts.get(peer).is_none_or(|attempt| attempt.step != Step::Asked) {
            return;
        }
        let place = match response {
            Response::Meets(place) => place,
            Response::Refused(_) => {
                self.end(peer, Met::Refused, Some(now));
                return;
            }
        };
        let (step, action) = match (place.relayed(self.policy), self.here.udp) {
            (Some(to), true) => (Step::Dials, Action::Dial { peer: *peer, to, through: false }),
            (Some(to), false) => {
                let token = self.token();
                (Step::Permits(token, Then::Dial(to)), Action::Permit(token, vec![to.ip()]))
            }
            (None, _) => {
                let token = self.token();
                let permit = Action::Permit(token, place.sends_from(self.policy));
                (Step::Permits(token, Then::Wait), permit)
            }
        };
        self.step(peer, step);
        self.actions.push_back(action);
    }

    fn step(&mut self, peer: &PeerId, step: Step) {
        if let Some(attempt) = self.attempts.get_mut(peer) {
            attempt.step = step;
        }
    }

    /// A peer that was asked did not answer.
    pub(super) fn on_no_response(&mut self, peer: &PeerId, met: Met, now: Instant) {
        if self.attempts.get(peer).is_some_and(|attempt| attempt.step == Step::Asked) {
            self.end(peer, met, Some(now));
        }
    }

    /// The server has decided on a permission.
    pub(super) fn on_permitted(&mut self, token: u64, any: bool, now: Instant) {
        let of = |attempt: &Attempt| match attempt.step {
            Step::Permits(known, then) if known == token => Some(then),
            _ => None,
        };
        let found = self.attempts.iter().find_map(|(peer, known)| Some((*peer, of(known)?)));
        let Some((peer, then)) = found else { return };
        if !any {
            self.end(&peer, Met::NotPermitted, Some(now));
            return;
        }
        let step = match then {
            Then::Answer => {
                let response = Response::Meets(self.here.place());
                self.actions.push_back(Action::Answer(peer, response));
                Step::Waits
            }
            Then::Dial(to) => {
                self.actions.push_back(Action::Dial { peer, to, through: true });
                Step::Dials
            }
            Then::Wait => Step::Waits,
        };
        self.step(&peer, step);
    }

    /// A relayed address was dialled in vain.
    pub(super) fn on_dial_failed(&mut self, peer: &PeerId, now: Instant) {
        if self.attempts.get(peer).is_some_and(|attempt| attempt.step == Step::Dials) {
            self.end(peer, Met::DialFailed, Some(now));
        }
    }

    /// An attempt is over. If it failed `failed_at`, the peer is left alone for a while.
    fn end(&mut self, peer: &PeerId, met: Met, failed_at: Option<Instant>) {
        let Some(Attempt { by_peer, step, .. }) = self.attempts.remove(peer) else { return };
        if matches!(step, Step::Permits(_, Then::Answer)) {
            let refusal = match met {
                Met::Connected => Refusal::Underway,
                Met::NotPermitted => Refusal::NotPermitted,
                _ => Refusal::Busy,
            };
            self.actions.push_back(Action::Answer(*peer, Response::Refused(refusal)));
        }
        self.actions.push_back(Action::Ended { by_peer, met });
        if let (Some(now), Some(known)) = (failed_at, self.peers.get_mut(peer)) {
            known.next = now + known.wait;
            known.wait = known.wait.saturating_mul(2).min(self.config.retry_max);
        }
    }

    /// What is to be done since the last call.
    pub(super) fn actions(&mut self) -> VecDeque<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Peers that are being met.
    pub(super) fn underway(&self) -> usize {
        self.attempts.len()
    }
}
