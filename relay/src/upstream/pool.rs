//! Connections to shard services, kept while they are used.
//!
//! One connection a peer, shared by all who ask it. A connection that nobody uses is closed by
//! QUIC's idle timeout; at the bound the one used longest ago makes room, and who still reads from
//! it keeps it until the end.

use super::{Source, race::staggered};
use crate::{overlay::OpenError, sync::lock, transport};
use libp2p::{PeerId, identity::Keypair};
use lru::LruCache;
use quinn::{Connection, Endpoint};
use serde::{Deserialize, Serialize};
use std::{
    net::SocketAddr,
    num::NonZeroUsize,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::timeout;

/// Settings of connections that this node opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PoolConfig {
    /// From the first packet to a proven peer, for one address. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// The next address of a peer is tried beside the last one after this. Default 250 ms.
    #[serde(with = "humantime_serde")]
    pub next_address_after: Duration,
    /// Addresses of one peer that are tried. Default 4.
    pub addresses: usize,
    /// A connection without traffic is closed after this. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            next_address_after: Duration::from_millis(250),
            addresses: 4,
            idle_timeout: Duration::from_secs(30),
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No address to try.
    #[error("no address is known for {0}")]
    NoAddress(PeerId),
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(#[from] transport::TlsError),
    /// QUIC refuses the address.
    #[error("cannot dial {addr}: {source}")]
    Address {
        /// The address.
        addr: SocketAddr,
        /// Why not.
        source: quinn::ConnectError,
    },
    /// Nobody answers there, or not the peer that should.
    #[error("no connection to {addr}: {source}")]
    Connection {
        /// The address.
        addr: SocketAddr,
        /// Why not.
        source: quinn::ConnectionError,
    },
    /// No stream over the overlay.
    #[error("no stream to {peer}: {source}")]
    Overlay {
        /// The node.
        peer: PeerId,
        /// Why not.
        source: OpenError,
    },
    /// Nobody answered in time.
    #[error("no answer from {addr} within {within:?}")]
    Timeout {
        /// The address.
        addr: SocketAddr,
        /// The limit.
        within: Duration,
    },
}

/// Connections by peer.
pub(crate) struct Pool {
    endpoint: Endpoint,
    identity: Keypair,
    config: PoolConfig,
    /// Bounded by the constructor's `max`. What a connection may hold in unread bytes is 16 MiB,
    /// but only as many streams are open as there are fetches.
    slots: Mutex<LruCache<PeerId, Arc<Slot>>>,
}

/// A peer's connection, once there is one. Whoever dials holds the lock, so others wait for it
/// instead of dialling too.
#[derive(Default)]
struct Slot(tokio::sync::Mutex<Option<Connection>>);

/// A connection, and whether it had been used before.
pub(crate) struct Pooled {
    pub(crate) connection: Connection,
    pub(crate) reused: bool,
}

impl Pool {
    pub(crate) fn new(
        endpoint: Endpoint,
        identity: Keypair,
        config: PoolConfig,
        max: usize,
    ) -> Self {
        let max = NonZeroUsize::new(max).unwrap_or(NonZeroUsize::MIN);
        Self { endpoint, identity, config, slots: Mutex::new(LruCache::sparse(max)) }
    }

    /// The connection to a source, dialled if there is none.
    pub(crate) async fn connection(&self, source: &Source) -> Result<Pooled, DialError> {
        let slot = Arc::clone(lock(&self.slots).get_or_insert_mut(source.peer, Arc::default));
        let mut current = slot.0.lock().await;
        if let Some(connection) = current.as_ref().filter(|open| open.close_reason().is_none()) {
            return Ok(Pooled { connection: connection.clone(), reused: true });
        }
        let connection = self.dial(source).await?;
        *current = Some(connection.clone());
        Ok(Pooled { connection, reused: false })
    }

    /// The connection to a peer, if there is one now. Does not count as use.
    pub(crate) fn open(&self, peer: PeerId) -> Option<Connection> {
        let slot = Arc::clone(lock(&self.slots).peek(&peer)?);
        // Whoever holds the lock dials, so there is none.
        let current = slot.0.try_lock().ok()?;
        current.as_ref().filter(|open| open.close_reason().is_none()).cloned()
    }

    async fn dial(&self, source: &Source) -> Result<Connection, DialError> {
        let PoolConfig { idle_timeout, .. } = self.config;
        let windows = transport::Windows::SHARDS;
        let config = transport::client_config(&self.identity, source.peer, windows, idle_timeout)?;
        let dialled = dial(&self.endpoint, &config, &source.addrs, &self.config).await;
        let no_address = DialError::NoAddress(source.peer);
        dialled.map_err(|mut errors| errors.pop().unwrap_or(no_address))
    }

    /// Closes every connection and waits a moment for the peers to be told.
    pub(crate) async fn close(&self) {
        self.endpoint.close(crate::wire::Code::Ok.into(), b"");
        let _ = timeout(Duration::from_millis(500), self.endpoint.wait_idle()).await;
    }
}

/// Dials a peer's addresses, the next one beside the last when that takes long, and gives the first
/// connection.
///
/// # Errors
/// Each address's, in the order in which they failed; none when there is no address.
pub(crate) async fn dial(
    endpoint: &Endpoint,
    tls: &quinn::ClientConfig,
    addrs: &[SocketAddr],
    config: &PoolConfig,
) -> Result<Connection, Vec<DialError>> {
    let within = config.connect_timeout;
    let attempt = |addr| {
        let connecting = endpoint.connect_with(tls.clone(), addr, transport::SERVER_NAME);
        async move {
            let connecting = connecting.map_err(|source| DialError::Address { addr, source })?;
            match timeout(within, connecting).await {
                Ok(Ok(connection)) => Ok(connection),
                Ok(Err(source)) => Err(DialError::Connection { addr, source }),
                Err(_) => Err(DialError::Timeout { addr, within }),
            }
        }
    };
    let addrs = addrs.iter().copied().take(config.addresses);
    staggered(addrs, usize::MAX, |_| config.next_address_after, attempt).await
}
