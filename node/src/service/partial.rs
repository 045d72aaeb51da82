//! What every subcommand that touches the chain needs: client, backend, import queue, pool.

use std::sync::Arc;

use nsn_runtime::{RuntimeApi, opaque::Block};
use sc_consensus_aura::ImportQueueParams;
use sc_service::{Configuration, PartialComponents, error::Error as ServiceError};
use sc_telemetry::{Telemetry, TelemetryWorker};
use sp_consensus_aura::sr25519::AuthorityPair as AuraPair;

use super::{Backend, Client, Pool, SelectChain};

/// Blocks between two GRANDPA justifications that are kept and served to light clients; the value
/// that Substrate chains use.
pub(super) const JUSTIFICATION_PERIOD: u32 = 512;

/// Telemetry records that may wait for the worker.
const TELEMETRY_BUFFER: usize = 16;

/// A node's parts before its network exists.
pub type Partial = PartialComponents<
    Client,
    Backend,
    SelectChain,
    sc_consensus::DefaultImportQueue<Block>,
    Pool,
    Other,
>;

/// GRANDPA's side of block import.
pub(super) type GrandpaImport =
    sc_consensus_grandpa::GrandpaBlockImport<Backend, Block, Client, SelectChain>;
/// What connects block import with the GRANDPA voter.
pub type GrandpaLink = sc_consensus_grandpa::LinkHalf<Block, Client, SelectChain>;

/// The parts that are particular to this chain's consensus.
pub struct Other {
    /// Imports blocks, and finalises by their justifications.
    pub(super) grandpa_import: GrandpaImport,
    /// Goes to the voter, or is dropped where there is none.
    pub(super) grandpa_link: GrandpaLink,
    /// Present when telemetry endpoints are configured.
    pub(super) telemetry: Option<Telemetry>,
}

/// Opens the database and builds everything up to the network.
///
/// # Errors
/// A database or keystore that cannot be opened, a runtime without wasm, a telemetry endpoint that
/// is no address.
pub fn partial(config: &Configuration) -> Result<Partial, ServiceError> {
    let telemetry = config
        .telemetry_endpoints
        .clone()
        .filter(|endpoints| !endpoints.is_empty())
        .map(|endpoints| -> Result<_, sc_telemetry::Error> {
            let worker = TelemetryWorker::new(TELEMETRY_BUFFER)?;
            let telemetry = worker.handle().new_telemetry(endpoints);
            Ok((worker, telemetry))
        })
        .transpose()?;

    let executor = sc_service::new_wasm_executor::<sp_io::SubstrateHostFunctions>(&config.executor);
    let (client, backend, keystore_container, task_manager) =
        sc_service::new_full_parts::<Block, RuntimeApi, _>(
            config,
            telemetry.as_ref().map(|(_, telemetry)| telemetry.handle()),
            executor,
            Vec::new(),
        )?;
    let client = Arc::new(client);
    let telemetry = telemetry.map(|(worker, telemetry)| {
        task_manager.spawn_handle().spawn("telemetry", None, worker.run());
        telemetry
    });

    let select_chain = sc_consensus::LongestChain::new(backend.clone());
    let transaction_pool = Arc::from(
        sc_transaction_pool::Builder::new(
            task_manager.spawn_essential_handle(),
            client.clone(),
            config.role.is_authority().into(),
        )
        .with_options(config.transaction_pool.clone())
        .with_prometheus(config.prometheus_registry())
        .build(),
    );

    let (grandpa_import, grandpa_link) = sc_consensus_grandpa::block_import(
        client.clone(),
        JUSTIFICATION_PERIOD,
        &client,
        select_chain.clone(),
        telemetry.as_ref().map(|x| x.handle()),
    )?;

    let slots = client.clone();
    let import_queue =
        sc_consensus_aura::import_queue::<AuraPair, _, _, _, _, _>(ImportQueueParams {
            block_import: grandpa_import.clone(),
            justification_import: Some(Box::new(grandpa_import.clone())),
            client: client.clone(),
            create_inherent_data_providers: move |parent, _| {
                let slots = slots.clone();
                async move {
                    let duration =
                        sc_consensus_aura::standalone::slot_duration_at(&*slots, parent)?;
                    Ok(super::consensus::inherents(duration))
                }
            },
            spawner: &task_manager.spawn_essential_handle(),
            registry: config.prometheus_registry(),
            check_for_equivocation: Default::default(),
            telemetry: telemetry.as_ref().map(|x| x.handle()),
            compatibility_mode: Default::default(),
        })?;

    Ok(PartialComponents {
        client,
        backend,
        task_manager,
        import_queue,
        keystore_container,
        select_chain,
        transaction_pool,
        other: Other { grandpa_import, grandpa_link, telemetry },
    })
}
