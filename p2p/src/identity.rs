//! Overlay keys: ed25519 only, held as 32 bytes.

use crate::PeerId;
use libp2p::identity::{Keypair, ed25519};
use std::fmt;
use thiserror::Error;

/// An ed25519 public key, as the chain and the service records hold it.
pub type OverlayKey = [u8; 32];

/// What stands before the 32 bytes of an ed25519 key in its PeerId: an identity multihash (0x00) of
/// 36 bytes (0x24), which are the protobuf `PublicKey { type: Ed25519, data: 32 bytes }`. libp2p's
/// peer-id specification fixes these bytes.
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// The node's network key pair. Its public half is the overlay key, and its PeerId the node's.
#[derive(Clone)]
pub struct Identity {
    keypair: Keypair,
    key: OverlayKey,
    peer_id: PeerId,
}

/// The secret bytes are no ed25519 secret key.
#[derive(Debug, Error)]
#[error("the network key is no ed25519 secret key")]
pub struct IdentityError(#[from] libp2p::identity::DecodingError);

impl Identity {
    /// From the 32 bytes of an ed25519 secret key. libp2p wipes its own copy; the caller's is the
    /// caller's to wipe.
    pub fn from_secret(secret: [u8; 32]) -> Result<Self, IdentityError> {
        let secret = ed25519::SecretKey::try_from_bytes(secret)?;
        let pair = ed25519::Keypair::from(secret);
        let key = pair.public().to_bytes();
        let keypair = Keypair::from(pair);
        let peer_id = keypair.public().to_peer_id();
        Ok(Self { keypair, key, peer_id })
    }

    /// The public key.
    pub fn key(&self) -> OverlayKey {
        self.key
    }

    /// The PeerId that stands for the public key.
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    pub(crate) fn keypair(&self) -> &Keypair {
        &self.keypair
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.peer_id)
    }
}

/// The key inside a PeerId; `None` if the peer uses another kind of key.
pub fn key_of(peer: &PeerId) -> Option<OverlayKey> {
    let bytes = peer.to_bytes();
    bytes.strip_prefix(&PEER_ID_PREFIX)?.try_into().ok()
}

/// The PeerId of a key. Whether the bytes are a point on the curve is not checked: a PeerId is a
/// name, and only who can sign for it is believed.
pub fn peer_id_of(key: &OverlayKey) -> Option<PeerId> {
    let mut bytes = PEER_ID_PREFIX.to_vec();
    bytes.extend_from_slice(key);
    PeerId::from_bytes(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::multihash::Multihash;
    use proptest::prelude::*;

    #[test]
    fn the_same_secret_gives_the_same_peer() {
        let a = Identity::from_secret([7; 32]).unwrap();
        let b = Identity::from_secret([7; 32]).unwrap();
        assert_eq!(a.peer_id(), b.peer_id());
        assert_eq!(key_of(&a.peer_id()), Some(a.key()));
        assert_eq!(peer_id_of(&a.key()), Some(a.peer_id()));
    }

    #[test]
    fn debug_shows_no_secret() {
        let identity = Identity::from_secret([0xab; 32]).unwrap();
        assert!(!format!("{identity:?}").contains("abab"));
    }

    #[test]
    fn a_hashed_or_other_key_is_not_ours() {
        // RSA keys are named by a SHA-256 multihash (0x12), secp256k1 ones by key type 2.
        let rsa = PeerId::from_multihash(Multihash::wrap(0x12, &[1; 32]).unwrap()).unwrap();
        assert_eq!(key_of(&rsa), None);
        let mut secp = vec![0x08, 0x02, 0x12, 0x21];
        secp.extend_from_slice(&[2; 33]);
        let secp = PeerId::from_multihash(Multihash::wrap(0x00, &secp).unwrap()).unwrap();
        assert_eq!(key_of(&secp), None);
    }

    proptest! {
        #[test]
        fn keys_and_peer_ids_are_one_to_one(key: [u8; 32]) {
            let peer = peer_id_of(&key).unwrap();
            prop_assert_eq!(key_of(&peer), Some(key));
        }
    }
}
