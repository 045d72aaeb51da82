//! Sockets, TLS and QUIC settings, for both sides of a shard connection.
//!
//! Certificates carry the libp2p TLS extension, so a connection proves the `PeerId` of both ends.
//! The crypto provider is named explicitly (aws-lc-rs, inside `libp2p_tls` too), and session keys are
//! never logged.

mod tls;

pub use tls::Cipher;

use crate::{server, wire::ALPN};
use futures::future::select_all;
use libp2p::{PeerId, identity::Keypair};
use quinn::{
    AckFrequencyConfig, Connection, Endpoint, EndpointConfig, IdleTimeout, Incoming, TokioRuntime,
    TransportConfig, VarInt, congestion,
    crypto::{
        CryptoError, HmacKey,
        rustls::{QuicClientConfig, QuicServerConfig},
    },
};
use quinn_proto::HashedConnectionIdGenerator;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

/// Why a TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate could not be made from the identity.
    #[error("cannot make a certificate from the node's key")]
    Certificate(#[from] libp2p_tls::certificate::GenError),
    /// The provider lacks the suite that QUIC begins with.
    #[error("the TLS library lacks the cipher suite that QUIC begins with")]
    Suite(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
    /// The TLS library does not take the key or the suites.
    #[error("TLS cannot be set up")]
    Setup(#[from] rustls::Error),
}

/// How fast a sender goes, and what makes it slow down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Congestion {
    /// CUBIC (RFC 9438): gives way when packets are lost.
    #[default]
    Cubic,
    /// BBR, as far as quinn has it, which calls it experimental: goes by what is delivered.
    Bbr,
    /// New Reno (RFC 9002).
    NewReno,
}

/// Settings of QUIC itself, for connections that this node accepts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quic {
    /// The cipher: `auto`, `aes128` or `chacha20`. Default `auto`: AES-128-GCM where the processor
    /// has instructions for it.
    pub cipher: Cipher,
    /// Congestion control: `cubic`, `bbr` or `new_reno`. Default `cubic`.
    pub congestion: Congestion,
    /// Bytes of the first packets' payload, before a path has shown that it carries more: 1,200 to
    /// 1,472. Default 1,200, which every path carries.
    pub initial_mtu: u16,
    /// Whether the system cuts packets (GSO), several for one call. Default true.
    pub segmentation_offload: bool,
    /// Packets for which a viewer sends one acknowledgement, if it can be asked to; 0 leaves that to
    /// the viewer, which then sends one for every second packet. Default 0.
    pub packets_per_ack: u32,
}

impl Default for Quic {
    fn default() -> Self {
        Self {
            cipher: Cipher::Auto,
            congestion: Congestion::Cubic,
            initial_mtu: 1200,
            segmentation_offload: true,
            packets_per_ack: 0,
        }
    }
}

/// What the server's endpoint needs.
pub(crate) fn server_config(
    identity: &Keypair,
    config: &server::Config,
) -> Result<quinn::ServerConfig, TlsError> {
    let mut tls = tls::server(identity, config.quic.cipher)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.key_log = Arc::new(rustls::NoKeyLog {});
    // Viewers make a new certificate for each connection and resume nothing.
    tls.send_tls13_tickets = 0;
    let crypto = QuicServerConfig::try_from(tls)?;
    let mut quic = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    quic.transport_config(Arc::new(server_transport(config)))
        // Connection attempts that wait for us: 1,024 of at most 64 KiB, together 16 MiB.
        .max_incoming(1024)
        .incoming_buffer_size(64 * 1024)
        .incoming_buffer_size_total(16 * 1024 * 1024);
    Ok(quic)
}

