//! Probes: does a peer serve what it claims to hold?
//!
//! A [`Prober`] asks one peer for one random 16 KiB group of one blob, under an identity made for
//! that connection, verifies it, and says what became of that ([`Outcome`]). It asks for what the
//! peer holds itself (`fill: false`): a relay that lacks the blob says so and fetches nothing.
//!
//! ```text
//!  length known    one group ── of a blob of that length ─▶ served
//!                      └─────── of another length ──┐
//!  not known       ─────────────────────────────────┴▶ first group ▶ last group ▶ one group ▶ served
//! ```
//!
//! The last group proves how long the blob is (see
//! [`Span::proves_total`](crate::wire::Span::proves_total)), so a peer that keeps a part of a blob
//! cannot pass that part for the whole. When the caller named another length, the proof says who is
//! right, and a wrong length in a manifest is not held against the peer.
//!
//! All of it ends by a deadline. What a probe takes in is bounded too: it reads at most three groups
//! with their proofs, each of 16 KiB and 640 bytes, and a connection takes in 64 KiB that nobody asked
//! for.

use crate::{
    content::{BlobId, ContentId, Manifest, ManifestError},
    transport::{self, Windows},
    upstream::{DialError, PoolConfig, dial},
    wire::{Busy, Code, ExchangeError, GROUP_LEN, Patience, get_groups, group_count},
};
use bytes::Bytes;
use libp2p::{PeerId, identity::Keypair};
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, TransportErrorCode};
use serde::{Deserialize, Serialize};
use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::time::{sleep, timeout};

/// What a probe's connection takes in unread: a peer that sends what nobody asked for fills this and
/// no more.
const SMALL: Windows = Windows { stream: 64 * 1024, connection: 64 * 1024 };

/// The same for whole blobs: 80 Mbit/s at 100 ms.
const WIDE: Windows = Windows { stream: 1024 * 1024, connection: 1024 * 1024 };

/// Settings of probes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The connections. Each is closed as soon as its probe is done.
    pub pool: PoolConfig,
    /// The shortest wait before a peer that is busy is asked again, whatever it says. Default 100 ms.
    #[serde(with = "humantime_serde")]
    pub retry_min: Duration,
    /// The longest wait that a busy peer can ask for. Default 2 s.
    #[serde(with = "humantime_serde")]
    pub retry_max: Duration,
    /// Bytes of the socket's buffers, each way; the system may allow less. Default 1 MiB.
    pub socket_buffer: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pool: PoolConfig::default(),
            retry_min: Duration::from_millis(100),
            retry_max: Duration::from_secs(2),
            socket_buffer: 1024 * 1024,
        }
    }
}

/// Whom to ask, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who must answer; the connection proves it.
    pub id: PeerId,
    /// Where its shard service listens. The first few are tried (`pool.addresses`).
    pub addrs: Vec<SocketAddr>,
}

/// What to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The blob that the peer claims to hold.
    pub blob: BlobId,
    /// Its length if it is known, for instance from a manifest. Saves two groups.
    pub len: Option<u32>,
    /// A random number that chooses the group, so that the peer cannot know which.
    pub choice: u64,
}

/// What became of a probe.
#[derive(Debug)]
pub enum Outcome {
    /// It delivered what was asked for.
    Served {
        /// Verified bytes of the blob.
        bytes: u32,
        /// From the first packet to the last byte.
        took: Duration,
    },
    /// It says that it does not hold the blob.
    NotFound,
    /// It did not deliver.
    Missed(Reason),
    /// It could not be asked, for a reason that lies on this side: no address, or no way to dial
    /// one. Says nothing about the peer.
    NotAsked(DialError),
}

