//! Keeps the bans over a restart, away from the swarm's task.

use super::Ban;
use crate::file;
use std::path::PathBuf;
use tokio::{sync::watch, task::spawn_blocking};

/// The file's name in the overlay's folder.
const FILE: &str = "bans.json";

/// The bans that were kept in the folder.
pub(crate) async fn load(dir: Option<PathBuf>) -> Vec<Ban> {
    let Some(dir) = dir else { return Vec::new() };
    // Fails only if reading panicked, which it does not, or the runtime is gone.
    spawn_blocking(move || file::read(&dir.join(FILE))).await.ok().flatten().unwrap_or_default()
}

/// Writes what changes: one writer at a time, always the newest state. Ends once the sender is gone
/// and what it sent last is written.
pub(crate) async fn keep(dir: Option<PathBuf>, mut changes: watch::Receiver<Vec<Ban>>) {
    while changes.changed().await.is_ok() {
        let Some(dir) = dir.clone() else { continue };
        let bans = changes.borrow_and_update().clone();
        let written = spawn_blocking(move || file::write(&dir.join(FILE), &bans)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "bans cannot be written and will not outlast a restart");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connections::BanTarget;

    #[tokio::test]
    async fn the_newest_state_is_on_disk_when_the_writer_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = Some(dir.path().join("overlay"));
        assert_eq!(load(path.clone()).await, []);
        let (sender, changes) = watch::channel(Vec::new());
        let writer = tokio::spawn(keep(path.clone(), changes));
        let ban = |n| {
            let target = BanTarget::Ip([9, 9, 9, n].into());
            Ban::new(target, None, "test".to_owned(), 0).unwrap()
        };
        for n in 0..100 {
            sender.send_replace(vec![ban(n)]);
        }
        drop(sender);
        writer.await.unwrap();
        assert_eq!(load(path).await, [ban(99)]);
    }
}
