//! Peers that would have entered the table had their bucket not been full: who takes a place that
//! becomes free.

use crate::{Multiaddr, PeerId};
use std::collections::{HashMap, VecDeque};

/// A peer that waits for a place, and where it said it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) peer: PeerId,
    pub(super) addresses: Vec<Multiaddr>,
}

/// The last few of each bucket.
#[derive(Debug)]
pub(super) struct Replacements {
    per_bucket: usize,
    buckets: HashMap<u32, VecDeque<Candidate>>,
}

impl Replacements {
    pub(super) fn new(per_bucket: usize) -> Self {
        Self { per_bucket, buckets: HashMap::new() }
    }

    /// Remembers a peer; the one that was seen longest ago is forgotten for it.
    pub(super) fn offer(&mut self, bucket: u32, candidate: Candidate) {
        if self.per_bucket == 0 {
            return;
        }
        let bucket = self.buckets.entry(bucket).or_default();
        bucket.retain(|known| known.peer != candidate.peer);
        if bucket.len() >= self.per_bucket {
            bucket.pop_front();
        }
        bucket.push_back(candidate);
    }

    /// The peer that was seen last.
    pub(super) fn take(&mut self, bucket: u32) -> Option<Candidate> {
        let candidates = self.buckets.get_mut(&bucket)?;
        let last = candidates.pop_back();
        if candidates.is_empty() {
            self.buckets.remove(&bucket);
        }
        last
    }

    /// Forgets a peer.
    pub(super) fn forget(&mut self, bucket: u32, peer: &PeerId) {
        if let Some(candidates) = self.buckets.get_mut(&bucket) {
            candidates.retain(|known| known.peer != *peer);
            if candidates.is_empty() {
                self.buckets.remove(&bucket);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::peer_id_of;

    fn candidate(n: u8, port: u16) -> Candidate {
        let addresses = vec![format!("/ip4/8.8.8.8/tcp/{port}").parse().unwrap()];
        Candidate { peer: peer_id_of(&[n; 32]).unwrap(), addresses }
    }

    #[test]
    fn the_last_seen_are_remembered_and_come_first() {
        let mut replacements = Replacements::new(2);
        for n in [1, 2, 3] {
            replacements.offer(7, candidate(n, 1));
        }
        replacements.offer(7, candidate(2, 2));
        replacements.offer(8, candidate(9, 1));
        assert_eq!(replacements.take(7), Some(candidate(2, 2)), "seen again, at another address");
        assert_eq!(replacements.take(7), Some(candidate(3, 1)));
        assert_eq!(replacements.take(7), None);
        replacements.forget(8, &candidate(9, 1).peer);
        assert!(replacements.buckets.is_empty());
        let mut none = Replacements::new(0);
        none.offer(1, candidate(1, 1));
        assert!(none.buckets.is_empty());
    }
}
