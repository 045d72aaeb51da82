//! The peer book: peers this node was connected to, and where they are.
//!
//! It outlives connections and, written to a file, the process: a node that comes back finds the
//! network without a bootnode. A peer enters once it has identified itself as one of this chain that
//! serves the directory, with the addresses that worked when dialled and those it told of itself.
//! No clock in here; times are Unix milliseconds, since they are written to disk.

mod config;
mod order;
mod saved;
mod saver;

use crate::{
    AddressPolicy, Multiaddr, PeerId,
    address::{IpGroup, without_peer},
};
pub use config::Config;
use libp2p::multiaddr::Protocol;
pub(crate) use order::Worth;
pub(crate) use saved::{DROPPED, Saved};
pub(crate) use saver::Saver;
use serde::Serialize;
use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

/// Name of the file in the overlay's folder.
const FILE: &str = "peers.json";

/// The file is not written only to say that a peer was connected a little longer, until this has
/// passed, one hour: it counts in days.
const WORTH_WRITING_MS: u64 = 3_600_000;

/// One of a peer's addresses, without its PeerId.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    addr: Multiaddr,
    /// When a dial to it last succeeded; none if the peer only told it.
    worked_ms: Option<u64>,
}

/// What the book holds of one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// The best first; never empty in the book.
    addresses: Vec<Known>,
    /// The IP it was last connected at, which it could not invent as it could an address.
    ip: Option<IpAddr>,
    /// When it was last known to be connected.
    last_success_ms: u64,
    /// How often it was connected.
    successes: u64,
    /// Failed dials in a row.
    failures: u32,
    /// When it was last picked to be dialled, in this life of the process.
    tried_ms: Option<u64>,
}

impl Entry {
    /// Whether this node reached it by an address of its own, and lately not always in vain.
    fn proven(&self, config: &Config) -> bool {
        self.failures < config.max_failures && self.addresses.iter().any(|a| a.worked_ms.is_some())
    }

    /// The network it was connected from; none over the in-process transport.
    fn group(&self) -> Option<IpGroup> {
        self.ip.map(IpGroup::of)
    }
}

/// What a connected peer has shown and told of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Met<'a> {
    /// The address by which this node reached it, if it did.
    pub(crate) dialled: Option<&'a Multiaddr>,
    /// Where it says it is.
    pub(crate) told: &'a [Multiaddr],
    /// The IP it is connected at.
    pub(crate) ip: Option<IpAddr>,
    /// It only tells its addresses anew.
    pub(crate) again: bool,
}

/// A peer as the book knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BookView {
    /// Its addresses, the best first.
    pub addresses: Vec<String>,
    /// Whether a dial to one of them succeeded, and not all have failed since.
    pub proven: bool,
    /// When it was last connected, in milliseconds since the Unix epoch.
    pub last_success_ms: u64,
    /// How often it was connected.
    pub successes: u64,
    /// Failed dials in a row.
    pub failures: u32,
}

/// The peer book.
#[derive(Debug)]
pub(crate) struct Book {
    config: Config,
    policy: AddressPolicy,
    entries: HashMap<PeerId, Entry>,
    changed: bool,
}

impl Book {
    pub(crate) fn new(config: &Config, policy: AddressPolicy) -> Self {
        Self { config: config.clone(), policy, entries: HashMap::new(), changed: false }
    }

    /// A peer is connected and has said where it is. One without an address that may be dialled
    /// does not enter.
    pub(crate) fn met(&mut self, peer: &PeerId, met: Met<'_>, now_ms: u64) {
        let known = self.entries.remove(peer);
        let addresses = self.addresses(peer, met, known.as_ref(), now_ms);
        self.changed = true;
        if addresses.is_empty() {
            return;
        }
        let successes = match &known {
            Some(entry) => entry.successes.saturating_add(u64::from(!met.again)),
            None => 1,
        };
        let entry = Entry {
            addresses,
            ip: met.ip,
            last_success_ms: now_ms,
            successes,
            failures: 0,
            tried_ms: known.and_then(|entry| entry.tried_ms),
        };
        self.entries.insert(*peer, entry);
        if self.entries.len() > self.config.peers
            && let Some(leaves) = order::first_to_leave(&self.entries, &self.config)
        {
            self.entries.remove(&leaves);
        }
    }

    /// The addresses to keep: the one just dialled; those that worked and are still told; those
    /// told; those that worked once.
    fn addresses(
        &self,
        peer: &PeerId,
        met: Met<'_>,
        known: Option<&Entry>,
        now_ms: u64,
    ) -> Vec<Known> {
        let usable = |addr: &&Multiaddr| {
            let others = addr.iter().any(|part| matches!(part, Protocol::P2p(p) if p != *peer));
            !others && self.policy.allows(addr)
        };
        let told: Vec<Multiaddr> = met.told.iter().filter(usable).map(without_peer).collect();
        let dialled = met.dialled.filter(usable).map(without_peer);
        let known = known.map(|entry| entry.addresses.as_slice()).unwrap_or_default();
        let (still, once): (Vec<&Known>, Vec<&Known>) =
            known.iter().filter(|k| k.worked_ms.is_some()).partition(|k| told.contains(&k.addr));
        let dialled = dialled.map(|addr| Known { addr, worked_ms: Some(now_ms) });
        let candidates = dialled
            .into_iter()
            .chain(still.into_iter().cloned())
            .chain(told.into_iter().map(|addr| Known { addr, worked_ms: None }))
            .chain(once.into_iter().cloned());
        let mut seen = HashSet::new();
        let mut kept: Vec<Known> = candidates.filter(|k| seen.insert(k.addr.clone())).collect();
        kept.truncate(self.config.addresses);
        kept
    }

