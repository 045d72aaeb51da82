//! The envelope that every gossip message is.

use codec::{Compact, Decode, Encode};
use thiserror::Error;

/// Bytes that an envelope adds to its payload at most: version, creation time, lifetime and the
/// payload's compact length (up to 5 bytes below 4 GiB).
pub(super) const OVERHEAD: usize = 1 + 8 + 4 + 5;

/// A gossip message before signing: SCALE of `{version, created_ms, ttl_ms, payload}`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Envelope {
    /// [`Envelope::VERSION`].
    pub version: u8,
    /// When the author made it, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// For how many milliseconds it is of use.
    pub ttl_ms: u32,
    /// What the topic carries.
    pub payload: Vec<u8>,
}

/// Why bytes are no envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EnvelopeError {
    /// Not the SCALE of an envelope, or bytes are left over.
    #[error("the message is no envelope")]
    Malformed,
    /// An envelope of a version this node does not know.
    #[error("the envelope has version {0}, which this node does not know")]
    Version(u8),
}

impl Envelope {
    /// The only version there is.
    pub const VERSION: u8 = 1;

    /// An envelope of the current version.
    pub fn new(payload: Vec<u8>, created_ms: u64, ttl_ms: u32) -> Self {
        Self { version: Self::VERSION, created_ms, ttl_ms, payload }
    }

    /// Reads an envelope; memory taken is bounded by the input's length.
    ///
    /// # Errors
    /// As [`View::of`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let View { created_ms, ttl_ms, payload } = View::of(bytes)?;
        Ok(Self { version: Self::VERSION, created_ms, ttl_ms, payload: payload.to_vec() })
    }
}

/// An envelope as it lies in the bytes of a message: nothing is copied, so that reading one costs
/// the same for a payload of 16 MiB as for an empty one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View<'a> {
    /// When the author made it, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// For how many milliseconds it is of use.
    pub ttl_ms: u32,
    /// What the topic carries.
    pub payload: &'a [u8],
}

impl<'a> View<'a> {
    /// Reads an envelope of the current version.
    ///
    /// # Errors
    /// If the bytes are not one whole envelope, or one of another version.
    pub fn of(bytes: &'a [u8]) -> Result<Self, EnvelopeError> {
        let (&version, mut rest) = bytes.split_first().ok_or(EnvelopeError::Malformed)?;
        if version != Envelope::VERSION {
            return Err(EnvelopeError::Version(version));
        }
        let malformed = |_| EnvelopeError::Malformed;
        let (created_ms, ttl_ms, Compact(len)) =
            <(u64, u32, Compact<u32>)>::decode(&mut rest).map_err(malformed)?;
        if usize::try_from(len) != Ok(rest.len()) {
            return Err(EnvelopeError::Malformed);
        }
        Ok(Self { created_ms, ttl_ms, payload: rest })
    }

    /// When it stops being of use, in milliseconds since the Unix epoch, a lifetime above
    /// `max_ttl_ms` counting as `max_ttl_ms`.
    pub fn expires_ms(&self, max_ttl_ms: u32) -> u64 {
        self.created_ms.saturating_add(self.ttl_ms.min(max_ttl_ms).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use codec::DecodeAll;
    use proptest::prelude::*;

    #[test]
    fn a_length_that_lies_is_malformed() {
        // Version 1, times, then a payload that claims 1 GiB and holds two bytes.
        let mut bytes = Envelope::new(vec![], 1, 2).encode();
        bytes.pop();
        Compact(1u32 << 30).encode_to(&mut bytes);
        bytes.extend_from_slice(&[1, 2]);
        assert_eq!(Envelope::from_bytes(&bytes), Err(EnvelopeError::Malformed));
    }

    #[test]
    fn another_version_is_told_from_garbage() {
        let bytes = Envelope { version: 2, ..Envelope::new(vec![1], 1, 2) }.encode();
        assert_eq!(Envelope::from_bytes(&bytes), Err(EnvelopeError::Version(2)));
        assert_eq!(Envelope::from_bytes(&[]), Err(EnvelopeError::Malformed));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(payload: Vec<u8>, created_ms: u64, ttl_ms: u32) {
            let envelope = Envelope::new(payload, created_ms, ttl_ms);
            let bytes = envelope.encode();
            prop_assert!(bytes.len() <= envelope.payload.len() + OVERHEAD);
            prop_assert_eq!(Envelope::from_bytes(&bytes), Ok(envelope.clone()));
            let mut longer = bytes.clone();
            longer.push(0);
            prop_assert_eq!(Envelope::from_bytes(&longer), Err(EnvelopeError::Malformed));
            prop_assert!(Envelope::from_bytes(&bytes[..bytes.len() - 1]).is_err());
        }

        #[test]
        fn any_bytes_are_survived(
            mut bytes: Vec<u8>, as_if_current: bool, now: u32,
        ) {
            // Half of them get past the version.
            if let Some(version) = bytes.first_mut().filter(|_| as_if_current) {
                *version = Envelope::VERSION;
            }
            // The derived decoder is the measure of what is an envelope.
            let decoded = Envelope::decode_all(&mut &bytes[..]).ok().filter(|e| e.version == 1);
            prop_assert_eq!(Envelope::from_bytes(&bytes).ok(), decoded);
            if let Ok(view) = View::of(&bytes) {
                prop_assert!(view.expires_ms(now) >= view.created_ms);
            }
        }
    }
}
