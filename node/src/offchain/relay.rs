//! The shard service (origin and relay) as a supervised service.

use std::{path::PathBuf, sync::Arc};

use libp2p::identity::Keypair;
use nsn_relay::Relay;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Slot,
    directory::Directory,
    substreams::Substreams,
    supervisor::{Policy, supervise},
    with_fault,
};
use crate::config;

/// What the shard service is built from, each time.
pub(super) struct Service {
    pub(super) config: nsn_relay::Config,
    pub(super) secret: [u8; 32],
    pub(super) origin_dir: Option<PathBuf>,
    pub(super) cache_dir: Option<PathBuf>,
    /// The region that the operator names.
    pub(super) region: Option<nsn_relay::Region>,
    pub(super) directory: Directory,
    /// `None` where there is no overlay.
    pub(super) substreams: Option<Substreams>,
    pub(super) metrics: nsn_relay::Metrics,
    pub(super) slot: Slot<Relay>,
    pub(super) withhold: bool,
}

impl Service {
    pub(super) async fn run(
        self,
        policy: Policy,
        mut fault: Option<config::Fault>,
        shutdown: CancellationToken,
    ) {
        let Self {
            config,
            secret,
            origin_dir,
            cache_dir,
            region,
            directory,
            substreams,
            metrics,
            slot,
            withhold,
        } = self;
        supervise("relay", policy, slot, shutdown, move |token| {
            let (relay, driver) = nsn_relay::build(
                config.clone(),
                nsn_relay::Deps {
                    identity: Keypair::ed25519_from_bytes(secret)?,
                    directory: Arc::new(directory.clone()),
                    standing: Arc::new(directory.clone()),
                    overlay: substreams
                        .clone()
                        .map(|over| Arc::new(over) as Arc<dyn nsn_relay::Overlay>),
                    origin_dir: origin_dir.clone(),
                    cache_dir: cache_dir.clone(),
                    metrics: metrics.clone(),
                    region: region.clone(),
                    withhold,
                },
            )?;
            let running = async move { Box::pin(driver.run(token)).await.map_err(Into::into) };
            Ok((relay, with_fault(running, &mut fault)))
        })
        .await;
    }
}

/// Ends when what is watched of a service changes; never where there is none, or no more.
pub(in crate::offchain) async fn next_change<T>(watched: Option<&mut watch::Receiver<T>>) {
    if let Some(watched) = watched
        && watched.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}
