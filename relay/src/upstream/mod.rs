//! Fetching what this node lacks from nodes that hold it.
//!
//! ```text
//!  candidates   the operator's super-nodes, the relays of the region, the directory
//!      │
//!  rank         by what was measured of them, reputation and load; breakers leave some out
//!      │
//!  fetch        the best one is asked; another when it is slow (hedge), silent or has failed,
//!      │        from the byte on where the blob ends so far
//!  attempt      groups of 16 KiB, each verified as it arrives, into the growing blob
//!      │
//!  reach        over a pooled QUIC connection that pins the peer's identity, or over a stream of
//!               the overlay where that is not there, or is there later than a head start
//! ```
//!
//! What decides is in modules of plain functions ([`rank`], [`measured`], [`hedge`], [`breaker`],
//! [`ways`], and the schedule of [`health`]); [`fetch`], [`attempt`] and [`reach`] do what they say.

mod attempt;
mod breaker;
mod candidates;
pub mod directory;
mod distance;
mod explain;
mod fetch;
mod health;
mod hedge;
mod measured;
mod pool;
mod race;
mod rank;
mod reach;
mod ways;

pub use breaker::BreakerConfig;
pub use directory::{Class, Directory, DirectoryError, Record, Source, SuperNode, TellError};
pub use explain::SourceView;
pub use health::HealthConfig;
pub use hedge::HedgeConfig;
pub use pool::{DialError, PoolConfig};
pub(crate) use pool::{Pool, dial};
pub use ways::{OverlayConfig, WayView};

use crate::{
    body::{Growing, Memory, Room, Whole},
    client::Address,
    metrics::Metrics,
    overlay::Overlay,
    standing::Others,
    wire::{Code, ExchangeError, Priority, Way},
};
use attempt::AttemptError;
use breaker::Fault;
use fetch::Fetch;
use health::Schedule;
use hedge::Budget;
use libp2p::PeerId;
use rank::Book;
use reach::Reach;
use serde::{Deserialize, Serialize};
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::time::timeout;

/// Settings of fetching.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Super-nodes that are asked beside those that the directory names, as
    /// `/ip4/ADDRESS/udp/PORT/quic-v1/p2p/PEER_ID`; several addresses of one are tried in turn. At
    /// most 64. Default none.
    pub super_nodes: Vec<Address>,
    /// Other relays of the region that are asked whether they hold a blob, as many as viewers are told
    /// of at most. Default 8.
    pub siblings: usize,
    /// How long they have to answer. Default 200 ms.
    #[serde(with = "humantime_serde")]
    pub sibling_timeout: Duration,
    /// Connections that this node opens.
    pub pool: PoolConfig,
    /// Streams over the overlay, the other way to sources.
    pub overlay: OverlayConfig,
    /// Peers with a pooled connection at most. Default 64.
    pub max_connections: usize,
    /// The whole of a fetch, from asking the directory to the verified blob. Default 15 s.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
    /// For the directory's answer. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub directory_timeout: Duration,
    /// For a source's header. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// For a source's next bytes, each time. Default 3 s.
    #[serde(with = "humantime_serde")]
    pub stall_timeout: Duration,
    /// Sources asked for one blob at most. Default 8.
    pub max_sources: usize,
    /// Sources asked for one blob at a time. Default 3.
    pub parallel: usize,
    /// What a source of which nothing is known is taken to need to its first 16 KiB. Default 100 ms.
    #[serde(with = "humantime_serde")]
    pub assumed_latency: Duration,
    /// What it is taken to deliver from then on, in bytes a second. Default 8 MiB.
    pub assumed_rate: u32,
    /// What was measured of a source counts half as much after this long, and what is assumed of
    /// strangers the more. Default 5 min.
    #[serde(with = "humantime_serde")]
    pub measured_half_life: Duration,
    /// When a second source is asked beside the first.
    pub hedge: HedgeConfig,
    /// When a source is not asked for a while.
    pub breaker: BreakerConfig,
    /// Whether sources answer.
    pub health: HealthConfig,
    /// Sources remembered. Default 1,024, about 512 KiB.
    pub book: usize,
    /// Bytes of blobs that are being fetched, or are fetched and not written yet, at most. Each takes
    /// its length once more for the moment in which it is joined into one piece. Default 256 MiB.
    pub memory: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            super_nodes: Vec::new(),
            siblings: 8,
            sibling_timeout: Duration::from_millis(200),
            pool: PoolConfig::default(),
            overlay: OverlayConfig::default(),
            max_connections: 64,
            deadline: Duration::from_secs(15),
            directory_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(5),
            stall_timeout: Duration::from_secs(3),
            max_sources: 8,
            parallel: 3,
            assumed_latency: Duration::from_millis(100),
            assumed_rate: 8 * 1024 * 1024,
            measured_half_life: Duration::from_secs(300),
            hedge: HedgeConfig::default(),
            breaker: BreakerConfig::default(),
            health: HealthConfig::default(),
            book: 1024,
            memory: 256 * 1024 * 1024,
        }
    }
}

/// Why a blob could not be fetched. Each has its code for the viewers who wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// Nobody holds it: the directory names no source, or every source said so.
    #[error("nobody holds it")]
    NotFound,
    /// Every source that has it was busy.
    #[error("every source is busy")]
    Busy,
    /// No source delivered it in time.
    #[error("no source delivered it")]
    Failed,
    /// No source delivered it, and at least one delivered wrong bytes.
    #[error("a source delivered wrong bytes, and no other delivered it")]
    Corrupt,
}

