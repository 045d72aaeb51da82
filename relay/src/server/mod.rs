//! The serving side of `nsn-shard/1`.
//!
//! One task accepts; each connection is a task and each request another, all of them owned here
//! and none of them living longer than `Server::run`. Everything that a peer can make us hold has
//! a bound: connections (in all and of one address), streams, requests, bytes of requests (in the
//! transport's windows), bytes of bodies and of the hashes between them (in `Lookup`). What viewers get
//! is paced (`pace`), and under pressure some are turned away early (`shed`), with a time to come back
//! and other relays to try.
//!
//! Requests also come over substreams of the overlay's connections, each a task too (`substreams`): the
//! same limits hold for them, and further ones for each node and in all, since those connections are
//! not this server's.
//!
//! To drain, the server refuses new connections, closes idle ones, answers new requests with code 9,
//! lets those in flight finish within their limit, and closes. Every such close says where else to go.

mod connection;
mod pressure;
mod reply;
mod request;
mod shed;
mod substreams;
mod viewer;

pub(crate) use pressure::Pressure;
pub use substreams::SubstreamsConfig;

use crate::{
    error::{Refusal, RunError},
    limits::{ConnectionRate, OpenConnection, OpenConnections},
    lookup::Lookup,
    metrics::Metrics,
    overlay::Overlay,
    pace::{Pace, Rates},
    standing::{Others, Standing},
    transport::{Listeners, Quic},
    warm::Warmer,
    wire::{self, Busy, Code},
};
use libp2p::identity::Keypair;
use quinn::Incoming;
use serde::{Deserialize, Serialize};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};
use substreams::Substreams;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Settings of the shard server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// UDP address to listen on; port 0 takes a free one. Default 0.0.0.0:9003.
    /// `--shard-listen-addr` on the command line.
    pub listen_addr: SocketAddr,
    /// UDP sockets at that address, each with a task of its own; a viewer whose address changes is lost
    /// where there are several. Default 1.
    pub sockets: usize,
    /// Connections at most. Default 2,048; each holds at most 64 KiB of unread requests.
    pub max_connections: u32,
    /// Open connections of one address (IPv6: one /64) at most; 0 for no limit. Default 64.
    pub connections_per_source: u32,
    /// New connections a second in all, and as many at once; 0 for no limit. Default 100.
    pub connections_per_second: u32,
    /// New connections a second from one address (IPv6: one /64), and as many at once; 0 for no
    /// limit. Default 10.
    pub connections_per_second_per_source: u32,
    /// Addresses whose rate is remembered. Default 10,000, about 1 MB.
    pub source_table: usize,
    /// Handshakes that go on at a time before further connections have to prove their address first,
    /// which costs them a round trip and keeps forged ones from using up the rates above. Default 32;
    /// 0 for always.
    pub handshakes_unproven: u32,
    /// Requests of one connection at a time. Default 200.
    pub max_streams: u32,
    /// Requests of all connections at a time; further ones are told to come back. Default 8,192
    /// of about 8 KiB: 64 MiB.
    pub max_requests: usize,
    /// Bytes of bodies a second to all viewers together; 0 for no limit. When it binds, viewers share
    /// it fairly. Default 0.
    pub bytes_per_second: u64,
    /// Bytes of bodies a second to one viewer, whatever others want; 0 for no limit. Default 0.
    pub bytes_per_second_per_viewer: u64,
    /// How long's worth of its own rate a viewer gets at once, after a pause. Default 2 s.
    #[serde(with = "humantime_serde")]
    pub viewer_burst: Duration,
    /// Viewers whose rate is remembered, beyond those that wait for their turn. Default 10,000,
    /// about 3 MB.
    pub viewer_table: usize,
    /// What a viewer gets whose account has the best reputation, in percent of what an unknown one
    /// gets; between 500 and 1,000 it grows evenly. Default 200.
    pub known_weight: u32,
    /// Bytes a second below which a viewer has no use for its share: one that comes when the total
    /// cannot give it that is better served elsewhere. Default 125,000, a film at 1 Mbit/s.
    pub least_share: u64,
    /// Requests, memory or bandwidth taken, in percent, from which prefetches are refused; 0 for
    /// never. Default 75.
    pub shed_prefetch_above: u8,
    /// As above, from which viewers that were not served yet are refused. Default 90.
    pub shed_viewers_above: u8,
    /// What a viewer is told to wait that was refused so. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub shed_retry_after: Duration,
    /// Bytes of blobs held for viewers, from being read until acknowledged. Default 256 MiB.
    pub body_memory: u64,
    /// How long a request waits for room in memory before it is told to come back. Default 1 s.
    #[serde(with = "humantime_serde")]
    pub memory_wait: Duration,
    /// From the first packet to a proven peer. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// A connection without traffic is closed after this. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// From the opening of a stream to the whole request. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// How long a request waits for a fill. Default 20 s.
    #[serde(with = "humantime_serde")]
    pub fill_wait: Duration,
    /// A viewer that takes no 64 KiB of a body in this time is given up. Default 10 s, so 16 MiB
    /// may take 43 minutes at most.
    #[serde(with = "humantime_serde")]
    pub stall_timeout: Duration,
    /// What a viewer is told to wait when the service is busy. Default 1 s.
    #[serde(with = "humantime_serde")]
    pub retry_after: Duration,
    /// Bytes that one connection may have unacknowledged. Default 8 MiB.
    pub send_window: u64,
    /// Bytes of the socket's buffers, each way; the system may allow less. Default 4 MiB.
    pub socket_buffer: usize,
    /// QUIC itself.
    pub quic: Quic,
    /// Requests that come over the overlay.
    pub overlay: SubstreamsConfig,
    /// At shutdown, how long requests in flight may go on. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen_addr: (Ipv4Addr::UNSPECIFIED, 9003).into(),
            sockets: 1,
            max_connections: 2048,
            connections_per_source: 64,
            connections_per_second: 100,
            connections_per_second_per_source: 10,
            source_table: 10_000,
            handshakes_unproven: 32,
            max_streams: 200,
            max_requests: 8192,
            bytes_per_second: 0,
            bytes_per_second_per_viewer: 0,
            viewer_burst: Duration::from_secs(2),
            viewer_table: 10_000,
            known_weight: 200,
            least_share: 125_000,
            shed_prefetch_above: 75,
            shed_viewers_above: 90,
            shed_retry_after: Duration::from_secs(5),
            body_memory: 256 * 1024 * 1024,
            memory_wait: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(5),
            fill_wait: Duration::from_secs(20),
            stall_timeout: Duration::from_secs(10),
            retry_after: Duration::from_secs(1),
            send_window: 8 * 1024 * 1024,
            socket_buffer: 4 * 1024 * 1024,
            quic: Quic::default(),
            overlay: SubstreamsConfig::default(),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// How long peers are waited for to hear that the server is gone; those that do not find out by
