//! The cache over a real folder.

use super::*;
use crate::{
    store::{self, Disk, Step},
    tests::world,
    wire::Outboard,
};
use bytes::Bytes;
use std::{fs, path::Path};

fn cache(root: &Path, capacity: u64) -> Cache {
    let metrics = Metrics::unregistered();
    let disk = Disk::new(4, metrics.clone());
    let files = Files::new(root.to_owned(), &store::Config::default(), disk);
    Cache::new(files, &Config { capacity, ..config() }, metrics)
}

/// The least recently used goes first, memory keeps nothing, and the disk's size does not matter.
fn config() -> Config {
    Config { policy: PolicyKind::Lru, memory: 0, free_headroom: 0, ..Config::default() }
}

fn made(root: &Path, config: &Config) -> Cache {
    let metrics = Metrics::unregistered();
    let files =
        Files::new(root.to_owned(), &store::Config::default(), Disk::new(4, metrics.clone()));
    Cache::new(files, config, metrics)
}

fn blob(n: u8) -> (BlobId, Bytes) {
    let bytes = Bytes::from(vec![n; 1000]);
    (BlobId::of(&bytes), bytes)
}

/// A blob as it is when it was fetched.
pub(super) fn whole(id: BlobId, bytes: Bytes) -> Arc<Whole> {
    let outboard = Outboard::of(&bytes).unwrap();
    Arc::new(Whole::new(id, bytes, outboard).unwrap())
}

fn on_disk(root: &Path) -> u64 {
    let folders = fs::read_dir(root).unwrap().map(|entry| entry.unwrap());
    folders
        .filter(|entry| entry.file_name().len() == 2)
        .flat_map(|folder| fs::read_dir(folder.path()).unwrap())
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum()
}

#[tokio::test]
async fn files_on_disk_stay_under_the_bound_and_follow_the_index() {
    let root = tempfile::tempdir().unwrap();
    let cache = cache(root.path(), 3500);
    let _lock = cache.open().await.unwrap();
    for n in 0..20 {
        let (id, bytes) = blob(n);
        let admission = cache.admit(whole(id, bytes.clone())).await;
        assert!(admission.kept.is_ok());
        assert_eq!(admission.evicted.len(), usize::from(n >= 3));
        assert_eq!(cache.read(id).await, Some(bytes));
        assert!(on_disk(root.path()) <= 3500);
    }
    assert_eq!(cache.status().bytes, 3000);
    assert_eq!(on_disk(root.path()), 3000);
    assert_eq!(cache.metrics.cache_evictions_total.get(), 17);
    assert_eq!(cache.metrics.cache_size_bytes.get(), 3000);
    assert_eq!(cache.read(blob(0).0).await, None);
}

#[tokio::test]
async fn a_restart_keeps_what_was_held_and_a_smaller_bound_evicts_the_oldest() {
    let root = tempfile::tempdir().unwrap();
    {
        let cache = cache(root.path(), 10_000);
        let _lock = cache.open().await.unwrap();
        for n in 0..5 {
            let (id, bytes) = blob(n);
            cache.admit(whole(id, bytes)).await.kept.unwrap();
            let name = id.to_string();
            let file = root.path().join(&name[..2]).join(&name);
            let age = Duration::from_secs(100 - u64::from(n));
            let used = SystemTime::now() - age;
            fs::File::options().write(true).open(file).unwrap().set_modified(used).unwrap();
        }
    }
    let cache = cache(root.path(), 2000);
    let _lock = cache.open().await.unwrap();
    assert_eq!(cache.newest(9), [blob(4).0, blob(3).0]);
    assert_eq!(on_disk(root.path()), 2000);
    assert_eq!(cache.read(blob(3).0).await, Some(blob(3).1));
}

#[tokio::test]
async fn a_damaged_file_is_a_miss_and_forgotten() {
    let root = tempfile::tempdir().unwrap();
    let cache = cache(root.path(), 10_000);
    let _lock = cache.open().await.unwrap();
    let (id, bytes) = blob(1);
    cache.admit(whole(id, bytes.clone())).await.kept.unwrap();
    let name = id.to_string();
    fs::write(root.path().join(&name[..2]).join(&name), vec![2; 1000]).unwrap();
    assert_eq!(cache.read(id).await, None);
    assert_eq!((cache.len_of(id), cache.status().bytes), (None, 0));
    assert_eq!(cache.metrics.corrupt_blobs_total.with_label_values(&["cache"]).get(), 1);
    cache.admit(whole(id, bytes.clone())).await.kept.unwrap();
    assert_eq!(cache.read(id).await, Some(bytes));
}

