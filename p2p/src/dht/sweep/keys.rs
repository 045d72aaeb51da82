//! Keys in and out of the sweep: from callers, and from and to the disk.

use super::{
    Sweep,
    journal::Journal,
    provided::{Entry, Full, Inserted},
};
use crate::dht::{Announced, Class, Key, disk::Change};
use std::{
    num::NonZeroU64,
    time::{Duration, Instant},
};

/// How far the announcement of a key has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Its first announcement has not ended.
    First,
    /// It failed, and is tried again.
    Failed,
    /// Others were told.
    Announced,
}

/// What became of a key that is to be provided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Insertion {
    /// Whether it was not provided a moment ago.
    pub(crate) is_new: bool,
    /// Whether others have been told of it, before a restart perhaps.
    pub(crate) announced: Announced,
    /// The cached key that left for it.
    pub(crate) left: Option<Key>,
}

/// A key of the time before the restart. 64 bytes with its key, so 8.5 MB for all 110,000, which leave
/// as those that are provided again come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unclaimed {
    class: Class,
    due: Instant,
    announced_ms: Option<NonZeroU64>,
}

impl Sweep {
    /// There is a disk, so that changes are noted for [`Self::take_changes`] from now on. Takes in what
    /// it has: each key with when it was last announced, in milliseconds since the Unix epoch. They
    /// wait to be provided again, see [`Self::insert`]. No more are taken than may be provided.
    ///
    /// A time in the future, or so far back that the record has expired, says nothing: such a key is
    /// due.
    pub(crate) fn restore(
        &mut self,
        kept: impl IntoIterator<Item = (Key, Class, Option<u64>)>,
        now: Instant,
        now_ms: u64,
    ) {
        let room = self.provided.room();
        let mut journal = Journal::default();
        for (key, class, announced_ms) in kept {
            let age = announced_ms.and_then(|ms| now_ms.checked_sub(ms)).map(Duration::from_millis);
            let fresh = age.filter(|age| *age < self.record_ttl);
            let entry = Unclaimed {
                class,
                due: now + fresh.map_or(Duration::ZERO, |age| self.renew_after.saturating_sub(age)),
                announced_ms: fresh.and(announced_ms).and_then(NonZeroU64::new),
            };
            if self.unclaimed.len() >= room {
                // The disk holds what no longer may be provided: fewer are allowed now.
                journal.removed(&key, true);
            } else if self.provided.get(&key).is_none() {
                self.unclaimed.insert(key, entry);
            }
        }
        self.journal = Some(journal);
        self.claim_until = Some(now + self.config.claim_within);
        self.stirred = true;
    }

    /// Provides a key from now on, or notes that it is used. One that was restored is as fresh as it
    /// was.
    pub(crate) fn insert(
        &mut self,
        key: Key,
        class: Class,
        now: Instant,
    ) -> Result<Insertion, Full> {
        let collected = now + self.config.collect;
        let kept = self.unclaimed.get(&key).copied();
        let (due, announced_ms) =
            kept.map_or((collected, None), |kept| (kept.due.max(collected), kept.announced_ms));
        let (is_new, left, changed) = match self.provided.insert(key, class, due, announced_ms)? {
            Inserted::New(left) => (true, left, kept.is_none_or(|kept| kept.class != class)),
            Inserted::Known { changed } => (false, None, changed),
        };
        self.unclaimed.remove(&key);
        if let Some(journal) = &mut self.journal {
            if kept.is_some() || journal.is_leaving(&key) {
                self.provided.set_on_disk(&key);
            }
            if changed {
                journal.changed(&key);
            }
        }
        if let Some(left) = &left {
            self.remove(left);
        }
        self.stirred = true;
        let told = self.provided.get(&key).is_some_and(|entry| entry.announced_ms.is_some());
        let announced = if told { Announced::Yes } else { Announced::Pending };
        Ok(Insertion { is_new, announced, left })
    }

    /// Provides a key no longer. Whether it was provided, now or before a restart.
    pub(crate) fn remove(&mut self, key: &Key) -> bool {
        let removed = self.provided.remove(key);
        let on_disk = match &removed {
            Some(Entry { busy, on_disk, .. }) => {
                if *busy {
                    for (_, visit) in &mut self.visits {
                        visit.remove(key);
                    }
                }
                *on_disk
            }
            None => self.unclaimed.remove(key).is_some(),
        };
        if let Some(journal) = &mut self.journal
            && (removed.is_some() || on_disk)
        {
            journal.removed(key, on_disk);
        }
        removed.is_some() || on_disk
    }

    /// How far the announcement of a key has come; `None` if it is not provided.
    pub(crate) fn progress(&self, key: &Key) -> Option<Progress> {
        self.provided.get(key).map(|entry| match entry {
            Entry { announced_ms: Some(_), .. } => Progress::Announced,
            Entry { failures: 0, .. } => Progress::First,
            Entry { .. } => Progress::Failed,
        })
    }

    /// Up to `max` changes for the disk; none if there is no disk, or nothing has changed.
    pub(crate) fn take_changes(&mut self, max: usize) -> Vec<Change> {
        let Some(journal) = &mut self.journal else { return Vec::new() };
        let gone = journal.take_gone(max);
        let changed = journal.take_changed(max.saturating_sub(gone.len()));
        let mut changes: Vec<_> = gone.into_iter().map(|key| Change::Remove { key }).collect();
        for key in changed {
            self.provided.set_on_disk(&key);
            changes.extend(self.provided.get(&key).map(|entry| Change::Put {
                key,
                class: entry.class,
                announced_ms: entry.announced_ms.map(NonZeroU64::get),
            }));
        }
        changes
    }

    /// Changes that wait for the disk.
    #[cfg(test)]
    pub(super) fn changes(&self) -> usize {
        self.journal.as_ref().map_or(0, Journal::len)
    }

    /// Keys that were not provided again in time are provided no longer.
    pub(super) fn drop_unclaimed(&mut self, now: Instant) {
        if self.claim_until.is_none_or(|until| now < until) {
            return;
        }
        self.claim_until = None;
        for key in std::mem::take(&mut self.unclaimed).into_keys() {
            if let Some(journal) = &mut self.journal {
                journal.removed(&key, true);
            }
        }
    }
}