    /// A peer is still connected, or was until now.
    pub(crate) fn seen(&mut self, peer: &PeerId, now_ms: u64) {
        if let Some(entry) = self.entries.get_mut(peer) {
            self.changed |= now_ms.saturating_sub(entry.last_success_ms) >= WORTH_WRITING_MS;
            entry.last_success_ms = now_ms;
        }
    }

    /// Dialling a peer has failed.
    pub(crate) fn failed(&mut self, peer: &PeerId) {
        if let Some(entry) = self.entries.get_mut(peer) {
            entry.failures = entry.failures.saturating_add(1);
            self.changed = true;
        }
    }

    /// A peer is not to be dialled again.
    pub(crate) fn forget(&mut self, peer: &PeerId) {
        self.changed |= self.entries.remove(peer).is_some();
    }

    /// Keeps only the peers that are worth it.
    pub(crate) fn retain(&mut self, worth_it: impl Fn(&PeerId) -> bool) {
        let before = self.entries.len();
        self.entries.retain(|peer, _| worth_it(peer));
        self.changed |= self.entries.len() != before;
    }

    /// Forgets peers that were last connected too long ago.
    pub(crate) fn expire(&mut self, now_ms: u64) {
        let max_age = u64::try_from(self.config.max_age.as_millis()).unwrap_or(u64::MAX);
        let before = self.entries.len();
        self.entries.retain(|_, entry| now_ms.saturating_sub(entry.last_success_ms) <= max_age);
        self.changed |= self.entries.len() != before;
    }

    /// Up to `count` peers to dial now, the best and most diverse first, each with its addresses.
    /// They are not named again for `retry_ms`.
    pub(crate) fn pick(
        &mut self,
        count: usize,
        retry_ms: u64,
        worth: impl Fn(&PeerId) -> Worth,
        now_ms: u64,
    ) -> Vec<(PeerId, Vec<Multiaddr>)> {
        if count == 0 {
            return Vec::new();
        }
        let due = self.entries.iter().filter(|(_, entry)| {
            // A clock that was set back makes nobody wait.
            entry.tried_ms.is_none_or(|at| now_ms < at || now_ms - at >= retry_ms)
        });
        let mut picked = order::best_first(due, &self.config, worth);
        picked.truncate(count);
        let mut dials = Vec::with_capacity(picked.len());
        for peer in picked {
            let Some(entry) = self.entries.get_mut(&peer) else { continue };
            entry.tried_ms = Some(now_ms);
            dials.push((peer, entry.addresses.iter().map(|k| k.addr.clone()).collect()));
        }
        dials
    }

