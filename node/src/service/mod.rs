//! The plain Substrate node: client, block network, consensus, JSON-RPC. Nothing in here knows the
//! video network except the few lines of [`full`] that start it and hand its handles to the RPC.

mod consensus;
mod network;
mod partial;

use std::sync::Arc;

use nsn_runtime::opaque::Block;
use sc_client_api::HeaderBackend;
use sc_network::config::NetworkBackendType;
use sc_service::{Configuration, SpawnTasksParams, TaskManager, error::Error as ServiceError};

pub use partial::{GrandpaLink, Other, Partial, partial};

use crate::{config, offchain, rpc};

/// The full client of an NSN chain.
pub type Client = sc_service::TFullClient<
    Block,
    nsn_runtime::RuntimeApi,
    sc_executor::WasmExecutor<sp_io::SubstrateHostFunctions>,
>;
/// Where the chain's data lives.
pub type Backend = sc_service::TFullBackend<Block>;
/// Which fork an author builds on.
pub type SelectChain = sc_consensus::LongestChain<Backend, Block>;
/// The transactions that wait for a block.
pub type Pool = sc_transaction_pool::TransactionPoolHandle<Block, Client>;

/// Builds and starts a whole node: the chain, and beside it the off-chain services `nsn` asks for.
///
/// Dropping the returned task manager stops the node; the off-chain services then drain first.
///
/// # Errors
/// Whatever keeps the *chain* from starting. A side service that cannot start is that service's
/// supervisor's matter and never an error here.
pub fn full(config: Configuration, nsn: config::Effective) -> Result<TaskManager, ServiceError> {
    match config.network.network_backend {
        NetworkBackendType::Libp2p => {
            start::<sc_network::NetworkWorker<Block, nsn_runtime::Hash>>(config, nsn)
        }
        NetworkBackendType::Litep2p => start::<sc_network::Litep2pNetworkBackend>(config, nsn),
    }
}

fn start<N: sc_network::NetworkBackend<Block, nsn_runtime::Hash>>(
    config: Configuration,
    nsn: config::Effective,
) -> Result<TaskManager, ServiceError> {
    let Partial {
        client,
        backend,
        mut task_manager,
        import_queue,
        keystore_container,
        select_chain,
        transaction_pool,
        other: Other { grandpa_import, grandpa_link, mut telemetry },
    } = partial(&config)?;

    let network = network::build::<N>(network::Params {
        config: &config,
        client: client.clone(),
        backend: backend.clone(),
        pool: transaction_pool.clone(),
        grandpa_link: &grandpa_link,
        import_queue,
        task_manager: &task_manager,
    })?;
    network::spawn_offchain_workers(
        &config,
        &client,
        &backend,
        &transaction_pool,
        &keystore_container,
        &network,
        &task_manager,
    )?;

    let offchain = offchain::start(offchain::Params {
        settings: nsn,
        client: client.clone(),
        genesis: client.info().genesis_hash,
        network: &config.network,
        base_path: config.base_path.path().to_path_buf(),
        registry: config.prometheus_registry().cloned(),
        validator: config.role.is_authority().then(|| offchain::Validator {
            keystore: keystore_container.keystore(),
            pool: transaction_pool.clone(),
            sync: network.sync.clone(),
        }),
    })
    .map_err(|error| ServiceError::Application(Box::new(error)))?;

    let voter_state = sc_consensus_grandpa::SharedVoterState::empty();
    let rpc_builder = {
        let deps = rpc::Deps {
            client: client.clone(),
            pool: transaction_pool.clone(),
            offchain: offchain.handles.clone(),
            grandpa: rpc::Grandpa::new(&backend, &grandpa_link, &voter_state),
        };
        Box::new(move |executor| rpc::module(&deps, executor).map_err(ServiceError::Application))
    };

    let authoring = consensus::Authoring::from_config(&config);
    sc_service::spawn_tasks(SpawnTasksParams {
        config,
        client: client.clone(),
        backend,
        task_manager: &mut task_manager,
        keystore: keystore_container.keystore(),
        transaction_pool: transaction_pool.clone(),
        rpc_builder,
        network: Arc::new(network.service.clone()),
        system_rpc_tx: network.system_rpc,
        tx_handler_controller: network.transactions,
        sync_service: network.sync.clone(),
        telemetry: telemetry.as_mut(),
        tracing_execute_block: None,
    })?;

    consensus::spawn(consensus::Params {
        authoring,
        client,
        select_chain,
        pool: transaction_pool,
        keystore: keystore_container.keystore(),
        grandpa_import,
        grandpa_link,
        grandpa_protocol: network.grandpa_protocol,
        grandpa_notifications: network.grandpa_notifications,
        voter_state,
        network: network.service,
        sync: network.sync,
        telemetry: telemetry.as_ref().map(|x| x.handle()),
        task_manager: &task_manager,
    })?;

    offchain.attach(&mut task_manager);
    Ok(task_manager)
}
