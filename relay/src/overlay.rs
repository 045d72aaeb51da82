//! The overlay as a second way to other shard services.
//!
//! Not every node has an address at which its shard service is reached: behind a NAT the overlay's
//! own port may be mapped, punched or reached through a circuit, and the shard service's is not. The
//! same requests then go over streams of the overlay's connections.

use futures::{
    future::BoxFuture,
    io::{AsyncRead, AsyncWrite},
    stream::BoxStream,
};
use libp2p::PeerId;
use std::fmt;

/// Bytes both ways.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A stream to or from another node. It ends in both directions when it is dropped.
pub struct Substream {
    /// The node, as the overlay's connection proves it.
    pub peer: PeerId,
    /// Whether it goes through a third node, at whose cost it is.
    pub relayed: bool,
    pub(crate) io: Box<dyn Duplex>,
}

impl Substream {
    /// A stream to or from `peer`.
    pub fn new(
        peer: PeerId,
        relayed: bool,
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Self {
        Self { peer, relayed, io: Box::new(io) }
    }
}

impl fmt::Debug for Substream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { peer, relayed, .. } = self;
        f.debug_struct("Substream").field("peer", peer).field("relayed", relayed).finish()
    }
}

/// Why there is no stream to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The overlay is not running.
    #[error("the overlay is not running")]
    Down,
    /// As many streams as allowed are open or being opened.
    #[error("too many streams of the overlay are open")]
    Busy,
    /// No connection could be made.
    #[error("the overlay cannot reach it")]
    Unreachable,
    /// It serves no shards over the overlay.
    #[error("it serves no shards over the overlay")]
    NotOffered,
    /// The connection broke before there was a stream.
    #[error("the overlay's connection broke")]
    Broken,
    /// It took too long.
    #[error("no stream over the overlay in time")]
    Timeout,
}

/// Opens and takes streams of the overlay. How many there may be is its own to bound, and refused by
/// [`OpenError::Busy`].
pub trait Overlay: Send + Sync + 'static {
    /// Opens a stream to a node's shard service, finding and reaching the node first where there is
    /// no connection.
    fn open(&self, peer: PeerId) -> BoxFuture<'_, Result<Substream, OpenError>>;

    /// The streams that others open to this node's shard service. Whoever calls it last gets them;
    /// they are refused while nobody does.
    fn incoming(&self) -> BoxStream<'static, Substream>;
}
