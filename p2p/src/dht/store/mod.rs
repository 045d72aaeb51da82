//! The provider records this node keeps: its own, and those others placed here.
//!
//! In memory alone: kad calls it from within the swarm's poll. What is to be kept over a restart is
//! noted, and collected from outside ([`Store::take_changes`]). Value records are not taken; nothing
//! of ours uses them. Every read and write has its time from outside, except through kad's trait,
//! which knows no time.
//!
//! Room is given by reputation. Own records have room of their own. When a key, the table of
//! providers or the whole store is full, a provider that an account has put a deposit behind
//! displaces one without; and when the whole store is full, among equals whoever holds most gives
//! way, so that a flood from one peer is at the expense of that peer, and one from a thousand unbound
//! peers at that of the unbound.

mod journal;
mod limits;
mod providers;
mod rates;
mod records;
#[cfg(test)]
mod tests;

use super::{
    Key,
    disk::{Batch, Kept, KeptRecord, MAX_RECORDS},
};
use crate::{
    AddressPolicy, Multiaddr, OverlayKey, PeerId, Standing,
    identity::{key_of, peer_id_of},
};
use journal::Journal;
use libp2p::kad::{
    ProviderRecord, Record, RecordKey,
    store::{Error, RecordStore, Result as StoreResult},
};
pub use limits::{Limits, Refused};
pub(super) use limits::{MAX_ADDRESS_BYTES, MAX_ADDRESSES};
use providers::{Provider, Providers};
use rates::Rates;
use records::Records;
use std::{
    borrow::Cow,
    collections::HashSet,
    iter::Empty,
    time::{Duration, Instant},
    vec,
};

/// What a provider is worth, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rank {
    /// Its account is graylisted.
    Graylisted,
    /// No account answers for it.
    Unbound,
    /// An account answers for it.
    Bound,
}

impl Rank {
    /// By what the chain says of its key.
    pub fn of(standing: Option<Standing>) -> Self {
        match standing {
            None => Self::Unbound,
            Some(standing) if standing.graylisted() => Self::Graylisted,
            Some(_) => Self::Bound,
        }
    }
}

/// The labels of [`Left::displaced`], which dashboards see from the start.
pub(crate) const DISPLACED: [&str; 4] = ["per_key", "providers", "total", "graylisted"];

/// Records that have left since [`Store::take_left`] was last called, by why they did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// Their time was up.
    pub(crate) expired: u64,
    /// A better provider of the same key came.
    pub(crate) for_key: u64,
    /// A better provider came, and there were as many as are kept.
    pub(crate) for_provider: u64,
    /// There was no more room for a provider that is better or has less.
    pub(crate) for_total: u64,
    /// Their provider was graylisted.
    pub(crate) graylisted: u64,
}

impl Left {
    /// The labels of those that were displaced, and how many each stands for.
    pub(crate) fn displaced(&self) -> [(&'static str, u64); 4] {
        let [per_key, providers, total, graylisted] = DISPLACED;
        [
            (per_key, self.for_key),
            (providers, self.for_provider),
            (total, self.for_total),
            (graylisted, self.graylisted),
        ]
    }
}

/// What became of the records that were kept on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Restored {
    /// Held again.
    pub(crate) taken: usize,
    /// Of these, those that would have lived longer than any record may: a clock was set back.
    pub(crate) clamped: u64,
    /// Not held, by the bounds and the reputation of now.
    pub(crate) refused: u64,
}

/// The record store.
#[derive(Debug)]
pub struct Store {
    local: PeerId,
    limits: Limits,
    policy: AddressPolicy,
    /// In tenths of a second.
    ttl: u32,
    /// What times of records count from.
    began: Instant,
    /// Keys the local node provides. Bounded by the schedule that feeds it.
    own: HashSet<Key>,
    records: Records,
    providers: Providers,
    rates: Rates,
    left: Left,
    /// None if nothing is kept over a restart.
    journal: Option<Journal>,
}

impl Store {
    /// An empty store of the node `local`; records live `ttl`.
    pub fn new(
        local: PeerId,
        limits: Limits,
        policy: AddressPolicy,
        ttl: Duration,
        now: Instant,
    ) -> Self {
        Self {
            local,
            rates: Rates::new(&limits),
            limits,
            policy,
            ttl: tenths(ttl),
            began: now,
            own: HashSet::new(),
            records: Records::new(),
            providers: Providers::default(),
            left: Left::default(),
            journal: None,
        }
    }

    fn tenths_at(&self, now: Instant) -> u32 {
        tenths(now.saturating_duration_since(self.began))
    }

    fn time_of(&self, tenths: u32) -> Instant {
        self.began + Duration::from_millis(100) * tenths
    }

