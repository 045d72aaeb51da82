//! The way to a TURN server: datagrams, or frames on a stream.

use super::{
    config::Carrier,
    frame::{Cutter, NoFrame},
    message::MAX_BYTES,
    outcome::Outcome,
};
use std::{
    collections::VecDeque,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};
use tokio::{
    io::Interest,
    net::{TcpStream, UdpSocket},
    time::timeout,
};

/// Reads in one go before anything else gets its turn: a flood must not keep this node from sending.
const READS_IN_ONE_GO: usize = 64;

/// Bytes that wait on a stream until no more datagrams are taken for it. What is asked of the server
/// waits beyond that: 230 KB at most.
const MAX_WAITING: usize = 64 << 10;

/// One socket. Beside the kernel's buffers it holds 4 KB, over a stream 64 KB more.
#[derive(Debug)]
pub(super) enum Link {
    Udp { socket: UdpSocket, server: SocketAddr },
    Tcp { stream: TcpStream, cutter: Cutter, waiting: VecDeque<u8> },
}

/// What a link has brought.
pub(super) enum Came<'a> {
    /// A datagram of the server, or a frame of its stream.
    Bytes(&'a [u8]),
    /// A datagram of somebody else.
    Stranger,
}

impl Link {
    /// Binds, or connects.
    pub(super) async fn open(
        carrier: Carrier,
        server: SocketAddr,
        limit: Duration,
    ) -> Result<Self, Outcome> {
        let opened = match carrier {
            Carrier::Udp => bind(server).await.map(|socket| Self::Udp { socket, server }),
            Carrier::Tcp => {
                let connected = timeout(limit, TcpStream::connect(server)).await;
                let stream = connected.map_err(|_| Outcome::Timeout)?;
                stream.and_then(|stream| {
                    // QUIC paces itself.
                    stream.set_nodelay(true)?;
                    Ok(Self::Tcp { stream, cutter: Cutter::default(), waiting: VecDeque::new() })
                })
            }
        };
        opened.map_err(|error| {
            tracing::debug!(%server, %error, "no way to a TURN server");
            Outcome::Unreachable
        })
    }

    /// Whether another datagram can be taken.
    pub(super) fn has_room(&self) -> bool {
        match self {
            Self::Udp { .. } => true,
            Self::Tcp { waiting, .. } => waiting.len() < MAX_WAITING,
        }
    }

    /// Sends, or lets it wait for the stream. Whether it was taken: the kernel may have no room for a
    /// datagram.
    pub(super) fn send(&mut self, bytes: &[u8]) -> bool {
        match self {
            Self::Udp { socket, server } => socket.try_send_to(bytes, *server).is_ok(),
            Self::Tcp { waiting, .. } => {
                waiting.extend(bytes);
                true
            }
        }
    }

    /// Waits until there is something to read, or room to write what waits. Safe to drop.
    pub(super) async fn ready(&self) -> io::Result<()> {
        match self {
            Self::Udp { socket, .. } => socket.readable().await,
            Self::Tcp { stream, waiting, .. } => {
                let interest = match waiting.is_empty() {
                    true => Interest::READABLE,
                    false => Interest::READABLE | Interest::WRITABLE,
                };
                stream.ready(interest).await.map(drop)
            }
        }
    }

    /// Writes what waits, as far as there is room.
    pub(super) fn flush(&mut self) -> Result<(), Outcome> {
        let Self::Tcp { stream, waiting, .. } = self else { return Ok(()) };
        while !waiting.is_empty() {
            let (bytes, _) = waiting.as_slices();
            match stream.try_write(bytes) {
                Ok(0) => return Err(Outcome::Unreachable),
                Ok(written) => drop(waiting.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(Outcome::Unreachable),
            }
        }
        Ok(())
    }

    /// Hands out what is there; the reason if nothing more will ever come.
    pub(super) fn read(&mut self, mut take: impl FnMut(Came<'_>)) -> Result<(), Outcome> {
        // One byte more than is read tells a datagram that is too long.
        let mut buffer = [0; MAX_BYTES + 1];
        for _ in 0..READS_IN_ONE_GO {
            match self {
                // An error is an ICMP message, or that nothing is left.
                Self::Udp { socket, server } => match socket.try_recv_from(&mut buffer) {
                    Ok((length, from)) if from == *server => {
                        take(Came::Bytes(buffer.get(..length).unwrap_or_default()));
                    }
                    Ok(_) => take(Came::Stranger),
                    Err(_) => return Ok(()),
                },
                Self::Tcp { stream, cutter, .. } => match stream.try_read(&mut buffer) {
                    Ok(0) => return Err(Outcome::Unreachable),
                    Ok(length) => {
                        cutter.put(buffer.get(..length).unwrap_or_default());
                        loop {
                            match cutter.take() {
                                Ok(Some(frame)) => take(Came::Bytes(frame)),
                                Ok(None) => break,
                                Err(NoFrame::Malformed | NoFrame::Oversized) => {
                                    return Err(Outcome::Malformed);
                                }
                            }
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(_) => return Err(Outcome::Unreachable),
                },
            }
        }
        Ok(())
    }
}

/// A socket on any port that reaches `to`.
async fn bind(to: SocketAddr) -> io::Result<UdpSocket> {
    match to {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await,
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).await,
    }
}
