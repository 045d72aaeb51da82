//! A process that is killed at every point at which something changes on disk.
//!
//! The test runs itself as a child that fills a cache, and has it killed (SIGKILL) at its first step,
//! its second, and so on to the end. Before and after each thing that it does, the child notes which
//! blobs have to be there whatever happens. After each kill the cache is opened again.

use super::{tests::whole, *};
use crate::{
    store::{self, Disk},
    tests::world,
};
use bytes::Bytes;
use nix::sys::signal::{Signal, raise};
use std::{
    fs,
    io::Write as _,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

const FOLDER: &str = "NSN_CRASH_FOLDER";
const STEP: &str = "NSN_CRASH_STEP";

/// Bytes of a blob: three groups, so it has an outboard.
const LEN: usize = 40_000;
/// Blobs that fit.
const FIT: u64 = 4;

fn cache(root: &Path) -> Cache {
    let metrics = Metrics::unregistered();
    let disk = Disk::new(1, metrics.clone());
    let files = Files::new(root.to_owned(), &store::Config::default(), disk);
    let config = Config {
        capacity: FIT * (LEN as u64 + 128),
        policy: PolicyKind::Lru,
        memory: 0,
        free_headroom: 0,
        ..Config::default()
    };
    Cache::new(files, &config, metrics)
}

fn blob(n: u64) -> (BlobId, Bytes) {
    let (id, bytes) = world::blob(LEN, n);
    (id, bytes.into())
}

/// Notes what has to be there from now on.
struct Notes(fs::File);

impl Notes {
    fn must(&mut self, blobs: impl Iterator<Item = u64>) {
        let line: Vec<_> = blobs.map(|n| n.to_string()).collect();
        self.0.write_all(format!("{}\n", line.join(" ")).as_bytes()).unwrap();
    }
}

#[tokio::test]
async fn child() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let folder = Path::new(&folder);
    let last: usize = std::env::var(STEP).unwrap().parse().unwrap();
    let steps = AtomicUsize::new(0);
    let cache = cache(&folder.join("relay"));
    let _lock = cache.open().await.unwrap();
    cache.files.set_faults(Some(Arc::new(move |_| {
        if steps.fetch_add(1, SeqCst) == last {
            raise(Signal::SIGKILL).unwrap();
        }
        Ok(())
    })));
    let mut notes = Notes(fs::File::create(folder.join("notes")).unwrap());
    for n in 0..7 {
        let (id, bytes) = blob(n);
        notes.must((n + 1).saturating_sub(FIT)..n);
        cache.admit(whole(id, bytes)).await.kept.unwrap();
        notes.must((n + 1).saturating_sub(FIT)..=n);
    }
    cache.pin(blob(4).0).await.unwrap();
    cache.save().await;
    notes.must(4..=6);
    cache.purge(blob(3).0).await;
    // One goes bad, is put aside, and comes again.
    let (id, bytes) = blob(5);
    notes.must([4, 6].into_iter());
    let name = id.to_string();
    fs::write(folder.join("relay").join(&name[..2]).join(&name), vec![0; LEN]).unwrap();
    assert!(cache.read(id).await.is_none());
    cache.admit(whole(id, bytes)).await.kept.unwrap();
    notes.must(4..=6);
    cache.unpin(blob(4).0).await;
    cache.save().await;
}

async fn held_after(folder: &Path) -> Vec<u64> {
    let started = Instant::now();
    let cache = cache(&folder.join("relay"));
    let _lock = cache.open().await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(5));
    let mut held = Vec::new();
    for n in 0..7 {
        let (id, bytes) = blob(n);
        if let Some(read) = cache.read(id).await {
            assert_eq!(read, bytes, "blob {n}");
            held.push(n);
        }
    }
    assert_eq!(cache.metrics.disk_read_failures_total.with_label_values(&["cache"]).get(), 0);
    assert!(cache.status().bytes <= cache.status().capacity);
    assert_eq!(fs::read_dir(folder.join("relay/tmp")).unwrap().count(), 0);
    // And it takes what comes.
    let (id, bytes) = blob(100);
    cache.admit(whole(id, bytes.clone())).await.kept.unwrap();
    assert_eq!(cache.read(id).await, Some(bytes));
    held
}

#[tokio::test]
async fn killed_at_any_step_it_loses_nothing_complete_and_serves_no_wrong_byte() {
    let mut kills = 0;
    for step in 0.. {
        let folder = tempfile::tempdir().unwrap();
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "cache::crash::child", "--nocapture"])
            .env(FOLDER, folder.path())
            .env(STEP, step.to_string())
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        let notes = fs::read_to_string(folder.path().join("notes")).unwrap();
        let must: Vec<u64> = notes
            .lines()
            .last()
            .unwrap_or("")
            .split_whitespace()
            .map(|n| n.parse().unwrap())
            .collect();
        let held = held_after(folder.path()).await;
        assert!(must.iter().all(|n| held.contains(n)), "step {step}: {must:?} but {held:?}");
        if status.success() {
            assert_eq!(held, [4, 5, 6]);
            break;
        }
        assert_eq!(status.signal(), Some(9), "step {step}");
        kills += 1;
    }
    eprintln!("killed at {kills} steps");
    assert!(kills > 80, "{kills}");
}