    /// Takes a record that `provider` itself sent. Addresses the policy does not allow and those too
    /// long are left out.
    /// Known records are renewed even where no new one would be taken.
    ///
    /// # Errors
    /// Says why it is not taken.
    pub fn add(
        &mut self,
        key: &RecordKey,
        provider: &PeerId,
        addresses: &[Multiaddr],
        rank: Rank,
        now: Instant,
    ) -> Result<(), Refused> {
        let provider_key = key_of(provider).ok_or(Refused::ProviderKeyType)?;
        if rank == Rank::Graylisted {
            return Err(Refused::Graylisted);
        }
        if !self.rates.take(&provider_key, rank, now) {
            return Err(Refused::Rate);
        }
        let key = Key::from_record_key(key).ok_or(Refused::KeySize)?;
        let expires = self.tenths_at(now).saturating_add(self.ttl);
        let (number, id) = self.put(key, &provider_key, rank, expires)?;
        self.mark(id);
        self.set_addresses(number, addresses);
        Ok(())
    }

    /// Holds a record until `expires`, no sooner than any other. The provider's number and the
    /// record's.
    fn put(
        &mut self,
        key: Key,
        provider: &OverlayKey,
        rank: Rank,
        expires: u32,
    ) -> Result<(u32, u32), Refused> {
        let number = self.providers.number(provider);
        if let Some(number) = number {
            self.providers.set_rank(number, rank);
            let known = self.records.of_key(&key).find(|(_, slot)| slot.provider() == number);
            if let Some((id, _)) = known {
                if let Some(provider) = self.providers.get_mut(number) {
                    self.records.renew(id, expires, &mut provider.records);
                }
                return Ok((number, id));
            }
        }
        let peer = peer_id_of(provider).ok_or(Refused::ProviderKeyType)?;
        self.make_room(&key, number, rank)?;
        let number = number.unwrap_or_else(|| self.providers.add(*provider, peer, rank));
        // It is there; without it there would be nothing to count.
        let entry = self.providers.get_mut(number).ok_or(Refused::Providers)?;
        let count = entry.count() + 1;
        let id = self.records.insert(key, number, expires, &mut entry.records);
        self.providers.set_count(number, count);
        Ok((number, id))
    }

    /// Makes room for a record of a provider that is known by a number, or is not.
    fn make_room(&mut self, key: &Key, number: Option<u32>, rank: Rank) -> Result<(), Refused> {
        let count = number.and_then(|n| self.providers.get(n)).map_or(0, Provider::count);
        if usize::try_from(count).is_ok_and(|count| count >= self.limits.per_provider) {
            return Err(Refused::PerProvider);
        }
        let full = self.records.of_key(key).count() >= self.limits.per_key;
        let of_key = match full {
            true => Some(self.worse_of_key(key, rank).ok_or(Refused::PerKey)?),
            false => None,
        };
        let full = number.is_none() && self.providers.len() >= self.limits.providers;
        let of_providers = match full {
            true => Some(self.providers.lightest_below(rank).ok_or(Refused::Providers)?),
            false => None,
        };
        let full = self.records.len() >= self.limits.total;
        let of_all = match full && of_key.is_none() && of_providers.is_none() {
            true => Some(self.providers.gives_way(rank, count).ok_or(Refused::Total)?),
            false => None,
        };
        // Nothing has left so far if it was refused.
        if let Some(id) = of_key {
            self.drop_record(id);
            self.left.for_key += 1;
        }
        if let Some(number) = of_providers {
            // The lightest of all holds at most `total / providers`, 48 by default, or is one of
            // few unbound ones among the bound.
            while let Some(id) = self.providers.get(number).and_then(|p| p.records.first()) {
                self.drop_record(id);
                self.left.for_provider += 1;
            }
        }
        if let Some(number) = of_all
            && let Some(id) = self.providers.get(number).and_then(|p| p.records.first())
        {
            self.drop_record(id);
            self.left.for_total += 1;
        }
        Ok(())
    }

    /// Of the records of a key whose providers are worth less, that of the worst that expires first.
    fn worse_of_key(&self, key: &Key, rank: Rank) -> Option<u32> {
        let ranked = self.records.of_key(key).filter_map(|(id, slot)| {
            let held = self.providers.get(slot.provider())?.rank();
            (held < rank).then_some((held, slot.expires(), id))
        });
        ranked.min().map(|(.., id)| id)
    }

    fn set_addresses(&mut self, number: u32, addresses: &[Multiaddr]) {
        let (policy, most) = (self.policy, self.limits.addresses.min(MAX_ADDRESSES));
        let Some(provider) = self.providers.get_mut(number) else { return };
        let allowed = addresses
            .iter()
            .filter(|a| a.len() <= MAX_ADDRESS_BYTES)
            .filter(|a| policy.allows(a) || policy.allows_circuit(a))
            .take(most);
        if !allowed.clone().eq(&provider.addresses) {
            provider.addresses = allowed.cloned().collect();
            let key = provider.key;
            if let Some(journal) = &mut self.journal {
                journal.provider(key);
            }
        }
    }

