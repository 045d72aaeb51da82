//! Requests to a TURN server and what comes back (RFC 8656 over RFC 8489).

use super::{
    credentials::Signature,
    outcome::{Asked, Bad},
};
use std::net::{IpAddr, SocketAddr};
use stun_rs::{
    AddressFamily, DecoderContextBuilder, MessageClass, MessageDecoder, MessageDecoderBuilder,
    MessageEncoder, MessageMethod, StunMessage, StunMessageBuilder, TransactionId,
    attributes::{
        stun::{
            AlternateServer, ErrorCode, MessageIntegrity, MessageIntegritySha256, Nonce,
            PasswordAlgorithms, Realm, XorMappedAddress,
        },
        turn::{
            ChannelNumber, Data, LifeTime, RequestedAddressFamily, RequestedTrasport,
            XorPeerAddress, XorRelayedAddress,
        },
    },
    methods::{ALLOCATE, BINDING, CHANNEL_BIND, CREATE_PERMMISSION, DATA, REFRESH, SEND},
    protocols::UDP,
};

/// Longest message that is read or written, in bytes. What QUIC sends is at most 1,452 bytes, a
/// server's longest answer some 1,600 where all its texts are as long as they may be.
pub(super) const MAX_BYTES: usize = 2048;

/// Longest datagram of another that is carried: a Send indication adds 56 bytes to it at most.
pub(super) const MAX_PAYLOAD: usize = MAX_BYTES - 64;

/// "Try Alternate", the error code that comes with another server's address (RFC 8489, 10).
const TRY_ALTERNATE: u16 = 300;

/// What tells the answers of different requests apart: 96 bits (RFC 8489, 5).
pub(super) type Id = [u8; 12];

/// What a server is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// For a relayed address of IPv6, or of IPv4, for so many seconds.
    Allocate { v6: bool, lifetime: u32 },
    /// To keep it for so many seconds; 0 gives it back.
    Refresh { lifetime: u32 },
    /// To let this address send to it.
    Permit(IpAddr),
    /// To call this address by a number.
    Bind { number: u16, peer: SocketAddr },
}

impl Request {
    pub(super) fn asked(&self) -> Asked {
        match self {
            Self::Allocate { .. } => Asked::Allocate,
            Self::Refresh { .. } => Asked::Refresh,
            Self::Permit(_) => Asked::Permit,
            Self::Bind { .. } => Asked::Bind,
        }
    }
}

/// What a server wants signed requests to be signed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) realm: Realm,
    pub(super) nonce: Nonce,
    pub(super) algorithms: Option<PasswordAlgorithms>,
}

/// What a server says to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It did it. What it says beside belongs to some requests alone.
    Done { relayed: Option<SocketAddr>, mapped: Option<SocketAddr>, lifetime: Option<u32> },
    /// Another server is to be asked.
    Redirect(SocketAddr),
    /// It did not; its error code, and what it wants requests to be signed with.
    Refused { code: u16, challenge: Option<Challenge> },
}

/// A message that has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// An answer.
    Answer { id: Id, asked: Asked, answer: Answer },
    /// What this address sent to the relayed one.
    Data { from: SocketAddr, payload: Vec<u8> },
}

fn method(asked: Asked) -> MessageMethod {
    match asked {
        Asked::Allocate => ALLOCATE,
        Asked::Refresh => REFRESH,
        Asked::Permit => CREATE_PERMMISSION,
        Asked::Bind => CHANNEL_BIND,
    }
}

fn encode(message: &StunMessage) -> Option<Vec<u8>> {
    let mut bytes = vec![0; MAX_BYTES];
    let length = MessageEncoder::default().encode(&mut bytes, message).ok()?;
    bytes.truncate(length);
    Some(bytes)
}

