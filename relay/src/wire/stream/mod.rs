//! The streams that carry requests: those of a QUIC connection, and substreams of the overlay.
//!
//! Both are used in the same way, by the same code. What a QUIC stream has and a substream lacks (a
//! code in a reset, and knowing that the other side has it all) is made up for by [`substream`].

mod substream;

use super::{Code, FrameError, ReadExact, ReadFrameError};
use crate::overlay;
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use quinn::{RecvStream, SendStream, StoppedError};
use serde::Serialize;
use std::io;

/// How a stream reaches its other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// A QUIC connection to the shard service's own port.
    Quic,
    /// A connection of the overlay, direct or through others.
    Overlay,
}

impl Way {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Quic, Self::Overlay];

    /// The metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Overlay => "overlay",
        }
    }
}

/// Why a stream gives no more bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// A QUIC stream was reset, or its connection is gone.
    #[error(transparent)]
    Quic(#[from] quinn::ReadError),
    /// The other side of a substream gave up, and said why with this number.
    #[error("given up by the other side with code {0}")]
    Reset(u8),
    /// A substream or the overlay's connection under it broke.
    #[error("the overlay's stream broke: {0}")]
    Overlay(io::ErrorKind),
}

/// The other side wants no more, or is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

/// How a stream has ended, as the side sees it that sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The other side has all that was sent.
    Taken,
    /// The other side wants no more, or is gone.
    Gone,
    /// What cannot be: this side sends no early data.
    Impossible,
}

/// The side that answers, sending.
pub(crate) enum Sender {
    Quic(SendStream),
    Overlay(substream::Sender),
}

/// The side that answers, reading the request.
pub(crate) enum Receiver {
    Quic(RecvStream),
    Overlay(substream::Receiver),
}

/// The two halves of a substream that another node opened, and whether it goes through a circuit.
pub(crate) fn accepted(substream: overlay::Substream) -> (Sender, Receiver) {
    let (sender, receiver) = substream::accepted(substream);
    (Sender::Overlay(sender), Receiver::Overlay(receiver))
}

impl Sender {
    pub(crate) fn way(&self) -> Way {
        match self {
            Self::Quic(_) => Way::Quic,
            Self::Overlay(_) => Way::Overlay,
        }
    }

    /// Whether the bytes go through a third node.
    pub(crate) fn is_relayed(&self) -> bool {
        match self {
            Self::Quic(_) => false,
            Self::Overlay(sender) => sender.relayed(),
        }
    }

    /// Among the streams of one QUIC connection, the highest is sent first.
    pub(crate) fn set_priority(&self, number: i32) {
        if let Self::Quic(send) = self {
            // Fails only on a stream that is over.
            let _ = send.set_priority(number);
        }
    }

    /// Sends a piece, as fast as the other side takes it.
    pub(crate) async fn write(&mut self, piece: &mut [Bytes]) -> Result<(), Gone> {
        match self {
            Self::Quic(send) => send.write_all_chunks(piece).await.map_err(|_| Gone),
            Self::Overlay(send) => send.write(piece).await.map_err(|_| Gone),
        }
    }

    /// Says that all was sent.
    pub(crate) async fn finish(&mut self) -> Result<(), Gone> {
        match self {
            Self::Quic(send) => {
                // Fails only where the other side has stopped it, which `ended` tells.
                let _ = send.finish();
                Ok(())
            }
            Self::Overlay(send) => send.finish().await.map_err(|_| Gone),
        }
    }

    /// Gives up, saying why as far as that is still possible. Waits for nothing.
    pub(crate) fn reset(&mut self, code: Code) {
        match self {
            Self::Quic(send) => {
                let _ = send.reset(code.into());
            }
            Self::Overlay(send) => send.reset(code),
        }
    }

