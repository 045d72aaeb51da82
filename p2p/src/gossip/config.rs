//! Settings of gossip.

use crate::BuildError;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Gossip settings. Durations are written like `10s`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Largest payload on the control topics, in bytes. Default 1 MiB.
    pub control_max_payload: usize,
    /// Largest payload on `video`, in bytes. Default 16 MiB.
    pub bulk_max_payload: usize,
    /// Messages that may wait for one peer on the control topics; a full queue drops the message
    /// for that peer and costs it score. Default 128. Worst case: messages of others go to at most
    /// 12 mesh peers, 12 * 128 * 1 MiB = 1.5 GiB; this node's own go to all 256, so 32 GiB if its
    /// programs published 128 messages of full size within the 10 s after which they expire.
    pub control_queue: usize,
    /// Messages that may wait for one peer on `video`. Default 8. Worst case: without flood publish
    /// a message goes to at most 12 mesh peers, so 12 * 8 * 16 MiB = 1.5 GiB.
    pub bulk_queue: usize,
    /// Heartbeat of both behaviours. Default 1 s.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// Wanted, fewest and most peers in a mesh. Default 6, 4, 12.
    pub mesh: usize,
    /// See `mesh`.
    pub mesh_low: usize,
    /// See `mesh`.
    pub mesh_high: usize,
    /// Lifetime given to messages published here. Default 60 s.
    #[serde(with = "humantime_serde")]
    pub ttl: Duration,
    /// Longest lifetime of a received message that counts. Ids are remembered as long, so a message
    /// cannot be replayed while it is still valid. Default 120 s. Worst case: 1,000 messages a
    /// second * 130 s * 100 bytes = 13 MB.
    #[serde(with = "humantime_serde")]
    pub max_ttl: Duration,
    /// How far the clocks of two nodes may differ. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub max_skew: Duration,
    /// Calls to publish that may wait; beyond it a call answers `Busy`. Default 64. Worst case:
    /// 64 * 16 MiB = 1 GiB if local callers queue nothing but the largest payloads.
    pub publish_queue: usize,
    /// Messages kept for a slow subscriber of a control topic, the newest; older ones are dropped
    /// and counted. Default 256. Worst case: 256 * 1 MiB a topic.
    pub control_backlog: usize,
    /// The same for `video`. Default 16. Worst case: 16 * 16 MiB = 256 MiB.
    pub bulk_backlog: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            control_max_payload: 1 << 20,
            bulk_max_payload: 16 << 20,
            control_queue: 128,
            bulk_queue: 8,
            heartbeat: Duration::from_secs(1),
            mesh: 6,
            mesh_low: 4,
            mesh_high: 12,
            ttl: Duration::from_secs(60),
            max_ttl: Duration::from_secs(120),
            max_skew: Duration::from_secs(10),
            publish_queue: 64,
            control_backlog: 256,
            bulk_backlog: 16,
        }
    }
}

impl Config {
    /// Largest payload on a topic.
    pub fn max_payload(&self, topic: super::Topic) -> usize {
        match topic.channel() {
            super::Channel::Control => self.control_max_payload,
            super::Channel::Bulk => self.bulk_max_payload,
        }
    }

    pub(crate) fn validate(&self) -> Result<(), BuildError> {
        let fail = |setting, problem: &str| {
            Err(BuildError::Setting { setting, problem: problem.to_owned() })
        };
        // Half of the mesh must be able to be outbound (2), see `params`.
        if !(4..=self.mesh).contains(&self.mesh_low) || self.mesh > self.mesh_high {
            return fail("gossip.mesh", "mesh_low (4 or more) <= mesh <= mesh_high must hold");
        }
        for (setting, value) in [
            ("gossip.control_queue", self.control_queue),
            ("gossip.bulk_queue", self.bulk_queue),
            ("gossip.publish_queue", self.publish_queue),
            ("gossip.control_backlog", self.control_backlog),
            ("gossip.bulk_backlog", self.bulk_backlog),
            ("gossip.control_max_payload", self.control_max_payload),
            ("gossip.bulk_max_payload", self.bulk_max_payload),
        ] {
            if value == 0 {
                return fail(setting, "must be above zero");
            }
        }
        if self.heartbeat < Duration::from_millis(100) {
            return fail("gossip.heartbeat", "must be at least 100ms");
        }
        // Envelopes carry their lifetime in a u32 of milliseconds.
        if self.ttl > self.max_ttl || self.max_ttl > Duration::from_secs(24 * 3600) {
            return fail("gossip.max_ttl", "ttl <= max_ttl <= 24h must hold");
        }
        if self.max_skew > self.max_ttl {
            return fail("gossip.max_skew", "must be at most max_ttl");
        }
        Ok(())
    }
}
