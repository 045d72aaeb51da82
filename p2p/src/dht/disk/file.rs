//! The file: its tables, how it is opened and checked, and how a batch gets into it. All of this
//! blocks.

use super::{Batch, Change, Kept, KeptContact, KeptRecord};
use crate::{
    Multiaddr, OverlayKey,
    dht::{Class, Key},
};
use codec::{Decode, Encode};
use redb::{Builder, Database, ReadableDatabase, TableDefinition};
use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    path::Path,
};
use thiserror::Error;

/// Layout of the tables. A file of another one is begun anew: all of it can be learned again.
const VERSION: u32 = 1;

/// Longest file that is opened. At most 200,000 records and 110,000 provided keys take some 40 MB,
/// and redb may leave as much again unused.
const MAX_LEN: u64 = 1 << 30;

/// redb's cache of pages. What is read is read once, at start.
const CACHE: usize = 4 << 20;

/// Longest value with addresses that is decoded: sixteen at their longest.
const MAX_VALUE: usize = 16 * 1024;

const META: TableDefinition<'_, &str, u32> = TableDefinition::new("meta");
/// Key and provider, to the time the record expires.
const RECORDS: TableDefinition<'_, &[u8; 64], u64> = TableDefinition::new("records");
/// Provider, to its addresses.
const PROVIDERS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("providers");
/// Key, to its class and when it was last announced.
const PROVIDED: TableDefinition<'_, &[u8; 32], (u8, Option<u64>)> =
    TableDefinition::new("provided");
/// Peer, to when it was last heard of and its addresses.
const CONTACTS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("contacts");

/// How much is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) records: usize,
    pub(crate) providers: usize,
    pub(crate) provided: usize,
    pub(crate) contacts: usize,
}

/// Rows that were not taken over, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dropped {
    /// Of records: the time was up.
    pub(crate) expired: u64,
    /// It makes no sense.
    pub(crate) malformed: u64,
    /// There are more than may be held.
    pub(crate) surplus: u64,
}

