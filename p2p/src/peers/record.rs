//! Service records: what a node offers, where, and for how long, signed by its overlay key.

use super::Region;
use crate::{
    AddressPolicy, Identity, Multiaddr, OverlayKey, PeerId, Protocols,
    address::{MAX_ADDRESS_BYTES, ip_of},
    identity::key_of,
};
use codec::{Decode, DecodeAll, Encode};
use libp2p::{core::SignedEnvelope, multiaddr::Protocol};
use serde::Serialize;
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use thiserror::Error;

/// Most addresses in a record.
pub(crate) const MAX_ADDRESSES: usize = 8;

/// Most certificate hashes: the one in use, the next one, and two to spare.
pub(crate) const MAX_CERTIFICATES: usize = 4;

/// Longest a record may be valid.
pub(crate) const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// How far the signer's clock may be ahead of ours.
const MAX_SKEW_MS: u64 = 60_000;

/// What the envelope's payload is, by libp2p's signed envelopes.
const PAYLOAD_TYPE: &[u8] = b"/nsn/service-record/1";

/// What a node does for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Roles {
    /// Keeps published content for good.
    pub super_node: bool,
    /// Caches and serves shards of others.
    pub relay: bool,
}

impl Roles {
    fn bits(self) -> u8 {
        u8::from(self.super_node) | u8::from(self.relay) << 1
    }

    /// Bits of roles yet to come are passed over.
    fn from_bits(bits: u8) -> Self {
        Self { super_node: bits & 1 != 0, relay: bits & 2 != 0 }
    }
}

/// What this node offers; the overlay makes and signs its record from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalServices {
    /// What it does.
    pub roles: Roles,
    /// Where it is.
    pub region: Option<Region>,
    /// UDP addresses the shard service is bound to. An unspecified IP stands for every IP the
    /// overlay itself listens on, and for those that its operator says it is reached at.
    pub shard_listen: Vec<SocketAddr>,
    /// SHA-256 hashes of the certificates browsers are to trust, the current one first.
    pub certificate_hashes: Vec<[u8; 32]>,
    /// How busy it is, 0 idle to 255 full.
    pub load: u8,
}

/// A verified service record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRecord {
    /// Whose record it is.
    pub key: OverlayKey,
    /// Counts up with every record the key signs.
    pub sequence: u64,
    /// When and until when it is valid.
    pub validity: Validity,
    /// What the node does.
    pub roles: Roles,
    /// Where it says it is.
    pub region: Option<Region>,
    /// Addresses of its shard service, `/ip4/.../udp/.../quic-v1`; none where it is reached over the
    /// overlay alone.
    pub shard_addrs: Vec<Multiaddr>,
    /// SHA-256 hashes of the certificates browsers are to trust.
    pub certificate_hashes: Vec<[u8; 32]>,
    /// How busy it says it is, 0 idle to 255 full.
    pub load: u8,
}

/// From when until when a record is valid, in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Validity {
    /// When it was signed.
    pub issued_ms: u64,
    /// From when on it is no longer valid.
    pub expires_ms: u64,
}

/// The record on the wire.
#[derive(Encode, Decode)]
struct Wire {
    version: u8,
    key: OverlayKey,
    sequence: u64,
    validity: Validity,
    roles: u8,
    region: Option<Vec<u8>>,
    shard_addrs: Vec<Vec<u8>>,
    certificate_hashes: Vec<[u8; 32]>,
    load: u8,
}

const VERSION: u8 = 1;

/// Why a record is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// Not a signed envelope around a record, or one of an unknown version.
    #[error("it cannot be read")]
    Malformed,
    /// Signed for another chain or purpose, or not at all.
    #[error("its signature is wrong")]
    Signature,
    /// Signed by a key other than the peer's.
    #[error("it is signed by another key than the peer's")]
    Signer,
    /// No longer valid.
    #[error("it has expired")]
    Expired,
    /// Signed in the future, or valid for longer than any record may be.
    #[error("its validity is impossible")]
    Validity,
    /// More addresses or hashes than allowed, or one that cannot be.
    #[error("what it holds is out of bounds")]
    Content,
    /// Older than one this node has seen.
    #[error("it is older than one seen before")]
    Sequence,
}

impl RecordError {
    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Signature => "signature",
            Self::Signer => "signer",
            Self::Expired => "expired",
            Self::Validity => "validity",
            Self::Content => "content",
            Self::Sequence => "sequence",
        }
    }
}

