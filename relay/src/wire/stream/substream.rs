//! What carries an exchange over a substream of the overlay.
//!
//! A substream is a plain duplex of bytes: its reset carries no code, and some transports end one
//! cleanly that was merely dropped. So the answering side cuts what it sends into pieces and says how
//! it ends, and the asking side says that it has it all:
//!
//! ```text
//! asker      request frame, as on QUIC  ...............................  TAKEN (one byte)
//! answerer   piece*  end          piece = length (u32, big-endian, not 0), as many bytes
//!                                 end   = 0 (u32), code (one byte; 0: that was all)
//! ```
//!
//! The bytes in the pieces are those of a QUIC stream: a response frame and its body. An asker that
//! closes its side without that byte wants no more. A stream that ends without an `end` was cut off.

use super::{Ended, Gone, StreamError};
use crate::{
    overlay::{Duplex, Substream},
    sync::lock,
    wire::{Code, FrameError, ReadFrameError},
};
use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use std::{
    fmt,
    future::poll_fn,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
};

/// What the asking side says when it has it all.
const TAKEN: u8 = 0;

/// Bytes read at a time: as many as yamux sends in a frame.
const READ: usize = 16 * 1024;

/// A substream that its reading and its writing side share. Locked for single polls alone.
#[derive(Clone)]
struct Io(Arc<Mutex<Box<dyn Duplex>>>);

impl Io {
    fn new(io: Box<dyn Duplex>) -> Self {
        Self(Arc::new(Mutex::new(io)))
    }

    async fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| Pin::new(&mut **lock(&self.0)).poll_read(cx, into)).await
    }

    /// Reads until `into` is full; [`io::ErrorKind::UnexpectedEof`] when the stream ends before.
    async fn read_exact(&self, into: &mut [u8]) -> io::Result<()> {
        let mut rest = into;
        while !rest.is_empty() {
            let read = self.read(rest).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            rest = rest.get_mut(read..).unwrap_or_default();
        }
        Ok(())
    }

    async fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let wrote = poll_fn(|cx| Pin::new(&mut **lock(&self.0)).poll_write(cx, rest)).await?;
            if wrote == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            rest = rest.get(wrote..).unwrap_or_default();
        }
        Ok(())
    }

    async fn flush(&self) -> io::Result<()> {
        poll_fn(|cx| Pin::new(&mut **lock(&self.0)).poll_flush(cx)).await
    }

    async fn close(&self) -> io::Result<()> {
        poll_fn(|cx| Pin::new(&mut **lock(&self.0)).poll_close(cx)).await
    }
}

impl fmt::Debug for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Io")
    }
}

/// The sides of a substream that another node opened.
pub(super) fn accepted(substream: Substream) -> (Sender, Receiver) {
    let Substream { relayed, io, .. } = substream;
    let io = Io::new(io);
    (Sender { io: io.clone(), relayed, stage: Stage::Between }, Receiver(io))
}

/// The answering side, reading the request.
pub(crate) struct Receiver(Io);

impl Receiver {
    pub(super) async fn read_exact(&mut self, into: &mut [u8]) -> Result<(), ReadFrameError> {
        self.0.read_exact(into).await.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => FrameError::Truncated.into(),
            kind => ReadFrameError::Stream(StreamError::Overlay(kind)),
        })
    }
}

/// The answering side, sending.
pub(crate) struct Sender {
    io: Io,
    relayed: bool,
    stage: Stage,
}

/// Where what is sent stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Between two pieces.
    Between,
    /// A piece or the end was begun, and nothing else may be said.
    Within,
    /// The end was sent.
    Over,
}

impl Sender {
    pub(super) fn relayed(&self) -> bool {
        self.relayed
    }

    pub(super) async fn write(&mut self, pieces: &[Bytes]) -> Result<(), Gone> {
        let len: usize = pieces.iter().map(Bytes::len).sum();
        // Pieces are 64 KiB and a header.
        let len = u32::try_from(len).map_err(|_| Gone)?;
        if len == 0 {
            return Ok(());
        }
        self.stage = Stage::Within;
        self.send(len, pieces).await.map_err(|_| Gone)?;
        self.stage = Stage::Between;
        Ok(())
    }

