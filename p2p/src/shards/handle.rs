//! The handle through which streams for the shard service are opened and taken.

use super::{Config, counts::Place};
use crate::{Closed, Metrics, PeerId};
use futures::{AsyncRead, AsyncWrite};
use libp2p::Stream;
use prometheus_endpoint::{Counter, U64};
use std::{
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};
use thiserror::Error;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

/// A stream to or from a peer's shard service. It keeps its connection open.
pub struct Substream {
    /// The peer, as the connection proves it.
    pub peer: PeerId,
    /// Whether it goes through a circuit of a third node.
    pub relayed: bool,
    stream: Stream,
    /// Counts while it is open.
    _place: Place,
}

impl Substream {
    pub(super) fn new(peer: PeerId, relayed: bool, stream: Stream, place: Place) -> Self {
        Self { peer, relayed, stream, _place: place }
    }
}

impl fmt::Debug for Substream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { peer, relayed, .. } = self;
        f.debug_struct("Substream").field("peer", peer).field("relayed", relayed).finish()
    }
}

impl AsyncRead for Substream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Substream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

/// Why there is no stream to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    /// As many streams as allowed are open, or too many calls wait.
    #[error("too many streams for shards are open")]
    Busy,
    /// No connection could be made.
    #[error("the peer cannot be reached")]
    Unreachable,
    /// The peer serves no shards over the overlay.
    #[error("the peer serves no shards over the overlay")]
    NotOffered,
    /// The connection broke before there was a stream.
    #[error("the connection to the peer broke")]
    Broken,
    /// It took too long.
    #[error("no stream to the peer in time")]
    Timeout,
    /// The overlay is not running.
    #[error(transparent)]
    Closed(#[from] Closed),
}

pub(crate) type Answer = oneshot::Sender<Result<Substream, OpenError>>;

/// What the handle asks of the driver.
pub(crate) enum Command {
    Open { peer: PeerId, answer: Answer },
}

/// Who takes the streams that others open, if anybody does.
#[derive(Clone, Default)]
pub(crate) struct Offer(Arc<Mutex<Option<mpsc::Sender<Substream>>>>);

impl Offer {
    fn set(&self, taker: mpsc::Sender<Substream>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(taker);
    }

    /// Whoever takes them now.
    pub(super) fn taker(&self) -> Option<mpsc::Sender<Substream>> {
        let taker = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        taker.filter(|taker| !taker.is_closed())
    }
}

/// What the driver has of the handle.
pub(crate) struct Ends {
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) offer: Offer,
}

/// Opens and takes streams for the shard service. Cheap to clone.
#[derive(Clone)]
pub struct ShardsHandle {
    commands: mpsc::Sender<Command>,
    offer: Offer,
    queue: usize,
    within: Duration,
    refused: Counter<U64>,
}

pub(crate) fn channel(config: &Config, commands: usize, metrics: &Metrics) -> (ShardsHandle, Ends) {
    let (sender, receiver) = mpsc::channel(commands);
    let offer = Offer::default();
    let handle = ShardsHandle {
        commands: sender,
        offer: offer.clone(),
        queue: config.queue,
        within: config.open_timeout,
        refused: metrics.commands_refused.with_label_values(&["shards"]),
    };
    (handle, Ends { commands: receiver, offer })
}

impl ShardsHandle {
    /// Opens a stream to a peer's shard service. Finds and dials the peer if it is not connected.
    ///
    /// # Errors
    /// See [`OpenError`]; within `shards.open_timeout`.
    pub async fn open(&self, peer: PeerId) -> Result<Substream, OpenError> {
        let (answer, answered) = oneshot::channel();
        self.commands.try_send(Command::Open { peer, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                self.refused.inc();
                OpenError::Busy
            }
            mpsc::error::TrySendError::Closed(_) => Closed.into(),
        })?;
        match timeout(self.within, answered).await {
            Ok(Ok(opened)) => opened,
            // Whoever was to open it went with its connection, or with the overlay.
            Ok(Err(_)) if self.commands.is_closed() => Err(Closed.into()),
            Ok(Err(_)) => Err(OpenError::Broken),
            Err(_) => Err(OpenError::Timeout),
        }
    }

    /// The streams that others open to this node, from now on: at most `shards.queue` wait. Whoever
    /// calls it last gets them. The protocol is offered while the receiver is there.
    pub fn serve(&self) -> mpsc::Receiver<Substream> {
        let (taker, taken) = mpsc::channel(self.queue);
        self.offer.set(taker);
        taken
    }
}
