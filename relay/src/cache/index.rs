//! Which blobs the cache holds and which go first: the decision, without the disk.

use super::{
    log::{Event, Log},
    policy::{Entry, For, List, Need, Policy, PolicyKind, Why, cost},
};
use crate::content::BlobId;
use lru::LruCache;
use serde::Serialize;
use std::num::NonZeroU32;

/// Bounds of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes on disk.
    pub capacity: u64,
    /// Blobs.
    pub entries: usize,
    /// Of the bytes, those that pinned blobs may take.
    pub pinned: u64,
    /// Seconds after which a blob is not given out any more; 0 for no end.
    pub ttl: u32,
}

/// Why a blob was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refused {
    /// It is larger than all that is not pinned or being written.
    #[error("there is no room to be made for it")]
    NoRoom,
    /// What would have to go is asked for more often.
    #[error("what would have to go for it is asked for more often")]
    Unwanted,
}

/// What becomes of a use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It is held, so many bytes long.
    Held(u32),
    /// It was held for too long and is forgotten now; it was so many bytes long, and its room is kept
    /// until [`Index::release`].
    Expired(u32),
    /// It is not held.
    Absent,
}

/// Why a blob was not pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum PinError {
    /// It is not held; fetch it first.
    #[error("it is not in the cache; fetch it first")]
    NotHeld,
    /// The pinned share would be exceeded.
    #[error(
        "the pinned blobs have their share of the cache; unpin others or raise cache.pinned_percent"
    )]
    Full,
}

/// What is known of a blob that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) entry: Entry,
    pub(super) pinned: bool,
}

/// Blobs by a policy, bounded in bytes and in entries. What is being written is reserved beforehand, and
/// the room of what is being deleted is given back afterwards, so files on disk do not add up to more
/// than the bound, but for the rest of a blob larger than what it has to make room for, until it is
/// deleted. Pinned blobs are outside of the policy:
/// neither evicted nor expired.
///
/// An entry takes 64 bytes in a list and, at worst, 54 in the tables over the lists; the policy's
/// counts take 32 to 64 more. 152 to 182 MB at a million; `relay.index.bytes_per_entry` measures it.
pub struct Index {
    bounds: Bounds,
    policy: Box<dyn Policy>,
    pinned: List,
    pinned_bytes: u64,
    reserved: u64,
    reservations: usize,
    log: Log,
}

impl Index {
    /// An empty one.
    pub fn new(bounds: Bounds, policy: PolicyKind) -> Self {
        Self {
            bounds,
            policy: policy.make(),
            pinned: LruCache::unbounded(),
            pinned_bytes: 0,
            reserved: 0,
            reservations: 0,
            log: Log::default(),
        }
    }

    /// Someone asks for a blob at `now`, in seconds since 1970; if it is held, it counts as used.
    pub fn touch(&mut self, id: BlobId, now: u32) -> Use {
        if let Some(entry) = self.pinned.get(&id) {
            return Use::Held(entry.len);
        }
        let Some(entry) = self.policy.touch(id) else { return Use::Absent };
        if self.expired(&entry, now) {
            let len = entry.len;
            self.policy.remove(id);
            self.hold(len);
            self.log.push(id, Event::Expired, now);
            return Use::Expired(len);
        }
        self.policy.asked(id);
        Use::Held(entry.len)
    }

    /// Someone asks for a blob that is had elsewhere: in memory, or from upstream. How often that was
    /// of late.
    pub fn ask(&mut self, id: BlobId) -> u8 {
        self.policy.asked(id);
        self.policy.frequency(id)
    }

    fn expired(&self, entry: &Entry, now: u32) -> bool {
        self.bounds.ttl > 0 && now.saturating_sub(entry.since) >= self.bounds.ttl
    }

    /// Forgets a blob if it was held for too long, and gives its length; its room is kept until
    /// [`Self::release`].
    pub(super) fn expire(&mut self, id: BlobId, now: u32) -> Option<u32> {
        let len = self.policy.peek(id).filter(|entry| self.expired(entry, now))?.len;
        self.policy.remove(id);
        self.hold(len);
        self.log.push(id, Event::Expired, now);
        Some(len)
    }

    /// What is known of a blob that is held.
    pub(super) fn peek(&self, id: BlobId) -> Option<Known> {
        let pinned = self.pinned.peek(&id).map(|entry| Known { entry: *entry, pinned: true });
        pinned.or_else(|| self.policy.peek(id).map(|entry| Known { entry: *entry, pinned: false }))
    }