impl ServiceRecord {
    /// Signs a record for the chain of `protocols`; the bytes are what goes over the wire. Fails
    /// only if the key cannot sign.
    pub fn sign(
        &self,
        identity: &Identity,
        protocols: &Protocols,
    ) -> Result<Vec<u8>, libp2p::identity::SigningError> {
        let wire = Wire {
            version: VERSION,
            key: self.key,
            sequence: self.sequence,
            validity: self.validity,
            roles: self.roles.bits(),
            region: self.region.as_ref().map(|r| r.as_str().as_bytes().to_vec()),
            shard_addrs: self.shard_addrs.iter().map(Multiaddr::to_vec).collect(),
            certificate_hashes: self.certificate_hashes.clone(),
            load: self.load,
        };
        let envelope = SignedEnvelope::new(
            identity.keypair(),
            domain(protocols),
            PAYLOAD_TYPE.to_vec(),
            wire.encode(),
        )?;
        Ok(envelope.into_protobuf_encoding())
    }

    /// Reads and checks a record that is said to be `peer`'s. Addresses that the policy does not
    /// allow are left out. `seen` is the sequence number of the newest record known of the peer.
    pub fn verify(
        bytes: &[u8],
        peer: &PeerId,
        protocols: &Protocols,
        policy: AddressPolicy,
        seen: Option<u64>,
        now_ms: u64,
    ) -> Result<Self, RecordError> {
        let envelope =
            SignedEnvelope::from_protobuf_encoding(bytes).map_err(|_| RecordError::Malformed)?;
        let (payload, signer) = envelope
            .payload_and_signing_key(domain(protocols), PAYLOAD_TYPE)
            .map_err(|_| RecordError::Signature)?;
        if signer.to_peer_id() != *peer {
            return Err(RecordError::Signer);
        }
        let mut payload = payload;
        if payload.first() != Some(&VERSION) {
            return Err(RecordError::Malformed);
        }
        let wire = Wire::decode_all(&mut payload).map_err(|_| RecordError::Malformed)?;
        if key_of(peer) != Some(wire.key) {
            return Err(RecordError::Signer);
        }
        let record = wire.read(policy)?;
        let Validity { issued_ms, expires_ms } = record.validity;
        let max_lifetime = u64::try_from(MAX_LIFETIME.as_millis()).unwrap_or(u64::MAX);
        if issued_ms > now_ms.saturating_add(MAX_SKEW_MS)
            || expires_ms.saturating_sub(issued_ms) > max_lifetime
        {
            return Err(RecordError::Validity);
        }
        if expires_ms <= now_ms {
            return Err(RecordError::Expired);
        }
        if seen.is_some_and(|seen| record.sequence < seen) {
            return Err(RecordError::Sequence);
        }
        Ok(record)
    }

    /// Whether it is still valid.
    pub fn is_valid_at(&self, now_ms: u64) -> bool {
        now_ms < self.validity.expires_ms
    }
}

impl Wire {
    fn read(self, policy: AddressPolicy) -> Result<ServiceRecord, RecordError> {
        if self.shard_addrs.len() > MAX_ADDRESSES
            || self.certificate_hashes.len() > MAX_CERTIFICATES
            || self.shard_addrs.iter().any(|a| a.len() > MAX_ADDRESS_BYTES)
        {
            return Err(RecordError::Content);
        }
        let region = match self.region {
            Some(bytes) => {
                let name = String::from_utf8(bytes).map_err(|_| RecordError::Content)?;
                Some(name.parse().map_err(|_| RecordError::Content)?)
            }
            None => None,
        };
        let mut shard_addrs = Vec::with_capacity(self.shard_addrs.len());
        for bytes in self.shard_addrs {
            let addr = Multiaddr::try_from(bytes).map_err(|_| RecordError::Content)?;
            if policy.allows(&addr) {
                shard_addrs.push(addr);
            }
        }
        Ok(ServiceRecord {
            key: self.key,
            sequence: self.sequence,
            validity: self.validity,
            roles: Roles::from_bits(self.roles),
            region,
            shard_addrs,
            certificate_hashes: self.certificate_hashes,
            load: self.load,
        })
    }
}

/// What the signature covers besides the payload: the chain, so that a record of one chain is
/// nothing on another.
fn domain(protocols: &Protocols) -> String {
    format!("{}/service-record", protocols.chain())
}

