//! What is asked for most often of late, for its size, stays: a frequency filter (TinyLFU) before
//! two lists.
//!
//! A blob that would take the place of others is taken only if it was asked for more often, for its
//! bytes, than they were. So a scan, whose blobs are asked for once each, changes nothing. What is
//! held lies in two lists: what was used again since it came goes to the protected one, four fifths of
//! the bytes at most, and candidates for going come from the other. When a candidate is worth more than
//! what would take its place it goes to the head of its list, so that the next newcomer is held against
//! another one.
//!
//! There is no window of newcomers on disk, which other caches of this kind have for bursts. Here that
//! is the memory tier: every blob that was fetched is there for a while, whether the disk takes it or
//! not, and what is refused costs the disk nothing.

use super::{Entry, For, List, Need, Policy, Why, sketch::Sketch};
use crate::content::BlobId;
use lru::LruCache;
use std::num::NonZeroUsize;

/// Of the bytes, the share that the protected list may take: 4/5, as is usual for segmented LRU.
const PROTECTED: (u64, u64) = (4, 5);

/// Blobs that one may take the place of. What would cost more is refused: 0.1 ms of looking.
const MAX_VICTIMS: usize = 1024;

/// Refusals that are remembered, about 80 KB.
const REFUSED: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// Among so many that ask for a place ...
const TRIES: u32 = 1024;

/// ... at least so many that were refused a little before mean that other blobs are popular than were. By
/// `relay.hit_ratio` it is 10 to 45 of the 1,024 while the same blobs are popular, none in a scan, and
/// 180 to 210 once others are.
const AGAIN: u32 = TRIES / 16;

/// See the module.
pub(crate) struct Frequency {
    /// Together bounded by the index that this serves.
    probation: List,
    protected: List,
    probation_bytes: u64,
    protected_bytes: u64,
    sketch: Sketch,
    /// Who was refused last.
    refused: LruCache<BlobId, ()>,
    /// Blobs that asked for a place since this was last looked at, and those of them that had been
    /// refused.
    tries: u32,
    again: u32,
}

impl Frequency {
    pub(crate) fn new() -> Self {
        Self {
            probation: LruCache::unbounded(),
            protected: LruCache::unbounded(),
            probation_bytes: 0,
            protected_bytes: 0,
            sketch: Sketch::new(),
            refused: LruCache::new(REFUSED),
            tries: 0,
            again: 0,
        }
    }

    /// What one asking more is worth: nothing was never asked for, so that many small blobs outweigh
    /// a large one also when nobody asked for either.
    fn worth(&self, id: BlobId) -> u64 {
        u64::from(self.sketch.count(id)) + 1
    }

    /// A blob asked for a place that others have. The longer counts go back, the better they tell what
    /// is popular, and the longer they hold on to what no longer is: where blobs that were refused come
    /// back at once and in numbers, all counts fade. A scan does not do that, whose blobs come once.
    fn tried(&mut self, id: BlobId, refused: bool) {
        self.tries += 1;
        self.again += u32::from(self.refused.pop(&id).is_some());
        if refused {
            self.refused.put(id, ());
        }
        if self.tries >= TRIES {
            if self.again >= AGAIN {
                self.sketch.fade();
            }
            (self.tries, self.again) = (0, 0);
        }
    }

    fn put_protected(&mut self, id: BlobId, entry: Entry) {
        self.protected_bytes += entry.cost();
        self.protected.put(id, entry);
        let (part, whole) = PROTECTED;
        let most = self.bytes() / whole * part;
        while self.protected_bytes > most
            && let Some((id, entry)) = self.protected.pop_lru()
        {
            self.protected_bytes -= entry.cost();
            self.put_probation(id, entry);
        }
    }

    fn put_probation(&mut self, id: BlobId, entry: Entry) {
        self.probation_bytes += entry.cost();
        self.probation.put(id, entry);
    }

