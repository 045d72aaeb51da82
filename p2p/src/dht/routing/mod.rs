//! What kad's routing table holds: who is let in (`admission` decides), which addresses of each, and
//! who is still there.
//!
//! kad itself only ever adds addresses. Left to that, a peer that tells new ones again and again
//! would grow its entry without bound, and every answer that names it past what kad decodes.
//!
//! A peer enters only once this node has reached it: by a dial of its own, or, where it came by
//! itself, by one to an address that it told ([`checks`]). Whoever is in the table and was not heard
//! of for a while is dialled again; who fails a few times leaves ([`health`]), and a peer that found its
//! bucket full takes the place if it can be reached ([`replacements`]). Lookups near this node and
//! in each bucket fill the table ([`refresh`]).

mod checks;
mod config;
mod health;
mod refresh;
mod replacements;
mod task;
mod upkeep;

use super::{
    admission::{self, Groups, Held, Limits, Place, Refused},
    task::Behaviour,
};
use crate::{AddressPolicy, Multiaddr, PeerId, Reputation, address::IpGroup, identity::key_of};
pub(crate) use checks::{Check, Why};
pub use config::Config;
use libp2p::kad::{NodeStatus, RoutingUpdate};
use lru::LruCache;
use std::{net::IpAddr, num::NonZeroUsize};
pub(crate) use task::REFRESHES;
pub(super) use upkeep::Upkeep;
pub(crate) use upkeep::{Dialled, OUTCOMES, Seen};

/// Addresses held of one peer.
pub(crate) const MAX_ADDRESSES: usize = 16;

/// Bytes all addresses held of one peer take in an answer: five over IPv4, or one at its longest.
///
/// kad refuses a packet beyond 16 KiB. An answer names up to 20 nearer peers and up to 20 providers
/// (whose addresses, where their records have none, kad takes from here): 2 * 20 * (320 + 44 bytes
/// of PeerId and framing) = 14.6 KB, which leaves 1.8 KB for the node's own addresses.
const MAX_BYTES: usize = 320;

/// Peers whose network is remembered: more than the 256 buckets of 20 could hold.
const MAX_FROM: NonZeroUsize = NonZeroUsize::new(8192).unwrap();

/// One peer a bucket can wait.
const MAX_WAITING: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// Tag and length before each address.
const FRAMING: usize = 3;

/// Those of a peer's addresses that are held, as kad holds them: ending in its PeerId. One that does
/// not fit is passed over, as is one that names another peer.
fn accepted(peer: &PeerId, addresses: &[Multiaddr], policy: AddressPolicy) -> Vec<Multiaddr> {
    let mut left = MAX_BYTES;
    let mut accepted: Vec<Multiaddr> = Vec::new();
    for address in addresses.iter().filter(|a| policy.allows(a)) {
        if accepted.len() == MAX_ADDRESSES {
            break;
        }
        let Ok(address) = address.clone().with_p2p(*peer) else { continue };
        let takes = address.len() + FRAMING;
        if takes <= left && !accepted.contains(&address) {
            left -= takes;
            accepted.push(address);
        }
    }
    accepted
}

/// Lets peers into kad's routing table, or not.
pub(super) struct Routing {
    limits: Limits,
    policy: AddressPolicy,
    /// The networks that peers in the table connect from, which kad does not hold. Worst case: 8,192
    /// * 200 bytes = 1.6 MB; only those of peers that are in the table are ever looked at.
    from: LruCache<PeerId, IpGroup>,
    /// Peers that may wait for a place in their bucket, one a bucket: 256 * 160 bytes = 40 KB.
    waiting: LruCache<PeerId, ()>,
    pub(super) upkeep: Upkeep,
}

impl Routing {
    pub(super) fn new(limits: Limits, policy: AddressPolicy, upkeep: Upkeep) -> Self {
        Self {
            limits,
            policy,
            from: LruCache::sparse(MAX_FROM),
            waiting: LruCache::sparse(MAX_WAITING),
            upkeep,
        }
    }

