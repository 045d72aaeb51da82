//! The overlay as the shard service's other way to and from nodes.
//!
//! Either service may be rebuilt at any time: streams are opened on whatever overlay runs, and taken
//! from each that starts.

use futures::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use libp2p::PeerId;
use nsn_p2p::{Overlay, shards};
use nsn_relay::{OpenError, Substream};
use tokio::sync::{mpsc, watch};

use super::Slot;

/// Opens and takes streams of the overlay. Cheap to clone.
#[derive(Clone)]
pub(super) struct Substreams {
    overlay: Slot<Overlay>,
}

impl Substreams {
    pub(super) fn new(overlay: Slot<Overlay>) -> Self {
        Self { overlay }
    }
}

impl nsn_relay::Overlay for Substreams {
    fn open(&self, peer: PeerId) -> BoxFuture<'_, Result<Substream, OpenError>> {
        let overlay = self.overlay.current();
        async move {
            let overlay = overlay.ok_or(OpenError::Down)?;
            overlay.shards.open(peer).await.map(taken).map_err(not_opened)
        }
        .boxed()
    }

    fn incoming(&self) -> BoxStream<'static, Substream> {
        let mut slot = self.overlay.watch();
        slot.mark_changed();
        let from = Incoming { slot, streams: None, _overlay: self.overlay.clone() };
        stream::unfold(from, next).boxed()
    }
}

/// Where the streams come from: those of the overlay that runs.
struct Incoming {
    slot: watch::Receiver<Option<Overlay>>,
    streams: Option<mpsc::Receiver<shards::Substream>>,
    /// Keeps the slot open: whoever takes the streams may hold nothing else of it.
    _overlay: Slot<Overlay>,
}

/// The next stream.
async fn next(mut from: Incoming) -> Option<(Substream, Incoming)> {
    loop {
        let came = async {
            match &mut from.streams {
                Some(streams) => streams.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            came = came => match came {
                Some(stream) => return Some((taken(stream), from)),
                // Somebody else takes them, or the overlay is gone.
                None => from.streams = None,
            },
            changed = from.slot.changed() => {
                changed.ok()?;
                let overlay = from.slot.borrow_and_update().clone();
                from.streams = overlay.map(|overlay| overlay.shards.serve());
            }
        }
    }
}

fn taken(stream: shards::Substream) -> Substream {
    Substream::new(stream.peer, stream.relayed, stream)
}

fn not_opened(error: shards::OpenError) -> OpenError {
    match error {
        shards::OpenError::Busy => OpenError::Busy,
        shards::OpenError::Unreachable => OpenError::Unreachable,
        shards::OpenError::NotOffered => OpenError::NotOffered,
        shards::OpenError::Broken => OpenError::Broken,
        shards::OpenError::Timeout => OpenError::Timeout,
        shards::OpenError::Closed(_) => OpenError::Down,
    }
}

#[cfg(test)]
mod tests;
