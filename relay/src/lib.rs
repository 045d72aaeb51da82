//! Origin and relay of an NSN node: it stores shards, caches them, serves them over QUIC and
//! fetches what it lacks.
//!
//! # The life of a shard request
//!
//! ```text
//!  viewer                                                         other nodes
//!    │ QUIC, or the overlay                                             ▲
//!    ▼                                                                  │ QUIC, or the overlay
//!  server     accept ─ limits ─ handshake ─ read the request ─ shed     │
//!    │                                                                  │
//!    ▼                                                                  │
//!  lookup     origin's store ── held ──────────────┐                    │
//!    │ not held                                    │                    │
//!    ├────── cache ─────────── hit ────────────────┤ a body, with room  │
//!    │ miss                                        │ for it in memory   │
//!    └────── fill, one for all who wait ───────────┤                    │
//!              │            ▲   group by group     ▼                    │
//!              ▼            │                   send, until acknowledged│
//!            upstream     verify ◀── ask, hedge, go on ◀── rank ────────┘
//!                           │
//!                           └─ whole: admit to the cache, announce
//! ```
//!
//! 1. **Accept** ([`server`]): a connection is refused before its handshake when there are too many
//!    or they come too fast, and proves its address first when many come at once. TLS proves the
//!    peer's identity. Nodes that cannot reach this one's port come over the [`overlay`], and are
//!    limited by who they are.
//! 2. **Request** ([`wire`]): one stream, one frame, bounded in bytes and in time. When there is too
//!    much to do, prefetches are refused first, then viewers that come anew.
//! 3. **Lookup**: what is on disk is verified as it is read, 16 KiB by 16 KiB; what is damaged is put
//!    aside and counts as absent.
//! 4. **Fill** ([`fill`]): a miss joins the blob's fill, which belongs to no viewer, and reads what
//!    comes as it comes (`body`).
//! 5. **Upstream** ([`upstream`]): super-nodes of the settings, relays of the region and whomever the
//!    [`Directory`] names are ranked by what was measured of them. The best is asked, another when it
//!    is slow, silent or has failed; that one goes on at the byte reached. Every 16 KiB are verified
//!    as they arrive.
//! 6. **Admit** ([`cache`]): kept in memory, and on disk if it is asked for more often than what has to
//!    make room; written under a temporary name, synced, renamed.
//! 7. **Send**: from memory that was set aside, in pieces that wait for their turn where the rate is
//!    limited (`pace`: viewers share it fairly, a seek before a prefetch) and that the viewer has to
//!    take in time; raw, or with the hashes that let each 16 KiB verify as it arrives ([`wire`]). A body that cannot be
//!    completed ends in a stream reset with a [`Code`](wire::Code).
//!
//! Without being asked, a relay fetches new content that is announced, and what follows the shard that
//! somebody reads ([`warm`]), and finds out in which region it is ([`region`]).
//!
//! A super-node publishes files into the origin's store ([`content::publish`]); the [`client`] is a
//! viewer of its own, and asks whether others serve what they claim to hold ([`client::probe`]).
//!
//! # Tasks
//!
//! [`build`] makes a handle and a [`Driver`] and touches nothing. The driver runs: the server, one
//! task for each connection (`server.max_connections`) and each request (`server.max_requests`), and
//! two that give turns where the rate is limited; the fills (`fill.parallel`); the health checks of
//! sources; what fetches ahead (`warm.parallel`); the measuring of regions; the announcer; the
//! publisher (`publish.publishes`); what the cache does by
//! itself. All are joined when it ends.

pub mod announce;
mod body;
pub mod cache;
pub mod client;
mod config;
pub mod content;
mod driver;
mod error;
pub mod fill;
mod handle;
mod limits;
pub mod load;
mod lookup;
mod metrics;
pub mod overlay;
mod pace;
pub mod region;
pub mod server;
mod standing;
pub mod store;
mod sync;
#[cfg(test)]
mod tests;
mod transport;
pub mod upstream;
pub mod warm;
pub mod wire;

