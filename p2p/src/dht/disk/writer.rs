//! The task that writes, and how it comes by its file.

use super::{
    Batches, Bounds, Dropped, Kept,
    file::{self, OpenError},
};
use crate::Metrics;
use redb::Database;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};

/// Name of the file in the overlay's folder.
const FILE: &str = "directory.redb";

/// How long an overlay that was rebuilt waits for the one before it to let go of the file, which
/// ends within `close_timeout`, and how often it looks.
const HELD_FOR: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Writes batches into the file, one at a time.
pub(crate) struct Writer {
    path: PathBuf,
    /// None after a failure: redb refuses everything until the file is opened again.
    db: Option<Database>,
    metrics: Metrics,
    /// Wait after a failure.
    retry: Duration,
    failing: bool,
}

/// Opens the file in the folder, off the caller's task. A file that is of no use is put aside and
/// begun anew, with one warning; where none can be used, nothing is kept, with one warning.
pub(crate) async fn open(
    folder: &Path,
    bounds: Bounds,
    retry: Duration,
    metrics: &Metrics,
    now_ms: u64,
) -> Option<(Writer, Kept)> {
    let path = folder.join(FILE);
    let opened = match attempt(&path, bounds, now_ms).await {
        Err(OpenError::Unusable(why)) => {
            let aside = path.clone();
            let moved = spawn_blocking(move || file::put_aside(&aside)).await;
            let moved = moved.unwrap_or_else(|panicked| Err(panicked.into()));
            let anew = match moved {
                Ok(()) => attempt(&path, bounds, now_ms).await,
                Err(error) => Err(OpenError::from(error)),
            };
            let kept = match &anew {
                Ok(_) => "it is begun anew, and the old one kept with the ending .bad".to_owned(),
                Err(error) => format!("nothing of the directory is kept: {error}"),
            };
            tracing::warn!("{} cannot be read: {why}; {kept}", path.display());
            anew.ok()
        }
        Err(OpenError::Trouble(error)) => {
            let path = path.display();
            tracing::warn!("{path} cannot be opened, nothing of the directory is kept: {error}");
            None
        }
        Ok(opened) => Some(opened),
    };
    let (db, kept, dropped) = opened?;
    for (reason, count) in dropped.by_reason() {
        metrics.kept_dropped.with_label_values(&[reason]).inc_by(count);
    }
    tracing::info!(
        records = kept.records.len(),
        provided = kept.provided.len(),
        contacts = kept.contacts.len(),
        "directory read"
    );
    let metrics = metrics.clone();
    Some((Writer { path, db: Some(db), metrics, retry, failing: false }, kept))
}

/// Opens or makes the file, waiting a little for whoever holds it.
async fn attempt(
    path: &Path,
    bounds: Bounds,
    now_ms: u64,
) -> Result<(Database, Kept, Dropped), OpenError> {
    let once = || {
        let path = path.to_owned();
        spawn_blocking(move || file::open(&path, bounds, now_ms))
    };
    let until_free = async {
        loop {
            match once().await {
                Ok(Err(OpenError::Trouble(redb::Error::DatabaseAlreadyOpen))) => {
                    sleep(LOOK_EVERY).await;
                }
                Ok(result) => break result,
                // redb trusts what it wrote: a file that something else has altered can make it
                // panic.
                Err(panicked) => break Err(OpenError::Unusable(panicked.to_string())),
            }
        }
    };
    let held = OpenError::Trouble(redb::Error::DatabaseAlreadyOpen);
    timeout(HELD_FOR, until_free).await.unwrap_or(Err(held))
}

impl Writer {
    /// Writes what comes until nothing comes any more. A batch that cannot be written is tried again
    /// until it can, or until no time is left for it.
    pub(crate) async fn run(mut self, mut batches: Batches) {
        while let Some(batch) = batches.queue.recv().await {
            let batch = Arc::new(batch);
            while let Err(error) = self.write(&batch).await {
                self.metrics.kept_failures.inc();
                if !std::mem::replace(&mut self.failing, true) {
                    let path = self.path.display();
                    tracing::warn!("the directory cannot be written to {path}: {error}");
                }
                if batches.closing.is_cancelled() {
                    return;
                }
                tokio::select! {
                    () = sleep(self.retry) => {}
                    () = batches.closing.cancelled() => {}
                }
            }
            if std::mem::take(&mut self.failing) {
                tracing::info!("the directory is written again");
            }
        }
    }

