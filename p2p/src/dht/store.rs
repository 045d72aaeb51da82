//! The provider records this node keeps: its own, and those others placed here.
//!
//! In memory alone: kad calls it from within the swarm's poll. Value records are not taken; nothing
//! of ours uses them. Every read and write has its time from outside, except through kad's trait,
//! which knows no time.

use super::Key;
use crate::{
    AddressPolicy, Multiaddr, OverlayKey, PeerId,
    identity::{key_of, peer_id_of},
};
use libp2p::kad::{
    ProviderRecord, Record, RecordKey,
    store::{Error, RecordStore, Result as StoreResult},
};
use serde::{Deserialize, Serialize};
use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap, HashSet},
    iter::Empty,
    time::{Duration, Instant},
    vec,
};

/// Most addresses kept of one provider.
///
/// kad refuses a packet beyond 16 KiB, and answers a question for a key with up to 20 providers. At
/// most these are 20 * (44 + 2 * (128 + 3) bytes) = 6.1 KB, where 44 is a PeerId with its framing
/// and 3 the framing of an address; what is left is for the nearer peers named with them.
pub(crate) const MAX_ADDRESSES: usize = 2;

/// Longest address that is kept of a provider; a QUIC address with a PeerId takes about 65 bytes.
const MAX_ADDRESS_BYTES: usize = 128;

/// Bounds of the records held for others.
///
/// A record takes about 300 bytes in its three indexes, so all of them 60 MB; a provider's
/// addresses are kept once and not with each record: 4,096 * 2 * 128 bytes = 1 MB at worst.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Providers of one key. Default 20.
    pub per_key: usize,
    /// Records of one provider. Default 100,000: in a network of less than 20 nodes every node
    /// holds every record.
    pub per_provider: usize,
    /// Providers. Default 4,096.
    pub providers: usize,
    /// Records in all. Default 200,000.
    pub total: usize,
    /// Addresses of at most 128 bytes kept of one provider. Default 2, which is also the most: with
    /// more, answers could grow past the size kad reads.
    pub addresses: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            per_key: 20,
            per_provider: 100_000,
            providers: 4_096,
            total: 200_000,
            addresses: MAX_ADDRESSES,
        }
    }
}

/// Why a record was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// The key is not 32 bytes long.
    KeySize,
    /// The provider uses no ed25519 key.
    ProviderKeyType,
    /// The provider is graylisted.
    Graylisted,
    /// The key has as many providers as are kept.
    PerKey,
    /// The provider has as many records as are kept.
    PerProvider,
    /// As many providers are known as are kept.
    Providers,
    /// As many records are held as are kept.
    Total,
}

impl Refused {
    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::KeySize => "key_size",
            Self::ProviderKeyType => "provider_key_type",
            Self::Graylisted => "graylisted",
            Self::PerKey => "per_key",
            Self::PerProvider => "per_provider",
            Self::Providers => "providers",
            Self::Total => "total",
        }
    }
}

/// The record store.
#[derive(Debug)]
pub struct Store {
    local: PeerId,
    limits: Limits,
    policy: AddressPolicy,
    ttl: Duration,
    /// Keys the local node provides. Bounded by the schedule that feeds it.
    own: HashSet<Key>,
    /// Providers of each key with the time their record expires.
    records: HashMap<Key, Vec<(OverlayKey, Instant)>>,
    providers: HashMap<OverlayKey, Provider>,
    /// All records by the time they expire.
    expiry: BTreeSet<(Instant, Key, OverlayKey)>,
}

#[derive(Debug, Default)]
struct Provider {
    records: usize,
    addresses: Vec<Multiaddr>,
}

impl Store {
    /// An empty store of the node `local`; records live `ttl`.
    pub fn new(local: PeerId, limits: Limits, policy: AddressPolicy, ttl: Duration) -> Self {
        Self {
            local,
            limits,
            policy,
            ttl,
            own: HashSet::new(),
            records: HashMap::new(),
            providers: HashMap::new(),
            expiry: BTreeSet::new(),
        }
    }

