//! Announcements of new content, the payload that super-nodes put on `video`.

use codec::{Decode, DecodeAll, Encode};
use thiserror::Error;

/// A node published content and serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Announcement {
    /// [`Announcement::VERSION`].
    pub version: u8,
    /// BLAKE3 of the content's manifest.
    pub content_id: [u8; 32],
    /// Length of the content in bytes.
    pub total_len: u64,
    /// Number of its shards.
    pub shards: u32,
}

/// Why a payload is no announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AnnouncementError {
    /// Not the SCALE of an announcement.
    #[error("the payload is no announcement")]
    Malformed,
    /// A version this node does not know (live chunks will have one of their own).
    #[error("the announcement has version {0}, which this node does not know")]
    Version(u8),
}

impl Announcement {
    /// The only version there is.
    pub const VERSION: u8 = 1;

    /// An announcement of the current version.
    pub fn new(content_id: [u8; 32], total_len: u64, shards: u32) -> Self {
        Self { version: Self::VERSION, content_id, total_len, shards }
    }

    /// The payload to publish.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.encode()
    }

    /// Reads a payload.
    pub fn from_bytes(mut bytes: &[u8]) -> Result<Self, AnnouncementError> {
        match bytes.first() {
            Some(&Self::VERSION) => {
                Self::decode_all(&mut bytes).map_err(|_| AnnouncementError::Malformed)
            }
            Some(&other) => Err(AnnouncementError::Version(other)),
            None => Err(AnnouncementError::Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(content_id: [u8; 32], total_len: u64, shards: u32) {
            let announcement = Announcement::new(content_id, total_len, shards);
            prop_assert_eq!(Announcement::from_bytes(&announcement.to_bytes()), Ok(announcement));
        }

        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            if let Ok(announcement) = Announcement::from_bytes(&bytes) {
                prop_assert_eq!(announcement.to_bytes(), bytes);
            }
        }
    }
}
