//! Fetching what this node lacks from nodes that hold it.
//!
//! The [`Directory`] names sources; they are ranked by what is known about them and asked in a
//! staggered race over pooled connections that pin each peer's identity. The first blob that hashes
//! to its id wins, and the others are cancelled. A source that delivers anything else is asked
//! last for a while.

mod book;
pub mod directory;
mod pool;
mod race;

pub use directory::{Class, Directory, DirectoryError, Record, Source, TellError};
pub use pool::{DialError, PoolConfig};
pub(crate) use pool::{Pool, dial};

use crate::{
    body::{Growing, Memory, Room, Whole},
    content::BlobId,
    metrics::{Metrics, count_and_log},
    sync::lock,
    wire::{Code, ExchangeError, Outboard, Patience, get_blob},
};
use book::{Book, Fault, Ranked};
use bytes::Bytes;
use libp2p::PeerId;
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
    /// Connections that this node opens.
    pub pool: PoolConfig,
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
    /// Sources asked for one blob at a time. Default 2.
    pub parallel: usize,
    /// What a source that was never asked is taken to need for a blob. Default 250 ms.
    #[serde(with = "humantime_serde")]
    pub assumed_latency: Duration,
    /// The next source is asked beside the last one after twice what that one usually needs, but
    /// never before this. Default 150 ms.
    #[serde(with = "humantime_serde")]
    pub stagger_min: Duration,
    /// And never after this. Default 2 s.
    #[serde(with = "humantime_serde")]
    pub stagger_max: Duration,
    /// A source that delivered wrong bytes is asked last for this long. Default 10 min.
    #[serde(with = "humantime_serde")]
    pub corrupt_penalty: Duration,
    /// A source that failed otherwise is asked last for this long. Default 15 s.
    #[serde(with = "humantime_serde")]
    pub failure_penalty: Duration,
    /// Sources remembered. Default 1,024, about 150 KiB.
    pub book: usize,
    /// Bytes of blobs that are being fetched, or are fetched and not written yet, at most.
    /// Default 256 MiB.
    pub memory: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pool: PoolConfig::default(),
            max_connections: 64,
            deadline: Duration::from_secs(15),
            directory_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(5),
            stall_timeout: Duration::from_secs(3),
            max_sources: 8,
            parallel: 2,
            assumed_latency: Duration::from_millis(250),
            stagger_min: Duration::from_millis(150),
            stagger_max: Duration::from_secs(2),
            corrupt_penalty: Duration::from_secs(600),
            failure_penalty: Duration::from_secs(15),
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

/// A verified blob, and the room in memory that it takes.
pub(crate) struct Fetched {
    pub(crate) bytes: Bytes,
    /// Given back when dropped.
    pub(crate) room: Room,
}

/// One attempt at one source that failed.
#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
}

/// Fetches blobs from other nodes.
pub(crate) struct Upstream {
    us: PeerId,
    directory: Arc<dyn Directory>,
    pool: Pool,
    book: Mutex<Book>,
    memory: Memory,
    config: Config,
    metrics: Metrics,
}

impl Upstream {
    pub(crate) fn new(
        us: PeerId,
        directory: Arc<dyn Directory>,
        pool: Pool,
        config: Config,
        metrics: Metrics,
    ) -> Self {
        let book = Mutex::new(Book::new(&config));
        let memory = Memory::new(config.memory);
        Self { us, directory, pool, book, memory, config, metrics }
    }

    /// Fetches one blob and verifies it.
    ///
    /// # Errors
    /// See [`FetchError`]; within the configured deadline.
    pub(crate) async fn fetch(
        &self,
        growing: &Growing,
        _range: Option<(u64, u64)>,
    ) -> Result<(Arc<Whole>, Room), FetchError> {
        let id = growing.id();
        let fetch = async {
            let sources = self.sources(id).await?;
            let Fetched { bytes, room } = self.race(id, sources).await?;
            let outboard = Outboard::of(&bytes).ok_or(FetchError::Failed)?;
            let whole = Whole::new(id, bytes, outboard).ok_or(FetchError::Failed)?;
            let whole = Arc::new(whole);
            growing.whole(Arc::clone(&whole));
            Ok((whole, room))
        };
        timeout(self.config.deadline, fetch).await.unwrap_or_else(|_| {
            tracing::debug!("{id}: nothing within {:?}", self.config.deadline);
            self.metrics.upstream_failures_total.with_label_values(&["deadline"]).inc();
            Err(FetchError::Failed)
        })
    }