/// their idle timeout.
const GOODBYE: Duration = Duration::from_secs(1);

/// Binds the sockets.
///
/// # Errors
/// When the address is taken or is none of this machine.
pub(crate) fn listen(
    config: &Config,
    tls: &quinn::ServerConfig,
    identity: &Keypair,
) -> Result<Listeners, RunError> {
    let addr = config.listen_addr;
    Listeners::bind(config, tls, identity).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => RunError::InUse { addr },
        _ => RunError::Listen { addr, source },
    })
}

/// What a server works with.
pub(crate) struct Deps {
    pub(crate) lookup: Lookup,
    pub(crate) standing: Arc<dyn Standing>,
    pub(crate) others: Others,
    pub(crate) overlay: Option<Arc<dyn Overlay>>,
    /// Told of what is read, where it may fetch what follows.
    pub(crate) warmer: Option<Warmer>,
    pub(crate) metrics: Metrics,
    /// Every blob is denied, for tests of those who watch for that.
    pub(crate) withhold: bool,
}

/// What every connection and request works with.
struct Shared {
    lookup: Lookup,
    standing: Arc<dyn Standing>,
    others: Others,
    warmer: Option<Warmer>,
    pace: Arc<Pace>,
    /// The same for what goes through third nodes, on top.
    circuits: Arc<Pace>,
    withhold: bool,
    config: Config,
    metrics: Metrics,
    /// Handshakes that go on.
    handshakes: Arc<AtomicU32>,
    /// One for each request that may go on.
    requests: Arc<Semaphore>,
    /// Requests going on, for the drain to see the last one end.
    in_flight: watch::Sender<usize>,
    /// New requests are refused from here on.
    draining: CancellationToken,
}

impl Shared {
    fn count(&self, refusal: Refusal) {
        self.metrics.refusals_total.with_label_values(&[refusal.label()]).inc();
    }

    /// When to come back and where else to go, for refusals that are not for ever.
    fn busy(&self, refusal: Refusal) -> Option<Busy> {
        let wait = match (refusal.code(), refusal) {
            (Code::Busy, Refusal::NewViewer) => self.config.shed_retry_after,
            (Code::Busy, _) => self.config.retry_after,
            (Code::ShuttingDown, _) => Duration::ZERO,
            _ => return None,
        };
        let retry_after_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        Some(Busy { retry_after_ms, others: self.others.get().to_vec() })
    }

    /// What is said to a connection that is closed because the service goes down.
    fn farewell(&self) -> Vec<u8> {
        wire::farewell(&self.others.get())
    }

    fn viewers(&self) -> u32 {
        u32::try_from(self.metrics.viewer_connections.get()).unwrap_or(u32::MAX)
    }
}

/// Counts a handshake as long as it lasts.
struct Handshake(Arc<AtomicU32>);

