//! Who has been reached, who is to be, and who leaves.

use super::{
    Config, Refused, Routing,
    checks::{Check, Checks, Full, Why},
    health::Health,
    held,
    refresh::{self, Refresh, Round, Target},
    replacements::{Candidate, Replacements},
};
use crate::{
    Multiaddr, PeerId, Reputation,
    dht::{disk::KeptContact, network::Contact, space::Point, task::Behaviour},
    identity::key_of,
};
use libp2p::{kad::NodeStatus, swarm::ConnectionId};
use lru::LruCache;
use std::{
    net::IpAddr,
    num::NonZeroUsize,
    time::{Duration, Instant},
};

/// Peers that are remembered as reachable: 150 bytes each, 1.2 MB.
const MAX_REACHED: NonZeroUsize = NonZeroUsize::new(8192).unwrap();

/// How a check can end, which dashboards see from the start.
pub(crate) const OUTCOMES: [&str; 3] = ["reached", "failed", "not_made"];

/// What a connected peer has shown and told of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    /// The IP it is connected at.
    pub(crate) ip: Option<IpAddr>,
    /// Whether this node has reached it, on a connection that is or was beside the one it is
    /// connected by.
    pub(crate) reached: bool,
    /// Where it says it is.
    pub(crate) told: &'a [Multiaddr],
}

/// How a dial has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialled {
    /// The peer was reached.
    Reached,
    /// It was not.
    Failed,
    /// This node did not make it, for reasons of its own.
    NotMade,
}

impl Dialled {
    pub(super) fn label(self) -> &'static str {
        let [reached, failed, not_made] = OUTCOMES;
        match self {
            Self::Reached => reached,
            Self::Failed => failed,
            Self::NotMade => not_made,
        }
    }
}

/// A check that has ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Checked {
    pub(super) why: Why,
    pub(super) outcome: Dialled,
    /// Whether the peer is in the table now, or why it is not.
    pub(super) admitted: Result<(), Refused>,
}

/// What is remembered of peers beside the table itself.
pub(crate) struct Upkeep {
    own: Point,
    reachable_for: Duration,
    reached: LruCache<PeerId, Instant>,
    checks: Checks<ConnectionId>,
    health: Health,
    replacements: Replacements,
    pub(super) refresh: Refresh,
    /// Peers of the table before the restart that are still to be dialled, the last heard of at the
    /// end. At most [`crate::dht::disk::MAX_CONTACTS`].
    kept: Vec<Contact>,
    /// Peers that were taken out of the table because they could not be reached any more.
    pub(super) dead: u64,
    /// Whether the table has changed since it was last written.
    pub(in crate::dht) changed: bool,
}

impl Upkeep {
    pub(crate) fn new(local: PeerId, every: Duration, config: &Config, now: Instant) -> Self {
        Self {
            own: Point::of_peer(&local),
            reachable_for: config.reachable_for,
            reached: LruCache::sparse(MAX_REACHED),
            checks: Checks::new(config, now),
            health: Health::new(config),
            replacements: Replacements::new(config.replacements),
            refresh: Refresh::new(every, config, now),
            kept: Vec::new(),
            dead: 0,
            changed: false,
        }
    }

    fn bucket(&self, peer: &PeerId) -> u32 {
        self.own.common_prefix(&Point::of_peer(peer))
    }

    fn is_reachable(&mut self, peer: &PeerId, now: Instant) -> bool {
        let at = self.reached.get(peer);
        at.is_some_and(|at| now.saturating_duration_since(*at) <= self.reachable_for)
    }

    /// Peers that were in the table before the restart. They are dialled now, while nobody else is
    /// to be, and enter the table like any other.
    pub(crate) fn restore(
        &mut self,
        mut kept: Vec<KeptContact>,
        contact: impl Fn(KeptContact) -> Option<Contact>,
    ) {
        kept.sort_unstable_by_key(|contact| contact.seen_ms);
        self.kept = kept.into_iter().filter_map(contact).collect();
    }

    /// A lookup has gone to a point.
    pub(crate) fn looked(&mut self, target: &Point, now: Instant) {
        self.refresh.looked_into(self.own.common_prefix(target), now);
    }

    /// Bytes to look for.
    pub(super) fn bytes_of(
        &self,
        target: Target,
        local: &PeerId,
        seed: [u8; 24],
    ) -> Option<Vec<u8>> {
        match target {
            Target::Own => Some(local.to_bytes()),
            Target::Bucket(bucket) => refresh::preimage(&self.own, bucket, seed),
        }
    }

