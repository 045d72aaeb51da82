//! How requests to a TURN server end, and what is wrong with what comes: metric labels.

use serde::Serialize;

/// What a request asks for: a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A relayed address.
    Allocate,
    /// That it lasts, or that it is given back.
    Refresh,
    /// That an address may send to it.
    Permit,
    /// A channel to an address.
    Bind,
}

impl Asked {
    pub(crate) const ALL: [Self; 4] = [Self::Allocate, Self::Refresh, Self::Permit, Self::Bind];

    /// The metric label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Allocate => "allocate",
            Self::Refresh => "refresh",
            Self::Permit => "permission",
            Self::Bind => "channel",
        }
    }
}

/// How a request has ended, and why an allocation is gone: a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The server did it.
    Done,
    /// Nothing came that could be believed, however often it was asked.
    Timeout,
    /// The server knows the user name with another password, or does not know it.
    Unauthorized,
    /// The server found the number in each request too old, new as it was.
    StaleNonce,
    /// This user has as many allocations as it may have, or the server has no room.
    Quota,
    /// The server does not let this node reach that address.
    Forbidden,
    /// The server knows nothing of this allocation, or of another of the same socket.
    Mismatch,
    /// It answered with another error.
    Refused,
    /// It sent on to another server in a circle, too often, or to an address that may not be asked.
    Redirect,
    /// It gave an address that nobody can have on this chain, or a lifetime that is none.
    Impossible,
    /// What came over the stream was no message.
    Malformed,
    /// The server's name led to no address.
    Unresolved,
    /// No connection to the server, or it has closed.
    Unreachable,
    /// There is no file with the user name and the password, or it holds neither.
    Credentials,
    /// The lifetime ended before it could be renewed.
    Expired,
    /// This node gave it back.
    Released,
}

impl Outcome {
    pub(crate) const ALL: [Self; 16] = [
        Self::Done,
        Self::Timeout,
        Self::Unauthorized,
        Self::StaleNonce,
        Self::Quota,
        Self::Forbidden,
        Self::Mismatch,
        Self::Refused,
        Self::Redirect,
        Self::Impossible,
        Self::Malformed,
        Self::Unresolved,
        Self::Unreachable,
        Self::Credentials,
        Self::Expired,
        Self::Released,
    ];

    /// The metric label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Timeout => "timeout",
            Self::Unauthorized => "unauthorized",
            Self::StaleNonce => "stale_nonce",
            Self::Quota => "quota",
            Self::Forbidden => "forbidden",
            Self::Mismatch => "mismatch",
            Self::Refused => "refused",
            Self::Redirect => "redirect",
            Self::Impossible => "impossible",
            Self::Malformed => "malformed",
            Self::Unresolved => "unresolved",
            Self::Unreachable => "unreachable",
            Self::Credentials => "credentials",
            Self::Expired => "expired",
            Self::Released => "released",
        }
    }

    /// What an error code of RFC 8489 (14.8) and RFC 8656 (19) comes to.
    pub(super) fn of_code(code: u16) -> Self {
        match code {
            401 | 441 => Self::Unauthorized,
            403 => Self::Forbidden,
            437 => Self::Mismatch,
            438 => Self::StaleNonce,
            486 | 508 => Self::Quota,
            _ => Self::Refused,
        }
    }
}

/// Why something that came was dropped and ended nothing: a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// No STUN message and no channel's data, or cut short.
    Malformed,
    /// Longer than anything that is read.
    Oversized,
    /// Not from the server.
    WrongAddress,
    /// An answer to no request.
    WrongTransaction,
    /// An answer without the proof that it comes from the server, or with a wrong one.
    Unauthentic,
    /// Data of an address, or on a channel, to which this node has no tie.
    Unexpected,
}

impl Bad {
    pub(crate) const ALL: [Self; 6] = [
        Self::Malformed,
        Self::Oversized,
        Self::WrongAddress,
        Self::WrongTransaction,
        Self::Unauthentic,
        Self::Unexpected,
    ];

    /// The metric label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Oversized => "oversized",
            Self::WrongAddress => "wrong_address",
            Self::WrongTransaction => "wrong_transaction",
            Self::Unauthentic => "unauthentic",
            Self::Unexpected => "unexpected",
        }
    }
}
