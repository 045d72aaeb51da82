//! Many things done to one cache at once, in orders that shuttle chooses.
//!
//! It is the cache that is in use, over real files. Its disk runs each operation where it is asked for
//! and gives the turn away before and after it, so shuttle decides what happens between any two
//! operations and at every lock that is waited for.

use super::{tests::whole, *};
use crate::{
    store::{self, Disk},
    tests::world,
};
use bytes::Bytes;
use shuttle::{
    future::{JoinHandle, block_on, spawn},
    scheduler::RandomScheduler,
};
use std::{fs, path::Path};

/// A blob of two groups and its hashes.
const LEN: usize = 20_000;
const ON_DISK: u64 = 20_064;

fn cache(root: &Path, policy: PolicyKind) -> Cache {
    let metrics = Metrics::unregistered();
    let files =
        Files::new(root.to_owned(), &store::Config::default(), Disk::stepping(metrics.clone()));
    let config = Config {
        capacity: 2 * ON_DISK,
        min_capacity: ON_DISK,
        free_headroom: 1000,
        policy,
        pinned_percent: 90,
        memory: 0,
        writers: 2,
        ..Config::default()
    };
    Cache::new(files, &config, metrics)
}

fn blob(n: u64) -> (BlobId, Bytes) {
    let (id, bytes) = world::blob(LEN, n);
    (id, bytes.into())
}

/// Bytes of the blobs that lie on disk, without their hashes.
fn on_disk(root: &Path) -> u64 {
    let folders = fs::read_dir(root).unwrap().map(|entry| entry.unwrap());
    let blobs = folders.filter(|entry| entry.file_name().len() == 2);
    let files = blobs.flat_map(|folder| fs::read_dir(folder.path()).unwrap());
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

/// What is done at once: each number is what a task does, to blobs 0 to 2.
fn tasks(cache: &Arc<Cache>, root: &Path) -> Vec<JoinHandle<()>> {
    let task = |what: u64| {
        let (cache, root) = (Arc::clone(cache), root.to_owned());
        spawn(async move {
            let (id, bytes) = blob(what % 3);
            match what {
                0..=3 => {
                    let _ = cache.admit(whole(id, bytes)).await;
                }
                4..=5 => {
                    if let Some(read) = cache.read(id).await {
                        assert_eq!(read, bytes);
                    }
                }
                6 => {
                    cache.purge(id).await;
                }
                7 => {
                    let _ = cache.pin(id).await;
                    cache.unpin(id).await;
                }
                8 => {
                    cache.scrub(id.0[0], u64::MAX).await;
                }
                _ => {
                    cache.fit_to(0).await;
                }
            }
            // Pins and outboards are not counted in the bound.
            assert!(on_disk(&root) <= 2 * ON_DISK);
        })
    };
    (0..10).map(task).collect()
}

fn in_any_order(policy: PolicyKind) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let check = move || {
        let _clock = runtime.enter();
        let root = tempfile::tempdir_in(memory()).unwrap();
        let cache = Arc::new(cache(root.path(), policy));
        block_on(async {
            // Without the scan's sorting, which wants threads of its own.
            let _lock = cache.files.open().await.unwrap();
            for task in tasks(&cache, root.path()) {
                task.await.unwrap();
            }
            // Now that all is quiet, index and disk are one.
            let held = cache.newest(usize::MAX);
            assert_eq!(on_disk(root.path()), u64::try_from(held.len() * LEN).unwrap());
            assert_eq!(cache.status().bytes, u64::try_from(held.len()).unwrap() * ON_DISK);
            for n in 0..3 {
                let (id, bytes) = blob(n);
                let expected = held.contains(&id).then_some(bytes);
                assert_eq!(cache.read(id).await, expected, "blob {n}");
            }
            // No room is kept for a write that is over.
            let mut index = lock(&cache.index);
            let free =
                u32::try_from(index.capacity().saturating_sub(index.bytes())).unwrap().min(10_000);
            if free > 0 {
                assert_eq!(index.reserve(blob(9).0, free, 0), Ok(Vec::new()));
            }
        });
    };
    let mut config = shuttle::Config::new();
    // Its 32 KiB are too few for debug code that hashes blobs and writes files.
    config.stack_size = 1024 * 1024;
    shuttle::Runner::new(RandomScheduler::new(300), config).run(check);
}

/// Where syncing costs nothing, if there is such a place.
fn memory() -> &'static Path {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory } else { Path::new("/tmp") }
}

#[test]
fn in_whatever_order_index_and_disk_agree_in_the_end_by_time_of_use() {
    in_any_order(PolicyKind::Lru);
}

#[test]
fn in_whatever_order_index_and_disk_agree_in_the_end_by_frequency() {
    in_any_order(PolicyKind::Frequency);
}