fn server_transport(config: &server::Config) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(config.max_streams))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        // Requests are at most 4 KiB: 64 KiB a connection, so 2,048 connections hold 128 MiB of
        // unread requests at most.
        .stream_receive_window(VarInt::from_u32(8 * 1024))
        .receive_window(VarInt::from_u32(64 * 1024))
        // Unacknowledged bytes of one connection. They are slices of bodies that count against
        // `server.body_memory` until acknowledged, so this bounds one viewer and not the whole.
        .send_window(config.send_window)
        .max_idle_timeout(idle(config.idle_timeout))
        .initial_mtu(config.quic.initial_mtu)
        .enable_segmentation_offload(config.quic.segmentation_offload);
    match config.quic.congestion {
        Congestion::Cubic => {
            transport.congestion_controller_factory(Arc::new(congestion::CubicConfig::default()))
        }
        Congestion::Bbr => {
            transport.congestion_controller_factory(Arc::new(congestion::BbrConfig::default()))
        }
        Congestion::NewReno => {
            transport.congestion_controller_factory(Arc::new(congestion::NewRenoConfig::default()))
        }
    };
    if config.quic.packets_per_ack > 0 {
        let mut acks = AckFrequencyConfig::default();
        // The threshold is how many packets go by without one.
        acks.ack_eliciting_threshold(VarInt::from_u32(config.quic.packets_per_ack - 1));
        transport.ack_frequency_config(Some(acks));
    }
    transport
}

/// How much a dialled connection may take in before we read it, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Windows {
    /// Of one stream.
    pub(crate) stream: u32,
    /// Of all streams.
    pub(crate) connection: u32,
}

impl Windows {
    /// For whole shards: 4 MiB in flight a stream is 320 Mbit/s at 100 ms.
    pub(crate) const SHARDS: Self = Self { stream: 4 * 1024 * 1024, connection: 16 * 1024 * 1024 };
}

/// What a connection to `peer` needs, as a viewer or as a relay.
pub(crate) fn client_config(
    identity: &Keypair,
    peer: PeerId,
    windows: Windows,
    idle_timeout: Duration,
) -> Result<quinn::ClientConfig, TlsError> {
    let mut tls = libp2p_tls::make_client_config(identity, Some(peer))?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.key_log = Arc::new(rustls::NoKeyLog {});
    tls.resumption = rustls::client::Resumption::disabled();
    let crypto = QuicClientConfig::try_from(tls)?;
    let mut quic = quinn::ClientConfig::new(Arc::new(crypto));
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        // Bytes pile up only while we do not read.
        .stream_receive_window(VarInt::from_u32(windows.stream))
        .receive_window(VarInt::from_u32(windows.connection))
        .send_window(64 * 1024)
        .max_idle_timeout(idle(idle_timeout));
    quic.transport_config(Arc::new(transport));
    Ok(quic)
}

/// Longer than QUIC can express means its longest.
fn idle(timeout: Duration) -> Option<IdleTimeout> {
    Some(IdleTimeout::try_from(timeout).unwrap_or_else(|_| VarInt::MAX.into()))
}

/// The name that TLS wants and nobody checks: the certificate proves a PeerId, not a name.
pub(crate) const SERVER_NAME: &str = "nsn";

/// A bound UDP socket with large buffers, as far as the system allows them.
pub(crate) fn socket(addr: SocketAddr, buffer: usize) -> io::Result<UdpSocket> {
    bind(addr, buffer, false)
}

/// `count` sockets at one address, among which the system divides what comes by where it comes from;
/// at least one.
fn sockets(addr: SocketAddr, buffer: usize, count: usize) -> io::Result<Vec<UdpSocket>> {
    if count <= 1 {
        return Ok(vec![socket(addr, buffer)?]);
    }
    if addr.port() != 0 {
        // Sockets that share an address share it with any program of the same user; one that does not
        // finds out whether another program is there.
        drop(socket(addr, buffer)?);
    }
    let first = bind(addr, buffer, true)?;
    let addr = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(bind(addr, buffer, true)?);
    }
    Ok(sockets)
}

