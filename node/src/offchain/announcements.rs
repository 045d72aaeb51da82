//! What the overlay's `video` topic told of new content: the newest [`KEPT`], for dApps to list.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use libp2p::PeerId;
use nsn_p2p::gossip;
use serde::{Deserialize, Serialize};

/// Announcements kept: 256 of about 200 bytes.
const KEPT: usize = 256;

/// New content that somebody announced. Nobody has checked it: the content is what its id says, but
/// whether it can be had, and what it shows, is not known from this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announced {
    /// The ContentId, 64 hexadecimal digits.
    pub content_id: String,
    /// Bytes, by the announcement.
    pub total_len: u64,
    /// Number of shards, by the announcement.
    pub shards: u32,
    /// PeerId of who announced it; proved by the message's signature.
    pub by: String,
}

/// The newest announcements. Cheap to clone.
#[derive(Clone, Default)]
pub struct Announcements(Arc<Mutex<VecDeque<Announced>>>);

impl Announcements {
    /// Newest first.
    pub fn newest(&self) -> Vec<Announced> {
        self.lock().iter().rev().cloned().collect()
    }

    /// Who announced something of late, each once, the newest first.
    pub(super) fn authors(&self) -> Vec<PeerId> {
        let mut seen = HashSet::new();
        let kept = self.lock();
        let authors = kept.iter().rev().filter_map(|announced| announced.by.parse().ok());
        authors.filter(|author| seen.insert(*author)).collect()
    }

    /// Takes in a message of the `video` topic, and gives the announcement that it is; one that is none
    /// (live video) is not ours.
    pub(super) fn take(&self, message: &gossip::Message) -> Option<gossip::Announcement> {
        let announcement = gossip::Announcement::from_bytes(&message.payload).ok()?;
        self.add(Announced {
            content_id: hex::encode(announcement.content_id),
            total_len: announcement.total_len,
            shards: announcement.shards,
            by: message.author.to_string(),
        });
        Some(announcement)
    }

    fn add(&self, new: Announced) {
        let mut kept = self.lock();
        // Said again, it counts as new, once.
        kept.retain(|old| old.content_id != new.content_id || old.by != new.by);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(new);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Announced>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announced(id: usize, by: &str) -> Announced {
        Announced { content_id: format!("{id:064x}"), total_len: 1, shards: 1, by: by.into() }
    }

    #[test]
    fn authors_are_named_once_the_newest_first() {
        let all = Announcements::default();
        let [one, two] = [PeerId::random(), PeerId::random()];
        for (id, by) in [(1, one), (2, two), (3, one)] {
            all.add(announced(id, &by.to_string()));
        }
        assert_eq!(all.authors(), [one, two]);
    }

    #[test]
    fn the_newest_are_kept_and_repeats_count_once() {
        let all = Announcements::default();
        for id in 0..KEPT + 10 {
            all.add(announced(id, "a"));
        }
        assert_eq!(all.newest().len(), KEPT);
        assert_eq!(all.newest()[0], announced(KEPT + 9, "a"));
        all.add(announced(20, "a"));
        assert_eq!(all.newest()[0], announced(20, "a"));
        assert_eq!(all.newest().len(), KEPT);
        all.add(announced(20, "b"));
        assert_eq!(all.newest()[0].by, "b");
    }
}
