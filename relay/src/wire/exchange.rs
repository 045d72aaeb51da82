//! The asking side of a stream, the same for viewers and for relays that fetch.
//!
//! [`ask`] sends a request and reads the header; the [`Answer`] it gives can only be turned into a
//! body, whole and of the promised length. [`get_blob`] asks for a blob, and the [`Promised`] it gives
//! can only be turned into bytes that hash to the id. [`get_groups`](super::get_groups) asks for a
//! blob or a part of it so that every 16 KiB verifies as it arrives.

use super::{
    Asked, Busy, Code, Encoding, FrameError, ReadFrameError, Request, Response, Source,
    StreamError, UnknownCode, encode_frame, read_frame,
};
use crate::content::{BlobId, MAX_BLOB_LEN};
use bytes::Bytes;
use quinn::{Connection, ConnectionError, ReadError, VarInt, WriteError};
use std::{io, time::Duration};
use tokio::time::timeout;

/// How long an asker waits.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the header, from the moment the request is sent.
    pub header: Duration,
    /// For the next bytes of the body, each time.
    pub stall: Duration,
}

/// Why an exchange gave no verified bytes.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The connection is gone.
    #[error("the connection is gone")]
    Connection(#[from] ConnectionError),
    /// A stream of the overlay broke, or could not be opened.
    #[error("the overlay's stream broke: {0}")]
    Overlay(io::ErrorKind),
    /// The server said no.
    #[error("refused: {code}")]
    Refused {
        /// Its reason.
        code: Code,
        /// When to come back, with [`Code::Busy`].
        busy: Option<Busy>,
    },
    /// The server gave up and said why.
    #[error("given up by the other side: {0}")]
    Reset(Code),
    /// The server gave up with a number that means nothing here.
    #[error("given up by the other side: {0}")]
    ResetUnknown(UnknownCode),
    /// The header is not one.
    #[error("bad answer: {0}")]
    Malformed(#[from] FrameError),
    /// The header promises what cannot be, such as a blob above 16 MiB.
    #[error("bad answer: it promises {length} bytes of a blob of {total}")]
    Promise {
        /// Bytes of body promised.
        length: u64,
        /// Length of the blob as claimed.
        total: u64,
    },
    /// The body ended early.
    #[error("the body ended after {got} of {expected} bytes")]
    TooLittle {
        /// Bytes promised.
        expected: u64,
        /// Bytes that came.
        got: u64,
    },
    /// The body went on after its end.
    #[error("the body is longer than the {0} bytes promised")]
    TooMuch(u64),
    /// Nothing came for too long.
    #[error("nothing came for {0:?}")]
    Stalled(Duration),
    /// All bytes came and are not the blob.
    #[error("the bytes do not hash to {0}")]
    WrongHash(BlobId),
    /// A group of a verified body, or a node on the way to it, is not the blob's.
    #[error("group {group} does not hash to {id}")]
    WrongGroup {
        /// The blob.
        id: BlobId,
        /// Index of the group, in units of 16 KiB.
        group: u32,
    },
}

impl ExchangeError {
    /// Whether another try on a new connection may go better, for reasons that lie in the old one.
    pub fn is_connection(&self) -> bool {
        matches!(self, Self::Connection(_) | Self::Overlay(_))
    }

    pub(crate) fn from_read(error: StreamError) -> Self {
        match error {
            StreamError::Overlay(kind) => Self::Overlay(kind),
            StreamError::Reset(number) => Self::from_number(VarInt::from_u32(number.into())),
            StreamError::Quic(ReadError::ConnectionLost(error)) => Self::Connection(error),
            StreamError::Quic(ReadError::Reset(number)) => Self::from_number(number),
            // None of these happens to a stream that is read once, in order, without 0-RTT.
            StreamError::Quic(
                ReadError::ClosedStream
                | ReadError::IllegalOrderedRead
                | ReadError::ZeroRttRejected,
            ) => Self::Reset(Code::Internal),
        }
    }

    fn from_number(number: VarInt) -> Self {
        Code::try_from(number).map_or_else(Self::ResetUnknown, Self::Reset)
    }
}

/// What carries requests to one service, each on a stream of its own.
pub trait Carrier: Sync {
    /// Opens a stream, sends a request on it, and gives what the answer is read from.
    ///
    /// # Errors
    /// See [`ExchangeError`].
    fn send(&self, frame: &[u8]) -> impl Future<Output = Result<Asked, ExchangeError>> + Send;
}

impl Carrier for Connection {
    async fn send(&self, frame: &[u8]) -> Result<Asked, ExchangeError> {
        let (mut send, body) = self.open_bi().await?;
        match send.write_all(frame).await {
            // A server that refuses without reading has stopped our side; its answer says why.
            Ok(()) | Err(WriteError::Stopped(_) | WriteError::ClosedStream) => {}
            Err(WriteError::ConnectionLost(error)) => return Err(error.into()),
            Err(WriteError::ZeroRttRejected) => return Err(ExchangeError::Reset(Code::Internal)),
        }
        let _ = send.finish();
        Ok(body.into())
    }
}

/// A header that said ok, and the body that follows it.
#[derive(Debug)]
pub struct Answer {
    header: Response,
    body: Asked,
}

/// Sends `request` on a stream of its own and reads the header of the answer.
///
/// # Errors
/// Anything but [`Code::Ok`] is [`ExchangeError::Refused`].
pub async fn ask<C: Carrier>(
    carrier: &C,
    request: &Request,
    patience: Patience,
) -> Result<Answer, ExchangeError> {
    let frame = encode_frame(request)?;
    let exchange = async {
        let mut body = carrier.send(&frame).await?;
        match read_frame::<Response>(&mut body).await {
            Ok(header) => Ok(Answer { header, body }),
            Err(ReadFrameError::Frame(error)) => Err(error.into()),
            Err(ReadFrameError::Stream(error)) => Err(ExchangeError::from_read(error)),
        }
    };
    let answer = timeout(patience.header, exchange)
        .await
        .map_err(|_| ExchangeError::Stalled(patience.header))??;
    match answer.header.code {
        Code::Ok => Ok(answer),
        code => Err(ExchangeError::Refused { code, busy: answer.header.busy }),
    }
}

impl Answer {
    /// The header.
    pub fn header(&self) -> &Response {
        &self.header
    }

    /// The header, and the body yet unread.
    pub(crate) fn into_parts(self) -> (Response, Asked) {
        (self.header, self.body)
    }

    /// Reads the body: exactly what was promised and then a clean end. `each` sees every piece as
    /// it comes. At most `limit` bytes are ever held.
    ///
    /// # Errors
    /// See [`ExchangeError`].
    pub async fn body(
        mut self,
        limit: u64,
        stall: Duration,
        mut each: impl FnMut(&[u8]),
    ) -> Result<Bytes, ExchangeError> {
        let Response { length, total, .. } = self.header;
        let capacity = usize::try_from(length)
            .ok()
            .filter(|_| length <= limit)
            .ok_or(ExchangeError::Promise { length, total })?;
        let mut body = Vec::with_capacity(capacity);
        loop {
            let piece = timeout(stall, self.body.chunk(usize::MAX))
                .await
                .map_err(|_| ExchangeError::Stalled(stall))?
                .map_err(ExchangeError::from_read)?;
            let Some(piece) = piece else { break };
            if body.len() + piece.len() > capacity {
                self.body.stop(Code::BadRequest);
                return Err(ExchangeError::TooMuch(length));
            }
            each(&piece);
            body.extend_from_slice(&piece);
        }
        if body.len() < capacity {
            let got = u64::try_from(body.len()).unwrap_or(length);
            return Err(ExchangeError::TooLittle { expected: length, got });
        }
        Ok(Bytes::from(body))
    }
}

/// The header of a whole blob whose length can be believed, and the bytes still to come.
#[derive(Debug)]
pub struct Promised {
    id: BlobId,
    len: u32,
    answer: Answer,
}

/// Asks for one whole blob.
///
/// # Errors
/// See [`ExchangeError`].
pub async fn get_blob<C: Carrier>(
    carrier: &C,
    id: BlobId,
    fill: bool,
    patience: Patience,
) -> Result<Promised, ExchangeError> {
    let request = Request::Get { id, range: None, encoding: Encoding::Raw, fill };
    let answer = ask(carrier, &request, patience).await?;
    let Response { length, total, .. } = *answer.header();
    let len = u32::try_from(length)
        .ok()
        .filter(|len| length == total && (1..=MAX_BLOB_LEN).contains(len))
        .ok_or(ExchangeError::Promise { length, total })?;
    Ok(Promised { id, len, answer })
}

impl Promised {
    /// Length of the blob in bytes, 1 to 16 MiB.
    pub fn size(&self) -> u32 {
        self.len
    }

    /// Where the server says it has it from.
    pub fn source(&self) -> Option<Source> {
        self.answer.header.source
    }

    /// Reads the blob and verifies it; only bytes that hash to the id come out.
    ///
    /// # Errors
    /// See [`ExchangeError`].
    pub async fn verified(self, stall: Duration) -> Result<Bytes, ExchangeError> {
        let mut hasher = blake3::Hasher::new();
        let each = |piece: &[u8]| {
            hasher.update(piece);
        };
        let bytes = self.answer.body(u64::from(self.len), stall, each).await?;
        if *hasher.finalize().as_bytes() == self.id.0 {
            Ok(bytes)
        } else {
            Err(ExchangeError::WrongHash(self.id))
        }
    }
}
