//! The asking side of a stream, the same for viewers and for relays that fetch.
//!
//! [`ask`] sends a request and reads the header; the [`Answer`] it gives can only be turned into a
//! body, whole and of the promised length. [`get_blob`] asks for a blob, and the [`Promised`] it gives
//! can only be turned into bytes that hash to the id. [`get_groups`](super::get_groups) asks for a
//! blob or a part of it so that every 16 KiB verifies as it arrives.

use super::{
    Busy, Code, Encoding, FrameError, ReadFrameError, Request, Response, Source, UnknownCode,
    encode_frame, read_frame,
};
use crate::content::{BlobId, MAX_BLOB_LEN};
use bytes::Bytes;
use quinn::{Connection, ConnectionError, ReadError, RecvStream, VarInt, WriteError};
use std::time::Duration;
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
        matches!(self, Self::Connection(_))
    }

    pub(crate) fn from_read(error: ReadError) -> Self {
        match error {
            ReadError::ConnectionLost(error) => Self::Connection(error),
            ReadError::Reset(number) => Self::from_number(number),
            // None of these happens to a stream that is read once, in order, without 0-RTT.
            ReadError::ClosedStream
            | ReadError::IllegalOrderedRead
            | ReadError::ZeroRttRejected => Self::Reset(Code::Internal),
        }
    }

    fn from_number(number: VarInt) -> Self {
        Code::try_from(number).map_or_else(Self::ResetUnknown, Self::Reset)
    }
}

/// A header that said ok, and the body that follows it.
#[derive(Debug)]
pub struct Answer {
    header: Response,
    body: RecvStream,
}

/// Sends `request` on a stream of its own and reads the header of the answer.
///
/// # Errors
/// Anything but [`Code::Ok`] is [`ExchangeError::Refused`].
pub async fn ask(
    connection: &Connection,
    request: &Request,
    patience: Patience,
) -> Result<Answer, ExchangeError> {
    let frame = encode_frame(request)?;
    let exchange = async {
        let (mut send, mut body) = connection.open_bi().await?;
        match send.write_all(&frame).await {
            // A server that refuses without reading has stopped our side; its answer says why.
            Ok(()) | Err(WriteError::Stopped(_) | WriteError::ClosedStream) => {}
            Err(WriteError::ConnectionLost(error)) => return Err(error.into()),
            Err(WriteError::ZeroRttRejected) => return Err(ExchangeError::Reset(Code::Internal)),
        }
        let _ = send.finish();
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
    pub(crate) fn into_parts(self) -> (Response, RecvStream) {
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
            let piece = timeout(stall, self.body.read_chunk(usize::MAX, true))
                .await
                .map_err(|_| ExchangeError::Stalled(stall))?
                .map_err(ExchangeError::from_read)?;
            let Some(piece) = piece else { break };
            if body.len() + piece.bytes.len() > capacity {
                let _ = self.body.stop(Code::BadRequest.into());
                return Err(ExchangeError::TooMuch(length));
            }
            each(&piece.bytes);
            body.extend_from_slice(&piece.bytes);
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
pub async fn get_blob(
    connection: &Connection,
    id: BlobId,
    fill: bool,
    patience: Patience,
) -> Result<Promised, ExchangeError> {
    let request = Request::Get { id, range: None, encoding: Encoding::Raw, fill };
    let answer = ask(connection, &request, patience).await?;
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