    /// A peer is connected from `ip` and told its addresses. It gets exactly those that are
    /// accepted as its entry, or has none and the reason is told.
    pub(super) fn admit(
        &mut self,
        kad: &mut Behaviour,
        peer: &PeerId,
        ip: Option<IpAddr>,
        addresses: &[Multiaddr],
        reputation: &dyn Reputation,
    ) -> Result<(), Refused> {
        let decided = self.decide(kad, peer, ip, addresses, reputation);
        let held = held(kad, peer);
        let (accepted, place) = match decided {
            Ok(decided) => decided,
            Err(reason) => {
                kad.remove_peer(peer);
                return Err(reason);
            }
        };
        if held.is_empty() {
            // It may wait for a place in its bucket, with addresses that cannot be read.
            kad.remove_peer(peer);
        }
        if let Place::Of(worse) = place {
            self.drop_waiting(kad, peer);
            kad.remove_peer(&worse);
        }
        if let Some(ip) = ip {
            self.from.push(*peer, IpGroup::of(ip));
        }
        // Added before the old ones go: with its last address the entry would lose its place.
        for address in &accepted {
            match kad.add_address(peer, address.clone()) {
                RoutingUpdate::Success => {}
                RoutingUpdate::Pending => {
                    self.waiting.push(*peer, ());
                }
                // Another waits for the place already.
                RoutingUpdate::Failed => return Err(Refused::BucketFull),
            }
        }
        for gone in held.iter().filter(|address| !accepted.contains(address)) {
            kad.remove_address(peer, gone);
        }
        Ok(())
    }

    /// The addresses to hold of a peer, and its place in its bucket.
    fn decide(
        &self,
        kad: &mut Behaviour,
        peer: &PeerId,
        ip: Option<IpAddr>,
        addresses: &[Multiaddr],
        reputation: &dyn Reputation,
    ) -> Result<(Vec<Multiaddr>, Place), Refused> {
        if graylisted(reputation, peer) {
            return Err(Refused::Graylisted);
        }
        let mut accepted = accepted(peer, addresses, self.policy);
        if accepted.is_empty() {
            return Err(Refused::NoAddress);
        }
        if self.limits.apply() {
            let groups = self.groups(kad, peer);
            accepted = groups.allow(ip.map(IpGroup::of), accepted, self.limits)?;
        }
        let bucket = bucket(kad, peer, reputation);
        let place = if bucket.iter().any(|held| held.peer == *peer) {
            Place::Free
        } else {
            admission::place(&bucket, self.limits.bucket, bound(reputation, peer))?
        };
        Ok((accepted, place))
    }

    /// The networks of all other peers in the table, in which a few hundred are: read anew each time,
    /// since kad changes it by itself too.
    fn groups(&self, kad: &mut Behaviour, peer: &PeerId) -> Groups {
        let own = kad.kbucket(*peer).map(|bucket| bucket.range());
        let mut groups = Groups::default();
        for bucket in kad.kbuckets() {
            let same = Some(bucket.range()) == own;
            for entry in bucket.iter() {
                let other = entry.node.key.preimage();
                if other != peer {
                    let told = entry.node.value.iter().filter_map(admission::group_of);
                    let from = self.from.peek(other).copied();
                    groups.add(told.chain(from).collect(), same);
                }
            }
        }
        groups
    }

    /// Nobody waits any more in the peer's bucket: the place that was waited for is another now,
    /// maybe one of a bound peer.
    fn drop_waiting(&mut self, kad: &mut Behaviour, peer: &PeerId) {
        let Some(range) = kad.kbucket(*peer).map(|bucket| bucket.range()) else { return };
        let waiting: Vec<PeerId> = self.waiting.iter().map(|(peer, ())| *peer).collect();
        for other in waiting {
            let same = kad.kbucket(other).is_some_and(|bucket| bucket.range() == range);
            if same && held(kad, &other).is_empty() {
                kad.remove_peer(&other);
                self.waiting.pop(&other);
            }
        }
    }

    /// A peer has its place.
    pub(super) fn on_inserted(&mut self, peer: &PeerId) {
        self.waiting.pop(peer);
    }
}

/// Takes out all peers that are graylisted now.
pub(super) fn remove_graylisted(kad: &mut Behaviour, reputation: &dyn Reputation) {
    let mut leaving: Vec<PeerId> = Vec::new();
    for bucket in kad.kbuckets() {
        let peers = bucket.iter().map(|entry| *entry.node.key.preimage());
        leaving.extend(peers.filter(|peer| graylisted(reputation, peer)));
    }
    for peer in leaving {
        kad.remove_peer(&peer);
    }
}

fn graylisted(reputation: &dyn Reputation, peer: &PeerId) -> bool {
    let standing = key_of(peer).and_then(|key| reputation.standing(&key));
    standing.is_some_and(|standing| standing.graylisted())
}