/// A request, signed if there is something to sign it with. None if that is too long to be sent.
pub(super) fn request(id: Id, request: &Request, signed: Option<&Signature>) -> Option<Vec<u8>> {
    let mut builder = StunMessageBuilder::new(method(request.asked()), MessageClass::Request)
        .with_transaction_id(TransactionId::from(id));
    builder = match request {
        Request::Allocate { v6, lifetime } => {
            let builder = builder
                .with_attribute(RequestedTrasport::new(UDP))
                .with_attribute(LifeTime::from(*lifetime));
            // Servers that know IPv4 alone need not know the attribute (RFC 8656, 7.1).
            match v6 {
                true => builder.with_attribute(RequestedAddressFamily::new(AddressFamily::IPv6)),
                false => builder,
            }
        }
        Request::Refresh { lifetime } => builder.with_attribute(LifeTime::from(*lifetime)),
        Request::Permit(ip) => {
            builder.with_attribute(XorPeerAddress::from(SocketAddr::new(*ip, 0)))
        }
        Request::Bind { number, peer } => builder
            .with_attribute(ChannelNumber::new(*number))
            .with_attribute(XorPeerAddress::from(*peer)),
    };
    if let Some(signed) = signed {
        builder = builder
            .with_attribute(signed.name.clone())
            .with_attribute(signed.realm.clone())
            .with_attribute(signed.nonce.clone());
        builder = match signed.choice() {
            Some((offered, chosen)) => builder
                .with_attribute(offered)
                .with_attribute(chosen)
                .with_attribute(MessageIntegritySha256::new(signed.key.clone())),
            None => builder.with_attribute(MessageIntegrity::new(signed.key.clone())),
        };
    }
    encode(&builder.build())
}

/// What carries a datagram to an address that has no channel. None if the datagram is too long.
pub(super) fn send(id: Id, to: SocketAddr, payload: &[u8]) -> Option<Vec<u8>> {
    if payload.len() > MAX_PAYLOAD {
        return None;
    }
    let builder = StunMessageBuilder::new(SEND, MessageClass::Indication)
        .with_transaction_id(TransactionId::from(id))
        .with_attribute(XorPeerAddress::from(to))
        .with_attribute(Data::new(payload));
    encode(&builder.build())
}

/// A word that wants no answer and keeps a NAT's mapping (RFC 8489, 11).
pub(super) fn keep_alive(id: Id) -> Option<Vec<u8>> {
    let builder = StunMessageBuilder::new(BINDING, MessageClass::Indication);
    encode(&builder.with_transaction_id(TransactionId::from(id)).build())
}

fn decode(decoder: &MessageDecoder, bytes: &[u8]) -> Result<StunMessage, Bad> {
    match decoder.decode(bytes) {
        Ok((message, length)) if length == bytes.len() => Ok(message),
        _ => Err(Bad::Malformed),
    }
}

/// Reads a message of a server.
pub(super) fn read(bytes: &[u8]) -> Result<Read, Bad> {
    if bytes.len() > MAX_BYTES {
        return Err(Bad::Oversized);
    }
    let message = decode(&MessageDecoder::default(), bytes)?;
    let unknown = |a: &stun_rs::StunAttribute| {
        a.is_unknown() && a.attribute_type().is_comprehension_required()
    };
    // RFC 8489 (6.3.3): what has to be understood and is not makes a message worthless.
    let strange = message.attributes().iter().any(unknown);
    match (message.method(), message.class()) {
        (DATA, MessageClass::Indication) if !strange => data(&message).ok_or(Bad::Malformed),
        (method, class) => {
            let asked = match method {
                ALLOCATE => Asked::Allocate,
                REFRESH => Asked::Refresh,
                CREATE_PERMMISSION => Asked::Permit,
                CHANNEL_BIND => Asked::Bind,
                _ => return Err(Bad::Malformed),
            };
            let answer = match class {
                MessageClass::SuccessResponse if !strange => done(&message),
                MessageClass::ErrorResponse => refused(&message).ok_or(Bad::Malformed)?,
                _ => return Err(Bad::Malformed),
            };
            Ok(Read::Answer { id: *message.transaction_id().as_bytes(), asked, answer })
        }
    }
}

fn data(message: &StunMessage) -> Option<Read> {
    let from = *message.get::<XorPeerAddress>()?.as_xor_peer_address().ok()?.socket_address();
    let payload = message.get::<Data>()?.as_data().ok()?.as_bytes().to_vec();
    Some(Read::Data { from, payload })
}

fn done(message: &StunMessage) -> Answer {
    let relayed = message.get::<XorRelayedAddress>();
    let relayed =
        relayed.and_then(|a| a.as_xor_relayed_address().ok()).map(|a| *a.socket_address());
    let mapped = message.get::<XorMappedAddress>();
    let mapped = mapped.and_then(|a| a.as_xor_mapped_address().ok()).map(|a| *a.socket_address());
    let lifetime = message.get::<LifeTime>();
    let lifetime = lifetime.and_then(|a| a.as_life_time().ok()).map(|a| a.as_u32());
    Answer::Done { relayed, mapped, lifetime }
}

