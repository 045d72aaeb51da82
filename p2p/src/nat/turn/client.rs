//! One allocation at one server, from the first request to its end. Pure: no clock, socket or
//! randomness.
//!
//! The first request goes without a signature; the server says what it wants requests to be signed
//! with, and the same goes again with it (RFC 8489, 9.2). From then on an answer counts only if it
//! proves the key. A nonce that has become stale is replaced, a few times; whoever says so for ever is
//! given up.

use super::{
    config::MIN_LIFETIME,
    credentials::{Credentials, Signature},
    event::{Allocation, Delivery, End, Event, Rules, Unsent},
    frame::{self, Frame, NoFrame},
    message::{self, Answer, Id, Read, Request},
    outcome::{Asked, Bad, Outcome},
    peers::{Peers, Route, Want},
};
use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// How often a server may find the nonce of one request stale. Once is usual.
const MAX_STALE: u8 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Asking,
    Open(Allocation),
    /// It is being given back.
    Closing,
    Over(End),
}

/// A request without an answer: 200 bytes and the message, at most 1 KiB.
#[derive(Debug)]
struct Transaction {
    id: Id,
    request: Request,
    signed: Option<Signature>,
    bytes: Vec<u8>,
    sent: usize,
    stale: u8,
    next: Instant,
}

/// Bounded by the tables of [`Peers`]: a request for each entry, and one for the allocation itself. 64
/// peers come to 193 requests, 230 KB if all wait at the same time.
#[derive(Debug)]
pub(super) struct Client {
    rules: Rules,
    credentials: Option<Credentials>,
    /// What ids are derived from, so that nobody off the path can guess them.
    seed: [u8; 32],
    ids: u64,
    phase: Phase,
    signature: Option<Signature>,
    open: Vec<Transaction>,
    peers: Peers,
    renew: Option<Instant>,
    spoke: Instant,
    /// Drained after each step.
    events: VecDeque<Event>,
}

impl Client {
    /// Asks for an allocation.
    pub(super) fn new(
        rules: Rules,
        credentials: Option<Credentials>,
        seed: [u8; 32],
        now: Instant,
    ) -> Self {
        let peers = Peers::new(rules.max_peers, rules.idle);
        let request = Request::Allocate { v6: rules.v6, lifetime: seconds(rules.lifetime) };
        let mut client = Self {
            rules,
            credentials,
            seed,
            ids: 0,
            phase: Phase::Asking,
            signature: None,
            open: Vec::new(),
            peers,
            renew: None,
            spoke: now,
            events: VecDeque::new(),
        };
        client.ask(request, 0, now);
        client
    }

    fn id(&mut self) -> Id {
        let hash = blake3::keyed_hash(&self.seed, &self.ids.to_be_bytes());
        self.ids += 1;
        let mut id = Id::default();
        for (to, from) in id.iter_mut().zip(hash.as_bytes()) {
            *to = *from;
        }
        id
    }

    fn ask(&mut self, request: Request, stale: u8, now: Instant) {
        let (id, signed) = (self.id(), self.signature.clone());
        match message::request(id, &request, signed.as_ref()) {
            Some(bytes) => {
                let transaction =
                    Transaction { id, request, signed, bytes, sent: 0, stale, next: now };
                self.open.push(transaction);
            }
            // The server's realm or nonce is too long to be sent back.
            None => self.failed(&request, Outcome::Impossible, now),
        }
    }

    /// Lets an address send to the relayed one. An [`Event::Permitted`] tells what came of it, at once
    /// if it has the permission already or there is no room.
    pub(super) fn permit(&mut self, ip: IpAddr, now: Instant) {
        let room = self.rules.policy.allows_ip(ip) && ip.is_ipv6() == self.rules.v6;
        let known = if room { self.peers.permit(ip, now) } else { None };
        match known {
            Some(true) => self.events.push_back(Event::Permitted(ip, true)),
            Some(false) => {}
            None => self.events.push_back(Event::Permitted(ip, false)),
        }
    }

    /// What carries a datagram to an address.
    pub(super) fn send(
        &mut self,
        to: SocketAddr,
        payload: &[u8],
        now: Instant,
    ) -> Result<Vec<u8>, Unsent> {
        if !matches!(self.phase, Phase::Open(_)) {
            return Err(Unsent::NotPermitted);
        }
        let bytes = match self.peers.route(to, now) {
            Route::Channel(number) => frame::channel(number, payload, self.rules.stream),
            Route::Indication => message::send(self.id(), to, payload),
            Route::Nowhere => return Err(Unsent::NotPermitted),
        };
        self.spoke = now;
        bytes.ok_or(Unsent::TooLong)
    }

