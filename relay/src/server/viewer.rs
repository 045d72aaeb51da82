//! What is remembered of a viewer while it is connected: about 600 bytes.

use crate::{content::BlobId, sync::lock, wire::Priority};
use libp2p::PeerId;
use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

/// Blobs of which is remembered where the viewer is.
const FOLLOWED: usize = 8;

/// Somebody on the other end of a connection.
pub(super) struct Viewer {
    pub(super) peer: PeerId,
    /// Its share when the total binds, against the 100 of others.
    pub(super) weight: u32,
    served: AtomicBool,
    trail: Mutex<Trail>,
}

impl Viewer {
    pub(super) fn new(peer: PeerId, weight: u32) -> Self {
        Self { peer, weight, served: AtomicBool::new(false), trail: Mutex::default() }
    }

    /// Whether it got something before.
    pub(super) fn was_served(&self) -> bool {
        self.served.load(Ordering::Relaxed)
    }

    pub(super) fn set_served(&self) {
        self.served.store(true, Ordering::Relaxed);
    }

    /// How urgent a request is that does not say so.
    pub(super) fn urgency(&self, id: BlobId, range: Option<(u64, u64)>) -> Priority {
        lock(&self.trail).follow(id, range)
    }
}

/// Where a viewer has read to, of the blobs it read from last.
#[derive(Debug, Default)]
struct Trail(VecDeque<(BlobId, u64)>);

impl Trail {
    /// A range that begins where the viewer has not read to is a seek, unless it is a beginning.
    fn follow(&mut self, id: BlobId, range: Option<(u64, u64)>) -> Priority {
        let Some((first, end)) = range else { return Priority::Play };
        let at = self.0.iter().position(|(blob, reached)| *blob == id && *reached == first);
        let known = at.and_then(|at| self.0.remove(at)).is_some();
        if self.0.len() >= FOLLOWED {
            self.0.pop_front();
        }
        self.0.push_back((id, end));
        if first == 0 || known { Priority::Play } else { Priority::Seek }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Priority::{Play, Seek};

    #[test]
    fn reading_on_is_playing_and_a_jump_is_a_seek() {
        let mut trail = Trail::default();
        let (film, other) = (BlobId([1; 32]), BlobId([2; 32]));
        let mut follow = |id, first, end| trail.follow(id, Some((first, end)));
        assert_eq!(follow(film, 0, 100), Play);
        assert_eq!(follow(film, 100, 200), Play);
        // Two at a time, of two blobs.
        assert_eq!(follow(other, 0, 50), Play);
        assert_eq!(follow(film, 200, 300), Play);
        assert_eq!(follow(other, 50, 60), Play);
        assert_eq!(follow(film, 5000, 5100), Seek);
        assert_eq!(follow(film, 5100, 5200), Play);
        assert_eq!(follow(film, 300, 400), Play);
        assert_eq!(follow(other, 200, 300), Seek);
        assert_eq!(trail.follow(film, None), Play);
    }

    #[test]
    fn a_viewer_that_jumps_for_ever_is_remembered_in_a_few_places() {
        let mut trail = Trail::default();
        for first in 1..1000 {
            assert_eq!(trail.follow(BlobId([1; 32]), Some((first * 10, first * 10 + 1))), Seek);
            assert!(trail.0.len() <= FOLLOWED);
        }
    }
}
