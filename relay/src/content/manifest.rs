//! The manifest: which shards make up a content, in order.
//!
//! SCALE: `version: u8 = 1`, `media_type: String`, `total_len: u64`, `shards: Vec<(ShardId, u32)>`.
//! It is stored as a blob like any shard, and its hash is the [`ContentId`]. A [`Manifest`] value
//! has always passed [`validation`](Manifest::decode): there is no way to hold one that lies.

use super::{BlobId, ContentId, MAX_BLOB_LEN, ShardId};
use codec::{Decode, DecodeAll, Encode};

/// The only version there is.
pub const VERSION: u8 = 1;

/// The longest media type, in bytes.
pub const MAX_MEDIA_TYPE: usize = 128;

/// Bytes of a manifest that are not shards, at most: version, media type and its length prefix,
/// total length, the shard count's prefix.
const OVERHEAD: usize = 1 + 2 + MAX_MEDIA_TYPE + 8 + 5;

/// Bytes of one shard in a manifest.
const PART: u64 = 36;

/// The most shards that a manifest may list, so that it fits one blob: 466,029. At 1 MiB a shard
/// that is a content of 455 GiB.
pub const MAX_SHARDS: usize = (MAX_BLOB_LEN as usize - OVERHEAD) / 36;

/// The most bytes that the manifest of a content of so many shards has; `None` where there is no such
/// content.
pub(crate) fn longest(shards: u32) -> Option<u32> {
    let count = usize::try_from(shards).ok().filter(|count| (1..=MAX_SHARDS).contains(count))?;
    u32::try_from(count * 36 + OVERHEAD).ok()
}

/// One shard of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Part {
    /// Name of the shard.
    pub id: ShardId,
    /// Its length in bytes, 1 to 16 MiB.
    pub len: u32,
}

/// One shard and where its bytes stand in the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Offset of the shard's first byte in the content.
    pub offset: u64,
    /// The shard.
    pub part: Part,
}

/// A description of one content that has been validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest(Raw);

/// The bytes on the wire, in SCALE's order of fields.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
struct Raw {
    version: u8,
    media_type: String,
    total_len: u64,
    shards: Vec<Part>,
}

/// Why bytes are not a manifest. None of these can come from a node that follows the rules, so a
/// manifest that hashes to its id and is still refused was made that way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Larger than a blob may be.
    #[error("the manifest is {0} bytes long, more than the 16 MiB of a blob")]
    TooLarge(usize),
    /// Not SCALE of the right shape, or followed by more bytes.
    #[error("the manifest cannot be decoded: {0}")]
    Malformed(codec::Error),
    /// Written by a newer program.
    #[error("the manifest has version {0}, this program knows version {VERSION}")]
    Version(u8),
    /// Empty, too long, or not visible ASCII.
    #[error("the manifest's media type must be 1 to {MAX_MEDIA_TYPE} visible ASCII characters")]
    MediaType,
    /// No shard at all, or more than fit.
    #[error("the manifest lists {0} shards, it must be 1 to {MAX_SHARDS}")]
    ShardCount(usize),
    /// A shard of no bytes or of more than a blob may have.
    #[error("shard {index} of the manifest is {len} bytes long, it must be 1 to 16 MiB")]
    ShardLen {
        /// Zero-based position in the list.
        index: usize,
        /// The length that the manifest claims.
        len: u32,
    },
    /// The lengths of the shards do not add up to the total.
    #[error("the manifest says {claimed} bytes in all, its shards add up to {sum}")]
    Total {
        /// What the manifest says.
        claimed: u64,
        /// What its shards say.
        sum: u64,
    },
}

impl Manifest {
    /// Makes the manifest of `shards` in their order; the total is their sum.
    ///
    /// # Errors
    /// When the media type, the number of shards or the length of one is out of bounds.
    pub fn new(media_type: impl Into<String>, shards: Vec<Part>) -> Result<Self, ManifestError> {
        let total_len = sum(&shards);
        let raw = Raw { version: VERSION, media_type: media_type.into(), total_len, shards };
        validate(&raw)?;
        Ok(Self(raw))
    }