fn refused(message: &StunMessage) -> Option<Answer> {
    let code = message.get::<ErrorCode>()?.as_error_code().ok()?.error_code().error_code();
    let alternate = message.get::<AlternateServer>();
    let alternate = alternate.and_then(|a| a.as_alternate_server().ok());
    if let Some(server) = alternate.filter(|_| code == TRY_ALTERNATE) {
        return Some(Answer::Redirect(*server.socket_address()));
    }
    let challenge = || {
        Some(Challenge {
            realm: message.get::<Realm>()?.as_realm().ok()?.clone(),
            nonce: message.get::<Nonce>()?.as_nonce().ok()?.clone(),
            algorithms: match message.get::<PasswordAlgorithms>() {
                Some(algorithms) => Some(algorithms.as_password_algorithms().ok()?.clone()),
                None => None,
            },
        })
    };
    Some(Answer::Refused { code, challenge: challenge() })
}

/// Whether a message proves that it comes from who knows the key.
pub(super) fn is_authentic(bytes: &[u8], signed: &Signature) -> bool {
    let context = DecoderContextBuilder::default().with_key(signed.key.clone()).with_validation();
    let decoder = MessageDecoderBuilder::default().with_context(context.build()).build();
    // What is there has to be right, and the one that this node used has to be there.
    decode(&decoder, bytes).is_ok_and(|message| match signed.is_sha256() {
        true => message.get::<MessageIntegritySha256>().is_some(),
        false => message.get::<MessageIntegrity>().is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::turn::credentials::Credentials;

    const ID: Id = *b"abcdefghijkl";

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// The attributes of a message: type and value.
    fn attributes(bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
        let mut found = Vec::new();
        let mut rest = &bytes[20..];
        while !rest.is_empty() {
            let kind = u16::from_be_bytes([rest[0], rest[1]]);
            let length = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
            found.push((kind, rest[4..4 + length].to_vec()));
            rest = &rest[4 + length.next_multiple_of(4)..];
        }
        found
    }

    #[test]
    fn requests_are_as_the_rfc_lays_them_out() {
        let plain = request(ID, &Request::Allocate { v6: false, lifetime: 600 }, None).unwrap();
        assert_eq!(plain[..8], [0, 3, 0, 16, 0x21, 0x12, 0xa4, 0x42]);
        assert_eq!(plain[8..20], ID);
        // REQUESTED-TRANSPORT: UDP is 17. LIFETIME.
        let wanted = [(0x19, vec![17, 0, 0, 0]), (0xd, vec![0, 0, 2, 0x58])];
        assert_eq!(attributes(&plain), wanted);
        let v6 = request(ID, &Request::Allocate { v6: true, lifetime: 600 }, None).unwrap();
        assert_eq!(attributes(&v6)[2], (0x17, vec![2, 0, 0, 0]));
        let bind = Request::Bind { number: 0x4001, peer: at("1.2.3.4:5") };
        let bind = request(ID, &bind, None).unwrap();
        assert_eq!(bind[..2], [0, 9]);
        // Port and address are combined with the magic cookie (RFC 8489, 14.2).
        let xored = vec![0, 1, 0x21, 0x17, 0x20, 0x10, 0xa7, 0x46];
        assert_eq!(attributes(&bind), [(0xc, vec![0x40, 1, 0, 0]), (0x12, xored)]);
        assert_eq!(keep_alive(ID).unwrap()[..4], [0, 0x11, 0, 0]);
    }

    #[test]
    fn a_signed_request_proves_the_key_and_its_answer_is_believed_for_the_same_reason() {
        let credentials = Credentials::parse("user\npass").unwrap();
        let challenge = Challenge {
            realm: Realm::new("realm").unwrap(),
            nonce: Nonce::new("nonce").unwrap(),
            algorithms: None,
        };
        let signed = credentials.answer(&challenge).unwrap();
        let bytes = request(ID, &Request::Refresh { lifetime: 0 }, Some(&signed)).unwrap();
        let kinds: Vec<u16> = attributes(&bytes).into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [0xd, 0x6, 0x14, 0x15, 0x8], "user name, realm, nonce, and the proof");
        assert!(is_authentic(&bytes, &signed));
        let other = Credentials::parse("user\nother").unwrap().answer(&challenge).unwrap();
        assert!(!is_authentic(&bytes, &other));
        let plain = request(ID, &Request::Refresh { lifetime: 0 }, None).unwrap();
        assert!(!is_authentic(&plain, &signed), "no proof is no proof");
        assert!(!bytes.windows(4).any(|four| four == b"pass"));
    }
}
