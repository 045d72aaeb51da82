//! A connection to one shard service, and what is asked over it.

use super::{Address, Config, detour, partial::Partial, retry};
use crate::{
    content::{BlobId, ContentId, Manifest, ManifestError},
    sync::lock,
    transport,
    upstream::{DialError, Pool, Source as Peer},
    wire::{
        Code, ExchangeError, Groups, MAX_HAS, Patience, Request, ServiceStatus, Source, ask,
        get_groups,
    },
};
use bytes::Bytes;
use codec::DecodeAll;
use libp2p::{PeerId, identity::Keypair};
use std::{
    collections::HashSet,
    io,
    sync::Mutex,
    time::{Duration, Instant},
};

/// Bytes of the answer to a question about the service; far more than any has.
const SMALL: u64 = 4096;

/// Connections that a viewer keeps: to its service, and to those that this one names when it is busy.
const CONNECTIONS: usize = 4;

/// A viewer of one shard service. It connects again by itself when the connection is lost, and asks
/// another service that this one names while it is busy.
pub struct Viewer {
    address: Address,
    pool: Pool,
    detour: Mutex<Option<Detour>>,
    pub(super) config: Config,
}

/// Whom to ask meanwhile.
#[derive(Clone, Copy)]
struct Detour {
    address: Address,
    until: Instant,
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
        let pool = Pool::new(endpoint, identity, config.pool.clone(), CONNECTIONS);
        let viewer = Self { address, pool, detour: Mutex::default(), config };
        viewer.connection(address).await?;
        Ok(viewer)
    }

    /// The service.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Fetches a blob, each 16 KiB verified as it arrives, and says where the service had it from.
    /// Tries again as configured when that may help, and goes on with what had come by then. Asks
    /// another service that a busy one names.
    ///
    /// # Errors
    /// The last try's.
    pub async fn fetch(&self, id: BlobId) -> Result<(Bytes, Option<Source>), ViewError> {
        let mut partial = Partial::default();
        let mut asked = HashSet::new();
        let mut failed = 0;
        loop {
            let address = self.current(Instant::now());
            asked.insert(address.peer);
            let error = match self.try_fetch(address, id, &mut partial).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => error,
            };
            failed += 1;
            if failed < self.config.tries && self.take_detour(address, &error, &asked) {
                continue;
            }
            match retry::wait(&error, failed, &self.config, rand::random()) {
                Some(wait) => {
                    tracing::debug!("{id}: {error}; trying again in {wait:?}");
                    tokio::time::sleep(wait).await;
                }
                None => return Err(error),
            }
        }
    }

    /// Asks for a blob in a single try, or for the groups that hold a range of it; they come out as
    /// they arrive, each verified. For players.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub async fn open(&self, id: BlobId, range: Option<(u64, u64)>) -> Result<Groups, ViewError> {
        self.open_at(self.current(Instant::now()), id, range).await
    }

    async fn open_at(
        &self,
        address: Address,
        id: BlobId,
        range: Option<(u64, u64)>,
    ) -> Result<Groups, ViewError> {
        let connection = self.connection(address).await?;
        Ok(get_groups(&connection, id, range, true, self.patience()).await?)
    }

    async fn try_fetch(
        &self,
        address: Address,
        id: BlobId,
        partial: &mut Partial,
    ) -> Result<(Bytes, Option<Source>), ViewError> {
        let groups = match self.open_at(address, id, partial.missing()).await {
            // Nobody has proved how long the blob is: who said so before was wrong, or this one is.
            Err(ViewError::Exchange(ExchangeError::Refused { code: Code::Range, .. }))
                if partial.missing().is_some() =>
            {
                partial.forget();
                self.open_at(address, id, None).await?
            }
            Ok(groups) if partial.disputes(groups.span().total()) => {
                partial.forget();
                self.open_at(address, id, None).await?
            }
            opened => opened?,
        };
        let source = groups.source();
        Ok((partial.read(groups).await?, source))
    }

    /// Whom to ask now.
    fn current(&self, now: Instant) -> Address {
        let mut detour = lock(&self.detour);
        match *detour {
            Some(Detour { address, until }) if now < until => address,
            _ => {
                *detour = None;
                self.address
            }
        }
    }

    /// After a service at `from` has failed: whether another is to be asked at once. It may be one that
    /// was named, or from there the first one again.
    fn take_detour(&self, from: Address, error: &ViewError, asked: &HashSet<PeerId>) -> bool {
        let instead = detour::instead(error, from.socket, asked);
        let taken = instead.map(|(address, wait)| {
            tracing::debug!("{} names another; asking {address}", from.peer);
            let wait = wait.unwrap_or(Duration::MAX).min(self.config.retry_after_max);
            Detour { address, until: Instant::now() + wait }
        });
        let back = from != self.address;
        let mut detour = lock(&self.detour);
        if taken.is_some() || back {
            *detour = taken;
        }
        taken.is_some() || back
    }

    async fn connection(&self, address: Address) -> Result<quinn::Connection, DialError> {
        let Address { socket, peer } = address;
        let peer = Peer { peer, addrs: vec![socket], seeder_score: None, load: None };
        Ok(self.pool.connection(&peer).await?.connection)
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
        let connection = self.connection(self.address).await?;
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
