use super::*;
use proptest::prelude::*;

const TTL: Duration = Duration::from_secs(100);

fn peer(n: u8) -> PeerId {
    peer_id_of(&[n; 32]).unwrap()
}

fn limits() -> Limits {
    Limits { per_key: 3, per_provider: 4, providers: 5, total: 10, ..Limits::default() }
}

fn store(now: Instant) -> Store {
    Store::new(peer(0), limits(), AddressPolicy::Global, TTL, now)
}

fn key(n: u32) -> RecordKey {
    Key::test(n).record_key()
}

/// Whether the indexes agree and the bounds hold.
fn check(store: &Store) {
    let mut records = 0;
    for (_, provider) in store.providers.iter() {
        assert!(provider.count() > 0, "a provider without a record is none");
        records += provider.count() as usize;
    }
    assert_eq!(records, store.len());
    store.records.check(&store.providers.iter().map(|(n, p)| (n, p.records)).collect());
    let limits = &store.limits;
    assert!(store.len() <= limits.total && store.providers.len() <= limits.providers);
    for id in store.records.ids() {
        let key = *store.records.get(id).unwrap().key();
        assert!(store.records.of_key(&key).count() <= limits.per_key);
    }
    let counts = store.providers.iter().map(|(_, p)| p.count() as usize);
    assert!(counts.max().unwrap_or_default() <= limits.per_provider);
}

fn providers(store: &Store, n: u32, now: Instant) -> Vec<PeerId> {
    store.providers_at(&Key::test(n), now).into_iter().map(|r| r.provider).collect()
}

#[test]
fn records_live_as_long_as_they_should() {
    let now = Instant::now();
    let mut store = store(now);
    store.add(&key(1), &peer(1), &[], Rank::Unbound, now).unwrap();
    store.add(&key(1), &peer(2), &[], Rank::Unbound, now + TTL / 2).unwrap();
    assert_eq!(providers(&store, 1, now), [peer(2), peer(1)], "the newest first");
    assert_eq!(providers(&store, 1, now + TTL), [peer(2)]);
    assert_eq!(store.expire(now + TTL, 100), 1);
    assert_eq!(store.len(), 1);
    store.add(&key(1), &peer(2), &[], Rank::Unbound, now + TTL).unwrap();
    assert_eq!(store.expire(now + TTL + TTL / 2, 100), 0, "renewed");
    assert_eq!(store.expire(now + TTL + TTL, 100), 1);
    assert!(store.is_empty() && store.providers.len() == 0);
    check(&store);
}

#[test]
fn expiry_is_done_in_portions() {
    let now = Instant::now();
    let mut store = store(now);
    for n in 0..4 {
        store.add(&key(n), &peer(1), &[], Rank::Unbound, now).unwrap();
    }
    assert_eq!(store.expire(now + TTL, 3), 3);
    assert_eq!(store.expire(now + TTL, 3), 1);
}

#[test]
fn each_bound_refuses_with_its_reason() {
    let now = Instant::now();
    let mut store = store(now);
    for n in 1..=3 {
        store.add(&key(1), &peer(n), &[], Rank::Unbound, now).unwrap();
    }
    assert_eq!(store.add(&key(1), &peer(4), &[], Rank::Unbound, now), Err(Refused::PerKey));
    assert_eq!(
        store.add(&key(1), &peer(3), &[], Rank::Unbound, now),
        Ok(()),
        "renewal is not refused"
    );
    for n in 2..=4 {
        store.add(&key(n), &peer(1), &[], Rank::Unbound, now).unwrap();
    }
    assert_eq!(store.add(&key(5), &peer(1), &[], Rank::Unbound, now), Err(Refused::PerProvider));
    for n in 4..=5 {
        store.add(&key(u32::from(n) + 20), &peer(n), &[], Rank::Unbound, now).unwrap();
    }
    assert_eq!(store.add(&key(30), &peer(6), &[], Rank::Unbound, now), Err(Refused::Providers));
    store.add(&key(31), &peer(5), &[], Rank::Unbound, now).unwrap();
    store.add(&key(32), &peer(5), &[], Rank::Unbound, now).unwrap();
    assert_eq!(store.len(), 10);
    assert_eq!(store.add(&key(33), &peer(5), &[], Rank::Unbound, now), Err(Refused::Total));
    let short = RecordKey::new(&[1u8, 2, 3]);
    assert_eq!(store.add(&short, &peer(1), &[], Rank::Unbound, now), Err(Refused::KeySize));
    let multihash = libp2p::multihash::Multihash::wrap(0x12, &[1; 32]).unwrap();
    let rsa = PeerId::from_multihash(multihash).unwrap();
    assert_eq!(store.add(&key(1), &rsa, &[], Rank::Unbound, now), Err(Refused::ProviderKeyType));
}

