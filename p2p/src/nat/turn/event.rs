//! What an allocation is asked for with, and what comes of it.

use super::outcome::{Asked, Bad, Outcome};
use crate::AddressPolicy;
use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// How an allocation is asked for and kept.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// Wait after each time a request is sent; it fails after the last. One over TCP.
    pub(super) waits: Vec<Duration>,
    pub(super) lifetime: Duration,
    /// Silence after which the server is sent a word; never over TCP.
    pub(super) keep_alive: Option<Duration>,
    /// Whether messages follow each other on a stream.
    pub(super) stream: bool,
    pub(super) max_peers: usize,
    pub(super) idle: Duration,
    pub(super) policy: AddressPolicy,
    /// Whether an address of IPv6 is asked for.
    pub(super) v6: bool,
}

/// What a server has given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allocation {
    /// The address at which it takes what is for this node.
    pub(super) relayed: SocketAddr,
    /// Where it sees this node.
    pub(super) mapped: Option<SocketAddr>,
    /// When it ends if it is not renewed.
    pub(super) ends: Instant,
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// There is an allocation.
    Opened(Allocation),
    /// An address has a permission, or gets none.
    Permitted(IpAddr, bool),
    /// A request has ended: for the metrics.
    Answered(Asked, Outcome),
    /// Something that came was dropped: for the metrics.
    Dropped(Bad),
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// For this reason.
    Over(Outcome),
    /// Another server is to be asked.
    Redirect(SocketAddr),
}

/// What of a datagram is for the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    pub(super) from: SocketAddr,
    pub(super) payload: Vec<u8>,
}

/// Why a datagram was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsent {
    /// The address has no permission.
    NotPermitted,
    /// It is longer than anything that is carried.
    TooLong,
}