/// Fetches blobs from other nodes.
pub(crate) struct Upstream {
    us: PeerId,
    directory: Arc<dyn Directory>,
    /// Those that the operator named; at most 64.
    super_nodes: Vec<Source>,
    /// The other relays of the region.
    others: Others,
    reach: Reach,
    book: Mutex<Book>,
    budget: Mutex<Budget>,
    schedule: Mutex<Schedule>,
    memory: Memory,
    config: Config,
    metrics: Metrics,
}

impl Upstream {
    pub(crate) fn new(
        us: PeerId,
        directory: Arc<dyn Directory>,
        others: Others,
        (pool, overlay): (Pool, Option<Arc<dyn Overlay>>),
        config: Config,
        metrics: Metrics,
    ) -> Self {
        let super_nodes = candidates::by_peer(&config.super_nodes);
        for outcome in ["asked", "won", "lost"] {
            metrics.hedges_total.with_label_values(&[outcome]);
        }
        let schedule = Schedule::new(config.health.clone(), &super_nodes, Instant::now());
        Self {
            us,
            directory,
            super_nodes,
            others,
            reach: Reach::new(pool, overlay, &config, metrics.clone()),
            book: Mutex::new(Book::new(&config)),
            budget: Mutex::new(Budget::new(&config.hedge)),
            schedule: Mutex::new(schedule),
            memory: Memory::new(config.memory),
            config,
            metrics,
        }
    }

    /// Fetches a blob into `growing`, `range` of it first, as urgent as `priority` says. Gives it with the room that it takes; when
    /// it fails, telling the readers is left to the caller.
    ///
    /// # Errors
    /// See [`FetchError`]; within the configured deadline.
    pub(crate) async fn fetch(
        &self,
        growing: &Growing,
        range: Option<(u64, u64)>,
        priority: Priority,
    ) -> Result<(Arc<Whole>, Room), FetchError> {
        let fetch = Fetch::new(self, growing, range, priority).run();
        timeout(self.config.deadline, fetch).await.unwrap_or_else(|_| {
            tracing::debug!("{}: not within {:?}", growing.id(), self.config.deadline);
            self.metrics.upstream_failures_total.with_label_values(&["deadline"]).inc();
            Err(FetchError::Failed)
        })
    }

    /// Counts verified bytes by how they came.
    fn count_bytes(&self, way: Option<Way>, bytes: usize) {
        if let Some(way) = way {
            let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
            self.metrics.upstream_bytes_total.with_label_values(&[way.label()]).inc_by(bytes);
        }
    }

    /// Closes the connections to other nodes.
    pub(crate) async fn close(&self) {
        self.reach.close().await;
    }
}

/// The metric's label of a failed attempt, and what it says about the source.
fn blame(error: &AttemptError) -> (&'static str, Option<Fault>) {
    let failed = Some(Fault::Failed);
    match error {
        AttemptError::Dial(_) => ("dial", failed),
        AttemptError::Exchange { error, .. } => match error {
            ExchangeError::Connection(_) | ExchangeError::Overlay(_) => ("connection", failed),
            ExchangeError::Refused { code: Code::NotFound, .. } => ("not_found", None),
            ExchangeError::Refused { code: Code::Busy, .. } => ("busy", None),
            ExchangeError::Reset(Code::Busy) => ("busy", None),
            ExchangeError::Refused { .. } => ("refused", failed),
            ExchangeError::Reset(_) | ExchangeError::ResetUnknown(_) => ("reset", failed),
            ExchangeError::Malformed(_) | ExchangeError::Promise { .. } => ("malformed", failed),
            ExchangeError::TooLittle { .. } => ("too_little", failed),
            ExchangeError::TooMuch(_) => ("too_much", failed),
            ExchangeError::Stalled(_) => ("stalled", failed),
            ExchangeError::WrongHash(_) | ExchangeError::WrongGroup { .. } => {
                ("wrong_hash", Some(Fault::Corrupt))
            }
        },
    }
}

/// What the failures of all sources amount to.
fn verdict(failures: &[AttemptError]) -> FetchError {
    let reasons: Vec<_> = failures.iter().map(|error| blame(error).0).collect();
    let rest_is = |reason| reasons.iter().all(|found| *found == reason || *found == "not_found");
    if reasons.contains(&"wrong_hash") {
        FetchError::Corrupt
    } else if rest_is("not_found") {
        FetchError::NotFound
    } else if rest_is("busy") {
        FetchError::Busy
    } else {
        FetchError::Failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::BlobId;

    fn refused(code: Code) -> AttemptError {
        let error = ExchangeError::Refused { code, busy: None };
        AttemptError::Exchange { error, reused: false }
    }

    fn wrong() -> AttemptError {
        let error = ExchangeError::WrongHash(BlobId([0; 32]));
        AttemptError::Exchange { error, reused: false }
    }

    #[test]
    fn what_all_failures_amount_to() {
        let not_found = || refused(Code::NotFound);
        let busy = || refused(Code::Busy);
        let internal = || refused(Code::Internal);
        assert_eq!(verdict(&[not_found(), not_found()]), FetchError::NotFound);
        assert_eq!(verdict(&[not_found(), busy()]), FetchError::Busy);
        assert_eq!(verdict(&[busy(), internal()]), FetchError::Failed);
        assert_eq!(verdict(&[not_found(), internal()]), FetchError::Failed);
        assert_eq!(verdict(&[internal(), wrong(), not_found()]), FetchError::Corrupt);
    }
}