    /// Notes that the local node provides a key.
    pub fn provide(&mut self, key: Key) {
        self.own.insert(key);
    }

    /// Notes that it no longer does.
    pub fn stop_providing(&mut self, key: &Key) {
        self.own.remove(key);
    }

    /// The live providers of a key, the local node first if it is one.
    pub fn providers_at(&self, key: &Key, now: Instant) -> Vec<ProviderRecord> {
        let own = self.own.contains(key).then(|| self.own_record(key));
        let at = self.tenths_at(now);
        let others = self.records.of_key(key).filter(|(_, slot)| slot.expires() > at);
        let others = others.filter_map(|(_, slot)| {
            let provider = self.providers.get(slot.provider())?;
            (provider.rank() > Rank::Graylisted).then(|| ProviderRecord {
                key: key.record_key(),
                provider: provider.peer,
                expires: Some(self.time_of(slot.expires())),
                addresses: provider.addresses.clone(),
            })
        });
        own.into_iter().chain(others).collect()
    }

    /// kad fills in the local node's addresses when it answers.
    fn own_record(&self, key: &Key) -> ProviderRecord {
        ProviderRecord::new(key.record_key(), self.local, Vec::new())
    }

    /// Drops what has expired and what is of graylisted providers, at most `max` records a call so
    /// that the swarm does not stall. How many were dropped.
    pub fn expire(&mut self, now: Instant, max: usize) -> usize {
        self.rates.expire(now);
        let at = self.tenths_at(now);
        let mut dropped = 0;
        while dropped < max {
            let first = self.providers.graylisted().and_then(|number| self.providers.get(number));
            if let Some(id) = first.and_then(|provider| provider.records.first()) {
                self.drop_record(id);
                self.left.graylisted += 1;
            } else if let Some(id) = self.records.oldest()
                && self.records.get(id).is_some_and(|slot| slot.expires() <= at)
            {
                self.drop_record(id);
                self.left.expired += 1;
            } else {
                break;
            }
            dropped += 1;
        }
        dropped
    }

    /// Reputation has changed. At most as many steps as providers are kept.
    pub fn on_reputation(&mut self, rank: impl Fn(&OverlayKey) -> Rank) {
        let changed: Vec<(u32, Rank)> = self
            .providers
            .iter()
            .map(|(number, provider)| (number, provider.rank(), rank(&provider.key)))
            .filter(|(_, before, after)| before != after)
            .map(|(number, _, after)| (number, after))
            .collect();
        for (number, rank) in changed {
            self.providers.set_rank(number, rank);
        }
    }

    fn drop_record(&mut self, id: u32) {
        let Some(slot) = self.records.get(id) else { return };
        let (key, number) = (*slot.key(), slot.provider());
        let Some(provider) = self.providers.get_mut(number) else { return };
        let (provider_key, count) = (provider.key, provider.count() - 1);
        self.records.remove(id, &mut provider.records);
        if let Some(journal) = &mut self.journal {
            journal.removed(key, provider_key);
        }
        if count > 0 {
            self.providers.set_count(number, count);
            return;
        }
        self.providers.remove(number);
        if let Some(journal) = &mut self.journal {
            journal.provider(provider_key);
        }
    }

    /// Records held for others.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether no record is held for others.
    pub fn is_empty(&self) -> bool {
        self.records.len() == 0
    }

    /// What has left since the last time.
    pub(crate) fn take_left(&mut self) -> Left {
        std::mem::take(&mut self.left)
    }

    // What is kept over a restart.

    /// Takes up what was kept, and notes from now on what changes.
    pub(crate) fn restore(
        &mut self,
        kept: &mut Kept,
        rank: impl Fn(&OverlayKey) -> Rank,
        now: Instant,
        now_ms: u64,
    ) -> Restored {
        let mut journal = Journal::default();
        let mut wrong: Vec<u32> = Vec::new();
        let mut records = std::mem::take(&mut kept.records);
        // The lists are in the order in which records expire.
        records.sort_unstable_by_key(|record| record.expires_ms);
        let (at, local) = (self.tenths_at(now), key_of(&self.local));
        let mut restored = Restored::default();
        for KeptRecord { key, provider, expires_ms } in records {
            let left = expires_ms.saturating_sub(now_ms) / 100;
            let left = u32::try_from(left).unwrap_or(u32::MAX);
            let rank = rank(&provider);
            let wanted = Some(provider) != local && rank > Rank::Graylisted;
            let expires = at.saturating_add(left.min(self.ttl));
            let put = wanted.then(|| self.put(key, &provider, rank, expires).ok()).flatten();
            match put {
                Some((_, id)) if left > self.ttl => wrong.push(id),
                Some(_) => {}
                None => {
                    restored.refused += 1;
                    journal.removed(key, provider);
                }
            }
            restored.taken += usize::from(put.is_some());
        }
        for (provider, addresses) in std::mem::take(&mut kept.providers) {
            if let Some(number) = self.providers.number(&provider) {
                self.set_addresses(number, &addresses);
            }
        }
        // From here on it is noted what changes; what has the wrong time on disk has changed.
        self.journal = Some(journal);
        restored.clamped = u64::try_from(wrong.len()).unwrap_or(u64::MAX);
        wrong.into_iter().for_each(|id| self.mark(id));
        restored
    }