/// Why a peer did not deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Nobody answers at its addresses, or somebody else does.
    Unreachable,
    /// It was busy, or refused us for a limit, until the deadline.
    Busy,
    /// It answered with a code that means no.
    Refused,
    /// It answered too slowly, or not at all once connected.
    Stalled,
    /// The connection or the stream broke.
    Lost,
    /// Its answer cannot be read, or promises what cannot be.
    Malformed,
    /// It lies about the blob's length.
    WrongSize,
    /// What it delivered is not the blob.
    WrongBytes,
    /// It delivered less than it promised.
    TooLittle,
    /// It delivered more than it promised.
    TooMuch,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 10] = [
        Self::Unreachable,
        Self::Busy,
        Self::Refused,
        Self::Stalled,
        Self::Lost,
        Self::Malformed,
        Self::WrongSize,
        Self::WrongBytes,
        Self::TooLittle,
        Self::TooMuch,
    ];

    /// Its name as a metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Busy => "busy",
            Self::Refused => "refused",
            Self::Stalled => "stalled",
            Self::Lost => "lost",
            Self::Malformed => "malformed",
            Self::WrongSize => "wrong_size",
            Self::WrongBytes => "wrong_bytes",
            Self::TooLittle => "too_little",
            Self::TooMuch => "too_much",
        }
    }
}

/// Why a blob could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The peer says that it does not hold the blob.
    #[error("not found")]
    NotFound,
    /// The peer did not deliver.
    #[error("not delivered: {}", .0.label())]
    Missed(Reason),
    /// The peer could not be asked.
    #[error(transparent)]
    NotAsked(DialError),
    /// The blob is longer than asked for.
    #[error("{total} bytes, more than the {most} allowed")]
    TooLong {
        /// Its length, as the peer claims.
        total: u32,
        /// The limit.
        most: u32,
    },
    /// The blob is no manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// How a try ended that delivered nothing.
enum Failed {
    /// Another try may do better: after this long, or after the shortest wait.
    Busy(Option<Duration>),
    /// This is final.
    Final(FetchError),
}

impl From<Reason> for Failed {
    fn from(reason: Reason) -> Self {
        Self::Final(FetchError::Missed(reason))
    }
}

impl From<ExchangeError> for Failed {
    fn from(error: ExchangeError) -> Self {
        match error {
            ExchangeError::Refused { code: Code::NotFound, .. } => {
                Self::Final(FetchError::NotFound)
            }
            ExchangeError::Refused { code: Code::Busy, busy } => {
                let Busy { retry_after_ms, .. } = busy.unwrap_or_default();
                Self::Busy(Some(Duration::from_millis(u64::from(retry_after_ms))))
            }
            ExchangeError::Refused { code: Code::Limited, .. }
            | ExchangeError::Reset(Code::Busy | Code::Limited) => Self::Busy(None),
            ExchangeError::Refused { .. } => Reason::Refused.into(),
            ExchangeError::Connection(_)
            | ExchangeError::Overlay(_)
            | ExchangeError::Reset(_)
            | ExchangeError::ResetUnknown(_) => Reason::Lost.into(),
            ExchangeError::Malformed(_) | ExchangeError::Promise { .. } => Reason::Malformed.into(),
            ExchangeError::TooLittle { .. } => Reason::TooLittle.into(),
            ExchangeError::TooMuch(_) => Reason::TooMuch.into(),
            ExchangeError::Stalled(_) => Reason::Stalled.into(),
            ExchangeError::WrongHash(_) | ExchangeError::WrongGroup { .. } => {
                Reason::WrongBytes.into()
            }
        }
    }
}

/// Sorts the failures of all addresses of a peer. One that turned us away is there, so it is busy;
/// one that could not be dialled at all says nothing when every other could not either.
fn not_connected(peer: PeerId, mut errors: Vec<DialError>) -> Failed {
    let turned_away = |error: &DialError| match error {
        DialError::Connection { source: ConnectionError::ConnectionClosed(close), .. } => {
            close.error_code == TransportErrorCode::CONNECTION_REFUSED
        }
        DialError::Connection { source: ConnectionError::ApplicationClosed(close), .. } => {
            matches!(Code::try_from(close.error_code), Ok(Code::Busy | Code::Limited))
        }
        _ => false,
    };
    let tried = |error: &DialError| {
        matches!(error, DialError::Connection { .. } | DialError::Timeout { .. })
    };
    if errors.iter().any(turned_away) {
        Failed::Busy(None)
    } else if errors.iter().any(tried) {
        Reason::Unreachable.into()
    } else {
        let error = errors.pop().unwrap_or(DialError::NoAddress(peer));
        Failed::Final(FetchError::NotAsked(error))
    }
}

