//! The service protocol on the wire: `/nsn/<chain>/services/1`.
//!
//! One request a stream: a version byte. One response: SCALE of an optional signed record. Each
//! ends with the sender's side of the stream and is read only up to its bound.

use codec::{Decode, DecodeAll, Encode};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{StreamProtocol, request_response};
use std::io;

/// Longest request that is read.
const MAX_REQUEST: u64 = 4 * 1024;

/// Longest response that is read.
const MAX_RESPONSE: u64 = 16 * 1024;

/// Asks a peer for its service record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Request {
    /// [`Request::VERSION`]
    pub(crate) version: u8,
}

impl Request {
    const VERSION: u8 = 1;
    pub(crate) const CURRENT: Self = Self { version: Self::VERSION };
}

/// The record, signed; `None` if the peer offers nothing.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Response {
    pub(crate) record: Option<Vec<u8>>,
}

/// Reads and writes both.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Codec;

async fn read<M: Decode, T: AsyncRead + Unpin + Send>(io: &mut T, max: u64) -> io::Result<M> {
    let mut bytes = Vec::new();
    // One byte more than allowed tells a message that is too long from one that just fits.
    io.take(max + 1).read_to_end(&mut bytes).await?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "message too long"));
    }
    M::decode_all(&mut bytes.as_slice())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
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
        let request: Request = read(io, MAX_REQUEST).await?;
        if request.version != Request::VERSION {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "unknown request version"));
        }
        Ok(request)
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Response>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io, MAX_RESPONSE).await
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

    #[test]
    fn what_is_written_is_read() {
        let mut wire = Cursor::new(Vec::new());
        block_on(Codec.write_request(&PROTOCOL, &mut wire, Request::CURRENT)).unwrap();
        wire.set_position(0);
        let read = block_on(Codec.read_request(&PROTOCOL, &mut wire)).unwrap();
        assert_eq!(read, Request::CURRENT);

        let response = Response { record: Some(vec![7; 1000]) };
        let mut wire = Cursor::new(Vec::new());
        block_on(Codec.write_response(&PROTOCOL, &mut wire, response.clone())).unwrap();
        wire.set_position(0);
        assert_eq!(block_on(Codec.read_response(&PROTOCOL, &mut wire)).unwrap(), response);
    }

    #[test]
    fn what_is_too_long_is_not_read_to_its_end() {
        let mut wire = Cursor::new(vec![1; 1 << 20]);
        assert!(block_on(Codec.read_response(&PROTOCOL, &mut wire)).is_err());
        assert_eq!(wire.position(), MAX_RESPONSE + 1);
        let mut wire = Cursor::new(vec![1; 1 << 20]);
        assert!(block_on(Codec.read_request(&PROTOCOL, &mut wire)).is_err());
        assert_eq!(wire.position(), MAX_REQUEST + 1);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let _ = block_on(Codec.read_request(&PROTOCOL, &mut Cursor::new(bytes.clone())));
            let _ = block_on(Codec.read_response(&PROTOCOL, &mut Cursor::new(bytes)));
        }
    }
}
