//! The relayed address as a socket for QUIC, and the way by which it comes to the transport.
//!
//! A loopback shim, a UDP socket for each peer that QUIC would talk to at 127.0.0.1, would need nothing
//! of the transport. But all peers would then seem to be at 127.0.0.1: identify, the directory, AutoNAT
//! and the limits by address would have to be told otherwise, each for itself, and each datagram would
//! cost two more system calls. The overlay's QUIC is a transport of our own anyway, so the allocation is
//! a socket of its endpoint, and peers are where the server says that they are.

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use std::{
    collections::VecDeque,
    fmt,
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_util::sync::PollSender;

use super::event::Delivery;

/// Addresses that are dialled from the relayed one, the oldest leaving first: 32 bytes each.
const MAX_THROUGH: usize = 64;

/// A datagram for an address.
#[derive(Debug)]
pub(super) struct Datagram {
    pub(super) to: SocketAddr,
    pub(super) payload: Vec<u8>,
}

/// The worker's ends of a socket.
pub(super) struct Ends {
    pub(super) outgoing: mpsc::Receiver<Datagram>,
    pub(super) incoming: mpsc::Sender<Delivery>,
}

/// The relayed address as a socket: two queues, as long as the configuration says. When the allocation
/// ends nothing comes any more, and what is sent is dropped, as with any other path that is gone.
pub(crate) struct Relayed {
    local: SocketAddr,
    outgoing: mpsc::Sender<Datagram>,
    incoming: Mutex<mpsc::Receiver<Delivery>>,
}

impl fmt::Debug for Relayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relayed").field("local", &self.local).finish_non_exhaustive()
    }
}

impl Relayed {
    /// The socket of this relayed address, and the worker's ends of it.
    pub(super) fn new(local: SocketAddr, queue: usize) -> (Self, Ends) {
        let (send, outgoing) = mpsc::channel(queue);
        let (incoming, receive) = mpsc::channel(queue);
        let socket = Self { local, outgoing: send, incoming: Mutex::new(receive) };
        (socket, Ends { outgoing, incoming })
    }
}

impl AsyncUdpSocket for Relayed {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller(PollSender::new(self.outgoing.clone())))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        match self.outgoing.try_reserve() {
            Ok(room) => {
                room.send(Datagram {
                    to: transmit.destination,
                    payload: transmit.contents.to_vec(),
                });
                Ok(())
            }
            Err(TrySendError::Full(())) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TrySendError::Closed(())) => Ok(()),
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        let mut places = bufs.iter_mut().zip(meta);
        let Some(mut place) = places.next() else { return Poll::Ready(Ok(0)) };
        loop {
            let Delivery { from, payload } = match incoming.poll_recv(cx) {
                Poll::Ready(Some(delivery)) => delivery,
                // The allocation is over; the endpoint is closed by whoever hears of that.
                Poll::Ready(None) | Poll::Pending if count == 0 => return Poll::Pending,
                Poll::Ready(None) | Poll::Pending => return Poll::Ready(Ok(count)),
            };
            let length = payload.len();
            // Longer than QUIC reads: no datagram of it.
            let Some(room) = place.0.get_mut(..length) else { continue };
            room.copy_from_slice(&payload);
            *place.1 =
                RecvMeta { addr: from, len: length, stride: length, ecn: None, dst_ip: None };
            count += 1;
            match places.next() {
                Some(next) => place = next,
                None => return Poll::Ready(Ok(count)),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }
}

struct Poller(PollSender<Datagram>);

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Poller")
    }
}

impl UdpPoller for Poller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // An error says that the allocation is over, and then everything is taken and dropped.
        let _ = ready!(self.0.poll_reserve(cx));
        self.0.abort_send();
        Poll::Ready(Ok(()))
    }
}

/// What the transport knows of allocations. Cheap to clone; the lock is held for a look and never over
/// an await.
#[derive(Clone, Default)]
pub(crate) struct Sockets(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// A socket that is to be listened on.
    offered: Option<Relayed>,
    /// Addresses that are reached from the relayed address and no other.
    through: VecDeque<SocketAddr>,
}

impl Sockets {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in there panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new allocation, in place of the one before.
    pub(super) fn offer(&self, socket: Relayed) {
        self.lock().offered = Some(socket);
    }

    /// The allocation is over.
    pub(super) fn withdraw(&self) {
        *self.lock() = State::default();
    }

    /// The socket of this relayed address, once.
    pub(crate) fn take(&self, at: SocketAddr) -> Option<Relayed> {
        self.lock().offered.take_if(|socket| socket.local == at)
    }

    /// From here on this address is dialled from the relayed one.
    pub(super) fn go_through(&self, to: SocketAddr) {
        let through = &mut self.lock().through;
        through.retain(|known| *known != to);
        if through.len() >= MAX_THROUGH {
            through.pop_front();
        }
        through.push_back(to);
    }

    /// Whether this address is dialled from the relayed one.
    pub(crate) fn goes_through(&self, to: SocketAddr) -> bool {
        self.lock().through.contains(&to)
    }
}
