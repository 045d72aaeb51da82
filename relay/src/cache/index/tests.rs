use super::*;
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};

const BOUNDS: Bounds = Bounds { capacity: 30, entries: 100, pinned: 20, ttl: 0 };

fn id(n: u8) -> BlobId {
    BlobId([n; 32])
}

fn lru(bounds: Bounds) -> Index {
    Index::new(bounds, PolicyKind::Lru)
}

fn admit(index: &mut Index, n: u8, len: u32) -> Result<Vec<BlobId>, Refused> {
    index.ask(id(n));
    let victims = index.reserve(id(n), len, 0)?;
    index.commit(id(n), len, 0, !victims.is_empty());
    Ok(victims)
}

#[test]
fn the_least_recently_used_goes_first() {
    let mut index = lru(BOUNDS);
    for n in 1..=3 {
        assert_eq!(admit(&mut index, n, 10), Ok(vec![]));
    }
    assert_eq!(index.touch(id(1), 0), Use::Held(10));
    assert_eq!(index.len_of(id(2)), Some(10));
    assert_eq!(admit(&mut index, 4, 15), Ok(vec![id(2), id(3)]));
    assert_eq!(index.bytes(), 25);
    assert_eq!(index.last(id(2)), Some((Event::EvictedFor(id(4)), 0)));
}

#[test]
fn what_is_larger_than_the_cache_is_not_admitted_and_evicts_nothing() {
    for policy in [PolicyKind::Lru, PolicyKind::Frequency] {
        let mut index = Index::new(BOUNDS, policy);
        admit(&mut index, 1, 10).unwrap();
        assert_eq!(index.reserve(id(2), 31, 7), Err(Refused::NoRoom));
        assert_eq!(index.len_of(id(1)), Some(10));
        assert_eq!(index.last(id(2)), Some((Event::NoRoom, 7)));
    }
}

#[test]
fn who_was_refused_for_others_that_are_asked_for_more_is_told_so() {
    let mut index = Index::new(BOUNDS, PolicyKind::Frequency);
    admit(&mut index, 1, 30).unwrap();
    index.touch(id(1), 0);
    // The third asking outdoes the two of the other.
    for asked in 1..=2 {
        assert_eq!(index.ask(id(2)), asked);
        assert_eq!(index.reserve(id(2), 30, 5), Err(Refused::Unwanted));
        assert_eq!(index.last(id(2)), Some((Event::Unwanted, 5)));
        assert_eq!(index.len_of(id(1)), Some(30));
    }
    assert_eq!(index.ask(id(2)), 3);
    assert_eq!(index.reserve(id(2), 30, 5), Ok(vec![id(1)]));
    index.commit(id(2), 30, 5, true);
    assert_eq!(index.peek(id(2)).unwrap().entry.why, Why::Wanted);
}

#[test]
fn what_is_evicted_and_comes_again_was_never_told() {
    let mut index = lru(Bounds { capacity: 10, ..BOUNDS });
    admit(&mut index, 1, 10).unwrap();
    assert_eq!(index.told(id(1)), Some(None));
    index.set_told(id(1), NonZeroU32::MIN);
    assert_eq!(index.told(id(1)), Some(Some(NonZeroU32::MIN)));
    admit(&mut index, 2, 10).unwrap();
    assert_eq!(index.told(id(1)), None);
    index.set_told(id(1), NonZeroU32::MIN);
    admit(&mut index, 1, 10).unwrap();
    assert_eq!(index.told(id(1)), Some(None));
}

#[test]
fn entries_are_bounded_too() {
    let mut index = lru(Bounds { capacity: 1000, entries: 2, ..BOUNDS });
    admit(&mut index, 1, 1).unwrap();
    admit(&mut index, 2, 1).unwrap();
    assert_eq!(admit(&mut index, 3, 1), Ok(vec![id(1)]));
}

#[test]
fn what_was_held_for_too_long_is_not_given_out() {
    for policy in [PolicyKind::Lru, PolicyKind::Frequency] {
        let mut index = Index::new(Bounds { ttl: 60, ..BOUNDS }, policy);
        admit(&mut index, 1, 10).unwrap();
        admit(&mut index, 2, 10).unwrap();
        assert_eq!(index.touch(id(1), 59), Use::Held(10));
        assert_eq!(index.touch(id(1), 60), Use::Expired(10));
        assert_eq!(index.touch(id(1), 60), Use::Absent);
        assert_eq!((index.expire(id(2), 59), index.expire(id(2), 60)), (None, Some(10)));
        assert_eq!((index.len(), index.bytes()), (0, 0));
        assert_eq!(index.last(id(2)), Some((Event::Expired, 60)));
    }
}