#[test]
fn a_flood_does_not_touch_what_the_node_itself_provides() {
    let now = Instant::now();
    let mut store = store(now);
    store.provide(Key::test(1));
    for n in 0..200u8 {
        let _ = store.add(&key(u32::from(n) % 7), &peer(n.max(1)), &[], Rank::Unbound, now);
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
    let mut store = store(now);
    let addrs = |list: &[&str]| list.iter().map(|a| a.parse().unwrap()).collect::<Vec<_>>();
    let kept = |store: &Store| store.providers_at(&Key::test(1), now)[0].addresses.clone();
    let sent = addrs(&[
        "/ip4/127.0.0.1/tcp/1",
        "/ip4/8.8.8.8/tcp/1",
        "/ip4/8.8.8.8/tcp/2",
        "/ip4/8.8.8.8/tcp/3",
    ]);
    store.add(&key(1), &peer(1), &sent, Rank::Unbound, now).unwrap();
    assert_eq!(kept(&store), addrs(&["/ip4/8.8.8.8/tcp/1", "/ip4/8.8.8.8/tcp/2"]));
    store.add(&key(2), &peer(1), &addrs(&["/ip4/9.9.9.9/tcp/1"]), Rank::Unbound, now).unwrap();
    assert_eq!(kept(&store), addrs(&["/ip4/9.9.9.9/tcp/1"]));
}

#[test]
fn the_answer_for_a_full_key_is_one_kad_reads() {
    let now = Instant::now();
    let mut store = Store::new(peer(0), Limits::default(), AddressPolicy::Global, TTL, now);
    let long = |host: usize, port: u16| -> Multiaddr {
        format!("/dns/{}/tcp/{port}", "a".repeat(host)).parse().unwrap()
    };
    // Two bytes each for the name's protocol and length, three for TCP and its port.
    let (longest, too_long) = (MAX_ADDRESS_BYTES - 5, MAX_ADDRESS_BYTES - 4);
    let sent: Vec<_> =
        (1..9).flat_map(|port| [long(too_long, port), long(longest, port)]).collect();
    assert_eq!((sent[0].len(), sent[1].len()), (MAX_ADDRESS_BYTES + 1, MAX_ADDRESS_BYTES));
    for n in 1..=40 {
        let _ = store.add(&key(1), &peer(n), &sent, Rank::Unbound, now);
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

#[test]
fn whoever_placed_a_record_can_ask_whether_it_is_held() {
    let now = Instant::now();
    let mut store = store(now);
    let key = Key::test(1);
    store.add(&key.record_key(), &peer(1), &[], Rank::Unbound, now).unwrap();
    let held = |n: u8| {
        let name = RecordKey::new(&key.held_by(&[n; 32]));
        store.get(&name).map(|record| record.into_owned().expires)
    };
    assert_eq!(held(1), Some(Some(now + TTL)));
    assert_eq!(held(2), None);
    assert!(store.get(&key.record_key()).is_none(), "a key alone names no record");
}

#[test]
fn one_who_is_bound_takes_the_place_of_one_who_is_not() {
    let now = Instant::now();
    let mut store = store(now);
    for n in 1..=3 {
        store.add(&key(1), &peer(n), &[], Rank::Unbound, now).unwrap();
    }
    store.add(&key(1), &peer(4), &[], Rank::Bound, now).unwrap();
    assert_eq!(providers(&store, 1, now).len(), 3);
    assert!(!providers(&store, 1, now).contains(&peer(1)), "the oldest of the unbound");
    // Five providers are known at most.
    for n in 5..=6 {
        store.add(&key(n.into()), &peer(n), &[], Rank::Bound, now).unwrap();
    }
    assert_eq!(store.add(&key(9), &peer(7), &[], Rank::Unbound, now), Err(Refused::Providers));
    store.add(&key(9), &peer(8), &[], Rank::Bound, now).unwrap();
    assert_eq!(store.providers.len(), 5);
    for n in 20..40 {
        let _ = store.add(&key(n), &peer(4), &[], Rank::Bound, now);
        let _ = store.add(&key(n), &peer(5), &[], Rank::Bound, now);
    }
    assert_eq!(store.len(), 10);
    let left = store.take_left();
    assert_eq!((left.for_key, left.for_provider), (1, 1));
    assert!(providers(&store, 6, now) == [peer(6)], "of the bound, who holds least keeps it");
    check(&store);
}

#[test]
fn when_all_is_full_who_holds_most_gives_way_and_nobody_takes_turns() {
    let now = Instant::now();
    let mut store = Store::new(
        peer(0),
        Limits { per_provider: 100, ..limits() },
        AddressPolicy::Global,
        TTL,
        now,
    );
    for n in 0..10 {
        store.add(&key(n), &peer(1), &[], Rank::Unbound, now).unwrap();
    }
    assert_eq!(store.add(&key(99), &peer(1), &[], Rank::Unbound, now), Err(Refused::Total));
    let mut refused = 0;
    for n in 100..200 {
        refused += usize::from(
            store.add(&key(n), &peer(2), &[], Rank::Unbound, now) == Err(Refused::Total),
        );
    }
    assert_eq!(refused, 95, "each has five");
    for n in 200..300 {
        let _ = store.add(&key(n), &peer(3), &[], Rank::Bound, now);
    }
    let held = |store: &Store, n| {
        store.providers.number(&[n; 32]).and_then(|n| store.providers.get(n)).map(|p| p.count())
    };
    assert_eq!((held(&store, 1), held(&store, 2), held(&store, 3)), (None, None, Some(10)));
    assert_eq!(store.take_left().for_total, 5 + 10, "its own it does not displace");
    check(&store);
}

#[test]
fn records_of_one_who_is_graylisted_are_not_told_and_leave_in_portions() {
    let now = Instant::now();
    let mut store = store(now);
    for n in 0..4 {
        store.add(&key(n), &peer(1), &[], Rank::Bound, now).unwrap();
    }
    store.add(&key(0), &peer(2), &[], Rank::Unbound, now).unwrap();
    store.on_reputation(|key| if *key == [1; 32] { Rank::Graylisted } else { Rank::Unbound });
    assert_eq!(providers(&store, 0, now), [peer(2)]);
    let again = store.add(&key(5), &peer(1), &[], Rank::Graylisted, now);
    assert_eq!(again, Err(Refused::Graylisted));
    assert_eq!((store.expire(now, 3), store.expire(now, 3), store.len()), (3, 1, 1));
    assert_eq!(store.take_left().graylisted, 4);
}

#[test]
fn who_sends_too_fast_is_refused_before_anything_is_looked_at() {
    let now = Instant::now();
    let limits = Limits { burst: 2, rate: 1, ..limits() };
    let mut store = Store::new(peer(0), limits, AddressPolicy::Global, TTL, now);
    let short = RecordKey::new(&[1u8]);
    let add = |store: &mut Store, now| store.add(&short, &peer(1), &[], Rank::Unbound, now);
    assert_eq!(add(&mut store, now), Err(Refused::KeySize));
    assert_eq!(add(&mut store, now), Err(Refused::KeySize));
    assert_eq!(add(&mut store, now), Err(Refused::Rate));
    assert_eq!(add(&mut store, now + Duration::from_secs(1)), Err(Refused::KeySize));
}

#[test]
fn a_record_takes_less_than_150_bytes() {
    let now = Instant::now();
    let limits = Limits { bound_burst: 1_000_000, ..Limits::default() };
    let mut store = Store::new(peer(0), limits, AddressPolicy::Global, TTL, now);
    for n in 0..200_000u32 {
        let mut name = [0; 32];
        name[..4].copy_from_slice(&n.to_le_bytes());
        let provider = peer(if n < 100_000 { 1 } else { 2 });
        store.add(&RecordKey::new(&name), &provider, &[], Rank::Bound, now).unwrap();
    }
    let each = store.records.heap() / store.len();
    assert!(each < 150, "{each}");
}

/// All changes, as they would be written.
fn changes(store: &mut Store, now: Instant, now_ms: u64) -> Batch {
    let mut batch = Batch::default();
    store.take_changes(&mut batch, now, now_ms);
    batch
}

fn kept(records: &[(u32, u8, u64)]) -> Kept {
    let record = |(n, p, expires_ms): &(u32, u8, u64)| KeptRecord {
        key: Key::test(*n),
        provider: [*p; 32],
        expires_ms: *expires_ms,
    };
    Kept { records: records.iter().map(record).collect(), ..Kept::default() }
}

const NOW_MS: u64 = 1_000_000_000;

#[test]
fn what_was_kept_lives_on_for_the_time_it_had_left() {
    let now = Instant::now();
    let mut store = store(now);
    let address: Multiaddr = "/ip4/8.8.8.8/tcp/1".parse().unwrap();
    let private: Multiaddr = "/ip4/10.0.0.1/tcp/1".parse().unwrap();
    let mut kept = kept(&[(1, 1, NOW_MS + 50_000), (1, 2, NOW_MS + 20_000)]);
    kept.providers = vec![([1; 32], vec![private, address.clone()])];
    let restored = store.restore(&mut kept, |_| Rank::Unbound, now, NOW_MS);
    assert_eq!(restored, Restored { taken: 2, ..Restored::default() });
    assert!(changes(&mut store, now, NOW_MS).is_empty(), "it is on disk as it is");
    let later = now + Duration::from_secs(20);
    let live = store.providers_at(&Key::test(1), later);
    assert_eq!(live.len(), 1);
    assert_eq!((live[0].provider, &live[0].addresses), (peer(1), &vec![address]));
    assert_eq!(store.expire(later, 10), 1);
    assert_eq!(changes(&mut store, later, NOW_MS).removed, [(Key::test(1), [2; 32])]);
    check(&store);
}

#[test]
fn a_clock_that_was_set_back_lets_no_record_live_longer_than_any_may() {
    let now = Instant::now();
    let mut store = store(now);
    let mut kept = kept(&[(1, 1, u64::MAX), (2, 1, NOW_MS + 101_000), (3, 1, NOW_MS + 100_000)]);
    let restored = store.restore(&mut kept, |_| Rank::Unbound, now, NOW_MS);
    assert_eq!(restored, Restored { taken: 3, clamped: 2, refused: 0 });
    let written = changes(&mut store, now, NOW_MS).records;
    assert_eq!(written.len(), 2, "or they would be as long-lived after the next start");
    assert!(written.iter().all(|record| record.expires_ms == NOW_MS + 100_000));
    assert_eq!(store.expire(now + TTL, 10), 3);
}

#[test]
fn what_was_kept_is_judged_as_if_it_came_now() {
    let now = Instant::now();
    let mut store = store(now);
    let rows: Vec<_> = (0..8).map(|n| (n, if n < 6 { 1 } else { 2 }, NOW_MS + 50_000)).collect();
    let mut kept = kept(&[&rows[..], &[(9, 0, NOW_MS + 50_000), (9, 3, NOW_MS + 50_000)]].concat());
    let rank = |key: &OverlayKey| if *key == [3; 32] { Rank::Graylisted } else { Rank::Bound };
    let restored = store.restore(&mut kept, rank, now, NOW_MS);
    // Of the first there are four at most; one is this node's own, one graylisted.
    assert_eq!(restored, Restored { taken: 6, clamped: 0, refused: 4 });
    assert_eq!(changes(&mut store, now, NOW_MS).removed.len(), 4);
}

#[test]
fn a_batch_has_each_record_once_and_when_it_expires() {
    let now = Instant::now();
    let mut store = store(now);
    store.restore(&mut Kept::default(), |_| Rank::Unbound, now, NOW_MS);
    for _ in 0..5 {
        store.add(&key(1), &peer(1), &[], Rank::Unbound, now).unwrap();
    }
    store.add(&key(2), &peer(2), &[], Rank::Unbound, now).unwrap();
    store.remove_provider(&key(2), &peer(2));
    let batch = changes(&mut store, now + TTL / 2, NOW_MS);
    let record = KeptRecord { key: Key::test(1), provider: [1; 32], expires_ms: NOW_MS + 50_000 };
    assert_eq!(batch.records, [record]);
    assert_eq!(batch.removed, [(Key::test(2), [2; 32])]);
    assert_eq!(batch.providers, [([2; 32], None)]);
    assert!(changes(&mut store, now, NOW_MS).is_empty());
}

#[test]
fn when_more_has_left_than_is_remembered_everything_is_written_anew() {
    let now = Instant::now();
    let limits = Limits { bound_burst: 1_000_000, ..Limits::default() };
    let mut store = Store::new(peer(0), limits, AddressPolicy::Global, TTL, now);
    store.restore(&mut Kept::default(), |_| Rank::Unbound, now, NOW_MS);
    for n in 0..20_000 {
        store.add(&key(n), &peer(1), &[], Rank::Bound, now).unwrap();
    }
    store.add(&key(1), &peer(2), &[], Rank::Bound, now + TTL / 2).unwrap();
    changes(&mut store, now, NOW_MS);
    assert_eq!(store.expire(now + TTL, usize::MAX), 20_000);
    let batch = changes(&mut store, now + TTL, NOW_MS);
    assert!(batch.rewrite && batch.removed.is_empty());
    assert_eq!(batch.records.len(), 1);
    assert!(changes(&mut store, now, NOW_MS).is_empty());
}

proptest! {
    /// Whatever is added and dropped, by whomever: the bounds hold, the indexes agree, nobody who is
    /// bound loses a record to one who is not, and what was written is what is held.
    #[test]
    fn bounds_hold(
        ops in proptest::collection::vec((0u8..8, 0u32..8, 0u16..60, 0u8..7, any::<bool>()), 0..300),
    ) {
        let mut now = Instant::now();
        let began = now;
        let mut store = store(now);
        store.restore(&mut Kept::default(), |_| Rank::Unbound, now, NOW_MS);
        let mut disk: std::collections::HashMap<(Key, OverlayKey), u64> = Default::default();
        for (p, k, wait, what, bound) in ops {
            now += Duration::from_secs(wait.into());
            let of_bound = |store: &Store| -> u32 {
                let bound = store.providers.iter().filter(|(_, p)| p.rank() == Rank::Bound);
                bound.map(|(_, p)| p.count()).sum()
            };
            let before = of_bound(&store);
            // The upper half of the peers may be bound.
            let rank = if bound && p > 3 { Rank::Bound } else { Rank::Unbound };
            match what {
                0 => { store.expire(now, 3); }
                1 => store.remove_provider(&key(k), &peer(p)),
                2 => {
                    let now_ms = NOW_MS + u64::try_from((now - began).as_millis()).unwrap();
                    let batch = changes(&mut store, now, now_ms);
                    for name in &batch.removed {
                        disk.remove(name);
                    }
                    for record in &batch.records {
                        disk.insert((record.key, record.provider), record.expires_ms);
                    }
                }
                _ => {
                    let known = store.providers.number(&[p.max(1); 32]).is_some();
                    let _ = store.add(&key(k), &peer(p.max(1)), &[], rank, now);
                    if rank == Rank::Unbound && !known {
                        prop_assert!(of_bound(&store) >= before);
                    }
                }
            }
            check(&store);
        }
        store.expire(now, usize::MAX);
        let batch = changes(&mut store, now, NOW_MS + u64::try_from((now - began).as_millis()).unwrap());
        for name in &batch.removed {
            disk.remove(name);
        }
        for record in &batch.records {
            disk.insert((record.key, record.provider), record.expires_ms);
        }
        prop_assert_eq!(disk.len(), store.len());
        for id in store.records.ids() {
            let slot = store.records.get(id).unwrap();
            let provider = store.providers.get(slot.provider()).unwrap().key;
            let expires = NOW_MS + u64::from(slot.expires()) * 100;
            let written = disk[&(*slot.key(), provider)];
            prop_assert!(written.abs_diff(expires) <= 100, "{} {}", written, expires);
        }
    }
}
