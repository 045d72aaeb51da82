//! AutoNAT v2 on the wire, the client's side: what is asked, and the dial-back's number.
//!
//! All numbers and names are those of libp2p's specification `autonat/autonat-v2.md`. Each message
//! comes after its length as a varint.

use crate::Multiaddr;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::StreamProtocol;
use prost::Message as _;
use std::io;

pub(super) const DIAL_REQUEST: StreamProtocol =
    StreamProtocol::new("/libp2p/autonat/2/dial-request");
pub(super) const DIAL_BACK: StreamProtocol = StreamProtocol::new("/libp2p/autonat/2/dial-back");

/// Longest answer to a request: three small numbers.
const MAX_ANSWER: usize = 64;

/// Longest dial-back: one number of 8 bytes and its tag.
const MAX_DIAL_BACK: usize = 16;

/// What a server may have this node send before it dials an address that is not the one it sees, so
/// that nobody gains by having servers dial a victim: at least and at most, in bytes.
const DIAL_DATA: std::ops::RangeInclusive<u64> = 30_000..=100_000;

/// Bytes of data in one message.
const DATA_PIECE: u64 = 4096;

mod status {
    pub(super) const OK: i32 = 200;
    pub(super) const DIAL_ERROR: i32 = 100;
    pub(super) const DIAL_BACK_ERROR: i32 = 101;
}