    /// Ends when the other side has all that was sent, wants no more, or is gone.
    pub(crate) fn ended(&self) -> BoxFuture<'static, Ended> {
        match self {
            Self::Quic(send) => {
                let stopped = send.stopped();
                async move {
                    match stopped.await {
                        Ok(None) => Ended::Taken,
                        Ok(Some(_)) | Err(StoppedError::ConnectionLost(_)) => Ended::Gone,
                        Err(StoppedError::ZeroRttRejected) => Ended::Impossible,
                    }
                }
                .boxed()
            }
            Self::Overlay(send) => send.ended().boxed(),
        }
    }
}

impl Receiver {
    /// Says that nothing more is read.
    pub(crate) fn stop(&mut self, code: Code) {
        match self {
            Self::Quic(receive) => {
                let _ = receive.stop(code.into());
            }
            // The other side has nothing to send but that it has it all.
            Self::Overlay(_) => {}
        }
    }
}

impl ReadExact for Receiver {
    async fn read_exact(&mut self, into: &mut [u8]) -> Result<(), ReadFrameError> {
        match self {
            Self::Quic(receive) => ReadExact::read_exact(receive, into).await,
            Self::Overlay(receive) => receive.read_exact(into).await,
        }
    }
}

/// The side that asked, reading the answer.
#[derive(Debug)]
pub struct Asked(Kind);

#[derive(Debug)]
enum Kind {
    Quic(RecvStream),
    Overlay(Box<substream::Asked>),
}

impl From<RecvStream> for Asked {
    fn from(receive: RecvStream) -> Self {
        Self(Kind::Quic(receive))
    }
}

impl Asked {
    /// Sends a request on a substream.
    pub(crate) async fn over(
        substream: overlay::Substream,
        frame: &[u8],
    ) -> Result<Self, io::ErrorKind> {
        let asked = substream::Asked::ask(substream, frame).await;
        asked.map(|asked| Self(Kind::Overlay(Box::new(asked)))).map_err(|error| error.kind())
    }

    /// The next bytes as they come, at most `most`; `None` at the end.
    pub(crate) async fn chunk(&mut self, most: usize) -> Result<Option<Bytes>, StreamError> {
        match &mut self.0 {
            Kind::Quic(receive) => {
                Ok(receive.read_chunk(most, true).await?.map(|chunk| chunk.bytes))
            }
            Kind::Overlay(asked) => asked.chunk(most).await,
        }
    }

    /// As [`Self::chunk`], several pieces at a time where they are there; as many as it says.
    pub(crate) async fn chunks(
        &mut self,
        into: &mut [Bytes],
    ) -> Result<Option<usize>, StreamError> {
        match &mut self.0 {
            Kind::Quic(receive) => Ok(receive.read_chunks(into).await?),
            Kind::Overlay(asked) => {
                let came = asked.chunk(usize::MAX).await?;
                Ok(came.zip(into.first_mut()).map(|(bytes, place)| {
                    *place = bytes;
                    1
                }))
            }
        }
    }

    /// Tells the other side that no more is wanted.
    pub(crate) fn stop(&mut self, code: Code) {
        match &mut self.0 {
            Kind::Quic(receive) => {
                let _ = receive.stop(code.into());
            }
            // Closed when it is dropped, which says the same.
            Kind::Overlay(_) => {}
        }
    }
}

impl ReadExact for Asked {
    async fn read_exact(&mut self, into: &mut [u8]) -> Result<(), ReadFrameError> {
        let asked = match &mut self.0 {
            Kind::Quic(receive) => return ReadExact::read_exact(receive, into).await,
            Kind::Overlay(asked) => asked,
        };
        let mut rest = into;
        while !rest.is_empty() {
            let Some(bytes) = asked.chunk(rest.len()).await.map_err(ReadFrameError::Stream)? else {
                return Err(FrameError::Truncated.into());
            };
            // Never more than was asked for.
            let (filled, left) = rest.split_at_mut(bytes.len().min(rest.len()));
            filled.copy_from_slice(&bytes);
            rest = left;
        }
        Ok(())
    }
}
