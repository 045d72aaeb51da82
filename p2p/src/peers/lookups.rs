//! Who waits for which peer's service record, and the records known.
//!
//! A peer is asked directly if it is connected or kad knows where it is; failing that its addresses
//! are looked for in the directory, once. Callers that want the same record share one request. `W`
//! is a waiting caller.

use super::{Config, ServiceRecord};
use crate::{OverlayKey, PeerId};
use lru::LruCache;
use std::{
    collections::HashMap,
    num::NonZeroUsize,
    time::{Duration, Instant},
};

/// What becomes of a caller that asked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ask<W> {
    /// The record is known, valid and young enough.
    Known(W, Box<ServiceRecord>),
    /// The peer is to be asked now.
    Start,
    /// It is being asked already.
    Joined,
    /// Too many peers are being asked, or too many callers wait.
    Refused(W),
}

/// What to do about a peer that could not be dialled.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unreachable<W> {
    /// Look for its addresses, then ask again.
    Locate,
    /// They were looked for already; nobody can reach it.
    GiveUp(Vec<W>),
}

struct Asked<W> {
    deadline: Instant,
    located: bool,
    waiters: Vec<W>,
}

struct Known {
    record: ServiceRecord,
    /// Until when callers get it without the peer being asked.
    usable_until: Instant,
}

pub(crate) struct Lookups<W> {
    max_lookups: usize,
    max_waiting: usize,
    timeout: Duration,
    max_age: Duration,
    max_age_without_address: Duration,
    /// Records that are not used any more stay until they are pushed out: their sequence number
    /// still counts.
    known: LruCache<OverlayKey, Known>,
    asked: HashMap<PeerId, Asked<W>>,
    waiting: usize,
}

impl<W> Lookups<W> {
    pub(crate) fn new(config: &Config) -> Self {
        let capacity = NonZeroUsize::new(config.service_cache).unwrap_or(NonZeroUsize::MIN);
        Self {
            max_lookups: config.max_service_lookups,
            max_waiting: config.max_service_waiting,
            timeout: config.service_timeout,
            max_age: config.service_max_age,
            max_age_without_address: config
                .service_max_age_without_address
                .min(config.service_max_age),
            known: LruCache::sparse(capacity),
            asked: HashMap::new(),
            waiting: 0,
        }
    }

    pub(crate) fn ask(
        &mut self,
        peer: PeerId,
        key: &OverlayKey,
        waiter: W,
        now: Instant,
        now_ms: u64,
    ) -> Ask<W> {
        if let Some(known) = self.known.get(key)
            && now < known.usable_until
            && known.record.is_valid_at(now_ms)
        {
            return Ask::Known(waiter, Box::new(known.record.clone()));
        }
        self.ask_anew(peer, waiter, now)
    }

    /// As [`Self::ask`], whatever is known: never gives `Known`.
    pub(crate) fn ask_anew(&mut self, peer: PeerId, waiter: W, now: Instant) -> Ask<W> {
        if self.waiting >= self.max_waiting {
            return Ask::Refused(waiter);
        }
        if let Some(asked) = self.asked.get_mut(&peer) {
            self.waiting += 1;
            asked.waiters.push(waiter);
            return Ask::Joined;
        }
        if self.asked.len() >= self.max_lookups {
            return Ask::Refused(waiter);
        }
        self.waiting += 1;
        let deadline = now + self.timeout;
        self.asked.insert(peer, Asked { deadline, located: false, waiters: vec![waiter] });
        Ask::Start
    }

    /// The sequence number of the newest record known of a key.
    pub(crate) fn seen(&self, key: &OverlayKey) -> Option<u64> {
        self.peek(key).map(|record| record.sequence)
    }

    /// The roles in a record known of a key, valid or not.
    pub(crate) fn peek(&self, key: &OverlayKey) -> Option<&ServiceRecord> {
        self.known.peek(key).map(|known| &known.record)
    }

