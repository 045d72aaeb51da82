//! The codes that a peer may see, in responses, stream resets and connection closes alike.

use codec::{Decode, Encode};
use quinn::VarInt;
use serde::Serialize;
use std::fmt;

/// What became of a request. The numbers are part of the protocol and never change meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// Done; the body follows.
    #[codec(index = 0)]
    Ok = 0,
    /// Nobody that was asked holds it.
    #[codec(index = 1)]
    NotFound = 1,
    /// The request cannot be read or makes no sense. Asking again will not help.
    #[codec(index = 2)]
    BadRequest = 2,
    /// More was asked for at once than is served at once.
    #[codec(index = 3)]
    TooLarge = 3,
    /// The range is empty, backwards, or ends after the blob; the header's total says how long
    /// the blob is.
    #[codec(index = 4)]
    Range = 4,
    /// Too much to do; the header says how long to wait, and may name other relays.
    #[codec(index = 5)]
    Busy = 5,
    /// The asker went over a limit of its own: too many connections, or it reads too slowly.
    #[codec(index = 6)]
    Limited = 6,
    /// Some source has or may have it, and none delivered.
    #[codec(index = 7)]
    UpstreamFailed = 7,
    /// Every source that answered delivered bytes that do not hash to the id.
    #[codec(index = 8)]
    Corrupt = 8,
    /// The service is going down; ask another.
    #[codec(index = 9)]
    ShuttingDown = 9,
    /// A fault of the service's own.
    #[codec(index = 10)]
    Internal = 10,
}

/// A number that is not a [`Code`]: a newer or a foreign program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown code {0}")]
pub struct UnknownCode(pub u64);

impl Code {
    /// All codes, in the order of their numbers.
    pub const ALL: [Self; 11] = [
        Self::Ok,
        Self::NotFound,
        Self::BadRequest,
        Self::TooLarge,
        Self::Range,
        Self::Busy,
        Self::Limited,
        Self::UpstreamFailed,
        Self::Corrupt,
        Self::ShuttingDown,
        Self::Internal,
    ];

    /// The number on the wire.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// A few plain words, for people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NotFound => "not found",
            Self::BadRequest => "bad request",
            Self::TooLarge => "too large",
            Self::Range => "range outside the shard",
            Self::Busy => "busy",
            Self::Limited => "over a limit",
            Self::UpstreamFailed => "no source delivered it",
            Self::Corrupt => "every source delivered wrong bytes",
            Self::ShuttingDown => "shutting down",
            Self::Internal => "internal error",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.words(), self.number())
    }
}

impl From<Code> for VarInt {
    fn from(code: Code) -> Self {
        Self::from_u32(u32::from(code.number()))
    }
}

impl TryFrom<VarInt> for Code {
    type Error = UnknownCode;
    fn try_from(number: VarInt) -> Result<Self, UnknownCode> {
        let number = number.into_inner();
        Self::ALL
            .into_iter()
            .find(|code| u64::from(code.number()) == number)
            .ok_or(UnknownCode(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_protocol() {
        for (number, code) in (0u8..).zip(Code::ALL) {
            assert_eq!(code.number(), number);
            assert_eq!(code.encode(), [number]);
            assert_eq!(Code::try_from(VarInt::from(code)), Ok(code));
        }
        assert_eq!(Code::try_from(VarInt::from_u32(11)), Err(UnknownCode(11)));
    }
}
