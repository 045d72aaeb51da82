//! What is fetched ahead, and when.
//!
//! Decisions only: the [`Runner`](super::Runner) says what is announced, read and fetched, how full the
//! service is and what time it is, and does what [`Plan::next`] says.
//!
//! Whoever reads comes before what was announced: somebody is certain to want it. Both wait while the
//! service has more to do than `warm.idle_below` says, and both are given up when prefetches of viewers
//! are.

mod words;

pub(super) use words::{Cause, Meaning, Next, Outcome, Shelf, Wanted, What};

use super::{
    Announced, Config, Patron, Refused,
    accounts::Accounts,
    contents::{Contents, head},
    ledger::Ledger,
};
use crate::content::{BlobId, ContentId, Manifest, manifest};
use lru::LruCache;
use std::{
    collections::{HashMap, HashSet, VecDeque},
    num::NonZeroUsize,
    time::{Duration, Instant},
};

/// See the module.
pub(super) struct Plan {
    config: Config,
    accounts: Accounts,
    ledger: Ledger,
    contents: Contents,
    /// Contents that were taken up; at most `warm.contents` of about 100 bytes.
    seen: LruCache<ContentId, ()>,
    /// At most `warm.queue` of about 120 bytes, each.
    announced: VecDeque<Wanted>,
    ahead: VecDeque<Wanted>,
    /// What stands in either.
    queued: HashSet<BlobId>,
    /// At most `warm.parallel`; whether it was read meanwhile.
    running: HashMap<BlobId, (Wanted, bool)>,
    /// When the rate allows the next fetch.
    next_start: Instant,
}

impl Plan {
    pub(super) fn new(config: Config, now: Instant) -> Self {
        let seen = NonZeroUsize::new(config.contents).unwrap_or(NonZeroUsize::MIN);
        Self {
            accounts: Accounts::new(config.account_bytes, config.accounts, now),
            ledger: Ledger::new(config.table),
            contents: Contents::new(config.shards),
            seen: LruCache::sparse(seen),
            announced: VecDeque::new(),
            ahead: VecDeque::new(),
            queued: HashSet::new(),
            running: HashMap::new(),
            next_start: now,
            config,
        }
    }

    /// A content is announced.
    ///
    /// # Errors
    /// Why nothing comes of it.
    pub(super) fn announced(
        &mut self,
        announced: &Announced,
        shelf: &impl Shelf,
        now: Instant,
    ) -> Result<(), Refused> {
        let Announced { content, total_len, shards, by } = *announced;
        let Patron { account, score } = by.ok_or(Refused::Unbound)?;
        if score < self.config.min_score {
            return Err(Refused::Reputation);
        }
        if self.seen.get(&content).is_some() || shelf.holds(content.into()) {
            return Err(Refused::Known);
        }
        let len = manifest::longest(shards).ok_or(Refused::Untrue)?;
        if self.announced.len() >= self.config.queue {
            return Err(Refused::Queue);
        }
        if !self.accounts.take(account, len.into(), now) {
            return Err(Refused::Account);
        }
        self.seen.put(content, ());
        self.queued.insert(content.into());
        self.announced.push_back(Wanted {
            id: content.into(),
            len,
            what: What::Manifest { shards, total_len },
            cause: Cause::Announced(account),
            since: now,
            paid: true,
        });
        Ok(())
    }

    /// A blob is read, whoever by. Whether it had been fetched ahead.
    pub(super) fn used(&mut self, id: BlobId) -> bool {
        let first = |used: &mut bool| !std::mem::replace(used, true);
        let running = self.running.get_mut(&id).is_some_and(|(_, used)| first(used));
        self.ledger.used(id) || running
    }

    /// Whether a blob that is being fetched was read meanwhile.
    pub(super) fn was_read(&self, id: BlobId) -> bool {
        self.running.get(&id).is_some_and(|(_, used)| *used)
    }

    /// A viewer reads a blob to play it: what follows it is wanted.
    pub(super) fn read(
        &mut self,
        id: BlobId,
        shelf: &impl Shelf,
        fullness: u64,
        now: Instant,
    ) -> Meaning {
        let used = self.used(id);
        let mut refused = None;
        for part in self.contents.after(id, self.config.ahead, self.config.ahead_bytes) {
            let next = BlobId::from(part.id);
            if self.queued.contains(&next) || self.running.contains_key(&next) || shelf.holds(next)
            {
                continue;
            }
            // Later is too late.
            if self.is_busy(fullness) {
                refused = Some(Refused::Busy);
                break;
            }
            if self.ahead.len() >= self.config.queue {
                refused = Some(Refused::Queue);
                break;
            }
            self.queued.insert(next);
            self.ahead.push_back(Wanted {
                id: next,
                len: part.len,
                what: What::Shard,
                cause: Cause::Ahead,
                since: now,
                paid: true,
            });
        }
        Meaning { used, refused }
    }

    /// Whether it is known what a blob is.
    pub(super) fn knows(&mut self, id: BlobId) -> bool {
        self.contents.knows(id)
    }

    /// What a blob is that is held.
    pub(super) fn learn(&mut self, id: BlobId, manifest: Option<&Manifest>) {
        match manifest {
            Some(manifest) => self.contents.learn(manifest),
            None => self.contents.is_other(id),
        }
    }

    fn is_busy(&self, fullness: u64) -> bool {
        fullness >= u64::from(self.config.idle_below)
    }

