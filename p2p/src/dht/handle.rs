//! The handle through which the directory is asked and told.

use super::{Key, SweepStatus};
use crate::{Closed, Metrics, PeerId};
use serde::Serialize;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

/// How long a key is to be provided, and what bounds the number of such keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Kept for good: at most `dht.max_kept` (100,000), of which further ones are refused.
    Kept,
    /// Merely cached: at most `dht.max_cached` (10,000), of which the least recently provided leaves
    /// when there is one more.
    Cached,
}

/// How far an announcement has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    /// Other peers hold the record now.
    Yes,
    /// This node answers for the key itself; no other peer could be told yet. It is tried again
    /// until it succeeds, without being asked.
    Pending,
}

/// Why a key is not provided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProvideError {
    /// The node provides as many keys for good as it may.
    #[error("this node already provides {0} keys for good, the most it may")]
    Full(usize),
    /// The key is not provided.
    #[error("this node does not provide the key")]
    NotProvided,
    /// Too many calls are waiting already.
    #[error("too many calls to the directory are waiting")]
    Busy,
    /// The overlay is not running.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// Why no providers could be looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FindError {
    /// The lookup ran out of time and had found nobody.
    #[error("the lookup ran out of time")]
    Timeout,
    /// None of the peers that were asked has answered.
    #[error("no peer answered the lookup")]
    Unanswered,
    /// Too many calls are waiting already.
    #[error("too many lookups are waiting")]
    Busy,
    /// The overlay is not running.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// Why the peers nearest to a key could not be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ClosestError {
    /// The lookup ran out of time before anybody had answered.
    #[error("the lookup ran out of time")]
    Timeout,
    /// None of the peers that were asked has answered.
    #[error("no peer answered the lookup")]
    Unanswered,
    /// Too many calls are waiting already.
    #[error("too many lookups are waiting")]
    Busy,
    /// The overlay is not running.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// The directory as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// `server` if the node answers others, `client` if it is not known to be reachable.
    pub mode: &'static str,
    /// Peers in the routing table.
    pub routing_table: usize,
    /// Keys this node provides.
    pub provided: usize,
    /// Of these, those that no other peer has been told of yet.
    pub unannounced: usize,
    /// How far the announcing of these is.
    pub sweep: SweepStatus,
    /// Records held for others.
    pub records: usize,
    /// Lookups in flight.
    pub lookups: usize,
    /// Callers waiting for a lookup.
    pub waiting: usize,
}

pub(crate) type Answer = oneshot::Sender<Result<Announced, ProvideError>>;

pub(crate) enum Command {
    Provide { key: Key, class: Class, answer: Answer },
    Announced { key: Key, answer: Answer },
    StopProviding { key: Key, answer: oneshot::Sender<bool> },
    Find { key: Key, limit: usize, answer: oneshot::Sender<Result<Vec<PeerId>, FindError>> },
    Closest { key: Key, answer: oneshot::Sender<Result<Vec<PeerId>, ClosestError>> },
    Status { answer: oneshot::Sender<Status> },
}

/// Asks and tells the directory. Cheap to clone.
#[derive(Clone)]
pub struct DhtHandle {
    commands: mpsc::Sender<Command>,
    metrics: Metrics,
}

pub(crate) fn channel(queue: usize, metrics: &Metrics) -> (DhtHandle, mpsc::Receiver<Command>) {
    let (commands, receiver) = mpsc::channel(queue);
    (DhtHandle { commands, metrics: metrics.clone() }, receiver)
}

impl DhtHandle {
    /// Provides a key from now on, renewed until [`Self::stop_providing`] or, if it is merely
    /// cached, until more recent ones take its place. This node answers for it at once; others are
    /// told as the sweep gets to it, see [`Self::announced`]. Says whether it was announced already.
    ///
    /// Providing a key again renews its turn as a cached one. A cached key becomes a kept one if
    /// provided as such; a kept one stays so until it is withdrawn.
    ///
    /// # Errors
    /// [`ProvideError::Full`] if as many keys are kept as may be, `Busy` if too many calls wait.
    pub async fn provide(&self, key: Key, class: Class) -> Result<Announced, ProvideError> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Provide { key, class, answer }, ProvideError::Busy)?;
        answered.await.map_err(|_| Closed)?
    }

    /// Waits until the first announcement of a provided key has ended, and says how.
    ///
    /// # Errors
    /// [`ProvideError::NotProvided`] if the key is not provided, or no longer; `Busy` if too many
    /// calls wait.
    pub async fn announced(&self, key: Key) -> Result<Announced, ProvideError> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Announced { key, answer }, ProvideError::Busy)?;
        answered.await.map_err(|_| Closed)?
    }

    /// Stops providing a key: this node no longer answers for it, nor renews it. Records that
    /// others hold live on until they expire. Whether it was provided.
    pub async fn stop_providing(&self, key: Key) -> Result<bool, ProvideError> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::StopProviding { key, answer }, ProvideError::Busy)?;
        Ok(answered.await.map_err(|_| Closed)?)
    }

    /// Looks for up to `limit` providers (at least 1, at most the configured most), this node among
    /// them if it is one. Returns as soon as enough are known; an empty list if the lookup ended
    /// and there are none. What was found of late is answered at once, for `dht.cache_found` or,
    /// where nobody was found, `dht.cache_nothing`.
    ///
    /// # Errors
    /// [`FindError::Timeout`] and [`FindError::Unanswered`] if nobody was found and others may know
    /// of some; `Busy` if `dht.max_waiting` callers wait.
    pub async fn find_providers(&self, key: Key, limit: usize) -> Result<Vec<PeerId>, FindError> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Find { key, limit, answer }, FindError::Busy)?;
        answered.await.map_err(|_| Closed)?
    }

    /// Looks for the peers nearest to a key that are alive, the nearest first: at most
    /// `dht.replication`, and never this node. An empty list if it knows no other.
    ///
    /// # Errors
    /// [`ClosestError::Timeout`] and [`ClosestError::Unanswered`] if nobody answered; `Busy` if
    /// `dht.max_waiting` callers wait.
    pub async fn closest_peers(&self, key: Key) -> Result<Vec<PeerId>, ClosestError> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Closest { key, answer }, ClosestError::Busy)?;
        answered.await.map_err(|_| Closed)?
    }

    /// The directory as this node sees it.
    pub async fn status(&self) -> Result<Status, FindError> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Status { answer }, FindError::Busy)?;
        Ok(answered.await.map_err(|_| Closed)?)
    }

    fn send<E: From<Closed>>(&self, command: Command, busy: E) -> Result<(), E> {
        self.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                self.metrics.commands_refused.with_label_values(&["dht"]).inc();
                busy
            }
            mpsc::error::TrySendError::Closed(_) => Closed.into(),
        })
    }
}