    /// What would go, in its order; or what is worth more than what would come, and stays.
    /// `more` says how often a newcomer is taken to be asked for besides.
    fn victims(&self, mut need: Need, whom: For, more: u64) -> Result<Vec<BlobId>, Vec<BlobId>> {
        let mut victims = Vec::new();
        let (mut worth, mut bytes) = (0, 0);
        let going = self.probation.iter().rev().chain(self.protected.iter().rev());
        for (id, entry) in going {
            if need.nothing() {
                break;
            }
            if whom != For::Shrinking && victims.len() >= MAX_VICTIMS {
                return Err(victims);
            }
            need = need.without(entry);
            victims.push(*id);
            worth += self.worth(*id);
            bytes += entry.cost();
        }
        let stays = match whom {
            For::Shrinking => false,
            // Held against each other by the byte. Where only a part of the room has to be made, the
            // newcomer still has to be worth more than what goes for it.
            For::Blob(candidate, cost) => {
                let gain = u128::from(self.worth(candidate) + more) * u128::from(bytes.max(cost));
                u128::from(worth) * u128::from(cost) >= gain
            }
        };
        if stays { Err(victims) } else { Ok(victims) }
    }
}

impl Policy for Frequency {
    fn asked(&mut self, id: BlobId) {
        self.sketch.add(id);
    }

    fn frequency(&self, id: BlobId) -> u8 {
        self.sketch.count(id)
    }

    fn insert(&mut self, id: BlobId, entry: Entry, hot: bool) {
        self.remove(id);
        if hot {
            self.put_protected(id, entry)
        } else {
            self.put_probation(id, entry)
        }
        self.sketch.grow(self.len());
    }

    fn touch(&mut self, id: BlobId) -> Option<Entry> {
        if let Some(entry) = self.protected.get(&id) {
            return Some(*entry);
        }
        let entry = self.probation.pop(&id)?;
        self.probation_bytes -= entry.cost();
        self.put_protected(id, entry);
        Some(entry)
    }

    fn peek(&self, id: BlobId) -> Option<&Entry> {
        self.protected.peek(&id).or_else(|| self.probation.peek(&id))
    }

    fn peek_mut(&mut self, id: BlobId) -> Option<&mut Entry> {
        match self.protected.peek_mut(&id) {
            Some(entry) => Some(entry),
            None => self.probation.peek_mut(&id),
        }
    }

    fn remove(&mut self, id: BlobId) -> Option<Entry> {
        if let Some(entry) = self.protected.pop(&id) {
            self.protected_bytes -= entry.cost();
            return Some(entry);
        }
        let entry = self.probation.pop(&id)?;
        self.probation_bytes -= entry.cost();
        Some(entry)
    }

    fn make_room(&mut self, need: Need, whom: For) -> Option<Vec<(BlobId, Entry)>> {
        let victims = self.victims(need, whom, 0);
        if let For::Blob(id, _) = whom {
            self.tried(id, victims.is_err());
        }
        match victims {
            Ok(victims) => {
                let gone = victims.into_iter().filter_map(|id| Some((id, self.remove(id)?)));
                Some(gone.collect())
            }
            Err(stayed) => {
                for id in stayed {
                    self.probation.promote(&id);
                }
                None
            }
        }
    }

    fn would_make_room(&self, need: Need, id: BlobId, cost: u64) -> bool {
        self.victims(need, For::Blob(id, cost), 1).is_ok()
    }

    fn len(&self) -> usize {
        self.probation.len() + self.protected.len()
    }

    fn bytes(&self) -> u64 {
        self.probation_bytes + self.protected_bytes
    }

    fn why(&self) -> Why {
        Why::Wanted
    }

    fn visit(&self, visit: &mut dyn FnMut(BlobId, &Entry, bool)) {
        for (id, entry) in self.probation.iter().rev() {
            visit(*id, entry, false);
        }
        for (id, entry) in self.protected.iter().rev() {
            visit(*id, entry, true);
        }
    }