    /// Length of a blob that is held.
    pub fn len_of(&self, id: BlobId) -> Option<u32> {
        self.peek(id).map(|known| known.entry.len)
    }

    /// How often a blob was asked for of late, as the policy counts.
    pub(super) fn frequency(&self, id: BlobId) -> u8 {
        self.policy.frequency(id)
    }

    /// A blob of `len` bytes has come, and who asked for it was counted ([`Self::ask`]): makes room for
    /// it and keeps that until [`Self::commit`] or [`Self::release`]. Gives what has to go.
    ///
    /// # Errors
    /// When it is not worth what would have to go, or there is no room to be made.
    pub fn reserve(&mut self, id: BlobId, len: u32, now: u32) -> Result<Vec<BlobId>, Refused> {
        let cost = cost(len);
        let result = self.make_room(For::Blob(id, cost), cost, 1);
        match &result {
            Ok(victims) => {
                self.hold(len);
                for victim in victims {
                    self.log.push(*victim, Event::EvictedFor(id), now);
                }
            }
            Err(Refused::NoRoom) => self.log.push(id, Event::NoRoom, now),
            Err(Refused::Unwanted) => self.log.push(id, Event::Unwanted, now),
        }
        result
    }

    fn hold(&mut self, len: u32) {
        self.reserved += cost(len);
        self.reservations += 1;
    }

    /// Whether [`Self::reserve`] would make room for a blob that is asked for once more by then.
    pub(super) fn would_take(&self, id: BlobId, len: u32) -> bool {
        let cost = cost(len);
        let need = self.need(cost, 1);
        if need.nothing() {
            return true;
        }
        need.bytes <= self.policy.bytes()
            && need.entries <= self.policy.len()
            && self.policy.would_make_room(need, id, cost)
    }

    /// What has to go for so much more.
    fn need(&self, bytes: u64, entries: usize) -> Need {
        let used = self.bytes().saturating_add(self.reserved).saturating_add(bytes);
        let count = self.len() + self.reservations + entries;
        Need {
            bytes: used.saturating_sub(self.bounds.capacity),
            entries: count.saturating_sub(self.bounds.entries),
        }
    }

    fn make_room(&mut self, whom: For, bytes: u64, entries: usize) -> Result<Vec<BlobId>, Refused> {
        let need = self.need(bytes, entries);
        if need.nothing() {
            return Ok(Vec::new());
        }
        if need.bytes > self.policy.bytes() || need.entries > self.policy.len() {
            return Err(Refused::NoRoom);
        }
        let gone = self.policy.make_room(need, whom).ok_or(Refused::Unwanted)?;
        Ok(gone.into_iter().map(|(id, _)| id).collect())
    }

    /// The blob that was reserved is written. `displaced`: others had to go for it.
    pub fn commit(&mut self, id: BlobId, len: u32, now: u32, displaced: bool) {
        self.release(len);
        let why = if displaced { self.policy.why() } else { Why::Room };
        let entry = Entry { len, since: now, told: None, why };
        // A pinned one was written anew: it stays pinned.
        match self.pinned.peek_mut(&id) {
            Some(pinned) => {
                self.pinned_bytes = self.pinned_bytes - pinned.cost() + entry.cost();
                *pinned = entry;
            }
            None => self.policy.insert(id, entry, false),
        }
    }

    /// The blob that was reserved will not be written.
    pub fn release(&mut self, len: u32) {
        self.reserved = self.reserved.saturating_sub(cost(len));
        self.reservations = self.reservations.saturating_sub(1);
    }

    /// A blob that lies on the disk, found when the service starts; nothing is evicted for it. Those
    /// that go first come first. `false` when there is no room.
    pub(super) fn found(&mut self, id: BlobId, entry: Entry, hot: bool, frequency: u8) -> bool {
        let fits = self.bytes().saturating_add(entry.cost()) <= self.bounds.capacity
            && self.len() < self.bounds.entries;
        if fits {
            self.policy.insert(id, entry, hot);
            for _ in 0..frequency {
                self.policy.asked(id);
            }
        }
        fits
    }

    /// Forgets a blob, pinned or not.
    pub fn remove(&mut self, id: BlobId) -> bool {
        if let Some(entry) = self.pinned.pop(&id) {
            self.pinned_bytes -= entry.cost();
            return true;
        }
        self.policy.remove(id).is_some()
    }

