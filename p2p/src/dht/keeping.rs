//! The driver's part of what is kept over a restart: taken up at the start, and written as it
//! changes.

use super::{
    Config,
    disk::{self, Batch, Bounds, Disk, Kept, MAX_CONTACTS, MAX_PROVIDED, Writer},
    store::Rank,
    task::{Behaviour, Dht},
};
use crate::Metrics;
use std::{path::Path, time::Instant};

/// The labels of rows that are not taken over, which dashboards see from the start.
pub(crate) const DROPPED: [&str; 4] = ["expired", "malformed", "surplus", "refused"];

/// Reads what was kept in the folder; None where nothing can be kept.
pub(crate) async fn open(
    folder: &Path,
    config: &Config,
    metrics: &Metrics,
    now_ms: u64,
) -> Option<(Writer, Kept)> {
    let bounds = Bounds {
        records: config.store.total,
        providers: config.store.providers,
        provided: config.max_kept.saturating_add(config.max_cached),
        contacts: MAX_CONTACTS,
    };
    disk::open(folder, bounds, config.save_every, metrics, now_ms).await
}

impl Dht {
    /// Takes up what was kept, and keeps from now on what changes.
    pub(crate) fn restore(
        &mut self,
        mut kept: Kept,
        disk: Disk,
        kad: &mut Behaviour,
        now: Instant,
        now_ms: u64,
    ) {
        let reputation = self.reputation.clone();
        let rank = |key: &_| Rank::of(reputation.standing(key));
        let restored = kad.store_mut().restore(&mut kept, rank, now, now_ms);
        self.metrics.kept_dropped.with_label_values(&["refused"]).inc_by(restored.refused);
        self.metrics.kept_clamped.inc_by(restored.clamped);
        self.restore_contacts(kept.contacts);
        self.announcer.restore(kept.provided, now, now_ms);
        self.disk = Some(disk);
    }

    /// Hands what has changed to the writer, if it is time to and the writer is free.
    pub(super) fn save(&mut self, kad: &mut Behaviour, now: Instant, now_ms: u64) {
        let Some(mut disk) = self.disk.take() else { return };
        if disk.due(now) {
            disk.put(self.changes(kad, now, now_ms), now);
        }
        self.disk = Some(disk);
    }

    /// Hands everything that has changed to the writer, which then ends.
    pub(crate) async fn finish(&mut self, kad: &mut Behaviour, now_ms: impl Fn() -> u64) {
        let Some(disk) = self.disk.take() else { return };
        disk.finish(|| self.changes(kad, Instant::now(), now_ms())).await;
    }

    /// What has changed since the last time, as much as a batch takes.
    fn changes(&mut self, kad: &mut Behaviour, now: Instant, now_ms: u64) -> Batch {
        let mut batch = Batch::default();
        kad.store_mut().take_changes(&mut batch, now, now_ms);
        batch.contacts = self.changed_contacts(kad, now, now_ms);
        batch.provided = self.announcer.take_changes(MAX_PROVIDED);
        batch
    }
}
