//! What kad's routing table holds of one peer.
//!
//! kad itself only ever adds addresses. Left to that, a peer that tells new ones again and again
//! would grow its entry without bound, and every answer that names it past what kad decodes.

use super::task::Behaviour;
use crate::{AddressPolicy, Multiaddr, PeerId};

/// Addresses held of one peer.
pub(crate) const MAX_ADDRESSES: usize = 16;

/// Bytes all addresses held of one peer take in an answer: five over IPv4, or one at its longest.
///
/// kad refuses a packet beyond 16 KiB. An answer names up to 20 nearer peers and up to 20 providers
/// (whose addresses, where their records have none, kad takes from here): 2 * 20 * (320 + 44 bytes
/// of PeerId and framing) = 14.6 KB, which leaves 1.8 KB for the node's own addresses.
const MAX_BYTES: usize = 320;

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

/// Makes the peer's entry exactly the accepted ones of `addresses`; without any it has no entry.
pub(super) fn replace(
    kad: &mut Behaviour,
    peer: &PeerId,
    addresses: &[Multiaddr],
    policy: AddressPolicy,
) {
    let accepted = accepted(peer, addresses, policy);
    let held = held(kad, peer);
    if held.is_empty() {
        // It may wait for a place in its bucket, with addresses that cannot be read.
        kad.remove_peer(peer);
    }
    // Added before the old ones go: with its last address the entry would lose its place.
    for address in &accepted {
        kad.add_address(peer, address.clone());
    }
    for gone in held.iter().filter(|address| !accepted.contains(address)) {
        kad.remove_address(peer, gone);
    }
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
    use crate::{Protocols, dht, identity::peer_id_of};
    use libp2p::multiaddr::Protocol;

    fn peer(n: u8) -> PeerId {
        peer_id_of(&[n; 32]).unwrap()
    }

    fn kad() -> Behaviour {
        let (config, chain) = (dht::Config::default(), Protocols::new(&[1; 32]));
        dht::behaviour(peer(0), &config, AddressPolicy::Global, &chain)
    }

    fn tcp(port: u16) -> Multiaddr {
        Multiaddr::from(std::net::Ipv4Addr::new(8, 8, 8, 8)).with(Protocol::Tcp(port))
    }

    fn of_peer(n: u8, ports: &[u16]) -> Vec<Multiaddr> {
        ports.iter().map(|port| tcp(*port).with(Protocol::P2p(peer(n)))).collect()
    }

    #[test]
    fn only_the_newest_addresses_are_held() {
        let mut kad = kad();
        for port in 1..1000 {
            replace(&mut kad, &peer(1), &[tcp(port), tcp(port + 1)], AddressPolicy::Global);
        }
        assert_eq!(held(&mut kad, &peer(1)), of_peer(1, &[999, 1000]));
        replace(&mut kad, &peer(1), &[tcp(7)], AddressPolicy::Global);
        assert_eq!(held(&mut kad, &peer(1)), of_peer(1, &[7]));
        let private: Multiaddr = "/ip4/10.0.0.1/tcp/1".parse().unwrap();
        replace(&mut kad, &peer(1), &[private], AddressPolicy::Global);
        assert_eq!(kad.kbuckets().map(|bucket| bucket.num_entries()).sum::<usize>(), 0);
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
        let mut kad = kad();
        replace(&mut kad, &peer(1), &told, AddressPolicy::Global);
        let held = held(&mut kad, &peer(1));
        assert!(held.len() >= 5, "{held:?}");
        assert!(held.iter().map(|a| a.len() + FRAMING).sum::<usize>() <= MAX_BYTES);
    }
}
