//! How peers agree to meet at a TURN server: `/nsn/<chain>/turn/1`.
//!
//! One request a stream: where whoever asks is seen, and its relayed address, if it has one. One
//! response: the same of the other, or why not. Whoever is asked gives the asker's addresses permission
//! before it answers. Each message ends with its side of the stream and is read only up to its bound.

// In what the derive makes of an enum: codec casts the discriminant.
#![allow(clippy::cast_possible_truncation)]

use crate::AddressPolicy;
use codec::{Decode, DecodeAll, Encode};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{StreamProtocol, request_response};
use std::{
    io,
    net::{IpAddr, SocketAddr},
};

/// Most addresses that are told and read.
pub(super) const MAX_ADDRESSES: usize = 8;

/// Longest message that is read, in bytes: nine addresses of 19 bytes, and some numbers.
const MAX_MESSAGE: u64 = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
enum Ip {
    #[codec(index = 4)]
    V4([u8; 4]),
    #[codec(index = 6)]
    V6([u8; 16]),
}

/// An address as it goes over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Address {
    ip: Ip,
    port: u16,
}

impl From<SocketAddr> for Address {
    fn from(at: SocketAddr) -> Self {
        let ip = match at.ip() {
            IpAddr::V4(ip) => Ip::V4(ip.octets()),
            IpAddr::V6(ip) => Ip::V6(ip.octets()),
        };
        Self { ip, port: at.port() }
    }
}

impl From<Address> for SocketAddr {
    fn from(address: Address) -> Self {
        let ip = match address.ip {
            Ip::V4(ip) => ip.into(),
            Ip::V6(ip) => ip.into(),
        };
        Self::new(ip, address.port)
    }
}

/// Where a peer is, as it says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Place {
    /// Where others see it: its NAT's address, of which it does not know the port that a new
    /// destination will see. At most [`MAX_ADDRESSES`].
    seen_at: Vec<Address>,
    /// Its address at a TURN server.
    relayed: Option<Address>,
}

impl Place {
    pub(super) fn new(
        seen_at: impl IntoIterator<Item = SocketAddr>,
        relayed: Option<SocketAddr>,
    ) -> Self {
        let seen_at = seen_at.into_iter().take(MAX_ADDRESSES).map(Address::from).collect();
        Self { seen_at, relayed: relayed.map(Address::from) }
    }

    /// Its relayed address, if that is one that may be dialled on this chain.
    pub(super) fn relayed(&self, policy: AddressPolicy) -> Option<SocketAddr> {
        let relayed = SocketAddr::from(self.relayed?);
        (relayed.port() != 0 && policy.allows_ip(relayed.ip())).then_some(relayed)
    }

    /// From where it may send: where it is seen, and its relayed address. Each once, and only those
    /// that somebody on this chain can have.
    pub(super) fn sends_from(&self, policy: AddressPolicy) -> Vec<IpAddr> {
        let all = self.seen_at.iter().take(MAX_ADDRESSES).chain(&self.relayed);
        let mut ips: Vec<IpAddr> = all.map(|address| SocketAddr::from(*address).ip()).collect();
        ips.retain(|ip| policy.allows_ip(*ip));
        ips.sort_unstable();
        ips.dedup();
        ips
    }
}

/// Asks a peer to meet.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Request {
    version: u8,
    /// Where whoever asks is.
    pub(super) place: Place,
}

impl Request {
    const VERSION: u8 = 1;

    pub(super) fn new(place: Place) -> Self {
        Self { version: Self::VERSION, place }
    }
}

/// Why a peer does not meet: stable codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Refusal {
    /// Neither side has a relayed address that the other can reach.
    #[codec(index = 0)]
    NoRelay,
    /// It was asked too often, or has too much to do.
    #[codec(index = 1)]
    Busy,
    /// It is asking itself, or is connected already.
    #[codec(index = 2)]
    Underway,
    /// Its TURN server gives none of the addresses permission.
    #[codec(index = 3)]
    NotPermitted,
}

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Response {
    /// It meets, here.
    #[codec(index = 0)]
    Meets(Place),
    /// It does not.
    #[codec(index = 1)]
    Refused(Refusal),
}

/// Reads and writes both.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Codec;