    /// A verified record has come: keeps it and gives back who waited for it.
    ///
    /// One without shard addresses does not answer for long: its peer may just not know yet where it is
    /// reached.
    pub(crate) fn learned(&mut self, peer: &PeerId, record: ServiceRecord, now: Instant) -> Vec<W> {
        let age = match record.shard_addrs.is_empty() {
            true => self.max_age_without_address,
            false => self.max_age,
        };
        self.known.push(record.key, Known { record, usable_until: now + age });
        self.failed(peer)
    }

    /// What is known of a peer may be no longer so: whoever wants its record next has it asked.
    pub(crate) fn doubt(&mut self, key: &OverlayKey, now: Instant) {
        if let Some(known) = self.known.peek_mut(key) {
            known.usable_until = known.usable_until.min(now);
        }
    }

    /// The peer has no (acceptable) record: gives back who waited for it.
    pub(crate) fn failed(&mut self, peer: &PeerId) -> Vec<W> {
        let waiters = self.asked.remove(peer).map(|asked| asked.waiters).unwrap_or_default();
        self.waiting -= waiters.len();
        waiters
    }

    /// The peer could not be dialled.
    pub(crate) fn unreachable(&mut self, peer: &PeerId) -> Unreachable<W> {
        match self.asked.get_mut(peer) {
            Some(asked) if !asked.located => {
                asked.located = true;
                Unreachable::Locate
            }
            _ => Unreachable::GiveUp(self.failed(peer)),
        }
    }

    /// Whether anybody waits for the peer's record.
    pub(crate) fn is_asked(&self, peer: &PeerId) -> bool {
        self.asked.contains_key(peer)
    }

