//! Why a connection is refused.

use thiserror::Error;

/// The label of those that are ended as soon as the peer has said who it is.
pub(crate) const OTHER_CHAIN: &str = "other_chain";

/// Why a connection is refused. Each is a label of `nsn_p2p_connections_refused_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub(crate) enum Refused {
    #[error("this node holds as many connections as it may")]
    Total,
    #[error("all places for inbound connections are taken")]
    OutboundReserve,
    #[error("this node holds as many connections to that peer as it may")]
    PerPeer,
    #[error("too many connections are shaking hands")]
    Pending,
    #[error("connections from that address come too fast")]
    SourceRate,
    #[error("connections come too fast")]
    Rate,
    #[error("this node holds as many connections from that address as it may")]
    Ip,
    #[error("this node holds as many connections from that network as it may")]
    IpGroup,
    #[error("the peer or its address is banned")]
    Banned,
    #[error("the peer uses no ed25519 key")]
    KeyType,
    #[error("the peer is graylisted")]
    Graylisted,
    #[error("the peer has this node's own key")]
    OwnKey,
}

impl Refused {
    /// All of them, which dashboards see from the start.
    pub(crate) const ALL: [Self; 12] = [
        Self::Total,
        Self::OutboundReserve,
        Self::PerPeer,
        Self::Pending,
        Self::SourceRate,
        Self::Rate,
        Self::Ip,
        Self::IpGroup,
        Self::Banned,
        Self::KeyType,
        Self::Graylisted,
        Self::OwnKey,
    ];

    /// The metric label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::OutboundReserve => "outbound_reserve",
            Self::PerPeer => "per_peer",
            Self::Pending => "pending",
            Self::SourceRate => "source_rate",
            Self::Rate => "rate",
            Self::Ip => "ip",
            Self::IpGroup => "ip_group",
            Self::Banned => "banned",
            Self::KeyType => "key_type",
            Self::Graylisted => "graylisted",
            Self::OwnKey => "own_key",
        }
    }
}
