//! Blobs that are read group by group, and disks that fail.

use super::*;
use crate::{content::BlobId, metrics::Metrics, tests::world::blob, wire::GROUP_LEN};
use bytes::Bytes;
use std::{fs, io, path::Path, sync::Arc};

struct World {
    files: Files,
    metrics: Metrics,
    _lock: FolderLock,
}

async fn world(root: &Path) -> World {
    let metrics = Metrics::unregistered();
    let files = Files::new(root.to_owned(), &Config::default(), Disk::new(2, metrics.clone()));
    let (_, lock) = files.open().await.unwrap();
    World { files, metrics, _lock: lock }
}

fn path(root: &Path, id: BlobId) -> std::path::PathBuf {
    let name = id.to_string();
    root.join(&name[..2]).join(name)
}

fn outboard(root: &Path, id: BlobId) -> std::path::PathBuf {
    path(&root.join("outboards"), id)
}

fn put(len: usize, seed: u64) -> (BlobId, Bytes, u32) {
    let (id, bytes) = blob(len, seed);
    (id, bytes.into(), u32::try_from(len).unwrap())
}

impl World {
    fn corrupt(&self) -> u64 {
        self.metrics.corrupt_blobs_total.with_label_values(&["origin"]).get()
    }

    fn failed(&self) -> [u64; 2] {
        [&self.metrics.disk_read_failures_total, &self.metrics.disk_write_failures_total]
            .map(|failures| failures.with_label_values(&["origin"]).get())
    }
}

#[tokio::test]
async fn groups_are_read_where_they_are_asked_for_at_most_sixteen_at_a_time() {
    let root = tempfile::tempdir().unwrap();
    let world = world(root.path()).await;
    let (id, bytes, len) = put(40 * 16 * 1024 + 5, 1);
    world.files.put(id, bytes.clone(), None).await.unwrap();
    let stored = world.files.stored(id, len).await.unwrap();
    assert_eq!((stored.id(), stored.len(), stored.outboard().root()), (id, len, id));
    for (first, end, expected_end) in
        [(0, 1, 1), (3, 7, 7), (0, 41, 16), (39, 41, 41), (40, 99, 41)]
    {
        let got = stored.groups(first, end).await.unwrap();
        let from = usize::try_from(first * GROUP_LEN).unwrap();
        let to = usize::try_from(expected_end * GROUP_LEN).unwrap().min(bytes.len());
        assert_eq!(got, bytes.slice(from..to), "{first}..{end}");
    }
    for (first, end) in [(41, 42), (5, 5), (6, 5), (u32::MAX, u32::MAX)] {
        assert!(matches!(stored.groups(first, end).await, Err(ReadError::Io(_))));
    }
}

#[tokio::test]
async fn only_what_is_read_is_verified_and_damage_in_it_puts_the_file_aside() {
    let root = tempfile::tempdir().unwrap();
    let world = world(root.path()).await;
    let (id, bytes, len) = put(1 << 20, 2);
    world.files.put(id, bytes.clone(), None).await.unwrap();
    let stored = world.files.stored(id, len).await.unwrap();
    let mut damaged = bytes.to_vec();
    damaged[500_000] ^= 1;
    fs::write(path(root.path(), id), &damaged).unwrap();
    // Byte 500,000 lies in group 30.
    assert_eq!(stored.groups(0, 16).await.unwrap(), bytes.slice(..16 * 16384));
    assert_eq!(stored.groups(31, 64).await.unwrap(), bytes.slice(31 * 16384..47 * 16384));
    assert_eq!(world.corrupt(), 0);
    let error = stored.groups(30, 31).await.unwrap_err();
    assert!(matches!(error, ReadError::Corrupt(Damage::Hash)), "{error}");
    assert_eq!(world.corrupt(), 1);
    let gone = world.files.stored(id, len).await;
    assert!(matches!(gone, Err(ReadError::Missing)));
    assert!(root.path().join("quarantine").join(id.to_string()).exists());
    assert!(!outboard(root.path(), id).exists());
}

