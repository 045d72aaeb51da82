//! Connections to a node from an address of one's choice: TCP (Noise, Yamux) and QUIC.

use crate::args::{Target, Wire};
use futures::{FutureExt, future::BoxFuture};
use libp2p::{
    Multiaddr, PeerId, Transport as _,
    core::{
        Endpoint,
        muxing::StreamMuxerBox,
        transport::{Boxed, DialOpts, ListenerId, PortUse, TransportError, TransportEvent},
        upgrade::Version,
    },
    identity::Keypair,
    multiaddr::Protocol,
    noise, quic,
    tcp::tokio::TcpStream,
    yamux,
};
use std::{
    future::Pending,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{net::TcpSocket, time::timeout};

/// How long a dial and its handshake may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A connection as a transport makes it, and the transport: a QUIC endpoint lives as long as it.
pub(crate) struct Dialled {
    pub(crate) muxer: StreamMuxerBox,
    pub(crate) transport: Boxed<(PeerId, StreamMuxerBox)>,
}

/// Dials the target, from `source` if there is one.
///
/// # Errors
/// What refused it, by the system or by the other side, or that it took too long.
pub(crate) async fn dial(
    target: &Target,
    source: Option<IpAddr>,
    keypair: &Keypair,
) -> io::Result<Dialled> {
    let mut transport = match target.wire {
        Wire::Tcp => Bound { source }
            .upgrade(Version::V1Lazy)
            .authenticate(noise::Config::new(keypair).map_err(io::Error::other)?)
            .multiplex(yamux::Config::default())
            .boxed(),
        Wire::Quic => {
            let mut quic = quic::tokio::Transport::new(quic::Config::new(keypair));
            if let Some(source) = source {
                // It dials from what it listens on.
                let local = Multiaddr::from(source).with(Protocol::Udp(0)).with(Protocol::QuicV1);
                quic.listen_on(ListenerId::next(), local).map_err(io::Error::other)?;
            }
            quic.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer))).boxed()
        }
    };
    let opts = DialOpts { role: Endpoint::Dialer, port_use: PortUse::Reuse };
    let dialling = transport.dial(target.addr.clone(), opts).map_err(io::Error::other)?;
    let (peer, muxer) = timeout(TIMEOUT, dialling).await.map_err(|_| io::ErrorKind::TimedOut)??;
    if peer != target.peer {
        return Err(io::Error::other("another peer answers there"));
    }
    Ok(Dialled { muxer, transport })
}

/// TCP from a given source address and any port. libp2p's own transport binds to what it listens on,
/// with its port, so that no second connection could follow the first within a minute.
struct Bound {
    source: Option<IpAddr>,
}

impl libp2p::Transport for Bound {
    type Output = TcpStream;
    type Error = io::Error;
    /// Nothing listens.
    type ListenerUpgrade = Pending<io::Result<TcpStream>>;
    type Dial = BoxFuture<'static, io::Result<TcpStream>>;

    fn listen_on(
        &mut self,
        _: ListenerId,
        addr: Multiaddr,
    ) -> Result<(), TransportError<io::Error>> {
        Err(TransportError::MultiaddrNotSupported(addr))
    }

    fn remove_listener(&mut self, _: ListenerId) -> bool {
        false
    }

    fn dial(
        &mut self,
        addr: Multiaddr,
        _: DialOpts,
    ) -> Result<Self::Dial, TransportError<io::Error>> {
        let remote = socket_addr(&addr).ok_or(TransportError::MultiaddrNotSupported(addr))?;
        let source = self.source;
        Ok(async move {
            let socket = match remote {
                SocketAddr::V4(_) => TcpSocket::new_v4()?,
                SocketAddr::V6(_) => TcpSocket::new_v6()?,
            };
            if let Some(source) = source {
                socket.bind(SocketAddr::new(source, 0))?;
            }
            socket.set_nodelay(true)?;
            Ok(TcpStream(socket.connect(remote).await?))
        }
        .boxed())
    }

    fn poll(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        Poll::Pending
    }
}

/// The IP and port that an address begins with.
fn socket_addr(addr: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = addr.iter();
    let ip: IpAddr = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) | Protocol::Udp(port) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}
