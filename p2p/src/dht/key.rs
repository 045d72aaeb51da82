//! Keys of the directory.

use crate::{OverlayKey, peers::Region};
use libp2p::kad::RecordKey;
use std::fmt;

/// A directory key: 32 bytes derived from what is provided, so that a shard, a content and a region
/// never share one. kad hashes it once more to place it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key([u8; 32]);

impl Key {
    /// The lowest key there could be.
    pub(crate) const FIRST: Self = Self([0; 32]);
    /// The highest key there could be.
    pub(crate) const LAST: Self = Self([u8::MAX; 32]);

    /// Key of a shard, by its BLAKE3 root.
    pub fn shard(id: &[u8; 32]) -> Self {
        Self(blake3::derive_key("nsn dht shard 1", id))
    }

    /// Key of a content, by the BLAKE3 hash of its manifest.
    pub fn content(id: &[u8; 32]) -> Self {
        Self(blake3::derive_key("nsn dht content 1", id))
    }

    /// Key of a region.
    pub fn region(region: &Region) -> Self {
        Self(blake3::derive_key("nsn dht region 1", region.as_str().as_bytes()))
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(crate) fn record_key(&self) -> RecordKey {
        RecordKey::new(&self.0)
    }

    /// A key that was written to disk as its bytes.
    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// From what came over the wire; `None` if it has another length.
    pub(crate) fn from_record_key(key: &RecordKey) -> Option<Self> {
        key.as_ref().try_into().ok().map(Self)
    }

    /// The name under which a peer is asked whether it holds the key's record of a provider: the key,
    /// then the provider's.
    pub(crate) fn held_by(&self, provider: &OverlayKey) -> [u8; 64] {
        let mut name = [0; 64];
        for (to, from) in name.iter_mut().zip(self.0.iter().chain(provider)) {
            *to = *from;
        }
        name
    }

    /// The key and the provider whose record such a name means; `None` if it is no such name.
    pub(crate) fn from_held(name: &RecordKey) -> Option<(Self, OverlayKey)> {
        let name: &[u8; 64] = name.as_ref().try_into().ok()?;
        let (key, provider) = name.split_first_chunk::<32>()?;
        Some((Self(*key), provider.try_into().ok()?))
    }

    #[cfg(test)]
    pub(crate) fn test(n: u32) -> Self {
        Self::shard(blake3::hash(&n.to_le_bytes()).as_bytes())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", hex::encode(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_keys_are_apart() {
        let id = [5; 32];
        assert_ne!(Key::shard(&id), Key::content(&id));
        assert_eq!(Key::shard(&id).as_bytes(), &blake3::derive_key("nsn dht shard 1", &id));
        assert_eq!(Key::from_record_key(&Key::shard(&id).record_key()), Some(Key::shard(&id)));
        assert_eq!(Key::from_record_key(&RecordKey::new(&[1, 2, 3])), None);
    }

    #[test]
    fn a_record_is_asked_for_by_its_key_and_its_provider() {
        let (key, provider) = (Key::shard(&[5; 32]), [7; 32]);
        let name = RecordKey::new(&key.held_by(&provider));
        assert_eq!(Key::from_held(&name), Some((key, provider)));
        assert_eq!(Key::from_held(&key.record_key()), None);
        assert_eq!(Key::from_record_key(&name), None, "it is no key of a record");
    }
}
