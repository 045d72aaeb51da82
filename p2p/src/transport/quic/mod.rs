//! QUIC over quinn, the same on the wire as libp2p-quic: TLS 1.3 with libp2p's certificates, ALPN
//! `libp2p`, version 1, one bidirectional stream a substream. A client may migrate, which libp2p-quic
//! does not allow its clients.
//!
//! It is our own because libp2p-quic accepts every connection before anybody is asked, which is
//! most of a handshake: 560 us of CPU for one that is then refused (in a dev build), and the other
//! side takes itself for connected. Here the door is asked at the first packet, and a refusal is
//! one packet: 67 us in the same build, less than what TCP takes for accept and close. And while
//! connections come fast, whoever comes has to prove its address first (Retry, RFC 9000, 8.1.2), so
//! forged addresses use up nobody's rate and nobody's place. To dial as a listener is to punch a hole
//! ([`punch`]).

mod config;
mod listener;
mod muxer;
mod punch;

use self::{config::Settings, listener::Listener, muxer::Muxer, punch::Punches};
use crate::{Identity, Multiaddr, PeerId, RunError, connections::Door, nat::Sockets};
use futures::{FutureExt, future::BoxFuture};
use libp2p::{
    Transport,
    core::{
        Endpoint as Role,
        transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent},
    },
    multiaddr::Protocol,
};
use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};
use thiserror::Error;

/// The name that TLS wants and nobody checks: the certificate proves a PeerId, not a name.
const SERVER_NAME: &str = "l";

