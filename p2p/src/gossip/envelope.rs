//! The envelope that every gossip message is, sealed by its author.
//!
//! gossipsub can sign messages itself, but then it verifies every copy before it looks whether it has
//! the message already, and a mesh brings six or seven copies of each: in a network of 100 nodes on
//! one machine that was most of what gossip cost. So the signature lies in the data, behind the
//! envelope, where the validation finds it, once for each message. It covers the chain and the
//! topic too.
//!
//! A message's id is a hash of all of its data. That is what makes it safe to look for duplicates
//! first: whoever changes a bit, of the signature too, has made another message, for which it answers,
//! and cannot keep the author's own from being heard.

use crate::{OverlayKey, Protocols};
use codec::{Compact, Decode, Encode};
use libp2p::identity::{Keypair, SigningError, ed25519};
use thiserror::Error;

/// Bytes of an ed25519 signature.
const SIGNATURE: usize = 64;

/// Bytes that an envelope adds to its payload at most: version, creation time, lifetime, the
/// payload's compact length (up to 5 bytes below 4 GiB) and the signature.
pub(super) const OVERHEAD: usize = 1 + 8 + 4 + 5 + SIGNATURE;

/// What a signature's message begins with, so that it can never be one for something else.
const DOMAIN: &[u8; 12] = b"nsn/gossip/1";

/// A gossip message before it is sealed: SCALE of `{version, created_ms, ttl_ms, payload}`.
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

/// Why bytes are no sealed envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EnvelopeError {
    /// Not the SCALE of an envelope and a signature, or bytes are left over.
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

    /// What goes over the wire on the topic of this name: the envelope and, behind it, its author's
    /// signature.
    ///
    /// # Errors
    /// If the key cannot sign, which an ed25519 key always can.
    pub fn sealed(
        &self,
        chain: &Protocols,
        topic: &str,
        author: &Keypair,
    ) -> Result<Vec<u8>, SigningError> {
        let mut bytes = Vec::with_capacity(self.payload.len() + OVERHEAD);
        self.encode_to(&mut bytes);
        let signature = author.sign(&signed(chain, topic, &bytes))?;
        bytes.extend_from_slice(&signature);
        Ok(bytes)
    }

    /// Reads a sealed envelope, without looking at its signature; memory taken is bounded by the
    /// input's length.
    ///
    /// # Errors
    /// As [`View::of`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let View { created_ms, ttl_ms, payload, .. } = View::of(bytes)?;
        Ok(Self { version: Self::VERSION, created_ms, ttl_ms, payload: payload.to_vec() })
    }
}

/// What is signed: 44 bytes that stand for the envelope, its topic and its chain. A hash of the
/// envelope and not the envelope, because ed25519 reads what it signs twice, with a slower hash.
fn signed(chain: &Protocols, topic: &str, envelope: &[u8]) -> [u8; 44] {
    let mut hasher = blake3::Hasher::new();
    // The chain's name has a fixed length and the topic's ends with a byte that no name has.
    hasher.update(chain.chain().as_bytes());
    hasher.update(topic.as_bytes());
    hasher.update(&[0]);
    hasher.update(envelope);
    let mut message = [0; 44];
    let (domain, hash) = message.split_at_mut(DOMAIN.len());
    domain.copy_from_slice(DOMAIN);
    hash.copy_from_slice(hasher.finalize().as_bytes());
    message
}

/// A sealed envelope as it lies in the bytes of a message: nothing is copied, so that reading one
/// costs the same for a payload of 16 MiB as for an empty one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View<'a> {
    /// When the author made it, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// For how many milliseconds it is of use.
    pub ttl_ms: u32,
    /// What the topic carries.
    pub payload: &'a [u8],
    envelope: &'a [u8],
    signature: &'a [u8; SIGNATURE],
}

