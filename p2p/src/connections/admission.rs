//! The decisions: who may come in, who may be dialled, who makes room. Pure: time and reputation
//! are handed in.

use super::{
    Ban, BanError, BanTarget, Config, Direction, Refused, Status,
    bans::Bans,
    buckets::Buckets,
    counts::{Counts, Open},
    known::Known,
};
use crate::{PeerId, Standing, address::Source, identity::key_of, peers};
use libp2p::swarm::ConnectionId;
use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

/// Connections that were told to make room and are still closing, at most. By so many there may be
/// more than the limit for the moment.
const MAX_LEAVING: usize = 16;

/// Peers that are expected to open or take one more connection, at most: 256 * 60 bytes = 15 KB. A
/// node asks for few dial-backs at a time, and gives few; holes are punched where a connection
/// through a relay is new.
const MAX_EXPECTED: usize = 256;

/// What becomes of an arrival that is not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// It may shake hands.
    Enter,
    /// It has to prove its address first. Nothing was counted for it.
    Prove,
}

/// Dials about an address that are remembered as such, the oldest leaving first: 256 * 8 bytes.
/// Fewer are under way.
const MAX_DIAL_BACKS: usize = 256;

/// When it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) instant: Instant,
    /// Milliseconds since the Unix epoch.
    pub(crate) unix_ms: u64,
}

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
struct Limits {
    total: usize,
    inbound: usize,
    per_peer: usize,
    /// Beyond that, for a peer that is expected.
    extra_per_peer: usize,
    pending_inbound: usize,
    pending_outbound: usize,
    pending_per_source: usize,
    /// By source and by IP group, if they are capped.
    by_address: Option<(usize, usize)>,
}

#[derive(Debug)]
pub(crate) struct Admission {
    limits: Limits,
    local: PeerId,
    known_after: Duration,
    burst: u32,
    buckets: Buckets,
    pub(super) counts: Counts,
    known: Known,
    bans: Bans,
    /// Bounded by [`MAX_LEAVING`].
    leaving: HashSet<ConnectionId>,
    extra_for: Duration,
    /// Peers that dial back or are dialled back, until when. Bounded by [`MAX_EXPECTED`].
    expected: HashMap<PeerId, Instant>,
    /// Connections that this node opens to see whether an address works. Bounded by [`MAX_DIAL_BACKS`].
    dial_backs: VecDeque<ConnectionId>,
}

/// An account in good standing answers for the peer. That cost a deposit, so there is no crowd of
/// them.
fn bound_well(standing: Option<Standing>) -> bool {
    standing.is_some_and(|s| s.total >= Standing::NEUTRAL.total && !s.graylisted())
}

impl Admission {
    pub(crate) fn new(config: &crate::Config, local: PeerId, kept: Vec<Ban>, now: Now) -> Self {
        let (admission, peers): (&Config, &peers::Config) = (&config.admission, &config.peers);
        let capped = admission.caps_by_address.apply(config.address_policy);
        Self {
            limits: Limits {
                total: peers.max_connections,
                inbound: admission.inbound_of(peers.max_connections),
                per_peer: peers.max_per_peer,
                extra_per_peer: admission.extra_per_peer,
                pending_inbound: peers.max_pending_inbound,
                pending_outbound: admission.max_pending_outbound,
                pending_per_source: admission.max_pending_per_source,
                by_address: capped.then_some((admission.max_per_ip, admission.max_per_ip_group)),
            },
            local,
            known_after: admission.known_after,
            burst: admission.burst,
            buckets: Buckets::new(admission, now.instant),
            counts: Counts::default(),
            known: Known::new(admission.max_known, admission.known_lifetime),
            bans: Bans::new(admission.max_bans, kept, now.unix_ms),
            leaving: HashSet::new(),
            extra_for: admission.extra_for,
            expected: HashMap::new(),
            dial_backs: VecDeque::new(),
        }
    }

    /// A peer dials back, is dialled back, or punches a hole: a connection that would be one too many
    /// otherwise. It is allowed for a short time, unless too many are expected already.
    pub(crate) fn expect(&mut self, peer: &PeerId, now: Instant) {
        self.expected.retain(|_, until| *until > now);
        if self.expected.len() < MAX_EXPECTED || self.expected.contains_key(peer) {
            self.expected.insert(*peer, now + self.extra_for);
        }
    }

    /// A dial is about an address: how it ends says something of that and nothing of the peer.
    pub(crate) fn dials_back(&mut self, id: ConnectionId) {
        if self.dial_backs.len() >= MAX_DIAL_BACKS {
            self.dial_backs.pop_front();
        }
        self.dial_backs.push_back(id);
    }

    pub(crate) fn is_dial_back(&self, id: ConnectionId) -> bool {
        self.dial_backs.contains(&id)
    }

    /// How many connections a peer may have.
    fn places_of(&self, peer: &PeerId, now: Instant) -> usize {
        let expected = self.expected.get(peer).is_some_and(|until| *until > now);
        let extra = if expected { self.limits.extra_per_peer } else { 0 };
        self.limits.per_peer.saturating_add(extra)
    }

