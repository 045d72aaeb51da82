//! What has changed in the store since it was last written to disk.
//!
//! A record is marked in its slot and its slot noted here once, so that a record renewed ten times
//! between two batches is written once and the notes never outnumber the slots.

use crate::{OverlayKey, dht::Key};
use std::collections::HashSet;

/// Removed records that are remembered until they are written: 64 bytes each, 1 MB.
const MAX_REMOVED: usize = 16_384;

/// Providers whose addresses are to be written: 50 bytes each, 400 KB.
const MAX_PROVIDERS: usize = 8192;

#[derive(Debug, Default)]
pub(super) struct Journal {
    /// Slots that are marked.
    pub(super) slots: Vec<u32>,
    pub(super) removed: Vec<(Key, OverlayKey)>,
    pub(super) providers: HashSet<OverlayKey>,
    /// More was removed than could be remembered: what is on disk is to be written anew.
    pub(super) forgot: bool,
}

impl Journal {
    pub(super) fn removed(&mut self, key: Key, provider: OverlayKey) {
        if self.removed.len() < MAX_REMOVED {
            self.removed.push((key, provider));
        } else {
            self.forgot = true;
        }
    }

    /// A provider has new addresses, is new, or is gone.
    pub(super) fn provider(&mut self, provider: OverlayKey) {
        if self.providers.len() < MAX_PROVIDERS {
            self.providers.insert(provider);
        }
        // Left out, it is asked of the network where the provider is, or its addresses lie there
        // unused until the next start.
    }
}
