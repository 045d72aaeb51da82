//! AURA writes blocks, GRANDPA finalises them.

use std::{sync::Arc, time::Duration};

use nsn_runtime::opaque::Block;
use prometheus_endpoint::Registry;
use sc_consensus_aura::{SlotProportion, StartAuraParams};
use sc_consensus_grandpa::{SharedVoterState, VotingRulesBuilder};
use sc_network::{NotificationService, ProtocolName, config::Role};
use sc_network_sync::SyncingService;
use sc_service::{Configuration, TaskManager, error::Error as ServiceError};
use sc_telemetry::TelemetryHandle;
use sc_transaction_pool_api::OffchainTransactionPoolFactory;
use sp_consensus_aura::{SlotDuration, sr25519::AuthorityPair as AuraPair};
use sp_keystore::KeystorePtr;

use super::{
    Client, Pool, SelectChain,
    partial::{GrandpaImport, GrandpaLink, JUSTIFICATION_PERIOD},
};

/// How long a GRANDPA gossip round may take; the value that Substrate chains use.
const GOSSIP_DURATION: Duration = Duration::from_millis(333);

/// Share of a slot that goes to building a block; the rest is for its way to the others.
const PROPOSAL_SHARE: f32 = 2.0 / 3.0;

/// What the node's configuration says about its part in consensus, taken before the configuration
/// moves into the service.
pub(super) struct Authoring {
    role: Role,
    force: bool,
    grandpa: bool,
    name: String,
    registry: Option<Registry>,
}

impl Authoring {
    pub(super) fn from_config(config: &Configuration) -> Self {
        Self {
            role: config.role,
            force: config.force_authoring,
            grandpa: !config.disable_grandpa,
            name: config.network.node_name.clone(),
            registry: config.prometheus_registry().cloned(),
        }
    }
}

/// What [`spawn`] needs.
pub(super) struct Params<'a> {
    pub(super) authoring: Authoring,
    pub(super) client: Arc<Client>,
    pub(super) select_chain: SelectChain,
    pub(super) pool: Arc<Pool>,
    pub(super) keystore: KeystorePtr,
    pub(super) grandpa_import: GrandpaImport,
    pub(super) grandpa_link: GrandpaLink,
    pub(super) grandpa_protocol: ProtocolName,
    pub(super) grandpa_notifications: Box<dyn NotificationService>,
    pub(super) voter_state: SharedVoterState,
    pub(super) network: Arc<dyn sc_network::service::traits::NetworkService>,
    pub(super) sync: Arc<SyncingService<Block>>,
    pub(super) telemetry: Option<TelemetryHandle>,
    pub(super) task_manager: &'a TaskManager,
}

/// The inherents of a block made now: the slot and the time.
pub(super) fn inherents(
    slot_duration: SlotDuration,
) -> (sp_consensus_aura::inherents::InherentDataProvider, sp_timestamp::InherentDataProvider) {
    let timestamp = sp_timestamp::InherentDataProvider::from_system_time();
    let slot = sp_consensus_aura::inherents::InherentDataProvider::from_timestamp_and_slot_duration(
        *timestamp,
        slot_duration,
    );
    (slot, timestamp)
}

/// Starts authoring (on validators) and the GRANDPA voter, both as essential tasks: a validator
/// that silently stopped would be worse than one that ends.
pub(super) fn spawn(params: Params<'_>) -> Result<(), ServiceError> {
    let Params {
        authoring,
        client,
        select_chain,
        pool,
        keystore,
        grandpa_import,
        grandpa_link,
        grandpa_protocol,
        grandpa_notifications,
        voter_state,
        network,
        sync,
        telemetry,
        task_manager,
    } = params;
    let is_authority = authoring.role.is_authority();

    if is_authority {
        let proposer_factory = sc_basic_authorship::ProposerFactory::new(
            task_manager.spawn_handle(),
            client.clone(),
            pool.clone(),
            authoring.registry.as_ref(),
            telemetry.clone(),
        );
        let slot_duration = sc_consensus_aura::slot_duration(&*client)?;
        let aura = sc_consensus_aura::start_aura::<AuraPair, _, _, _, _, _, _, _, _, _, _>(
            StartAuraParams {
                slot_duration,
                client,
                select_chain,
                block_import: grandpa_import,
                proposer_factory,
                create_inherent_data_providers: move |_, ()| async move { Ok(inherents(slot_duration)) },
                force_authoring: authoring.force,
                backoff_authoring_blocks: None::<()>,
                keystore: keystore.clone(),
                sync_oracle: sync.clone(),
                justification_sync_link: sync.clone(),
                block_proposal_slot_portion: SlotProportion::new(PROPOSAL_SHARE),
                max_block_proposal_slot_portion: None,
                telemetry: telemetry.clone(),
                compatibility_mode: Default::default(),
            },
        )?;
        task_manager.spawn_essential_handle().spawn_blocking("aura", Some("block-authoring"), aura);
    }

    if authoring.grandpa {
        let voter = sc_consensus_grandpa::GrandpaParams {
            config: sc_consensus_grandpa::Config {
                gossip_duration: GOSSIP_DURATION,
                justification_generation_period: JUSTIFICATION_PERIOD,
                name: Some(authoring.name),
                observer_enabled: false,
                // A node that does not vote needs no keys.
                keystore: is_authority.then_some(keystore),
                local_role: authoring.role,
                telemetry: telemetry.clone(),
                protocol_name: grandpa_protocol,
            },
            link: grandpa_link,
            network,
            sync,
            notification_service: grandpa_notifications,
            voting_rule: VotingRulesBuilder::default().build(),
            prometheus_registry: authoring.registry,
            shared_voter_state: voter_state,
            telemetry,
            offchain_tx_pool_factory: OffchainTransactionPoolFactory::new(pool),
        };
        task_manager.spawn_essential_handle().spawn_blocking(
            "grandpa-voter",
            None,
            sc_consensus_grandpa::run_grandpa_voter(voter)?,
        );
    }
    Ok(())
}
