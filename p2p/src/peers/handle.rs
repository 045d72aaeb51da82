//! The handle through which peers are looked at and reached.

use super::{BookView, BreakerView, LocalServices, RecordError, Roles, ServiceRecord};
use crate::{
    Closed, Metrics, Multiaddr, PeerId, Standing,
    connections::{self, Ban, BanError, BanTarget, UnbanError},
    gossip,
    nat::AttemptView,
};
use serde::Serialize;
use std::{collections::BTreeMap, time::Duration};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

/// The overlay as this node sees it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    /// This node's PeerId.
    pub peer_id: String,
    /// Its overlay key, in hex.
    pub key: String,
    /// Addresses it listens on.
    pub listen_addrs: Vec<String>,
    /// Addresses it is known to be reached at.
    pub external_addrs: Vec<String>,
    /// Peers it is connected to.
    pub connected_peers: usize,
    /// Connections to them.
    pub connections: usize,
    /// Most connections it holds.
    pub connection_limit: usize,
    /// Connections and admission in more detail.
    pub admission: connections::Status,
    /// Connections refused since the program's start, by reason, as
    /// `nsn_p2p_connections_refused_total` has them; reasons that never occurred are left out.
    pub refused: BTreeMap<&'static str, u64>,
    /// `server` if it serves the directory to others, else `client`.
    pub mode: &'static str,
    /// Peers in its routing table.
    pub routing_table: usize,
    /// The gossip topics.
    pub topics: Vec<gossip::TopicStatus>,
}

/// One connected peer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PeerView {
    /// Its PeerId.
    pub peer_id: String,
    /// Its overlay key, in hex.
    pub key: String,
    /// Addresses it says it has.
    pub addresses: Vec<String>,
    /// `inbound` or `outbound`: who opened the oldest connection.
    pub direction: &'static str,
    /// Since when it is connected, in seconds.
    pub connected_secs: u64,
    /// What it says it runs.
    pub agent: Option<String>,
    /// Its last ping, in milliseconds.
    pub ping_ms: Option<f64>,
    /// The standing of the account it is bound to; nothing if it is unbound.
    pub reputation: Option<Standing>,
    /// Its gossip score, the lower of the two behaviours'.
    pub gossip_score: f64,
    /// What it does, if its service record is known.
    pub roles: Option<Roles>,
}

/// What this node knows of a peer, connected or not.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KnownPeer {
    /// Its PeerId.
    pub peer_id: String,
    /// Whether it is connected.
    pub connected: bool,
    /// The standing of the account it is bound to; nothing if it is unbound.
    pub reputation: Option<Standing>,
    /// What the peer book holds of it.
    pub book: Option<BookView>,
    /// Its failures, if it could not be reached of late.
    pub breaker: Option<BreakerView>,
    /// The last attempts to reach it, each at one address, the oldest first: at most 8.
    pub attempts: Vec<AttemptView>,
}

/// What changes while the overlay runs. Watch it to wait for something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Addresses listened on.
    pub listen: Vec<Multiaddr>,
    /// Connected peers.
    pub connected: usize,
    /// Peers in the routing table.
    pub routing_table: usize,
    /// Fewest connected peers that listen to any one topic.
    pub fewest_listeners: usize,
}

/// Why there is no status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StatusError {
    /// Too many calls are waiting already.
    #[error("too many calls about peers are waiting")]
    Busy,
    /// The overlay is not running.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// Why there is no service record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ServiceError {
    /// The peer says it offers nothing.
    #[error("the peer offers no services")]
    NotOffered,
    /// The peer could not be found or dialled.
    #[error("the peer cannot be reached")]
    Unreachable,
    /// It did not answer in time.
    #[error("the peer did not answer in time")]
    Timeout,
    /// It answered with something else, hung up, or does not speak the protocol.
    #[error("the peer did not answer with a service record")]
    Protocol,
    /// Its record is not believed.
    #[error("the peer's service record is refused: {0}")]
    Record(#[from] RecordError),
    /// The peer's key is no ed25519 key.
    #[error("the peer uses no ed25519 key")]
    KeyType,
    /// Too many calls are waiting already.
    #[error("too many calls about peers are waiting")]
    Busy,
    /// The overlay is not running.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// Why a peer could not be connected to.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConnectError {
    /// The address may not be dialled on this chain.
    #[error("{0} is not an address that may be dialled on this chain")]
    NotAllowed(Multiaddr),
    /// This node refuses the peer: a limit, its key or its reputation.
    #[error("the connection is refused by this node: {0}")]
    Refused(String),
    /// Dialling failed.
    #[error("the peer cannot be reached: {0}")]
    Failed(String),
    /// Too many calls are waiting already.
    #[error("too many calls about peers are waiting")]
    Busy,
    /// The overlay is not running.
    #[error(transparent)]
    Closed(#[from] Closed),
}

pub(crate) type Served = oneshot::Sender<Result<ServiceRecord, ServiceError>>;
pub(crate) type Banned = oneshot::Sender<Result<Ban, BanError>>;
pub(crate) type Connected = oneshot::Sender<Result<PeerId, ConnectError>>;

pub(crate) enum Command {
    Status { answer: oneshot::Sender<Status> },
    List { answer: oneshot::Sender<Vec<PeerView>> },
    Known { peer: PeerId, answer: oneshot::Sender<KnownPeer> },
    Breakers { answer: oneshot::Sender<Vec<BreakerView>> },
    ServiceRecord { peer: PeerId, fresh: bool, answer: Served },
    SetServices { services: LocalServices, answer: oneshot::Sender<()> },
    Connect { addr: Multiaddr, answer: Connected },
    Ban { target: BanTarget, duration: Option<Duration>, reason: String, answer: Banned },
    Unban { target: BanTarget, answer: oneshot::Sender<Result<Ban, UnbanError>> },
    Bans { answer: oneshot::Sender<Vec<Ban>> },
}

/// Looks at peers and reaches them. Cheap to clone.
#[derive(Clone)]
pub struct PeersHandle {
    commands: mpsc::Sender<Command>,
    changes: watch::Receiver<Changes>,
    local: PeerId,
    metrics: Metrics,
}

/// What the driver holds of the channels.
pub(crate) struct Ends {
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) changes: watch::Sender<Changes>,
}