    async fn send(&self, len: u32, pieces: &[Bytes]) -> io::Result<()> {
        self.io.write_all(&len.to_be_bytes()).await?;
        for piece in pieces {
            self.io.write_all(piece).await?;
        }
        self.io.flush().await
    }

    pub(super) async fn finish(&mut self) -> Result<(), Gone> {
        self.stage = Stage::Within;
        end(self.io.clone(), Code::Ok).await.map_err(|_| Gone)?;
        self.stage = Stage::Over;
        Ok(())
    }

    /// Says why it gives up, if that fits into what the stream takes at once: five bytes almost always
    /// do.
    pub(super) fn reset(&mut self, code: Code) {
        if self.stage == Stage::Between {
            let io = self.io.clone();
            let said = async {
                end(io.clone(), code).await?;
                io.close().await
            };
            let _ = said.now_or_never();
        }
        self.stage = Stage::Over;
    }

    pub(super) fn ended(&self) -> impl Future<Output = Ended> + Send + use<> {
        let io = self.io.clone();
        async move {
            let mut said = [0];
            match io.read(&mut said).await {
                // Said too early it means as little as anything else: that side breaks the protocol.
                Ok(1) if said == [TAKEN] => Ended::Taken,
                _ => Ended::Gone,
            }
        }
    }
}

async fn end(io: Io, code: Code) -> io::Result<()> {
    io.write_all(&[0, 0, 0, 0, code.number()]).await?;
    io.flush().await
}

/// The asking side, reading the answer.
#[derive(Debug)]
pub(super) struct Asked {
    io: Io,
    /// The beginning of what comes next, as far as it was read: a length, and a code where that is 0.
    head: [u8; 5],
    read: usize,
    /// Bytes left of the piece that is being read.
    left: usize,
    over: bool,
}

impl Asked {
    /// Sends a request.
    pub(super) async fn ask(substream: Substream, frame: &[u8]) -> io::Result<Self> {
        let io = Io::new(substream.io);
        io.write_all(frame).await?;
        io.flush().await?;
        Ok(Self { io, head: [0; 5], read: 0, left: 0, over: false })
    }

    /// The next bytes as they come; `None` after the end.
    pub(super) async fn chunk(&mut self, most: usize) -> Result<Option<Bytes>, StreamError> {
        let broken = |error: io::Error| StreamError::Overlay(error.kind());
        while self.left == 0 {
            if self.over {
                return Ok(None);
            }
            match self.head().await.map_err(broken)? {
                Head::Piece(len) => self.left = len,
                Head::End(0) => {
                    self.over = true;
                    // The other side counts what was taken; this one has it whatever comes of that.
                    if self.io.write_all(&[TAKEN]).await.is_ok() {
                        let _ = self.io.flush().await;
                    }
                }
                Head::End(code) => return Err(StreamError::Reset(code)),
            }
        }
        let mut bytes = BytesMut::zeroed(most.min(self.left).min(READ));
        let read = self.io.read(&mut bytes).await.map_err(broken)?;
        if read == 0 && most > 0 {
            return Err(StreamError::Overlay(io::ErrorKind::UnexpectedEof));
        }
        self.left = self.left.saturating_sub(read);
        bytes.truncate(read);
        Ok(Some(bytes.freeze()))
    }

    /// What comes next. Can be dropped and called again.
    async fn head(&mut self) -> io::Result<Head> {
        loop {
            let [a, b, c, d, code] = self.head;
            let len = u32::from_be_bytes([a, b, c, d]);
            let whole = match (self.read, len) {
                (5, _) => Some(Head::End(code)),
                (4, 1..) => Some(Head::Piece(usize::try_from(len).unwrap_or(usize::MAX))),
                _ => None,
            };
            if let Some(whole) = whole {
                self.read = 0;
                self.head = [0; 5];
                return Ok(whole);
            }
            // A code is read only after a length of 0.
            let upto = if self.read < 4 { 4 } else { 5 };
            let rest = self.head.get_mut(self.read..upto).unwrap_or_default();
            let read = self.io.read(rest).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.read += read;
        }
    }
}