impl Handshake {
    fn begin(count: &Arc<AtomicU32>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves shards until told to stop.
pub(crate) struct Server {
    listeners: Listeners,
    shared: Arc<Shared>,
    rate: ConnectionRate,
    open: OpenConnections,
    substreams: Substreams,
}

impl Server {
    pub(crate) fn new(listeners: Listeners, config: Config, deps: Deps) -> Self {
        let Deps { lookup, standing, others, overlay, warmer, metrics, withhold } = deps;
        let table = NonZeroUsize::new(config.source_table).unwrap_or(NonZeroUsize::MIN);
        let rate = ConnectionRate::new(
            config.connections_per_second,
            config.connections_per_second_per_source,
            table,
            Instant::now(),
        );
        let open = OpenConnections::new(config.connections_per_source);
        let pace = Pace::new(Rates {
            total: config.bytes_per_second,
            viewer: config.bytes_per_second_per_viewer,
            burst: config.viewer_burst,
            lanes: config.viewer_table,
        });
        let circuits = Pace::new(Rates {
            total: config.overlay.circuit_bytes_per_second,
            viewer: 0,
            burst: config.viewer_burst,
            lanes: config.viewer_table,
        });
        let substreams = Substreams::new(overlay, &config.overlay);
        let shared = Shared {
            lookup,
            standing,
            others,
            warmer,
            pace: Arc::new(pace),
            circuits: Arc::new(circuits),
            withhold,
            requests: Arc::new(Semaphore::new(config.max_requests)),
            config,
            metrics,
            handshakes: Arc::default(),
            in_flight: watch::Sender::new(0),
            draining: CancellationToken::new(),
        };
        Self { listeners, shared: Arc::new(shared), rate, open, substreams }
    }

    /// How full the service is, for those who do what nobody waits for.
    pub(crate) fn pressure(&self) -> Pressure {
        Pressure::of(&self.shared)
    }

    /// Serves until `stop`, then drains.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        // Ends with this function, after the last viewer had its turn.
        let mut pacing = JoinSet::new();
        for pace in [&self.shared.pace, &self.shared.circuits] {
            if !pace.is_free() {
                let pace = Arc::clone(pace);
                pacing.spawn(async move { pace.run().await });
            }
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                incoming = self.listeners.accept() => match incoming {
                    Some(incoming) => self.accept(incoming, &mut connections),
                    // The socket failed; the driver reports that the server has ended.
                    None => return,
                },
                substream = self.substreams.next() => {
                    self.substreams.accept(substream, &self.shared);
                }
                // The panic hook has reported a panic; the others go on.
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
            }
        }
        self.drain(&mut connections).await;
    }

    fn accept(&mut self, incoming: Incoming, connections: &mut JoinSet<()>) {
        let config = &self.shared.config;
        let handshakes = self.shared.handshakes.load(Ordering::Relaxed);
        if handshakes >= config.handshakes_unproven && incoming.may_retry() {
            self.shared.metrics.address_checks_total.inc();
            if let Err(error) = incoming.retry() {
                error.into_incoming().refuse();
            }
            return;
        }
        let max = usize::try_from(config.max_connections).unwrap_or(usize::MAX);
        let addr = incoming.remote_address().ip();
        let admitted =
            if connections.len() >= max { Err(Refusal::Connections) } else { self.admit(addr) };
        match admitted {
            Err(refusal) => {
                self.shared.count(refusal);
                incoming.refuse();
            }
            Ok(open) => {
                let handshake = Handshake::begin(&self.shared.handshakes);
                let serving = connection::serve(incoming, handshake, Arc::clone(&self.shared));
                connections.spawn(async move {
                    let _open = open;
                    serving.await;
                });
            }
        }
    }

    /// What one address may have open is asked first: its refusals cost the others no turn.
    fn admit(&mut self, addr: IpAddr) -> Result<OpenConnection, Refusal> {
        let open = self.open.admit(addr).ok_or(Refusal::SourceConnections)?;
        match self.rate.admit(addr, Instant::now()) {
            true => Ok(open),
            false => Err(Refusal::ConnectionRate),
        }
    }

    async fn drain(self, connections: &mut JoinSet<()>) {
        let Self { listeners, shared, mut substreams, .. } = self;
        shared.draining.cancel();
        let mut in_flight = shared.in_flight.subscribe();
        let done = async {
            tokio::select! {
                _ = in_flight.wait_for(|requests| *requests == 0) => {}
                () = async {
                    while let Some(incoming) = listeners.accept().await {
                        shared.count(Refusal::ShuttingDown);
                        incoming.refuse();
                    }
                } => {}
                () = substreams.refuse_all(&shared) => {}
            }
        };
        if timeout(shared.config.drain_timeout, done).await.is_err() {
            let requests = *in_flight.borrow();
            tracing::warn!("{requests} requests did not finish in time and are cut off");
        }
        listeners.close(Code::ShuttingDown.into(), &shared.farewell());
        // Each connection sees the close and ends. One that were dropped first would close with
        // code 0, as if nothing were the matter.
        let told = async {
            while connections.join_next().await.is_some() {}
            listeners.wait_idle().await;
        };
        let _ = timeout(GOODBYE, told).await;
        connections.shutdown().await;
        substreams.shutdown().await;
    }
}