fn bind(addr: SocketAddr, buffer: usize, shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6()
        && let Err(error) = socket.set_only_v6(false)
    {
        tracing::debug!("{addr} is for IPv6 alone: {error}");
    }
    let grown =
        socket.set_recv_buffer_size(buffer).and_then(|()| socket.set_send_buffer_size(buffer));
    if let Err(error) = grown {
        tracing::debug!("Socket buffers stay at the system's default: {error}");
    }
    socket.set_reuse_port(shared)?;
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

/// The sockets of a server, each with a task of its own that takes in packets.
pub(crate) struct Listeners(Vec<Endpoint>);

impl Listeners {
    /// Binds `config.sockets` sockets.
    ///
    /// # Errors
    /// When the address is taken or is none of this machine.
    pub(crate) fn bind(
        config: &server::Config,
        tls: &quinn::ServerConfig,
        identity: &Keypair,
    ) -> io::Result<Self> {
        let sockets = sockets(config.listen_addr, config.socket_buffer, config.sockets)?;
        let endpoints = sockets.into_iter().map(|s| server_endpoint(s, tls.clone(), identity));
        endpoints.collect::<io::Result<_>>().map(Self)
    }

    /// Where it listens, with the real port.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.first().ok_or(io::ErrorKind::NotConnected)?.local_addr()
    }

    /// The next connection; `None` when a socket has failed.
    pub(crate) async fn accept(&self) -> Option<Incoming> {
        select_all(self.0.iter().map(|endpoint| Box::pin(endpoint.accept()))).await.0
    }

    pub(crate) fn close(&self, code: VarInt, reason: &[u8]) {
        for endpoint in &self.0 {
            endpoint.close(code, reason);
        }
    }

    /// Waits until the peers of all connections were told.
    pub(crate) async fn wait_idle(&self) {
        for endpoint in &self.0 {
            endpoint.wait_idle().await;
        }
    }
}

/// A server's endpoint on `socket`.
///
/// Its connection ids and reset tokens come from the node's key and not from chance, so a server that
/// was killed and started again answers the packets of its old connections with a reset that the
/// viewers believe: they connect again at once instead of waiting for their idle timeout.
pub(crate) fn server_endpoint(
    socket: UdpSocket,
    server: quinn::ServerConfig,
    identity: &Keypair,
) -> io::Result<Endpoint> {
    let mut config = EndpointConfig::default();
    // Only ed25519 keys derive secrets, and the overlay has no others.
    if let Some(secret) = identity.derive_secret(b"nsn shard service resets") {
        let ids = blake3::derive_key("nsn shard connection ids 1", &secret);
        let [a, b, c, d, e, f, g, h, ..] = ids;
        let ids = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let resets = ResetKey(blake3::derive_key("nsn shard stateless resets 1", &secret));
        config
            .cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)))
            .reset_key(Arc::new(resets));
    }
    Endpoint::new(config, Some(server), socket, Arc::new(TokioRuntime))
}

/// What reset tokens are made with (RFC 9000, 10.3.2): a keyed BLAKE3 of the connection id.
struct ResetKey([u8; 32]);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        let hash = blake3::keyed_hash(&self.0, data);
        for (out, byte) in signature_out.iter_mut().zip(hash.as_bytes()) {
            *out = *byte;
        }
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let hash = blake3::keyed_hash(&self.0, data);
        // The comparison of hashes takes the same time whatever differs.
        match <[u8; blake3::OUT_LEN]>::try_from(signature) {
            Ok(signature) if hash == blake3::Hash::from_bytes(signature) => Ok(()),
            _ => Err(CryptoError),
        }
    }
}

/// An endpoint that only dials: over IPv6 and IPv4 where the system has both.
pub(crate) fn dialling_endpoint(buffer: usize) -> io::Result<Endpoint> {
    let any_v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    let any_v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    endpoint(socket(any_v6, buffer).or_else(|_| socket(any_v4, buffer))?)
}

/// An endpoint on `socket` that only dials.
pub(crate) fn endpoint(socket: UdpSocket) -> io::Result<Endpoint> {
    Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime))
}