    /// A connection comes in; nothing is known but where from (nothing over the in-process
    /// transport). `proven` if that address is certain: it is with TCP, and with QUIC once asked
    /// for.
    pub(crate) fn incoming(
        &mut self,
        from: Option<IpAddr>,
        proven: bool,
        now: Now,
    ) -> Result<Entry, Refused> {
        let known = from.and_then(|ip| self.known.standing(Source::of(ip), now.instant));
        if from.is_some_and(|ip| self.bans.ip(ip, now.unix_ms)) {
            return Err(Refused::Banned);
        }
        if let Some(reason) = self.full() {
            known.and_then(|bound| self.least_missed(bound, now.instant)).ok_or(reason)?;
        }
        // Half of the places for handshakes is for known sources: a stranger may keep its place
        // without a word until the handshake runs out of time.
        let pending = self.limits.pending_inbound;
        let pending = if known.is_some() || from.is_none() { pending } else { pending.div_ceil(2) };
        if self.counts.pending_inbound() >= pending {
            return Err(Refused::Pending);
        }
        let Some(ip) = from else { return Ok(Entry::Enter) };
        let (shaking_hands, of_source) = self.counts.of_ip(ip);
        if shaking_hands >= self.limits.pending_per_source {
            return Err(Refused::Pending);
        }
        if let Some((per_ip, per_group)) = self.limits.by_address {
            if of_source >= per_ip {
                return Err(Refused::Ip);
            }
            if self.counts.of_group(ip) >= per_group {
                return Err(Refused::IpGroup);
            }
        }
        let source = Source::of(ip);
        // Nobody proves an address to be refused then.
        self.buckets.check(source, known.is_some(), now.instant)?;
        // Whoever forges addresses finishes no handshake, so it may use up neither the rate nor the
        // places of the source it pretends to be, nor those of all strangers.
        let pressed = self.buckets.pressed(source, now.instant)
            || shaking_hands * 4 >= self.limits.pending_per_source
            || self.counts.pending_inbound() * 4 >= self.limits.pending_inbound;
        if !proven && pressed {
            return Ok(Entry::Prove);
        }
        self.buckets.take(source, known.is_some(), now.instant)?;
        Ok(Entry::Enter)
    }

    /// Why no further inbound connection fits, if none does.
    fn full(&self) -> Option<Refused> {
        if self.counts.open() >= self.limits.total {
            Some(Refused::Total)
        } else if self.counts.inbound() >= self.limits.inbound {
            Some(Refused::OutboundReserve)
        } else {
            None
        }
    }

    /// Which connection makes room for a known peer when all places are taken.
    ///
    /// A flood takes all inbound places within seconds, and honest peers that were away for a
    /// moment would find the door closed for as long as the flood holds on. So they may take a
    /// place back, but only one that cost its holder nothing yet: an inbound connection younger
    /// than `known_after`, of a source that was not known before. Of those, it is one of the IP
    /// group that has the most, and there the youngest. Whoever stayed longer is as well known as
    /// the one who comes. A peer in whom an account has put a deposit goes further: for it any
    /// inbound connection of a source without such a peer makes room, whatever its age.
    fn least_missed(&self, for_bound: bool, now: Instant) -> Option<ConnectionId> {
        if self.leaving.len() >= MAX_LEAVING {
            return None;
        }
        let dispensable = |(id, open): &(ConnectionId, &Open)| {
            let source = open.remote.map(Source::of);
            let standing = source.and_then(|source| self.known.standing(source, now));
            let young = now.saturating_duration_since(open.since) < self.known_after;
            open.direction == Direction::Inbound
                && !self.leaving.contains(id)
                && match standing {
                    None => young || for_bound,
                    Some(bound) => for_bound && !bound,
                }
        };
        let candidates: Vec<_> = self.counts.iter().filter(dispensable).collect();
        let mut groups = HashMap::<_, usize>::new();
        let group = |open: &Open| open.remote.map(crate::address::IpGroup::of);
        for (_, open) in &candidates {
            *groups.entry(group(open)).or_default() += 1;
        }
        let size = |open: &Open| groups.get(&group(open)).copied().unwrap_or_default();
        let chosen = candidates.into_iter().max_by_key(|(_, open)| (size(open), open.since));
        chosen.map(|(id, _)| id)
    }

    /// A peer is to be dialled, or has proved who it is.
    fn peer(&self, peer: &PeerId, standing: Option<Standing>, now: Now) -> Result<(), Refused> {
        if *peer == self.local {
            return Err(Refused::OwnKey);
        }
        if key_of(peer).is_none() {
            return Err(Refused::KeyType);
        }
        if self.bans.peer(peer, now.unix_ms) {
            return Err(Refused::Banned);
        }
        if standing.is_some_and(|s| s.graylisted()) {
            return Err(Refused::Graylisted);
        }
        if self.counts.of_peer(peer) >= self.places_of(peer, now.instant) {
            return Err(Refused::PerPeer);
        }
        Ok(())
    }