    /// Closes the connections to other nodes.
    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }

    async fn sources(&self, id: BlobId) -> Result<Vec<Ranked>, FetchError> {
        let asked = timeout(self.config.directory_timeout, self.directory.sources(id)).await;
        let reason = match asked {
            Ok(Ok(mut sources)) => {
                sources.retain(|source| source.peer != self.us);
                let mut ranked = lock(&self.book).rank(sources, Instant::now());
                ranked.truncate(self.config.max_sources);
                return Ok(ranked);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {:?}", self.config.directory_timeout),
        };
        tracing::debug!("{id}: {reason}");
        self.metrics.directory_failures_total.with_label_values(&["sources"]).inc();
        Err(FetchError::Failed)
    }

    async fn race(&self, id: BlobId, sources: Vec<Ranked>) -> Result<Fetched, FetchError> {
        if sources.is_empty() {
            return Err(FetchError::NotFound);
        }
        self.metrics.upstream_fetches_total.inc();
        let started = Instant::now();
        let patience = |ranked: &Ranked| ranked.stagger;
        let attempt = |ranked: Ranked| async move { self.attempt(id, &ranked.source).await };
        let raced = race::staggered(sources, self.config.parallel, patience, attempt).await;
        match raced {
            Ok(fetched) => {
                let took = started.elapsed().as_secs_f64();
                self.metrics.upstream_fetch_latency_seconds.observe(took);
                Ok(fetched)
            }
            Err(failures) => Err(verdict(&failures)),
        }
    }

    async fn attempt(&self, id: BlobId, source: &Source) -> Result<Fetched, AttemptError> {
        let started = Instant::now();
        let mut result = self.exchange(id, source).await;
        if let Err((AttemptError::Exchange(error), true)) = &result
            && error.is_connection()
        {
            // The other side had closed it while it lay in the pool.
            result = self.exchange(id, source).await;
        }
        match result {
            Ok(fetched) => {
                lock(&self.book).delivered(source.peer, started.elapsed());
                Ok(fetched)
            }
            Err((error, _)) => {
                self.note(id, source, &error);
                Err(error)
            }
        }
    }

    /// The error says besides whether the connection had been used before.
    async fn exchange(&self, id: BlobId, source: &Source) -> Result<Fetched, (AttemptError, bool)> {
        let pooled = self.pool.connection(source).await.map_err(|error| (error.into(), false))?;
        let patience =
            Patience { header: self.config.header_timeout, stall: self.config.stall_timeout };
        let exchange = async {
            let promised = get_blob(&pooled.connection, id, false, patience).await?;
            let room = self.memory.room(promised.size()).await;
            let bytes = promised.verified(patience.stall).await?;
            Ok(Fetched { bytes, room })
        };
        exchange.await.map_err(|error: ExchangeError| (error.into(), pooled.reused))
    }

    /// Counts a failed attempt and remembers it against the source if it is to blame.
    fn note(&self, id: BlobId, source: &Source, error: &AttemptError) {
        let (reason, fault) = blame(error);
        self.metrics.upstream_failures_total.with_label_values(&[reason]).inc();
        if let Some(fault) = fault {
            lock(&self.book).failed(source.peer, fault, Instant::now());
        }
        tracing::debug!("{} did not deliver {id}: {error}", source.peer);
        if fault == Some(Fault::Corrupt)
            && count_and_log(&self.metrics.corrupt_blobs_total.with_label_values(&["upstream"]))
        {
            tracing::warn!(
                "{} delivered wrong bytes for {id}; others are asked first",
                source.peer
            );
        }
    }
}

/// The metric's label of a failed attempt, and what it says about the source.
fn blame(error: &AttemptError) -> (&'static str, Option<Fault>) {
    let failed = Some(Fault::Failed);
    match error {
        AttemptError::Dial(_) => ("dial", failed),
        AttemptError::Exchange(error) => match error {
            ExchangeError::Connection(_) => ("connection", failed),
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

    fn refused(code: Code) -> AttemptError {
        ExchangeError::Refused { code, busy: None }.into()
    }

    fn wrong() -> AttemptError {
        ExchangeError::WrongHash(BlobId([0; 32])).into()
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
