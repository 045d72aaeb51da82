//! What the surroundings know of viewers and of other relays.

use crate::{client::Address, sync::lock};
use libp2p::{Multiaddr, PeerId};
use std::sync::{Arc, Mutex};

/// Who answers for a viewer. The node asks the chain.
pub trait Standing: Send + Sync + 'static {
    /// The total score, 0..=1000, of the account that answers for `viewer`; `None` if none does.
    /// Asked once for each connection, and answered at once.
    fn score(&self, viewer: &PeerId) -> Option<u16>;
}

/// Nobody answers for anybody: every viewer gets the same.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unknown;

impl Standing for Unknown {
    fn score(&self, _viewer: &PeerId) -> Option<u16> {
        None
    }
}

/// The longest address that is told to viewers, in bytes; one with a DNS name and a PeerId has
/// about 100.
const MAX_ADDRESS: usize = 200;

/// Other relays of the region: viewers are sent to them when there is too much to do here, and they are
/// asked for what is missing here. At most
/// [`MAX_OTHERS`](crate::wire::MAX_OTHERS) of 200 bytes.
#[derive(Clone, Default)]
pub(crate) struct Others(Arc<Mutex<Arc<Vec<Vec<u8>>>>>);

impl Others {
    /// Names the relays from now on, the best first.
    pub(crate) fn set(&self, relays: &[Multiaddr]) {
        let addrs = relays.iter().map(Multiaddr::to_vec).filter(|addr| addr.len() <= MAX_ADDRESS);
        *lock(&self.0) = Arc::new(addrs.take(crate::wire::MAX_OTHERS).collect());
    }

    pub(crate) fn get(&self) -> Arc<Vec<Vec<u8>>> {
        Arc::clone(&lock(&self.0))
    }

    /// Those that serve over QUIC, and as whom.
    pub(crate) fn addresses(&self) -> Vec<Address> {
        let addr = |bytes: &Vec<u8>| Multiaddr::try_from(bytes.clone()).ok();
        self.get().iter().filter_map(|bytes| Address::try_from(&addr(bytes)?).ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_to_viewers_is_bounded() {
        let others = Others::default();
        assert!(others.get().is_empty());
        let near: Multiaddr = "/ip4/192.0.2.1/udp/9003/quic-v1".parse().unwrap();
        let long: Multiaddr = format!("/dns4/{}/udp/9003", "a".repeat(200)).parse().unwrap();
        let mut relays = vec![long];
        relays.extend(vec![near.clone(); 20]);
        others.set(&relays);
        assert_eq!(*others.get(), vec![near.to_vec(); 8]);
        others.set(&[]);
        assert!(others.get().is_empty());
    }
}
