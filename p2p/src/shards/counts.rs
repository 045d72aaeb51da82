//! How many streams of which peer are open.

use crate::{PeerId, metrics::gauge};
use prometheus_endpoint::{Gauge, U64};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Streams in one direction. Clones count together.
#[derive(Clone)]
pub(super) struct Counts {
    per_peer: usize,
    max: usize,
    open: Arc<Mutex<Open>>,
    shown: Gauge<U64>,
}

/// Peers with a stream at least: as many as there may be streams, of about 100 bytes.
#[derive(Default)]
struct Open {
    all: usize,
    peers: HashMap<PeerId, usize>,
}

/// A stream that is open, or being opened. Gives its place back when it is dropped.
pub(super) struct Place {
    counts: Counts,
    peer: PeerId,
}

impl Counts {
    pub(super) fn new(per_peer: usize, max: usize, shown: Gauge<U64>) -> Self {
        Self { per_peer, max, open: Arc::default(), shown }
    }

    /// A place for one more stream, if there is any.
    pub(super) fn enter(&self, peer: PeerId) -> Option<Place> {
        let mut open = self.open();
        let of_peer = open.peers.get(&peer).copied().unwrap_or(0);
        if of_peer >= self.per_peer || open.all >= self.max {
            return None;
        }
        open.all += 1;
        open.peers.insert(peer, of_peer + 1);
        self.shown.set(gauge(open.all));
        Some(Place { counts: self.clone(), peer })
    }

    /// Right after a panic too: each change is whole.
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.counts.open();
        open.all = open.all.saturating_sub(1);
        if let Some(of_peer) = open.peers.get_mut(&self.peer) {
            *of_peer = of_peer.saturating_sub(1);
            if *of_peer == 0 {
                open.peers.remove(&self.peer);
            }
        }
        self.counts.shown.set(gauge(open.all));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::peer_id_of;

    #[test]
    fn a_peer_has_its_share_and_all_no_more_than_there_is_and_places_come_back() {
        let shown = Gauge::new("open", "open").unwrap();
        let counts = Counts::new(2, 3, shown.clone());
        let [a, b] = [1, 2].map(|n| peer_id_of(&[n; 32]).unwrap());
        let first = counts.enter(a).unwrap();
        let _second = counts.enter(a).unwrap();
        assert!(counts.enter(a).is_none());
        let _third = counts.enter(b).unwrap();
        assert!(counts.enter(b).is_none(), "three in all");
        assert_eq!(shown.get(), 3);
        drop(first);
        assert_eq!(shown.get(), 2);
        let _again = counts.enter(b).unwrap();
        assert_eq!(counts.open().peers.len(), 2);
    }
}