    /// Reads and validates a manifest blob.
    ///
    /// # Errors
    /// See [`ManifestError`]; nothing larger than the input is ever allocated.
    pub fn decode(blob: &[u8]) -> Result<Self, ManifestError> {
        if blob.len() > MAX_BLOB_LEN as usize {
            return Err(ManifestError::TooLarge(blob.len()));
        }
        // The version comes first so that a newer layout is named as such.
        if let Some(version) = blob.first().filter(|version| **version != VERSION) {
            return Err(ManifestError::Version(*version));
        }
        let raw = Raw::decode_all(&mut &*blob).map_err(ManifestError::Malformed)?;
        validate(&raw)?;
        Ok(Self(raw))
    }

    /// Whether a blob of `len` bytes that begins with `prefix` may be a manifest: whether what stands
    /// before its shards says that it is as long. Looks at the first 150 bytes at most, and is wrong
    /// about one that is none once in billions.
    pub(crate) fn may_begin(prefix: &[u8], len: u32) -> bool {
        let mut rest = prefix;
        let header = <(u8, String, u64, codec::Compact<u32>)>::decode(&mut rest);
        let Ok((VERSION, media_type, _, codec::Compact(shards))) = header else { return false };
        let before = u64::try_from(prefix.len() - rest.len()).unwrap_or(u64::MAX);
        let shards = u64::from(shards).saturating_mul(PART);
        media_type.len() <= MAX_MEDIA_TYPE && before.saturating_add(shards) == u64::from(len)
    }

    /// The blob that stands for this manifest. SCALE has one encoding of a value, so the same
    /// content always gets the same id.
    pub fn encode(&self) -> Vec<u8> {
        self.0.encode()
    }

    /// The content's name: the hash of [`Self::encode`].
    pub fn id(&self) -> ContentId {
        ContentId(BlobId::of(&self.encode()))
    }

    /// Media type of the whole content, for instance `video/mp4`.
    pub fn media_type(&self) -> &str {
        &self.0.media_type
    }

    /// Length of the whole content in bytes.
    pub fn total_len(&self) -> u64 {
        self.0.total_len
    }

    /// The shards in order.
    pub fn shards(&self) -> &[Part] {
        &self.0.shards
    }

    /// The shards in order, each with its place in the content.
    pub fn spans(&self) -> impl Iterator<Item = Span> + '_ {
        self.0.shards.iter().scan(0u64, |next, part| {
            let offset = *next;
            *next += u64::from(part.len);
            Some(Span { offset, part: *part })
        })
    }
}

/// At most 466,029 shards of 2^32 bytes: cannot overflow a u64.
fn sum(shards: &[Part]) -> u64 {
    shards.iter().map(|part| u64::from(part.len)).sum()
}

