//! An index of a million blobs: the memory it takes, and how soon it is open.

use crate::{Failure, Outcome, Outcomes};
use nsn_relay::{
    BlobId, Metrics,
    cache::{self, Bounds, Cache, Index, PolicyKind, Use},
    store::{self, Disk, Files},
};
use serde_json::json;
use std::{
    env, fs,
    io::{Write as _, stderr, stdout},
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};
use tokio::runtime::Runtime;

/// Tells this program to fill an index with so many blobs and to print what that took.
const CHILD: &str = "NSN_BENCH_INDEX";

/// Whether this process was started to fill an index; if so, it has.
pub(crate) fn in_child() -> Result<bool, Failure> {
    let Ok(entries) = env::var(CHILD) else { return Ok(false) };
    let before = resident()?;
    let mut index = fill(entries.parse()?);
    let after = resident()?;
    // It is used, so that nobody leaves it out.
    let held = matches!(index.touch(BlobId::of(&0_u32.to_le_bytes()), 0), Use::Held(_));
    writeln!(stdout(), "{} {held}", after.saturating_sub(before))?;
    Ok(true)
}

fn fill(entries: u32) -> Index {
    let most = usize::try_from(entries).unwrap_or(usize::MAX);
    let bounds = Bounds { capacity: u64::MAX, entries: most, pinned: 0, ttl: 0 };
    let mut index = Index::new(bounds, PolicyKind::Frequency);
    for n in 0..entries {
        let id = BlobId::of(&n.to_le_bytes());
        index.ask(id);
        if let Ok(victims) = index.reserve(id, 1 << 20, 0) {
            index.commit(id, 1 << 20, 0, !victims.is_empty());
        }
        // Half of them are used again, so both lists and the tables over them are full.
        if n % 2 == 0 {
            index.touch(id, 0);
        }
    }
    index
}

/// Bytes of this process that are in memory.
fn resident() -> Result<u64, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    Ok(kilobytes.ok_or("no VmRSS in /proc/self/status")?.parse::<u64>()? * 1024)
}

pub(crate) fn run(quick: bool) -> Outcomes {
    let entries: u32 = if quick { 100_000 } else { 1_000_000 };
    // A process of its own: what others freed would be used again and not be counted.
    let child = Command::new(env::current_exe()?)
        .env(CHILD, entries.to_string())
        .stdout(Stdio::piped())
        .output()?;
    let printed = String::from_utf8(child.stdout)?;
    let bytes: u32 = printed.split_whitespace().next().ok_or("the child said nothing")?.parse()?;

    let runtime = Runtime::new()?;
    let root = tempfile::tempdir()?;
    writeln!(stderr(), "writing {entries} small blobs ...")?;
    write_blobs(root.path(), entries)?;
    let (without, found) = runtime.block_on(open(root.path()))?;
    let (with, found_again) = runtime.block_on(open(root.path()))?;
    if found != found_again || found != usize::try_from(entries)? {
        return Err(format!("found {found} and {found_again} of {entries}").into());
    }
    Ok(vec![
        Outcome {
            bench: "relay.index.bytes_per_entry",
            value: f64::from(bytes) / f64::from(entries),
            unit: "bytes",
            better: "lower",
            target: Some(200.0),
            detail: json!({ "entries": entries, "resident_bytes": bytes }),
        },
        Outcome {
            bench: "relay.index.open_ms",
            value: without.max(with),
            unit: "ms",
            better: "lower",
            target: Some(5_000.0),
            detail: json!({
                "entries": entries,
                "without_snapshot_ms": without,
                "with_snapshot_ms": with,
                "page_cache": "warm",
            }),
        },
    ])
}

fn write_blobs(root: &Path, entries: u32) -> Result<(), Failure> {
    for folder in 0..=u8::MAX {
        fs::create_dir(root.join(format!("{folder:02x}")))?;
    }
    for n in 0..entries {
        let bytes = n.to_le_bytes();
        let name = BlobId::of(&bytes).to_string();
        let (folder, _) = name.split_at(2);
        fs::write(root.join(folder).join(&name), bytes)?;
    }
    Ok(())
}

/// Opens a cache as a service does before it listens, in milliseconds, and leaves a snapshot.
async fn open(root: &Path) -> Result<(f64, usize), Failure> {
    let metrics = Metrics::unregistered();
    let disk = Disk::new(8, metrics.clone());
    let files = Files::new(root.to_owned(), &store::Config::default(), disk);
    let cache = Cache::new(files, &cache::Config::default(), metrics);
    let started = Instant::now();
    let _lock = cache.open().await?;
    let took = started.elapsed().as_secs_f64() * 1000.0;
    cache.save().await;
    Ok((took, cache.status().entries))
}
