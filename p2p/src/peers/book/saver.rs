//! Writes the peer book now and then, off the driver's task.

use super::{Book, Config, FILE, Saved};
use crate::file;
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::task::{JoinHandle, spawn_blocking};

/// Writes the file, one write at a time and at most one in `save_every`.
pub(crate) struct Saver {
    path: PathBuf,
    every: Duration,
    next: Instant,
    writing: Option<JoinHandle<()>>,
}

impl Saver {
    pub(crate) fn new(folder: &Path, config: &Config, now: Instant) -> Self {
        let (path, every) = (folder.join(FILE), config.save_every);
        Self { path, every, next: now + every, writing: None }
    }

    /// Reads the file; nothing if there is none. Off the caller's task.
    pub(crate) async fn read(folder: &Path) -> Saved {
        let path = folder.join(FILE);
        // Fails only if the runtime shuts down; the driver then ends anyway.
        spawn_blocking(move || file::read(&path)).await.ok().flatten().unwrap_or_default()
    }

    /// Starts writing, if it is time to and the last write has ended.
    pub(crate) fn on_tick(&mut self, book: &mut Book, now: Instant) {
        let busy = self.writing.as_ref().is_some_and(|task| !task.is_finished());
        if now < self.next || busy {
            return;
        }
        if let Some(saved) = book.take_changes() {
            self.next = now + self.every;
            self.writing = Some(self.write(saved));
        }
    }

    /// Writes what is left to write, and waits for it.
    pub(crate) async fn finish(mut self, book: &mut Book) {
        if let Some(task) = self.writing.take() {
            // It has told of its failure, if it failed.
            let _ = task.await;
        }
        if let Some(saved) = book.take_changes() {
            let _ = self.write(saved).await;
        }
    }

    fn write(&self, saved: Saved) -> JoinHandle<()> {
        let path = self.path.clone();
        spawn_blocking(move || {
            if let Err(error) = file::write(&path, &saved) {
                tracing::warn!(%error, "the peer book cannot be written to {}", path.display());
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{addr, book, met, peer},
        *,
    };
    use std::fs;

    #[tokio::test]
    async fn it_writes_once_in_an_interval_and_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let (config, now, mut book) = (Config::default(), Instant::now(), book(10, 100));
        let mut saver = Saver::new(dir.path(), &config, now);
        let written = || fs::read_to_string(dir.path().join(FILE)).unwrap_or_default();
        met(&mut book, 1, 1, true, &[], 1);
        saver.on_tick(&mut book, now + config.save_every - Duration::from_millis(1));
        assert!(saver.writing.is_none(), "not yet");
        saver.on_tick(&mut book, now + config.save_every);
        saver.writing.take().unwrap().await.unwrap();
        assert!(written().contains(&peer(1).to_string()));

        met(&mut book, 2, 1, false, &[addr(1, 1)], 2);
        saver.on_tick(&mut book, now + config.save_every + Duration::from_secs(1));
        assert!(saver.writing.is_none(), "once in an interval");
        saver.finish(&mut book).await;
        assert!(written().contains(&peer(2).to_string()));
        assert_eq!(Saver::read(dir.path()).await.len(), 2);
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_made_costs_only_the_file() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let folder = dir.path().join("file/under");
        let mut book = book(10, 100);
        met(&mut book, 1, 1, true, &[], 1);
        let saver = Saver::new(&folder, &Config::default(), Instant::now());
        saver.finish(&mut book).await;
        assert_eq!(book.len(), 1);
        assert_eq!(Saver::read(&folder).await.len(), 0);
    }
}