#[tokio::test]
async fn a_file_that_is_cut_while_it_is_open_is_damaged() {
    let root = tempfile::tempdir().unwrap();
    let world = world(root.path()).await;
    let (id, bytes, len) = put(100_000, 3);
    world.files.put(id, bytes, None).await.unwrap();
    let stored = world.files.stored(id, len).await.unwrap();
    fs::File::options().write(true).open(path(root.path(), id)).unwrap().set_len(50_000).unwrap();
    assert!(stored.groups(0, 3).await.is_ok());
    assert!(matches!(stored.groups(3, 7).await, Err(ReadError::Corrupt(_))));
    assert_eq!(world.corrupt(), 1);
}

#[tokio::test]
async fn a_file_that_was_written_anew_is_not_put_aside_for_the_old_one() {
    let root = tempfile::tempdir().unwrap();
    let world = world(root.path()).await;
    let (id, bytes, len) = put(100_000, 4);
    world.files.put(id, bytes.clone(), None).await.unwrap();
    let old = world.files.stored(id, len).await.unwrap();
    fs::write(path(root.path(), id), vec![0; 100_000]).unwrap();
    world.files.put(id, bytes.clone(), None).await.unwrap();
    assert!(old.groups(0, 7).await.is_err(), "this one is still the damaged one");
    assert_eq!(world.files.read(id, len).await.unwrap(), bytes);
    let new = world.files.stored(id, len).await.unwrap();
    assert_eq!(new.groups(0, 7).await.unwrap(), bytes);
}

#[tokio::test]
async fn who_has_a_blob_open_reads_it_to_its_end_though_it_is_deleted() {
    let root = tempfile::tempdir().unwrap();
    let world = world(root.path()).await;
    let (id, bytes, len) = put(100_000, 5);
    world.files.put(id, bytes.clone(), None).await.unwrap();
    let stored = world.files.stored(id, len).await.unwrap();
    world.files.remove(id).await.unwrap();
    assert_eq!(stored.groups(0, 7).await.unwrap(), bytes);
    assert!(matches!(world.files.stored(id, len).await, Err(ReadError::Missing)));
    assert!(!outboard(root.path(), id).exists());
}

#[tokio::test]
async fn an_outboard_that_is_missing_or_damaged_is_made_again_and_costs_no_blob() {
    let root = tempfile::tempdir().unwrap();
    let (id, bytes, len) = put(100_000, 6);
    // A blob from before there were outboards.
    fs::create_dir_all(path(root.path(), id).parent().unwrap()).unwrap();
    fs::write(path(root.path(), id), &bytes).unwrap();
    for damage in [None, Some(vec![1; 6 * 64]), Some(Vec::new()), Some(vec![1; 7 * 64])] {
        if let Some(damaged) = damage {
            fs::write(outboard(root.path(), id), damaged).unwrap();
        }
        let world = world(root.path()).await;
        let stored = world.files.stored(id, len).await.unwrap();
        assert_eq!(stored.groups(0, 7).await.unwrap(), bytes);
        assert_eq!(&fs::read(outboard(root.path(), id)).unwrap(), stored.outboard().nodes());
        assert_eq!(world.corrupt(), 0);
    }
}

#[tokio::test]
async fn a_damaged_blob_without_an_outboard_is_never_opened() {
    let root = tempfile::tempdir().unwrap();
    let world = world(root.path()).await;
    for len in [10, 100_000] {
        let (id, mut bytes) = blob(len, 7);
        fs::create_dir_all(path(root.path(), id).parent().unwrap()).unwrap();
        bytes[5] ^= 1;
        fs::write(path(root.path(), id), &bytes).unwrap();
        let len = u32::try_from(len).unwrap();
        let error = world.files.stored(id, len).await.unwrap_err();
        assert!(matches!(error, ReadError::Corrupt(Damage::Hash)), "{error}");
        assert!(!path(root.path(), id).exists());
    }
    assert_eq!(world.corrupt(), 2);
}