#[tokio::test]
async fn a_file_that_the_disk_fails_to_read_is_a_counted_miss_and_kept() {
    let root = tempfile::tempdir().unwrap();
    let cache = cache(root.path(), 10_000);
    let _lock = cache.open().await.unwrap();
    let (id, bytes) = blob(1);
    cache.admit(whole(id, bytes.clone())).await.kept.unwrap();
    let name = id.to_string();
    let file = root.path().join(&name[..2]).join(&name);
    fs::remove_file(&file).unwrap();
    // A link to itself: opening it fails, for root as well.
    std::os::unix::fs::symlink(&file, &file).unwrap();
    assert_eq!(cache.read(id).await, None);
    assert_eq!(cache.metrics.disk_read_failures_total.with_label_values(&["cache"]).get(), 1);
    fs::remove_file(&file).unwrap();
    fs::write(&file, &bytes).unwrap();
    assert_eq!(cache.read(id).await, Some(bytes));
}

#[tokio::test]
async fn a_failed_write_gives_its_room_back_and_tells_what_was_evicted() {
    let root = tempfile::tempdir().unwrap();
    let cache = cache(root.path(), 1000);
    let _lock = cache.open().await.unwrap();
    let (victim, old) = blob(0);
    cache.admit(whole(victim, old)).await.kept.unwrap();
    let (id, bytes) = blob(1);
    fs::remove_dir(root.path().join("tmp")).unwrap();
    let failed = cache.admit(whole(id, bytes.clone())).await;
    assert!(matches!(failed.kept, Err(AdmitError::Io(_))));
    assert_eq!((failed.evicted, cache.len_of(victim)), (vec![victim], None));
    fs::create_dir(root.path().join("tmp")).unwrap();
    let admission = cache.admit(whole(id, bytes)).await;
    assert!(admission.kept.is_ok() && admission.evicted.is_empty());
    let too_large = Bytes::from(vec![0; 1001]);
    let refused = cache.admit(whole(BlobId::of(&too_large), too_large)).await;
    assert!(matches!(
        refused.kept,
        Err(AdmitError::Refused { refused: Refused::NoRoom, len: 1001 })
    ));
    assert!(refused.evicted.is_empty() && cache.len_of(id).is_some());
}

#[tokio::test]
async fn readers_and_writers_of_one_blob_at_once_never_lose_it() {
    let root = tempfile::tempdir().unwrap();
    let cache = cache(root.path(), 2000);
    let _lock = cache.open().await.unwrap();
    let work = (0..40u8).map(|n| {
        let cache = &cache;
        async move {
            let (id, bytes) = blob(n % 4);
            let _ = cache.admit(whole(id, bytes.clone())).await;
            if let Some(read) = cache.read(id).await {
                assert_eq!(read, bytes);
            }
        }
    });
    futures::future::join_all(work).await;
    let status = cache.status();
    assert_eq!(on_disk(root.path()), status.bytes);
    for id in cache.newest(usize::MAX) {
        assert!(cache.read(id).await.is_some());
    }
}

fn large(seed: u64) -> (BlobId, Bytes) {
    let (id, bytes) = world::blob(100_000, seed);
    (id, bytes.into())
}

fn held(hit: Option<Hit>) -> &'static str {
    match hit {
        Some(Hit::Memory(_)) => "memory",
        Some(Hit::Loaded(_)) => "loaded",
        Some(Hit::File(_)) => "file",
        None => "nowhere",
    }
}

#[tokio::test]
async fn what_was_fetched_is_in_memory_and_after_a_restart_on_disk_until_it_is_asked_for_again() {
    let root = tempfile::tempdir().unwrap();
    let config = Config { memory: 1 << 20, ..Config::default() };
    let (id, bytes) = large(1);
    {
        let cache = made(root.path(), &config);
        let _lock = cache.open().await.unwrap();
        cache.admit(whole(id, bytes.clone())).await.kept.unwrap();
        assert_eq!(held(cache.find(id).await), "memory");
    }
    let cache = made(root.path(), &config);
    let _lock = cache.open().await.unwrap();
    let Some(Hit::File(stored)) = cache.find(id).await else { panic!() };
    assert_eq!(stored.groups(0, 7).await.unwrap(), bytes);
    let Some(Hit::Loaded(whole)) = cache.find(id).await else { panic!() };
    assert_eq!((whole.bytes(), whole.id()), (&bytes, id));
    assert_eq!(held(cache.find(id).await), "memory");
    let hits = |tier| cache.metrics.cache_tier_hits_total.with_label_values(&[tier]).get();
    assert_eq!((hits("disk"), hits("memory")), (2, 1));
}