#[test]
fn what_is_pinned_stays_within_its_share_and_neither_goes_nor_expires() {
    for policy in [PolicyKind::Lru, PolicyKind::Frequency] {
        let mut index = Index::new(Bounds { ttl: 60, ..BOUNDS }, policy);
        for n in 1..=3 {
            admit(&mut index, n, 10).unwrap();
        }
        assert_eq!(index.pin(id(9)), Err(PinError::NotHeld));
        assert_eq!(
            (index.pin(id(1)), index.pin(id(2)), index.pin(id(2))),
            (Ok(()), Ok(()), Ok(()))
        );
        assert_eq!(index.pin(id(3)), Err(PinError::Full));
        assert_eq!((index.bytes(), index.pinned_bytes(), index.len()), (30, 20, 3));
        // Only number 3 can go.
        assert_eq!(index.reserve(id(4), 11, 0), Err(Refused::NoRoom));
        assert_eq!(index.resize(5, 0), [id(3)]);
        assert_eq!(index.touch(id(1), 1000), Use::Held(10));
        assert!(index.unpin(id(1)) && !index.unpin(id(1)));
        assert_eq!(index.resize(10, 0), [id(1)]);
        assert_eq!((index.bytes(), index.pins()), (10, vec![id(2)]));
        assert!(index.remove(id(2)));
        assert_eq!(index.bytes(), 0);
    }
}

#[test]
fn a_pinned_blob_that_is_written_anew_stays_pinned() {
    let mut index = Index::new(BOUNDS, PolicyKind::Frequency);
    admit(&mut index, 1, 10).unwrap();
    index.pin(id(1)).unwrap();
    admit(&mut index, 1, 10).unwrap();
    assert!(index.peek(id(1)).unwrap().pinned);
    assert_eq!((index.bytes(), index.len()), (10, 1));
}

#[derive(Clone, Debug)]
enum Op {
    Admit(u8, u32),
    Fail(u8, u32),
    Touch(u8),
    Remove(u8),
    Pin(u8),
    Unpin(u8),
    Resize(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0u8..40, 1u32..40).prop_map(|(n, len)| Op::Admit(n, len)),
        1 => (0u8..40, 1u32..40).prop_map(|(n, len)| Op::Fail(n, len)),
        4 => (0u8..40).prop_map(Op::Touch),
        1 => (0u8..40).prop_map(Op::Remove),
        1 => (0u8..40).prop_map(Op::Pin),
        1 => (0u8..40).prop_map(Op::Unpin),
        1 => (0u64..150).prop_map(Op::Resize),
    ]
}

proptest! {
    #[test]
    fn it_agrees_with_a_plain_model_and_keeps_its_bounds(
        ops in prop::collection::vec(op(), 0..200),
        in_flight in 0u32..30,
        frequency: bool,
    ) {
        let policy = if frequency { PolicyKind::Frequency } else { PolicyKind::Lru };
        let bounds = Bounds { capacity: 100, entries: 8, pinned: 40, ttl: 0 };
        let mut index = Index::new(bounds, policy);
        // A write that lasts for the whole test.
        let held = u64::from(in_flight.max(1));
        index.reserve(id(200), in_flight.max(1), 0).unwrap();
        let mut model: HashMap<BlobId, u32> = HashMap::new();
        let mut pins: HashSet<BlobId> = HashSet::new();
        let mut capacity = 100;
        for op in ops {
            match op {
                Op::Admit(n, len) => if let Ok(victims) = admit(&mut index, n, len) {
                    for victim in victims {
                        prop_assert!(model.remove(&victim).is_some() && !pins.contains(&victim));
                    }
                    model.insert(id(n), len);
                },
                Op::Fail(n, len) => if let Ok(victims) = index.reserve(id(n), len, 0) {
                    for victim in victims {
                        prop_assert!(model.remove(&victim).is_some() && !pins.contains(&victim));
                    }
                    index.release(len);
                },
                Op::Touch(n) => {
                    let expected = model.get(&id(n)).map_or(Use::Absent, |len| Use::Held(*len));
                    prop_assert_eq!(index.touch(id(n), 0), expected);
                }
                Op::Remove(n) => {
                    pins.remove(&id(n));
                    prop_assert_eq!(index.remove(id(n)), model.remove(&id(n)).is_some());
                }
                Op::Pin(n) => match index.pin(id(n)) {
                    Ok(()) => {
                        prop_assert!(model.contains_key(&id(n)));
                        pins.insert(id(n));
                    }
                    Err(PinError::NotHeld) => prop_assert!(!model.contains_key(&id(n))),
                    Err(PinError::Full) => {}
                },
                Op::Unpin(n) => {
                    prop_assert_eq!(index.unpin(id(n)), pins.remove(&id(n)));
                    // What only its pin kept above a bound that was lowered goes with the next change.
                    for victim in index.resize(capacity, 0) {
                        prop_assert!(model.remove(&victim).is_some() && !pins.contains(&victim));
                    }
                }
                Op::Resize(to) => {
                    capacity = to;
                    for victim in index.resize(to, 0) {
                        prop_assert!(model.remove(&victim).is_some() && !pins.contains(&victim));
                    }
                }
            }
            let bytes: u64 = model.values().map(|len| u64::from(*len)).sum();
            let pinned: u64 = pins.iter().map(|id| u64::from(model[id])).sum();
            prop_assert_eq!((index.bytes(), index.pinned_bytes()), (bytes, pinned));
            prop_assert_eq!((index.len(), index.pins().len()), (model.len(), pins.len()));
            // Pinned blobs and the write stay when the bound is lowered under them.
            prop_assert!(bytes + held <= capacity.max(pinned + held));
            prop_assert!(index.len() <= 8);
            let mut visited = HashMap::new();
            index.visit(&mut |id, entry, _, _| { visited.insert(id, entry.len); });
            prop_assert_eq!(&visited, &model);
        }
    }
}
