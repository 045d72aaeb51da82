//! Where providers are, by the word of whoever named them.
//!
//! A provider behind a NAT stands in nobody's routing table, so nobody finds it by looking for it: where
//! it is reached, through a circuit say, is told by its provider records alone. What is told here is a
//! hint for dialling that peer. Anybody can tell anything; a dial pins the PeerId, takes only what the
//! policy allows, and counts against the budget of its IP.

use crate::{Multiaddr, PeerId, dht::network::Contact};
use lru::LruCache;
use std::num::NonZeroUsize;

/// Addresses kept of one peer: what two that name it tell.
const ADDRESSES: usize = 8;

/// The providers named last.
pub(super) struct Whereabouts {
    /// At most `dht.whereabouts`, of 100 bytes and eight addresses of 320 at most each.
    known: LruCache<PeerId, Vec<Multiaddr>>,
}

impl Whereabouts {
    /// Of so many peers.
    pub(super) fn new(most: usize) -> Self {
        let most = NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN);
        Self { known: LruCache::sparse(most) }
    }

    /// Somebody has named a provider. What is told last goes first. The first address that nobody
    /// named before, if there is one: the peer may have moved there.
    pub(super) fn told(&mut self, provider: &Contact) -> Option<Multiaddr> {
        if provider.addresses.is_empty() {
            return None;
        }
        let known = self.known.get_or_insert_mut(provider.peer, Vec::new);
        let new = provider.addresses.iter().find(|addr| !known.contains(addr)).cloned();
        let mut all = provider.addresses.clone();
        all.extend(known.drain(..).filter(|known| !provider.addresses.contains(known)));
        all.truncate(ADDRESSES);
        *known = all;
        new
    }

    /// Where a peer may be.
    pub(super) fn of(&self, peer: &PeerId) -> Vec<Multiaddr> {
        self.known.peek(peer).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::peer_id_of;
    use proptest::prelude::*;

    fn contact(n: u8, ports: &[u16]) -> Contact {
        let addr = |port: &u16| format!("/ip4/8.8.8.8/tcp/{port}").parse().unwrap();
        Contact { peer: peer_id_of(&[n; 32]).unwrap(), addresses: ports.iter().map(addr).collect() }
    }

    #[test]
    fn what_is_told_last_goes_first_and_nothing_forgets_nothing() {
        let mut whereabouts = Whereabouts::new(2);
        assert_eq!(
            whereabouts.told(&contact(1, &[1, 2])),
            Some(contact(1, &[1]).addresses.remove(0))
        );
        assert_eq!(whereabouts.told(&contact(1, &[])), None);
        assert_eq!(whereabouts.told(&contact(1, &[2, 1])), None);
        assert_eq!(
            whereabouts.told(&contact(1, &[1, 3])),
            Some(contact(1, &[3]).addresses.remove(0))
        );
        let peer = contact(1, &[]).peer;
        assert_eq!(whereabouts.of(&peer), contact(1, &[1, 3, 2]).addresses);
        whereabouts.told(&contact(2, &[5]));
        whereabouts.told(&contact(3, &[5]));
        assert!(whereabouts.of(&peer).is_empty(), "pushed out");
    }

    proptest! {
        #[test]
        fn it_is_bounded(told in proptest::collection::vec((0u8..20, 1u16..50, 0u16..12), 0..60)) {
            let mut whereabouts = Whereabouts::new(4);
            for (n, first, count) in told {
                let ports: Vec<u16> = (first..first + count).collect();
                whereabouts.told(&contact(n, &ports));
                prop_assert!(whereabouts.known.len() <= 4);
                prop_assert!(whereabouts.known.iter().all(|(_, known)| known.len() <= ADDRESSES));
            }
        }
    }
}
