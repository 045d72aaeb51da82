//! A connection to one shard service, and what is asked over it.

use super::{Address, Config, retry};
use crate::{
    content::{BlobId, ContentId, Manifest, ManifestError},
    transport,
    upstream::{DialError, Pool, Source as Peer},
    wire::{ExchangeError, MAX_HAS, Patience, Request, ServiceStatus, Source, ask, get_blob},
};
use bytes::Bytes;
use codec::DecodeAll;
use libp2p::identity::Keypair;
use std::{io, time::Duration};

/// Bytes of the answer to a question about the service; far more than any has.
const SMALL: u64 = 4096;

/// A viewer of one shard service. It connects again by itself when the connection is lost.
pub struct Viewer {
    address: Address,
    peer: Peer,
    pool: Pool,
    pub(super) config: Config,
}

/// Why a question to a shard service has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// No UDP socket.
    #[error("cannot open a UDP socket: {0}")]
    Socket(#[source] io::Error),
    /// No connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// A connection, and no answer or a bad one.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// The content's manifest is not one, though it hashes to the content's id.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

impl Viewer {
    /// Connects to a shard service. `identity` is what it sees of us; a fresh key if `None`.
    ///
    /// # Errors
    /// When there is no socket, no answer, or somebody else answers.
    pub async fn connect(
        address: Address,
        identity: Option<Keypair>,
        config: Config,
    ) -> Result<Self, ViewError> {
        let endpoint =
            transport::dialling_endpoint(config.socket_buffer).map_err(ViewError::Socket)?;
        let identity = identity.unwrap_or_else(Keypair::generate_ed25519);
        let pool = Pool::new(endpoint, identity, config.pool.clone(), 1);
        let peer = Peer { peer: address.peer, addrs: vec![address.socket], seeder_score: None };
        let viewer = Self { address, peer, pool, config };
        viewer.pool.connection(&viewer.peer).await?;
        Ok(viewer)
    }

    /// The service.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Fetches a blob, verified, and says where the service had it from. Tries again as configured
    /// when that may help.
    ///
    /// # Errors
    /// The last try's.
    pub async fn fetch(&self, id: BlobId) -> Result<(Bytes, Option<Source>), ViewError> {
        let mut failed = 0;
        loop {
            let error = match self.fetch_once(id).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => error,
            };
            failed += 1;
            match retry::wait(&error, failed, &self.config, rand::random()) {
                Some(wait) => {
                    tracing::debug!("{id}: {error}; trying again in {wait:?}");
                    tokio::time::sleep(wait).await;
                }
                None => return Err(error),
            }
        }
    }

    /// Fetches a blob in a single try.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub async fn fetch_once(&self, id: BlobId) -> Result<(Bytes, Option<Source>), ViewError> {
        let connection = self.pool.connection(&self.peer).await?.connection;
        let promised = get_blob(&connection, id, true, self.patience()).await?;
        let source = promised.source();
        let bytes = promised.verified(self.config.stall_timeout).await?;
        Ok((bytes, source))
    }

    /// Fetches and validates a content's manifest.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub async fn manifest(&self, id: ContentId) -> Result<(Manifest, Option<Source>), ViewError> {
        let (blob, source) = self.fetch(id.into()).await?;
        Ok((Manifest::decode(&blob)?, source))
    }

    /// Which of `ids` the service holds itself, in their order. At most 120 ids.
    ///
    /// # Errors
    /// See [`ViewError`]; more ids are refused with code 3.
    pub async fn has(&self, ids: &[BlobId]) -> Result<Vec<bool>, ViewError> {
        let ids = ids.iter().take(MAX_HAS + 1).copied().collect();
        let body = self.small(&Request::Has { ids }).await?;
        Ok(body.iter().map(|held| *held != 0).collect())
    }

    /// How the service is.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub async fn status(&self) -> Result<ServiceStatus, ViewError> {
        let body = self.small(&Request::Status).await?;
        let status = ServiceStatus::decode_all(&mut &*body);
        status
            .map_err(|error| ExchangeError::from(crate::wire::FrameError::Malformed(error)).into())
    }

    async fn small(&self, request: &Request) -> Result<Bytes, ViewError> {
        let connection = self.pool.connection(&self.peer).await?.connection;
        let answer = ask(&connection, request, self.patience()).await?;
        Ok(answer.body(SMALL, self.config.stall_timeout, |_| {}).await?)
    }

    /// Closes the connection and waits, for half a second at most, until the service is told.
    pub async fn close(self) {
        self.pool.close().await;
    }

    fn patience(&self) -> Patience {
        let Config { header_timeout, stall_timeout, .. } = self.config;
        let header: Duration = header_timeout;
        Patience { header, stall: stall_timeout }
    }
}