impl Dropped {
    /// The metric labels, and how many each stands for.
    pub(crate) fn by_reason(&self) -> [(&'static str, u64); 3] {
        let Self { expired, malformed, surplus } = *self;
        [("expired", expired), ("malformed", malformed), ("surplus", surplus)]
    }
}

/// Why a file is not opened.
#[derive(Debug, Error)]
pub(super) enum OpenError {
    /// What it holds is of no use.
    #[error("{0}")]
    Unusable(String),
    /// The file may be good, but cannot be opened now.
    #[error(transparent)]
    Trouble(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for OpenError {
    fn from(error: E) -> Self {
        let error = error.into();
        let unusable = match &error {
            redb::Error::Io(error) => {
                matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
            }
            redb::Error::Corrupted(_)
            | redb::Error::UpgradeRequired(_)
            | redb::Error::RepairAborted
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TypeDefinitionChanged { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TableDoesNotExist(_) => true,
            _ => false,
        };
        if unusable { Self::Unusable(error.to_string()) } else { Self::Trouble(error) }
    }
}

/// Opens the file and checks all of it, or makes it if there is none. What it holds beyond `bounds`
/// or of no use is removed from it.
pub(super) fn open(
    path: &Path,
    bounds: Bounds,
    now_ms: u64,
) -> Result<(Database, Kept, Dropped), OpenError> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok((create(path)?, Kept::default(), Dropped::default()));
        }
        Err(error) => return Err(OpenError::Trouble(redb::Error::Io(error))),
        Ok(meta) if meta.len() == 0 => return Err(OpenError::Unusable("it is empty".to_owned())),
        Ok(meta) if meta.len() > MAX_LEN => {
            return Err(OpenError::Unusable(format!("it has {} bytes", meta.len())));
        }
        Ok(_) => {}
    }
    // Reads every page, some 50 MB at most in honest use: a page that was altered is found here and
    // not in the middle of a run.
    let db = Builder::new().set_cache_size(CACHE).set_check_integrity_on_open(true).open(path)?;
    let version = db.begin_read()?.open_table(META)?.get("version")?.map(|v| v.value());
    if version != Some(VERSION) {
        return Err(OpenError::Unusable(format!("its layout is {version:?}, not {VERSION}")));
    }
    let (kept, dropped) = read(&db, bounds, now_ms)?;
    Ok((db, kept, dropped))
}

/// Opens the file again, after a failure while it was in use.
pub(super) fn reopen(path: &Path) -> Result<Database, redb::Error> {
    Ok(Builder::new().set_cache_size(CACHE).open(path)?)
}

/// A new file with all tables. It appears under its name once it is whole.
fn create(path: &Path) -> Result<Database, redb::Error> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let temporary = path.with_extension("new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let db = Builder::new().set_cache_size(CACHE).create(&temporary)?;
    lay_out(&db)?;
    fs::rename(&temporary, path)?;
    // Makes the rename last.
    File::open(folder)?.sync_all()?;
    Ok(db)
}

/// Makes all tables.
fn lay_out(db: &Database) -> Result<(), redb::Error> {
    let write = db.begin_write()?;
    write.open_table(META)?.insert("version", VERSION)?;
    write.open_table(RECORDS)?;
    write.open_table(PROVIDERS)?;
    write.open_table(PROVIDED)?;
    write.open_table(CONTACTS)?;
    Ok(write.commit()?)
}

/// Puts a file aside that is of no use. What was put aside before is overwritten.
pub(super) fn put_aside(path: &Path) -> io::Result<()> {
    fs::rename(path, path.with_extension("bad"))
}

/// Reads everything, and removes what is not taken over.
fn read(db: &Database, bounds: Bounds, now_ms: u64) -> Result<(Kept, Dropped), redb::Error> {
    let (mut kept, mut dropped) = (Kept::default(), Dropped::default());
    let write = db.begin_write()?;
    write.open_table(RECORDS)?.retain(|name, expires_ms| {
        if expires_ms <= now_ms {
            dropped.expired += 1;
            return false;
        }
        let room = kept.records.len() < bounds.records;
        if room {
            kept.records.push(record(name, expires_ms));
        } else {
            dropped.surplus += 1;
        }
        room
    })?;
    let wanted: HashSet<OverlayKey> = kept.records.iter().map(|r| r.provider).collect();
    write.open_table(PROVIDERS)?.retain(|name, value| {
        let room = kept.providers.len() < bounds.providers;
        match addresses(value) {
            Some(addresses) if wanted.contains(name) && room => {
                kept.providers.push((*name, addresses));
                true
            }
            Some(_) => {
                dropped.surplus += 1;
                false
            }
            None => {
                dropped.malformed += 1;
                false
            }
        }
    })?;
    write.open_table(PROVIDED)?.retain(|name, (class, announced_ms)| {
        let room = kept.provided.len() < bounds.provided;
        match class_of(class) {
            Some(class) if room => {
                kept.provided.push((Key::from_bytes(*name), class, announced_ms));
                true
            }
            Some(_) => {
                dropped.surplus += 1;
                false
            }
            None => {
                dropped.malformed += 1;
                false
            }
        }
    })?;
    write.open_table(CONTACTS)?.retain(|name, value| {
        let room = kept.contacts.len() < bounds.contacts;
        match contact(name, value) {
            Some(contact) if room => {
                kept.contacts.push(contact);
                true
            }
            Some(_) => {
                dropped.surplus += 1;
                false
            }
            None => {
                dropped.malformed += 1;
                false
            }
        }
    })?;
    if dropped == Dropped::default() {
        write.abort()?;
    } else {
        write.commit()?;
    }
    Ok((kept, dropped))
}

/// Writes a batch as one transaction. How many bytes its rows have.
pub(super) fn write(db: &Database, batch: &Batch) -> Result<u64, redb::Error> {
    let mut bytes = 0;
    let write = db.begin_write()?;
    if batch.rewrite {
        write.delete_table(RECORDS)?;
    }
    {
        let mut records = write.open_table(RECORDS)?;
        for (key, provider) in &batch.removed {
            records.remove(&name(key, provider))?;
            bytes += 64;
        }
        for record in &batch.records {
            records.insert(&name(&record.key, &record.provider), record.expires_ms)?;
            bytes += 72;
        }
        let mut providers = write.open_table(PROVIDERS)?;
        for (provider, addresses) in &batch.providers {
            match addresses {
                Some(addresses) => {
                    let value = encoded(addresses).encode();
                    bytes += 32 + len(&value);
                    providers.insert(provider, value.as_slice())?;
                }
                None => {
                    providers.remove(provider)?;
                    bytes += 32;
                }
            }
        }
        let mut provided = write.open_table(PROVIDED)?;
        for change in &batch.provided {
            match change {
                Change::Put { key, class, announced_ms } => {
                    provided.insert(key.as_bytes(), (class_code(*class), *announced_ms))?;
                    bytes += 42;
                }
                Change::Remove { key } => {
                    provided.remove(key.as_bytes())?;
                    bytes += 32;
                }
            }
        }
    }
    if let Some(contacts) = &batch.contacts {
        write.delete_table(CONTACTS)?;
        let mut table = write.open_table(CONTACTS)?;
        for contact in contacts {
            let value = (contact.seen_ms, encoded(&contact.addresses)).encode();
            bytes += 32 + len(&value);
            table.insert(&contact.peer, value.as_slice())?;
        }
    }
    write.commit()?;
    Ok(bytes)
}

fn len(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// The name of a record's row: its key, then its provider.
fn name(key: &Key, provider: &OverlayKey) -> [u8; 64] {
    let mut name = [0; 64];
    let parts = key.as_bytes().iter().chain(provider);
    for (to, from) in name.iter_mut().zip(parts) {
        *to = *from;
    }
    name
}

fn record(name: &[u8; 64], expires_ms: u64) -> KeptRecord {
    let (mut key, mut provider) = ([0; 32], [0; 32]);
    for (to, from) in key.iter_mut().chain(&mut provider).zip(name) {
        *to = *from;
    }
    KeptRecord { key: Key::from_bytes(key), provider, expires_ms }
}

fn class_code(class: Class) -> u8 {
    match class {
        Class::Kept => 0,
        Class::Cached => 1,
    }
}

fn class_of(code: u8) -> Option<Class> {
    match code {
        0 => Some(Class::Kept),
        1 => Some(Class::Cached),
        _ => None,
    }
}

fn encoded(addresses: &[Multiaddr]) -> Vec<Vec<u8>> {
    addresses.iter().map(Multiaddr::to_vec).collect()
}

fn decoded(addresses: Vec<Vec<u8>>) -> Option<Vec<Multiaddr>> {
    addresses.into_iter().map(|bytes| Multiaddr::try_from(bytes).ok()).collect()
}

fn addresses(value: &[u8]) -> Option<Vec<Multiaddr>> {
    if value.len() > MAX_VALUE {
        return None;
    }
    decoded(Vec::decode(&mut &*value).ok()?)
}

fn contact(peer: &OverlayKey, value: &[u8]) -> Option<KeptContact> {
    if value.len() > MAX_VALUE {
        return None;
    }
    let (seen_ms, addresses) = <(u64, Vec<Vec<u8>>)>::decode(&mut &*value).ok()?;
    Some(KeptContact { peer: *peer, addresses: decoded(addresses)?, seen_ms })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use redb::StorageBackend;
    use std::sync::{Arc, Mutex};

    const NOW_MS: u64 = 1000;

    const BOUNDS: Bounds = Bounds { records: 1000, providers: 10, provided: 10, contacts: 10 };

    fn record(n: u32, provider: u8, expires_ms: u64) -> KeptRecord {
        KeptRecord { key: Key::test(n), provider: [provider; 32], expires_ms }
    }

    fn addr(n: u8) -> Multiaddr {
        format!("/ip4/8.8.8.{n}/tcp/1").parse().unwrap()
    }

    fn contact(n: u8) -> KeptContact {
        KeptContact { peer: [n; 32], addresses: vec![addr(n), addr(9)], seen_ms: n.into() }
    }

    fn put(n: u32, class: Class, announced_ms: Option<u64>) -> Change {
        Change::Put { key: Key::test(n), class, announced_ms }
    }

    fn batch() -> Batch {
        Batch {
            records: vec![record(1, 1, 5000), record(1, 2, 6000), record(2, 1, 7000)],
            providers: vec![([1; 32], Some(vec![addr(1), addr(2)])), ([2; 32], Some(vec![]))],
            provided: vec![put(1, Class::Kept, Some(7)), put(2, Class::Cached, None)],
            contacts: Some(vec![contact(1), contact(2)]),
            ..Batch::default()
        }
    }

    /// What is in the file after it was closed, in order.
    fn reread(path: &Path, bounds: Bounds) -> (Kept, Dropped) {
        let (db, mut kept, dropped) = open(path, bounds, NOW_MS).unwrap();
        drop(db);
        kept.records.sort_by_key(|r| (r.expires_ms, r.provider));
        kept.provided.sort_by_key(|(_, class, _)| class_code(*class));
        (kept, dropped)
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/d.redb");
        let (db, kept, _) = open(&path, BOUNDS, NOW_MS).unwrap();
        assert!(kept.records.is_empty() && kept.provided.is_empty());
        assert!(write(&db, &batch()).unwrap() > 300);
        drop(db);
        let (kept, dropped) = reread(&path, BOUNDS);
        let batch = batch();
        assert_eq!(kept.records, batch.records);
        assert_eq!(
            kept.providers,
            [([1; 32], vec![addr(1), addr(2)]), ([2; 32], vec![])],
            "each with its addresses"
        );
        let provided = [(Key::test(1), Class::Kept, Some(7)), (Key::test(2), Class::Cached, None)];
        assert_eq!(kept.provided, provided);
        assert_eq!(Some(kept.contacts), batch.contacts);
        assert_eq!(dropped, Dropped::default());
    }

    #[test]
    fn what_is_removed_and_renewed_is_so_after_the_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.redb");
        let (db, ..) = open(&path, BOUNDS, NOW_MS).unwrap();
        write(&db, &batch()).unwrap();
        let next = Batch {
            removed: vec![
                (Key::test(1), [1; 32]),
                (Key::test(1), [2; 32]),
                (Key::test(9), [9; 32]),
            ],
            records: vec![record(1, 1, 9000)],
            providers: vec![([2; 32], None)],
            provided: vec![put(1, Class::Kept, Some(8)), Change::Remove { key: Key::test(2) }],
            contacts: Some(vec![contact(3)]),
            ..Batch::default()
        };
        write(&db, &next).unwrap();
        drop(db);
        let (kept, _) = reread(&path, BOUNDS);
        assert_eq!(kept.records, [record(2, 1, 7000), record(1, 1, 9000)]);
        assert_eq!(kept.providers.len(), 1);
        assert_eq!(kept.provided, [(Key::test(1), Class::Kept, Some(8))]);
        assert_eq!(kept.contacts, [contact(3)]);

        let (db, ..) = open(&path, BOUNDS, NOW_MS).unwrap();
        let rewrite =
            Batch { rewrite: true, records: vec![record(5, 5, 9000)], ..Batch::default() };
        write(&db, &rewrite).unwrap();
        drop(db);
        assert_eq!(reread(&path, BOUNDS).0.records, [record(5, 5, 9000)]);
    }

    #[test]
    fn what_has_expired_or_is_too_much_is_dropped_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.redb");
        let (db, ..) = open(&path, BOUNDS, NOW_MS).unwrap();
        let mut all = batch();
        all.records.push(record(3, 3, NOW_MS));
        all.providers.push(([7; 32], Some(vec![])));
        write(&db, &all).unwrap();
        let odd = db.begin_write().unwrap();
        odd.open_table(CONTACTS).unwrap().insert(&[9u8; 32], &[255u8; 40][..]).unwrap();
        odd.open_table(PROVIDED).unwrap().insert(&[9u8; 32], (7u8, None::<u64>)).unwrap();
        odd.open_table(PROVIDERS).unwrap().insert(&[9u8; 32], &[0u8; 20_000][..]).unwrap();
        odd.commit().unwrap();
        drop(db);
        let bounds = Bounds { records: 3, providers: 10, provided: 1, contacts: 1 };
        let (kept, dropped) = reread(&path, bounds);
        // The provider without a record, and one each of what is provided and of the contacts.
        assert_eq!(dropped, Dropped { expired: 1, malformed: 3, surplus: 3 });
        let held = (kept.records.len(), kept.provided.len(), kept.contacts.len());
        assert_eq!(held, (3, 1, 1));
        assert_eq!(reread(&path, bounds).1, Dropped::default(), "they are gone from the file too");
        let (kept, dropped) = reread(&path, Bounds { records: 1, ..bounds });
        assert_eq!((kept.records.len(), kept.providers.len()), (1, 1));
        assert_eq!(dropped.surplus, 3, "two records, and the provider of one of them");
    }