    /// The next check to begin now.
    pub(crate) fn next_check(&mut self, now: Instant) -> Option<Check> {
        self.checks.next(now)
    }

    pub(crate) fn check_begun(&mut self, id: ConnectionId, check: Check) {
        self.checks.begun(id, check);
    }
}

impl Routing {
    /// A peer that speaks our kad is connected and told its addresses. It is in the table now (true),
    /// or will be once it has been reached, or the reason is told.
    pub(crate) fn identified(
        &mut self,
        kad: &mut Behaviour,
        peer: &PeerId,
        seen: Seen<'_>,
        reputation: &dyn Reputation,
        now: Instant,
    ) -> Result<bool, Refused> {
        if seen.reached {
            self.upkeep.reached.push(*peer, now);
            self.upkeep.health.heard(peer, now);
        }
        let held = held(kad, peer);
        let told = super::accepted(peer, seen.told, self.policy);
        // Whoever has its place does not keep it for any address it likes.
        let moved = !held.is_empty() && !told.is_empty() && !told.iter().any(|a| held.contains(a));
        let known = !held.is_empty() || self.upkeep.is_reachable(peer, now);
        if seen.reached || (known && !moved) {
            self.admit_reached(kad, peer, seen.ip, seen.told, reputation)?;
            return Ok(true);
        }
        // Nobody is dialled for nothing.
        let (addresses, _) = self.decide(kad, peer, seen.ip, seen.told, reputation)?;
        let check = Check { peer: *peer, addresses, ip: seen.ip, why: Why::Newcomer };
        self.upkeep.checks.ask(check).map_err(|Full| Refused::Unchecked)?;
        Ok(false)
    }

    /// Lets a peer in that can be reached; if its bucket is full, it is remembered.
    fn admit_reached(
        &mut self,
        kad: &mut Behaviour,
        peer: &PeerId,
        ip: Option<IpAddr>,
        told: &[Multiaddr],
        reputation: &dyn Reputation,
    ) -> Result<(), Refused> {
        let bucket = self.upkeep.bucket(peer);
        let admitted = self.admit(kad, peer, ip, told, reputation);
        match admitted {
            Ok(()) => self.upkeep.replacements.forget(bucket, peer),
            Err(Refused::BucketFull) => {
                let addresses = super::accepted(peer, told, self.policy);
                self.upkeep.replacements.offer(bucket, Candidate { peer: *peer, addresses });
            }
            Err(_) => {}
        }
        self.upkeep.changed = true;
        admitted
    }

    /// A dial to a peer has ended, whoever wanted it. What became of the check, if it was one.
    pub(super) fn dialled(
        &mut self,
        kad: &mut Behaviour,
        id: ConnectionId,
        peer: &PeerId,
        outcome: Dialled,
        reputation: &dyn Reputation,
        now: Instant,
    ) -> Option<Checked> {
        match outcome {
            Dialled::Reached => {
                self.upkeep.reached.push(*peer, now);
                self.upkeep.health.heard(peer, now);
            }
            Dialled::Failed => self.failed(kad, peer, now),
            Dialled::NotMade => {}
        }
        let check = self.upkeep.checks.ended(&id)?;
        Some(self.checked(kad, check, outcome, reputation, now))
    }

    /// A check could not be begun.
    pub(super) fn check_dropped(
        &mut self,
        kad: &mut Behaviour,
        check: Check,
        outcome: Dialled,
        reputation: &dyn Reputation,
        now: Instant,
    ) -> Checked {
        self.upkeep.checks.dropped(&check.peer);
        self.checked(kad, check, outcome, reputation, now)
    }

    fn checked(
        &mut self,
        kad: &mut Behaviour,
        check: Check,
        outcome: Dialled,
        reputation: &dyn Reputation,
        now: Instant,
    ) -> Checked {
        let Check { peer, addresses, ip, why } = check;
        let mut admitted = Ok(());
        match (why, outcome) {
            (Why::Newcomer, Dialled::Reached) => {
                admitted = self.admit_reached(kad, &peer, ip, &addresses, reputation);
            }
            (Why::Newcomer, Dialled::Failed) => admitted = Err(Refused::Unreachable),
            (Why::Newcomer, Dialled::NotMade) => admitted = Err(Refused::Unchecked),
            // It enters the table when it identifies itself.
            (Why::Replacement | Why::Kept, Dialled::Reached) => {}
            (Why::Replacement, _) => {
                let bucket = self.upkeep.bucket(&peer);
                self.replace(bucket);
            }
            (Why::Stale, Dialled::NotMade) => self.upkeep.health.not_asked(&peer, now),
            (Why::Stale, _) | (Why::Kept, _) => {}
        }
        Checked { why, outcome, admitted }
    }