    /// The same, with the reason for those who ask later, while its file is still there: gives its
    /// length, and its room is kept until [`Self::release`].
    pub(super) fn forget(&mut self, id: BlobId, event: Event, now: u32) -> Option<u32> {
        let len = self.len_of(id)?;
        self.remove(id);
        self.hold(len);
        self.log.push(id, event, now);
        Some(len)
    }

    /// Keeps a blob from being evicted.
    ///
    /// # Errors
    /// See [`PinError`].
    pub(super) fn pin(&mut self, id: BlobId) -> Result<(), PinError> {
        if self.pinned.contains(&id) {
            return Ok(());
        }
        let entry = *self.policy.peek(id).ok_or(PinError::NotHeld)?;
        let most = self.bounds.pinned.min(self.bounds.capacity);
        if self.pinned_bytes.saturating_add(entry.cost()) > most {
            return Err(PinError::Full);
        }
        self.policy.remove(id);
        self.pinned_bytes += entry.cost();
        self.pinned.put(id, entry);
        Ok(())
    }

    /// Takes a pin back. Whether there was one.
    pub(super) fn unpin(&mut self, id: BlobId) -> bool {
        let Some(entry) = self.pinned.pop(&id) else { return false };
        self.pinned_bytes -= entry.cost();
        self.policy.insert(id, entry, true);
        true
    }

    /// The pinned blobs, in the order in which they were used.
    pub(super) fn pins(&self) -> Vec<BlobId> {
        self.pinned.iter().map(|(id, _)| *id).collect()
    }

    /// Changes how much may be held, and gives what has to go. Pinned blobs stay, and what is being
    /// written is waited for, so it may take until the next call to come down to the bound.
    pub(super) fn resize(&mut self, capacity: u64, now: u32) -> Vec<BlobId> {
        self.bounds.capacity = capacity;
        let most = self.policy.bytes();
        let used = self.bytes().saturating_add(self.reserved);
        let need = Need { bytes: used.saturating_sub(capacity).min(most), entries: 0 };
        let gone = self.policy.make_room(need, For::Shrinking).unwrap_or_default();
        for (id, _) in &gone {
            self.log.push(*id, Event::Shrunk, now);
        }
        gone.into_iter().map(|(id, _)| id).collect()
    }

    /// Bytes that may be held.
    pub fn capacity(&self) -> u64 {
        self.bounds.capacity
    }

    /// Bytes held, without what is being written.
    pub fn bytes(&self) -> u64 {
        self.policy.bytes() + self.pinned_bytes
    }

    /// Bytes of them that are pinned.
    pub(super) fn pinned_bytes(&self) -> u64 {
        self.pinned_bytes
    }

    /// Blobs held.
    pub fn len(&self) -> usize {
        self.policy.len() + self.pinned.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was used last, at most `limit`, the most recently used first, the pinned before the
    /// others.
    pub(super) fn newest(&self, limit: usize) -> Vec<BlobId> {
        let mut newest: Vec<_> = self.pinned.iter().take(limit).map(|(id, _)| *id).collect();
        newest.extend(self.policy.newest(limit - newest.len()));
        newest
    }

    /// Goes through all of them, those that go first before those that go last: the id, the entry,
    /// whether it was used again since it came, and how often it was asked for.
    pub(super) fn visit(&self, visit: &mut dyn FnMut(BlobId, &Entry, bool, u8)) {
        self.policy.visit(&mut |id, entry, hot| visit(id, entry, hot, self.policy.frequency(id)));
        for (id, entry) in self.pinned.iter().rev() {
            visit(*id, entry, true, 0);
        }
    }

    /// What became of a blob that is not held, if that is remembered: the last 1,024 refusals and
    /// evictions are. And when, in seconds since 1970.
    pub(super) fn last(&self, id: BlobId) -> Option<(Event, u32)> {
        self.log.last(id)
    }

    /// When the directory was last told of a blob; `None` if the blob is not held.
    pub(super) fn told(&self, id: BlobId) -> Option<Option<NonZeroU32>> {
        self.peek(id).map(|known| known.entry.told)
    }

    /// The directory is told of a blob.
    pub(super) fn set_told(&mut self, id: BlobId, now: NonZeroU32) {
        let entry = match self.pinned.peek_mut(&id) {
            Some(entry) => Some(entry),
            None => self.policy.peek_mut(id),
        };
        if let Some(entry) = entry {
            entry.told = Some(now);
        }
    }
}

#[cfg(test)]
mod tests;