#[derive(Clone, PartialEq, prost::Message)]
struct Message {
    #[prost(message, optional, tag = "1")]
    dial_request: Option<DialRequest>,
    #[prost(message, optional, tag = "2")]
    dial_response: Option<DialResponse>,
    #[prost(message, optional, tag = "3")]
    dial_data_request: Option<DialDataRequest>,
    #[prost(message, optional, tag = "4")]
    dial_data_response: Option<DialDataResponse>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct DialRequest {
    #[prost(bytes = "vec", repeated, tag = "1")]
    addrs: Vec<Vec<u8>>,
    #[prost(fixed64, tag = "2")]
    nonce: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct DialResponse {
    #[prost(int32, tag = "1")]
    status: i32,
    #[prost(uint32, tag = "2")]
    addr_idx: u32,
    #[prost(int32, tag = "3")]
    dial_status: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct DialDataRequest {
    #[prost(uint32, tag = "1")]
    addr_idx: u32,
    #[prost(uint64, tag = "2")]
    num_bytes: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct DialDataResponse {
    #[prost(bytes = "vec", tag = "1")]
    data: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct DialBack {
    #[prost(fixed64, tag = "1")]
    nonce: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct DialBackResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Asks a server to dial `addr` back with `nonce`. Whether it says that it did; an error where it
/// says nothing of the address.
pub(super) async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    addr: &Multiaddr,
    nonce: u64,
) -> io::Result<bool> {
    let request = DialRequest { addrs: vec![addr.to_vec()], nonce };
    write(stream, &Message { dial_request: Some(request), ..Message::default() }).await?;
    let mut answer = read_answer(stream).await?;
    if let Some(DialDataRequest { addr_idx, num_bytes }) = answer.dial_data_request {
        if addr_idx != 0 || !DIAL_DATA.contains(&num_bytes) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut left = num_bytes;
        while left > 0 {
            let piece = left.min(DATA_PIECE);
            let data = vec![0; usize::try_from(piece).unwrap_or_default()];
            let data = DialDataResponse { data };
            write(stream, &Message { dial_data_response: Some(data), ..Message::default() })
                .await?;
            left -= piece;
        }
        answer = read_answer(stream).await?;
    }
    let Some(response) = answer.dial_response else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let DialResponse { status, addr_idx, dial_status } = response;
    match (status, addr_idx, dial_status) {
        (status::OK, 0, status::OK) => Ok(true),
        (status::OK, 0, status::DIAL_ERROR | status::DIAL_BACK_ERROR) => Ok(false),
        // It would not, could not, or speaks of another address.
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Reads the number of a dial-back.
pub(super) async fn read_dial_back(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<u64> {
    let bytes = read(stream, MAX_DIAL_BACK).await?;
    Ok(DialBack::decode(bytes.as_slice())?.nonce)
}

/// Tells the server that its number was the right one, and that nothing follows.
pub(super) async fn accept_dial_back(stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    // Its status is zero, so it is empty.
    write(stream, &DialBackResponse::default()).await?;
    stream.close().await
}

async fn read_answer(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Message> {
    let bytes = read(stream, MAX_ANSWER).await?;
    Ok(Message::decode(bytes.as_slice())?)
}

async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &impl prost::Message,
) -> io::Result<()> {
    stream.write_all(&message.encode_length_delimited_to_vec()).await?;
    stream.flush().await
}

/// A message of at most `limit` bytes, which is below 128, so that its length is one byte.
async fn read(stream: &mut (impl AsyncRead + Unpin), limit: usize) -> io::Result<Vec<u8>> {
    let mut length = [0_u8];
    stream.read_exact(&mut length).await?;
    let [length] = length.map(usize::from);
    if length > limit {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{executor::block_on, io::Cursor};
    use proptest::prelude::*;
    use std::{
        pin::Pin,
        task::{Context, Poll},
    };

    /// The other side: what it was written, and what it will say.
    struct Wire {
        written: Vec<u8>,
        says: Cursor<Vec<u8>>,
    }

    impl AsyncRead for Wire {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.says).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Wire {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.written.extend_from_slice(buf);
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn addr() -> Multiaddr {
        "/ip4/9.9.9.9/tcp/1".parse().unwrap()
    }

    fn asked(says: Vec<u8>) -> (Option<bool>, Vec<u8>) {
        let mut wire = Wire { written: Vec::new(), says: Cursor::new(says) };
        let answer = block_on(ask(&mut wire, &addr(), 7));
        (answer.ok(), wire.written)
    }

    fn response(status: i32, addr_idx: u32, dial_status: i32) -> Vec<u8> {
        let response = DialResponse { status, addr_idx, dial_status };
        Message { dial_response: Some(response), ..Message::default() }
            .encode_length_delimited_to_vec()
    }

    fn wants_data(num_bytes: u64) -> Vec<u8> {
        let request = DialDataRequest { addr_idx: 0, num_bytes };
        Message { dial_data_request: Some(request), ..Message::default() }
            .encode_length_delimited_to_vec()
    }

    #[test]
    fn only_what_a_server_says_of_the_address_counts() {
        assert_eq!(asked(response(200, 0, 200)).0, Some(true));
        assert_eq!(asked(response(200, 0, 100)).0, Some(false));
        assert_eq!(asked(response(200, 0, 101)).0, Some(false));
        for (status, index, dial) in
            [(200, 1, 200), (0, 0, 0), (100, 0, 0), (101, 0, 0), (200, 0, 0)]
        {
            assert_eq!(asked(response(status, index, dial)).0, None, "{status} {index} {dial}");
        }
        assert_eq!(asked(Vec::new()).0, None);
    }

    #[test]
    fn data_is_sent_within_its_bounds_and_no_further() {
        let wanted = [wants_data(30_000), response(200, 0, 200)].concat();
        let (answer, written) = asked(wanted);
        assert_eq!(answer, Some(true));
        assert!((30_000..31_000).contains(&written.len()), "{}", written.len());
        for greedy in [0, 29_999, 100_001, u64::MAX] {
            let (answer, written) = asked([wants_data(greedy), response(200, 0, 200)].concat());
            assert_eq!(answer, None);
            assert!(written.len() < 100, "{}", written.len());
        }
        let twice = [wants_data(30_000), wants_data(30_000), response(200, 0, 200)].concat();
        assert_eq!(asked(twice).0, None);
    }

    #[test]
    fn a_dial_back_is_its_number() {
        let mut bytes = Cursor::new(vec![9, 0x09, 1, 2, 3, 4, 5, 6, 7, 8]);
        let nonce = block_on(read_dial_back(&mut bytes)).unwrap();
        assert_eq!(nonce, u64::from_le_bytes([1, 2, 3, 4, 5, 6, 7, 8]));
        let mut wire = Wire { written: Vec::new(), says: Cursor::new(Vec::new()) };
        block_on(accept_dial_back(&mut wire)).unwrap();
        assert_eq!(wire.written, [0]);
        assert!(block_on(read_dial_back(&mut Cursor::new(vec![17; 18]))).is_err(), "too long");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let _ = asked(bytes.clone());
            let _ = block_on(read_dial_back(&mut Cursor::new(bytes)));
        }

        #[test]
        fn any_message_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut message = vec![u8::try_from(bytes.len()).unwrap()];
            message.extend_from_slice(&bytes);
            let _ = asked(message.repeat(2));
        }
    }
}