pub(crate) fn channel(queue: usize, local: PeerId, metrics: &Metrics) -> (PeersHandle, Ends) {
    let (commands, receiver) = mpsc::channel(queue);
    let (sender, changes) = watch::channel(Changes::default());
    let handle = PeersHandle { commands, changes, local, metrics: metrics.clone() };
    (handle, Ends { commands: receiver, changes: sender })
}

impl PeersHandle {
    /// This node's PeerId.
    pub fn local(&self) -> PeerId {
        self.local
    }

    /// The overlay as this node sees it.
    pub async fn status(&self) -> Result<Status, StatusError> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Status { answer }, StatusError::Busy)?;
        Ok(answered.await.map_err(|_| Closed)?)
    }

    /// The connected peers, by PeerId.
    pub async fn list(&self) -> Result<Vec<PeerView>, StatusError> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::List { answer }, StatusError::Busy)?;
        Ok(answered.await.map_err(|_| Closed)?)
    }

    /// What is known of one peer, connected or not.
    pub async fn known(&self, peer: PeerId) -> Result<KnownPeer, StatusError> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Known { peer, answer }, StatusError::Busy)?;
        Ok(answered.await.map_err(|_| Closed)?)
    }

    /// The peers that could not be reached of late, the last failure first. At most
    /// [`BreakerConfig::peers`](super::BreakerConfig::peers).
    pub async fn breakers(&self) -> Result<Vec<BreakerView>, StatusError> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Breakers { answer }, StatusError::Busy)?;
        Ok(answered.await.map_err(|_| Closed)?)
    }

    /// What changes while the overlay runs. Ends (its sender is gone) with the driver.
    pub fn changes(&self) -> watch::Receiver<Changes> {
        self.changes.clone()
    }

    /// The peer's service record: a known one that is still valid, or a fresh one, for which the
    /// peer is found, dialled and asked. This node's own if it is asked for.
    pub async fn service_record(&self, peer: PeerId) -> Result<ServiceRecord, ServiceError> {
        self.record(peer, false).await
    }

    /// As [`Self::service_record`], but the peer is asked in any case: it shows that the peer is
    /// there now, and tells its load.
    pub async fn fresh_service_record(&self, peer: PeerId) -> Result<ServiceRecord, ServiceError> {
        self.record(peer, true).await
    }

    async fn record(&self, peer: PeerId, fresh: bool) -> Result<ServiceRecord, ServiceError> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::ServiceRecord { peer, fresh, answer }, ServiceError::Busy)?;
        answered.await.map_err(|_| Closed)?
    }

    /// Says what this node offers. Whoever asks from now on gets a record of it.
    pub async fn set_services(&self, services: LocalServices) -> Result<(), StatusError> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::SetServices { services, answer }, StatusError::Busy)?;
        Ok(answered.await.map_err(|_| Closed)?)
    }

    /// Connects to a peer at an address, best with `/p2p/` so that it is certain who answers.
    /// Returns the peer once connected, at once if it is already.
    pub async fn connect(&self, addr: Multiaddr) -> Result<PeerId, ConnectError> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Connect { addr, answer }, ConnectError::Busy)?;
        answered.await.map_err(|_| Closed)?
    }

    /// Shuts a peer or an address out, for a time or for good, in place of an earlier ban of the same
    /// target: connections are closed at once, neither accepted nor dialled from now on, over a
    /// restart too. The ban as it is in force.
    ///
    /// # Errors
    /// If the reason or the duration is not fit, the target is this node, or there are too many bans.
    pub async fn ban(
        &self,
        target: BanTarget,
        duration: Option<Duration>,
        reason: String,
    ) -> Result<Ban, BanError> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Ban { target, duration, reason, answer }, BanError::Busy)?;
        answered.await.map_err(|_| Closed)?
    }

    /// Lifts a ban, which is handed back.
    ///
    /// # Errors
    /// If there is no such ban.
    pub async fn unban(&self, target: BanTarget) -> Result<Ban, UnbanError> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Unban { target, answer }, UnbanError::Busy)?;
        answered.await.map_err(|_| Closed)?
    }

    /// The bans in force, the oldest first.
    pub async fn bans(&self) -> Result<Vec<Ban>, StatusError> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Bans { answer }, StatusError::Busy)?;
        Ok(answered.await.map_err(|_| Closed)?)
    }

    fn send<E: From<Closed>>(&self, command: Command, busy: E) -> Result<(), E> {
        self.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                self.metrics.commands_refused.with_label_values(&["peers"]).inc();
                busy
            }
            mpsc::error::TrySendError::Closed(_) => Closed.into(),
        })
    }
}
