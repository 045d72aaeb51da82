//! The transport: QUIC and TCP (Noise, Yamux) behind DNS, or the in-process one for tests.
//!
//! Whichever it is, a peer may be reached through a relay over it as well.
//!
//! Three things happen to every connection here and nowhere else: what comes in is refused by its
//! address before it costs a handshake ([`gate`]); an address that the policy does not allow or
//! that is banned is never dialled, whoever suggested it (kad and DNS suggest what strangers tell
//! them); and the bytes of all streams are counted.

mod counted;
mod gate;
mod quic;

use self::{
    counted::{CountedMuxer, Counters},
    gate::Gate,
    quic::Quic,
};
use crate::{
    AddressPolicy, Config, Identity, Metrics, Multiaddr, PeerId, RunError,
    address::{ip_of, without_peer},
    connections::Door,
    nat::{Sockets, relay::Circuits, strategies},
    peers::budget::{Budget, Spent},
};
use libp2p::{
    Transport as _,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, DialOpts, ListenerId, MemoryTransport, TransportError, TransportEvent},
        upgrade::Version,
    },
    dns, noise, relay, tcp, yamux,
};
use prometheus_endpoint::{Counter, U64};
use std::{
    collections::HashSet,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

/// How long a handshake may take, in either direction.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

type Connection = (PeerId, StreamMuxerBox);

/// The transport that the configuration asks for: in-process if all listen addresses are
/// `/memory/...`, the network otherwise.
///
/// The second is the half that a behaviour has to be of the transport through relays.
pub(crate) fn build(
    config: &Config,
    identity: &Identity,
    door: &Door,
    paths: &strategies::Shared,
    sockets: &Sockets,
    metrics: &Metrics,
) -> Result<(Boxed<Connection>, relay::client::Behaviour), RunError> {
    let in_process = config
        .listen
        .iter()
        .all(|a| matches!(a.iter().next(), Some(libp2p::multiaddr::Protocol::Memory(_))));
    let noise = noise::Config::new(identity.keypair())
        .map_err(|source| RunError::Setup { what: "encryption", source: Box::new(source) })?;
    let guard = |inner| Guard {
        inner,
        policy: config.address_policy,
        door: door.clone(),
        exempt: Arc::new(config.bootstrap.bootnodes.iter().map(without_peer).collect()),
        budget: Budget::new(config.peers.dials_per_ip, config.address_policy),
        denied: metrics.dials_denied.with_label_values(&[Spent::LABEL]),
    };
    let (circuits, relays) = relay::client::new(identity.peer_id());
    let circuits = {
        let counter = |way| metrics.nat.circuit_bytes.with_label_values(&[way]);
        let (sent, received) = (counter("sent"), counter("received"));
        Circuits::new(circuits, config.address_policy, door.clone(), sent, received)
            .upgrade(Version::V1Lazy)
            .authenticate(noise.clone())
            .multiplex(yamux::Config::default())
            .timeout(HANDSHAKE_TIMEOUT)
            .boxed()
    };
    let transport = if in_process {
        let memory = Gate::new(MemoryTransport::new(), door.clone())
            .upgrade(Version::V1Lazy)
            .authenticate(noise)
            .multiplex(yamux::Config::default())
            .timeout(HANDSHAKE_TIMEOUT)
            .boxed();
        guard(memory).boxed()
    } else {
        let network = || -> Result<Boxed<Connection>, RunError> {
            let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
            let tcp = Gate::new(tcp, door.clone())
                .map(|stream, _| {
                    notice_silence(&stream.0);
                    stream
                })
                .upgrade(Version::V1Lazy)
                .authenticate(noise.clone())
                .multiplex(yamux::Config::default())
                .timeout(HANDSHAKE_TIMEOUT)
                .boxed();
            let quic = Quic::new(identity, HANDSHAKE_TIMEOUT, door.clone(), sockets.clone())?
                .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
            Ok(quic
                .or_transport(tcp)
                .map(|either, _| match either {
                    futures::future::Either::Left(connection)
                    | futures::future::Either::Right(connection) => connection,
                })
                .boxed())
        };
        match dns::tokio::Transport::system(guard(network()?)) {
            Ok(transport) => transport.boxed(),
            // Containers without a resolver configuration still reach addresses given as numbers.
            Err(error) => {
                tracing::warn!(%error, "no system resolver: overlay addresses with DNS names will not work");
                guard(network()?).boxed()
            }
        }
    };
    let transport = circuits.or_transport(transport).map(|either, _| match either {
        futures::future::Either::Left(connection) | futures::future::Either::Right(connection) => {
            connection
        }
    });
    let transport = strategies::Paced::new(transport.boxed(), paths.clone());
    let counters = Counters {
        sent: metrics.bytes_sent.clone(),
        received: metrics.bytes_received.clone(),
        carried: metrics.nat.relay_bytes.clone(),
    };
    // Closing all at shutdown is bounded by `close_timeout`, so one has to be quicker.
    let limit = config.close_timeout / 2;
    let transport = transport.map(move |(peer, inner), _| {
        (peer, StreamMuxerBox::new(CountedMuxer::new(inner, counters, limit)))
    });
    Ok((transport.boxed(), relays))
}

/// Silence on a TCP connection after which the kernel asks whether anybody is there, and how long it
/// waits for an acknowledgement, of that or of data: the same as over QUIC. Without them a connection
/// to a peer that has vanished stays for a quarter of an hour, if this node sends anything, and for
/// ever otherwise.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(4);
const TCP_UNACKNOWLEDGED: Duration = Duration::from_secs(8);

/// Has the kernel give up a connection whose other end is silent. One for which it cannot is as good
/// as before.
fn notice_silence(stream: &tokio::net::TcpStream) {
    let socket = socket2::SockRef::from(stream);
    let keep_alive = socket2::TcpKeepalive::new()
        .with_time(TCP_KEEP_ALIVE)
        .with_interval(TCP_KEEP_ALIVE)
        .with_retries(1);
    let kept = socket.set_tcp_keepalive(&keep_alive);
    #[cfg(target_os = "linux")]
    let kept = kept.and_then(|()| socket.set_tcp_user_timeout(Some(TCP_UNACKNOWLEDGED)));
    #[cfg(not(target_os = "linux"))]
    let _ = TCP_UNACKNOWLEDGED;
    if let Err(error) = kept {
        tracing::debug!(%error, "the kernel does not watch this connection");
    }
}

/// Refuses to dial what the policy does not allow, an IP that was dialled too often of late, and what
/// is banned. Addresses the operator configured are exempt from the first two.
struct Guard {
    inner: Boxed<Connection>,
    policy: AddressPolicy,
    door: Door,
    exempt: Arc<HashSet<Multiaddr>>,
    budget: Budget,
    denied: Counter<U64>,
}

impl libp2p::Transport for Guard {
    type Output = Connection;
    type Error = io::Error;
    type ListenerUpgrade = <Boxed<Connection> as libp2p::Transport>::ListenerUpgrade;
    type Dial = <Boxed<Connection> as libp2p::Transport>::Dial;

    fn listen_on(
        &mut self,
        id: ListenerId,
        addr: Multiaddr,
    ) -> Result<(), TransportError<io::Error>> {
        self.inner.listen_on(id, addr)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        addr: Multiaddr,
        opts: DialOpts,
    ) -> Result<Self::Dial, TransportError<io::Error>> {
        if !self.exempt.contains(&without_peer(&addr)) {
            if !self.policy.allows(&addr) {
                return Err(TransportError::MultiaddrNotSupported(addr));
            }
            if let Err(spent) = self.budget.take(&addr, Instant::now()) {
                self.denied.inc();
                return Err(TransportError::Other(io::Error::other(spent)));
            }
        }
        if ip_of(&addr).is_some_and(|ip| !self.door.reachable(ip)) {
            let banned = io::Error::new(io::ErrorKind::PermissionDenied, "the address is banned");
            return Err(TransportError::Other(banned));
        }
        self.inner.dial(addr, opts)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}