    fn mark(&mut self, id: u32) {
        let Some(journal) = &mut self.journal else { return };
        if let Some(slot) = self.records.slot_mut(id)
            && !std::mem::replace(&mut slot.marked, true)
        {
            journal.slots.push(id);
        }
    }

    /// Puts what has changed into a batch, as much as it takes.
    pub(crate) fn take_changes(&mut self, batch: &mut Batch, now: Instant, now_ms: u64) {
        let at = self.tenths_at(now);
        let Some(journal) = &mut self.journal else { return };
        batch.rewrite = std::mem::take(&mut journal.forgot);
        batch.removed = std::mem::take(&mut journal.removed);
        if batch.rewrite {
            batch.removed.clear();
            let ids: Vec<u32> = self.records.ids().collect();
            for id in ids {
                if let Some(slot) = self.records.slot_mut(id)
                    && !std::mem::replace(&mut slot.marked, true)
                {
                    journal.slots.push(id);
                }
            }
        }
        while batch.records.len() < MAX_RECORDS
            && let Some(id) = journal.slots.pop()
        {
            if let Some(slot) = self.records.slot_mut(id) {
                slot.marked = false;
            }
            // It may be free again.
            let Some(slot) = self.records.get(id) else { continue };
            let Some(provider) = self.providers.get(slot.provider()) else { continue };
            let left = u64::from(slot.expires().saturating_sub(at));
            // What has expired is told when it is dropped.
            if left > 0 {
                let expires_ms = now_ms.saturating_add(left * 100);
                let (key, provider) = (*slot.key(), provider.key);
                batch.records.push(KeptRecord { key, provider, expires_ms });
            }
        }
        let changed = std::mem::take(&mut journal.providers);
        batch.providers = changed
            .into_iter()
            .map(|key| {
                let number = self.providers.number(&key);
                let provider = number.and_then(|number| self.providers.get(number));
                (key, provider.map(|provider| provider.addresses.clone()))
            })
            .collect();
    }
}

fn tenths(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis() / 100).unwrap_or(u32::MAX)
}

impl RecordStore for Store {
    type RecordsIter<'a> = Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = vec::IntoIter<Cow<'a, ProviderRecord>>;

    /// There are no value records. What is asked for here is whether a provider's record is held, see
    /// [`Key::held_by`]: an empty value that lives as long as the record says that it is.
    fn get(&self, name: &RecordKey) -> Option<Cow<'_, Record>> {
        let (key, provider) = Key::from_held(name)?;
        let number = self.providers.number(&provider)?;
        let mut of_key = self.records.of_key(&key);
        let (_, slot) = of_key.find(|(_, slot)| slot.provider() == number)?;
        let expires = Some(self.time_of(slot.expires()));
        Some(Cow::Owned(Record { key: name.clone(), value: Vec::new(), publisher: None, expires }))
    }

    fn put(&mut self, _: Record) -> StoreResult<()> {
        Err(Error::MaxRecords)
    }

    fn remove(&mut self, _: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        std::iter::empty()
    }

    /// Called by kad for the local node alone: what others send goes through [`Store::add`].
    fn add_provider(&mut self, record: ProviderRecord) -> StoreResult<()> {
        if record.provider == self.local {
            let key = Key::from_record_key(&record.key).ok_or(Error::ValueTooLarge)?;
            self.provide(key);
            return Ok(());
        }
        Err(Error::MaxProvidedKeys)
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let now = Instant::now();
        Key::from_record_key(key).map(|key| self.providers_at(&key, now)).unwrap_or_default()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        let own: Vec<_> = self.own.iter().map(|key| Cow::Owned(self.own_record(key))).collect();
        own.into_iter()
    }

    fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        let Some(key) = Key::from_record_key(key) else { return };
        if *provider == self.local {
            self.stop_providing(&key);
            return;
        }
        let number = key_of(provider).and_then(|provider| self.providers.number(&provider));
        let id = self
            .records
            .of_key(&key)
            .find(|(_, slot)| Some(slot.provider()) == number)
            .map(|(id, _)| id);
        if let Some(id) = id {
            self.drop_record(id);
        }
    }
}
