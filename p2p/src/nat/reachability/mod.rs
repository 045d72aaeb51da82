//! Where this node can be reached, and what stands in the way. Pure: no clock, socket or
//! randomness.
//!
//! Addresses come from four sides: the operator, the listeners, the router's mappings, and what
//! peers see. Only the first two are told on their word; any other is told once a peer has dialled
//! it back, and no longer than dial-backs go on to reach it. What a router or a peer says costs a
//! dial-back and nothing more.
//!
//! An address that works is tried again from time to time. When the network changes, when the
//! public address is another than before, or when all connections are lost, all that was learned is
//! in doubt: it is tried at once, and what nobody reaches within [`Config::prove_within`] is
//! withdrawn. Whatever happens, nothing is told for longer than [`Config::proof_lasts`] after it
//! was reached.

mod entry;
#[cfg(test)]
mod tests;
mod verdict;

use self::{entry::Entry, verdict::Evidence};
pub use self::{
    entry::Standing,
    verdict::{State, Verdict},
};
use super::{Config, stun};
use crate::{
    AddressPolicy, Multiaddr, PeerId,
    address::{IpGroup, ip_of},
};
use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    time::Instant,
};

/// Addresses listened on that are kept, at most: 256 * 600 bytes = 150 KB. A machine has a few.
const MAX_LISTENED: usize = 256;

/// How a dial-back has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DialBack {
    /// This server reached this node there, and proved it with the number it was given.
    Reached(PeerId),
    /// This server could not.
    Failed(PeerId),
    /// Nobody could say: there was no server, or it refused, was busy, or went away.
    Unanswered,
}

/// What happens.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// An address is listened on.
    Listens(Multiaddr),
    /// It no longer is.
    Silent(Multiaddr),
    /// A peer in this network sees this node there, on a connection that this node opened from the
    /// port it listens on.
    Observed { addr: Multiaddr, by: IpGroup },
    /// The router says that it maps this address.
    Mapped(Multiaddr),
    /// It no longer does.
    Unmapped(Multiaddr),
    /// A dial-back that was asked for has ended.
    DialBack { addr: Multiaddr, ended: DialBack },
    /// STUN servers were asked.
    Stun(stun::Report),
    /// So many connections are open, so many of them over UDP.
    Connections { open: usize, udp: usize },
    /// The machine has other addresses than before.
    NetworkChanged,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Have the address dialled back, by one of `avoid` only if there is nobody else.
    Test { addr: Multiaddr, avoid: Vec<PeerId> },
    /// Tell others of it.
    Confirm(Multiaddr),
    /// Tell nobody of it any more.
    Withdraw(Multiaddr),
    /// Ask the STUN servers; and what kind of NAT there is if `discover`.
    AskStun { discover: bool },
    /// Ask the router for all mappings anew.
    Map,
}

/// One address, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown<'a> {
    pub(crate) addr: &'a Multiaddr,
    pub(crate) standing: Standing,
    pub(crate) operator: bool,
    pub(crate) listened: bool,
    pub(crate) mapped: bool,
    pub(crate) observers: usize,
    pub(crate) reached_by: usize,
    pub(crate) failures: u32,
    pub(crate) since: Instant,
}

/// The state. At most `max_candidates` + 256 + the operator's addresses of 600 bytes each, with the
/// usual settings 180 KB.
pub(crate) struct Reachability {
    config: Config,
    policy: AddressPolicy,
    entries: HashMap<Multiaddr, Entry>,
    /// IPs listened on, each with how many addresses have it.
    local: BTreeMap<IpAddr, usize>,
    evidence: Evidence,
    /// None where no server is configured.
    next_stun: Option<Instant>,
    next_discovery: Instant,
    actions: Vec<Action>,
}

impl Reachability {
    /// `given` are the operator's addresses, told from the start.
    pub(crate) fn new(
        config: &Config,
        policy: AddressPolicy,
        given: &[Multiaddr],
        now: Instant,
    ) -> Self {
        let mut this = Self {
            config: config.clone(),
            policy,
            entries: HashMap::new(),
            local: BTreeMap::new(),
            evidence: Evidence::new(now),
            next_stun: (!config.stun.servers.is_empty()).then_some(now),
            next_discovery: now,
            actions: Vec::new(),
        };
        for addr in given {
            let entry = this.entries.entry(addr.clone()).or_insert_with(|| Entry::new(now));
            entry.operator = true;
            entry.standing = Standing::Trusted;
            this.actions.push(Action::Confirm(addr.clone()));
        }
        this
    }

