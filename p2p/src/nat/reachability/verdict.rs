//! What all that was seen comes to: one of a few states, and how sure that is.

use super::{Entry, Standing};
use crate::{
    AddressPolicy, Multiaddr,
    address::{IpGroup, ip_of, is_udp},
    nat::{Config, Filtering, Mapping, NatType, mapping_of, stun},
};
use libp2p::multiaddr::Protocol;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

/// Networks whose view of this node's UDP port is remembered, the oldest leaving first: 16 * 60
/// bytes.
const MAX_VIEWS: usize = 16;

/// How this node can be reached: a metric label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Too little was seen yet.
    #[default]
    Unknown,
    /// At an address that it has itself, or that the operator gave.
    Public,
    /// At an address that its router maps.
    Mapped,
    /// Behind a NAT (or a firewall) that gives one port to all destinations: a hole can be punched.
    Cone,
    /// Behind a NAT with another port for each destination.
    Symmetric,
    /// TCP gets out and UDP does not.
    UdpBlocked,
    /// Nobody is reached.
    Offline,
}

impl State {
    pub(crate) const ALL: [Self; 7] = [
        Self::Unknown,
        Self::Public,
        Self::Mapped,
        Self::Cone,
        Self::Symmetric,
        Self::UdpBlocked,
        Self::Offline,
    ];

    /// The metric label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Public => "public",
            Self::Mapped => "mapped",
            Self::Cone => "cone",
            Self::Symmetric => "symmetric",
            Self::UdpBlocked => "udp_blocked",
            Self::Offline => "offline",
        }
    }
}

/// The state, and how sure it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// How this node can be reached.
    pub state: State,
    /// In percent: 0 where nothing was seen, 50 by one witness, 75 by two, and so on; 100 where it
    /// needs none.
    pub confidence: u8,
    /// What stands in between.
    pub nat: NatType,
    /// How it maps, if that is known.
    pub mapping: Option<Mapping>,
    /// What it lets in, if that is known.
    pub filtering: Option<Filtering>,
    /// The public address as STUN servers or peers see it.
    pub public_ip: Option<IpAddr>,
}

/// What was seen apart from addresses.
#[derive(Debug)]
pub(super) struct Evidence {
    /// How a network sees the UDP port that is listened on, and when last.
    views: Vec<(IpGroup, SocketAddr, Instant)>,
    stun_ip: Option<IpAddr>,
    /// Servers that agree on it.
    stun_voices: usize,
    stun_mapping: Option<Mapping>,
    stun_filtering: Option<Filtering>,
    /// Rounds in a row in which no server answered.
    silent: u32,
    open: usize,
    udp: usize,
    /// Since when there is no connection.
    alone_since: Option<Instant>,
}