#[tokio::test]
async fn what_the_disk_does_not_take_is_served_from_memory() {
    let root = tempfile::tempdir().unwrap();
    // Each blob takes 100,384 bytes with its hashes.
    let config =
        Config { capacity: 150_000, memory: 1 << 20, free_headroom: 0, ..Config::default() };
    let cache = made(root.path(), &config);
    let _lock = cache.open().await.unwrap();
    let (first, second) = (large(1), large(2));
    cache.admit(whole(first.0, first.1.clone())).await.kept.unwrap();
    cache.find(first.0).await.unwrap();
    let refused = cache.admit(whole(second.0, second.1.clone())).await;
    let unwanted = AdmitError::Refused { refused: Refused::Unwanted, len: 100_000 };
    assert_eq!(refused.kept.unwrap_err().to_string(), unwanted.to_string());
    assert_eq!(cache.read(second.0).await, Some(second.1.clone()));
    let explained = cache.explain(second.0);
    assert_eq!((explained.tiers, explained.why), (vec![Tier::Memory], None));
    assert!(matches!(explained.last, Some((Event::Unwanted, _))));
    assert_eq!(cache.explain(first.0).tiers, [Tier::Memory, Tier::Disk]);
    let reasons = &cache.metrics.cache_admissions_refused_total;
    assert_eq!(reasons.with_label_values(&["unwanted"]).get(), 1);
    // It has been asked for twice by now, as the other one was: the third time it takes its place.
    let admitted = cache.admit(whole(second.0, second.1)).await;
    assert_eq!((admitted.kept.is_ok(), admitted.evicted), (true, vec![first.0]));
    assert_eq!(cache.explain(second.0).why, Some(Why::Wanted));
    assert!(matches!(cache.explain(first.0).last, Some((Event::EvictedFor(_), _))));
}

#[tokio::test]
async fn a_reader_reads_to_the_end_what_is_evicted_under_it() {
    let root = tempfile::tempdir().unwrap();
    let cache = made(root.path(), &Config { capacity: 150_000, ..config() });
    let _lock = cache.open().await.unwrap();
    let (id, bytes) = large(1);
    cache.admit(whole(id, bytes.clone())).await.kept.unwrap();
    let Some(Hit::File(stored)) = cache.find(id).await else { panic!() };
    let (other, more) = large(2);
    assert_eq!(cache.admit(whole(other, more)).await.evicted, [id]);
    assert_eq!(cache.len_of(id), None);
    assert_eq!(stored.groups(0, 7).await.unwrap(), bytes);
}

#[tokio::test]
async fn a_group_that_went_bad_makes_the_next_reader_miss() {
    let root = tempfile::tempdir().unwrap();
    let cache = made(root.path(), &config());
    let _lock = cache.open().await.unwrap();
    let (id, bytes) = large(1);
    cache.admit(whole(id, bytes.clone())).await.kept.unwrap();
    let name = id.to_string();
    let mut damaged = bytes.to_vec();
    damaged[99_999] ^= 1;
    fs::write(root.path().join(&name[..2]).join(&name), damaged).unwrap();
    let Some(Hit::File(stored)) = cache.find(id).await else { panic!() };
    assert!(stored.groups(0, 6).await.is_ok());
    assert!(stored.groups(6, 7).await.is_err());
    assert_eq!(held(cache.find(id).await), "nowhere");
    assert_eq!((cache.len_of(id), cache.status().bytes), (None, 0));
    assert!(matches!(cache.explain(id).last, Some((Event::Lost, _))));
}