    /// Callers whose time is over.
    pub(crate) fn overdue(&mut self, now: Instant) -> Vec<W> {
        let peers: Vec<PeerId> =
            self.asked.iter().filter(|(_, a)| a.deadline <= now).map(|(peer, _)| *peer).collect();
        peers.iter().flat_map(|peer| self.failed(peer)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        identity::peer_id_of,
        peers::{Roles, Validity},
    };

    const NOW: u64 = 1_000_000;

    fn lookups() -> Lookups<u32> {
        Lookups::new(&Config {
            service_cache: 2,
            max_service_lookups: 2,
            max_service_waiting: 3,
            ..Config::default()
        })
    }

    fn key(n: u8) -> OverlayKey {
        [n; 32]
    }

    fn peer(n: u8) -> PeerId {
        peer_id_of(&key(n)).unwrap()
    }

    fn record(n: u8) -> ServiceRecord {
        ServiceRecord {
            key: key(n),
            sequence: u64::from(n),
            validity: Validity { issued_ms: NOW, expires_ms: NOW + 100 },
            roles: Roles::default(),
            region: None,
            shard_addrs: vec!["/ip4/8.8.8.8/udp/1/quic-v1".parse().unwrap()],
            certificate_hashes: vec![],
            load: 0,
        }
    }

    #[test]
    fn one_request_answers_all_and_the_next_needs_none() {
        let now = Instant::now();
        let mut lookups = lookups();
        assert_eq!(lookups.ask(peer(1), &key(1), 10, now, NOW), Ask::Start);
        assert_eq!(lookups.ask(peer(1), &key(1), 11, now, NOW), Ask::Joined);
        assert_eq!(lookups.learned(&peer(1), record(1), now), [10, 11]);
        assert_eq!(
            lookups.ask(peer(1), &key(1), 12, now, NOW + 99),
            Ask::Known(12, Box::new(record(1)))
        );
        assert_eq!(lookups.ask(peer(1), &key(1), 13, now, NOW + 100), Ask::Start, "expired");
        assert_eq!(lookups.seen(&key(1)), Some(1));
    }

    #[test]
    fn an_old_record_or_one_without_addresses_is_asked_for_again() {
        let now = Instant::now();
        let mut lookups = lookups();
        let age = Config::default().service_max_age;
        lookups.learned(&peer(1), record(1), now);
        let known = |n| Ask::Known(n, Box::new(record(1)));
        let young = now + age - Duration::from_millis(1);
        assert_eq!(lookups.ask(peer(1), &key(1), 1, young, NOW), known(1));
        assert_eq!(lookups.ask(peer(1), &key(1), 2, now + age, NOW), Ask::Start);
        assert_eq!(lookups.learned(&peer(1), record(1), now + age), [2]);
        assert_eq!(lookups.ask(peer(1), &key(1), 3, now + age, NOW), known(3));

        let nowhere = ServiceRecord { shard_addrs: vec![], sequence: 7, ..record(1) };
        let then = now + age;
        lookups.learned(&peer(1), nowhere.clone(), then);
        let short = Config::default().service_max_age_without_address;
        assert!(short < age);
        let known = Ask::Known(5, Box::new(nowhere));
        assert_eq!(lookups.ask(peer(1), &key(1), 5, then, NOW), known);
        assert_eq!(lookups.ask(peer(1), &key(1), 4, then + short, NOW), Ask::Start);
        assert_eq!(lookups.seen(&key(1)), Some(7), "what was told before is not believed again");
    }

    #[test]
    fn whoever_wants_it_fresh_has_the_peer_asked_whatever_is_known() {
        let now = Instant::now();
        let mut lookups = lookups();
        lookups.learned(&peer(1), record(1), now);
        assert_eq!(lookups.ask_anew(peer(1), 1, now), Ask::Start);
        assert_eq!(lookups.ask_anew(peer(1), 2, now), Ask::Joined);
        let known = Ask::Known(3, Box::new(record(1)));
        assert_eq!(lookups.ask(peer(1), &key(1), 3, now, NOW), known, "others need not wait");
        assert_eq!(lookups.learned(&peer(1), record(1), now), [1, 2]);
    }

    #[test]
    fn bounds_refuse() {
        let now = Instant::now();
        let mut lookups = lookups();
        assert_eq!(lookups.ask(peer(1), &key(1), 1, now, NOW), Ask::Start);
        assert_eq!(lookups.ask(peer(2), &key(2), 2, now, NOW), Ask::Start);
        assert_eq!(lookups.ask(peer(3), &key(3), 3, now, NOW), Ask::Refused(3));
        assert_eq!(lookups.ask(peer(1), &key(1), 4, now, NOW), Ask::Joined);
        assert_eq!(lookups.ask(peer(1), &key(1), 5, now, NOW), Ask::Refused(5));
        assert_eq!(lookups.failed(&peer(2)), [2]);
        assert_eq!(lookups.ask(peer(3), &key(3), 6, now, NOW), Ask::Start);
        for n in 1..=3 {
            lookups.learned(&peer(n), record(n), now);
        }
        assert_eq!(lookups.seen(&key(1)), None, "the cache holds two");
        assert_eq!(lookups.waiting, 0);
    }

    #[test]
    fn a_peer_is_located_once() {
        let now = Instant::now();
        let mut lookups = lookups();
        lookups.ask(peer(1), &key(1), 1, now, NOW);
        assert_eq!(lookups.unreachable(&peer(1)), Unreachable::Locate);
        assert_eq!(lookups.unreachable(&peer(1)), Unreachable::GiveUp(vec![1]));
        assert_eq!(lookups.unreachable(&peer(1)), Unreachable::GiveUp(vec![]));
    }

    #[test]
    fn nobody_waits_for_ever() {
        let now = Instant::now();
        let mut lookups = lookups();
        lookups.ask(peer(1), &key(1), 1, now, NOW);
        let later = now + Config::default().service_timeout;
        lookups.ask(peer(2), &key(2), 2, later, NOW);
        assert_eq!(lookups.overdue(later), [1]);
        assert!(!lookups.is_asked(&peer(1)) && lookups.is_asked(&peer(2)));
    }
}
