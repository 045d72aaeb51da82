//! Names of the protocols on the wire, each carrying the chain.

use libp2p::StreamProtocol;

/// The protocol names of one chain: `/nsn/<first 8 hex digits of the genesis hash>/...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocols {
    prefix: String,
}

impl Protocols {
    /// The names of the chain with this genesis hash.
    pub fn new(genesis_hash: &[u8; 32]) -> Self {
        let [a, b, c, d, ..] = *genesis_hash;
        Self { prefix: format!("/nsn/{}", hex::encode([a, b, c, d])) }
    }

    /// What all names begin with. Identify sends it as the protocol version, so peers of another
    /// chain are known at once.
    pub fn chain(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn kad(&self) -> StreamProtocol {
        self.name("kad/1")
    }

    pub(crate) fn services(&self) -> StreamProtocol {
        self.name("services/1")
    }

    pub(crate) fn shard(&self) -> StreamProtocol {
        self.name("shard/1")
    }

    pub(crate) fn turn(&self) -> StreamProtocol {
        self.name("turn/1")
    }

    /// Gossip on the control topics. gossipsub appends its own `/1.1.0`.
    pub fn control(&self) -> String {
        format!("{}/control", self.prefix)
    }

    /// gossipsub appends its own `/1.1.0`.
    pub(crate) fn bulk(&self) -> String {
        format!("{}/bulk", self.prefix)
    }

    fn name(&self, rest: &str) -> StreamProtocol {
        // Fails only for a name without a leading slash; the fallback still carries no chain, so it
        // matches nobody.
        StreamProtocol::try_from_owned(format!("{}/{rest}", self.prefix))
            .unwrap_or(StreamProtocol::new("/nsn/none"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_the_chain() {
        let mut genesis = [0; 32];
        genesis[..5].copy_from_slice(&[0xde, 0xad, 0xbe, 0xef, 0x01]);
        let names = Protocols::new(&genesis);
        assert_eq!(names.chain(), "/nsn/deadbeef");
        assert_eq!(names.kad().as_ref(), "/nsn/deadbeef/kad/1");
        assert_eq!(names.services().as_ref(), "/nsn/deadbeef/services/1");
        assert_eq!(names.shard().as_ref(), "/nsn/deadbeef/shard/1");
        assert_eq!(names.turn().as_ref(), "/nsn/deadbeef/turn/1");
        assert_eq!(names.control(), "/nsn/deadbeef/control");
        assert_eq!(names.bulk(), "/nsn/deadbeef/bulk");
    }
}