    /// What to send to the server now; gives up what waited long enough.
    pub(super) fn poll(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let mut sends = Vec::new();
        if let Phase::Open(allocation) = self.phase {
            self.keep(allocation, now);
        }
        if matches!(self.phase, Phase::Over(_)) {
            return sends;
        }
        // Giving up may ask something new, which is sent at once.
        while let Some(at) = self.open.iter().position(|transaction| transaction.next <= now) {
            let wait = self.open.get(at).and_then(|t| self.rules.waits.get(t.sent)).copied();
            match (wait, self.open.get_mut(at)) {
                (Some(wait), Some(transaction)) => {
                    transaction.sent += 1;
                    transaction.next = now + wait;
                    sends.push(transaction.bytes.clone());
                }
                _ => {
                    let transaction = self.open.swap_remove(at);
                    self.failed(&transaction.request, Outcome::Timeout, now);
                }
            }
        }
        if !sends.is_empty() {
            self.spoke = now;
        } else if self.speaks_at().is_some_and(|at| at <= now) {
            self.spoke = now;
            sends.extend(message::keep_alive(self.id()));
        }
        sends
    }

    /// Renews what is to be renewed.
    fn keep(&mut self, allocation: Allocation, now: Instant) {
        if now >= allocation.ends {
            self.end(End::Over(Outcome::Expired));
            return;
        }
        if self.renew.is_some_and(|at| at <= now) {
            self.renew = None;
            self.ask(Request::Refresh { lifetime: seconds(self.rules.lifetime) }, 0, now);
        }
        self.peers.expire(now);
        for want in self.peers.wants(now) {
            let request = match want {
                Want::Permit(ip) => Request::Permit(ip),
                Want::Bind { number, peer } => Request::Bind { number, peer },
            };
            self.ask(request, 0, now);
        }
    }

    fn speaks_at(&self) -> Option<Instant> {
        let open = matches!(self.phase, Phase::Open(_));
        Some(self.spoke + self.rules.keep_alive.filter(|_| open)?)
    }

    /// When [`Self::poll`] has something to do; never, once it is over.
    pub(super) fn wakes_at(&self, now: Instant) -> Option<Instant> {
        let requests = self.open.iter().map(|transaction| transaction.next);
        let kept = match self.phase {
            Phase::Over(_) => return None,
            Phase::Open(allocation) => {
                [Some(allocation.ends), self.renew, self.peers.wakes_at(now), self.speaks_at()]
            }
            Phase::Asking | Phase::Closing => [None; 4],
        };
        requests.chain(kept.into_iter().flatten()).min()
    }

    /// A datagram of the server, or a frame of its stream; what of it is for the node.
    pub(super) fn on_bytes(&mut self, bytes: &[u8], now: Instant) -> Option<Delivery> {
        let read = match frame::read(bytes) {
            Ok(Frame::Channel(number, payload)) => {
                let from = self.peers.of_channel(number, now);
                if from.is_none() {
                    self.dropped(Bad::Unexpected);
                }
                return Some(Delivery { from: from?, payload: payload.to_vec() });
            }
            Ok(Frame::Stun(bytes)) => message::read(bytes),
            Err(NoFrame::Malformed) => Err(Bad::Malformed),
            Err(NoFrame::Oversized) => Err(Bad::Oversized),
        };
        match read {
            Ok(Read::Data { from, payload }) => {
                if self.peers.hears(from, now) {
                    return Some(Delivery { from, payload });
                }
                self.dropped(Bad::Unexpected);
            }
            Ok(Read::Answer { id, asked, answer }) => self.on_answer(bytes, id, asked, answer, now),
            Err(bad) => self.dropped(bad),
        }
        None
    }

    /// Something came from elsewhere than the server.
    pub(super) fn on_stranger(&mut self) {
        self.dropped(Bad::WrongAddress);
    }

    fn on_answer(&mut self, bytes: &[u8], id: Id, asked: Asked, answer: Answer, now: Instant) {
        let of = |known: &Transaction| known.id == id && known.request.asked() == asked;
        let Some(at) = self.open.iter().position(of) else {
            self.dropped(Bad::WrongTransaction);
            return;
        };
        let signed = self.open.get(at).and_then(|known| known.signed.as_ref());
        // A server that does not know the nonce any more cannot prove anything (RFC 8489, 9.2.5).
        let refused = matches!(answer, Answer::Refused { code: 401 | 438, .. });
        if signed.is_some_and(|signed| !refused && !message::is_authentic(bytes, signed)) {
            self.dropped(Bad::Unauthentic);
            return;
        }
        let Transaction { request, signed, stale, .. } = self.open.swap_remove(at);
        match answer {
            Answer::Done { relayed, mapped, lifetime } => {
                self.done(&request, relayed, mapped, lifetime, now);
            }
            Answer::Redirect(to) if asked == Asked::Allocate => {
                self.answered(asked, Outcome::Redirect);
                self.end(End::Redirect(to));
            }
            Answer::Redirect(_) => self.failed(&request, Outcome::Refused, now),
            Answer::Refused { code, challenge } => {
                let again = match code {
                    401 => signed.is_none(),
                    438 => stale < MAX_STALE,
                    _ => false,
                };
                let signature = challenge.filter(|_| again).and_then(|challenge| {
                    self.credentials.as_ref().and_then(|known| known.answer(&challenge))
                });
                match signature {
                    Some(signature) => {
                        self.signature = Some(signature);
                        self.ask(request, stale + u8::from(code == 438), now);
                    }
                    None if code == 401 && self.credentials.is_none() => {
                        self.failed(&request, Outcome::Credentials, now);
                    }
                    None => self.failed(&request, Outcome::of_code(code), now),
                }
            }
        }
    }

