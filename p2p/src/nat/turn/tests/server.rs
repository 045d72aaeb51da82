//! A TURN server of the tests' own: pure, honest or lying as it is told.

use crate::nat::turn::message::Id;
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};
use stun_rs::{
    Algorithm, AlgorithmId, DecoderContextBuilder, ErrorCode as Code, HMACKey, MessageClass,
    MessageDecoder, MessageDecoderBuilder, MessageEncoder, MessageMethod, StunAttribute,
    StunMessage, StunMessageBuilder, TransactionId,
    attributes::{
        stun::{
            AlternateServer, ErrorCode, MessageIntegrity, MessageIntegritySha256, Nonce,
            PasswordAlgorithm, PasswordAlgorithms, Realm, UserName, XorMappedAddress,
        },
        turn::{ChannelNumber, Data, LifeTime, XorPeerAddress, XorRelayedAddress},
    },
    methods::{ALLOCATE, CHANNEL_BIND, CREATE_PERMMISSION, DATA, REFRESH, SEND},
};

pub(super) const USER: &str = "user";
pub(super) const PASSWORD: &str = "pass";
const REALM: &str = "nsn";

/// How the server behaves.
#[derive(Clone, Debug)]
pub(super) struct Manner {
    /// Whether it wants signed requests.
    pub(super) signed: bool,
    /// Whether it offers SHA-256.
    pub(super) sha256: bool,
    pub(super) lifetime: u32,
    /// Requests after which the nonce is another; never with 0.
    pub(super) nonce_lasts: usize,
    pub(super) relayed: SocketAddr,
    /// Answers every request with this error.
    pub(super) refuses: Option<u16>,
    pub(super) sends_on: Option<SocketAddr>,
    /// Refuses these as peers.
    pub(super) forbids: Vec<IpAddr>,
    /// Changes the last byte of what it signs.
    pub(super) forges: bool,
    pub(super) refuses_channels: bool,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            signed: true,
            sha256: false,
            lifetime: 600,
            nonce_lasts: 0,
            relayed: "9.9.9.9:5000".parse().unwrap(),
            refuses: None,
            sends_on: None,
            forbids: Vec::new(),
            forges: false,
            refuses_channels: false,
        }
    }
}

/// What one client has at the server.
#[derive(Debug, Default)]
pub(super) struct Server {
    pub(super) manner: Manner,
    pub(super) mapped: Option<SocketAddr>,
    pub(super) allocated: bool,
    pub(super) permissions: Vec<IpAddr>,
    pub(super) channels: BTreeMap<u16, SocketAddr>,
    /// What came for peers.
    pub(super) relayed: Vec<(SocketAddr, Vec<u8>)>,
    /// Requests by method.
    pub(super) asked: BTreeMap<u16, usize>,
    requests: usize,
}

fn attribute<T>(message: &StunMessage, read: impl Fn(&StunAttribute) -> Option<T>) -> Option<T> {
    message.attributes().iter().find_map(read)
}

impl Server {
    pub(super) fn new(manner: Manner) -> Self {
        Self { manner, ..Self::default() }
    }

    fn nonce(&self) -> Nonce {
        let turn = match self.manner.nonce_lasts {
            0 => 0,
            lasts => self.requests / lasts,
        };
        // The cookie says that there is a choice of algorithms.
        let cookie = if self.manner.sha256 { "obMatJos2gAAA" } else { "" };
        Nonce::new(format!("{cookie}nonce{turn}")).unwrap()
    }

    fn key(&self) -> HMACKey {
        let algorithm = if self.manner.sha256 { AlgorithmId::SHA256 } else { AlgorithmId::MD5 };
        HMACKey::new_long_term(USER, REALM, PASSWORD, Algorithm::from(algorithm)).unwrap()
    }

    /// What it answers to a datagram of its client.
    pub(super) fn answer(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        if bytes[0] & 0xc0 == 0x40 {
            let number = u16::from_be_bytes([bytes[0], bytes[1]]);
            let length = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
            let peer = self.channels[&number];
            self.relayed.push((peer, bytes[4..4 + length].to_vec()));
            return None;
        }
        let (message, _) = MessageDecoder::default().decode(bytes).unwrap();
        if message.class() == MessageClass::Indication {
            if message.method() == SEND {
                let peer = peer_of(&message).unwrap();
                let data = attribute(&message, |a| a.as_data().ok().map(|d| d.to_vec())).unwrap();
                if self.permissions.contains(&peer.ip()) {
                    self.relayed.push((peer, data));
                }
            }
            return None;
        }
        *self.asked.entry(message.method().as_u16()).or_default() += 1;
        self.requests += 1;
        let id = *message.transaction_id().as_bytes();
        let method = message.method();
        if let Some(to) = self.manner.sends_on {
            let alternate = AlternateServer::from(to).into();
            return Some(self.error(id, method, 300, vec![alternate], false));
        }
        if self.manner.signed {
            let nonce = attribute(&message, |a| a.as_nonce().ok().cloned());
            match nonce {
                None => return Some(self.challenge(id, method, 401)),
                Some(nonce) if nonce != self.nonce() => {
                    return Some(self.challenge(id, method, 438));
                }
                Some(_) if !self.is_signed(bytes, &message) => {
                    return Some(self.challenge(id, method, 401));
                }
                Some(_) => {}
            }
        }
        if let Some(code) = self.manner.refuses {
            return Some(self.error(id, method, code, vec![], true));
        }
        Some(self.serve(id, &message))
    }

