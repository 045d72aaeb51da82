//! How often this node does something for others. Pure: no clock.

use crate::PeerId;
use lru::LruCache;
use std::{
    num::NonZeroUsize,
    time::{Duration, Instant},
};

const MINUTE: Duration = Duration::from_secs(60);

/// Counts in all and by peer. At any time a minute's worth may be taken at once, and grows back
/// evenly. 150 bytes for each peer that is remembered.
#[derive(Debug)]
pub(super) struct Rates {
    step: Duration,
    peer_step: Duration,
    whole_at: Option<Instant>,
    /// When each peer's budget will be whole again.
    peers: LruCache<PeerId, Instant>,
}

impl Rates {
    /// So many a minute, of all and of one peer; those `max_peers` are remembered that asked last.
    pub(super) fn new(per_minute: u32, peer_per_minute: u32, max_peers: usize) -> Self {
        let peers = NonZeroUsize::new(max_peers).unwrap_or(NonZeroUsize::MIN);
        Self {
            step: MINUTE / per_minute.max(1),
            peer_step: MINUTE / peer_per_minute.max(1),
            whole_at: None,
            peers: LruCache::sparse(peers),
        }
    }

    /// Takes one of a peer's, and one of all.
    pub(super) fn take(&mut self, peer: &PeerId, now: Instant) -> bool {
        let then = |at: Option<Instant>, step| at.map_or(now, |at| at.max(now)) + step;
        let of_peer = then(self.peers.peek(peer).copied(), self.peer_step);
        let of_all = then(self.whole_at, self.step);
        if of_peer.max(of_all) > now + MINUTE {
            return false;
        }
        self.peers.push(*peer, of_peer);
        self.whole_at = Some(of_all);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::peer_id_of;
    use proptest::prelude::*;

    fn rates(per_minute: u32, peer_per_minute: u32) -> Rates {
        Rates::new(per_minute, peer_per_minute, 1024)
    }

    fn peer(n: u8) -> PeerId {
        peer_id_of(&[n; 32]).unwrap()
    }

    #[test]
    fn one_peer_cannot_use_up_what_is_for_all() {
        let now = Instant::now();
        let mut rates = rates(60, 12);
        assert_eq!((0..100).filter(|_| rates.take(&peer(1), now)).count(), 12);
        assert_eq!((0..100).filter(|_| rates.take(&peer(2), now)).count(), 12);
        let later = now + Duration::from_secs(5);
        assert!(rates.take(&peer(1), later));
        assert!(!rates.take(&peer(1), later));
    }

    #[test]
    fn all_together_get_no_more_than_there_is() {
        let now = Instant::now();
        let mut rates = rates(60, 12);
        let taken = (0..200u8).filter(|n| rates.take(&peer(*n), now)).count();
        assert_eq!(taken, 60);
    }

    proptest! {
        #[test]
        fn no_minute_sees_more_than_twice_the_rate(
            calls in proptest::collection::vec((0..5u8, 0..4000u64), 1..300),
        ) {
            let (mut now, mut rates, mut taken) = (Instant::now(), rates(20, 5), Vec::new());
            for (who, wait) in calls {
                now += Duration::from_millis(wait);
                if rates.take(&peer(who), now) {
                    taken.push((who, now));
                }
                let recent = taken.iter().filter(|(_, at)| now - *at < MINUTE);
                prop_assert!(recent.clone().count() <= 40);
                prop_assert!(recent.filter(|(peer, _)| *peer == who).count() <= 10);
            }
        }
    }
}