#[tokio::test]
async fn pins_survive_restarts_and_a_purge_takes_them_away() {
    let root = tempfile::tempdir().unwrap();
    let config = Config { capacity: 10_000, ..config() };
    let (id, bytes) = blob(1);
    {
        let cache = made(root.path(), &config);
        let _lock = cache.open().await.unwrap();
        assert_eq!(cache.pin(id).await, Err(PinError::NotHeld));
        for n in 1..=4 {
            let (id, bytes) = blob(n);
            cache.admit(whole(id, bytes)).await.kept.unwrap();
        }
        // A quarter of the cache.
        assert_eq!((cache.pin(id).await, cache.pin(blob(2).0).await), (Ok(()), Ok(())));
        assert_eq!(cache.pin(blob(3).0).await, Err(PinError::Full));
        assert!(cache.unpin(blob(2).0).await);
        assert_eq!(cache.metrics.cache_pinned_bytes.get(), 1000);
    }
    let cache = made(root.path(), &config);
    let _lock = cache.open().await.unwrap();
    for n in 10..40 {
        let (id, bytes) = blob(n);
        cache.admit(whole(id, bytes)).await.kept.unwrap();
    }
    assert_eq!(cache.read(id).await, Some(bytes));
    assert!(cache.explain(id).pinned);
    assert_eq!((cache.status().pinned_bytes, cache.metrics.cache_pinned_bytes.get()), (1000, 1000));
    assert!(cache.purge(id).await && !cache.purge(id).await);
    assert_eq!((cache.len_of(id), cache.status().pinned_bytes), (None, 0));
    assert!(matches!(cache.explain(id).last, Some((Event::Purged, _))));
    drop(_lock);
    let cache = made(root.path(), &config);
    let _lock = cache.open().await.unwrap();
    assert_eq!(cache.len_of(id), None);
}

#[tokio::test]
async fn a_full_disk_makes_the_cache_smaller_down_to_its_floor_and_space_makes_it_larger() {
    let root = tempfile::tempdir().unwrap();
    let config = Config { capacity: 10_000, min_capacity: 3000, free_headroom: 500, ..config() };
    let cache = made(root.path(), &config);
    let _lock = cache.open().await.unwrap();
    for n in 0..8 {
        let (id, bytes) = blob(n);
        cache.admit(whole(id, bytes)).await.kept.unwrap();
    }
    assert_eq!(cache.fit_to(500).await, []);
    assert_eq!(cache.fit_to(100).await, [blob(0).0]);
    assert_eq!((cache.status().capacity, on_disk(root.path())), (7600, 7000));
    let gone = cache.fit_to(0).await;
    assert_eq!(gone, [blob(1).0]);
    for _ in 0..20 {
        cache.fit_to(0).await;
    }
    assert_eq!((cache.status().capacity, on_disk(root.path())), (3000, 3000));
    assert_eq!(cache.metrics.cache_capacity_bytes.get(), 3000);
    cache.fit_to(1_000_000).await;
    assert_eq!(cache.status().capacity, 10_000);
}

#[tokio::test]
async fn the_scrub_finds_what_went_bad_and_deletes_what_belongs_to_nothing() {
    let root = tempfile::tempdir().unwrap();
    let cache = made(root.path(), &config());
    let _lock = cache.open().await.unwrap();
    let (sound, bytes) = large(1);
    let (bad, more) = large(2);
    let (stray, left) = large(3);
    for (id, bytes) in [(sound, &bytes), (bad, &more), (stray, &left)] {
        cache.admit(whole(id, bytes.clone())).await.kept.unwrap();
    }
    let file = |id: BlobId| root.path().join(&id.to_string()[..2]).join(id.to_string());
    fs::write(file(bad), vec![0; 100_000]).unwrap();
    // As if its deletion had failed.
    drop(cache.forget(stray, Event::Lost));
    let scrub = async |id: BlobId| cache.scrub(id.0[0], u64::MAX).await;
    assert_eq!(scrub(sound).await, scrub::Found::default());
    assert_eq!(scrub(bad).await.gone, [bad]);
    assert_eq!(scrub(stray).await.strays, 1);
    assert!(!file(bad).exists() && !file(stray).exists() && file(sound).exists());
    assert_eq!((cache.len_of(bad), cache.len_of(sound)), (None, Some(100_000)));
    let metrics = &cache.metrics;
    let counted =
        [&metrics.scrub_damaged_total, &metrics.scrub_strays_total, &metrics.scrub_bytes_total];
    assert_eq!(counted.map(prometheus_endpoint::Counter::get), [1, 1, 200_000]);
}

#[tokio::test]
async fn what_is_too_old_is_a_miss_and_deleted() {
    let root = tempfile::tempdir().unwrap();
    let config = Config { ttl: Duration::from_secs(3600), memory: 1 << 20, ..config() };
    let (id, bytes) = large(1);
    let (other, more) = large(2);
    let name = |id: BlobId| root.path().join(&id.to_string()[..2]).join(id.to_string());
    {
        let cache = made(root.path(), &config);
        let _lock = cache.open().await.unwrap();
        for (id, bytes) in [(id, bytes), (other, more)] {
            cache.admit(whole(id, bytes)).await.kept.unwrap();
            let old = SystemTime::now() - Duration::from_secs(3601);
            let file = fs::File::options().write(true).open(name(id)).unwrap();
            file.set_modified(old).unwrap();
        }
        assert_eq!(held(cache.find(id).await), "memory", "it came just now");
    }
    let cache = made(root.path(), &config);
    let _lock = cache.open().await.unwrap();
    assert_eq!(held(cache.find(id).await), "nowhere");
    assert!(!name(id).exists());
    assert_eq!(cache.scrub(other.0[0], u64::MAX).await.gone, [other]);
    assert_eq!((cache.status().entries, cache.metrics.cache_expired_total.get()), (0, 2));
}

