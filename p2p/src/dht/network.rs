//! What the directory asks of other peers, and what they answer: the words that the lookups, the
//! sweep, the driver and the simulation have in common. Nothing here does I/O.

use super::Key;
use crate::{Multiaddr, OverlayKey, PeerId};
use thiserror::Error;

/// A peer and where it is said to be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contact {
    /// Who.
    pub(crate) peer: PeerId,
    /// Where, by the word of whoever named it; empty if nothing is known but its PeerId. Only such as
    /// the address policy allows; at most [`super::routing::MAX_ADDRESSES`].
    pub(crate) addresses: Vec<Multiaddr>,
}

/// What is asked of one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// Which peers it knows nearest to the point of these bytes. FIND_NODE.
    Closest(Vec<u8>),
    /// Who provides a key, and which peers it knows nearest to it. GET_PROVIDERS.
    Providers(Key),
    /// Whether it holds the record of a key's provider: GET_VALUE for [`Key::held_by`]. kad leaves
    /// the asker out of the providers it names, so this is how a provider reads back its own record.
    Held(Key, OverlayKey),
}

/// What a peer answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Peers nearer to what was asked for.
    pub(crate) closer: Vec<Contact>,
    /// Providers; none but for [`Question::Providers`].
    pub(crate) providers: Vec<Contact>,
    /// Whether the record is held that [`Question::Held`] asks for.
    pub(crate) held: bool,
}

/// Why a peer did not answer, or could not be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub(crate) enum Failure {
    /// No connection could be made.
    #[error("cannot be reached")]
    Unreachable,
    /// The time was up.
    #[error("did not answer in time")]
    Timeout,
    /// It does not speak the directory's protocol.
    #[error("does not serve the directory")]
    Unsupported,
    /// The connection or the stream broke.
    #[error("the connection broke")]
    Broken,
    /// What it sent is no answer.
    #[error("answered with nonsense")]
    Malformed,
    /// This node has too many questions in flight.
    #[error("too many questions are in flight")]
    Busy,
}

impl Failure {
    /// All of them, which dashboards see from the start.
    pub(crate) const ALL: [Self; 6] = [
        Self::Unreachable,
        Self::Timeout,
        Self::Unsupported,
        Self::Broken,
        Self::Malformed,
        Self::Busy,
    ];

    /// The metric label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Unsupported => "unsupported",
            Self::Broken => "broken",
            Self::Malformed => "malformed",
            Self::Busy => "busy",
        }
    }
}

/// Why something that a peer told in an answer was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Dropped {
    /// It names more peers than are asked for.
    TooMany,
    /// It names a peer by bytes that are no PeerId.
    NoPeer,
    /// It names a peer with a key that is not ed25519.
    KeyType,
    /// An address cannot be read, is another peer's, or is not allowed by the policy.
    Address,
    /// No address of a peer was left.
    NoAddress,
    /// It names this node.
    Local,
    /// It names the peer that answered.
    Itself,
    /// The peer it names is farther away than all that are known, of which there are enough.
    Far,
}

impl Dropped {
    /// All of them, which dashboards see from the start.
    pub(crate) const ALL: [Self; 8] = [
        Self::TooMany,
        Self::NoPeer,
        Self::KeyType,
        Self::Address,
        Self::NoAddress,
        Self::Local,
        Self::Itself,
        Self::Far,
    ];

    /// The metric label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::TooMany => "too_many",
            Self::NoPeer => "no_peer",
            Self::KeyType => "key_type",
            Self::Address => "address",
            Self::NoAddress => "no_address",
            Self::Local => "local",
            Self::Itself => "itself",
            Self::Far => "far",
        }
    }
}
