//! Dialling as a listener: a hole is punched into the NAT in front of this node, and the other side
//! connects through it (DCUtR, "QUIC hole punching").

use super::{Error, Muxer, shake_hands};
use crate::PeerId;
use quinn::Connecting;
use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};
use tokio::sync::oneshot;

/// Holes that are punched at the same time: 64 * 100 bytes. Each is one address of a peer that this
/// node has a relayed connection to.
const MAX_PUNCHES: usize = 64;

/// What is sent. It is no QUIC packet, so the other side drops it without an answer.
const NOTHING: [u8; 1] = [0];

/// How often. libp2p-quic waits 10 to 200 ms; a NAT keeps a mapping for 30 s at least, so all but the
/// first are against loss and against a peer that begins later.
const EVERY: Duration = Duration::from_millis(100);

/// Connections that come in from these addresses are for whoever punches the hole.
#[derive(Default)]
pub(super) struct Punches(HashMap<SocketAddr, oneshot::Sender<Connecting>>);

impl Punches {
    /// Waits for a connection from there. Fails if somebody does already, or too many do.
    pub(super) fn begin(&mut self, from: SocketAddr) -> io::Result<oneshot::Receiver<Connecting>> {
        self.0.retain(|_, waits| !waits.is_closed());
        if self.0.contains_key(&from) || self.0.len() >= MAX_PUNCHES {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "holes are punched already"));
        }
        let (sender, receiver) = oneshot::channel();
        self.0.insert(from, sender);
        Ok(receiver)
    }

    /// Gives a connection to who waits for it; back if nobody does.
    pub(super) fn take(&mut self, from: SocketAddr, connecting: Connecting) -> Option<Connecting> {
        match self.0.remove(&from) {
            Some(waits) => waits.send(connecting).err(),
            None => Some(connecting),
        }
    }
}

/// Punches until the other side comes, and shakes hands with it.
pub(super) async fn punch(
    socket: Arc<UdpSocket>,
    to: SocketAddr,
    came: oneshot::Receiver<Connecting>,
    limit: Duration,
) -> Result<(PeerId, Muxer), Error> {
    let begun = tokio::time::Instant::now();
    let mut every = tokio::time::interval(EVERY);
    let knock = async {
        loop {
            every.tick().await;
            // What is not sent now is sent the next time.
            let _ = socket.send_to(&NOTHING, to);
        }
    };
    tokio::select! {
        came = came => {
            let connecting = came.map_err(|_| Error::Timeout)?;
            shake_hands(connecting, limit.saturating_sub(begun.elapsed())).await
        }
        () = knock => Err(Error::Timeout),
        () = tokio::time::sleep(limit) => Err(Error::Timeout),
    }
}