    /// Takes in what has happened. What is to be done then is told by [`Self::poll`].
    pub(crate) fn on(&mut self, event: Event, now: Instant) {
        match event {
            Event::Listens(addr) => self.listens(addr, now),
            Event::Silent(addr) => self.silent(&addr, now),
            Event::Observed { addr, by } => self.observed(addr, by, now),
            Event::Mapped(addr) => {
                if self.policy.allows(&addr)
                    && let Some(entry) = self.candidate(&addr, true, now)
                {
                    entry.mapped = true;
                }
            }
            Event::Unmapped(addr) => {
                if let Some(entry) = self.entries.get_mut(&addr) {
                    entry.mapped = false;
                    entry.doubt(&self.config, now);
                }
            }
            Event::DialBack { addr, ended } => self.dialled_back(&addr, ended, now),
            Event::Stun(report) => self.stun(&report, now),
            Event::Connections { open, udp } => {
                if self.evidence.connections(open, udp, now) {
                    self.doubt_all(now);
                    self.ask_stun(now);
                }
            }
            Event::NetworkChanged => {
                self.evidence.forget(now);
                self.doubt_all(now);
                self.next_discovery = now;
                self.ask_stun(now);
                self.actions.push(Action::Map);
            }
        }
    }

    fn listens(&mut self, addr: Multiaddr, now: Instant) {
        if let Some(ip) = ip_of(&addr) {
            *self.local.entry(ip).or_default() += 1;
        }
        let listened = self.entries.values().filter(|entry| entry.listened).count();
        if !self.policy.allows(&addr) || listened >= MAX_LISTENED {
            return;
        }
        let entry = self.entries.entry(addr.clone()).or_insert_with(|| Entry::new(now));
        entry.listened = true;
        entry.next_test = now;
        let told = entry.standing.told();
        entry.stand(Standing::Trusted, now);
        if !told {
            self.actions.push(Action::Confirm(addr));
        }
    }