/// The most that a peer has said, which is what a deadline is blamed on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Heard {
    Nothing,
    /// It let us connect.
    Welcome,
    /// That it is busy, in a try before this one.
    Busy,
}

impl Heard {
    fn reason(self) -> Reason {
        match self {
            Self::Nothing => Reason::Unreachable,
            Self::Welcome => Reason::Stalled,
            Self::Busy => Reason::Busy,
        }
    }
}

/// Asks peers for what they claim to hold. Cheap to clone; all clones share one UDP socket, and no
/// two connections an identity.
#[derive(Clone, Debug)]
pub struct Prober {
    endpoint: Endpoint,
    config: Config,
}

impl Prober {
    /// Opens a socket. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the system gives no UDP socket.
    pub fn new(config: Config) -> io::Result<Self> {
        Ok(Self { endpoint: transport::dialling_endpoint(config.socket_buffer)?, config })
    }

    /// Asks `peer` for a random group of a blob, and again while it is busy, for `within` at most.
    pub async fn probe(&self, peer: &Peer, target: &Target, within: Duration) -> Outcome {
        let started = Instant::now();
        let ask = |connection| random_group(connection, *target, within);
        match self.insist(peer, SMALL, within, ask).await {
            Ok(bytes) => Outcome::Served { bytes, took: started.elapsed() },
            Err(FetchError::NotFound) => Outcome::NotFound,
            Err(FetchError::NotAsked(error)) => Outcome::NotAsked(error),
            Err(FetchError::Missed(reason)) => Outcome::Missed(reason),
            // A probe reads groups and not blobs, so it meets neither.
            Err(FetchError::TooLong { .. } | FetchError::Manifest(_)) => {
                Outcome::Missed(Reason::Malformed)
            }
        }
    }

    /// Fetches a whole blob that `peer` holds, of `most` bytes at most, verified as it arrives; asks
    /// again while the peer is busy, for `within` at most.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn blob(
        &self,
        peer: &Peer,
        id: BlobId,
        most: u32,
        within: Duration,
    ) -> Result<Bytes, FetchError> {
        let fetch = |connection| whole(connection, id, most, within);
        self.insist(peer, WIDE, within, fetch).await
    }

    /// Fetches a content's manifest from a peer that holds it, of `most` bytes at most, and
    /// validates it.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn manifest(
        &self,
        peer: &Peer,
        id: ContentId,
        most: u32,
        within: Duration,
    ) -> Result<Manifest, FetchError> {
        Ok(Manifest::decode(&self.blob(peer, id.into(), most, within).await?)?)
    }

    /// Closes what is open and waits, for half a second at most, until the peers are told.
    pub async fn close(&self) {
        self.endpoint.close(Code::Ok.into(), b"");
        let _ = timeout(Duration::from_millis(500), self.endpoint.wait_idle()).await;
    }

    /// Connects and asks, and does both again while the peer is busy, until the time is over.
    async fn insist<T, F>(
        &self,
        peer: &Peer,
        windows: Windows,
        within: Duration,
        ask: impl Fn(Connection) -> F,
    ) -> Result<T, FetchError>
    where
        F: Future<Output = Result<T, Failed>>,
    {
        let mut heard = Heard::Nothing;
        let insisting = async {
            loop {
                let tried = match self.connect(peer, windows).await {
                    Err(failed) => Err(failed),
                    Ok(connection) => {
                        heard = heard.max(Heard::Welcome);
                        let tried = ask(connection.clone()).await;
                        connection.close(Code::Ok.into(), b"");
                        tried
                    }
                };
                let wait = match tried {
                    Ok(done) => return Ok(done),
                    Err(Failed::Final(error)) => return Err(error),
                    Err(Failed::Busy(wait)) => wait.unwrap_or_default(),
                };
                heard = Heard::Busy;
                let Config { retry_min, retry_max, .. } = self.config;
                sleep(wait.min(retry_max).max(retry_min)).await;
            }
        };
        match timeout(within, insisting).await {
            Ok(result) => result,
            Err(_) => Err(FetchError::Missed(heard.reason())),
        }
    }

    /// Connects to a peer under a new identity.
    async fn connect(&self, peer: &Peer, windows: Windows) -> Result<Connection, Failed> {
        let tls = fresh(peer.id, windows, self.config.pool.idle_timeout)
            .map_err(|error| Failed::Final(FetchError::NotAsked(error)))?;
        let dialled = dial(&self.endpoint, &tls, &peer.addrs, &self.config.pool).await;
        dialled.map_err(|errors| not_connected(peer.id, errors))
    }
}

