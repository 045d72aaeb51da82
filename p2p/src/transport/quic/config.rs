//! Sockets, TLS and QUIC settings.

use super::unspecified;
use crate::{RunError, nat::Relayed};
use libp2p::identity::Keypair;
use quinn::{
    Endpoint, EndpointConfig, TokioRuntime, TransportConfig, VarInt,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
    rustls,
};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

/// Silence after which a connection is given up, and after which this node says something. libp2p-quic
/// has 10 s and 5 s. Whoever's address has changed is to be found again within 15 s, of which the rest
/// goes on looking and dialling; two lost datagrams in a row still end nothing.
const IDLE_TIMEOUT_MS: u32 = 8_000;
const KEEP_ALIVE: Duration = Duration::from_millis(2_500);

/// Streams that a peer may have open at the same time. As libp2p-quic has it.
const MAX_STREAMS: u32 = 256;

/// Bytes that a peer may send on one stream, and on all, before this node has read them; and bytes
/// sent that a peer has not acknowledged. At 100 ms of round trip they allow 10 and 20 MB/s. Worst
/// case: 256 connections * (2 + 2) MiB = 1 GiB, if every peer does its worst.
const STREAM_WINDOW: u32 = 1 << 20;
const RECEIVE_WINDOW: u32 = 2 << 20;
const SEND_WINDOW: u64 = 2 << 20;

/// Attempts that wait to be judged, bytes that may wait with one of them (a first flight takes
/// under 4 KiB), and with all.
const MAX_INCOMING: usize = 1024;
const INCOMING_BYTES: u64 = 16 << 10;
const ALL_INCOMING_BYTES: u64 = 4 << 20;

/// What endpoints are made with.
pub(super) struct Settings {
    server: quinn::ServerConfig,
    client: quinn::ClientConfig,
}

impl Settings {
    /// The certificate is made here, from the node's key.
    pub(super) fn new(keypair: &Keypair) -> Result<Self, RunError> {
        fn setup<E: std::error::Error + Send + Sync + 'static>(source: E) -> RunError {
            RunError::Setup { what: "QUIC", source: Box::new(source) }
        }
        let transport = Arc::new(transport());
        let mut tls = libp2p_tls::make_server_config(keypair).map_err(setup)?;
        tls.key_log = Arc::new(rustls::NoKeyLog {});
        // libp2p resumes nothing.
        tls.send_tls13_tickets = 0;
        let tls = QuicServerConfig::try_from(tls).map_err(setup)?;
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(tls));
        server
            .transport_config(transport.clone())
            // Whoever's NAT gives it another port, or whose router another address, goes on where it
            // was. Whom a connection counts for stays who it was when it was let in.
            .migration(true)
            .max_incoming(MAX_INCOMING)
            .incoming_buffer_size(INCOMING_BYTES)
            .incoming_buffer_size_total(ALL_INCOMING_BYTES);

        let mut tls = libp2p_tls::make_client_config(keypair, None).map_err(setup)?;
        tls.key_log = Arc::new(rustls::NoKeyLog {});
        tls.resumption = rustls::client::Resumption::disabled();
        let tls = QuicClientConfig::try_from(tls).map_err(setup)?;
        let mut client = quinn::ClientConfig::new(Arc::new(tls));
        client.transport_config(transport);
        Ok(Self { server, client })
    }

    pub(super) fn client(&self) -> quinn::ClientConfig {
        self.client.clone()
    }

    /// An endpoint that listens here, and its socket. Needs a tokio runtime.
    pub(super) fn listening(&self, at: SocketAddr) -> io::Result<(Endpoint, UdpSocket)> {
        let socket = socket(at)?;
        let same = socket.try_clone()?;
        Ok((endpoint(socket, Some(self.server.clone()))?, same))
    }

    /// An endpoint that listens at an address of a TURN server. Needs a tokio runtime.
    pub(super) fn relayed(&self, socket: Relayed) -> io::Result<Endpoint> {
        let (server, socket) = (Some(self.server.clone()), Arc::new(socket));
        Endpoint::new_with_abstract_socket(settings(), server, socket, Arc::new(TokioRuntime))
    }
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_STREAMS))
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(VarInt::from_u32(IDLE_TIMEOUT_MS).into()))
        .allow_spin(false)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .send_window(SEND_WINDOW);
    transport
}

/// An endpoint that only dials, to this family of addresses. Needs a tokio runtime.
pub(super) fn dialling(to: SocketAddr) -> io::Result<Endpoint> {
    endpoint(socket(unspecified(to))?, None)
}

fn endpoint(socket: UdpSocket, server: Option<quinn::ServerConfig>) -> io::Result<Endpoint> {
    Endpoint::new(settings(), server, socket, Arc::new(TokioRuntime))
}

fn settings() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    config.supported_versions(vec![1]);
    config
}

fn socket(at: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
    if at.is_ipv6() {
        // Each listen address of the configuration is for its own family.
        socket.set_only_v6(true)?;
    }
    socket.bind(&at.into())?;
    Ok(socket.into())
}
