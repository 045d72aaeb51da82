//! The viewer: fetches blobs and whole contents from a relay or a super-node, and trusts neither.
//!
//! [`Viewer::connect`] takes an [`Address`] that names the peer, so the connection proves who
//! answers; every 16 KiB of a blob are verified against its id as they arrive, the manifest against
//! the content's, and the shards against the manifest. A service that is busy may name others, which
//! are asked meanwhile. A [`Prober`](probe::Prober) is no viewer: it finds out whether a peer
//! serves what it claims to hold.

mod address;
mod detour;
mod download;
mod partial;
pub mod probe;
mod retry;
mod viewer;

pub use address::{Address, AddressError};
pub use download::{DownloadError, Downloaded, Tally};
pub use viewer::{ViewError, Viewer};

use crate::upstream::PoolConfig;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Settings of a viewer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The connection.
    pub pool: PoolConfig,
    /// Shards fetched at a time. Default 4, holding at most 64 MiB together.
    pub parallel: usize,
    /// For the header of an answer; a relay may have to fetch first. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// For the next bytes of a body, each time. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub stall_timeout: Duration,
    /// Tries for one blob in all. Default 6.
    pub tries: u32,
    /// Wait before the second try; each further wait is twice the one before. Default 250 ms.
    #[serde(with = "humantime_serde")]
    pub backoff: Duration,
    /// No wait is longer, unless the server asks for it. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub backoff_max: Duration,
    /// The longest wait that a server can ask for. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub retry_after_max: Duration,
    /// Bytes of the socket's buffers, each way; the system may allow less. Default 4 MiB.
    pub socket_buffer: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pool: PoolConfig::default(),
            parallel: 4,
            header_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(10),
            tries: 6,
            backoff: Duration::from_millis(250),
            backoff_max: Duration::from_secs(5),
            retry_after_max: Duration::from_secs(30),
            socket_buffer: 4 * 1024 * 1024,
        }
    }
}
