//! What has changed of the schedule since the disk was told.

use crate::dht::Key;
use std::collections::HashSet;

/// Keys whose state on the disk is not what it should be.
///
/// Removals go out first, and a key counts as being on the disk from when its `Put` has gone out.
/// So there are never more keys on the disk or leaving it than were provided at one time, and at
/// most as many have changed: twice 110,000 keys of 33 bytes, in tables up to 16/7 times that, are
/// 17 MB if the disk takes nothing at all.
#[derive(Debug, Default)]
pub(super) struct Journal {
    changed: HashSet<Key>,
    gone: HashSet<Key>,
}

impl Journal {
    /// A key was added, or is not as it was.
    pub(super) fn changed(&mut self, key: &Key) {
        self.gone.remove(key);
        self.changed.insert(*key);
    }

    /// A key was removed.
    pub(super) fn removed(&mut self, key: &Key, on_disk: bool) {
        self.changed.remove(key);
        if on_disk {
            self.gone.insert(*key);
        }
    }

    /// Whether a key that is on the disk is to be removed there.
    pub(super) fn is_leaving(&self, key: &Key) -> bool {
        self.gone.contains(key)
    }

    /// Up to `max` removed keys to write.
    pub(super) fn take_gone(&mut self, max: usize) -> Vec<Key> {
        take(&mut self.gone, max)
    }

    /// Up to `max` changed keys to write, if no removal waits.
    pub(super) fn take_changed(&mut self, max: usize) -> Vec<Key> {
        if self.gone.is_empty() { take(&mut self.changed, max) } else { Vec::new() }
    }

    /// Keys to write.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.changed.len() + self.gone.len()
    }
}

fn take(keys: &mut HashSet<Key>, max: usize) -> Vec<Key> {
    let taken: Vec<Key> = keys.iter().take(max).copied().collect();
    for key in &taken {
        keys.remove(key);
    }
    if keys.is_empty() {
        // A table that was large once is not kept for ever.
        *keys = HashSet::new();
    }
    taken
}