enum Head {
    Piece(usize),
    End(u8),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::mesh::pipe;
    use libp2p::PeerId;
    use proptest::prelude::*;

    fn pair(buffer: usize) -> (Substream, Substream) {
        let peer = PeerId::random();
        let (near, far) = pipe(buffer);
        (Substream::new(peer, false, near), Substream::new(peer, false, far))
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    async fn all(asked: &mut Asked, most: usize) -> Result<Vec<u8>, StreamError> {
        let mut got = Vec::new();
        while let Some(bytes) = asked.chunk(most).await? {
            assert!(bytes.len() <= most);
            got.extend_from_slice(&bytes);
        }
        Ok(got)
    }

    proptest! {
        #[test]
        fn what_is_sent_arrives_in_order_and_its_end_is_acknowledged(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..12),
            (buffer, most) in (1usize..5000, 1usize..5000),
        ) {
            block_on(async {
                let (near, far) = pair(buffer);
                let (mut sender, mut receiver) = accepted(far);
                let asking = async {
                    let mut asked = Asked::ask(near, b"question").await.unwrap();
                    all(&mut asked, most).await.unwrap()
                };
                let answering = async {
                    let mut request = [0; 8];
                    receiver.read_exact(&mut request).await.unwrap();
                    assert_eq!(&request, b"question");
                    for piece in &pieces {
                        sender.write(&[piece.clone().into(), Bytes::new()]).await.unwrap();
                    }
                    sender.finish().await.unwrap();
                    sender.ended().await
                };
                let (got, ended) = futures::join!(asking, answering);
                assert_eq!((got, ended), (pieces.concat(), Ended::Taken));
            });
        }

        #[test]
        fn whatever_an_answerer_sends_the_asker_ends_and_holds_little(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            block_on(async {
                let (near, far) = pair(1000);
                let mut asked = Asked::ask(near, b"q").await.unwrap();
                let io = Io::new(far.io);
                io.write_all(&bytes).await.unwrap();
                drop(io);
                let _ = all(&mut asked, 100).await;
            });
        }
    }

    #[tokio::test]
    async fn a_reset_says_why_and_one_within_a_piece_cannot() {
        let (near, far) = pair(1000);
        let (mut sender, _receiver) = accepted(far);
        let mut asked = Asked::ask(near, b"q").await.unwrap();
        sender.write(&[Bytes::from_static(b"some")]).await.unwrap();
        sender.reset(Code::Busy);
        assert_eq!(asked.chunk(10).await.unwrap().unwrap(), "some");
        assert_eq!(asked.chunk(10).await, Err(StreamError::Reset(Code::Busy.number())));

        // A piece that does not fit and is given up.
        let (near, far) = pair(64);
        let (mut sender, receiver) = accepted(far);
        let mut asked = Asked::ask(near, b"q").await.unwrap();
        let piece = [Bytes::from(vec![7; 1000])];
        assert!(sender.write(&piece).now_or_never().is_none());
        sender.reset(Code::Limited);
        drop((sender, receiver));
        let error = all(&mut asked, 100).await.unwrap_err();
        assert_eq!(error, StreamError::Overlay(io::ErrorKind::UnexpectedEof));
    }

    #[tokio::test]
    async fn a_stream_that_is_dropped_is_no_end() {
        let (near, far) = pair(1000);
        let (mut sender, receiver) = accepted(far);
        let mut asked = Asked::ask(near, b"q").await.unwrap();
        sender.write(&[Bytes::from_static(b"some")]).await.unwrap();
        drop((sender, receiver));
        asked.chunk(10).await.unwrap().unwrap();
        let error = StreamError::Overlay(io::ErrorKind::UnexpectedEof);
        assert_eq!(asked.chunk(10).await, Err(error));
    }

    #[tokio::test]
    async fn an_asker_that_leaves_wants_no_more() {
        let (near, far) = pair(1000);
        let (sender, mut receiver) = accepted(far);
        let asked = Asked::ask(near, b"q").await.unwrap();
        receiver.read_exact(&mut [0]).await.unwrap();
        let ended = sender.ended();
        drop(asked);
        assert_eq!(ended.await, Ended::Gone);
    }
}
