//! An overlay in memory, for shard services that reach each other over it.

use crate::{
    BlobId, OpenError, Overlay, Source, Substream,
    sync::lock,
    tests::world::Node,
    wire::{
        Asked, Carrier, Code, Encoding, ExchangeError, ReadExact, ReadFrameError, Request,
        Response, encode_frame, read_frame,
    },
};
use futures::{
    AsyncRead, AsyncWrite, AsyncWriteExt as _, FutureExt, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use libp2p::{PeerId, identity::Keypair};
use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead as _, AsyncWrite as _, DuplexStream, ReadBuf},
    sync::mpsc,
    task::JoinSet,
};

/// One end of a pipe, as the overlay's streams are.
pub(crate) struct Pipe(DuplexStream);

/// Both ends of a pipe that holds so many bytes each way.
pub(crate) fn pipe(buffer: usize) -> (Pipe, Pipe) {
    let (near, far) = tokio::io::duplex(buffer);
    (Pipe(near), Pipe(far))
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(into);
        ready!(Pin::new(&mut self.0).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

pub(crate) type Doors = HashMap<PeerId, mpsc::Sender<Substream>>;

/// Who can be reached.
#[derive(Clone, Default)]
pub(crate) struct Mesh {
    pub(crate) doors: Arc<Mutex<Doors>>,
    /// Whether all streams go through a third node.
    relayed: bool,
}

impl Mesh {
    pub(crate) fn through_circuits() -> Self {
        Self { relayed: true, ..Self::default() }
    }

    /// The overlay as one node has it.
    pub(crate) fn of(&self, us: PeerId) -> Member {
        Member { mesh: self.clone(), us }
    }

    fn join(&self, peer: PeerId) -> mpsc::Receiver<Substream> {
        let (door, opened) = mpsc::channel(64);
        lock(&self.doors).insert(peer, door);
        opened
    }

    pub(crate) fn leave(&self, peer: PeerId) {
        lock(&self.doors).remove(&peer);
    }

    pub(crate) fn open(&self, from: PeerId, to: PeerId) -> Result<Substream, OpenError> {
        let (near, far) = pipe(64 * 1024);
        let door = lock(&self.doors).get(&to).cloned().ok_or(OpenError::Unreachable)?;
        let opened = door.try_send(Substream::new(from, self.relayed, far));
        opened.map_err(|_| OpenError::NotOffered)?;
        Ok(Substream::new(to, self.relayed, near))
    }
}

/// A node of the overlay.
pub(crate) struct Member {
    mesh: Mesh,
    us: PeerId,
}

impl Overlay for Member {
    fn open(&self, peer: PeerId) -> BoxFuture<'_, Result<Substream, OpenError>> {
        std::future::ready(self.mesh.open(self.us, peer)).boxed()
    }

    fn incoming(&self) -> BoxStream<'static, Substream> {
        let opened = self.mesh.join(self.us);
        let next = |mut opened: mpsc::Receiver<Substream>| async {
            opened.recv().await.map(|substream| (substream, opened))
        };
        stream::unfold(opened, next).boxed()
    }
}

/// Asks a node over the overlay as somebody.
pub(crate) struct Asker {
    mesh: Mesh,
    pub(crate) us: PeerId,
    pub(crate) node: PeerId,
}

impl Asker {
    pub(crate) fn of(mesh: &Mesh, node: &Node) -> Self {
        Self { mesh: mesh.clone(), us: PeerId::random(), node: node.relay.peer_id() }
    }
}

impl Carrier for Asker {
    async fn send(&self, frame: &[u8]) -> Result<Asked, ExchangeError> {
        let opened = self.mesh.open(self.us, self.node);
        let opened = opened.map_err(|_| ExchangeError::Overlay(io::ErrorKind::NotConnected))?;
        Asked::over(opened, frame).await.map_err(ExchangeError::Overlay)
    }
}

/// A source of a test's own making that is reached over the overlay alone.
pub(crate) struct Puppet {
    pub(crate) source: Source,
    _running: JoinSet<()>,
}

impl Puppet {
    /// Answers each request with `answer`, which gets the stream after the request was read.
    pub(crate) fn start<F>(
        mesh: &Mesh,
        answer: impl Fn(Request, Raw) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let peer = Keypair::generate_ed25519().public().to_peer_id();
        let mut opened = mesh.join(peer);
        let mut running = JoinSet::new();
        running.spawn(async move {
            let mut streams = JoinSet::new();
            while let Some(substream) = opened.recv().await {
                let mut raw = Raw(substream);
                let request = read_frame(&mut raw).await.unwrap();
                streams.spawn(answer(request, raw));
            }
        });
        let source = Source { peer, addrs: vec![], seeder_score: Some(900), load: None };
        Self { source, _running: running }
    }
}

/// A substream without what makes it whole.
pub(crate) struct Raw(Substream);

impl ReadExact for Raw {
    async fn read_exact(&mut self, into: &mut [u8]) -> Result<(), ReadFrameError> {
        futures::AsyncReadExt::read_exact(&mut self.0.io, into).await.unwrap();
        Ok(())
    }
}

impl Raw {
    pub(crate) async fn piece(&mut self, bytes: &[u8]) {
        let len = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        let _ = self.0.io.write_all(&[&len, bytes].concat()).await;
    }

    pub(crate) async fn header(&mut self, header: &Response) {
        self.piece(&encode_frame(header).unwrap()).await;
    }

    pub(crate) async fn end(&mut self, code: Code) {
        let _ = self.0.io.write_all(&[0, 0, 0, 0, code.number()]).await;
        let _ = self.0.io.flush().await;
    }
}

/// A blob, the bytes of it, and how they are to be sent.
type Got = (BlobId, Option<(u64, u64)>, Encoding);

/// What a request asks for.
pub(crate) fn got(request: &Request) -> Option<Got> {
    match request {
        Request::Get { id, range, encoding, .. } => Some((*id, *range, *encoding)),
        _ => None,
    }
}
