//! Kademlia's space: 256-bit points, and the XOR distance between them.
//!
//! What is looked for is a string of bytes (a key, or a PeerId's); its point is the SHA-256 of these,
//! as kad hashes whatever it is asked for. Two points that share more leading bits are closer.

use super::Key;
use crate::PeerId;
use libp2p::kad::KBucketKey;
use std::fmt;

/// Bits of a point.
pub(crate) const BITS: u32 = 256;

/// A place in Kademlia's space.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Point([u8; 32]);

/// How far two points are apart. Smaller is closer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct Distance([u8; 32]);

impl Point {
    /// Where something lies that is asked for by these bytes.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        let hashed = KBucketKey::new(bytes.to_vec());
        let mut point = [0; 32];
        // 32 bytes both; a zip cannot panic.
        for (to, from) in point.iter_mut().zip(hashed.hashed_bytes()) {
            *to = *from;
        }
        Self(point)
    }

    /// Where a key's records lie.
    pub(crate) fn of_key(key: &Key) -> Self {
        Self::of_bytes(key.as_bytes())
    }

    /// Where a peer is.
    pub(crate) fn of_peer(peer: &PeerId) -> Self {
        Self::of_bytes(&peer.to_bytes())
    }

    /// A point by its bits, for tests and simulations.
    pub(crate) const fn from_bits(bits: [u8; 32]) -> Self {
        Self(bits)
    }

    /// Its 256 bits, the first in the highest bit of the first byte.
    pub(crate) const fn bits(&self) -> &[u8; 32] {
        &self.0
    }

    /// How far it is from another.
    pub(crate) fn distance(&self, other: &Self) -> Distance {
        let mut distance = self.0;
        for (to, from) in distance.iter_mut().zip(other.0) {
            *to ^= from;
        }
        Distance(distance)
    }

    /// Leading bits that both have in common, 0 to 256.
    pub(crate) fn common_prefix(&self, other: &Self) -> u32 {
        let mut common = 0;
        for byte in self.distance(other).0 {
            common += byte.leading_zeros();
            if byte != 0 {
                break;
            }
        }
        common
    }
}

impl fmt::Debug for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Point({})", hex::encode(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_point_is_where_kad_places_it() {
        let key = Key::test(1);
        let peer = crate::identity::peer_id_of(&[7; 32]).unwrap();
        let kads = KBucketKey::new(key.record_key());
        assert_eq!(Point::of_key(&key).bits(), kads.hashed_bytes());
        assert_eq!(Point::of_peer(&peer).bits(), KBucketKey::from(peer).hashed_bytes());
    }

    proptest! {
        /// The distance is a metric of the XOR kind, and a longer common prefix is closer.
        #[test]
        fn more_in_common_is_closer(a: [u8; 32], b: [u8; 32], c: [u8; 32]) {
            let (a, b, c) = (Point::from_bits(a), Point::from_bits(b), Point::from_bits(c));
            prop_assert_eq!(a.distance(&b), b.distance(&a));
            prop_assert_eq!(a.distance(&a), Distance([0; 32]));
            prop_assert_eq!(a.common_prefix(&a), BITS);
            if a.common_prefix(&b) > a.common_prefix(&c) {
                prop_assert!(a.distance(&b) < a.distance(&c));
            }
        }
    }
}