impl Evidence {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            views: Vec::new(),
            stun_ip: None,
            stun_voices: 0,
            stun_mapping: None,
            stun_filtering: None,
            silent: 0,
            open: 0,
            udp: 0,
            alone_since: Some(now),
        }
    }

    /// All that was seen of the network is of another now.
    pub(super) fn forget(&mut self, now: Instant) {
        let (open, udp, alone_since) = (self.open, self.udp, self.alone_since);
        *self = Self { open, udp, alone_since, ..Self::new(now) };
    }

    pub(super) fn observed(&mut self, addr: &Multiaddr, by: IpGroup, now: Instant) {
        let Some(at) = udp_of(addr) else { return };
        self.views.retain(|(known, ..)| *known != by);
        if self.views.len() >= MAX_VIEWS {
            self.views.remove(0);
        }
        self.views.push((by, at, now));
    }

    fn views(&self, config: &Config, now: Instant) -> impl Iterator<Item = SocketAddr> {
        let fresh = move |at: &Instant| now.saturating_duration_since(*at) < config.observed_lasts;
        self.views.iter().filter(move |(.., at)| fresh(at)).map(|(_, seen, _)| *seen)
    }

    /// The public address, if the two networks that spoke last agree on it.
    pub(super) fn observed_ip(&self, config: &Config, now: Instant) -> Option<IpAddr> {
        let seen: Vec<SocketAddr> = self.views(config, now).collect();
        match seen.as_slice() {
            [.., before, last] if before.ip() == last.ip() => Some(last.ip()),
            _ => None,
        }
    }

    /// The public address as most servers see it, how many of them, and whether nobody sees
    /// another.
    pub(super) fn stun(&mut self, report: &stun::Report) -> Option<(IpAddr, usize, bool)> {
        if report.said.is_empty() {
            return None;
        }
        let mut voices = BTreeMap::<IpAddr, usize>::new();
        for mapped in report.said.iter().filter_map(|said| said.result.ok()) {
            *voices.entry(mapped.ip().to_canonical()).or_default() += 1;
        }
        self.silent = if voices.is_empty() { self.silent.saturating_add(1) } else { 0 };
        self.stun_mapping = report.mapping.or(self.stun_mapping);
        self.stun_filtering = report.filtering.or(self.stun_filtering);
        let most = voices.values().copied().max()?;
        let mut with_most = voices.iter().filter(|(_, count)| **count == most);
        let (public, only) = (*with_most.next()?.0, with_most.next().is_none());
        if !only {
            return None;
        }
        if self.stun_ip.is_some_and(|before| before != public) {
            // Of another network.
            self.stun_mapping = report.mapping;
            self.stun_filtering = report.filtering;
        }
        self.stun_ip = Some(public);
        self.stun_voices = most;
        Some((public, most, voices.len() == 1))
    }

    /// Whether the last connection was lost just now.
    pub(super) fn connections(&mut self, open: usize, udp: usize, now: Instant) -> bool {
        let lost = self.open > 0 && open == 0;
        self.open = open;
        self.udp = udp;
        self.alone_since = match (open, self.alone_since) {
            (0, Some(since)) => Some(since),
            (0, None) => Some(now),
            _ => None,
        };
        lost
    }

    /// What all of it comes to.
    pub(super) fn verdict<'a>(
        &self,
        config: &Config,
        local: &BTreeMap<IpAddr, usize>,
        entries: impl Iterator<Item = (&'a Multiaddr, &'a Entry)>,
        now: Instant,
    ) -> Verdict {
        let views: Vec<SocketAddr> = self.views(config, now).collect();
        let public_ip = self.stun_ip.or_else(|| self.observed_ip(config, now));
        // What peers see is of the overlay's own port, so it goes before what servers see.
        let by_peers = mapping_of(views.iter().copied());
        let mapping = by_peers.or(self.stun_mapping);
        let filtering = self.stun_filtering;
        let untranslated = public_ip.is_some_and(|ip| local.contains_key(&ip));
        let translated = public_ip.is_some() && !untranslated;
        let blocked = self.silent > 0 && self.udp == 0 && self.open > 0;
        let nat = if blocked {
            NatType::UdpBlocked
        } else if untranslated {
            NatType::None
        } else {
            NatType::of(mapping, filtering)
        };
        let known =
            |state, confidence| Verdict { state, confidence, nat, mapping, filtering, public_ip };
        let alone = self
            .alone_since
            .is_some_and(|since| now.saturating_duration_since(since) >= config.offline_after);
        if alone && self.stun_voices_now() == 0 {
            return known(State::Offline, sure(1 + usize::from(self.silent > 0)));
        }
        let mut best: Option<(State, u8)> = None;
        for (addr, entry) in entries.filter(|(_, entry)| entry.standing.told()) {
            let ip = ip_of(addr);
            let own = entry.ours() || ip.is_some_and(|ip| local.contains_key(&ip));
            // Local chains tell private addresses as well, which says nothing if others see another.
            let global = ip.is_some_and(|ip| AddressPolicy::Global.allows_ip(ip));
            if own && translated && !entry.operator && !global {
                continue;
            }
            let state = match (own, entry.mapped) {
                (true, _) => State::Public,
                (false, true) => State::Mapped,
                // A NAT that lets everybody in: what it is follows below.
                (false, false) => continue,
            };
            let confidence = match (entry.operator, entry.standing) {
                (true, _) => 100,
                (false, Standing::Trusted) => sure(entry.proofs.len() + 1),
                (false, Standing::Failing) => sure(entry.proofs.len().max(1)) / 2,
                (false, _) => sure(entry.proofs.len().max(1)),
            };
            // Public goes before mapped, and the surer of two.
            let rank = |(state, sure): (State, u8)| (state == State::Public, sure);
            if best.is_none_or(|known| rank(known) < rank((state, confidence))) {
                best = Some((state, confidence));
            }
        }
        if let Some((state, confidence)) = best {
            return known(state, confidence);
        }
        if blocked {
            return known(State::UdpBlocked, sure(usize::try_from(self.silent).unwrap_or(8)));
        }
        let witnesses = if by_peers.is_some() { views.len() } else { self.stun_voices.max(1) };
        match mapping {
            Some(Mapping::Independent) => known(State::Cone, sure(witnesses)),
            Some(_) => known(State::Symmetric, sure(witnesses)),
            // It has a public address of its own that nobody reaches: a firewall, which a hole can
            // be punched through as through a NAT.
            None if untranslated => known(State::Cone, sure(self.stun_voices.max(1))),
            None => known(State::Unknown, 0),
        }
    }

    /// Servers that answered in the last round.
    fn stun_voices_now(&self) -> usize {
        if self.silent > 0 { 0 } else { self.stun_voices }
    }
}

/// How sure something is that so many saw, in percent.
fn sure(witnesses: usize) -> u8 {
    let doubt = u32::try_from(witnesses).map_or(0, |n| 100u8.checked_shr(n).unwrap_or(0));
    (100 - doubt).min(99)
}

/// The socket address of a UDP address.
fn udp_of(addr: &Multiaddr) -> Option<SocketAddr> {
    if !is_udp(addr) {
        return None;
    }
    match addr.iter().nth(1)? {
        Protocol::Udp(port) => Some((ip_of(addr)?, port).into()),
        _ => None,
    }
}
