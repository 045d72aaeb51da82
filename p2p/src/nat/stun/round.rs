//! One round of questions to all servers, and the questions that tell how the NAT behaves. Pure: no
//! clock, socket or randomness.
//!
//! All servers are asked at once, each again and again until it has answered. The first that can be
//! asked at a second address too is then asked to answer from elsewhere, which shows what the NAT
//! lets in, and after that is asked at its other address, which shows whether the NAT maps this
//! socket anew for it (RFC 5780, 4.3 and 4.4). In this order: once this node has sent to the other
//! address, the NAT lets answers from there in anyway.

use super::message::{self, Answer, Bad, Change, Id};
use crate::{
    AddressPolicy,
    nat::{Filtering, Mapping, mapping_of},
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// How a question to a server has ended, and what was wrong with datagrams: a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It answered.
    Answered,
    /// Nothing came, however often it was asked.
    Timeout,
    /// It answered with an error.
    Refused,
    /// It sent on to another server in a circle, too often, or to an address that may not be asked.
    Redirect,
    /// It said that this node has an address that nobody can have on this chain.
    Impossible,
    /// A datagram was no STUN message, cut short, or no answer.
    Malformed,
    /// A datagram was longer than any answer.
    Oversized,
    /// An answer came from an address that was not asked.
    WrongAddress,
    /// An answer was to no question of this round.
    WrongTransaction,
    /// The server's name led to no address.
    Unresolved,
    /// The question could not be sent.
    Unsent,
}

impl Outcome {
    pub(crate) const ALL: [Self; 11] = [
        Self::Answered,
        Self::Timeout,
        Self::Refused,
        Self::Redirect,
        Self::Impossible,
        Self::Malformed,
        Self::Oversized,
        Self::WrongAddress,
        Self::WrongTransaction,
        Self::Unresolved,
        Self::Unsent,
    ];

    /// The metric label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Redirect => "redirect",
            Self::Impossible => "impossible",
            Self::Malformed => "malformed",
            Self::Oversized => "oversized",
            Self::WrongAddress => "wrong_address",
            Self::WrongTransaction => "wrong_transaction",
            Self::Unresolved => "unresolved",
            Self::Unsent => "unsent",
        }
    }
}

/// What one server said in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    /// Where it was asked first.
    pub(crate) server: SocketAddr,
    /// Where it saw this node, or why it said nothing of use.
    pub(crate) result: Result<SocketAddr, Outcome>,
    /// Time from the first question to the end.
    pub(crate) took: Duration,
}

/// What a round has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// As many as servers were asked.
    pub(crate) said: Vec<Said>,
    /// How the NAT maps, if that was seen.
    pub(crate) mapping: Option<Mapping>,
    /// What the NAT lets in, if that was seen.
    pub(crate) filtering: Option<Filtering>,
}

/// How questions are asked.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// Wait after each time a question is sent; the question fails after the last.
    pub(super) retransmit: Vec<Duration>,
    /// How often a server may send on to another.
    pub(super) redirects: usize,
    pub(super) policy: AddressPolicy,
}

/// What a question is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// The address; of which server, and how often it may still send on.
    Binding {
        server: usize,
        redirects: usize,
    },
    FilterBoth,
    FilterPort,
    MapAddress,
    MapPort,
}

/// A question without an end. 100 bytes; as many as servers, and two.
#[derive(Debug)]
struct Question {
    id: Id,
    to: SocketAddr,
    /// From where the answer comes.
    from: SocketAddr,
    change: Change,
    purpose: Purpose,
    sent: usize,
    next: Instant,
}

/// The questions that tell how the NAT behaves.
#[derive(Clone, Copy, Debug)]
struct Study {
    server: SocketAddr,
    other: SocketAddr,
    mapped: SocketAddr,
    /// Where the other address saw this node.
    elsewhere: Option<SocketAddr>,
    both: Option<bool>,
    port: Option<bool>,
}

/// A datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Send {
    pub(super) to: SocketAddr,
    pub(super) bytes: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Round {
    rules: Rules,
    /// What ids are derived from, so that nobody off the path can guess them.
    seed: [u8; 32],
    ids: u64,
    began: Instant,
    open: Vec<Question>,
    /// As many as servers were asked; none is there until its question has ended.
    said: Vec<(SocketAddr, Option<Said>)>,
    /// All that was asked: servers, and where they sent on. Bounded by servers * (redirects + 1).
    asked: HashSet<SocketAddr>,
    study: Option<Study>,
    discover: bool,
    mapping: Option<Mapping>,
    filtering: Option<Filtering>,
    /// Drained after each step.
    outcomes: Vec<Outcome>,
}