    /// An inbound connection has proved who it is. If another has to make room for it, that one.
    pub(crate) fn inbound(
        &mut self,
        peer: &PeerId,
        from: Option<IpAddr>,
        standing: Option<Standing>,
        now: Now,
    ) -> Result<Option<ConnectionId>, Refused> {
        self.peer(peer, standing, now)?;
        let Some(reason) = self.full() else { return Ok(None) };
        let seen = from.and_then(|ip| self.known.standing(Source::of(ip), now.instant));
        let bound = bound_well(standing);
        if seen.is_none() && !bound {
            return Err(reason);
        }
        let leaving = self.least_missed(bound, now.instant).ok_or(reason)?;
        self.leaving.insert(leaving);
        Ok(Some(leaving))
    }

    /// A connection is to be opened, to this peer if it is known to whom.
    pub(crate) fn dial(
        &self,
        peer: Option<&PeerId>,
        standing: Option<Standing>,
        now: Now,
    ) -> Result<(), Refused> {
        if let Some(peer) = peer {
            self.peer(peer, standing, now)?;
        }
        if self.counts.open() >= self.limits.total {
            return Err(Refused::Total);
        }
        if self.counts.pending_outbound() >= self.limits.pending_outbound {
            return Err(Refused::Pending);
        }
        Ok(())
    }

    /// A connection that this node opened has proved to whom.
    pub(crate) fn outbound(
        &self,
        peer: &PeerId,
        standing: Option<Standing>,
        now: Now,
    ) -> Result<(), Refused> {
        self.peer(peer, standing, now)?;
        if self.counts.open() >= self.limits.total {
            return Err(Refused::Total);
        }
        Ok(())
    }

    /// Whether an address may be dialled.
    pub(crate) fn reachable(&self, ip: IpAddr, now: Now) -> bool {
        !self.bans.ip(ip, now.unix_ms)
    }

    pub(crate) fn opened(&mut self, id: ConnectionId, open: Open, standing: Option<Standing>) {
        if bound_well(standing)
            && let Some(ip) = open.remote
        {
            self.known.saw(Source::of(ip), true, open.since);
        }
        self.counts.opened(id, open);
    }

    pub(crate) fn closed(&mut self, id: ConnectionId) {
        self.leaving.remove(&id);
        self.counts.closed(id);
    }

    /// Bans, and says which connections have to go.
    pub(crate) fn ban(
        &mut self,
        target: BanTarget,
        duration: Option<Duration>,
        reason: String,
        now: Now,
    ) -> Result<(Ban, HashSet<PeerId>), BanError> {
        if target == BanTarget::Peer(self.local) {
            return Err(BanError::OwnKey);
        }
        let ban = Ban::new(target, duration, reason, now.unix_ms)?;
        self.bans.set(ban.clone(), now.unix_ms)?;
        let leaving = match ban.target {
            BanTarget::Peer(peer) => {
                (self.counts.of_peer(&peer) > 0).then_some(peer).into_iter().collect()
            }
            BanTarget::Ip(ip) => {
                let source = Source::of(ip);
                self.known.forget(source);
                let there = |open: &Open| open.remote.map(Source::of) == Some(source);
                self.counts.iter().filter(|(_, o)| there(o)).map(|(_, o)| o.peer).collect()
            }
        };
        Ok((ban, leaving))
    }

    /// The ban that was lifted, if it was in force.
    pub(crate) fn unban(&mut self, target: &BanTarget, now: Now) -> Option<Ban> {
        self.bans.lift(target, now.unix_ms)
    }

    /// The bans in force, the oldest first.
    pub(crate) fn bans(&self, now: Now) -> Vec<Ban> {
        self.bans.list(now.unix_ms)
    }

    /// Remembers who is a good peer by now, and forgets what is over. Whether bans are among that.
    pub(crate) fn tick(
        &mut self,
        standing: impl Fn(&PeerId) -> Option<Standing>,
        now: Now,
    ) -> bool {
        for (_, open) in self.counts.iter() {
            let Some(ip) = open.remote else { continue };
            let standing = standing(&open.peer);
            let lasted = now.instant.saturating_duration_since(open.since) >= self.known_after;
            let good = !standing.is_some_and(|s| s.graylisted());
            if good && (lasted || bound_well(standing)) {
                self.known.saw(Source::of(ip), bound_well(standing), now.instant);
            }
        }
        self.buckets.expire(now.instant);
        self.known.expire(now.instant);
        self.bans.expire(now.unix_ms)
    }

    /// Whether no connection is closing to make room.
    #[cfg(test)]
    pub(super) fn nobody_leaves(&self) -> bool {
        self.leaving.is_empty()
    }

    pub(crate) fn status(&self, now: Now) -> Status {
        let (open, inbound) = (self.counts.open(), self.counts.inbound());
        Status {
            inbound,
            inbound_limit: self.limits.inbound,
            outbound: open.saturating_sub(inbound),
            pending_inbound: self.counts.pending_inbound(),
            pending_outbound: self.counts.pending_outbound(),
            capped_by_address: self.limits.by_address.is_some(),
            tokens: self.buckets.level(now.instant),
            tokens_limit: self.burst,
            recent_sources: self.buckets.sources(),
            known_sources: self.known.len(),
            banned_peers: self.bans.peers(),
            banned_sources: self.bans.sources(),
        }
    }
}