#[tokio::test]
async fn blobs_that_were_read_last_stay_open_and_no_more_than_allowed() {
    let root = tempfile::tempdir().unwrap();
    let metrics = Metrics::unregistered();
    let config = Config { open_files: 2, ..Config::default() };
    let files = Files::new(root.path().to_owned(), &config, Disk::new(2, metrics));
    let _lock = files.open().await.unwrap();
    let mut opened = Vec::new();
    for seed in 0..3 {
        let (id, bytes, len) = put(20_000, seed);
        files.put(id, bytes, None).await.unwrap();
        opened.push((id, files.stored(id, len).await.unwrap()));
    }
    let mut same = Vec::new();
    for (id, before) in opened.iter().rev() {
        let again = files.stored(*id, 20_000).await.unwrap();
        same.push(Arc::ptr_eq(before, &again));
    }
    assert_eq!(same, [true, true, false]);
}

#[tokio::test]
async fn a_full_disk_and_one_that_fails_are_counted_and_leave_nothing_behind() {
    let root = tempfile::tempdir().unwrap();
    let world = world(root.path()).await;
    let (id, bytes, len) = put(100_000, 8);
    for step in [Step::MakeFolder, Step::Write, Step::Sync, Step::Rename, Step::SyncFolder] {
        let failed = world.failed()[1];
        world.files.set_faults(Some(Arc::new(move |at| match at == step {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        })));
        let error = world.files.put(id, bytes.clone(), None).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{step:?}");
        assert_eq!(world.failed()[1], failed + 1, "{step:?}");
        assert_eq!(fs::read_dir(root.path().join("tmp")).unwrap().count(), 0, "{step:?}");
    }
    world.files.set_faults(None);
    world.files.put(id, bytes.clone(), None).await.unwrap();
    let stored = world.files.stored(id, len).await.unwrap();
    world.files.set_faults(Some(Arc::new(|at| match at {
        Step::Read => Err(io::Error::other("on purpose")),
        _ => Ok(()),
    })));
    assert!(matches!(stored.groups(0, 1).await, Err(ReadError::Io(_))));
    assert!(matches!(world.files.read(id, len).await, Err(ReadError::Io(_))));
    assert_eq!((world.failed()[0], world.corrupt()), (2, 0));
    world.files.set_faults(None);
    assert_eq!(stored.groups(0, 7).await.unwrap(), bytes);
}

#[tokio::test]
async fn what_is_known_is_listed_without_being_looked_at() {
    let root = tempfile::tempdir().unwrap();
    let world = world(root.path()).await;
    let (known, bytes, len) = put(1000, 9);
    let (unknown, other, other_len) = put(2000, 10);
    let (gone, ..) = put(3000, 11);
    world.files.put(known, bytes, None).await.unwrap();
    world.files.put(unknown, other, None).await.unwrap();
    let lens = [(known, 77), (gone, 3000)].into();
    let mut found = world.files.scan(lens).await.unwrap();
    found.sort_by_key(|file| file.used.is_some());
    let found: Vec<_> = found.iter().map(|file| (file.id, file.len, file.used.is_some())).collect();
    // 77 is what was remembered; the reader finds out.
    assert_eq!(found, [(known, 77, false), (unknown, other_len, true)]);
    let read = world.files.read(known, 77).await;
    assert!(matches!(read, Err(ReadError::Corrupt(Damage::Length { expected: 77, found: 1000 }))));
    assert_eq!(len, 1000);
}

#[tokio::test]
async fn free_space_is_what_the_file_system_says() {
    let root = tempfile::tempdir().unwrap();
    assert!(world(root.path()).await.files.free_space().await.unwrap() > 0);
}
