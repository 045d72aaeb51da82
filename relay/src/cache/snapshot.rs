//! What the index knew, kept on disk so that the next start need not look at every file.
//!
//! The folder is the truth: a blob that is in the snapshot and not in the folder is not held, one that
//! is only in the folder is looked at. The snapshot saves time, and the order in which blobs go and how
//! often they were asked for; one that is damaged in any way is thrown away whole.

use super::{
    index::Index,
    policy::{Entry, Why},
};
use crate::{content::BlobId, store::Listed};
use std::{
    collections::{HashMap, HashSet},
    time::{SystemTime, UNIX_EPOCH},
};

/// The file's name in the cache's folder.
pub(super) const FILE: &str = "index";

const MAGIC: &[u8; 8] = b"nsnidx\x00\x01";
const HASH_LEN: usize = 32;
/// Id, length, when it came, whether it is hot, how often it was asked for.
const RECORD: usize = 32 + 4 + 4 + 1 + 1;

/// What was known of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Remembered {
    pub(super) len: u32,
    since: u32,
    hot: bool,
    frequency: u8,
    /// Its place in the order in which blobs go.
    place: u32,
}

/// Bytes of the longest snapshot of `entries` blobs: 42 MB for a million.
pub(super) fn max_len(entries: usize) -> u64 {
    let len = entries.saturating_mul(RECORD).saturating_add(MAGIC.len() + HASH_LEN);
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// Writes an index down. At a million entries it takes about 0.2 s, in which the index waits.
pub(super) fn encode(index: &Index) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MAGIC.len() + index.len() * RECORD + HASH_LEN);
    bytes.extend_from_slice(MAGIC);
    index.visit(&mut |id, entry, hot, frequency| {
        bytes.extend_from_slice(&id.0);
        bytes.extend_from_slice(&entry.len.to_le_bytes());
        bytes.extend_from_slice(&entry.since.to_le_bytes());
        bytes.extend_from_slice(&[u8::from(hot), frequency]);
    });
    bytes
}

/// Makes what [`encode`] wrote safe against damage. Apart from it, since it needs no index.
pub(super) fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    let hash = blake3::hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    bytes
}

/// Reads a snapshot; `None` if it is not one, or not as it was written.
pub(super) fn decode(bytes: &[u8]) -> Option<HashMap<BlobId, Remembered>> {
    let (bytes, hash) = bytes.split_at_checked(bytes.len().checked_sub(HASH_LEN)?)?;
    if blake3::hash(bytes) != blake3::Hash::from_bytes(hash.try_into().ok()?) {
        return None;
    }
    let records = bytes.strip_prefix(MAGIC)?;
    let mut remembered = HashMap::with_capacity(records.len() / RECORD);
    for (place, record) in (0..).zip(records.chunks(RECORD)) {
        let (id, rest) = record.split_first_chunk::<32>()?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let (since, rest) = rest.split_first_chunk::<4>()?;
        let [hot, frequency] = *rest else { return None };
        let len = u32::from_le_bytes(*len);
        let since = u32::from_le_bytes(*since);
        let record = Remembered { len, since, hot: hot == 1, frequency, place };
        remembered.insert(BlobId(*id), record);
    }
    Some(remembered)
}

/// A blob that is to be held from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Restored {
    pub(super) id: BlobId,
    pub(super) entry: Entry,
    pub(super) hot: bool,
    pub(super) frequency: u8,
}