fn validate(raw: &Raw) -> Result<(), ManifestError> {
    if raw.version != VERSION {
        return Err(ManifestError::Version(raw.version));
    }
    let media_type = raw.media_type.as_bytes();
    if media_type.is_empty()
        || media_type.len() > MAX_MEDIA_TYPE
        || !media_type.iter().all(u8::is_ascii_graphic)
    {
        return Err(ManifestError::MediaType);
    }
    if raw.shards.is_empty() || raw.shards.len() > MAX_SHARDS {
        return Err(ManifestError::ShardCount(raw.shards.len()));
    }
    for (index, part) in raw.shards.iter().enumerate() {
        if part.len == 0 || part.len > MAX_BLOB_LEN {
            return Err(ManifestError::ShardLen { index, len: part.len });
        }
    }
    let sum = sum(&raw.shards);
    if sum != raw.total_len {
        return Err(ManifestError::Total { claimed: raw.total_len, sum });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn part(n: u8, len: u32) -> Part {
        Part { id: ShardId(BlobId([n; 32])), len }
    }

    fn raw(total_len: u64, shards: Vec<Part>) -> Raw {
        Raw { version: VERSION, media_type: "video/mp4".into(), total_len, shards }
    }

    #[test]
    fn spans_follow_each_other() {
        let manifest =
            Manifest::new("video/mp4", vec![part(1, 10), part(2, 7), part(1, 10)]).unwrap();
        let offsets: Vec<_> = manifest.spans().map(|span| span.offset).collect();
        assert_eq!(offsets, [0, 10, 17]);
        assert_eq!(manifest.total_len(), 27);
    }

    #[test]
    fn the_largest_manifest_fits_one_blob() {
        let shards = vec![part(1, MAX_BLOB_LEN); MAX_SHARDS];
        let manifest = Manifest::new("x".repeat(MAX_MEDIA_TYPE), shards).unwrap();
        let blob = manifest.encode();
        assert!(blob.len() <= MAX_BLOB_LEN as usize);
        assert_eq!(Manifest::decode(&blob), Ok(manifest));
    }

    #[test]
    fn a_manifest_that_lies_is_refused() {
        let lie = |raw: Raw| Manifest::decode(&raw.encode()).unwrap_err();
        assert_eq!(
            lie(raw(18, vec![part(1, 10), part(2, 7)])),
            ManifestError::Total { claimed: 18, sum: 17 }
        );
        assert_eq!(lie(raw(0, vec![])), ManifestError::ShardCount(0));
        assert_eq!(lie(raw(0, vec![part(1, 0)])), ManifestError::ShardLen { index: 0, len: 0 });
        assert_eq!(
            lie(raw(u64::from(MAX_BLOB_LEN) + 1, vec![part(1, MAX_BLOB_LEN + 1)])),
            ManifestError::ShardLen { index: 0, len: MAX_BLOB_LEN + 1 }
        );
        let many = vec![part(1, 1); MAX_SHARDS + 1];
        assert_eq!(
            lie(raw(MAX_SHARDS as u64 + 1, many)),
            ManifestError::ShardCount(MAX_SHARDS + 1)
        );
        for media_type in ["", "video/ mp4", "vidéo/mp4", &"x".repeat(129)] {
            let raw = Raw { media_type: media_type.into(), ..raw(1, vec![part(1, 1)]) };
            assert_eq!(lie(raw), ManifestError::MediaType, "{media_type}");
        }
        assert_eq!(lie(Raw { version: 2, ..raw(1, vec![part(1, 1)]) }), ManifestError::Version(2));
    }

    #[test]
    fn a_manifest_is_told_from_other_blobs_by_its_beginning() {
        let manifest = Manifest::new("video/mp4", vec![part(1, 10), part(2, 7)]).unwrap();
        let blob = manifest.encode();
        let len = u32::try_from(blob.len()).unwrap();
        assert!(Manifest::may_begin(&blob, len) && Manifest::may_begin(&blob[..30], len));
        assert!(!Manifest::may_begin(&blob, len + 1));
        assert!(!Manifest::may_begin(&blob[..10], len), "too little to say");
        assert!(!Manifest::may_begin(&[VERSION; 100], 100));
        assert!(len <= longest(2).unwrap());
        assert_eq!((longest(0), longest(u32::MAX)), (None, None));
    }

    #[test]
    fn bytes_after_the_manifest_are_refused() {
        let mut blob = raw(1, vec![part(1, 1)]).encode();
        blob.push(0);
        assert!(matches!(Manifest::decode(&blob), Err(ManifestError::Malformed(_))));
    }

    #[test]
    fn a_huge_claimed_count_allocates_nothing() {
        let mut blob = vec![VERSION];
        "a/b".to_string().encode_to(&mut blob);
        5u64.encode_to(&mut blob);
        codec::Compact(u32::MAX).encode_to(&mut blob);
        assert!(matches!(Manifest::decode(&blob), Err(ManifestError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_itself(
            lens in prop::collection::vec(1..=MAX_BLOB_LEN, 1..50),
            media_type in "[a-z]{1,20}/[a-z0-9.+-]{1,20}",
        ) {
            let shards = lens.iter().map(|len| part(len.to_le_bytes()[0], *len)).collect();
            let manifest = Manifest::new(media_type, shards).unwrap();
            prop_assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest));
        }

        #[test]
        fn garbage_never_panics_and_what_passes_is_canonical(
            mut blob in prop::collection::vec(any::<u8>(), 0..300),
            versioned: bool,
        ) {
            if versioned && let Some(first) = blob.first_mut() { *first = VERSION; }
            if let Ok(manifest) = Manifest::decode(&blob) {
                prop_assert_eq!(manifest.encode(), blob);
            }
        }

        #[test]
        fn a_flipped_byte_is_refused_or_changes_the_id(at in 0usize..90, with in 1u8..) {
            let manifest = Manifest::new("video/mp4", vec![part(1, 10), part(2, 7)]).unwrap();
            let mut blob = manifest.encode();
            let at = at % blob.len();
            blob[at] ^= with;
            if let Ok(other) = Manifest::decode(&blob) {
                prop_assert_ne!(other.id(), manifest.id());
            }
        }
    }
}
