//! The handle through which reachability is looked at.

use super::{By, Method, ReservationView, Standing, StunOutcome, Transport, TurnView, Verdict};
use crate::{Closed, Metrics};
use prometheus_endpoint::{CounterVec, U64};
use serde::Serialize;
use std::net::SocketAddr;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

/// How this node can be reached, and how it knows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    /// The state, how sure it is, and what kind of NAT there is.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Whether a connected peer dials back for this node; nothing is confirmed without one.
    pub dial_back_servers: bool,
    /// This node's addresses, those that others are told first.
    pub addresses: Vec<AddressView>,
    /// Ports that the router maps.
    pub mappings: Vec<MappingView>,
    /// How the router was asked last for each port in each way; empty where it is not asked at all.
    pub mapping_asks: Vec<MappingAskView>,
    /// The STUN servers of the configuration, in its order.
    pub stun: Vec<StunView>,
    /// The TURN server; null where the configuration names none.
    pub turn: Option<TurnView>,
    /// The connected peers, and how each is connected, by PeerId.
    pub connections: Vec<ConnectionView>,
    /// Relays that hold a place for this node.
    pub reservations: Vec<ReservationView>,
    /// How many it wants: none while it is reached directly.
    pub reservations_wanted: usize,
    /// What this node carries for others.
    pub circuits: CircuitsView,
}

/// One connected peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConnectionView {
    /// Its PeerId.
    pub peer_id: String,
    /// What the best connection to it came by.
    pub method: Method,
}

/// What this node carries for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CircuitsView {
    /// Whether it is a relay now.
    pub offered: bool,
    /// Peers that it holds a place for.
    pub reservations: usize,
    /// Connections between others that it carries.
    pub carried: usize,
}

/// One address of this node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AddressView {
    /// The address.
    pub address: String,
    /// Where it stands.
    pub standing: Standing,
    /// Since when it does, in seconds.
    pub for_secs: u64,
    /// Who speaks for it: `operator`, `listener`, `router`, `peers`.
    pub known_from: Vec<&'static str>,
    /// Networks of peers that see this node there.
    pub observed_by: usize,
    /// Peers that dialled it back of late.
    pub reached_by: usize,
    /// Dial-backs that failed in a row.
    pub failures: u32,
}

/// One port that the router maps.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MappingView {
    /// By which protocol.
    pub protocol: By,
    /// What is carried.
    pub transport: Transport,
    /// The port that is listened on.
    pub port: u16,
    /// Where it is reached, as the router says.
    pub external: SocketAddr,
    /// When the lease ends if it is not renewed, in seconds.
    pub lease_left_secs: u64,
}

/// How the router was asked last for one port in one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MappingAskView {
    /// `upnp`, or `pcp`, which is NAT-PMP with a router that knows no PCP.
    pub way: &'static str,
    /// What is carried.
    pub transport: Transport,
    /// The port that is listened on.
    pub port: u16,
    /// `mapped`, or why it is not: `no_router`, `timeout`, `refused`, `malformed`, `io` or
    /// `impossible`; null while nobody has answered yet.
    pub last: Option<&'static str>,
}

/// One STUN server.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StunView {
    /// As the configuration names it.
    pub server: String,
    /// How it ended last; null if it was not asked yet.
    pub last: Option<StunOutcome>,
    /// Where it saw this node then.
    pub mapped: Option<SocketAddr>,
    /// How long its answer took, in milliseconds.
    pub took_ms: Option<u64>,
    /// How long ago that was, in seconds.
    pub ago_secs: Option<u64>,
}

/// Why there is no status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StatusError {
    /// Too many calls are waiting already.
    #[error("too many calls about reachability are waiting")]
    Busy,
    /// The overlay is not running.
    #[error(transparent)]
    Closed(#[from] Closed),
}

pub(crate) enum Command {
    Status { answer: oneshot::Sender<Status> },
}

/// Looks at reachability. Cheap to clone.
#[derive(Clone)]
pub struct NatHandle {
    commands: mpsc::Sender<Command>,
    refused: CounterVec<U64>,
}

pub(crate) fn channel(queue: usize, metrics: &Metrics) -> (NatHandle, mpsc::Receiver<Command>) {
    let (commands, receiver) = mpsc::channel(queue);
    (NatHandle { commands, refused: metrics.commands_refused.clone() }, receiver)
}

impl NatHandle {
    /// How this node can be reached, and how it knows.
    ///
    /// # Errors
    /// If too many calls are waiting, or the overlay is not running.
    pub async fn status(&self) -> Result<Status, StatusError> {
        let (answer, answered) = oneshot::channel();
        self.commands.try_send(Command::Status { answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                self.refused.with_label_values(&["nat"]).inc();
                StatusError::Busy
            }
            mpsc::error::TrySendError::Closed(_) => Closed.into(),
        })?;
        Ok(answered.await.map_err(|_| Closed)?)
    }
}