    /// Takes a record that `provider` itself sent. Addresses the policy does not allow and those too
    /// long are left out.
    /// Known records are renewed even where no new one would be taken.
    pub fn add(
        &mut self,
        key: &RecordKey,
        provider: &PeerId,
        addresses: &[Multiaddr],
        now: Instant,
    ) -> Result<(), Refused> {
        let key = Key::from_record_key(key).ok_or(Refused::KeySize)?;
        let provider = key_of(provider).ok_or(Refused::ProviderKeyType)?;
        let expires = now + self.ttl;
        let held = self.records.get(&key);
        let known =
            held.and_then(|held| held.iter().find(|(p, _)| *p == provider)).map(|(_, e)| *e);
        match known {
            Some(before) => {
                self.expiry.remove(&(before, key, provider));
            }
            None => {
                self.admit(held.map_or(0, Vec::len), &provider)?;
                self.providers.entry(provider).or_default().records += 1;
            }
        }
        let held = self.records.entry(key).or_default();
        held.retain(|(p, _)| *p != provider);
        held.push((provider, expires));
        self.expiry.insert((expires, key, provider));
        let allowed = addresses
            .iter()
            .filter(|a| a.len() <= MAX_ADDRESS_BYTES && self.policy.allows(a))
            .take(self.limits.addresses.min(MAX_ADDRESSES));
        if let Some(entry) = self.providers.get_mut(&provider) {
            entry.addresses = allowed.cloned().collect();
        }
        Ok(())
    }

    fn admit(&self, of_key: usize, provider: &OverlayKey) -> Result<(), Refused> {
        if of_key >= self.limits.per_key {
            return Err(Refused::PerKey);
        }
        match self.providers.get(provider) {
            Some(known) if known.records >= self.limits.per_provider => {
                return Err(Refused::PerProvider);
            }
            None if self.providers.len() >= self.limits.providers => {
                return Err(Refused::Providers);
            }
            _ => {}
        }
        if self.expiry.len() >= self.limits.total {
            return Err(Refused::Total);
        }
        Ok(())
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
        let others = self.records.get(key).into_iter().flatten();
        let others =
            others.filter(|(_, expires)| *expires > now).filter_map(|(provider, expires)| {
                Some(ProviderRecord {
                    key: key.record_key(),
                    provider: peer_id_of(provider)?,
                    expires: Some(*expires),
                    addresses: self
                        .providers
                        .get(provider)
                        .map(|p| p.addresses.clone())
                        .unwrap_or_default(),
                })
            });
        own.into_iter().chain(others).collect()
    }

    /// kad fills in the local node's addresses when it answers.
    fn own_record(&self, key: &Key) -> ProviderRecord {
        ProviderRecord::new(key.record_key(), self.local, Vec::new())
    }

    /// Drops what has expired, at most `max` records a call so that the swarm does not stall. How
    /// many were dropped.
    pub fn expire(&mut self, now: Instant, max: usize) -> usize {
        let mut dropped = 0;
        while dropped < max {
            match self.expiry.first().copied() {
                Some((expires, key, provider)) if expires <= now => {
                    self.drop_record(&key, &provider);
                    dropped += 1;
                }
                _ => break,
            }
        }
        dropped
    }

    fn drop_record(&mut self, key: &Key, provider: &OverlayKey) {
        let Some(held) = self.records.get_mut(key) else { return };
        let Some(at) = held.iter().position(|(p, _)| p == provider) else { return };
        let (_, expires) = held.swap_remove(at);
        if held.is_empty() {
            self.records.remove(key);
        }
        self.expiry.remove(&(expires, *key, *provider));
        if let Some(entry) = self.providers.get_mut(provider) {
            entry.records -= 1;
            if entry.records == 0 {
                self.providers.remove(provider);
            }
        }
    }

    /// Records held for others.
    pub fn len(&self) -> usize {
        self.expiry.len()
    }

    /// Whether no record is held for others.
    pub fn is_empty(&self) -> bool {
        self.expiry.is_empty()
    }
}

impl RecordStore for Store {
    type RecordsIter<'a> = Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = vec::IntoIter<Cow<'a, ProviderRecord>>;

    fn get(&self, _: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }

    fn put(&mut self, _: Record) -> StoreResult<()> {
        Err(Error::MaxRecords)
    }

    fn remove(&mut self, _: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        std::iter::empty()
    }