/// What can go wrong with a connection or a listener.
#[derive(Debug, Error)]
pub(super) enum Error {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Connect(#[from] quinn::ConnectError),
    #[error(transparent)]
    Connection(#[from] quinn::ConnectionError),
    #[error("the handshake timed out")]
    Timeout,
    #[error("the certificate proves no PeerId")]
    Identity,
}

impl From<Error> for TransportError<Error> {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

type Upgrade = BoxFuture<'static, Result<(PeerId, Muxer), Error>>;

pub(super) struct Quic {
    settings: Settings,
    handshake_timeout: Duration,
    door: Door,
    /// As many as the configuration has listen addresses.
    listeners: Vec<Listener>,
    /// Which listener is asked first, so that a busy one does not starve the others.
    first: usize,
    /// Endpoints that only dial, where no listener fits: one for IPv4, one for IPv6.
    dialers: [Option<quinn::Endpoint>; 2],
    punches: Punches,
    /// Addresses at TURN servers.
    sockets: Sockets,
    waker: Option<Waker>,
}

impl Quic {
    pub(super) fn new(
        identity: &Identity,
        handshake_timeout: Duration,
        door: Door,
        sockets: Sockets,
    ) -> Result<Self, RunError> {
        Ok(Self {
            settings: Settings::new(identity.keypair())?,
            handshake_timeout,
            door,
            listeners: Vec::new(),
            first: 0,
            dialers: [None, None],
            punches: Punches::default(),
            sockets,
            waker: None,
        })
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Punches a hole from a socket that listens, which is what the other side was told of.
    fn punch(&mut self, to: SocketAddr) -> Result<Upgrade, Error> {
        let listener = self.listeners.iter().find(|listener| listener.reaches(to));
        let socket = listener.and_then(Listener::socket).cloned();
        let socket = socket.ok_or(io::ErrorKind::AddrNotAvailable).map_err(io::Error::from)?;
        let came = self.punches.begin(to)?;
        Ok(punch::punch(socket, to, came, self.handshake_timeout).boxed())
    }

    /// From which socket to dial: one that listens, so that others see the port this node is
    /// reached at; else one that is kept for dialling.
    fn endpoint_to(&mut self, to: SocketAddr, reuse: bool) -> io::Result<quinn::Endpoint> {
        if self.sockets.goes_through(to) {
            let relayed = self.listeners.iter().find(|listener| listener.is_relayed_to(to));
            let listener = relayed.ok_or(io::ErrorKind::AddrNotAvailable)?;
            return Ok(listener.endpoint().clone());
        }
        if !reuse {
            return config::dialling(to);
        }
        if let Some(listener) = self.listeners.iter().find(|listener| listener.reaches(to)) {
            return Ok(listener.endpoint().clone());
        }
        let [v4, v6] = &mut self.dialers;
        let kept = if to.is_ipv4() { v4 } else { v6 };
        match kept {
            Some(endpoint) => Ok(endpoint.clone()),
            None => Ok(kept.insert(config::dialling(to)?).clone()),
        }
    }
}

impl Transport for Quic {
    type Output = (PeerId, Muxer);
    type Error = Error;
    type ListenerUpgrade = Upgrade;
    type Dial = Upgrade;

    fn listen_on(
        &mut self,
        id: ListenerId,
        addr: Multiaddr,
    ) -> Result<(), TransportError<Self::Error>> {
        let Some(socket) = socket_addr(&addr) else {
            return Err(TransportError::MultiaddrNotSupported(addr));
        };
        let listener = match self.sockets.take(socket) {
            Some(relayed) => {
                let endpoint = self.settings.relayed(relayed).map_err(Error::Io)?;
                Listener::relayed(id, endpoint).map_err(Error::Io)?
            }
            None => {
                let (endpoint, socket) = self.settings.listening(socket).map_err(Error::Io)?;
                Listener::new(id, endpoint, socket).map_err(Error::Io)?
            }
        };
        self.listeners.push(listener);
        self.wake();
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        let Some(listener) = self.listeners.iter_mut().find(|l| l.id() == id) else { return false };
        listener.close();
        self.wake();
        true
    }

    fn dial(
        &mut self,
        addr: Multiaddr,
        opts: DialOpts,
    ) -> Result<Self::Dial, TransportError<Self::Error>> {
        let to = socket_addr(&addr).filter(|to| to.port() != 0 && !to.ip().is_unspecified());
        let Some(to) = to else { return Err(TransportError::MultiaddrNotSupported(addr)) };
        if opts.role == Role::Listener {
            return Ok(self.punch(to)?);
        }
        let endpoint = self.endpoint_to(to, opts.port_use == PortUse::Reuse).map_err(Error::Io)?;
        let (client, limit) = (self.settings.client(), self.handshake_timeout);
        // Nothing is sent until somebody waits for it.
        Ok(async move { shake_hands(endpoint.connect_with(client, to, SERVER_NAME)?, limit).await }
            .boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        let this = &mut *self;
        this.listeners.retain(|listener| !listener.is_over());
        let listeners = this.listeners.len();
        for offset in 0..listeners {
            let at = (this.first + offset) % listeners;
            let Some(listener) = this.listeners.get_mut(at) else { continue };
            let (door, limit) = (&this.door, this.handshake_timeout);
            if let Poll::Ready(event) = listener.poll(door, &mut this.punches, limit, cx) {
                this.first = at + 1;
                return Poll::Ready(event);
            }
        }
        this.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

async fn shake_hands(
    connecting: quinn::Connecting,
    limit: Duration,
) -> Result<(PeerId, Muxer), Error> {
    let connection =
        tokio::time::timeout(limit, connecting).await.map_err(|_| Error::Timeout)??;
    let peer = peer_of(&connection).ok_or(Error::Identity)?;
    Ok((peer, Muxer::new(connection)))
}

/// The PeerId that the other end has proved.
fn peer_of(connection: &quinn::Connection) -> Option<PeerId> {
    let chain = connection.peer_identity()?;
    let chain = chain.downcast::<Vec<quinn::rustls::pki_types::CertificateDer<'static>>>().ok()?;
    Some(libp2p_tls::certificate::parse(chain.first()?).ok()?.peer_id())
}

/// `/ip4/../udp/../quic-v1`, with or without `/p2p/..`.
fn socket_addr(addr: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = addr.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    let (Protocol::Udp(port), Protocol::QuicV1) = (parts.next()?, parts.next()?) else {
        return None;
    };
    match (parts.next(), parts.next()) {
        (None | Some(Protocol::P2p(_)), None) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

fn multiaddr(socket: SocketAddr) -> Multiaddr {
    Multiaddr::from(socket.ip()).with(Protocol::Udp(socket.port())).with(Protocol::QuicV1)
}

/// Any address and port of the same family.
fn unspecified(like: SocketAddr) -> SocketAddr {
    match like {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Metrics, testnet};
    use futures::future::{join, poll_fn};
    use proptest::prelude::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// A transport that listens on loopback, who it is, and where.
    async fn listening(n: u8) -> (Quic, PeerId, Multiaddr) {
        let identity = Identity::from_secret([n; 32]).unwrap();
        let (keep, _) = tokio::sync::watch::channel(Vec::new());
        let metrics = Metrics::unregistered().unwrap();
        let door = Door::new(&testnet::config(), identity.peer_id(), vec![], keep, metrics);
        let mut quic = Quic::new(&identity, LIMIT, door, Sockets::default()).unwrap();
        let any = "/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap();
        quic.listen_on(ListenerId::next(), any).unwrap();
        let told = poll_fn(|cx| Pin::new(&mut quic).poll(cx)).await;
        let TransportEvent::NewAddress { listen_addr, .. } = told else { panic!("{told:?}") };
        (quic, identity.peer_id(), listen_addr)
    }

    /// Until something comes in that nobody waits for.
    async fn until_incoming(mut quic: Quic) {
        let coming = |event: &_| matches!(event, TransportEvent::Incoming { .. });
        while !coming(&poll_fn(|cx| Pin::new(&mut quic).poll(cx)).await) {}
    }

    fn opts(role: Role) -> DialOpts {
        DialOpts { role, port_use: PortUse::Reuse }
    }

    #[tokio::test]
    async fn who_punches_is_given_the_connection_that_comes_through_the_hole() {
        let (mut here, me, at_here) = listening(1).await;
        let (mut there, other, at_there) = listening(2).await;
        let punched = here.dial(at_there, opts(Role::Listener)).unwrap();
        let dialled = there.dial(at_here, opts(Role::Dialer)).unwrap();
        tokio::select! {
            (punched, dialled) = join(punched, dialled) => {
                assert_eq!(punched.unwrap().0, other);
                assert_eq!(dialled.unwrap().0, me);
            }
            () = until_incoming(here) => panic!("it was for who punches"),
            () = until_incoming(there) => panic!("nothing was dialled"),
        }
    }

    #[tokio::test]
    async fn a_hole_through_which_nobody_comes_is_given_up_in_time() {
        let (mut here, ..) = listening(1).await;
        here.handshake_timeout = Duration::from_millis(200);
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        silent.set_read_timeout(Some(LIMIT)).unwrap();
        let to = multiaddr(silent.local_addr().unwrap());
        let punched = here.dial(to.clone(), opts(Role::Listener)).unwrap();
        assert!(here.dial(to.clone(), opts(Role::Listener)).is_err(), "one at a time");
        assert!(matches!(punched.await, Err(Error::Timeout)));
        let mut datagram = [0; 8];
        assert_eq!(silent.recv(&mut datagram).unwrap(), 1, "what opens the hole");
        assert!(here.dial(to, opts(Role::Listener)).is_ok(), "it is over");
    }

    proptest! {
        #[test]
        fn addresses_are_read_as_they_are_written(ip: [u8; 16], v4: bool, port: u16) {
            let ip = if v4 { [ip[0], ip[1], ip[2], ip[3]].into() } else { ip.into() };
            let socket = SocketAddr::new(ip, port);
            prop_assert_eq!(socket_addr(&multiaddr(socket)), Some(socket));
            let peer = crate::identity::peer_id_of(&[1; 32]).unwrap();
            let named = multiaddr(socket).with(Protocol::P2p(peer));
            prop_assert_eq!(socket_addr(&named), Some(socket));
        }

        #[test]
        fn no_address_is_a_panic(bytes: Vec<u8>) {
            if let Ok(addr) = Multiaddr::try_from(bytes) {
                socket_addr(&addr);
            }
        }
    }

    #[test]
    fn what_is_not_quic_version_1_is_not_ours() {
        for text in [
            "/ip4/1.2.3.4/tcp/9000",
            "/ip4/1.2.3.4/udp/9000",
            "/ip4/1.2.3.4/udp/9000/quic",
            "/ip4/1.2.3.4/udp/9000/quic-v1/webtransport",
            "/dns/a.org/udp/9000/quic-v1",
            "/memory/1",
        ] {
            assert_eq!(socket_addr(&text.parse().unwrap()), None, "{text}");
        }
    }
}
