//! Binding requests and what comes back (RFC 8489), with what RFC 5780 adds to find out how a NAT
//! behaves.

use std::net::SocketAddr;
use stun_rs::{
    MessageClass, MessageDecoder, MessageEncoder, StunMessage, StunMessageBuilder, TransactionId,
    attributes::{
        discovery::{ChangeRequest, ChangeRequestFlags, OtherAddress},
        stun::{AlternateServer, ErrorCode, MappedAddress, XorMappedAddress},
    },
    methods::BINDING,
};

/// Longest answer that is read, in bytes. RFC 8489 (6.1) keeps messages below 1,280 bytes where the
/// path is not known.
pub(super) const MAX_BYTES: usize = 1280;

/// Bytes of the longest request: a header of 20 and a CHANGE-REQUEST of 8.
const MAX_REQUEST: usize = 28;

/// "Try Alternate", the error code that comes with another server's address (RFC 8489, 10).
const TRY_ALTERNATE: u16 = 300;

/// What tells the answers of different requests apart: 96 bits (RFC 8489, 5).
pub(super) type Id = [u8; 12];

/// From where the server is asked to answer (RFC 5780, 7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// From where it was asked.
    Nothing,
    /// From its other port.
    Port,
    /// From its other address and its other port.
    Both,
}

/// What a server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It sees this node as `mapped`, and can be asked at `other` too.
    Mapped { mapped: SocketAddr, other: Option<SocketAddr> },
    /// Another server is to be asked.
    Redirect(SocketAddr),
    /// It will not answer; its error code.
    Refused(u16),
}

/// Why a datagram is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// Longer than [`MAX_BYTES`].
    Oversized,
    /// No STUN message, or cut short.
    Malformed,
    /// A message that answers no binding request.
    NotAnAnswer,
    /// A success that says nothing of an address.
    NoAddress,
}

/// A binding request.
pub(super) fn request(id: Id, change: Change) -> Vec<u8> {
    let builder = StunMessageBuilder::new(BINDING, MessageClass::Request)
        .with_transaction_id(TransactionId::from(id));
    let flags = match change {
        Change::Nothing => None,
        Change::Port => Some(ChangeRequestFlags::ChangePort.into()),
        Change::Both => Some(ChangeRequestFlags::ChangePort | ChangeRequestFlags::ChangeIp),
    };
    let message = match flags {
        Some(flags) => builder.with_attribute(ChangeRequest::new(Some(flags))).build(),
        None => builder.build(),
    };
    let mut bytes = vec![0; MAX_REQUEST];
    // Fails only where the buffer is too short, and then nothing is sent.
    let length = MessageEncoder::default().encode(&mut bytes, &message).unwrap_or_default();
    bytes.truncate(length);
    bytes
}

/// Reads a datagram as the answer to a binding request: to which, and what it says.
pub(super) fn answer(bytes: &[u8]) -> Result<(Id, Answer), Bad> {
    if bytes.len() > MAX_BYTES {
        return Err(Bad::Oversized);
    }
    let (message, _) = MessageDecoder::default().decode(bytes).map_err(|_| Bad::Malformed)?;
    if message.method() != BINDING {
        return Err(Bad::NotAnAnswer);
    }
    let id = *message.transaction_id().as_bytes();
    match message.class() {
        MessageClass::SuccessResponse => {
            let unknown = |a: &stun_rs::StunAttribute| {
                a.is_unknown() && a.attribute_type().is_comprehension_required()
            };
            // RFC 8489 (6.3.3): what has to be understood and is not makes the answer worthless.
            if message.attributes().iter().any(unknown) {
                return Err(Bad::Malformed);
            }
            let mapped = mapped(&message).ok_or(Bad::NoAddress)?;
            let other = message
                .get::<OtherAddress>()
                .and_then(|a| a.as_other_address().ok())
                .map(|a| *a.socket_address());
            Ok((id, Answer::Mapped { mapped, other }))
        }
        MessageClass::ErrorResponse => {
            let code = message
                .get::<ErrorCode>()
                .and_then(|a| a.as_error_code().ok())
                .map(|a| a.error_code().error_code())
                .ok_or(Bad::Malformed)?;
            let alternate = message
                .get::<AlternateServer>()
                .and_then(|a| a.as_alternate_server().ok())
                .map(|a| *a.socket_address());
            Ok((
                id,
                match alternate {
                    Some(server) if code == TRY_ALTERNATE => Answer::Redirect(server),
                    _ => Answer::Refused(code),
                },
            ))
        }
        MessageClass::Request | MessageClass::Indication => Err(Bad::NotAnAnswer),
    }
}

/// As the server sees this node. Servers from before RFC 5389 know only MAPPED-ADDRESS, which some
/// NATs rewrite.
fn mapped(message: &StunMessage) -> Option<SocketAddr> {
    let xored = message
        .get::<XorMappedAddress>()
        .and_then(|a| a.as_xor_mapped_address().ok())
        .map(|a| *a.socket_address());
    let plain = || {
        let plain = message.get::<MappedAddress>()?.as_mapped_address().ok()?;
        Some(*plain.socket_address())
    };
    xored.or_else(plain)
}

