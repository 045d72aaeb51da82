//! The overlay as a supervised service, and reputation as the overlay sees it.

use std::sync::Arc;

use nsn_p2p::{Overlay, Standing};
use tokio_util::sync::CancellationToken;

use super::{
    Slot,
    chain_view::ChainView,
    supervisor::{Policy, supervise},
    with_fault,
};
use crate::config;

/// What the overlay is built from, each time.
pub(super) struct Service {
    pub(super) config: nsn_p2p::Config,
    pub(super) secret: [u8; 32],
    pub(super) genesis: [u8; 32],
    pub(super) chain: ChainView,
    pub(super) metrics: nsn_p2p::Metrics,
    pub(super) slot: Slot<Overlay>,
}

impl Service {
    pub(super) async fn run(
        self,
        policy: Policy,
        mut fault: Option<config::Fault>,
        shutdown: CancellationToken,
    ) {
        let Self { config, secret, genesis, chain, metrics, slot } = self;
        supervise("overlay", policy, slot, shutdown, move |token| {
            let (overlay, driver) = nsn_p2p::build(
                config.clone(),
                nsn_p2p::Deps {
                    identity: nsn_p2p::Identity::from_secret(secret)?,
                    genesis_hash: genesis,
                    reputation: Arc::new(chain.clone()),
                    reputation_changed: chain.changes(),
                    metrics: metrics.clone(),
                },
            )?;
            let running = async move { driver.run(token).await.map_err(Into::into) };
            Ok((overlay, with_fault(running, &mut fault)))
        })
        .await;
    }
}

/// The chain's reputation, for the overlay, which decides by it whom to refuse: the finalised state,
/// which no reorg takes back.
impl nsn_p2p::Reputation for ChainView {
    fn standing(&self, key: &[u8; 32]) -> Option<Standing> {
        self.scores(key).map(|scores| Standing {
            total: scores.total(),
            director: scores.director,
            validator: scores.validator,
            seeder: scores.seeder,
        })
    }

    fn is_validator(&self, key: &[u8; 32]) -> bool {
        Self::is_validator(self, key)
    }
}
