//! What is stored and named: blobs, and the manifest that puts shards together into a content.
//!
//! A [`BlobId`] is the BLAKE3 root of the bytes it names, so whoever holds an id can check what it
//! is given. A shard and a manifest are both blobs; [`ShardId`] and [`ContentId`] only say which of
//! the two is meant, and turn into a [`BlobId`] freely.

use codec::{Decode, Encode};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr};

pub mod manifest;
pub mod publish;

pub use manifest::{Manifest, ManifestError};

/// The largest blob, in bytes: 16 MiB. A shard or a manifest above this does not exist.
pub const MAX_BLOB_LEN: u32 = 16 * 1024 * 1024;

/// Name of an immutable blob: the 32-byte BLAKE3 root of its bytes. Written as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct BlobId(pub [u8; 32]);

/// Name of one shard of a content. Written as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct ShardId(pub BlobId);

/// Name of a content: the id of its manifest. Written as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct ContentId(pub BlobId);

/// Why a text is not an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text is not 64 characters long.
    #[error("an id is 64 hex digits, this text has {0} characters")]
    Length(usize),
    /// A character is not a hex digit.
    #[error("an id is made of hex digits; position {position} holds {found:?}")]
    Digit {
        /// Zero-based position in the text.
        position: usize,
        /// What stands there.
        found: char,
    },
}

impl BlobId {
    /// The id of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    fn parse(text: &str) -> Result<Self, IdError> {
        let count = text.chars().count();
        if count != 64 {
            return Err(IdError::Length(count));
        }
        if let Some((position, found)) =
            text.chars().enumerate().find(|(_, c)| !c.is_ascii_hexdigit())
        {
            return Err(IdError::Digit { position, found });
        }
        let mut id = [0; 32];
        hex::decode_to_slice(text, &mut id).map_err(|_| IdError::Length(count))?;
        Ok(Self(id))
    }
}

impl From<ShardId> for BlobId {
    fn from(id: ShardId) -> Self {
        id.0
    }
}

impl From<ContentId> for BlobId {
    fn from(id: ContentId) -> Self {
        id.0
    }
}

macro_rules! written_as_hex {
    ($name:ident, |$id:ident| $bytes:expr, $wrap:expr) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let $id = self;
                f.write_str(&hex::encode($bytes))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                BlobId::parse(text).map($wrap)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

written_as_hex!(BlobId, |id| id.0, |id| id);
written_as_hex!(ShardId, |id| id.0.0, ShardId);
written_as_hex!(ContentId, |id| id.0.0, ContentId);

/// Where a publish or a download stands. Kept in a `tokio::sync::watch`, so a slow reader sees the
/// newest value and holds nobody up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is going on now.
    pub stage: Stage,
    /// Bytes of the content that are done.
    pub done: u64,
    /// Bytes of the content in all; 0 while not known.
    pub total: u64,
}

impl Progress {
    /// Nothing has happened yet.
    pub const START: Self = Self { stage: Stage::Starting, done: 0, total: 0 };
}

/// A step of a publish or a download.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Not begun.
    Starting,
    /// Publish: shards are hashed and written.
    Storing,
    /// Download: what an earlier run left is hashed and compared with the manifest.
    Checking,
    /// Download: missing shards are fetched.
    Fetching,
    /// The manifest is written (publish), or the file is synced and renamed (download).
    Finishing,
    /// All done.
    Done,
}

/// The media type that a file name's ending stands for, `application/octet-stream` when unknown.
pub fn media_type_of(name: &str) -> &'static str {
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
    match ending.to_ascii_lowercase().as_str() {
        "mp4" | "m4v" => "video/mp4",
        "webm" => "video/webm",
        "mkv" => "video/x-matroska",
        "mov" => "video/quicktime",
        "ts" => "video/mp2t",
        "m4a" => "audio/mp4",
        "mp3" => "audio/mpeg",
        "ogg" | "ogv" => "application/ogg",
        "m3u8" => "application/vnd.apple.mpegurl",
        "mpd" => "application/dash+xml",
        "vtt" => "text/vtt",
        "txt" => "text/plain",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_id_is_the_blake3_root_of_its_bytes() {
        // The hash of the empty input, from the BLAKE3 test vectors.
        assert_eq!(
            BlobId::of(b"").to_string(),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
    }

    #[test]
    fn a_bad_id_says_what_is_wrong() {
        assert_eq!("abc".parse::<BlobId>(), Err(IdError::Length(3)));
        let text = format!("{}g{}", "0".repeat(5), "0".repeat(58));
        assert_eq!(text.parse::<ContentId>(), Err(IdError::Digit { position: 5, found: 'g' }));
        // 64 characters, more bytes than that.
        assert!(matches!("é".repeat(64).parse::<ShardId>(), Err(IdError::Digit { .. })));
    }

    #[test]
    fn media_types_follow_the_ending() {
        assert_eq!(media_type_of("a/b.c/film.MP4"), "video/mp4");
        assert_eq!(media_type_of("noending"), "application/octet-stream");
    }

    proptest! {
        #[test]
        fn ids_survive_text(bytes: [u8; 32]) {
            let id = ShardId(BlobId(bytes));
            prop_assert_eq!(id.to_string().parse::<ShardId>(), Ok(id));
            prop_assert_eq!(id.to_string().to_uppercase().parse::<ShardId>(), Ok(id));
        }

        #[test]
        fn any_text_is_parsed_without_a_panic(text in ".*") {
            let _ = text.parse::<BlobId>();
        }
    }
}