/// Answers as a server makes them, for the tests of this crate's STUN.
#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use stun_rs::{ErrorCode as Code, StunAttribute};

    fn encode(id: Id, class: MessageClass, attributes: Vec<StunAttribute>) -> Vec<u8> {
        let mut builder =
            StunMessageBuilder::new(BINDING, class).with_transaction_id(TransactionId::from(id));
        for attribute in attributes {
            builder = builder.with_attribute(attribute);
        }
        let mut bytes = vec![0; 512];
        let length = MessageEncoder::default().encode(&mut bytes, &builder.build()).unwrap();
        bytes.truncate(length);
        bytes
    }

    /// The id of a request and what it asks for.
    pub(in super::super) fn read_request(bytes: &[u8]) -> Option<(Id, Change)> {
        let (message, _) = MessageDecoder::default().decode(bytes).ok()?;
        let flags = message.get::<ChangeRequest>().map(|a| a.expect_change_request().flags());
        let change = match flags {
            None => Change::Nothing,
            Some(flags) if flags.contains(ChangeRequestFlags::ChangeIp) => Change::Both,
            Some(_) => Change::Port,
        };
        Some((*message.transaction_id().as_bytes(), change))
    }

    pub(in super::super) fn success(
        id: Id,
        mapped: Option<SocketAddr>,
        other: Option<SocketAddr>,
    ) -> Vec<u8> {
        let mut attributes = Vec::new();
        if let Some(mapped) = mapped {
            attributes.push(XorMappedAddress::from(mapped).into());
        }
        if let Some(other) = other {
            attributes.push(OtherAddress::from(other).into());
        }
        encode(id, MessageClass::SuccessResponse, attributes)
    }

    pub(in super::super) fn refusal(id: Id, code: u16, alternate: Option<SocketAddr>) -> Vec<u8> {
        let mut attributes = vec![ErrorCode::new(Code::new(code, "no").unwrap()).into()];
        if let Some(alternate) = alternate {
            attributes.push(AlternateServer::from(alternate).into());
        }
        encode(id, MessageClass::ErrorResponse, attributes)
    }
}

#[cfg(test)]
mod tests {
    use super::{testing::*, *};
    use proptest::prelude::*;

    const ID: Id = *b"abcdefghijkl";

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_request_is_as_the_rfc_lays_it_out() {
        let plain = request(ID, Change::Nothing);
        assert_eq!(plain[..8], [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]);
        assert_eq!(plain[8..], ID);
        let both = request(ID, Change::Both);
        assert_eq!(both[20..], [0, 3, 0, 4, 0, 0, 0, 6], "change IP and change port");
        assert_eq!(request(ID, Change::Port)[20..], [0, 3, 0, 4, 0, 0, 0, 2]);
    }

    #[test]
    fn answers_are_read_as_they_were_written() {
        let (mapped, other) = (at("9.8.7.6:54321"), at("1.1.1.1:3479"));
        let read = answer(&success(ID, Some(mapped), Some(other)));
        assert_eq!(read, Ok((ID, Answer::Mapped { mapped, other: Some(other) })));
        let v6 = at("[2606:4700::1]:9");
        let read = answer(&success(ID, Some(v6), None));
        assert_eq!(read, Ok((ID, Answer::Mapped { mapped: v6, other: None })));
        let read = answer(&refusal(ID, 300, Some(other)));
        assert_eq!(read, Ok((ID, Answer::Redirect(other))));
        assert_eq!(answer(&refusal(ID, 420, Some(other))), Ok((ID, Answer::Refused(420))));
    }

    #[test]
    fn what_is_no_answer_is_told_apart() {
        assert_eq!(answer(&success(ID, None, None)), Err(Bad::NoAddress));
        assert_eq!(answer(&request(ID, Change::Nothing)), Err(Bad::NotAnAnswer));
        assert_eq!(answer(&[0; MAX_BYTES + 1]), Err(Bad::Oversized));
        let whole = success(ID, Some(at("9.8.7.6:1")), Some(at("1.1.1.1:2")));
        for length in 0..whole.len() {
            assert_eq!(answer(&whole[..length]), Err(Bad::Malformed), "{length} bytes");
        }
        // Attribute 0x7fff has to be understood, and nobody knows it.
        let mut unknown = success(ID, Some(at("9.8.7.6:1")), None);
        unknown.extend_from_slice(&[0x7f, 0xff, 0, 0]);
        unknown[3] += 4;
        assert_eq!(answer(&unknown), Err(Bad::Malformed));
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1400)) {
            let _ = answer(&bytes);
        }

        /// Headers that are right let the bytes further in.
        #[test]
        fn no_bytes_behind_a_header_are_a_panic(
            class in prop_oneof![Just([1, 1]), Just([1, 0x11])],
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut message = class.to_vec();
            message.extend_from_slice(&u16::try_from(bytes.len()).unwrap().to_be_bytes());
            message.extend_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
            message.extend_from_slice(&ID);
            message.extend_from_slice(&bytes);
            let _ = answer(&message);
        }

        #[test]
        fn an_answer_with_a_changed_byte_is_no_panic(at in 0..40usize, to: u8) {
            let mapped = "9.8.7.6:1".parse().unwrap();
            let mut bytes = success(ID, Some(mapped), Some(mapped));
            if let Some(byte) = bytes.get_mut(at) {
                *byte = to;
            }
            let _ = answer(&bytes);
        }
    }
}