    /// What a process has given to the file, one after the other.
    #[derive(Debug)]
    enum Given {
        Length(u64),
        Bytes(u64, Vec<u8>),
    }

    #[derive(Debug, Default)]
    struct Recorded {
        file: Vec<u8>,
        log: Vec<Given>,
    }

    #[derive(Clone, Debug, Default)]
    struct Recorder(Arc<Mutex<Recorded>>);

    fn apply(file: &mut Vec<u8>, given: &Given) {
        match given {
            Given::Length(len) => file.resize(usize::try_from(*len).unwrap(), 0),
            Given::Bytes(at, bytes) => {
                let at = usize::try_from(*at).unwrap();
                file[at..at + bytes.len()].copy_from_slice(bytes);
            }
        }
    }

    impl Recorder {
        fn give(&self, given: Given) {
            let mut recorded = self.0.lock().unwrap();
            apply(&mut recorded.file, &given);
            recorded.log.push(given);
        }

        fn given(&self) -> usize {
            self.0.lock().unwrap().log.len()
        }
    }

    impl StorageBackend for Recorder {
        fn len(&self) -> io::Result<u64> {
            Ok(self.0.lock().unwrap().file.len() as u64)
        }

        fn read(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
            let at = usize::try_from(at).unwrap();
            out.copy_from_slice(&self.0.lock().unwrap().file[at..at + out.len()]);
            Ok(())
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.give(Given::Length(len));
            Ok(())
        }