fn bound(reputation: &dyn Reputation, peer: &PeerId) -> bool {
    key_of(peer).is_some_and(|key| reputation.standing(&key).is_some())
}

/// The peers in a peer's bucket, in kad's order.
fn bucket(kad: &mut Behaviour, peer: &PeerId, reputation: &dyn Reputation) -> Vec<Held> {
    let Some(bucket) = kad.kbucket(*peer) else { return Vec::new() };
    let entries = bucket.iter().map(|entry| {
        let peer = *entry.node.key.preimage();
        let connected = entry.status == NodeStatus::Connected;
        Held { peer, bound: bound(reputation, &peer), connected }
    });
    entries.collect()
}

/// The addresses of a peer that is in the table.
fn held(kad: &mut Behaviour, peer: &PeerId) -> Vec<Multiaddr> {
    let Some(bucket) = kad.kbucket(*peer) else { return Vec::new() };
    let entry = bucket.iter().find(|entry| entry.node.key.preimage() == peer);
    entry.map(|entry| entry.node.value.iter().cloned().collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Protocols, Standing, dht, identity::peer_id_of, testnet::StaticReputation};
    use libp2p::{
        core::{ConnectedPoint, Endpoint, transport::PortUse},
        multiaddr::Protocol,
        swarm::{ConnectionId, FromSwarm, NetworkBehaviour, behaviour::ConnectionEstablished},
    };
    use std::time::Instant;

    fn key(n: u8) -> [u8; 32] {
        [n; 32]
    }

    fn peer(n: u8) -> PeerId {
        peer_id_of(&key(n)).unwrap()
    }

    fn tcp(port: u16) -> Multiaddr {
        Multiaddr::from(std::net::Ipv4Addr::new(8, 8, 8, 8)).with(Protocol::Tcp(port))
    }

    fn of_peer(n: u8, ports: &[u16]) -> Vec<Multiaddr> {
        ports.iter().map(|port| tcp(*port).with(Protocol::P2p(peer(n)))).collect()
    }

    fn routing(config: &dht::Config, policy: AddressPolicy) -> Routing {
        let upkeep = Upkeep::new(peer(0), config.refresh, &config.table, Instant::now());
        Routing::new(Limits::new(config, policy), policy, upkeep)
    }

    /// A real kad with buckets of two places, and who is let into it.
    struct Table {
        kad: Behaviour,
        routing: Routing,
        reputation: StaticReputation,
    }

    impl Table {
        fn new(policy: AddressPolicy) -> Self {
            let config = dht::Config { replication: 2, ..dht::Config::default() };
            let chain = Protocols::new(&[1; 32]);
            Self {
                kad: dht::behaviour(peer(0), &config, policy, &chain),
                routing: routing(&config, policy),
                reputation: StaticReputation::default(),
            }
        }

        fn admit(&mut self, n: u8, addresses: &[Multiaddr]) -> Result<(), Refused> {
            self.routing.admit(&mut self.kad, &peer(n), None, addresses, &self.reputation)
        }

        fn connect(&mut self, n: u8) {
            let endpoint = ConnectedPoint::Dialer {
                address: tcp(1),
                role_override: Endpoint::Dialer,
                port_use: PortUse::Reuse,
            };
            self.kad.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id: peer(n),
                connection_id: ConnectionId::new_unchecked(n.into()),
                endpoint: &endpoint,
                failed_addresses: &[],
                other_established: 0,
            }));
        }

        fn bind(&self, n: u8) {
            self.reputation.set(key(n), Some(Standing::NEUTRAL));
        }

        fn len(&mut self) -> usize {
            self.kad.kbuckets().map(|bucket| bucket.num_entries()).sum()
        }

        fn holds(&mut self, n: u8) -> bool {
            !held(&mut self.kad, &peer(n)).is_empty()
        }

        fn waits(&mut self, n: u8) -> bool {
            self.kad.kbucket(peer(n)).unwrap().has_pending()
        }

        /// Peers of the bucket farthest away, in which every second is.
        fn neighbours<const N: usize>(&mut self) -> [u8; N] {
            let far = self.kad.kbucket(peer(1)).unwrap().range();
            let mut same = (1..=255).filter(|n| self.kad.kbucket(peer(*n)).unwrap().range() == far);
            std::array::from_fn(|_| same.next().unwrap())
        }
    }

    #[test]
    fn only_the_newest_addresses_are_held() {
        let mut table = Table::new(AddressPolicy::Global);
        for port in 1..1000 {
            table.admit(1, &[tcp(port), tcp(port + 1)]).unwrap();
        }
        assert_eq!(held(&mut table.kad, &peer(1)), of_peer(1, &[999, 1000]));
        table.admit(1, &[tcp(7)]).unwrap();
        assert_eq!(held(&mut table.kad, &peer(1)), of_peer(1, &[7]));
        let private: Multiaddr = "/ip4/10.0.0.1/tcp/1".parse().unwrap();
        assert_eq!(table.admit(1, &[private]), Err(Refused::NoAddress));
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn one_peers_addresses_are_bounded_in_bytes_and_its_own() {
        let long: Multiaddr = format!("/dns/{}/tcp/1", "a".repeat(250)).parse().unwrap();
        let other = tcp(1).with(Protocol::P2p(peer(2)));
        let mut told = vec![long, other];
        told.extend((1..100).map(tcp));
        let accepted = accepted(&peer(1), &told, AddressPolicy::Global);
        assert_eq!(accepted.len(), 1, "the first took most of the room");
        let told: Vec<_> = (1..100).chain(1..100).map(tcp).collect();
        let mut table = Table::new(AddressPolicy::Global);
        table.admit(1, &told).unwrap();
        let held = held(&mut table.kad, &peer(1));
        assert!(held.len() >= 5, "{held:?}");
        assert!(held.iter().map(|a| a.len() + FRAMING).sum::<usize>() <= MAX_BYTES);
    }

    #[test]
    fn graylisted_peers_are_kept_out_and_leave() {
        let mut table = Table::new(AddressPolicy::Any);
        table.admit(1, &[tcp(1)]).unwrap();
        table.bind(2);
        table.admit(2, &[tcp(2)]).unwrap();
        let bad = Standing { seeder: 0, ..Standing::NEUTRAL };
        table.reputation.set(key(1), Some(bad));
        remove_graylisted(&mut table.kad, &table.reputation);
        assert!(!table.holds(1) && table.holds(2));
        assert_eq!(table.admit(1, &[tcp(1)]), Err(Refused::Graylisted));
        table.reputation.set(key(2), Some(bad));
        assert_eq!(table.admit(2, &[tcp(2)]), Err(Refused::Graylisted));
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn bound_peers_push_out_unbound_ones_and_never_the_other_way_round() {
        let mut table = Table::new(AddressPolicy::Any);
        let [a, b, c, d, e] = table.neighbours();
        for n in [c, d] {
            table.bind(n);
        }
        for n in [a, b, c, d, e] {
            table.connect(n);
        }
        for n in [a, b] {
            table.admit(n, &[tcp(1)]).unwrap();
        }
        assert_eq!(table.admit(e, &[tcp(1)]), Err(Refused::BucketFull));
        table.admit(c, &[tcp(1)]).unwrap();
        table.admit(d, &[tcp(1)]).unwrap();
        assert!(table.holds(c) && table.holds(d));
        assert_eq!(table.admit(a, &[tcp(1)]), Err(Refused::BucketFull));
        assert_eq!(table.admit(c, &[tcp(2)]), Ok(()), "its own place is its own");
        assert_eq!(held(&mut table.kad, &peer(c)), of_peer(c, &[2]));
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn one_that_waits_for_a_place_does_not_get_that_of_a_bound_peer() {
        let mut table = Table::new(AddressPolicy::Any);
        let [a, b, c, d, e] = table.neighbours();
        table.bind(b);
        table.bind(d);
        // Neither is connected; the unbound one is the older.
        table.admit(a, &[tcp(1)]).unwrap();
        table.admit(b, &[tcp(1)]).unwrap();
        table.connect(c);
        table.admit(c, &[tcp(1)]).unwrap();
        assert!(table.waits(c) && !table.holds(c));
        table.connect(e);
        assert_eq!(table.admit(e, &[tcp(1)]), Err(Refused::BucketFull), "one waits already");
        // A bound peer takes the place that was waited for; the next in turn would be a bound one's.
        table.connect(d);
        table.admit(d, &[tcp(1)]).unwrap();
        assert!(table.holds(b) && table.holds(d) && !table.waits(c));
        assert_eq!(table.admit(c, &[tcp(1)]), Err(Refused::BucketFull));
    }

    /// What the driver does with a peer that has identified itself.
    fn identified(table: &mut Table, n: u8, reached: bool, now: Instant) -> Result<bool, Refused> {
        let Table { kad, routing, reputation } = table;
        let told = [tcp(n.into())];
        let seen = Seen { ip: None, reached, told: &told };
        routing.identified(kad, &peer(n), seen, reputation, now)
    }

    /// What it does when a dial to a peer has ended.
    fn dialled(table: &mut Table, id: usize, n: u8, outcome: Dialled, now: Instant) -> Option<Why> {
        let Table { kad, routing, reputation } = table;
        let id = ConnectionId::new_unchecked(id);
        let checked = routing.dialled(kad, id, &peer(n), outcome, reputation, now);
        checked.map(|checked| checked.why)
    }

    /// The peer that is dialled next, and why.
    fn dials(table: &mut Table, id: usize, now: Instant) -> Option<(PeerId, Why)> {
        let check = table.routing.upkeep.next_check(now)?;
        let dialled = (check.peer, check.why);
        table.routing.upkeep.check_begun(ConnectionId::new_unchecked(id), check);
        Some(dialled)
    }

    #[test]
    fn one_that_came_by_itself_enters_once_it_was_reached() {
        let (mut table, now) = (Table::new(AddressPolicy::Global), Instant::now());
        assert_eq!(identified(&mut table, 1, false, now), Ok(false));
        assert_eq!(table.len(), 0);
        assert_eq!(dials(&mut table, 1, now), Some((peer(1), Why::Newcomer)));
        assert_eq!(dialled(&mut table, 1, 1, Dialled::Reached, now), Some(Why::Newcomer));
        assert!(table.holds(1));
        assert_eq!(identified(&mut table, 2, true, now), Ok(true), "reached by another dial");
        assert_eq!(identified(&mut table, 3, false, now), Ok(false));
        dials(&mut table, 2, now).unwrap();
        dialled(&mut table, 2, 3, Dialled::Failed, now);
        assert!(!table.holds(3));
        // Whoever is known to be reachable is not dialled each time it comes back.
        table.kad.remove_peer(&peer(1));
        assert_eq!(identified(&mut table, 1, false, now), Ok(true));
        table.kad.remove_peer(&peer(1));
        let later = now + Config::default().reachable_for + std::time::Duration::from_secs(1);
        assert_eq!(identified(&mut table, 1, false, later), Ok(false));
    }

    #[test]
    fn one_that_says_it_has_moved_is_dialled_there_first() {
        let (mut table, now) = (Table::new(AddressPolicy::Global), Instant::now());
        identified(&mut table, 1, true, now).unwrap();
        let tells = |table: &mut Table, ports: &[u16]| {
            let Table { kad, routing, reputation } = table;
            let told: Vec<_> = ports.iter().map(|port| tcp(*port)).collect();
            let seen = Seen { ip: None, reached: false, told: &told };
            routing.identified(kad, &peer(1), seen, reputation, now)
        };
        assert_eq!(tells(&mut table, &[1, 2]), Ok(true), "one more");
        assert_eq!(tells(&mut table, &[3]), Ok(false));
        assert_eq!(dials(&mut table, 1, now), Some((peer(1), Why::Newcomer)));
        assert_eq!(held(&mut table.kad, &peer(1)), of_peer(1, &[1, 2]));
        dialled(&mut table, 1, 1, Dialled::Reached, now);
        assert_eq!(held(&mut table.kad, &peer(1)), of_peer(1, &[3]));
    }

    #[test]
    fn who_may_not_enter_is_not_dialled() {
        let (mut table, now) = (Table::new(AddressPolicy::Global), Instant::now());
        table.reputation.set(key(1), Some(Standing { seeder: 0, ..Standing::NEUTRAL }));
        assert_eq!(identified(&mut table, 1, false, now), Err(Refused::Graylisted));
        assert_eq!(dials(&mut table, 1, now), None);
    }

    #[test]
    fn one_that_dies_leaves_and_who_found_the_bucket_full_takes_its_place() {
        let (mut table, mut now) = (Table::new(AddressPolicy::Any), Instant::now());
        let [a, b, c] = table.neighbours();
        for n in [a, b, c] {
            table.connect(n);
        }
        identified(&mut table, a, true, now).unwrap();
        identified(&mut table, b, true, now).unwrap();
        assert_eq!(identified(&mut table, c, true, now), Err(Refused::BucketFull));
        let Table { kad, routing, .. } = &mut table;
        routing.on_tick(kad, now);
        let settings = Config::default();
        for _ in 0..settings.max_failures {
            assert!(table.holds(a));
            assert_eq!(dials(&mut table, 1, now), None);
            table.routing.failed(&mut table.kad, &peer(a), now);
            now += settings.stale_retry;
        }
        assert!(!table.holds(a) && table.holds(b));
        assert_eq!(dials(&mut table, 1, now), Some((peer(c), Why::Replacement)));
        dialled(&mut table, 1, c, Dialled::Reached, now);
        assert_eq!(identified(&mut table, c, true, now), Ok(true));
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn one_that_is_silent_is_dialled_and_stays_if_it_is_there() {
        let (mut table, now) = (Table::new(AddressPolicy::Any), Instant::now());
        identified(&mut table, 1, true, now).unwrap();
        let tick = |table: &mut Table, now| table.routing.on_tick(&mut table.kad, now);
        tick(&mut table, now);
        assert_eq!(dials(&mut table, 1, now), None);
        let later = now + Config::default().stale_after;
        tick(&mut table, later);
        tick(&mut table, later);
        assert_eq!(dials(&mut table, 1, later), Some((peer(1), Why::Stale)));
        assert_eq!(dials(&mut table, 2, later), None);
        assert_eq!(dialled(&mut table, 1, 1, Dialled::Reached, later), Some(Why::Stale));
        tick(&mut table, later);
        assert_eq!(dials(&mut table, 2, later), None);
        let contacts = table.routing.contacts(&mut table.kad, 10, later, 5_000_000);
        let seen: Vec<_> = contacts.iter().map(|c| (c.peer, c.seen_ms)).collect();
        assert_eq!(seen, [(key(1), 5_000_000)]);
    }

    #[test]
    fn those_of_before_the_restart_are_dialled_the_last_heard_of_first() {
        let (mut table, now) = (Table::new(AddressPolicy::Any), Instant::now());
        let kept = |n: u8| dht::disk::KeptContact {
            peer: key(n),
            addresses: of_peer(n, &[1]),
            seen_ms: n.into(),
        };
        identified(&mut table, 2, true, now).unwrap();
        table.routing.upkeep.restore(vec![kept(1), kept(2), kept(3)], |kept| {
            let peer = peer_id_of(&kept.peer)?;
            Some(dht::network::Contact { peer, addresses: kept.addresses })
        });
        let mut dialled = Vec::new();
        for id in 0..4 {
            table.routing.on_tick(&mut table.kad, now);
            dialled.extend(dials(&mut table, id, now));
        }
        assert_eq!(dialled, [(peer(3), Why::Kept), (peer(1), Why::Kept)]);
        assert_eq!(table.len(), 1, "they have to be reached first");
    }

    #[test]
    fn one_network_has_few_places_in_the_table_and_fewer_in_a_bucket() {
        let config = dht::Config::default();
        let mut table = Table::new(AddressPolicy::Global);
        table.kad =
            dht::behaviour(peer(0), &config, AddressPolicy::Global, &Protocols::new(&[1; 32]));
        table.routing = routing(&config, AddressPolicy::Global);
        let mut reasons = std::collections::HashSet::new();
        let mut entered = 0;
        for n in 1..=255 {
            match table.admit(n, &[tcp(n.into())]) {
                Ok(()) => entered += 1,
                Err(reason) => {
                    reasons.insert(reason.label());
                }
            }
        }
        assert_eq!(table.len(), entered);
        assert!(table.kad.kbuckets().all(|bucket| bucket.num_entries() <= 2));
        assert!(reasons.contains("group_in_bucket"), "{reasons:?}");
        // Another network has places of its own; connecting from the full one helps nobody.
        let [.., free] = table.neighbours::<5>();
        let other: Multiaddr = "/ip4/9.9.9.9/tcp/1".parse().unwrap();
        let from = Some([8, 8, 1, 1].into());
        let admit = |table: &mut Table, from| {
            let Table { kad, routing, reputation } = table;
            routing.admit(kad, &peer(free), from, &[other.clone(), tcp(1)], reputation)
        };
        assert_eq!(admit(&mut table, from), Err(Refused::GroupInBucket));
        assert_eq!(admit(&mut table, None), Ok(()));
        assert_eq!(
            held(&mut table.kad, &peer(free)),
            [other.clone().with(Protocol::P2p(peer(free)))]
        );
    }
}
