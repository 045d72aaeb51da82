//! How much each account has caused to be fetched within the hour.
//!
//! Decisions only. What was caused is counted by slots of five minutes, and the thirteen that the last
//! hour touches are summed: so in any hour, wherever it begins, an account causes no more than it may.

use super::Account;
use lru::LruCache;
use std::{
    num::NonZeroUsize,
    time::{Duration, Instant},
};

const SLOT: Duration = Duration::from_secs(300);

/// Slots that an hour may touch.
const SLOTS: usize = 13;

/// What one account has caused.
#[derive(Clone, Copy, Debug, Default)]
struct Caused {
    /// By slot, in a ring.
    bytes: [u64; SLOTS],
    /// The newest slot that was counted in.
    slot: u64,
}

impl Caused {
    /// Forgets what is older than the hour before `slot`.
    fn advance(&mut self, slot: u64) {
        let passed = slot.saturating_sub(self.slot).min(SLOTS as u64);
        for gone in 1..=passed {
            if let Some(bytes) = self.at(self.slot.saturating_add(gone)) {
                *bytes = 0;
            }
        }
        self.slot = self.slot.max(slot);
    }

    fn at(&mut self, slot: u64) -> Option<&mut u64> {
        let at = usize::try_from(slot % SLOTS as u64).ok()?;
        self.bytes.get_mut(at)
    }

    fn sum(&self) -> u64 {
        self.bytes.iter().fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }
}

/// What accounts may still cause.
pub(super) struct Accounts {
    /// Bytes for each in an hour.
    most: u64,
    began: Instant,
    /// Those that caused something within the hour, and none is forgotten before. At most
    /// `warm.accounts` of about 250 bytes.
    caused: LruCache<Account, Caused>,
    table: usize,
}

impl Accounts {
    pub(super) fn new(most: u64, table: usize, now: Instant) -> Self {
        let size = NonZeroUsize::new(table).unwrap_or(NonZeroUsize::MIN);
        Self { most, began: now, caused: LruCache::sparse(size), table: size.get() }
    }

    /// Counts `bytes` against an account if it may cause them.
    pub(super) fn take(&mut self, account: Account, bytes: u64, now: Instant) -> bool {
        let slot = self.slot(now);
        self.expire(slot);
        if !self.caused.contains(&account) && self.caused.len() >= self.table {
            return false;
        }
        let mut caused = self.caused.peek(&account).copied().unwrap_or_default();
        caused.advance(slot);
        let allowed = caused.sum().saturating_add(bytes) <= self.most;
        if allowed {
            Self::count(&mut caused, bytes);
            self.caused.put(account, caused);
        }
        allowed
    }

    /// Counts bytes that an account has caused without having been allowed to.
    pub(super) fn charge(&mut self, account: Account, bytes: u64, now: Instant) {
        let slot = self.slot(now);
        // Whoever was charged before was allowed something within the hour, and is in the table.
        if let Some(caused) = self.caused.get_mut(&account) {
            caused.advance(slot);
            Self::count(caused, bytes);
        }
    }

    fn count(caused: &mut Caused, bytes: u64) {
        let slot = caused.slot;
        if let Some(counted) = caused.at(slot) {
            *counted = counted.saturating_add(bytes);
        }
    }

    fn slot(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs() / SLOT.as_secs()
    }

    /// Forgets those that caused nothing within the hour.
    fn expire(&mut self, slot: u64) {
        let gone = |caused: &Caused| slot.saturating_sub(caused.slot) >= SLOTS as u64;
        while self.caused.peek_lru().is_some_and(|(_, caused)| gone(caused)) {
            self.caused.pop_lru();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn account(n: u8) -> Account {
        Account([n; 32])
    }

    #[test]
    fn an_account_causes_what_it_may_and_the_same_again_after_the_hour() {
        let start = Instant::now();
        let mut accounts = Accounts::new(100, 10, start);
        let mut take = |n, bytes, after| accounts.take(account(n), bytes, start + after);
        let late = Duration::from_secs(299);
        assert!(take(1, 60, late) && !take(1, 41, late) && take(1, 40, late));
        assert!(take(2, 100, late), "each has its own");
        assert!(!take(1, 1, HOUR), "within the hour");
        assert!(take(1, 100, HOUR + SLOT));
    }

    #[test]
    fn what_was_caused_without_leave_counts_too() {
        let now = Instant::now();
        let mut accounts = Accounts::new(100, 10, now);
        assert!(accounts.take(account(1), 10, now));
        accounts.charge(account(1), 1_000_000, now);
        assert!(!accounts.take(account(1), 1, now));
        assert!(accounts.take(account(1), 1, now + HOUR + SLOT));
    }

    #[test]
    fn the_table_is_bounded_and_nobody_is_forgotten_to_make_room() {
        let now = Instant::now();
        let mut accounts = Accounts::new(100, 2, now);
        let mut take = |n, after| accounts.take(account(n), 100, now + after);
        assert!(take(1, Duration::ZERO) && take(2, Duration::ZERO));
        assert!(!take(3, Duration::ZERO) && !take(1, Duration::ZERO));
        assert!(take(3, HOUR + SLOT));
        assert_eq!(accounts.caused.len(), 1);
    }

    proptest! {
        #[test]
        fn in_no_hour_more_than_allowed(
            steps in prop::collection::vec((0u64..1200, 1u64..60), 1..200),
        ) {
            let start = Instant::now();
            let mut accounts = Accounts::new(100, 4, start);
            let mut now = start;
            let mut taken: Vec<(Instant, u64)> = Vec::new();
            for (secs, bytes) in steps {
                now += Duration::from_secs(secs);
                if accounts.take(account(1), bytes, now) {
                    taken.push((now, bytes));
                }
                let within = taken.iter().filter(|(at, _)| now - *at < HOUR);
                prop_assert!(within.map(|(_, bytes)| bytes).sum::<u64>() <= 100);
            }
        }
    }
}