    /// A peer of the table could not be reached, or did not answer. With the last of some failures it
    /// leaves, and another of its bucket is dialled.
    pub(crate) fn failed(&mut self, kad: &mut Behaviour, peer: &PeerId, now: Instant) {
        if !self.upkeep.health.failed(peer, now) {
            return;
        }
        kad.remove_peer(peer);
        self.upkeep.reached.pop(peer);
        self.upkeep.dead += 1;
        self.upkeep.changed = true;
        let bucket = self.upkeep.bucket(peer);
        self.replace(bucket);
    }

    /// A peer has answered.
    pub(crate) fn answered(&mut self, peer: &PeerId, now: Instant) {
        self.upkeep.health.heard(peer, now);
    }

    /// Dials the peer that is to take a free place in a bucket.
    fn replace(&mut self, bucket: u32) {
        if let Some(Candidate { peer, addresses }) = self.upkeep.replacements.take(bucket) {
            let check = Check { peer, addresses, ip: None, why: Why::Replacement };
            // With many others waiting, it is seen again when it identifies itself.
            let _ = self.upkeep.checks.ask(check);
        }
    }

    /// Looks after the table: who is to be dialled because it is silent, and who was in it before.
    pub(super) fn on_tick(&mut self, kad: &mut Behaviour, now: Instant) {
        let mut table = Vec::new();
        for bucket in kad.kbuckets() {
            table.extend(
                bucket.iter().map(|entry| {
                    (*entry.node.key.preimage(), entry.status == NodeStatus::Connected)
                }),
            );
        }
        self.upkeep.health.update(table.into_iter(), now);
        for peer in self.upkeep.health.due(now) {
            if self.upkeep.checks.contains(&peer) {
                continue;
            }
            let addresses = held(kad, &peer);
            let check = Check { peer, addresses, ip: None, why: Why::Stale };
            if self.upkeep.checks.ask(check).is_err() {
                break;
            }
        }
        while self.upkeep.checks.has_room()
            && let Some(Contact { peer, addresses }) = self.upkeep.kept.pop()
        {
            if held(kad, &peer).is_empty() {
                let check = Check { peer, addresses, ip: None, why: Why::Kept };
                let _ = self.upkeep.checks.ask(check);
            }
        }
    }

    /// How many buckets hold more peers than a lookup for this node's own place tells: those whose
    /// peers are not among the `k` nearest in the table.
    fn depth(&self, kad: &mut Behaviour, k: usize) -> u32 {
        let mut prefixes = Vec::new();
        for bucket in kad.kbuckets() {
            let points = bucket.iter().map(|entry| Point::of_peer(entry.node.key.preimage()));
            prefixes.extend(points.map(|point| self.upkeep.own.common_prefix(&point)));
        }
        prefixes.sort_unstable_by(|a, b| b.cmp(a));
        // The k-th nearest lies in that bucket; with fewer there is none farther away.
        prefixes.get(k.saturating_sub(1)).copied().unwrap_or(0)
    }

    /// The next lookup of a refresh, if one is to begin now.
    pub(super) fn next_refresh(&mut self, kad: &mut Behaviour, now: Instant) -> Option<Target> {
        if !self.upkeep.refresh.due(now) {
            return None;
        }
        let depth = self.depth(kad, self.limits.bucket);
        self.upkeep.refresh.next(depth, now)
    }

    /// A lookup of a refresh has ended.
    pub(super) fn refreshed(&mut self, found: bool, now: Instant) -> Round {
        self.upkeep.refresh.ended(found, now)
    }

    /// The peers in the table, to be kept over a restart; at most `max`, the last heard of first.
    pub(crate) fn contacts(
        &self,
        kad: &mut Behaviour,
        max: usize,
        now: Instant,
        now_ms: u64,
    ) -> Vec<KeptContact> {
        let mut contacts = Vec::new();
        for bucket in kad.kbuckets() {
            contacts.extend(bucket.iter().filter_map(|entry| {
                let peer = entry.node.key.preimage();
                let heard = self.upkeep.health.last_heard(peer).unwrap_or(now);
                let ago = now.saturating_duration_since(heard).as_millis();
                Some(KeptContact {
                    peer: key_of(peer)?,
                    addresses: entry.node.value.iter().cloned().collect(),
                    seen_ms: now_ms.saturating_sub(u64::try_from(ago).unwrap_or(u64::MAX)),
                })
            }));
        }
        contacts.sort_unstable_by_key(|contact| std::cmp::Reverse(contact.seen_ms));
        contacts.truncate(max);
        contacts
    }
}
