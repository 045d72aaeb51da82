//! Regions: relays say where they are, and are found by it.
//!
//! The operator names a node's region, or its relay finds out which one is nearest
//! ([`nsn_relay::region`]); [`Own`] is whichever it is now.
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
use nsn_relay::Relay;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{Slot, relay::next_change};

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

/// The region that this node is in, now and as it changes. Cheap to clone.
#[derive(Clone)]
pub struct Own {
    set: bool,
    region: watch::Sender<Option<Region>>,
    /// Under which one the directory lists this node.
    listed: watch::Sender<Option<Region>>,
}

impl Own {
    /// The one that the operator named, if any.
    pub(super) fn new(set: Option<Region>) -> Self {
        Self {
            set: set.is_some(),
            region: watch::Sender::new(set),
            listed: watch::Sender::new(None),
        }
    }

    /// Its name; `None` while none is set and none was found.
    pub fn name(&self) -> Option<Region> {
        self.region.borrow().clone()
    }

    /// Whether the operator named it.
    pub fn is_set(&self) -> bool {
        self.set
    }

    /// Whether the directory lists this node under it.
    pub fn is_listed(&self) -> bool {
        self.listed.borrow().is_some()
    }

    /// The region, and its changes.
    pub(super) fn watch(&self) -> watch::Receiver<Option<Region>> {
        self.region.subscribe()
    }

    /// Keeps it at what the relay finds out, as long as that may take. While the relay starts again it
    /// stays as it was.
    pub(super) async fn follow(&self, relay: &Slot<Relay>) {
        let mut relays = relay.watch();
        loop {
            let mut found = relays.borrow_and_update().as_ref().map(Relay::region);
            let now = found.as_mut().and_then(|found| found.borrow_and_update().clone());
            if let Some(name) = now.and_then(|name| name.as_str().parse::<Region>().ok()) {
                self.region.send_if_modified(|region| {
                    let moved = region.as_ref() != Some(&name);
                    *region = Some(name);
                    moved
                });
            }
            let changed = tokio::select! {
                changed = relays.changed() => changed,
                () = next_change(found.as_mut()) => Ok(()),
            };
            if changed.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_is_what_the_operator_says_or_none_yet() {
        let set = Own::new(Some("eu".parse().unwrap()));
        assert!(set.is_set() && !set.is_listed());
        assert_eq!(set.name().unwrap().as_str(), "eu");
        let found = Own::new(None);
        assert!(!found.is_set());
        assert_eq!(found.name(), None);
    }

    #[test]
    fn both_crates_take_the_same_names() {
        for name in ["a", "eu-west-1", "", "EU", "a_b", &"x".repeat(32), &"x".repeat(33)] {
            let theirs = name.parse::<nsn_relay::Region>().is_ok();
            assert_eq!(name.parse::<Region>().is_ok(), theirs, "{name}");
        }
    }
}
