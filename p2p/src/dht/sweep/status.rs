//! How far the sweep is.

use super::{
    Sweep, is_lookup, is_tell,
    prefix::Prefix,
    provided::{Kind, place},
};
use serde::Serialize;
use std::{collections::HashSet, time::Instant};

/// Most regions that are counted for the status, which takes 1 ms then.
const MAX_REGIONS: usize = 1024;

/// Overdue keys looked at for the status, the longest overdue first.
const MAX_OVERDUE: usize = 1024;

/// What the sweep has done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Lookups made.
    pub lookups: u64,
    /// Times a peer was told a batch of records.
    pub tells: u64,
    /// Records in these.
    pub records: u64,
    /// Records read back from peers after a visit.
    pub read_backs: u64,
    /// Times a peer did not take what it was told, or had lost it.
    pub retries: u64,
    /// Keys announced, renewals included.
    pub announced: u64,
    /// Announcements and renewals of keys that failed, and are tried again.
    pub failed: u64,
    /// Visits of regions that have ended.
    pub visits: u64,
}

/// The sweep as it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SweepStatus {
    /// Keys provided for good.
    pub kept: usize,
    /// Keys provided while they are cached.
    pub cached: usize,
    /// Keys of the time before the restart that were not provided again yet.
    pub unclaimed: usize,
    /// Keys that no other peer has been told of yet.
    pub unannounced: usize,
    /// Regions that this node's keys are in; at most 1,024 are counted.
    pub regions: usize,
    /// Those of them without a key that is due or in hand.
    pub regions_done: usize,
    /// Seconds that the longest overdue key has waited.
    pub lag_seconds: u64,
    /// Regions being visited.
    pub visits: usize,
    /// Lookups in flight.
    pub lookups: usize,
    /// Peers being told.
    pub tells: usize,
    /// Peers in the network, as far as lookups tell.
    pub network_size: Option<u64>,
    /// What was done since the start.
    pub done: Counts,
}

impl Sweep {
    /// The sweep as it stands.
    pub(crate) fn status(&self, now: Instant) -> SweepStatus {
        let depth = self.atlas.depth().unwrap_or(0);
        let regions = self.provided.regions(depth, MAX_REGIONS);
        let due = self.provided.overdue(now, MAX_OVERDUE);
        let mut open: HashSet<Prefix> = due.map(|key| Prefix::of(place(key), depth)).collect();
        open.extend(self.visits.iter().filter_map(|(_, visit)| visit.region()));
        let waiting = [Kind::New, Kind::Renewal].map(|kind| self.provided.first(kind));
        let since = waiting.into_iter().flatten().map(|(due, _)| due);
        let since = since.chain(self.visits.iter().map(|(_, visit)| visit.since())).min();
        SweepStatus {
            kept: self.provided.kept(),
            cached: self.provided.cached(),
            unclaimed: self.unclaimed.len(),
            unannounced: self.provided.unannounced(),
            regions,
            regions_done: regions.saturating_sub(open.len()),
            lag_seconds: since.map_or(0, |since| now.saturating_duration_since(since).as_secs()),
            visits: self.visits.len(),
            lookups: self.in_flight_of(is_lookup),
            tells: self.in_flight_of(is_tell),
            network_size: self.atlas.size(),
            done: self.counts,
        }
    }
}
