//! Regions: relays say where they are, and are found by it.
//!
//! A relay provides the key of its region in the directory ([`provide`]); whoever looks for relays
//! there asks the directory for that key's providers, and each of those for its signed service record
//! ([`find`]). Nobody signs a directory entry, so anybody may enter anybody under any region: the
//! record decides where a relay is. And keys cost nothing, so only those count that an account
//! answers for.

pub mod find;
mod provide;

use std::time::Duration;

use nsn_p2p::peers::Region;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use find::Finder;
pub(super) use provide::Provider;

/// Settings of finding relays by region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Relays asked for their service record in one search, those with the best scores. Default 32.
    pub max_asked: usize,
    /// Of these, how many at the same time. Default 16.
    pub parallel: usize,
    /// Longest wait for one relay's service record, dialling it included. Default 3 s.
    #[serde(with = "humantime_serde")]
    pub record_timeout: Duration,
    /// How long what was found is answered without another search. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub keep_found: Duration,
    /// The same where nothing was found. Default 2 s.
    #[serde(with = "humantime_serde")]
    pub keep_nothing: Duration,
    /// Regions whose relays are kept so, the least recently used leaving first. Default 64. Worst
    /// case: 64 regions * 32 relays * 2.2 KiB, eight addresses of 256 bytes each = 4.5 MB.
    pub max_kept: usize,
    /// Searches at the same time; more are refused. Default 16.
    pub max_searches: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_asked: 32,
            parallel: 16,
            record_timeout: Duration::from_secs(3),
            keep_found: Duration::from_secs(10),
            keep_nothing: Duration::from_secs(2),
            max_kept: 64,
            max_searches: 16,
        }
    }
}

impl Config {
    /// Whether every setting is in its bounds.
    ///
    /// # Errors
    /// Names the first that is not.
    pub fn validate(&self) -> Result<(), String> {
        for (setting, value) in [
            ("max_asked", self.max_asked),
            ("parallel", self.parallel),
            ("max_kept", self.max_kept),
            ("max_searches", self.max_searches),
        ] {
            if value == 0 {
                return Err(format!("{setting} must be above zero"));
            }
        }
        if self.record_timeout.is_zero() {
            return Err("record_timeout must be above zero".into());
        }
        Ok(())
    }
}

/// The region that this node is in.
#[derive(Clone)]
pub struct Own {
    /// Its name.
    pub name: Region,
    provided: watch::Receiver<bool>,
}

impl Own {
    /// The region of a node that is no relay.
    pub(super) fn unlisted(name: Region) -> Self {
        Self { name, provided: watch::channel(false).1 }
    }

    /// Whether the directory lists this node under it.
    pub fn provided(&self) -> bool {
        *self.provided.borrow()
    }
}
