//! Errors of building and running the service, and the reasons for refusing a request.

use crate::{store::OpenError, transport::TlsError, wire::Code};
use std::{io, net::SocketAddr};

/// Why a service could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Neither an origin's folder nor a cache's was given.
    #[error("a shard service needs a folder for an origin, for a cache, or for both")]
    NoRole,
    /// A setting makes no sense.
    #[error("{key} = {value}: {rule}")]
    Config {
        /// The setting, as it is written in the configuration file.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        rule: &'static str,
    },
    /// The certificate that proves the identity could not be made.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Why a service stopped, other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A data folder cannot be used.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The address is taken.
    #[error(
        "UDP {addr} is in use by another program; stop that one or choose another address with \
         --shard-listen-addr"
    )]
    InUse {
        /// The address.
        addr: SocketAddr,
    },
    /// The address cannot be listened on for another reason.
    #[error("cannot listen on UDP {addr}: {source}; choose another with --shard-listen-addr")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// No socket for fetching from other nodes.
    #[error("cannot open a UDP socket: {0}")]
    Socket(#[source] io::Error),
    /// The certificate that proves the identity could not be made.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A part of the service ended that never should.
    #[error("the shard service's {part} failed")]
    Part {
        /// Which.
        part: &'static str,
    },
}

/// Why a request or a connection was refused. Each has a code for the peer and a label for
/// `nsn_relay_refusals_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Nobody that was asked holds it.
    NotFound,
    /// The request is no frame.
    BadFrame,
    /// The request did not come in time.
    SlowRequest,
    /// More ids than are answered at once.
    TooManyIds,
    /// The range does not lie in the blob.
    Range,
    /// As many requests as allowed are going on.
    Requests,
    /// As many fills as allowed are going on.
    Fills,
    /// As many bytes as allowed are held for viewers.
    Memory,
    /// Every source was busy.
    UpstreamBusy,
    /// There is too much to do for what nobody waits for.
    Prefetch,
    /// There is too much to do for one more viewer.
    NewViewer,
    /// As many connections as allowed are open.
    Connections,
    /// As many connections as allowed to one address are open.
    SourceConnections,
    /// Connections come too fast, from this address or in all.
    ConnectionRate,
    /// The connection did not come to be in time, or not as the protocol wants it.
    Handshake,
    /// As many substreams of the overlay as allowed are open.
    Substreams,
    /// As many substreams of the overlay as allowed to one node are open.
    PeerSubstreams,
    /// The viewer stopped reading.
    SlowReader,
    /// What lies on disk turned out to be damaged while it was sent, and nobody else had it.
    Damaged,
    /// No source delivered it.
    UpstreamFailed,
    /// Every source delivered wrong bytes.
    UpstreamCorrupt,
    /// The service is going down.
    ShuttingDown,
    /// A fault of the service's own.
    Internal,
}

impl Refusal {
    /// What the peer sees.
    pub fn code(self) -> Code {
        match self {
            Self::NotFound => Code::NotFound,
            Self::BadFrame | Self::SlowRequest | Self::Handshake => Code::BadRequest,
            Self::TooManyIds => Code::TooLarge,
            Self::Range => Code::Range,
            Self::Requests
            | Self::Substreams
            | Self::Fills
            | Self::Memory
            | Self::UpstreamBusy
            | Self::Prefetch
            | Self::NewViewer => Code::Busy,
            Self::Connections
            | Self::SourceConnections
            | Self::ConnectionRate
            | Self::PeerSubstreams
            | Self::SlowReader => Code::Limited,
            Self::UpstreamFailed => Code::UpstreamFailed,
            Self::Damaged | Self::UpstreamCorrupt => Code::Corrupt,
            Self::ShuttingDown => Code::ShuttingDown,
            Self::Internal => Code::Internal,
        }
    }

    /// The metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::BadFrame => "bad_frame",
            Self::SlowRequest => "slow_request",
            Self::TooManyIds => "too_many_ids",
            Self::Range => "range",
            Self::Requests => "requests",
            Self::Fills => "fills",
            Self::Memory => "memory",
            Self::UpstreamBusy => "upstream_busy",
            Self::Prefetch => "prefetch",
            Self::NewViewer => "new_viewer",
            Self::Connections => "connections",
            Self::SourceConnections => "connections_per_source",
            Self::ConnectionRate => "connection_rate",
            Self::Handshake => "handshake",
            Self::Substreams => "substreams",
            Self::PeerSubstreams => "substreams_per_peer",
            Self::SlowReader => "slow_reader",
            Self::Damaged => "damaged",
            Self::UpstreamFailed => "upstream_failed",
            Self::UpstreamCorrupt => "upstream_corrupt",
            Self::ShuttingDown => "shutting_down",
            Self::Internal => "internal",
        }
    }
}
