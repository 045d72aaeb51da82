//! Audits: a validator sees for itself whether those who serve shards serve them.
//!
//! In each window of blocks the chain tells every reporter whom to audit. This service fetches random
//! parts of what they claim to hold, as any viewer would, counts what came of it, and hands one signed
//! report in. The chain takes the median of what a peer's whole committee reports.
//!
//! ```text
//!   chain view ── heads ──▶ driver ── duty? ──▶ runtime API
//!                             │  ▲
//!               lookup, probe │  │ answers           one window at a time:
//!                             ▼  │                   plan    who is asked what, when   (pure)
//!   overlay, subjects ◀──── net ─┘                   window  audit, then report        (pure)
//!         │                   │
//!         │ `video`           ▼
//!         └────────────▶ catalogue                   reporter ──▶ transaction pool
//! ```
//!
//! | file | what |
//! |---|---|
//! | `plan.rs` | the probes of one window: their times, their bounds, what counts |
//! | `window.rs` | when to report, and until when to insist |
//! | `catalogue.rs` | contents announced, their manifests, where subjects serve |
//! | `memory.rs` | the most of that, on disk |
//! | `driver.rs` | carries both out, from block to block |
//! | `net.rs` | directory, service records, probes |
//! | `chain.rs` | duty and keys |
//!
//! A probe comes under a fresh key and asks for a random 16 KiB group of a random shard, so a subject
//! cannot serve auditors alone by their key; an address it can know.

mod catalogue;
mod chain;
mod config;
mod driver;
mod memory;
mod metrics;
mod net;
mod plan;
mod window;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nsn_p2p::{AddressPolicy, Overlay, OverlayKey, gossip};
use nsn_relay::{BlobId, ContentId, client::probe::Prober};
use nsn_runtime::opaque::Block;
use pallet_audits_runtime_api::AuditsApi;
use sc_transaction_pool_api::TransactionPool;
use sp_api::ProvideRuntimeApi;
use sp_consensus::SyncOracle;
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub(super) use metrics::Metrics;

use super::{
    Slot,
    chain_view::ChainView,
    reporter::{Reporter, ReporterId, ReporterSignature},
    supervisor::{BoxError, Policy, Running, supervise},
};
use catalogue::Catalogue;
use memory::Memory;

/// What the auditor is built from, each time.
pub(super) struct Service<C, P> {
    pub(super) config: Config,
    /// The time between blocks.
    pub(super) slot: Duration,
    pub(super) client: Arc<C>,
    pub(super) reporter: Arc<Reporter<C, P>>,
    /// Tells whether the node is still catching up.
    pub(super) sync: Arc<dyn SyncOracle + Send + Sync>,
    pub(super) view: ChainView,
    pub(super) overlay: Slot<Overlay>,
    /// Which addresses may be dialled.
    pub(super) policy: AddressPolicy,
    /// Where what is known of subjects is kept.
    pub(super) file: PathBuf,
    /// This node's own overlay key.
    pub(super) own: OverlayKey,
    pub(super) metrics: Metrics,
}

impl<C, P> Service<C, P>
where
    C: ProvideRuntimeApi<Block> + Send + Sync + 'static,
    C::Api: AuditsApi<Block, ReporterId, ReporterSignature>,
    P: TransactionPool<Block = Block> + 'static,
{
    /// Runs until `shutdown`, under a supervisor. What was learned stays when it is started again.
    pub(super) async fn run(self, policy: Policy, shutdown: CancellationToken) {
        let budget = usize::try_from(self.config.manifest_bytes).unwrap_or(usize::MAX);
        let memory = Memory::at(self.file.clone());
        let mut catalogue = Catalogue::new(budget);
        catalogue.recall(memory.load());
        let catalogue = Arc::new(Mutex::new(catalogue));
        let chain = Arc::new(chain::NodeChain {
            client: self.client.clone(),
            reporter: self.reporter.clone(),
            sync: self.sync.clone(),
        });
        let start = move |token: CancellationToken| -> Result<((), Running), BoxError> {
            let net = net::Network {
                config: self.config.clone(),
                overlay: self.overlay.clone(),
                catalogue: catalogue.clone(),
                policy: self.policy,
                prober: Prober::new(self.config.probe.clone())?,
            };
            let prober = net.prober.clone();
            let driver = driver::Driver::new(
                self.config.clone(),
                self.slot,
                chain.clone(),
                net,
                self.view.heads(),
                catalogue.clone(),
                memory.clone(),
                self.own,
                self.metrics.clone(),
            );
            let listening = listen(self.overlay.clone(), self.view.clone(), catalogue.clone());
            let running = async move {
                let end = tokio::select! {
                    end = driver.run(token) => end,
                    () = listening => Ok(()),
                };
                prober.close().await;
                end
            };
            Ok(((), Box::pin(running)))
        };
        supervise("audit", policy, Slot::empty(), shutdown, start).await;
    }
}

/// Takes in who announces what, for as long as there may be an overlay.
async fn listen(overlay: Slot<Overlay>, view: ChainView, catalogue: Arc<Mutex<Catalogue>>) {
    let mut overlays = overlay.watch();
    loop {
        let overlay = overlays.borrow_and_update().clone();
        let video = overlay.map(|overlay| overlay.gossip.subscribe(gossip::Topic::Video));
        if let Some(Ok(mut video)) = video {
            while let Some(message) = video.recv().await {
                // What is no announcement is live video, and not ours.
                if let Ok(announced) = gossip::Announcement::from_bytes(&message.payload) {
                    let author = message.author_key;
                    let bound = view.scores(&author).is_some();
                    let content = ContentId(BlobId(announced.content_id));
                    let mut catalogue = catalogue.lock().unwrap_or_else(PoisonError::into_inner);
                    catalogue.hear(author, content, bound);
                }
            }
        }
        if overlays.changed().await.is_err() {
            return;
        }
    }
}
