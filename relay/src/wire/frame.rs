//! Frames: a big-endian `u16` length, then SCALE.

use super::StreamError;
use codec::{DecodeAll, Encode};

/// The longest header in bytes, without its length prefix.
pub const MAX_FRAME: usize = 4096;

/// Why a frame is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The prefix claims nothing, or more than [`MAX_FRAME`].
    #[error("a header of {0} bytes, it must be 1 to {MAX_FRAME}")]
    Length(usize),
    /// The stream ended inside the frame.
    #[error("the stream ended inside a header")]
    Truncated,
    /// The bytes are not the SCALE of what was expected, or others follow it.
    #[error("a header that cannot be decoded: {0}")]
    Malformed(codec::Error),
}

/// Why no frame could be read from a stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadFrameError {
    /// The peer sent something that is not a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The stream or the connection broke.
    #[error("the stream broke inside a header")]
    Stream(#[source] StreamError),
}

/// A stream that can be read as far as wanted.
pub trait ReadExact: Send {
    /// Fills `into`.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] when the stream ends before.
    fn read_exact(
        &mut self,
        into: &mut [u8],
    ) -> impl Future<Output = Result<(), ReadFrameError>> + Send;
}

impl ReadExact for quinn::RecvStream {
    async fn read_exact(&mut self, into: &mut [u8]) -> Result<(), ReadFrameError> {
        quinn::RecvStream::read_exact(self, into).await.map_err(|error| match error {
            quinn::ReadExactError::FinishedEarly(_) => FrameError::Truncated.into(),
            quinn::ReadExactError::ReadError(error) => ReadFrameError::Stream(error.into()),
        })
    }
}