/// The addresses to put into this node's record: those it is bound to, an unspecified IP standing
/// for each IP of `hosts` (addresses of this machine, or of a router that forwards every port that
/// counts) of the same family. Circuits are through another machine. Only what the policy allows, each
/// once, at most [`MAX_ADDRESSES`]; behind a NAT that is nothing.
pub(crate) fn shard_addresses(
    listen: &[SocketAddr],
    hosts: &[Multiaddr],
    policy: AddressPolicy,
) -> Vec<Multiaddr> {
    let direct = |addr: &&Multiaddr| !addr.iter().any(|part| part == Protocol::P2pCircuit);
    let mut ips: Vec<IpAddr> = hosts.iter().filter(direct).filter_map(ip_of).collect();
    ips.retain(|ip| policy.allows_ip(*ip));
    // What others can use comes first, should there be more than fit.
    ips.sort_by_key(|ip| !AddressPolicy::Global.allows_ip(*ip));
    let mut addrs: Vec<Multiaddr> = Vec::new();
    for bound in listen {
        let hosts = if bound.ip().is_unspecified() {
            let same_family = |ip: &&IpAddr| ip.is_ipv4() == bound.is_ipv4();
            ips.iter().filter(same_family).copied().collect()
        } else {
            vec![bound.ip()]
        };
        for ip in hosts {
            let addr = Multiaddr::from(ip).with(Protocol::Udp(bound.port())).with(Protocol::QuicV1);
            if policy.allows(&addr) && !addrs.contains(&addr) && addrs.len() < MAX_ADDRESSES {
                addrs.push(addr);
            }
        }
    }
    addrs
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_800_000_000_000;

    fn identity(n: u8) -> Identity {
        Identity::from_secret([n; 32]).unwrap()
    }

    fn chain(n: u8) -> Protocols {
        Protocols::new(&[n; 32])
    }

    fn record(signer: &Identity) -> ServiceRecord {
        ServiceRecord {
            key: signer.key(),
            sequence: 5,
            validity: Validity { issued_ms: NOW - 1000, expires_ms: NOW + 1000 },
            roles: Roles { super_node: true, relay: false },
            region: Some("eu-1".parse().unwrap()),
            shard_addrs: vec!["/ip4/8.8.8.8/udp/9003/quic-v1".parse().unwrap()],
            certificate_hashes: vec![[9; 32]],
            load: 3,
        }
    }

    fn verify(bytes: &[u8], peer: &Identity) -> Result<ServiceRecord, RecordError> {
        ServiceRecord::verify(bytes, &peer.peer_id(), &chain(1), AddressPolicy::Global, None, NOW)
    }

    #[test]
    fn what_is_signed_is_believed() {
        let me = identity(1);
        let bytes = record(&me).sign(&me, &chain(1)).unwrap();
        assert_eq!(verify(&bytes, &me), Ok(record(&me)));
    }

    #[test]
    fn what_another_signed_is_not() {
        let (me, other) = (identity(1), identity(2));
        let forged = record(&me).sign(&other, &chain(1)).unwrap();
        assert_eq!(verify(&forged, &me), Err(RecordError::Signer));
        assert_eq!(verify(&forged, &other), Err(RecordError::Signer));
        let theirs = record(&other).sign(&other, &chain(1)).unwrap();
        assert_eq!(verify(&theirs, &me), Err(RecordError::Signer));
    }

    #[test]
    fn another_chain_is_another_signature() {
        let me = identity(1);
        let bytes = record(&me).sign(&me, &chain(2)).unwrap();
        assert_eq!(verify(&bytes, &me), Err(RecordError::Signature));
    }

    #[test]
    fn a_changed_byte_breaks_it() {
        let me = identity(1);
        let bytes = record(&me).sign(&me, &chain(1)).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(verify(&changed, &me).is_err(), "byte {at}");
        }
    }

    #[test]
    fn time_is_checked() {
        let me = identity(1);
        let with = |issued_ms, expires_ms| {
            let validity = Validity { issued_ms, expires_ms };
            let bytes = ServiceRecord { validity, ..record(&me) }.sign(&me, &chain(1)).unwrap();
            verify(&bytes, &me).map(|_| ())
        };
        assert_eq!(with(NOW - 10, NOW), Err(RecordError::Expired));
        assert_eq!(with(NOW - 10, NOW + 1), Ok(()));
        assert_eq!(with(NOW + 60_001, NOW + 70_000), Err(RecordError::Validity));
        assert_eq!(with(NOW, NOW + 24 * 3600 * 1000 + 1), Err(RecordError::Validity));
        assert_eq!(with(0, u64::MAX), Err(RecordError::Validity));
        assert_eq!(with(u64::MAX, 0), Err(RecordError::Validity));
    }

    #[test]
    fn an_older_record_does_not_replace_a_newer() {
        let me = identity(1);
        let bytes = record(&me).sign(&me, &chain(1)).unwrap();
        let with = |seen| {
            let policy = AddressPolicy::Global;
            ServiceRecord::verify(&bytes, &me.peer_id(), &chain(1), policy, seen, NOW).map(|_| ())
        };
        assert_eq!(with(Some(5)), Ok(()));
        assert_eq!(with(Some(6)), Err(RecordError::Sequence));
    }

    #[test]
    fn bounds_and_addresses_are_checked() {
        let me = identity(1);
        let sign = |r: ServiceRecord| r.sign(&me, &chain(1)).unwrap();
        let addr: Multiaddr = "/ip4/8.8.8.8/udp/9003/quic-v1".parse().unwrap();
        let many = ServiceRecord { shard_addrs: vec![addr; 9], ..record(&me) };
        assert_eq!(verify(&sign(many), &me), Err(RecordError::Content));
        let hashes = ServiceRecord { certificate_hashes: vec![[0; 32]; 5], ..record(&me) };
        assert_eq!(verify(&sign(hashes), &me), Err(RecordError::Content));
        let private = ServiceRecord {
            shard_addrs: vec!["/ip4/10.0.0.1/udp/9003/quic-v1".parse().unwrap()],
            ..record(&me)
        };
        assert!(verify(&sign(private), &me).unwrap().shard_addrs.is_empty());
    }

    #[test]
    fn an_unspecified_ip_stands_for_those_of_the_overlay() {
        let overlay: Vec<Multiaddr> = [
            "/ip4/127.0.0.1/tcp/9000",
            "/ip4/8.8.8.8/udp/9000/quic-v1",
            "/ip4/8.8.8.8/tcp/9000",
            "/ip6/::1/tcp/9000",
            "/memory/5",
            // Through another machine.
            "/ip4/9.9.9.9/tcp/9000/p2p-circuit",
        ]
        .iter()
        .map(|a| a.parse().unwrap())
        .collect();
        let text = |listen: &str, policy| -> Vec<String> {
            shard_addresses(&[listen.parse().unwrap()], &overlay, policy)
                .iter()
                .map(Multiaddr::to_string)
                .collect()
        };
        assert_eq!(
            text("0.0.0.0:9003", AddressPolicy::Any),
            ["/ip4/8.8.8.8/udp/9003/quic-v1", "/ip4/127.0.0.1/udp/9003/quic-v1"]
        );
        assert_eq!(text("0.0.0.0:9003", AddressPolicy::Global), ["/ip4/8.8.8.8/udp/9003/quic-v1"]);
        assert_eq!(text("127.0.0.1:7", AddressPolicy::Any), ["/ip4/127.0.0.1/udp/7/quic-v1"]);
        assert!(text("127.0.0.1:7", AddressPolicy::Global).is_empty());
        assert_eq!(text("[::]:7", AddressPolicy::Any), ["/ip6/::1/udp/7/quic-v1"]);
        let home: Multiaddr = "/ip4/192.168.1.7/tcp/9000".parse().unwrap();
        let listen = ["0.0.0.0:9003".parse().unwrap()];
        assert!(shard_addresses(&listen, &[home], AddressPolicy::Global).is_empty(), "a NAT");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            prop_assert!(verify(&bytes, &identity(1)).is_err());
        }

        /// A signed envelope around anything: only a record gets through, and never a panic.
        #[test]
        fn any_signed_payload_is_survived(mut payload: Vec<u8>, versioned: bool) {
            if versioned && !payload.is_empty() {
                payload[0] = VERSION;
            }
            let me = identity(1);
            let envelope = SignedEnvelope::new(
                me.keypair(), domain(&chain(1)), PAYLOAD_TYPE.to_vec(), payload,
            ).unwrap();
            let _ = verify(&envelope.into_protobuf_encoding(), &me);
        }
    }
}
