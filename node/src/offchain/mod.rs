//! The services that run beside the chain, and what owns what.
//!
//! ```text
//! chain view   follows the client; owns the reputation snapshot          (chain_view)
//! overlay      the libp2p network; owns its swarm                        (overlay -> nsn_p2p)
//! relay        origin, cache, shard service; owns files and connections  (relay -> nsn_relay)
//! wiring       tells the overlay what the relay serves, and the relay what is announced (wiring)
//! region       lists a relay under its region as it changes, finds the relays of one (region)
//! audit        of a validator: sees who serves what they claim, and reports it (audit, reporter)
//! ```
//!
//! They run on a runtime of their own ([`runtime`]), each under a supervisor ([`supervisor`]) that
//! starts it anew after a panic or error. So nobody holds a service's handle for long: it stands in
//! a [`Slot`], which is empty while the service is down.
//!
//! Start: chain view, overlay, relay, wiring, audit. Stop, in [`run`]: audit, wiring (it tells the
//! overlay that this node serves nothing any more) and relay (it finishes what its viewers are being
//! sent), then overlay, then chain view.

pub mod accounts;
pub mod announcements;
mod announcer;
pub mod audit;
pub mod chain_view;
pub mod directory;
pub mod inbox;
mod overlay;
pub mod publish;
pub mod region;
mod relay;
mod reporter;
mod runtime;
mod substreams;
mod supervisor;
mod wiring;

use std::{future::Future, path::PathBuf, sync::Arc, time::Duration};

use nsn_p2p::{Overlay, peers::Region};
use nsn_relay::Relay;
use prometheus_endpoint::{PrometheusError, Registry};
use sc_network::config::NetworkConfiguration;
use sc_service::TaskManager;
use sp_consensus::SyncOracle;
use sp_keystore::KeystorePtr;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    config,
    service::{Client, Pool},
};
use accounts::Accounts;
use announcements::Announcements;
use announcer::Announcer;
use chain_view::{ChainView, ClientChain};
use directory::Directory;
use inbox::Inbox;
use publish::Publisher;
use substreams::Substreams;
use supervisor::{BoxError, Running};

pub use supervisor::Slot;