impl Round {
    /// Asks `servers`. How the NAT behaves is found out if `discover`: the socket must be a new
    /// one.
    pub(super) fn new(
        rules: Rules,
        servers: &[SocketAddr],
        discover: bool,
        seed: [u8; 32],
        now: Instant,
    ) -> Self {
        let mut round = Self {
            rules,
            seed,
            ids: 0,
            began: now,
            open: Vec::new(),
            said: servers.iter().map(|server| (*server, None)).collect(),
            asked: servers.iter().copied().collect(),
            study: None,
            discover,
            mapping: None,
            filtering: None,
            outcomes: Vec::new(),
        };
        let redirects = round.rules.redirects;
        for (server, to) in servers.iter().enumerate() {
            let purpose = Purpose::Binding { server, redirects };
            round.ask(*to, *to, Change::Nothing, purpose, now);
        }
        round
    }

    fn ask(
        &mut self,
        to: SocketAddr,
        from: SocketAddr,
        change: Change,
        purpose: Purpose,
        now: Instant,
    ) {
        let hash = blake3::keyed_hash(&self.seed, &self.ids.to_be_bytes());
        self.ids += 1;
        let mut id = Id::default();
        for (to, from) in id.iter_mut().zip(hash.as_bytes()) {
            *to = *from;
        }
        self.open.push(Question { id, to, from, change, purpose, sent: 0, next: now });
    }

    /// What to send now; and gives up what waited long enough.
    pub(super) fn poll(&mut self, now: Instant) -> Vec<Send> {
        let mut sends = Vec::new();
        // Giving up may ask something new, which is sent at once.
        while let Some(at) = self.open.iter().position(|question| question.next <= now) {
            let wait = self.open.get(at).and_then(|q| self.rules.retransmit.get(q.sent)).copied();
            match (wait, self.open.get_mut(at)) {
                (Some(wait), Some(question)) => {
                    question.sent += 1;
                    question.next = now + wait;
                    let bytes = message::request(question.id, question.change);
                    sends.push(Send { to: question.to, bytes });
                }
                _ => {
                    let question = self.open.swap_remove(at);
                    self.end(&question, Err(Outcome::Timeout), now);
                }
            }
        }
        sends
    }