/// Length prefix and SCALE of `message`.
///
/// # Errors
/// [`FrameError::Length`] when it is longer than [`MAX_FRAME`].
pub fn encode_frame(message: &impl Encode) -> Result<Vec<u8>, FrameError> {
    let body = message.encode();
    let length = u16::try_from(body.len())
        .ok()
        .filter(|length| (1..=MAX_FRAME).contains(&usize::from(*length)))
        .ok_or(FrameError::Length(body.len()))?;
    let mut frame = Vec::with_capacity(2 + body.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// Checks a length prefix.
fn length(prefix: [u8; 2]) -> Result<usize, FrameError> {
    let length = usize::from(u16::from_be_bytes(prefix));
    if (1..=MAX_FRAME).contains(&length) { Ok(length) } else { Err(FrameError::Length(length)) }
}

fn decode_body<T: DecodeAll>(body: &[u8]) -> Result<T, FrameError> {
    T::decode_all(&mut &*body).map_err(FrameError::Malformed)
}

/// Takes one frame off the front of `bytes` and gives what follows it.
///
/// # Errors
/// See [`FrameError`].
pub fn decode_frame<T: DecodeAll>(bytes: &[u8]) -> Result<(T, &[u8]), FrameError> {
    let (prefix, rest) = bytes.split_first_chunk::<2>().ok_or(FrameError::Truncated)?;
    let (body, rest) = rest.split_at_checked(length(*prefix)?).ok_or(FrameError::Truncated)?;
    Ok((decode_body(body)?, rest))
}

/// Reads one frame off a stream. Allocates at most [`MAX_FRAME`] bytes; waits as long as the peer
/// lets it wait, so put a time limit around it.
///
/// # Errors
/// See [`ReadFrameError`].
pub async fn read_frame<T: DecodeAll>(stream: &mut impl ReadExact) -> Result<T, ReadFrameError> {
    let mut prefix = [0; 2];
    stream.read_exact(&mut prefix).await?;
    let mut body = vec![0; length(prefix)?];
    stream.read_exact(&mut body).await?;
    Ok(decode_body(&body)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        content::BlobId,
        wire::{Busy, Code, Cost, Encoding, MAX_HAS, Priority, Request, Response, Source, Spent},
    };
    use proptest::prelude::*;

    fn id() -> impl Strategy<Value = BlobId> {
        any::<[u8; 32]>().prop_map(BlobId)
    }

    fn encoding() -> impl Strategy<Value = Encoding> {
        prop_oneof![Just(Encoding::Raw), Just(Encoding::Verified)]
    }

    fn request() -> impl Strategy<Value = Request> {
        prop_oneof![
            (id(), any::<Option<(u64, u64)>>(), encoding(), any::<bool>())
                .prop_map(|(id, range, encoding, fill)| Request::Get { id, range, encoding, fill }),
            prop::collection::vec(id(), 0..=MAX_HAS).prop_map(|ids| Request::Has { ids }),
            Just(Request::Status),
            (priority(), id(), any::<Option<(u64, u64)>>(), encoding(), any::<bool>()).prop_map(
                |(priority, id, range, encoding, fill)| {
                    Request::GetAs { priority, id, range, encoding, fill }
                }
            ),
        ]
    }

    fn priority() -> impl Strategy<Value = Priority> {
        prop_oneof![Just(Priority::Prefetch), Just(Priority::Play), Just(Priority::Seek)]
    }

    fn cost() -> impl Strategy<Value = Cost> {
        prop_oneof![
            Just(Cost::UNTOLD),
            any::<[u32; 3]>().prop_map(|[queue_us, disk_us, upstream_us]| {
                Cost::of(Spent { queue_us, disk_us, upstream_us })
            })
        ]
    }

    fn response() -> impl Strategy<Value = Response> {
        let source = prop_oneof![
            Just(None),
            Just(Some(Source::Memory)),
            Just(Some(Source::Disk)),
            Just(Some(Source::Upstream))
        ];
        let others = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..4);
        let busy = prop::option::of(
            (any::<u32>(), others)
                .prop_map(|(retry_after_ms, others)| Busy { retry_after_ms, others }),
        );
        let code = prop::sample::select(&Code::ALL[..]);
        (code, any::<u64>(), any::<u64>(), source, busy, cost()).prop_map(
            |(code, length, total, source, busy, cost)| Response {
                code,
                length,
                total,
                source,
                busy,
                cost,
            },
        )
    }

    #[test]
    fn the_bytes_are_those_of_the_protocol() {
        let get = Request::Get {
            id: BlobId([7; 32]),
            range: Some((1, 2)),
            encoding: Encoding::Raw,
            fill: true,
        };
        let mut expected = vec![0, 52, 0];
        expected.extend([7; 32]);
        expected.extend([1, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(encode_frame(&get).unwrap(), expected);
        let Request::Get { id, range, fill, .. } = get else { unreachable!() };
        let verified = Request::Get { id, range, encoding: Encoding::Verified, fill };
        let at = expected.len() - 2;
        expected[at] = 1;
        assert_eq!(encode_frame(&verified).unwrap(), expected);
        assert_eq!(encode_frame(&Request::Status).unwrap(), [0, 1, 2]);
        let mut get_as = vec![0, 53, 3, 2];
        get_as.extend(&expected[3..]);
        let urgent = Request::GetAs {
            priority: Priority::Seek,
            id,
            range,
            encoding: Encoding::Verified,
            fill,
        };
        assert_eq!(encode_frame(&urgent).unwrap(), get_as);
        let mut response = Response::ok(1, 2, Some(Source::Disk));
        let expected = [0, 20, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0];
        assert_eq!(encode_frame(&response).unwrap(), expected);
        // What an answer cost stands behind all that was there before, for whoever wants to know.
        response.cost = Cost::of(Spent { queue_us: 1, disk_us: 64, upstream_us: 0 });
        let mut longer = expected.to_vec();
        longer[1] = 24;
        longer.extend([4, 1, 1, 0]);
        assert_eq!(encode_frame(&response).unwrap(), longer);
    }

    #[test]
    fn lengths_out_of_bounds_are_refused() {
        assert_eq!(decode_frame::<Request>(&[0, 0]), Err(FrameError::Length(0)));
        assert_eq!(decode_frame::<Request>(&[0x10, 0x01, 2]), Err(FrameError::Length(4097)));
        assert_eq!(decode_frame::<Request>(&[0xff, 0xff]), Err(FrameError::Length(65535)));
        assert_eq!(decode_frame::<Request>(&[0]), Err(FrameError::Truncated));
        assert_eq!(decode_frame::<Request>(&[0, 2, 2]), Err(FrameError::Truncated));
        let many = Request::Has { ids: vec![BlobId([0; 32]); 128] };
        assert_eq!(encode_frame(&many), Err(FrameError::Length(4099)));
    }

    #[test]
    fn bytes_after_the_message_are_refused() {
        assert!(matches!(decode_frame::<Request>(&[0, 2, 2, 0]), Err(FrameError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn requests_survive(request in request(), rest: Vec<u8>) {
            let mut bytes = encode_frame(&request).unwrap();
            bytes.extend(&rest);
            prop_assert_eq!(decode_frame(&bytes), Ok((request, &rest[..])));
        }

        #[test]
        fn responses_survive(response in response(), rest: Vec<u8>) {
            let mut bytes = encode_frame(&response).unwrap();
            bytes.extend(&rest);
            prop_assert_eq!(decode_frame(&bytes), Ok((response, &rest[..])));
        }

        #[test]
        fn a_truncated_frame_is_named_as_such(request in request(), at: prop::sample::Index) {
            let bytes = encode_frame(&request).unwrap();
            let cut = &bytes[..at.index(bytes.len())];
            prop_assert_eq!(decode_frame::<Request>(cut), Err(FrameError::Truncated));
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_frame::<Request>(&bytes);
            let _ = decode_frame::<Response>(&bytes);
            let mut framed = vec![0, u8::try_from(bytes.len()).unwrap()];
            framed.extend(&bytes);
            let _ = decode_frame::<Request>(&framed);
            let _ = decode_frame::<Response>(&framed);
        }
    }
}
