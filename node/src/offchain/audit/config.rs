//! Settings of the auditor.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Settings of audits, which a validator makes of those who serve shards.
///
/// What it costs at worst: `parallel` QUIC connections that take in 64 KiB each (1 MiB while a
/// manifest is fetched) over one UDP socket; 16 KiB to hash for a probe; about 12 MB of memory, most
/// of it manifests. In a window of 100 blocks and with 640 subjects (a validator of 100, at 1,000
/// subjects) that is 13 probes a second. All of it runs on the services' own threads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Audit and report when this node is a validator. Default: true.
    pub enabled: bool,
    /// Probes of one subject in a window, 1 to 15. Default 3.
    pub probes: u8,
    /// Tries of one probe while the subject is busy until the deadline. Default 3.
    pub tries: u8,
    /// Probes and lookups at the same time. Default 8.
    pub parallel: usize,
    /// Lookups in the directory in a window, for what the subjects hold and did not announce.
    /// Default 16.
    pub lookups: usize,
    /// For one probe, from the first packet to the verified bytes. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
    /// For a subject's service record, finding and dialling it included. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub record_timeout: Duration,
    /// Bytes of manifests that are kept. Default 8 MiB. Of a content whose manifest is longer than a
    /// quarter of this (at 1 MiB a shard: 56 GiB of video), only the manifest is asked for.
    pub manifest_bytes: u32,
    /// Connections of probes.
    pub probe: nsn_relay::client::probe::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            probes: 3,
            tries: 3,
            parallel: 8,
            lookups: 16,
            deadline: Duration::from_secs(5),
            record_timeout: Duration::from_secs(5),
            manifest_bytes: 8 * 1024 * 1024,
            probe: nsn_relay::client::probe::Config::default(),
        }
    }
}

impl Config {
    /// Checks the bounds.
    ///
    /// # Errors
    /// A sentence that names the setting and what it may be.
    pub fn validate(&self) -> Result<(), String> {
        let wrong = |text: &str| Err(text.to_owned());
        if !(1..=15).contains(&self.probes) {
            return wrong("probes must be 1 to 15");
        }
        if self.tries == 0 || self.parallel == 0 {
            return wrong("tries and parallel must be at least 1");
        }
        if self.parallel > MAX_PARALLEL {
            return wrong("parallel must be at most 64");
        }
        if self.deadline.is_zero() || self.record_timeout.is_zero() {
            return wrong("deadline and record_timeout must be above zero");
        }
        Ok(())
    }

    /// Bytes of the longest manifest that is fetched whole.
    pub(super) fn manifest_most(&self) -> u32 {
        self.manifest_bytes / 4
    }
}

/// More at the same time would be felt by the node's own viewers.
const MAX_PARALLEL: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_named() {
        Config::default().validate().unwrap();
        let error = Config { probes: 16, ..Config::default() }.validate().unwrap_err();
        assert!(error.contains("probes"));
        let error = Config { parallel: 65, ..Config::default() }.validate().unwrap_err();
        assert!(error.contains("parallel"));
        Config { deadline: Duration::ZERO, ..Config::default() }.validate().unwrap_err();
    }
}