    /// Called by kad for the local node alone: what others send is filtered first.
    fn add_provider(&mut self, record: ProviderRecord) -> StoreResult<()> {
        if record.provider == self.local {
            let key = Key::from_record_key(&record.key).ok_or(Error::ValueTooLarge)?;
            self.provide(key);
            return Ok(());
        }
        self.add(&record.key, &record.provider, &record.addresses, Instant::now())
            .map_err(|_| Error::MaxProvidedKeys)
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
        } else if let Some(provider) = key_of(provider) {
            self.drop_record(&key, &provider);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TTL: Duration = Duration::from_secs(100);

    fn peer(n: u8) -> PeerId {
        peer_id_of(&[n; 32]).unwrap()
    }

    fn limits() -> Limits {
        Limits { per_key: 3, per_provider: 4, providers: 5, total: 10, addresses: 2 }
    }

    fn store() -> Store {
        Store::new(peer(0), limits(), AddressPolicy::Global, TTL)
    }

    fn key(n: u32) -> RecordKey {
        Key::test(n).record_key()
    }

    fn providers(store: &Store, n: u32, now: Instant) -> Vec<PeerId> {
        store.providers_at(&Key::test(n), now).into_iter().map(|r| r.provider).collect()
    }

    #[test]
    fn records_live_as_long_as_they_should() {
        let now = Instant::now();
        let mut store = store();
        store.add(&key(1), &peer(1), &[], now).unwrap();
        store.add(&key(1), &peer(2), &[], now + TTL / 2).unwrap();
        assert_eq!(providers(&store, 1, now), [peer(1), peer(2)]);
        assert_eq!(providers(&store, 1, now + TTL), [peer(2)]);
        assert_eq!(store.expire(now + TTL, 100), 1);
        assert_eq!(store.len(), 1);
        store.add(&key(1), &peer(2), &[], now + TTL).unwrap();
        assert_eq!(store.expire(now + TTL + TTL / 2, 100), 0, "renewed");
        assert_eq!(store.expire(now + TTL + TTL, 100), 1);
        assert!(store.is_empty() && store.providers.is_empty() && store.records.is_empty());
    }

    #[test]
    fn expiry_is_done_in_portions() {
        let now = Instant::now();
        let mut store = store();
        for n in 0..4 {
            store.add(&key(n), &peer(1), &[], now).unwrap();
        }
        assert_eq!(store.expire(now + TTL, 3), 3);
        assert_eq!(store.expire(now + TTL, 3), 1);
    }

    #[test]
    fn each_bound_refuses_with_its_reason() {
        let now = Instant::now();
        let mut store = store();
        for n in 1..=3 {
            store.add(&key(1), &peer(n), &[], now).unwrap();
        }
        assert_eq!(store.add(&key(1), &peer(4), &[], now), Err(Refused::PerKey));
        assert_eq!(store.add(&key(1), &peer(3), &[], now), Ok(()), "renewal is not refused");
        for n in 2..=4 {
            store.add(&key(n), &peer(1), &[], now).unwrap();
        }
        assert_eq!(store.add(&key(5), &peer(1), &[], now), Err(Refused::PerProvider));
        for n in 4..=5 {
            store.add(&key(u32::from(n) + 20), &peer(n), &[], now).unwrap();
        }
        assert_eq!(store.add(&key(30), &peer(6), &[], now), Err(Refused::Providers));
        store.add(&key(31), &peer(5), &[], now).unwrap();
        store.add(&key(32), &peer(5), &[], now).unwrap();
        assert_eq!(store.len(), 10);
        assert_eq!(store.add(&key(33), &peer(5), &[], now), Err(Refused::Total));
        let short = RecordKey::new(&[1u8, 2, 3]);
        assert_eq!(store.add(&short, &peer(1), &[], now), Err(Refused::KeySize));
        let multihash = libp2p::multihash::Multihash::wrap(0x12, &[1; 32]).unwrap();
        let rsa = PeerId::from_multihash(multihash).unwrap();
        assert_eq!(store.add(&key(1), &rsa, &[], now), Err(Refused::ProviderKeyType));
    }

    #[test]
    fn a_flood_does_not_touch_what_the_node_itself_provides() {
        let now = Instant::now();
        let mut store = store();
        store.provide(Key::test(1));
        for n in 0..200u8 {
            let _ = store.add(&key(u32::from(n) % 7), &peer(n.max(1)), &[], now);
        }
        assert!(store.len() <= 10);
        assert_eq!(providers(&store, 1, now).first(), Some(&peer(0)));
        store.add_provider(ProviderRecord::new(key(99), peer(0), vec![])).unwrap();
        assert_eq!(providers(&store, 99, now), [peer(0)]);
        assert_eq!(store.provided().count(), 2);
        store.remove_provider(&key(99), &peer(0));
        assert!(providers(&store, 99, now).is_empty());
    }

    #[test]
    fn addresses_are_filtered_bounded_and_the_latest() {
        let now = Instant::now();
        let mut store = store();
        let addrs = |list: &[&str]| list.iter().map(|a| a.parse().unwrap()).collect::<Vec<_>>();
        let kept = |store: &Store| store.providers_at(&Key::test(1), now)[0].addresses.clone();
        let sent = addrs(&[
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/8.8.8.8/tcp/1",
            "/ip4/8.8.8.8/tcp/2",
            "/ip4/8.8.8.8/tcp/3",
        ]);
        store.add(&key(1), &peer(1), &sent, now).unwrap();
        assert_eq!(kept(&store), addrs(&["/ip4/8.8.8.8/tcp/1", "/ip4/8.8.8.8/tcp/2"]));
        store.add(&key(2), &peer(1), &addrs(&["/ip4/9.9.9.9/tcp/1"]), now).unwrap();
        assert_eq!(kept(&store), addrs(&["/ip4/9.9.9.9/tcp/1"]));
    }

    #[test]
    fn the_answer_for_a_full_key_is_one_kad_reads() {
        let now = Instant::now();
        let mut store = Store::new(peer(0), Limits::default(), AddressPolicy::Global, TTL);
        let long = |host: usize, port: u16| -> Multiaddr {
            format!("/dns/{}/tcp/{port}", "a".repeat(host)).parse().unwrap()
        };
        // Two bytes each for the name's protocol and length, three for TCP and its port.
        let (longest, too_long) = (MAX_ADDRESS_BYTES - 5, MAX_ADDRESS_BYTES - 4);
        let sent: Vec<_> =
            (1..9).flat_map(|port| [long(too_long, port), long(longest, port)]).collect();
        assert_eq!((sent[0].len(), sent[1].len()), (MAX_ADDRESS_BYTES + 1, MAX_ADDRESS_BYTES));
        for n in 1..=40 {
            let _ = store.add(&key(1), &peer(n), &sent, now);
        }
        let answer = store.providers_at(&Key::test(1), now);
        assert_eq!(answer.len(), 20);
        for record in &answer {
            assert_eq!(record.addresses, [long(longest, 1), long(longest, 2)]);
        }
        let framed = |bytes: usize| bytes + 3;
        let of_peer = |record: &ProviderRecord| {
            let addresses: usize = record.addresses.iter().map(|a| framed(a.len())).sum();
            framed(framed(record.provider.to_bytes().len()) + addresses + 2)
        };
        let bytes: usize = answer.iter().map(of_peer).sum();
        assert!(bytes < 12 * 1024, "{bytes}");
    }

    proptest! {
        /// Whatever is added and dropped, the bounds hold and the indexes agree.
        #[test]
        fn bounds_hold(ops in proptest::collection::vec((0u8..8, 0u32..8, 0u16..60, 0u8..4), 0..300)) {
            let mut now = Instant::now();
            let mut store = store();
            let limits = limits();
            for (p, k, wait, what) in ops {
                now += Duration::from_secs(wait.into());
                match what {
                    0 => { store.expire(now, 3); }
                    1 => store.remove_provider(&key(k), &peer(p)),
                    _ => { let _ = store.add(&key(k), &peer(p.max(1)), &[], now); }
                }
                let held: usize = store.records.values().map(Vec::len).sum();
                let counted: usize = store.providers.values().map(|p| p.records).sum();
                prop_assert_eq!(held, store.expiry.len());
                prop_assert_eq!(held, counted);
                prop_assert!(held <= limits.total);
                prop_assert!(store.providers.len() <= limits.providers);
                prop_assert!(store.records.values().all(|r| (1..=limits.per_key).contains(&r.len())));
                prop_assert!(store.providers.values().all(|p| (1..=limits.per_provider).contains(&p.records)));
                store.expire(now, usize::MAX);
                prop_assert!(store.expiry.iter().all(|(expires, ..)| *expires > now));
            }
        }
    }
}
