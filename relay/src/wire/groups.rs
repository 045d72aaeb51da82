//! The asking side of verified bodies: each 16 KiB group comes out as soon as it is proven.

use super::{
    Asked, Carrier, Code, Encoding, ExchangeError, Patience, Priority, Request, Response, Source,
    ask,
    verified::{Decoder, Fault, Group, Node, Span, Step},
};
use crate::content::BlobId;
use bytes::{Bytes, BytesMut};
use iroh_io::AsyncStreamReader;
use std::{io, time::Duration};
use tokio::time::timeout;

/// Asks for the groups that hold `range` of a blob; `None` asks for all of them.
///
/// # Errors
/// See [`ExchangeError`]. A header whose length is not that of the body which its total implies is
/// [`ExchangeError::Promise`].
pub async fn get_groups<C: Carrier>(
    carrier: &C,
    id: BlobId,
    range: Option<(u64, u64)>,
    fill: bool,
    patience: Patience,
) -> Result<Groups, ExchangeError> {
    get_groups_as(carrier, Priority::Play, id, range, fill, patience).await
}

/// As [`get_groups`], and says how urgent it is, if it is anything but to be played.
pub(crate) async fn get_groups_as<C: Carrier>(
    carrier: &C,
    priority: Priority,
    id: BlobId,
    range: Option<(u64, u64)>,
    fill: bool,
    patience: Patience,
) -> Result<Groups, ExchangeError> {
    let encoding = Encoding::Verified;
    let request = match priority {
        Priority::Play => Request::Get { id, range, encoding, fill },
        priority => Request::GetAs { priority, id, range, encoding, fill },
    };
    let (header, stream) = ask(carrier, &request, patience).await?.into_parts();
    let Response { length, total, source, .. } = header;
    let span = u32::try_from(total)
        .ok()
        .and_then(|total| Span::covering(total, range))
        .filter(|span| span.encoded_len() == length)
        .ok_or(ExchangeError::Promise { length, total })?;
    let body = Body { stream, stall: patience.stall, length, got: 0, failed: None };
    Ok(Groups { id, span, source, decoder: Decoder::new(id, &span, body) })
}

/// Groups of a blob that are still to come.
pub struct Groups {
    id: BlobId,
    span: Span,
    source: Option<Source>,
    decoder: Decoder<Body>,
}

impl Groups {
    /// Which groups were asked for, of how long a blob. The length is the server's claim until the
    /// blob's last group came out.
    pub fn span(&self) -> Span {
        self.span
    }

    /// Where the server says it has the blob from.
    pub fn source(&self) -> Option<Source> {
        self.source
    }

    /// The next group, verified, and those after it; `None` once all came and the body ended there.
    ///
    /// # Errors
    /// See [`ExchangeError`]; nothing more comes out after one.
    pub async fn next(self) -> Result<Option<(Group, Self)>, ExchangeError> {
        Ok(self.next_with_nodes().await?.map(|(group, _, rest)| (group, rest)))
    }

    /// As [`Self::next`], with the nodes that came before the group: whoever collects them can
    /// encode what it has.
    pub(crate) async fn next_with_nodes(
        self,
    ) -> Result<Option<(Group, Vec<Node>, Self)>, ExchangeError> {
        let Self { id, span, source, decoder } = self;
        match decoder.next().await {
            Ok(Step::Group(group, nodes, decoder)) => {
                Ok(Some((group, nodes, Self { id, span, source, decoder })))
            }
            Ok(Step::Done(body)) => body.end().await.map(|()| None),
            Err((Fault::Wrong { group }, mut body)) => {
                body.stream.stop(Code::BadRequest);
                Err(ExchangeError::WrongGroup { id, group })
            }
            Err((Fault::Read, body)) => Err(body.failure()),
        }
    }

    /// Reads all that was asked for into one piece, at most 16 MiB.
    ///
    /// # Errors
    /// See [`ExchangeError`].
    pub async fn all(self) -> Result<Bytes, ExchangeError> {
        let capacity = usize::try_from(self.span.bytes()).unwrap_or(usize::MAX);
        let mut bytes = BytesMut::with_capacity(capacity);
        let mut groups = self;
        while let Some((group, rest)) = groups.next().await? {
            bytes.extend_from_slice(&group.bytes);
            groups = rest;
        }
        Ok(bytes.freeze())
    }
}

/// A body as a decoder reads it. Remembers why it failed, which an [`io::Error`] cannot carry.
struct Body {
    stream: Asked,
    /// For the next bytes, each time.
    stall: Duration,
    /// Bytes promised.
    length: u64,
    /// Bytes that came.
    got: u64,
    failed: Option<ExchangeError>,
}

impl Body {
    /// The next bytes as they come, at most `most`; `None` at the end of the stream.
    async fn piece(&mut self, most: usize) -> Result<Option<Bytes>, ExchangeError> {
        let piece = timeout(self.stall, self.stream.chunk(most))
            .await
            .map_err(|_| ExchangeError::Stalled(self.stall))?
            .map_err(ExchangeError::from_read)?;
        let len = piece.as_ref().map_or(0, Bytes::len);
        self.got = self.got.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        Ok(piece)
    }

    /// Fills `into` as far as the stream goes and says how far that is.
    async fn fill(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = into.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.piece(rest.len()).await {
                Ok(None) => break,
                Ok(Some(piece)) => {
                    for (to, from) in rest.iter_mut().zip(&piece) {
                        *to = *from;
                    }
                    filled += piece.len();
                }
                Err(error) => {
                    self.failed = Some(error);
                    return Err(io::ErrorKind::Other.into());
                }
            }
        }
        Ok(filled)
    }

    /// Why the decoder could not read on.
    fn failure(self) -> ExchangeError {
        let Self { length, got, .. } = self;
        self.failed.unwrap_or(ExchangeError::TooLittle { expected: length, got })
    }

    /// Makes sure that the body ends here.
    async fn end(mut self) -> Result<(), ExchangeError> {
        match self.piece(1).await? {
            None => Ok(()),
            Some(_) => {
                self.stream.stop(Code::BadRequest);
                Err(ExchangeError::TooMuch(self.length))
            }
        }
    }
}

impl AsyncStreamReader for Body {
    async fn read_bytes(&mut self, len: usize) -> io::Result<Bytes> {
        let mut bytes = BytesMut::new();
        while bytes.len() < len {
            match self.piece(len - bytes.len()).await {
                Ok(None) => break,
                // What comes in one piece stays one.
                Ok(Some(piece)) if bytes.is_empty() && piece.len() == len => return Ok(piece),
                Ok(Some(piece)) => {
                    bytes.reserve(len - bytes.len());
                    bytes.extend_from_slice(&piece);
                }
                Err(error) => {
                    self.failed = Some(error);
                    return Err(io::ErrorKind::Other.into());
                }
            }
        }
        Ok(bytes.freeze())
    }

    async fn read<const L: usize>(&mut self) -> io::Result<[u8; L]> {
        let mut bytes = [0; L];
        match self.fill(&mut bytes).await? {
            filled if filled == L => Ok(bytes),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