/// The PeerId that the other end of a connection has proved.
pub(crate) fn peer_of(connection: &Connection) -> Option<PeerId> {
    let chain = connection.peer_identity()?;
    let chain = chain.downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>().ok()?;
    let certificate = libp2p_tls::certificate::parse(chain.first()?).ok()?;
    Some(certificate.peer_id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn serve(addr: SocketAddr, identity: &Keypair) -> io::Result<Endpoint> {
        let tls = server_config(identity, &server::Config::default()).unwrap();
        server_endpoint(socket(addr, 64 * 1024)?, tls, identity)
    }

    /// A runtime that dies like a process: nothing of it gets to say goodbye.
    fn process() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_that_was_killed_and_came_back_resets_its_old_connections() {
        let identity = Keypair::generate_ed25519();
        let peer = identity.public().to_peer_id();
        let first = process();
        let endpoint = {
            let _inside = first.enter();
            serve((Ipv4Addr::LOCALHOST, 0).into(), &identity).unwrap()
        };
        let addr = endpoint.local_addr().unwrap();
        first.spawn(async move {
            let connection = endpoint.accept().await.unwrap().await.unwrap();
            connection.closed().await
        });

        let viewer = dialling_endpoint(64 * 1024).unwrap();
        let ours = Keypair::generate_ed25519();
        let config = client_config(&ours, peer, Windows::SHARDS, Duration::from_secs(30));
        let connection =
            viewer.connect_with(config.unwrap(), addr, SERVER_NAME).unwrap().await.unwrap();
        first.shutdown_background();

        let second = process();
        let _inside = second.enter();
        let start = Instant::now();
        let _endpoint = loop {
            // The socket of the first goes with its last task.
            match serve(addr, &identity) {
                Ok(endpoint) => break endpoint,
                Err(error) => assert!(start.elapsed() < Duration::from_secs(5), "{error}"),
            }
            tokio::task::yield_now().await;
        };
        // Whatever the viewer says next is answered with a reset that it believes; an acknowledgement
        // that was on its way may have been already.
        let said = async {
            let (mut send, _receive) = connection.open_bi().await?;
            send.write_all(b"are you there?").await.map_err(|_| quinn::ConnectionError::Reset)
        };
        assert!(matches!(said.await, Ok(()) | Err(quinn::ConnectionError::Reset)));
        let end = tokio::time::timeout(Duration::from_secs(5), connection.closed()).await;
        assert!(matches!(end, Ok(quinn::ConnectionError::Reset)), "{end:?}");
        second.shutdown_background();
    }

    #[tokio::test]
    async fn sockets_share_an_address_among_themselves_and_with_no_other_service() {
        let config = server::Config {
            listen_addr: (Ipv4Addr::LOCALHOST, 0).into(),
            sockets: 3,
            ..server::Config::default()
        };
        let identity = Keypair::generate_ed25519();
        let tls = server_config(&identity, &config).unwrap();
        let first = Listeners::bind(&config, &tls, &identity).unwrap();
        let listen_addr = first.local_addr().unwrap();
        assert_eq!(first.0.len(), 3);
        assert!(first.0.iter().all(|socket| socket.local_addr().unwrap() == listen_addr));
        for sockets in [1, 3] {
            let other = server::Config { listen_addr, sockets, ..config.clone() };
            let error = Listeners::bind(&other, &tls, &identity).err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{sockets}");
        }
        // Whichever socket the system chooses, there is a server behind it.
        let server = tokio::spawn(async move {
            let mut open = Vec::new();
            for _ in 0..10 {
                open.push(first.accept().await.unwrap().await.unwrap());
            }
            open
        });
        let peer = identity.public().to_peer_id();
        let mut connected = Vec::new();
        for _ in 0..10 {
            let viewer = dialling_endpoint(64 * 1024).unwrap();
            let ours = Keypair::generate_ed25519();
            let idle = Duration::from_secs(30);
            let config = client_config(&ours, peer, Windows::SHARDS, idle).unwrap();
            let connecting = viewer.connect_with(config, listen_addr, SERVER_NAME).unwrap();
            connected.push(connecting.await.unwrap());
        }
        assert_eq!(server.await.unwrap().len(), 10);
    }

    #[test]
    fn a_reset_token_is_the_keys_own() {
        let (ours, other) = (ResetKey([1; 32]), ResetKey([2; 32]));
        let mut token = vec![0; ours.signature_len()];
        ours.sign(b"connection", &mut token);
        assert!(ours.verify(b"connection", &token).is_ok());
        assert!(ours.verify(b"another", &token).is_err());
        assert!(other.verify(b"connection", &token).is_err());
        assert!(ours.verify(b"connection", &token[..16]).is_err());
    }
}