pub use config::Config;
pub use content::{BlobId, ContentId, Manifest, Progress, ShardId, Stage};
pub use driver::Driver;
pub use error::{BuildError, Refusal, RunError};
pub use handle::{NotReady, Phase, PrefetchStatus, Relay, RelayStatus, Status};
pub use metrics::Metrics;
pub use overlay::{OpenError, Overlay, Substream};
pub use region::Region;
pub use standing::{Standing, Unknown};
pub use transport::{Cipher, Congestion, Quic, TlsError};
pub use upstream::{Class, Directory, DirectoryError, Record, Source, SuperNode, TellError};
pub use warm::{Account, Announced, Patron};

use cache::Cache;
use handle::Shared;
use libp2p::identity::Keypair;
use std::{path::PathBuf, sync::Arc};
use store::{Disk, Files, Origin};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// What a shard service needs from its surroundings.
pub struct Deps {
    /// The node's network key; connections prove it.
    pub identity: Keypair,
    /// Who holds what.
    pub directory: Arc<dyn Directory>,
    /// Who answers for its viewers.
    pub standing: Arc<dyn Standing>,
    /// The way to and from nodes whose shard service has no address; `None` where there is no overlay.
    pub overlay: Option<Arc<dyn Overlay>>,
    /// What it counts. Registered once by the caller, so that a service that is built again goes on
    /// counting.
    pub metrics: Metrics,
    /// Folder of the origin's store; with it the node is a super-node.
    pub origin_dir: Option<PathBuf>,
    /// Folder of the relay's cache; with it the node is a relay.
    pub cache_dir: Option<PathBuf>,
    /// The region that the operator names; without one, a relay finds out.
    pub region: Option<Region>,
    /// Answer every question for a blob with `not found`, as if none were held, while all else goes
    /// on: what is held is announced, published, cached. For networks that test whether those who
    /// claim and do not deliver are noticed.
    pub withhold: bool,
}

/// Makes a shard service. No I/O happens before [`Driver::run`].
///
/// # Errors
/// When a setting is out of bounds or no folder is given.
pub fn build(config: Config, deps: Deps) -> Result<(Relay, Driver), BuildError> {
    config.validate()?;
    let Deps {
        identity,
        directory,
        standing,
        overlay,
        metrics,
        origin_dir,
        cache_dir,
        region,
        withhold,
    } = deps;
    if origin_dir.is_none() && cache_dir.is_none() {
        return Err(BuildError::NoRole);
    }
    let tls = transport::server_config(&identity, &config.server)?;
    let disk = Disk::new(config.store.parallel, metrics.clone());
    let files = |root| Files::new(root, &config.store, disk.clone());
    let origin = origin_dir.map(|dir| Arc::new(Origin::new(files(dir), &config.store)));
    let cache =
        cache_dir.map(|dir| Arc::new(Cache::new(files(dir), &config.cache, metrics.clone())));
    let (fills, fill_runner) = fill::build(&config.fill);
    let held = announce::Holdings {
        origin: origin.clone(),
        cache: cache.clone().filter(|_| config.fill.announce),
    };
    let (announcer, announce_runner) =
        announce::build(&config.announce, Arc::clone(&directory), Arc::new(held), metrics.clone());
    let (publish_sender, publishes) = mpsc::channel(config.publish.publishes);
    let others = standing::Others::default();
    let own = region::Own::new(region);
    let (warmer, inbox) = warm::build(&config.warm, metrics.clone());
    let upstream = Arc::default();
    let drain = CancellationToken::new();
    let (phase, phase_receiver) = watch::channel(Phase::Starting);

    let shared = Shared {
        us: identity.public().to_peer_id(),
        origin: origin.clone(),
        cache: cache.clone(),
        fills: fills.clone(),
        announcer: config.fill.announce.then(|| announcer.clone()),
        metrics: metrics.clone(),
        max_connections: config.server.max_connections,
        phase: phase_receiver,
        publishes: publish_sender,
        others: others.clone(),
        own: own.clone(),
        warmer: cache.is_some().then(|| warmer.clone()),
        upstream: Arc::clone(&upstream),
        explaining: tokio::sync::Mutex::default(),
        drain: drain.clone(),
    };
    let driver = Driver {
        config,
        identity,
        directory,
        standing,
        others,
        overlay,
        upstream,
        drain,
        metrics,
        disk,
        tls,
        origin,
        cache,
        fills,
        fill_runner,
        announcer,
        announce_runner,
        own,
        warmer,
        inbox,
        publishes,
        phase,
        withhold,
    };
    Ok((Relay { shared: Arc::new(shared) }, driver))
}