/// Why the services could not even be prepared. What fails later is their supervisors' matter.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The node's network key.
    #[error("the node's network key cannot be read: {0}")]
    NodeKey(std::io::Error),
    /// The node's network key is no ed25519 key.
    #[error(transparent)]
    Identity(#[from] nsn_p2p::identity::IdentityError),
    /// The data folder.
    #[error("{}: {source}. The node needs a data folder that it may write to (--base-path)", .path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A metric's name is taken.
    #[error("metrics cannot be registered: {0}")]
    Metrics(#[from] PrometheusError),
    /// No threads.
    #[error(transparent)]
    Runtime(#[from] runtime::StartError),
}

/// What the services are made from.
pub struct Params<'a> {
    /// Settings in force.
    pub settings: config::Effective,
    /// The chain.
    pub client: Arc<Client>,
    /// Hash of block 0; part of every overlay protocol's name.
    pub genesis: nsn_runtime::Hash,
    /// For the network key.
    pub network: &'a NetworkConfiguration,
    /// The node's data folder.
    pub base_path: PathBuf,
    /// The node's metrics.
    pub registry: Option<Registry>,
    /// What a validator needs beside that; `None` for a node that is none.
    pub validator: Option<Validator>,
}

/// What a validator audits and reports with.
pub struct Validator {
    /// Holds the session keys.
    pub keystore: KeystorePtr,
    /// Takes the reports.
    pub pool: Arc<Pool>,
    /// Tells whether the node is still catching up with the chain.
    pub sync: Arc<dyn SyncOracle + Send + Sync>,
}

/// What others may hold of the services. Cheap to clone.
#[derive(Clone)]
pub struct Handles {
    /// The chain's facts.
    pub chain: ChainView,
    /// The overlay, while it runs.
    pub overlay: Slot<Overlay>,
    /// The shard service, while it runs.
    pub relay: Slot<Relay>,
    /// Who holds what.
    pub directory: Directory,
    /// The region that this node is in.
    pub region: region::Own,
    /// Who answers for whom.
    pub accounts: Accounts,
    /// Finds relays by region.
    pub relays: region::Finder,
    /// Publishing.
    pub publisher: Publisher,
    /// New content heard of.
    pub announcements: Announcements,
}

/// The started services.
pub struct Offchain {
    /// For the RPC.
    pub handles: Handles,
    guard: runtime::Guard,
    fatal: CancellationToken,
}

impl Offchain {
    /// Ties the services to the node's life: they drain when it stops, and it stops when a service
    /// fails under `--service-failure=exit`.
    pub fn attach(self, task_manager: &mut TaskManager) {
        let fatal = self.fatal;
        task_manager.spawn_essential_handle().spawn("nsn-services", None, async move {
            // An essential task ends the node when it returns.
            fatal.cancelled().await;
        });
        task_manager.keep_alive(self.guard);
    }
}

/// The services' metrics; registered once, kept across restarts of a service.
#[derive(Clone)]
struct Metrics {
    chain_view: chain_view::Metrics,
    supervisor: supervisor::Metrics,
    overlay: nsn_p2p::Metrics,
    relay: nsn_relay::Metrics,
    announcer: announcer::Metrics,
    /// Only where the node audits.
    audit: Option<(audit::Metrics, reporter::Metrics)>,
}

impl Metrics {
    /// In the node's registry; in one of their own that nobody reads where the node has none
    /// (`--no-prometheus`), so that counting needs no second way.
    fn register(registry: Option<&Registry>, audits: bool) -> Result<Self, PrometheusError> {
        let unread = Registry::new();
        let registry = registry.unwrap_or(&unread);
        Ok(Self {
            chain_view: chain_view::Metrics::register(registry)?,
            supervisor: supervisor::Metrics::register(registry)?,
            overlay: nsn_p2p::Metrics::register(registry)?,
            relay: nsn_relay::Metrics::register(registry)?,
            announcer: announcer::Metrics::register(registry)?,
            audit: match audits {
                true => Some((
                    audit::Metrics::register(registry)?,
                    reporter::Metrics::register(registry)?,
                )),
                false => None,
            },
        })
    }
}

/// Builds the services and starts them on their own threads.
///
/// # Errors
/// See [`StartError`].
pub fn start(params: Params<'_>) -> Result<Offchain, StartError> {
    let Params { settings, client, genesis, network, base_path, registry, validator } = params;
    let config::Effective { settings, fault, withhold } = settings;
    // Without the overlay there is nobody to audit.
    let validator = validator.filter(|_| settings.audit.enabled && !settings.no_overlay);
    let metrics = Metrics::register(registry.as_ref(), validator.is_some())?;
    let secret = network_secret(network)?;
    let (chain, chain_driver) =
        chain_view::build(ClientChain::new(client.clone()), metrics.chain_view.clone());
    let inbox_path = base_path.join("inbox");
    let inbox = Inbox::at(inbox_path.clone())
        .map_err(|source| StartError::Folder { path: inbox_path, source })?;

    let overlay_config =
        nsn_p2p::Config { dir: Some(base_path.join("overlay")), ..settings.overlay.clone() };
    let mut shard_config = settings.shards.clone();
    // Whoever asks the directory waits for its two steps; less would throw away what the first found.
    shard_config.upstream.directory_timeout = shard_config
        .upstream
        .directory_timeout
        .max(overlay_config.dht.query_timeout + directory::RECORD_LIMIT);

    let shutdown = CancellationToken::new();
    let fatal = CancellationToken::new();
    let policy = supervisor::Policy {
        on_failure: settings.service_failure,
        fatal: fatal.clone(),
        metrics: metrics.supervisor.clone(),
        first_pause: supervisor::FIRST_PAUSE,
    };
    let overlay = Slot::empty();
    let relay = Slot::empty();
    let announcements = Announcements::default();
    let addresses = overlay_config.address_policy;
    let max_cached = overlay_config.dht.max_cached;
    let heard = announcements.clone();
    let directory = Directory::new(overlay.clone(), chain.clone(), addresses, max_cached, heard);
    let relays =
        region::Finder::new(settings.regions.clone(), overlay.clone(), chain.clone(), addresses);

    let threads = runtime::Threads::new(settings.service_threads)?;
    let announcer = Announcer::new(overlay.clone(), metrics.announcer.clone());
    let publisher = Publisher::new(inbox, relay.clone(), announcer.clone(), threads.handle());
    let own = nsn_p2p::Identity::from_secret(secret)?.key();
    let region: Option<Region> = settings.region.as_deref().and_then(|name| name.parse().ok());
    let own_region = region::Own::new(region);
    let listed = settings.relay.then(|| {
        let region = own_region.clone();
        region::Provider::new(region, own, chain.clone(), overlay.clone(), relay.clone())
    });
    let accounts = Accounts::new(client.clone());
    let audit = validator.zip(metrics.audit).map(|(validator, (metrics, reports))| {
        let Validator { keystore, pool, sync } = validator;
        let reporter = reporter::Reporter {
            client: client.clone(),
            pool,
            keystore,
            genesis: genesis.0,
            metrics: reports,
        };
        audit::Service {
            config: settings.audit.clone(),
            slot: Duration::from_millis(nsn_runtime::SLOT_DURATION_MS),
            client,
            reporter: Arc::new(reporter),
            sync,
            view: chain.clone(),
            overlay: overlay.clone(),
            policy: addresses,
            file: base_path.join("audit").join("known"),
            own,
            metrics,
        }
    });
    let services = Services {
        chain_driver,
        policy,
        overlay: (!settings.no_overlay).then(|| overlay::Service {
            config: overlay_config,
            secret,
            genesis: genesis.0,
            chain: chain.clone(),
            metrics: metrics.overlay.clone(),
            slot: overlay.clone(),
        }),
        relay: (settings.super_node || settings.relay).then(|| relay::Service {
            config: shard_config,
            secret,
            origin_dir: settings.super_node.then(|| base_path.join("shards")),
            cache_dir: settings.relay.then(|| base_path.join("relay")),
            region: settings.region.as_deref().and_then(|name| name.parse().ok()),
            directory: directory.clone(),
            substreams: (!settings.no_overlay).then(|| Substreams::new(overlay.clone())),
            metrics: metrics.relay.clone(),
            slot: relay.clone(),
            withhold,
        }),
        wiring: wiring::Wiring {
            overlay: overlay.clone(),
            relay: relay.clone(),
            announcements: announcements.clone(),
            announcer,
            announce_every: settings.announce_every,
            region: own_region.clone(),
            relays: relays.clone(),
            listed,
            super_node: settings.super_node,
            relay_role: settings.relay,
            chain: chain.clone(),
            accounts: accounts.clone(),
        },
        audit,
        fault,
    };
    let guard = threads.run(settings.drain_limit, shutdown.clone(), run(services, shutdown))?;
    let handles = Handles {
        chain,
        overlay,
        relay,
        directory,
        region: own_region,
        accounts,
        relays,
        publisher,
        announcements,
    };
    Ok(Offchain { handles, guard, fatal })
}

/// The secret of the node's network key, which is the overlay's key too: one operator, one PeerId.
fn network_secret(network: &NetworkConfiguration) -> Result<[u8; 32], StartError> {
    let pair = network.node_key.clone().into_keypair().map_err(StartError::NodeKey)?;
    let mut secret = [0; 32];
    for (to, from) in secret.iter_mut().zip(pair.secret().as_ref()) {
        *to = *from;
    }
    Ok(secret)
}

/// Everything that [`run`] keeps running.
struct Services {
    chain_driver: chain_view::Driver<ClientChain<Client>>,
    policy: supervisor::Policy,
    overlay: Option<overlay::Service>,
    relay: Option<relay::Service>,
    wiring: wiring::Wiring,
    audit: Option<audit::Service<Client, Pool>>,
    fault: Option<config::Fault>,
}

/// Runs all services until `shutdown`, then stops them in order. Every task that it spawns is joined
/// here, or aborted when this future is dropped at the drain limit.
async fn run(services: Services, shutdown: CancellationToken) {
    let Services { chain_driver, policy, overlay, relay, wiring, audit, fault } = services;
    let [stop_chain, stop_overlay, stop_relay] = std::array::from_fn(|_| CancellationToken::new());
    let fault_of = |name: &str| fault.clone().filter(|fault| fault.service == name);

    let mut chain = JoinSet::new();
    chain.spawn(watch_chain(chain_driver, policy.clone(), stop_chain.clone()));
    let mut overlays = JoinSet::new();
    if let Some(overlay) = overlay {
        overlays.spawn(overlay.run(policy.clone(), fault_of("overlay"), stop_overlay.clone()));
    }
    let mut relays = JoinSet::new();
    if let Some(relay) = relay {
        relays.spawn(relay.run(policy.clone(), fault_of("relay"), stop_relay.clone()));
    }
    let mut wirings = JoinSet::new();
    wirings.spawn(wiring.run(policy.clone(), stop_relay.clone()));
    if let Some(audit) = audit {
        wirings.spawn(audit.run(policy, stop_relay.clone()));
    }

    shutdown.cancelled().await;
    tracing::info!(target: "nsn::services", "stopping: draining viewers, then leaving the overlay");
    stop_relay.cancel();
    joined(wirings).await;
    joined(relays).await;
    stop_overlay.cancel();
    joined(overlays).await;
    stop_chain.cancel();
    joined(chain).await;
    tracing::info!(target: "nsn::services", "off-chain services stopped");
}

async fn watch_chain(
    driver: chain_view::Driver<ClientChain<Client>>,
    policy: supervisor::Policy,
    shutdown: CancellationToken,
) {
    let driver = Arc::new(driver);
    let start = move |token| -> Result<((), Running), BoxError> {
        let running = driver.clone().run(token);
        Ok((
            (),
            Box::pin(async move {
                running.await;
                Ok(())
            }),
        ))
    };
    supervisor::supervise("chain_view", policy, Slot::empty(), shutdown, start).await;
}

/// Waits for all of `tasks`; a panic in one was already told of by the panic hook.
async fn joined(mut tasks: JoinSet<()>) {
    while tasks.join_next().await.is_some() {}
}

/// Runs a driver; if a test asked for it, panics in its place after a while, once.
fn with_fault(
    driver: impl Future<Output = Result<(), BoxError>> + Send + 'static,
    fault: &mut Option<config::Fault>,
) -> Running {
    let Some(fault) = fault.take() else { return Box::pin(driver) };
    Box::pin(async move {
        tokio::select! {
            end = driver => end,
            () = tokio::time::sleep(fault.after) => {
                #[allow(clippy::panic, reason = "what --test-panic asks for")]
                {
                    panic!("asked for by --test-panic");
                }
            }
        }
    })
}