    pub(crate) fn view(&self, peer: &PeerId) -> Option<BookView> {
        let entry = self.entries.get(peer)?;
        Some(BookView {
            addresses: entry.addresses.iter().map(|known| known.addr.to_string()).collect(),
            proven: entry.proven(&self.config),
            last_success_ms: entry.last_success_ms,
            successes: entry.successes,
            failures: entry.failures,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::peer_id_of;
    use proptest::prelude::*;

    pub(super) fn peer(n: u16) -> PeerId {
        let mut key = [7; 32];
        key[..2].copy_from_slice(&n.to_be_bytes());
        peer_id_of(&key).unwrap()
    }

    pub(super) fn addr(group: u8, host: u8) -> Multiaddr {
        format!("/ip4/8.{group}.0.{host}/tcp/9000").parse().unwrap()
    }

    pub(super) fn book(peers: usize, group_percent: u8) -> Book {
        let config = Config { peers, group_percent, ..Config::default() };
        Book::new(&config, AddressPolicy::Global)
    }

    /// A peer at an IP of a network, dialled there or not, tells its addresses.
    pub(super) fn met(
        book: &mut Book,
        n: u16,
        group: u8,
        dialled: bool,
        told: &[Multiaddr],
        now: u64,
    ) {
        let reached = addr(group, 99);
        let dialled = dialled.then_some(&reached);
        let ip = crate::address::ip_of(&reached);
        book.met(&peer(n), Met { dialled, told, ip, again: false }, now);
    }

    fn addresses(book: &Book, peer: &PeerId) -> Vec<Multiaddr> {
        book.entries[peer].addresses.iter().map(|known| known.addr.clone()).collect()
    }

    #[test]
    fn addresses_that_work_come_first_and_old_ones_make_room() {
        let mut book = book(10, 10);
        let told: Vec<Multiaddr> = (1..=9).map(|n| addr(1, n)).collect();
        let works = addr(2, 1);
        let first = Met { dialled: Some(&works), told: &told, ip: None, again: false };
        book.met(&peer(1), first, 10);
        assert_eq!(addresses(&book, &peer(1)), [addr(2, 1), addr(1, 1), addr(1, 2), addr(1, 3)]);
        // It moves: what worked once comes last now.
        let moved = [addr(3, 1), addr(3, 2)];
        let told = Met { dialled: None, told: &moved, ip: None, again: true };
        book.met(&peer(1), told, 20);
        assert_eq!(addresses(&book, &peer(1)), [addr(3, 1), addr(3, 2), addr(2, 1)]);
        book.met(&peer(1), Met { dialled: Some(&moved[1]), again: false, ..told }, 30);
        assert_eq!(addresses(&book, &peer(1)), [addr(3, 2), addr(3, 1), addr(2, 1)]);
        let view = book.view(&peer(1)).unwrap();
        assert_eq!((view.successes, view.last_success_ms, view.proven), (2, 30, true));
    }

    #[test]
    fn only_addresses_that_may_be_dialled_and_are_the_peers_own_enter() {
        let mut book = book(10, 10);
        let others = addr(1, 1).with(Protocol::P2p(peer(2)));
        let own = addr(1, 2).with(Protocol::P2p(peer(1)));
        let private: Multiaddr = "/ip4/10.0.0.1/tcp/1".parse().unwrap();
        let told = [others.clone(), own, private.clone()];
        let first = Met { dialled: Some(&private), told: &told, ip: None, again: false };
        book.met(&peer(1), first, 1);
        assert_eq!(addresses(&book, &peer(1)), [addr(1, 2)]);
        book.met(&peer(1), Met { told: &[others, private.clone()], ..first }, 2);
        assert_eq!(book.len(), 0, "one without an address leaves");
    }

    #[test]
    fn what_was_picked_waits_for_its_next_turn() {
        let mut book = book(10, 100);
        for n in 1..=3 {
            met(&mut book, n, 1, false, &[addr(1, 1)], u64::from(n));
        }
        let mut pick = |count, now| -> Vec<PeerId> {
            let picked = book.pick(count, 100, |_| Worth::Usable, now);
            picked.into_iter().map(|(peer, _)| peer).collect()
        };
        assert_eq!(pick(2, 1000), [peer(3), peer(2)], "the last seen first");
        assert_eq!(pick(2, 1000), [peer(1)]);
        assert!(pick(2, 1099).is_empty());
        assert_eq!(pick(9, 1100).len(), 3);
        assert_eq!(pick(9, 5).len(), 3, "the clock was set back");
    }

    #[test]
    fn peers_last_connected_too_long_ago_are_forgotten() {
        let mut book = book(10, 10);
        let max_age = u64::try_from(Config::default().max_age.as_millis()).unwrap();
        met(&mut book, 1, 1, false, &[addr(1, 1)], 1000);
        met(&mut book, 2, 1, false, &[addr(1, 1)], 1000);
        book.seen(&peer(2), 2000);
        book.expire(1000 + max_age);
        assert_eq!(book.len(), 2);
        book.expire(1001 + max_age);
        assert!(book.view(&peer(1)).is_none() && book.view(&peer(2)).is_some());
        book.retain(|p| *p != peer(2));
        assert_eq!(book.len(), 0);
    }

    proptest! {
        /// Whoever comes: the bounds hold, and a peer that makes room takes no network with it whose
        /// only peer it was, as long as there is another that is no better.
        #[test]
        fn it_keeps_its_bounds_and_its_diversity(
            meets in proptest::collection::vec((0..60u16, 0..12u8, any::<bool>(), 0..8u8), 1..200)
        ) {
            const MAX: usize = 20;
            let mut book = book(MAX, 25);
            for (at, (n, group, dialled, told)) in meets.into_iter().enumerate() {
                let before = book.entries.clone();
                let told: Vec<Multiaddr> = (0..told).map(|host| addr(group, host)).collect();
                met(&mut book, n, group, dialled, &told, u64::try_from(at).unwrap());

                prop_assert!(book.entries.len() <= MAX);
                for entry in book.entries.values() {
                    prop_assert!((1..=Config::default().addresses).contains(&entry.addresses.len()));
                }
                let left = before.iter().find(|(p, _)| !book.entries.contains_key(p) && **p != peer(n));
                let Some((_, gone)) = left else { continue };
                prop_assert_eq!(book.entries.len(), MAX, "room is made only when there is none");
                let size = |group| book.entries.values().filter(|e| e.group() == group).count();
                let over = |group| size(group) > MAX / 4;
                let proven = |entry: &Entry| entry.proven(&book.config);
                for stays in book.entries.values() {
                    if size(gone.group()) + 1 > MAX / 4 {
                        // Its network had more than its share, and it was the least in it.
                        continue;
                    }
                    prop_assert!(!over(stays.group()), "another network has more than its share");
                    prop_assert!(proven(stays) || !proven(gone), "a better one left");
                    if proven(stays) == proven(gone) && size(gone.group()) == 0 {
                        prop_assert_eq!(size(stays.group()), 1, "the last of its network left");
                    }
                }
            }
        }
    }
}