    /// What to do now, with the service as full as `fullness` says, in percent.
    pub(super) fn next(&mut self, shelf: &impl Shelf, fullness: u64, now: Instant) -> Next {
        if self.running.len() >= self.config.parallel {
            return Next::Nothing;
        }
        while let Some(wanted) = self.front() {
            if now.saturating_duration_since(wanted.since) >= self.patience(wanted.cause) {
                self.take_front();
                self.forget(&wanted);
                return Next::Refused(Refused::Busy);
            }
            if self.running.contains_key(&wanted.id) || shelf.holds(wanted.id) {
                self.take_front();
                continue;
            }
            if self.is_busy(fullness) {
                return Next::Full;
            }
            if now < self.next_start {
                return Next::At(self.next_start);
            }
            self.take_front();
            return match self.admit(wanted, shelf, now) {
                Ok(()) => Next::Fetch(wanted),
                Err(refused) => {
                    self.forget(&wanted);
                    Next::Refused(refused)
                }
            };
        }
        Next::Nothing
    }

    fn front(&self) -> Option<Wanted> {
        self.ahead.front().or_else(|| self.announced.front()).copied()
    }

    fn take_front(&mut self) {
        if let Some(wanted) = self.ahead.pop_front().or_else(|| self.announced.pop_front()) {
            self.queued.remove(&wanted.id);
        }
    }

    /// Nothing came of a wanted blob. If it was all that is known of a content, that may be announced
    /// again.
    fn forget(&mut self, wanted: &Wanted) {
        if wanted.what != What::Shard {
            self.seen.pop(&ContentId(wanted.id));
        }
    }

    fn patience(&self, cause: Cause) -> Duration {
        match cause {
            Cause::Announced(_) => self.config.patience,
            Cause::Ahead => self.config.ahead_patience,
        }
    }

    /// Begins a fetch, if there is room for it.
    fn admit(&mut self, wanted: Wanted, shelf: &impl Shelf, now: Instant) -> Result<(), Refused> {
        let Wanted { id, len, cause, paid, .. } = wanted;
        let coming = self.running.values().map(|(wanted, _)| u64::from(wanted.len));
        let unread = coming.fold(self.ledger.bytes(), u64::saturating_add);
        let share = u128::from(shelf.capacity()) * u128::from(self.config.cache_percent) / 100;
        let fits = u128::from(unread) + u128::from(len) <= share;
        if !fits || !self.ledger.has_place(self.running.len() + 1) {
            return Err(Refused::Share);
        }
        // A reader is there before memory has given it up.
        let in_memory = cause == Cause::Ahead && shelf.would_hold(len);
        if !in_memory && !shelf.would_keep(id, len) {
            return Err(Refused::Admission);
        }
        if let Cause::Announced(account) = cause
            && !paid
            && !self.accounts.take(account, len.into(), now)
        {
            return Err(Refused::Account);
        }
        // None where there is no limit.
        let micros = u64::from(len) * 1_000_000;
        if let Some(micros) = micros.checked_div(self.config.bytes_per_second) {
            self.next_start = now + Duration::from_micros(micros);
        }
        self.running.insert(id, (Wanted { paid: true, ..wanted }, false));
        Ok(())
    }

    /// A fetch could not begin just now: it is tried again.
    pub(super) fn put_back(&mut self, id: BlobId) {
        let Some((wanted, _)) = self.running.remove(&id) else { return };
        self.queued.insert(id);
        match wanted.cause {
            Cause::Announced(_) => self.announced.push_front(wanted),
            Cause::Ahead => self.ahead.push_front(wanted),
        }
    }

    /// A fetch has ended. What an announced manifest names is wanted from here on.
    ///
    /// # Errors
    /// Why not, or not all of it.
    pub(super) fn done(
        &mut self,
        id: BlobId,
        outcome: Outcome,
        now: Instant,
    ) -> Result<(), Refused> {
        let Some((wanted, used)) = self.running.remove(&id) else { return Ok(()) };
        let Outcome::Whole { len, manifest, ours } = outcome else {
            self.forget(&wanted);
            return Ok(());
        };
        if ours && !used {
            self.ledger.insert(id, len, now);
        }
        let Wanted { what: What::Manifest { shards, total_len }, cause, .. } = wanted else {
            return Ok(());
        };
        let Cause::Announced(account) = cause else { return Ok(()) };
        let told = |manifest: &Manifest| {
            u32::try_from(manifest.shards().len()) == Ok(shards)
                && manifest.total_len() == total_len
        };
        let Some(manifest) = manifest.filter(told) else {
            self.accounts.charge(account, len.saturating_sub(wanted.len).into(), now);
            return Err(Refused::Untrue);
        };
        self.contents.learn(&manifest);
        for part in head(manifest.shards().iter(), self.config.content_bytes) {
            if self.announced.len() >= self.config.queue {
                return Err(Refused::Queue);
            }
            let id = BlobId::from(part.id);
            if !self.running.contains_key(&id) && self.queued.insert(id) {
                self.announced.push_back(Wanted {
                    id,
                    len: part.len,
                    what: What::Shard,
                    cause,
                    since: now,
                    paid: false,
                });
            }
        }
        Ok(())
    }

    /// There is too much to do: gives up whatever waits, and says how many that is.
    pub(super) fn shed(&mut self) -> usize {
        let mut waiting = 0;
        while let Some(wanted) = self.front() {
            self.take_front();
            self.forget(&wanted);
            waiting += 1;
        }
        waiting
    }

    /// Looks at what was fetched ahead; how many of them were for nothing.
    pub(super) fn judge(&mut self, shelf: &impl Shelf, now: Instant) -> usize {
        let Config { judge_after, judge_every, .. } = self.config;
        self.ledger.judge(judge_after, judge_every, |id| shelf.holds(id), now)
    }

    /// Bytes that were fetched ahead and not read yet.
    pub(super) fn unread(&self) -> u64 {
        self.ledger.bytes()
    }

    /// Whether anything waits or is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.queued.is_empty() && self.running.is_empty()
    }
}

#[cfg(test)]
mod tests;
