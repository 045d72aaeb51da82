//! Addresses of shard services: `/ip4/203.0.113.7/udp/9003/quic-v1/p2p/12D3Koo...`.

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr, net::SocketAddr, str::FromStr};

/// Where a shard service listens and who it must be. Written as text in settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    /// Its UDP address.
    pub socket: SocketAddr,
    /// The identity that its connection must prove.
    pub peer: PeerId,
}

/// Why a text is not the address of a shard service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not a multiaddress at all.
    #[error("{0:?} is not a multiaddress; expected {FORM}")]
    NotMultiaddr(String),
    /// A multiaddress of something else.
    #[error("{0} is not the address of a shard service; expected {FORM}")]
    Form(String),
    /// It does not say who answers.
    #[error("{0} does not say who answers there: append /p2p/ and the node's PeerId")]
    NoPeer(String),
}

const FORM: &str = "/ip4/ADDRESS/udp/PORT/quic-v1/p2p/PEER_ID (or /ip6/...)";

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let addr: Multiaddr =
            text.parse().map_err(|_| AddressError::NotMultiaddr(text.to_owned()))?;
        Self::try_from(&addr)
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl TryFrom<&Multiaddr> for Address {
    type Error = AddressError;

    fn try_from(addr: &Multiaddr) -> Result<Self, AddressError> {
        let mut parts = addr.iter();
        let form = || AddressError::Form(addr.to_string());
        let ip: IpAddr = match parts.next() {
            Some(Protocol::Ip4(ip)) => ip.into(),
            Some(Protocol::Ip6(ip)) => ip.into(),
            _ => return Err(form()),
        };
        let Some(Protocol::Udp(port)) = parts.next() else { return Err(form()) };
        let Some(Protocol::QuicV1) = parts.next() else { return Err(form()) };
        match (parts.next(), parts.next()) {
            (Some(Protocol::P2p(peer)), None) => {
                Ok(Self { socket: SocketAddr::new(ip, port), peer })
            }
            (None, _) => Err(AddressError::NoPeer(addr.to_string())),
            _ => Err(form()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addr = Multiaddr::from(self.socket.ip())
            .with(Protocol::Udp(self.socket.port()))
            .with(Protocol::QuicV1)
            .with(Protocol::P2p(self.peer));
        write!(f, "{addr}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_text() {
        for ip in ["127.0.0.1", "2001:db8::7"] {
            let socket = SocketAddr::new(ip.parse().unwrap(), 9003);
            let address = Address { socket, peer: PeerId::random() };
            assert_eq!(address.to_string().parse(), Ok(address));
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_what_is_expected() {
        let refused = |text: &str| text.parse::<Address>().unwrap_err();
        let peer = PeerId::random();
        for text in ["127.0.0.1:9003", "/ip4/1.2.3/udp/1/quic-v1"] {
            assert!(matches!(refused(text), AddressError::NotMultiaddr(_)), "{text}");
        }
        for text in [
            format!("/ip4/127.0.0.1/tcp/9003/p2p/{peer}"),
            format!("/ip4/127.0.0.1/udp/9003/p2p/{peer}"),
            format!("/dns4/example.org/udp/9003/quic-v1/p2p/{peer}"),
            format!("/ip4/127.0.0.1/udp/9003/quic-v1/p2p/{peer}/p2p-circuit"),
            format!("/p2p/{peer}"),
            String::new(),
        ] {
            assert!(matches!(refused(&text), AddressError::Form(_)), "{text}");
        }
        let error = refused("/ip4/127.0.0.1/udp/9003/quic-v1");
        assert!(matches!(error, AddressError::NoPeer(_)));
        assert!(error.to_string().contains("append /p2p/"));
    }
}
