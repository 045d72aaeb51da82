//! The handle through which the directory is asked and told.

use super::Key;
use crate::{Closed, Metrics, PeerId};
use serde::Serialize;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

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
    /// The node provides as many keys as it may.
    #[error("this node already provides {0} keys, the most it may")]
    Full(usize),
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
    /// Records held for others.
    pub records: usize,
    /// Lookups in flight.
    pub lookups: usize,
    /// Callers waiting for a lookup.
    pub waiting: usize,
}

pub(crate) type Found = oneshot::Sender<Result<Vec<PeerId>, FindError>>;

pub(crate) enum Command {
    Provide { key: Key, answer: oneshot::Sender<Result<Announced, ProvideError>> },
    StopProviding { key: Key, answer: oneshot::Sender<bool> },
    Find { key: Key, limit: usize, answer: Found },
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
    /// Provides a key from now on, renewed until [`Self::stop_providing`]. Returns once the first
    /// announcement was made, or could not be made.
    pub async fn provide(&self, key: Key) -> Result<Announced, ProvideError> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Provide { key, answer }, ProvideError::Busy)?;
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
    /// and there are none.
    pub async fn find_providers(&self, key: Key, limit: usize) -> Result<Vec<PeerId>, FindError> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Find { key, limit, answer }, FindError::Busy)?;
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