    fn newest(&self, limit: usize) -> Vec<BlobId> {
        let newest = self.protected.iter().chain(self.probation.iter());
        newest.take(limit).map(|(id, _)| *id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEED: Need = Need { bytes: 1000, entries: 0 };

    fn id(n: u8) -> BlobId {
        BlobId([n; 32])
    }

    fn entry(len: u32) -> Entry {
        Entry { len, since: 0, told: None, why: Why::Room }
    }

    /// Three blobs of 1,000 bytes; number n was asked for n times.
    fn three() -> Frequency {
        let mut policy = Frequency::new();
        for n in 1..=3 {
            policy.insert(id(n), entry(1000), false);
            for _ in 0..n {
                policy.asked(id(n));
            }
        }
        policy
    }

    fn went(policy: &mut Frequency, need: Need, whom: For) -> Option<Vec<BlobId>> {
        let gone = policy.make_room(need, whom)?;
        Some(gone.into_iter().map(|(id, _)| id).collect())
    }

    #[test]
    fn who_is_asked_for_more_often_takes_the_place_and_who_is_not_does_not() {
        let mut policy = three();
        let newcomer = For::Blob(id(9), 1000);
        policy.asked(id(9));
        assert_eq!(went(&mut policy, NEED, newcomer), None);
        policy.asked(id(9));
        policy.asked(id(9));
        // Number 1 was held against it last, so it is the turn of number 2, asked for twice.
        assert_eq!(went(&mut policy, NEED, newcomer), Some(vec![id(2)]));
        assert_eq!((policy.len(), policy.bytes()), (2, 2000));
    }

    #[test]
    fn a_large_blob_has_to_be_worth_all_that_it_takes_the_place_of() {
        let mut policy = three();
        let need = Need { bytes: 3000, entries: 0 };
        let large = For::Blob(id(9), 3000);
        // The three are worth 2 + 3 + 4.
        for _ in 0..8 {
            policy.asked(id(9));
            assert_eq!(went(&mut policy, need, large), None);
        }
        policy.asked(id(9));
        assert_eq!(went(&mut policy, need, large).map(|gone| gone.len()), Some(3));
    }

    #[test]
    fn a_small_blob_takes_the_place_of_a_large_one_that_is_asked_for_as_often() {
        let mut policy = Frequency::new();
        policy.insert(id(1), entry(10_000), false);
        for _ in 0..4 {
            policy.asked(id(1));
        }
        policy.asked(id(2));
        assert_eq!(went(&mut policy, NEED, For::Blob(id(2), 1000)), Some(vec![id(1)]));
    }

    #[test]
    fn what_was_used_again_goes_after_what_was_not() {
        let mut policy = three();
        policy.touch(id(1));
        let all = Need { bytes: 3000, entries: 0 };
        assert_eq!(went(&mut policy, all, For::Shrinking), Some(vec![id(2), id(3), id(1)]));
        assert_eq!((policy.len(), policy.bytes()), (0, 0));
    }

    #[test]
    fn the_protected_list_keeps_to_its_share() {
        let mut policy = Frequency::new();
        for n in 0..10 {
            policy.insert(id(n), entry(1000), false);
        }
        for n in 0..10 {
            policy.touch(id(n));
        }
        assert_eq!((policy.protected_bytes, policy.probation_bytes), (8000, 2000));
        assert!(policy.probation.contains(&id(0)) && policy.protected.contains(&id(9)));
    }

    #[test]
    fn counts_fade_when_those_who_were_refused_come_back_and_a_scan_leaves_them_alone() {
        let old = |policy: &Frequency| policy.frequency(id(1));
        let mut policy = Frequency::new();
        policy.insert(id(1), entry(1000), false);
        for _ in 0..200 {
            policy.asked(id(1));
        }
        for n in 0..10 * TRIES {
            let scanned = BlobId::of(&n.to_le_bytes());
            policy.asked(scanned);
            assert_eq!(went(&mut policy, NEED, For::Blob(scanned, 1000)), None);
        }
        assert!(old(&policy) >= 200);
        // A hundred others are wanted now, each for the tenth time by the end.
        for n in 0..TRIES {
            let wanted = BlobId::of(&(n % 100).to_be_bytes());
            policy.asked(wanted);
            went(&mut policy, Need { bytes: 1, entries: 0 }, For::Blob(wanted, 1000));
        }
        assert!(old(&policy) <= 255 / 8, "{}", old(&policy));
    }

    #[test]
    fn what_would_displace_more_than_a_thousand_is_refused() {
        let mut policy = Frequency::new();
        for n in 0..2000u32 {
            policy.insert(BlobId::of(&n.to_le_bytes()), entry(1), false);
        }
        for _ in 0..255 {
            policy.asked(id(9));
        }
        let need = Need { bytes: 1500, entries: 0 };
        assert_eq!(went(&mut policy, need, For::Blob(id(9), 1)), None);
        assert_eq!(policy.len(), 2000);
    }
}