    fn silent(&mut self, addr: &Multiaddr, now: Instant) {
        if let Some(ip) = ip_of(addr)
            && let Some(count) = self.local.get_mut(&ip)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.local.remove(&ip);
            }
        }
        self.change(addr, |entry, _| {
            entry.listened = false;
            // Nobody answers there any more, whatever dial-backs said before.
            entry.withdraw(now);
        });
    }

    fn observed(&mut self, addr: Multiaddr, by: IpGroup, now: Instant) {
        let Some(ip) = ip_of(&addr).filter(|_| self.policy.allows(&addr)) else { return };
        self.evidence.observed(&addr, by, now);
        // No NAT in between, and a port that is not listened on.
        if self.local.contains_key(&ip) {
            return;
        }
        if let Some(entry) = self.candidate(&addr, false, now) {
            entry.observed(by, now);
        }
        if let Some(public) = self.evidence.observed_ip(&self.config, now) {
            self.moved_to(public, false, now);
        }
    }

    /// The entry of an address that somebody speaks for, made if there is room.
    fn candidate(&mut self, addr: &Multiaddr, mapped: bool, now: Instant) -> Option<&mut Entry> {
        if !self.entries.contains_key(addr) {
            let rank = |entry: &Entry| {
                let open = entry.standing == Standing::Candidate;
                (entry.standing.told(), entry.mapped, open, entry.observers.len())
            };
            let learned = || self.entries.iter().filter(|(_, entry)| !entry.ours());
            if learned().count() >= self.config.max_candidates {
                let (weakest, entry) = learned().min_by_key(|(_, e)| (rank(e), e.since))?;
                if rank(entry) >= (false, mapped, true, 1) {
                    return None;
                }
                let weakest = weakest.clone();
                self.entries.remove(&weakest);
            }
            self.entries.insert(addr.clone(), Entry::new(now));
        }
        self.entries.get_mut(addr)
    }

    fn dialled_back(&mut self, addr: &Multiaddr, ended: DialBack, now: Instant) {
        self.change(addr, |entry, config| {
            // Of an earlier time; what it says may be no longer so.
            if entry.testing.is_none() {
                return;
            }
            match ended {
                DialBack::Reached(server) => entry.reached(server, config, now),
                DialBack::Failed(server) => entry.failed(server, config, now),
                DialBack::Unanswered => entry.unanswered(config, now),
            }
        });
    }

    fn stun(&mut self, report: &stun::Report, now: Instant) {
        let Some((public, voices, agreed)) = self.evidence.stun(report) else { return };
        // Two that agree, and nobody who says otherwise, leave no doubt.
        self.moved_to(public, voices > 1 && agreed, now);
    }

    /// The public address is this one, so what was learned of others of its family is in doubt.
    fn moved_to(&mut self, public: IpAddr, certain: bool, now: Instant) {
        let elsewhere = |addr: &Multiaddr, entry: &Entry| {
            let ip = ip_of(addr);
            !entry.ours() && ip.is_some_and(|ip| ip.is_ipv4() == public.is_ipv4() && ip != public)
        };
        let stale: Vec<Multiaddr> = self
            .entries
            .iter()
            .filter(|(addr, entry)| entry.standing.told() && elsewhere(addr, entry))
            .map(|(addr, _)| addr.clone())
            .collect();
        for addr in &stale {
            self.change(addr, |entry, config| {
                if certain {
                    entry.withdraw(now);
                } else if entry.prove_by.is_none() {
                    entry.doubt(config, now);
                }
            });
        }
        if !stale.is_empty() {
            self.next_discovery = now;
            self.actions.push(Action::Map);
        }
    }

    fn doubt_all(&mut self, now: Instant) {
        for entry in self.entries.values_mut() {
            entry.doubt(&self.config, now);
        }
    }

    fn ask_stun(&mut self, now: Instant) {
        self.next_stun = self.next_stun.map(|_| now);
    }

    /// Changes an entry, and says so if it is now told or no longer is.
    fn change(&mut self, addr: &Multiaddr, change: impl FnOnce(&mut Entry, &Config)) {
        let Some(entry) = self.entries.get_mut(addr) else { return };
        let before = entry.standing.told();
        change(entry, &self.config);
        match (before, entry.standing.told()) {
            (false, true) => self.actions.push(Action::Confirm(addr.clone())),
            (true, false) => self.actions.push(Action::Withdraw(addr.clone())),
            _ => {}
        }
    }

    /// What is to be done now. `servers`: whether there is anybody who dials back. To be called
    /// after every event, and at least once a second.
    pub(crate) fn poll(&mut self, servers: bool, now: Instant) -> Vec<Action> {
        let mut gone = Vec::new();
        let known: Vec<Multiaddr> = self.entries.keys().cloned().collect();
        for addr in &known {
            self.change(addr, |entry, config| {
                entry.expire(config, now);
                if !entry.claimed() && !entry.standing.told() {
                    gone.push(addr);
                }
            });
        }
        for addr in gone {
            self.entries.remove(addr);
        }
        if self.next_stun.is_some_and(|at| at <= now) {
            let discover = self.next_discovery <= now;
            if discover {
                self.next_discovery = now + self.config.stun.discover_every;
            }
            self.next_stun = Some(now + self.config.stun.every);
            self.actions.push(Action::AskStun { discover });
        }
        if servers {
            self.test(now);
        }
        std::mem::take(&mut self.actions)
    }

    fn test(&mut self, now: Instant) {
        let policy = self.policy;
        let under_way = self.entries.values().filter(|entry| entry.testing.is_some()).count();
        let room = self.config.max_tests.saturating_sub(under_way);
        let mut due: Vec<(&Multiaddr, &mut Entry)> = self
            .entries
            .iter_mut()
            .filter(|(addr, entry)| {
                // Where any address is allowed, peers elsewhere are not expected to reach all that
                // this node listens on.
                let tested = !entry.ours() || policy == AddressPolicy::Global;
                tested && ip_of(addr).is_some() && entry.testing.is_none() && entry.next_test <= now
            })
            .collect();
        // What is in doubt has the least time; then what is most likely to work.
        due.sort_by_key(|(addr, entry)| {
            let likely = (entry.mapped, entry.observers.len());
            (entry.prove_by.is_none(), std::cmp::Reverse(likely), addr.to_vec())
        });
        for (addr, entry) in due.into_iter().take(room) {
            entry.testing = Some(now + self.config.test_timeout);
            self.actions.push(Action::Test { addr: addr.clone(), avoid: entry.avoid.clone() });
        }
    }

    /// What all of it comes to.
    pub(crate) fn verdict(&self, now: Instant) -> Verdict {
        self.evidence.verdict(&self.config, &self.local, self.entries.iter(), now)
    }

    /// All addresses, those that are told first, each kind in their order.
    pub(crate) fn shown(&self) -> Vec<Shown<'_>> {
        let mut shown: Vec<Shown<'_>> = self
            .entries
            .iter()
            .map(|(addr, entry)| Shown {
                addr,
                standing: entry.standing,
                operator: entry.operator,
                listened: entry.listened,
                mapped: entry.mapped,
                observers: entry.observers.len(),
                reached_by: entry.proofs.len(),
                failures: entry.failures,
                since: entry.since,
            })
            .collect();
        shown.sort_by_key(|shown| (!shown.standing.told(), shown.addr.to_vec()));
        shown
    }

    /// How many addresses there are of each standing.
    pub(crate) fn counts(&self) -> [(Standing, usize); 5] {
        [
            Standing::Trusted,
            Standing::Candidate,
            Standing::Confirmed,
            Standing::Failing,
            Standing::Withdrawn,
        ]
        .map(|standing| {
            let count = self.entries.values().filter(|entry| entry.standing == standing).count();
            (standing, count)
        })
    }
}