/// The blobs of the folder in the order in which they go: those that were remembered as used once,
/// those that were not remembered (they came later) by when they were used, those that were used again,
/// those that are pinned.
pub(super) fn order(
    found: Vec<Listed>,
    remembered: &HashMap<BlobId, Remembered>,
    pins: &HashSet<BlobId>,
) -> Vec<Restored> {
    let class = |id: &BlobId, class: u8| if pins.contains(id) { 3 } else { class };
    let mut order: Vec<_> = found
        .into_iter()
        .map(|file| match remembered.get(&file.id) {
            Some(known) => {
                let class = class(&file.id, if known.hot { 2 } else { 0 });
                let (since, frequency) = (known.since, known.frequency);
                let entry = Entry { len: file.len, since, told: None, why: Why::Found };
                let restored = Restored { id: file.id, entry, hot: known.hot, frequency };
                ((class, u64::from(known.place)), restored)
            }
            None => {
                let used = file.used.unwrap_or(UNIX_EPOCH);
                let entry =
                    Entry { len: file.len, since: seconds(used), told: None, why: Why::Found };
                let restored = Restored { id: file.id, entry, hot: false, frequency: 0 };
                ((class(&file.id, 1), millis(used)), restored)
            }
        })
        .collect();
    order.sort_unstable_by_key(|(place, restored)| (*place, restored.id));
    order.into_iter().map(|(_, restored)| restored).collect()
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A time in seconds since 1970, as entries have it. Good until 2106.
pub(super) fn seconds(time: SystemTime) -> u32 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Bounds, PolicyKind};
    use proptest::prelude::*;
    use std::time::Duration;

    fn id(n: u8) -> BlobId {
        BlobId([n; 32])
    }

    fn index() -> Index {
        let bounds = Bounds { capacity: 1000, entries: 100, pinned: 100, ttl: 0 };
        let mut index = Index::new(bounds, PolicyKind::Frequency);
        for n in 0..6 {
            index.ask(id(n));
            index.reserve(id(n), 10, 77).unwrap();
            index.commit(id(n), 10, 77, false);
        }
        index.touch(id(0), 78);
        index
    }

    #[test]
    fn order_use_and_age_come_back() {
        let remembered = decode(&seal(encode(&index()))).unwrap();
        let found = [0, 2, 3, 4, 5].map(|n| Listed { id: id(n), len: 10, used: None });
        let order = order(found.into(), &remembered, &HashSet::new());
        assert_eq!(order.iter().map(|one| one.id).collect::<Vec<_>>(), [2, 3, 4, 5, 0].map(id));
        let last = order.last().unwrap();
        assert_eq!((last.hot, last.frequency, last.entry.since), (true, 2, 77));
    }

    #[test]
    fn what_came_after_the_snapshot_goes_after_what_was_used_once_and_by_its_time() {
        let remembered = decode(&seal(encode(&index()))).unwrap();
        let at = |seconds| Some(UNIX_EPOCH + Duration::from_secs(seconds));
        let found = vec![
            Listed { id: id(8), len: 5, used: at(200) },
            Listed { id: id(0), len: 10, used: None },
            Listed { id: id(9), len: 5, used: at(100) },
            Listed { id: id(1), len: 10, used: None },
        ];
        let ids = |order: Vec<Restored>| order.into_iter().map(|one| one.id).collect::<Vec<_>>();
        let by_use = order(found.clone(), &remembered, &HashSet::new());
        assert_eq!(by_use[1].entry.since, 100);
        assert_eq!(ids(by_use), [1, 9, 8, 0].map(id));
        let pins = [id(9), id(7)].into();
        assert_eq!(ids(order(found, &remembered, &pins)), [1, 8, 0, 9].map(id));
    }

    #[test]
    fn a_snapshot_is_as_long_as_it_may_be_at_most() {
        assert_eq!(u64::try_from(seal(encode(&index())).len()).unwrap(), max_len(6));
    }

    proptest! {
        #[test]
        fn a_damaged_snapshot_is_thrown_away(at: prop::sample::Index, bit in 0u8..8, cut: bool) {
            let mut bytes = seal(encode(&index()));
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
            prop_assert!(decode(&bytes).is_none());
        }

        #[test]
        fn garbage_is_no_snapshot(bytes: Vec<u8>, sealed: bool) {
            let bytes = if sealed { seal(bytes) } else { bytes };
            prop_assert!(decode(&bytes).is_none());
        }
    }
}