    /// When [`Self::poll`] has something to do; never, if the round is over.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        self.open.iter().map(|question| question.next).min()
    }

    /// A question could not be sent.
    pub(super) fn on_unsent(&mut self, to: SocketAddr, now: Instant) {
        while let Some(at) = self.open.iter().position(|question| question.to == to) {
            let question = self.open.swap_remove(at);
            self.end(&question, Err(Outcome::Unsent), now);
        }
    }

    /// A datagram has come.
    pub(super) fn on_datagram(&mut self, from: SocketAddr, bytes: &[u8], now: Instant) {
        let (id, answer) = match message::answer(bytes) {
            Ok(read) => read,
            Err(bad) => {
                // Anybody may send to this socket, so it ends no question.
                self.outcomes.push(match bad {
                    Bad::Oversized => Outcome::Oversized,
                    Bad::Malformed | Bad::NotAnAnswer | Bad::NoAddress => Outcome::Malformed,
                });
                return;
            }
        };
        let Some(at) = self.open.iter().position(|question| question.id == id) else {
            self.outcomes.push(Outcome::WrongTransaction);
            return;
        };
        if self.open.get(at).is_none_or(|question| question.from != from) {
            self.outcomes.push(Outcome::WrongAddress);
            return;
        }
        let question = self.open.swap_remove(at);
        match (answer, question.purpose) {
            (Answer::Mapped { mapped, other }, purpose) => {
                if mapped.port() == 0 || !self.rules.policy.allows_ip(mapped.ip()) {
                    self.end(&question, Err(Outcome::Impossible), now);
                    return;
                }
                self.end(&question, Ok(mapped), now);
                if let (Purpose::Binding { .. }, Some(other)) = (purpose, other) {
                    self.study(question.to, other, mapped, now);
                }
            }
            (Answer::Redirect(to), Purpose::Binding { server, redirects }) => {
                let fresh = to.port() != 0
                    && to.is_ipv4() == question.to.is_ipv4()
                    && self.rules.policy.allows_ip(to.ip())
                    && !self.asked.contains(&to);
                match redirects.checked_sub(1).filter(|_| fresh) {
                    Some(redirects) => {
                        self.asked.insert(to);
                        let purpose = Purpose::Binding { server, redirects };
                        self.ask(to, to, Change::Nothing, purpose, now);
                    }
                    None => self.end(&question, Err(Outcome::Redirect), now),
                }
            }
            (Answer::Redirect(_) | Answer::Refused(_), _) => {
                self.end(&question, Err(Outcome::Refused), now);
            }
        }
    }

    /// Begins to find out how the NAT behaves, with the first server that can show it.
    fn study(&mut self, server: SocketAddr, other: SocketAddr, mapped: SocketAddr, now: Instant) {
        let fit = other.is_ipv4() == server.is_ipv4()
            && other.ip() != server.ip()
            && other.port() != server.port()
            && other.port() != 0
            && self.rules.policy.allows_ip(other.ip())
            // What this node has sent to already gets through whatever the NAT's rule is.
            && !self.asked.iter().any(|asked| asked.ip() == other.ip());
        if !self.discover || self.study.is_some() || !fit {
            return;
        }
        self.study = Some(Study { server, other, mapped, elsewhere: None, both: None, port: None });
        self.ask(server, other, Change::Both, Purpose::FilterBoth, now);
        let same_ip = SocketAddr::new(server.ip(), other.port());
        self.ask(server, same_ip, Change::Port, Purpose::FilterPort, now);
    }

    fn end(&mut self, question: &Question, result: Result<SocketAddr, Outcome>, now: Instant) {
        match question.purpose {
            Purpose::Binding { server, .. } => {
                self.outcomes.push(result.err().unwrap_or(Outcome::Answered));
                if let Some((server, said)) = self.said.get_mut(server) {
                    let took = now.saturating_duration_since(self.began);
                    *said = Some(Said { server: *server, result, took });
                }
            }
            purpose => self.studied(purpose, result, now),
        }
    }

    fn studied(&mut self, purpose: Purpose, result: Result<SocketAddr, Outcome>, now: Instant) {
        let Some(study) = &mut self.study else { return };
        // A server that refuses such questions shows nothing; only silence does.
        let came = match result {
            Ok(_) => Some(true),
            Err(Outcome::Timeout) => Some(false),
            Err(_) => None,
        };
        match purpose {
            Purpose::Binding { .. } => {}
            Purpose::FilterBoth | Purpose::FilterPort => {
                if purpose == Purpose::FilterBoth {
                    study.both = came;
                } else {
                    study.port = came;
                }
                let Study { server, other, both, port, .. } = *study;
                let waits = |purpose| self.open.iter().any(|q| q.purpose == purpose);
                if waits(Purpose::FilterBoth) || waits(Purpose::FilterPort) {
                    return;
                }
                self.filtering = match (both, port) {
                    (Some(true), _) => Some(Filtering::Independent),
                    (Some(false), Some(true)) => Some(Filtering::AddressDependent),
                    (Some(false), Some(false)) => Some(Filtering::PortDependent),
                    _ => None,
                };
                let to = SocketAddr::new(other.ip(), server.port());
                self.asked.insert(to);
                self.ask(to, to, Change::Nothing, Purpose::MapAddress, now);
            }
            Purpose::MapAddress => match result {
                Ok(mapped) if mapped == study.mapped => self.mapping = Some(Mapping::Independent),
                Ok(mapped) => {
                    study.elsewhere = Some(mapped);
                    let to = study.other;
                    self.asked.insert(to);
                    self.ask(to, to, Change::Nothing, Purpose::MapPort, now);
                }
                Err(_) => {}
            },
            Purpose::MapPort => {
                self.mapping = match result {
                    Ok(mapped) if Some(mapped) == study.elsewhere => {
                        Some(Mapping::AddressDependent)
                    }
                    Ok(_) => Some(Mapping::PortDependent),
                    // It differs, by what more is not known.
                    Err(_) => Some(Mapping::Dependent),
                };
            }
        }
    }

    /// What ended since the last call, and what was wrong with datagrams.
    pub(super) fn outcomes(&mut self) -> Vec<Outcome> {
        std::mem::take(&mut self.outcomes)
    }

    /// What the round has shown; complete once it is over.
    pub(super) fn report(&self) -> Report {
        let said: Vec<Said> = self.said.iter().filter_map(|(_, said)| *said).collect();
        let mapping = self.mapping.or_else(|| compare(&said));
        Report { said, mapping, filtering: self.filtering }
    }
}

/// How the NAT maps, by what servers at different addresses see. One alone shows nothing, and where
/// two see different addresses, one of them may lie.
fn compare(said: &[Said]) -> Option<Mapping> {
    let mut seen = BTreeMap::<IpAddr, SocketAddr>::new();
    for Said { server, result, .. } in said {
        if let Ok(mapped) = result {
            seen.entry(server.ip()).or_insert(*mapped);
        }
    }
    mapping_of(seen.into_values())
}