async fn read<M: Decode, T: AsyncRead + Unpin + Send>(io: &mut T) -> io::Result<M> {
    let invalid = |problem: String| io::Error::new(io::ErrorKind::InvalidData, problem);
    let mut bytes = Vec::new();
    // One byte more than allowed tells a message that is too long from one that just fits.
    io.take(MAX_MESSAGE + 1).read_to_end(&mut bytes).await?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_MESSAGE {
        return Err(invalid("message too long".to_owned()));
    }
    M::decode_all(&mut bytes.as_slice()).map_err(|error| invalid(error.to_string()))
}

async fn write<T: AsyncWrite + Unpin + Send>(io: &mut T, message: Vec<u8>) -> io::Result<()> {
    io.write_all(&message).await?;
    io.close().await
}

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Request;
    type Response = Response;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Request>
    where
        T: AsyncRead + Unpin + Send,
    {
        let request: Request = read(io).await?;
        if request.version != Request::VERSION {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "unknown request version"));
        }
        Ok(request)
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Response>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io).await
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        request: Request,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(io, request.encode()).await
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        response: Response,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(io, response.encode()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{executor::block_on, io::Cursor};
    use libp2p::request_response::Codec as _;
    use proptest::prelude::*;

    const PROTOCOL: StreamProtocol = StreamProtocol::new("/test");

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_messages_are_read_as_they_were_written() {
        let place = Place::new([at("[2606::1]:9"); 20], Some(at("[2606::2]:3478")));
        assert_eq!(place.seen_at.len(), MAX_ADDRESSES);
        let mut wire = Cursor::new(Vec::new());
        let request = Request::new(place.clone());
        block_on(Codec.write_request(&PROTOCOL, &mut wire, request.clone())).unwrap();
        wire.set_position(0);
        assert_eq!(block_on(Codec.read_request(&PROTOCOL, &mut wire)).unwrap(), request);
        for response in [Response::Meets(place), Response::Refused(Refusal::NotPermitted)] {
            let mut wire = Cursor::new(Vec::new());
            block_on(Codec.write_response(&PROTOCOL, &mut wire, response.clone())).unwrap();
            wire.set_position(0);
            assert_eq!(block_on(Codec.read_response(&PROTOCOL, &mut wire)).unwrap(), response);
        }
    }

    #[test]
    fn what_is_too_long_is_not_read_to_its_end() {
        let mut wire = Cursor::new(vec![1; 1 << 16]);
        assert!(block_on(Codec.read_request(&PROTOCOL, &mut wire)).is_err());
        assert_eq!(wire.position(), MAX_MESSAGE + 1);
    }

    #[test]
    fn addresses_that_nobody_can_have_on_this_chain_are_passed_over() {
        let told = ["8.8.8.8:1", "192.168.0.1:1", "127.0.0.1:1", "8.8.8.8:2", "9.9.9.9:1"];
        let place = Place::new(told.map(at), Some(at("10.0.0.1:3478")));
        let ips = |policy| place.sends_from(policy).len();
        assert_eq!(ips(AddressPolicy::Global), 2, "8.8.8.8 and 9.9.9.9");
        assert_eq!(ips(AddressPolicy::Any), 5);
        assert_eq!(place.relayed(AddressPolicy::Global), None);
        assert_eq!(place.relayed(AddressPolicy::Any), Some(at("10.0.0.1:3478")));
        assert_eq!(Place::new([], Some(at("8.8.8.8:0"))).relayed(AddressPolicy::Any), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(read) = block_on(Codec.read_request(&PROTOCOL, &mut Cursor::new(bytes.clone()))) {
                prop_assert!(read.place.sends_from(AddressPolicy::Any).len() <= MAX_ADDRESSES + 1);
            }
            let _ = block_on(Codec.read_response(&PROTOCOL, &mut Cursor::new(bytes)));
        }

        #[test]
        fn addresses_survive_the_wire(ip: [u8; 16], v4: bool, port: u16) {
            let ip = if v4 { [ip[0], ip[1], ip[2], ip[3]].into() } else { ip.into() };
            let at = SocketAddr::new(ip, port);
            let bytes = Address::from(at).encode();
            let read = Address::decode_all(&mut bytes.as_slice()).unwrap();
            prop_assert_eq!(SocketAddr::from(read), at);
        }
    }
}
