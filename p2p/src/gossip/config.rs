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
    /// Messages that may be waiting for validation or for its verdict to be applied; beyond it new
    /// ones are ignored (`overloaded`). Default 1,024.
    pub validations: usize,
    /// The same in bytes, so that large messages do not fill the memory. Default 64 MiB, which is
    /// also the worst case. At least one message of the largest size fits.
    pub validation_bytes: usize,
    /// Messages a second that an author without a peer binding may send on one topic. Default 10.
    pub unbound_messages: u32,
    /// Bytes of payload a second that it may send on one topic. Default 64 KiB.
    pub unbound_bytes: u32,
    /// For how long what is not used is saved up. Default 16 s, so that one message of 1 MiB, the
    /// largest of the control topics, can be sent at once.
    #[serde(with = "humantime_serde")]
    pub unbound_saved: Duration,
    /// As many times the allowance of one unbound author is what all of them together may send on
    /// one topic. Default 64: 640 messages a second and 4 MiB a second.
    pub unbound_authors: u32,
    /// Unbound authors whose allowance is remembered, by topic; the longest unheard leaves. Default
    /// 4,096. Worst case: 4,096 * 150 bytes = 600 KB.
    pub unbound_table: usize,
    /// Places of a mesh that unbound peers may hold, on average over the topics, while as many bound
    /// peers are connected as a mesh wants. Default 2 (of `mesh`, 6). Does not apply at a node that
    /// is unbound itself.
    pub unbound_mesh: usize,
    /// Peers of one network (/16 of IPv4, /32 of IPv6) that may be in this node's meshes. Default 6
    /// where only global addresses take part, no limit on dev and local chains unless it is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh_per_group: Option<usize>,
    /// Messages of each channel whose numbers are remembered, so that one that somebody numbered anew
    /// is told from a duplicate. Default 16,384. Worst case: twice as many, twice, * 50 bytes = 3.3 MB.
    pub replays: usize,
    /// Peers, and as many addresses, whose faults are remembered after they left; the least guilty
    /// leaves. Default 10,000. Worst case: 10,000 * 2 * 200 bytes = 4 MB.
    pub ledger_size: usize,
    /// In how long a fault weighs half. Default 10 min.
    #[serde(with = "humantime_serde")]
    pub ledger_half_life: Duration,
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
            validations: 1024,
            validation_bytes: 64 << 20,
            unbound_messages: 10,
            unbound_bytes: 64 << 10,
            unbound_saved: Duration::from_secs(16),
            unbound_authors: 64,
            unbound_table: 4096,
            unbound_mesh: 2,
            mesh_per_group: None,
            replays: 16_384,
            ledger_size: 10_000,
            ledger_half_life: Duration::from_secs(600),
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
        // Fewer make no mesh that survives the loss of a few.
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
            ("gossip.validations", self.validations),
            ("gossip.unbound_table", self.unbound_table),
            ("gossip.replays", self.replays),
            ("gossip.ledger_size", self.ledger_size),
            ("gossip.mesh_per_group", self.mesh_per_group.unwrap_or(1)),
        ] {
            if value == 0 {
                return fail(setting, "must be above zero");
            }
        }
        let largest = self.control_max_payload.max(self.bulk_max_payload);
        if self.validation_bytes < largest + super::envelope::OVERHEAD {
            return fail("gossip.validation_bytes", "the largest message must fit");
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(60)).contains(&self.heartbeat) {
            return fail("gossip.heartbeat", "must be between 100ms and 60s");
        }
        // Fading is counted in half-lives, so there must be one.
        if self.ledger_half_life < Duration::from_secs(1) {
            return fail("gossip.ledger_half_life", "must be at least 1s");
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