    fn is_signed(&self, bytes: &[u8], message: &StunMessage) -> bool {
        let context = DecoderContextBuilder::default().with_key(self.key()).with_validation();
        let decoder = MessageDecoderBuilder::default().with_context(context.build()).build();
        let name = attribute(message, |a| a.as_user_name().ok().cloned());
        let integrity = match self.manner.sha256 {
            true => message.get::<MessageIntegritySha256>().is_some(),
            false => message.get::<MessageIntegrity>().is_some(),
        };
        decoder.decode(bytes).is_ok() && name == UserName::new(USER).ok() && integrity
    }

    fn serve(&mut self, id: Id, message: &StunMessage) -> Vec<u8> {
        let method = message.method();
        let asked = attribute(message, |a| a.as_life_time().ok().map(|l| l.as_u32()));
        let peer = peer_of(message);
        if peer.is_some_and(|peer| self.manner.forbids.contains(&peer.ip())) {
            return self.error(id, method, 403, vec![], true);
        }
        let mut attributes: Vec<StunAttribute> = vec![];
        match method {
            ALLOCATE if self.allocated => return self.error(id, method, 437, vec![], true),
            ALLOCATE => {
                self.allocated = true;
                attributes.push(XorRelayedAddress::from(self.manner.relayed).into());
                attributes.push(LifeTime::from(self.manner.lifetime).into());
                let mapped = self.mapped.unwrap_or("8.8.8.8:1000".parse().unwrap());
                attributes.push(XorMappedAddress::from(mapped).into());
            }
            _ if !self.allocated => return self.error(id, method, 437, vec![], true),
            REFRESH if asked == Some(0) => {
                self.allocated = false;
                attributes.push(LifeTime::from(0).into());
            }
            REFRESH => attributes.push(LifeTime::from(self.manner.lifetime).into()),
            CREATE_PERMMISSION => self.permissions.push(peer.unwrap().ip()),
            CHANNEL_BIND if self.manner.refuses_channels => {
                return self.error(id, method, 508, vec![], true);
            }
            CHANNEL_BIND => {
                let number =
                    attribute(message, |a| a.as_channel_number().ok().map(ChannelNumber::number));
                self.channels.insert(number.unwrap(), peer.unwrap());
            }
            other => panic!("no client asks for {other:?}"),
        }
        self.encode(id, method, MessageClass::SuccessResponse, attributes, self.manner.signed)
    }

    /// Data of a peer, as it comes without a channel.
    pub(super) fn data(from: SocketAddr, payload: &[u8]) -> Vec<u8> {
        let attributes = vec![XorPeerAddress::from(from).into(), Data::new(payload).into()];
        Self::default().encode([3; 12], DATA, MessageClass::Indication, attributes, false)
    }

    fn challenge(&self, id: Id, method: MessageMethod, code: u16) -> Vec<u8> {
        let mut attributes = vec![Realm::new(REALM).unwrap().into(), self.nonce().into()];
        if self.manner.sha256 {
            let both = [AlgorithmId::MD5, AlgorithmId::SHA256];
            let both = both.map(|id| PasswordAlgorithm::new(Algorithm::from(id))).to_vec();
            attributes.push(PasswordAlgorithms::from(both).into());
        }
        self.error(id, method, code, attributes, false)
    }

    fn error(
        &self,
        id: Id,
        method: MessageMethod,
        code: u16,
        mut attributes: Vec<StunAttribute>,
        signed: bool,
    ) -> Vec<u8> {
        attributes.insert(0, ErrorCode::new(Code::new(code, "no").unwrap()).into());
        let signed = signed && self.manner.signed;
        self.encode(id, method, MessageClass::ErrorResponse, attributes, signed)
    }

    fn encode(
        &self,
        id: Id,
        method: MessageMethod,
        class: MessageClass,
        attributes: Vec<StunAttribute>,
        signed: bool,
    ) -> Vec<u8> {
        let mut builder =
            StunMessageBuilder::new(method, class).with_transaction_id(TransactionId::from(id));
        for attribute in attributes {
            builder = builder.with_attribute(attribute);
        }
        if signed && self.manner.sha256 {
            builder = builder.with_attribute(MessageIntegritySha256::new(self.key()));
        } else if signed {
            builder = builder.with_attribute(MessageIntegrity::new(self.key()));
        }
        let mut bytes = vec![0; 2048];
        let length = MessageEncoder::default().encode(&mut bytes, &builder.build()).unwrap();
        bytes.truncate(length);
        if signed && self.manner.forges {
            *bytes.last_mut().unwrap() ^= 1;
        }
        bytes
    }
}

fn peer_of(message: &StunMessage) -> Option<SocketAddr> {
    attribute(message, |a| a.as_xor_peer_address().ok().map(|a| *a.socket_address()))
}