fn fresh(peer: PeerId, windows: Windows, idle: Duration) -> Result<ClientConfig, DialError> {
    let identity = Keypair::generate_ed25519();
    Ok(transport::client_config(&identity, peer, windows, idle)?)
}

/// The group that a random number chooses of a blob of `len` bytes.
fn chosen(choice: u64, len: u32) -> u32 {
    let count = u64::from(group_count(len).max(1));
    u32::try_from(choice % count).unwrap_or(0)
}

/// Asks for a random group, and for what proves the blob's length where that is not known or is
/// disputed. Gives the verified bytes.
async fn random_group(
    connection: Connection,
    target: Target,
    within: Duration,
) -> Result<u32, Failed> {
    let Target { blob, len, choice } = target;
    let ask = |group, len| one_group(&connection, blob, group, len, within);
    if let Some(len) = len
        && let Answered::Group { bytes, .. } = ask(chosen(choice, len), Some(len)).await?
    {
        return Ok(bytes);
    }
    // Who disputes the length and fails to prove another one lies about it.
    let unproven = |error| match error {
        ExchangeError::WrongGroup { .. } if len.is_some() => Reason::WrongSize.into(),
        error => Failed::from(error),
    };
    let Answered::Group { total, mut bytes } = ask(0, None).await.map_err(unproven)? else {
        // A blob without a first byte.
        return Err(Reason::Malformed.into());
    };
    if len == Some(total) {
        // It has just said otherwise.
        return Err(Reason::WrongSize.into());
    }
    let last = group_count(total).saturating_sub(1);
    let mut done = vec![0];
    for group in [last, chosen(choice, total)] {
        if done.contains(&group) {
            continue;
        }
        done.push(group);
        let answered = match ask(group, Some(total)).await {
            Err(error) if group == last => return Err(unproven(error)),
            asked => asked?,
        };
        match answered {
            Answered::Group { bytes: more, .. } => bytes = bytes.saturating_add(more),
            Answered::OtherSize => return Err(Reason::WrongSize.into()),
        }
    }
    Ok(bytes)
}

/// What a peer says when asked for a group.
enum Answered {
    /// Here it is, verified.
    Group {
        /// Length of the blob as the peer claims it.
        total: u32,
        /// Bytes of the group.
        bytes: u32,
    },
    /// The blob has another length than was expected.
    OtherSize,
}

/// Fetches and verifies one group of a blob that should be `len` bytes long.
async fn one_group(
    connection: &Connection,
    blob: BlobId,
    group: u32,
    len: Option<u32>,
    within: Duration,
) -> Result<Answered, ExchangeError> {
    let first = u64::from(group) * u64::from(GROUP_LEN);
    let range = Some((first, first.saturating_add(1)));
    let groups = match get_groups(connection, blob, range, false, patience(within)).await {
        Err(ExchangeError::Refused { code: Code::Range, .. }) => return Ok(Answered::OtherSize),
        asked => asked?,
    };
    let total = groups.span().total();
    if len.is_some_and(|len| len != total) {
        return Ok(Answered::OtherSize);
    }
    let bytes = groups.span().bytes();
    groups.all().await?;
    Ok(Answered::Group { total, bytes })
}

async fn whole(
    connection: Connection,
    id: BlobId,
    most: u32,
    within: Duration,
) -> Result<Bytes, Failed> {
    let groups = get_groups(&connection, id, None, false, patience(within)).await?;
    let total = groups.span().total();
    if total > most {
        return Err(Failed::Final(FetchError::TooLong { total, most }));
    }
    Ok(groups.all().await?)
}

/// The deadline around it all is the limit that counts.
fn patience(within: Duration) -> Patience {
    Patience { header: within, stall: within }
}
