//! The client, the keystore and the pool as what the auditor needs of them.

use std::sync::Arc;

use nsn_runtime::{Hash, opaque::Block};
use pallet_audits_runtime_api::{AuditsApi, Duty, Report};
use sc_transaction_pool_api::TransactionPool;
use sp_api::ProvideRuntimeApi;
use sp_consensus::SyncOracle;
use sp_core::sr25519;

use super::driver::Chain;
use crate::offchain::{
    reporter::{Reporter, ReporterId, ReporterSignature},
    supervisor::BoxError,
};

/// A full node as a [`Chain`].
pub(super) struct NodeChain<C, P> {
    pub(super) client: Arc<C>,
    pub(super) reporter: Arc<Reporter<C, P>>,
    pub(super) sync: Arc<dyn SyncOracle + Send + Sync>,
}

impl<C, P> Chain for NodeChain<C, P>
where
    C: ProvideRuntimeApi<Block> + Send + Sync + 'static,
    C::Api: AuditsApi<Block, ReporterId, ReporterSignature>,
    P: TransactionPool<Block = Block> + 'static,
{
    fn keys(&self) -> Vec<sr25519::Public> {
        self.reporter.keys()
    }

    fn duty(&self, at: Hash, key: &sr25519::Public) -> Result<Option<Duty>, BoxError> {
        Ok(self.client.runtime_api().duty(at, (*key).into())?)
    }

    async fn report(&self, at: Hash, key: sr25519::Public, report: Report) {
        self.reporter.clone().report(at, key, report).await;
    }

    fn is_catching_up(&self) -> bool {
        self.sync.is_major_syncing()
    }
}
