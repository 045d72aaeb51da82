//! The chain's own block network (not the overlay), and the runtime's off-chain workers that use it.

use std::sync::Arc;

use futures::FutureExt;
use nsn_runtime::opaque::Block;
use sc_client_api::{Backend as _, HeaderBackend};
use sc_network::{
    NetworkBackend, NotificationService, ProtocolName, config::FullNetworkConfiguration,
};
use sc_service::{
    BuildNetworkParams, Configuration, KeystoreContainer, TaskManager, WarpSyncConfig,
    error::Error as ServiceError,
};
use sc_transaction_pool_api::OffchainTransactionPoolFactory;

use super::{Backend, Client, Pool, partial::GrandpaLink};

/// What [`build`] needs.
pub(super) struct Params<'a> {
    pub(super) config: &'a Configuration,
    pub(super) client: Arc<Client>,
    pub(super) backend: Arc<Backend>,
    pub(super) pool: Arc<Pool>,
    pub(super) grandpa_link: &'a GrandpaLink,
    pub(super) import_queue: sc_consensus::DefaultImportQueue<Block>,
    pub(super) task_manager: &'a TaskManager,
}

/// The running block network.
pub(super) struct Network {
    pub(super) service: Arc<dyn sc_network::service::traits::NetworkService>,
    pub(super) sync: Arc<sc_network_sync::SyncingService<Block>>,
    pub(super) system_rpc: sc_utils::mpsc::TracingUnboundedSender<sc_rpc::system::Request<Block>>,
    pub(super) transactions:
        sc_network_transactions::TransactionsHandlerController<nsn_runtime::Hash>,
    pub(super) grandpa_protocol: ProtocolName,
    pub(super) grandpa_notifications: Box<dyn NotificationService>,
}

pub(super) fn build<N: NetworkBackend<Block, nsn_runtime::Hash>>(
    params: Params<'_>,
) -> Result<Network, ServiceError> {
    let Params { config, client, backend, pool, grandpa_link, import_queue, task_manager } = params;
    let registry = config.prometheus_registry().cloned();
    let mut net_config =
        FullNetworkConfiguration::<Block, nsn_runtime::Hash, N>::new(&config.network, registry);
    let metrics = N::register_notification_metrics(config.prometheus_registry());

    let grandpa_protocol = sc_consensus_grandpa::protocol_standard_name(
        &client.info().genesis_hash,
        &config.chain_spec,
    );
    let (protocol_config, grandpa_notifications) =
        sc_consensus_grandpa::grandpa_peers_set_config::<_, N>(
            grandpa_protocol.clone(),
            metrics.clone(),
            net_config.peer_store_handle(),
        );
    net_config.add_notification_protocol(protocol_config);

    let warp_sync = Arc::new(sc_consensus_grandpa::warp_proof::NetworkProvider::new(
        backend,
        grandpa_link.shared_authority_set().clone(),
        Vec::new(),
    ));
    let (service, system_rpc, transactions, sync, _bitswap) =
        sc_service::build_network(BuildNetworkParams {
            config,
            net_config,
            client,
            transaction_pool: pool,
            spawn_handle: task_manager.spawn_handle(),
            spawn_essential_handle: task_manager.spawn_essential_handle(),
            import_queue,
            block_announce_validator_builder: None,
            warp_sync_config: Some(WarpSyncConfig::WithProvider(warp_sync)),
            block_relay: None,
            metrics,
            gap_sync_body_policy: None,
        })?;
    Ok(Network { service, sync, system_rpc, transactions, grandpa_protocol, grandpa_notifications })
}

/// Runs the runtime's off-chain workers after each block, unless they are switched off.
pub(super) fn spawn_offchain_workers(
    config: &Configuration,
    client: &Arc<Client>,
    backend: &Arc<Backend>,
    pool: &Arc<Pool>,
    keystore: &KeystoreContainer,
    network: &Network,
    task_manager: &TaskManager,
) -> Result<(), ServiceError> {
    if !config.offchain_worker.enabled {
        return Ok(());
    }
    let workers = sc_offchain::OffchainWorkers::new(sc_offchain::OffchainWorkerOptions {
        runtime_api_provider: client.clone(),
        is_validator: config.role.is_authority(),
        keystore: Some(keystore.keystore()),
        offchain_db: backend.offchain_storage(),
        transaction_pool: Some(OffchainTransactionPoolFactory::new(pool.clone())),
        network_provider: Arc::new(network.service.clone()),
        // Nothing in this runtime makes HTTP requests.
        enable_http_requests: false,
        custom_extensions: |_| vec![],
    })?;
    task_manager.spawn_handle().spawn(
        "offchain-workers-runner",
        "offchain-worker",
        workers.run(client.clone(), task_manager.spawn_handle()).boxed(),
    );
    Ok(())
}
