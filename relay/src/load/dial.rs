//! Connections as a viewer makes them, from any address of this machine.

use crate::{client::Address, transport, upstream::DialError};
use libp2p::identity::Keypair;
use quinn::{Connection, Endpoint};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::time::timeout;

/// Bytes of the socket's buffers, each way; the system may allow less.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;
/// A connection without traffic is closed after this.
const IDLE: Duration = Duration::from_secs(30);

/// A UDP socket from which viewers connect, each under a key of its own.
#[derive(Debug)]
pub struct Dialler {
    endpoint: Endpoint,
}

impl Dialler {
    /// Opens a socket at an address of this machine, all of 127.0.0.0/8 among them.
    ///
    /// # Errors
    /// When the address is none of this machine, or there are too many sockets.
    pub fn bind(source: IpAddr) -> io::Result<Self> {
        let socket = transport::socket(SocketAddr::new(source, 0), SOCKET_BUFFER)?;
        Ok(Self { endpoint: transport::endpoint(socket)? })
    }

    /// Connects as one more viewer, with a fresh key.
    ///
    /// # Errors
    /// When nobody answers within `patience`, or somebody else does.
    pub async fn connect(
        &self,
        address: Address,
        patience: Duration,
    ) -> Result<Connection, DialError> {
        let identity = Keypair::generate_ed25519();
        let windows = transport::Windows::SHARDS;
        let config = transport::client_config(&identity, address.peer, windows, IDLE)?;
        let addr = address.socket;
        let connecting = self
            .endpoint
            .connect_with(config, addr, transport::SERVER_NAME)
            .map_err(|source| DialError::Address { addr, source })?;
        match timeout(patience, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(source)) => Err(DialError::Connection { addr, source }),
            Err(_) => Err(DialError::Timeout { addr, within: patience }),
        }
    }
}
