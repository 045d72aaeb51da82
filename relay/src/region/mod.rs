//! The region that this relay is in.
//!
//! The operator names it, or the relay finds out: it measures the round trips to the super-nodes whose
//! region is known (those of the settings and those of whom the [`Directory`](crate::Directory) has a
//! signed service record), all of them at once and three times each, and is in the region of the nearest
//! by the median. It looks again every hour; see [`choose`](self) for what it takes to move. Whoever
//! joins this relay to the directory follows [`Relay::region`](crate::Relay::region).
//!
//! Nobody measures a region that the operator has named.

mod choose;
mod name;
mod runner;

pub use choose::Measured;
pub use name::{BadRegion, Region};
pub(crate) use runner::Runner;

use crate::sync::lock;
use serde::{Deserialize, Serialize};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::watch;

/// Settings of measuring which region is nearest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How often the round trips are measured. Default 1 h.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
    /// The same while no region is known, or another one seems nearer. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub retry: Duration,
    /// Super-nodes measured at most. Default 32, half of `upstream.max_connections`, among which each
    /// takes a place.
    pub super_nodes: usize,
    /// Questions to each, one after the other, of which the median counts if more than half were
    /// answered. Default 3.
    pub samples: usize,
    /// For each answer, a handshake before the first included. Default 2 s.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Another region is clearly nearer if its round trip is shorter by at least this, in percent.
    /// Default 20.
    pub margin_percent: u8,
    /// And by at least this. Default 5 ms.
    #[serde(with = "humantime_serde")]
    pub margin: Duration,
    /// Looks in a row, `retry` apart, in which the same region has to be clearly nearer before this
    /// relay moves there. Default 3.
    pub confirm: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(3600),
            retry: Duration::from_secs(30),
            super_nodes: 32,
            samples: 3,
            timeout: Duration::from_secs(2),
            margin_percent: 20,
            margin: Duration::from_millis(5),
            confirm: 3,
        }
    }
}

/// What is known of this relay's region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Its name; `None` while none is set and none was found.
    pub name: Option<Region>,
    /// Whether the operator named it.
    pub set: bool,
    /// How far the regions were when they were last measured, the nearest first; at most
    /// `region.super_nodes`.
    pub measured: Vec<Measured>,
}

/// The region of this relay, as it changes. Cloning gives another handle.
#[derive(Clone)]
pub(crate) struct Own {
    set: bool,
    region: watch::Sender<Option<Region>>,
    /// At most `region.super_nodes` of about 60 bytes.
    measured: Arc<Mutex<Vec<Measured>>>,
}

impl Own {
    /// The region that the operator named, if one.
    pub(crate) fn new(set: Option<Region>) -> Self {
        Self { set: set.is_some(), region: watch::Sender::new(set), measured: Arc::default() }
    }

    /// Whether the operator named it.
    pub(crate) fn is_set(&self) -> bool {
        self.set
    }

    /// The region now, and as it changes.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<Region>> {
        self.region.subscribe()
    }

    pub(crate) fn status(&self) -> Status {
        Status {
            name: self.region.borrow().clone(),
            set: self.set,
            measured: lock(&self.measured).clone(),
        }
    }

    fn choose(&self, region: Region) {
        self.region.send_replace(Some(region));
    }

    fn measured(&self, measured: Vec<Measured>) {
        *lock(&self.measured) = measured;
    }
}
