//! A peer of a visit, and what it is to be told.

use super::{config::as_usize, visit::Step};
use crate::dht::{Key, network::Contact};
use std::time::Instant;

/// A peer, and what it is to be told.
#[derive(Debug)]
pub(super) struct Holder {
    pub(super) contact: Contact,
    pub(super) pending: Vec<u32>,
    /// What it is being told.
    pub(super) batch: Vec<u32>,
    /// The most that it is told at once, since it did not take more.
    pub(super) most: usize,
    /// How often it failed in a row.
    pub(super) tries: u32,
    pub(super) not_before: Option<Instant>,
    /// It failed too often, or did not keep what it took.
    pub(super) out: bool,
}

impl Holder {
    pub(super) fn new(contact: Contact) -> Self {
        Self {
            contact,
            pending: Vec::new(),
            batch: Vec::new(),
            most: usize::MAX,
            tries: 0,
            not_before: None,
            out: false,
        }
    }

    /// What it is told, and the record that it is asked for then: the last one, since what comes too
    /// fast is refused at the end.
    pub(super) fn tell(&self, at: usize, keys: &[(u64, Key)]) -> Step {
        let key = |at: &u32| keys.get(as_usize(*at)).map(|(_, key)| *key);
        let told: Vec<Key> = self.batch.iter().filter_map(key).collect();
        match told.last().copied() {
            Some(sample) => Step::Tell { holder: at, to: self.contact.clone(), keys: told, sample },
            // A batch is never empty.
            None => Step::Wait(None),
        }
    }
}