    async fn write(&mut self, batch: &Arc<super::Batch>) -> Result<(), String> {
        let (db, path, batch) = (self.db.take(), self.path.clone(), batch.clone());
        let write = move || {
            let db = db.map_or_else(|| file::reopen(&path), Ok)?;
            let bytes = file::write(&db, &batch)?;
            Ok::<_, redb::Error>((db, bytes))
        };
        let written = spawn_blocking(write).await.map_err(|panicked| panicked.to_string())?;
        let (db, bytes) = written.map_err(|error| error.to_string())?;
        self.db = Some(db);
        self.metrics.kept_batches.inc();
        self.metrics.kept_bytes.inc_by(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Batch, Disk, KeptRecord},
        *,
    };
    use crate::dht::Key;
    use std::{
        fs, io,
        sync::{Mutex, PoisonError},
        time::Instant,
    };
    use tracing_subscriber::fmt::MakeWriter;

    const BOUNDS: Bounds = Bounds { records: 1000, providers: 10, provided: 10, contacts: 10 };

    const RETRY: Duration = Duration::from_millis(20);

    /// Lines that were logged.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Log {
        fn lines(&self) -> Vec<String> {
            let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
        }
    }

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Log {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    /// Warnings of this thread from now on.
    fn warnings() -> (Log, tracing::subscriber::DefaultGuard) {
        let log = Log::default();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(log.clone())
            .with_max_level(tracing::Level::WARN)
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn batch(n: u32) -> Batch {
        let record = KeptRecord { key: Key::test(n), provider: [1; 32], expires_ms: 5000 };
        Batch { records: vec![record], ..Batch::default() }
    }

    async fn opened(folder: &Path, metrics: &Metrics) -> Option<(Writer, Kept)> {
        open(folder, BOUNDS, RETRY, metrics, 1000).await
    }

    /// Writes the batches and waits for the writer's end.
    async fn written(writer: Writer, batches: Vec<Batch>) {
        let (disk, queue) = Disk::new(RETRY, Instant::now());
        let mut batches = batches.into_iter();
        let finish = disk.finish(|| batches.next().unwrap_or_default());
        futures::join!(writer.run(queue), finish);
    }

    #[tokio::test]
    async fn everything_handed_over_is_there_after_the_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (log, _guard) = warnings();
        let metrics = Metrics::unregistered().unwrap();
        let (writer, _) = opened(dir.path(), &metrics).await.unwrap();
        written(writer, (1..=5).map(batch).collect()).await;
        assert_eq!((metrics.kept_batches.get(), metrics.kept_bytes.get()), (5, 5 * 72));
        let (_, kept) = opened(dir.path(), &metrics).await.unwrap();
        assert_eq!(kept.records.len(), 5);
        assert_eq!(metrics.kept_failures.get(), 0);
        assert!(log.lines().is_empty(), "{:?}", log.lines());
    }

    #[tokio::test]
    async fn a_file_of_no_use_is_put_aside_and_begun_anew_with_one_warning() {
        let metrics = Metrics::unregistered().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let (writer, _) = opened(dir.path(), &metrics).await.unwrap();
        written(writer, vec![batch(1)]).await;
        let good = fs::read(&path).unwrap();
        let mut zeros = good.clone();
        zeros[4096..].fill(0);
        let foreign = {
            let path = dir.path().join("foreign");
            let db = Database::create(&path).unwrap();
            let write = db.begin_write().unwrap();
            let table = redb::TableDefinition::<u64, u64>::new("records");
            write.open_table(table).unwrap().insert(1, 1).unwrap();
            write.commit().unwrap();
            drop(db);
            fs::read(&path).unwrap()
        };
        let newer = {
            fs::write(&path, &good).unwrap();
            let db = Database::open(&path).unwrap();
            let write = db.begin_write().unwrap();
            let meta = redb::TableDefinition::<&str, u32>::new("meta");
            write.open_table(meta).unwrap().insert("version", 2).unwrap();
            write.commit().unwrap();
            drop(db);
            fs::read(&path).unwrap()
        };
        let bad = [
            ("empty", Vec::new()),
            ("short", good[..100].to_vec()),
            ("half", good[..good.len() / 2].to_vec()),
            ("text", b"{ \"peers\": [] }".repeat(1000)),
            ("zeros", zeros),
            ("foreign", foreign),
            ("newer", newer),
        ];
        for (what, bytes) in bad {
            let (log, _guard) = warnings();
            fs::write(&path, &bytes).unwrap();
            let (writer, kept) = opened(dir.path(), &metrics).await.unwrap();
            assert!(kept.records.is_empty(), "{what}");
            assert_eq!(log.lines().len(), 1, "{what}: {:?}", log.lines());
            // Redb may have mended it before it was seen to be foreign.
            assert!(path.with_extension("bad").exists(), "{what}");
            fs::remove_file(path.with_extension("bad")).unwrap();
            written(writer, vec![batch(1)]).await;
            let (_, kept) = opened(dir.path(), &metrics).await.unwrap();
            assert_eq!(kept.records.len(), 1, "{what}");
            assert_eq!(log.lines().len(), 1, "{what}");
        }
    }

    #[tokio::test]
    async fn where_nothing_can_be_kept_the_node_goes_on_with_one_warning() {
        let (log, _guard) = warnings();
        let metrics = Metrics::unregistered().unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(opened(&dir.path().join("file/under"), &metrics).await.is_none());
        assert_eq!(log.lines().len(), 1, "{:?}", log.lines());
    }

    #[tokio::test]
    async fn a_disk_that_fails_is_one_warning_and_what_waits_is_written_when_it_works_again() {
        let (log, _guard) = warnings();
        let metrics = Metrics::unregistered().unwrap();
        let (dir, good) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (writer, _) = opened(good.path(), &metrics).await.unwrap();
        written(writer, vec![batch(1)]).await;
        let path = dir.path().join(FILE);
        let writer = Writer {
            path: path.clone(),
            db: None,
            metrics: metrics.clone(),
            retry: RETRY,
            failing: false,
        };
        let (mut disk, queue) = Disk::new(RETRY, Instant::now());
        disk.put(batch(2), Instant::now());
        let task = tokio::spawn(writer.run(queue));
        while metrics.kept_failures.get() < 3 {
            sleep(RETRY).await;
        }
        // At once, as a disk that comes back does.
        fs::copy(good.path().join(FILE), dir.path().join("copy")).unwrap();
        fs::rename(dir.path().join("copy"), &path).unwrap();
        while metrics.kept_batches.get() < 2 {
            sleep(RETRY).await;
        }
        disk.finish(Batch::default).await;
        task.await.unwrap();
        let (_, kept) = opened(dir.path(), &metrics).await.unwrap();
        assert_eq!(kept.records.len(), 2);
        assert_eq!(log.lines().len(), 1, "{:?}", log.lines());
    }

    #[tokio::test]
    async fn a_disk_that_fails_does_not_keep_the_node_from_ending() {
        let dir = tempfile::tempdir().unwrap();
        let metrics = Metrics::unregistered().unwrap();
        let writer = Writer {
            path: dir.path().join(FILE),
            db: None,
            metrics: metrics.clone(),
            retry: Duration::from_secs(3600),
            failing: false,
        };
        written(writer, (1..100).map(batch).collect()).await;
        assert_eq!((metrics.kept_failures.get(), metrics.kept_batches.get()), (1, 0));
    }

    #[tokio::test]
    async fn a_copy_made_while_it_is_written_is_read_or_begun_anew() {
        let metrics = Metrics::unregistered().unwrap();
        let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (writer, _) = opened(dir.path(), &metrics).await.unwrap();
        let (mut disk, queue) = Disk::new(Duration::ZERO, Instant::now());
        let task = tokio::spawn(writer.run(queue));
        let (from, to) = (dir.path().join(FILE), copy.path().join(FILE));
        for n in 0..20 {
            while !disk.due(Instant::now()) {
                tokio::task::yield_now().await;
            }
            disk.put(batch(n), Instant::now());
            let (from, to) = (from.clone(), to.clone());
            spawn_blocking(move || fs::copy(from, to)).await.unwrap().unwrap();
            let (_, kept) = opened(copy.path(), &metrics).await.unwrap();
            assert!(kept.records.len() <= 20);
        }
        disk.finish(Batch::default).await;
        task.await.unwrap();
        let (_, kept) = opened(dir.path(), &metrics).await.unwrap();
        assert_eq!(kept.records.len(), 20);
    }
}