#[tokio::test]
async fn a_disk_that_is_full_or_broken_leaves_memory_to_serve_from() {
    let root = tempfile::tempdir().unwrap();
    let cache = made(root.path(), &Config { memory: 1 << 20, ..config() });
    let _lock = cache.open().await.unwrap();
    cache.files.set_faults(Some(Arc::new(|step| match step {
        Step::Write => Err(io::ErrorKind::StorageFull.into()),
        Step::Read => Err(io::Error::other("on purpose")),
        _ => Ok(()),
    })));
    let (id, bytes) = large(1);
    let failed = cache.admit(whole(id, bytes.clone())).await;
    assert!(matches!(failed.kept, Err(AdmitError::Io(_))));
    assert_eq!(cache.read(id).await, Some(bytes));
    let failures = &cache.metrics.disk_write_failures_total;
    assert_eq!(failures.with_label_values(&["cache"]).get(), 1);
    assert_eq!((cache.status().bytes, on_disk(root.path())), (0, 0));
}

#[tokio::test]
async fn a_snapshot_brings_the_order_back_and_the_folder_has_the_last_word() {
    let root = tempfile::tempdir().unwrap();
    let config = Config { policy: PolicyKind::Frequency, ..config() };
    let file = |id: BlobId| root.path().join(&id.to_string()[..2]).join(id.to_string());
    {
        let cache = made(root.path(), &config);
        let _lock = cache.open().await.unwrap();
        for n in 0..5 {
            let (id, bytes) = blob(n);
            cache.admit(whole(id, bytes)).await.kept.unwrap();
        }
        cache.find(blob(1).0).await.unwrap();
        cache.save().await;
        fs::remove_file(file(blob(2).0)).unwrap();
        let (late, bytes) = blob(9);
        cache.admit(whole(late, bytes)).await.kept.unwrap();
    }
    {
        let cache = made(root.path(), &config);
        let _lock = cache.open().await.unwrap();
        assert_eq!(cache.newest(9), [1, 9, 4, 3, 0].map(|n| blob(n).0));
        assert_eq!(cache.explain(blob(1).0).frequency, 2);
        assert_eq!(cache.len_of(blob(2).0), None);
    }
    let index = root.path().join(snapshot::FILE);
    let mut damaged = fs::read(&index).unwrap();
    damaged[30] ^= 1;
    fs::write(&index, damaged).unwrap();
    let cache = made(root.path(), &config);
    let _lock = cache.open().await.unwrap();
    assert_eq!(cache.status().entries, 5);
    assert_eq!(cache.explain(blob(1).0).frequency, 0);
}

#[tokio::test]
async fn what_only_memory_has_and_is_asked_for_again_comes_to_the_disk() {
    let root = tempfile::tempdir().unwrap();
    let config =
        Config { memory: 1 << 20, capacity: 150_000, free_headroom: 0, ..Config::default() };
    let cache = Arc::new(made(root.path(), &config));
    let _lock = cache.open().await.unwrap();
    let (first, second) = (large(1), large(2));
    cache.admit(whole(first.0, first.1.clone())).await.kept.unwrap();
    cache.find(first.0).await.unwrap();
    assert!(cache.admit(whole(second.0, second.1)).await.kept.is_err());
    let stop = tokio_util::sync::CancellationToken::new();
    let running = tokio::spawn(Runner::new(Arc::clone(&cache), None, &config).run(stop.clone()));
    // The disk is offered it at the second asking, which is as often as the other one was asked for, and
    // at the fourth.
    for _ in 0..3 {
        assert_eq!(held(cache.find(second.0).await), "memory");
    }
    timeout(Duration::from_secs(10), async {
        while cache.explain(second.0).why.is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert_eq!(cache.explain(first.0).tiers, [Tier::Memory]);
    stop.cancel();
    running.await.unwrap();
    assert!(root.path().join(snapshot::FILE).exists(), "the last thing that it does");
}