        fn sync_data(&self) -> io::Result<()> {
            Ok(())
        }

        fn write(&self, at: u64, data: &[u8]) -> io::Result<()> {
            self.give(Given::Bytes(at, data.to_vec()));
            Ok(())
        }
    }

    #[test]
    fn killed_after_any_write_it_loses_at_most_the_last_batch_and_never_a_part_of_one() {
        let recorder = Recorder::default();
        let db = Builder::new().create_with_backend(recorder.clone()).unwrap();
        lay_out(&db).unwrap();
        let mut ends = vec![recorder.given()];
        for batch in 0..8 {
            let records = (0..20).map(|n| record(batch * 20 + n, 1, 5000)).collect();
            write(&db, &Batch { records, ..Batch::default() }).unwrap();
            ends.push(recorder.given());
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.redb");
        let recorded = recorder.0.lock().unwrap();
        let mut file = Vec::new();
        for (n, given) in (1..).zip(&recorded.log[..ends[8]]) {
            apply(&mut file, given);
            if n < ends[0] {
                continue;
            }
            fs::write(&path, &file).unwrap();
            let (kept, dropped) = reread(&path, BOUNDS);
            let written = ends.iter().filter(|end| **end <= n).count() - 1;
            let held = kept.records.len();
            assert!(
                held == written * 20 || held == (written + 1) * 20,
                "{held} records after {written} batches"
            );
            assert_eq!(dropped, Dropped::default());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// However a file was altered: it is opened as something, or said to be of no use.
        #[test]
        fn an_altered_file_is_read_or_refused(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
            cut: Option<prop::sample::Index>,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("d.redb");
            let (db, ..) = open(&path, BOUNDS, NOW_MS).unwrap();
            write(&db, &batch()).unwrap();
            drop(db);
            let mut bytes = fs::read(&path).unwrap();
            for (at, value) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            fs::write(&path, &bytes).unwrap();
            // redb may panic on what it did not write; the writer takes that for a refusal.
            match std::panic::catch_unwind(|| open(&path, BOUNDS, NOW_MS)) {
                Ok(Ok((_, kept, _))) => prop_assert!(kept.records.len() <= 3),
                Ok(Err(OpenError::Trouble(error))) => prop_assert!(false, "{error:?}"),
                Ok(Err(OpenError::Unusable(_))) | Err(_) => {}
            }
        }
    }
}