impl<'a> View<'a> {
    /// Reads an envelope of the current version, without looking at its signature.
    ///
    /// # Errors
    /// If the bytes are not one whole envelope and a signature, or one of another version.
    pub fn of(bytes: &'a [u8]) -> Result<Self, EnvelopeError> {
        let version = *bytes.first().ok_or(EnvelopeError::Malformed)?;
        if version != Envelope::VERSION {
            return Err(EnvelopeError::Version(version));
        }
        let (envelope, signature) = bytes.split_last_chunk().ok_or(EnvelopeError::Malformed)?;
        let malformed = |_| EnvelopeError::Malformed;
        let mut rest = envelope;
        let (_, created_ms, ttl_ms, Compact(len)) =
            <(u8, u64, u32, Compact<u32>)>::decode(&mut rest).map_err(malformed)?;
        if usize::try_from(len) != Ok(rest.len()) {
            return Err(EnvelopeError::Malformed);
        }
        Ok(Self { created_ms, ttl_ms, payload: rest, envelope, signature })
    }

    /// Whether the author sealed it, for this topic of this chain. Takes about 45 us, and 1 ms more
    /// for each 4 MiB.
    pub fn is_signed_by(&self, author: &OverlayKey, chain: &Protocols, topic: &str) -> bool {
        ed25519::PublicKey::try_from_bytes(author)
            .is_ok_and(|key| key.verify(&signed(chain, topic, self.envelope), self.signature))
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

    const TOPIC: &str = "/nsn/tasks/1.0.0";

    fn chain(n: u8) -> Protocols {
        Protocols::new(&[n; 32])
    }

    fn author(n: u8) -> (Keypair, OverlayKey) {
        let identity = crate::Identity::from_secret([n; 32]).unwrap();
        (identity.keypair().clone(), identity.key())
    }

    fn sealed(envelope: &Envelope) -> Vec<u8> {
        envelope.sealed(&chain(1), TOPIC, &author(1).0).unwrap()
    }

    #[test]
    fn a_length_that_lies_is_malformed() {
        // Version 1, times, then a payload that claims 1 GiB and holds two bytes.
        let mut bytes = Envelope::new(vec![], 1, 2).encode();
        bytes.pop();
        Compact(1u32 << 30).encode_to(&mut bytes);
        bytes.extend_from_slice(&[1, 2]);
        bytes.extend_from_slice(&[0; SIGNATURE]);
        assert_eq!(Envelope::from_bytes(&bytes), Err(EnvelopeError::Malformed));
    }

    #[test]
    fn another_version_is_told_from_garbage() {
        let bytes = sealed(&Envelope { version: 2, ..Envelope::new(vec![1], 1, 2) });
        assert_eq!(Envelope::from_bytes(&bytes), Err(EnvelopeError::Version(2)));
        assert_eq!(Envelope::from_bytes(&[]), Err(EnvelopeError::Malformed));
    }

    #[test]
    fn a_seal_is_of_one_author_one_topic_one_chain_and_these_bytes() {
        let (_, key) = author(1);
        let bytes = sealed(&Envelope::new(vec![1, 2, 3], 4, 5));
        let view = View::of(&bytes).unwrap();
        assert!(view.is_signed_by(&key, &chain(1), TOPIC));
        assert!(!view.is_signed_by(&author(2).1, &chain(1), TOPIC));
        assert!(!view.is_signed_by(&key, &chain(2), TOPIC));
        assert!(!view.is_signed_by(&key, &chain(1), "/nsn/bft/1.0.0"));
        assert!(!view.is_signed_by(&[0xff; 32], &chain(1), TOPIC), "no key at all");
        // Any bit but those of the version, which says that it is no envelope.
        for bit in 8..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            if let Ok(view) = View::of(&changed) {
                assert!(!view.is_signed_by(&key, &chain(1), TOPIC), "bit {bit}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(payload: Vec<u8>, created_ms: u64, ttl_ms: u32) {
            let envelope = Envelope::new(payload, created_ms, ttl_ms);
            let bytes = sealed(&envelope);
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
            let envelope = bytes.split_last_chunk::<SIGNATURE>().map(|(envelope, _)| envelope);
            let decoded = envelope.and_then(|mut bytes| Envelope::decode_all(&mut bytes).ok());
            let decoded = decoded.filter(|e| e.version == 1);
            prop_assert_eq!(Envelope::from_bytes(&bytes).ok(), decoded);
            if let Ok(view) = View::of(&bytes) {
                prop_assert!(view.expires_ms(now) >= view.created_ms);
                prop_assert!(!view.is_signed_by(&author(1).1, &chain(1), TOPIC));
            }
        }
    }
}