    fn done(
        &mut self,
        request: &Request,
        relayed: Option<SocketAddr>,
        mapped: Option<SocketAddr>,
        lifetime: Option<u32>,
        now: Instant,
    ) {
        let lasts = Duration::from_secs(lifetime.unwrap_or_default().into());
        match *request {
            Request::Allocate { v6, .. } => {
                let policy = self.rules.policy;
                let fit = |at: &SocketAddr| {
                    at.port() != 0 && at.is_ipv6() == v6 && policy.allows_ip(at.ip())
                };
                let Some(relayed) = relayed.filter(fit).filter(|_| lasts >= MIN_LIFETIME) else {
                    self.failed(request, Outcome::Impossible, now);
                    return;
                };
                let mapped = mapped.filter(|at| at.port() != 0 && policy.allows_ip(at.ip()));
                let allocation = Allocation { relayed, mapped, ends: now + lasts };
                self.phase = Phase::Open(allocation);
                self.renew = Some(now + lasts / 2);
                self.events.push_back(Event::Opened(allocation));
            }
            Request::Refresh { .. } => match &mut self.phase {
                Phase::Closing => self.end(End::Over(Outcome::Released)),
                Phase::Open(_) if lasts < MIN_LIFETIME => {
                    self.failed(request, Outcome::Impossible, now);
                    return;
                }
                Phase::Open(allocation) => {
                    allocation.ends = now + lasts;
                    self.renew = Some(now + lasts / 2);
                }
                Phase::Asking | Phase::Over(_) => {}
            },
            Request::Permit(ip) => {
                self.peers.permitted(ip, true, now);
                self.events.push_back(Event::Permitted(ip, true));
            }
            Request::Bind { number, .. } => self.peers.bound(number, true, now),
        }
        self.answered(request.asked(), Outcome::Done);
    }

    fn failed(&mut self, request: &Request, outcome: Outcome, now: Instant) {
        self.answered(request.asked(), outcome);
        match request {
            Request::Allocate { .. } | Request::Refresh { .. } => {
                let closing = self.phase == Phase::Closing;
                self.end(End::Over(if closing { Outcome::Released } else { outcome }));
            }
            Request::Permit(ip) => {
                self.peers.permitted(*ip, false, now);
                self.events.push_back(Event::Permitted(*ip, false));
                // The server has lost the allocation, and would say so of all that is asked.
                if outcome == Outcome::Mismatch {
                    self.end(End::Over(outcome));
                }
            }
            Request::Bind { number, .. } => self.peers.bound(*number, false, now),
        }
    }

    fn answered(&mut self, asked: Asked, outcome: Outcome) {
        self.events.push_back(Event::Answered(asked, outcome));
    }

    fn dropped(&mut self, bad: Bad) {
        self.events.push_back(Event::Dropped(bad));
    }

    fn end(&mut self, end: End) {
        self.phase = Phase::Over(end);
        self.open.clear();
    }

    /// Gives the allocation back. It is over when the server has said that it has it, or does not.
    pub(super) fn close(&mut self, now: Instant) {
        match self.phase {
            Phase::Open(_) => {
                self.open.clear();
                self.phase = Phase::Closing;
                self.ask(Request::Refresh { lifetime: 0 }, 0, now);
            }
            // Nothing may be there to give back; whatever is ends by itself.
            Phase::Asking => self.end(End::Over(Outcome::Released)),
            Phase::Closing | Phase::Over(_) => {}
        }
    }

    /// How it ended, once it has.
    pub(super) fn is_over(&self) -> Option<End> {
        match self.phase {
            Phase::Over(end) => Some(end),
            _ => None,
        }
    }

    /// The allocation, while there is one.
    pub(super) fn allocation(&self) -> Option<Allocation> {
        match self.phase {
            Phase::Open(allocation) => Some(allocation),
            _ => None,
        }
    }

    /// Permissions and channels that the server keeps.
    pub(super) fn counts(&self, now: Instant) -> (usize, usize) {
        self.peers.counts(now)
    }

    /// What has happened since the last call.
    pub(super) fn events(&mut self) -> VecDeque<Event> {
        std::mem::take(&mut self.events)
    }
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}
