//! Settings of streams for the shard service.

use crate::BuildError;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Settings of streams for the shard service. Durations are written like `10s`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Streams of one peer at a time that are taken; further ones are closed unread. Default 64, twice
    /// what the shard service answers, so that it can refuse with a code.
    pub inbound_per_peer: usize,
    /// Streams of all peers at a time that are taken. Default 2,048. A request is at most 4 KiB:
    /// 8 MiB that are not read yet.
    pub inbound: usize,
    /// Streams to one peer at a time. Default 32.
    pub outbound_per_peer: usize,
    /// Streams to all peers at a time. Default 512. What comes in piles up only while it is not read.
    pub outbound: usize,
    /// Streams that wait for the shard service to take them. Default 64.
    pub queue: usize,
    /// Calls that wait for a peer to be reached. Default 256, of about 200 bytes.
    pub max_waiting: usize,
    /// For a stream, finding and dialling the peer included. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub open_timeout: Duration,
    /// For its negotiation once there is a connection. Default 3 s.
    #[serde(with = "humantime_serde")]
    pub negotiation_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            inbound_per_peer: 64,
            inbound: 2048,
            outbound_per_peer: 32,
            outbound: 512,
            queue: 64,
            max_waiting: 256,
            open_timeout: Duration::from_secs(10),
            negotiation_timeout: Duration::from_secs(3),
        }
    }
}

impl Config {
    pub(crate) fn validate(&self) -> Result<(), BuildError> {
        let fail = |setting| {
            Err(BuildError::Setting { setting, problem: "must be above zero".to_owned() })
        };
        for (setting, value) in [
            ("shards.inbound_per_peer", self.inbound_per_peer),
            ("shards.inbound", self.inbound),
            ("shards.outbound_per_peer", self.outbound_per_peer),
            ("shards.outbound", self.outbound),
            ("shards.queue", self.queue),
            ("shards.max_waiting", self.max_waiting),
        ] {
            if value == 0 {
                return fail(setting);
            }
        }
        for (setting, value) in [
            ("shards.open_timeout", self.open_timeout),
            ("shards.negotiation_timeout", self.negotiation_timeout),
        ] {
            if value.is_zero() {
                return fail(setting);
            }
        }
        Ok(())
    }
}
