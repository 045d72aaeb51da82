//! What a node may ask of the runtime.

use alloc::vec::Vec;

use codec::Encode;
use frame_support::{
    genesis_builder_helper::{build_state, get_preset},
    traits::KeyOwnerProofSystem,
    view_functions::{ViewFunctionDispatchError, ViewFunctionId},
    weights::Weight,
};
use pallet_audits::reporter::sr25519::{
    AuthorityId as ReporterId, AuthoritySignature as ReporterSignature,
};
use pallet_audits_runtime_api::{Duty, Report};
use pallet_reputation_runtime_api::{OverlayKey, PeerChange, PeerEarned, PeerScore, Scores};
use pallet_transaction_payment::{FeeDetails, RuntimeDispatchInfo};
use pallet_validators::Owners;
use sp_api::impl_runtime_apis;
use sp_consensus_aura::{SlotDuration, sr25519::AuthorityId as AuraId};
use sp_consensus_grandpa::{
    AuthorityId as GrandpaId, AuthorityList, EquivocationProof, OpaqueKeyOwnershipProof, SetId,
};
use sp_core::{OpaqueMetadata, crypto::KeyTypeId};
use sp_genesis_builder::PresetId;
use sp_inherents::{CheckInherentsResult, InherentData};
use sp_runtime::{
    ApplyExtrinsicResult, ExtrinsicInclusionMode,
    traits::{Block as BlockT, NumberFor},
    transaction_validity::{TransactionSource, TransactionValidity},
};
use sp_session::OpaqueGeneratedSessionKeys;
use sp_version::RuntimeVersion;

use crate::{
    AccountId, Audits, Balance, Block, Executive, Grandpa, InherentDataExt, Nonce, Reputation,
    Runtime, RuntimeCall, RuntimeGenesisConfig, SLOT_DURATION_MS, Session, SessionKeys, System,
    TransactionPayment, UncheckedExtrinsic, VERSION, authorized_extension, genesis,
};

/// Versions of the runtime APIs, for [`VERSION`].
pub(crate) const VERSIONS: sp_version::ApisVec = RUNTIME_API_VERSIONS;

impl_runtime_apis! {
    impl sp_api::Core<Block> for Runtime {
        fn version() -> RuntimeVersion {
            VERSION
        }

        fn execute_block(block: <Block as BlockT>::LazyBlock) {
            Executive::execute_block(block);
        }

        fn initialize_block(header: &<Block as BlockT>::Header) -> ExtrinsicInclusionMode {
            Executive::initialize_block(header)
        }
    }

    impl sp_api::Metadata<Block> for Runtime {
        fn metadata() -> OpaqueMetadata {
            OpaqueMetadata::new(Runtime::metadata().into())
        }

        fn metadata_at_version(version: u32) -> Option<OpaqueMetadata> {
            Runtime::metadata_at_version(version)
        }

        fn metadata_versions() -> Vec<u32> {
            Runtime::metadata_versions()
        }
    }

    impl frame_support::view_functions::runtime_api::RuntimeViewFunction<Block> for Runtime {
        fn execute_view_function(
            id: ViewFunctionId,
            input: Vec<u8>,
        ) -> Result<Vec<u8>, ViewFunctionDispatchError> {
            Runtime::execute_view_function(id, input)
        }
    }

    impl sp_block_builder::BlockBuilder<Block> for Runtime {
        fn apply_extrinsic(extrinsic: <Block as BlockT>::Extrinsic) -> ApplyExtrinsicResult {
            Executive::apply_extrinsic(extrinsic)
        }

        fn finalize_block() -> <Block as BlockT>::Header {
            Executive::finalize_block()
        }

        fn inherent_extrinsics(data: InherentData) -> Vec<<Block as BlockT>::Extrinsic> {
            data.create_extrinsics()
        }

        fn check_inherents(
            block: <Block as BlockT>::LazyBlock,
            data: InherentData,
        ) -> CheckInherentsResult {
            data.check_extrinsics(&block)
        }
    }

    impl sp_transaction_pool::runtime_api::TaggedTransactionQueue<Block> for Runtime {
        fn validate_transaction(
            source: TransactionSource,
            tx: <Block as BlockT>::Extrinsic,
            block_hash: <Block as BlockT>::Hash,
        ) -> TransactionValidity {
            Executive::validate_transaction(source, tx, block_hash)
        }
    }

    impl sp_offchain::OffchainWorkerApi<Block> for Runtime {
        fn offchain_worker(header: &<Block as BlockT>::Header) {
            Executive::offchain_worker(header)
        }
    }

    impl sp_consensus_aura::AuraApi<Block, AuraId> for Runtime {
        fn slot_duration() -> SlotDuration {
            SlotDuration::from_millis(SLOT_DURATION_MS)
        }

        fn authorities() -> Vec<AuraId> {
            pallet_aura::Authorities::<Runtime>::get().into_inner()
        }
    }

    impl sp_consensus_grandpa::GrandpaApi<Block> for Runtime {
        fn grandpa_authorities() -> AuthorityList {
            Grandpa::grandpa_authorities()
        }

        fn current_set_id() -> SetId {
            pallet_grandpa::CurrentSetId::<Runtime>::get()
        }

        fn submit_report_equivocation_unsigned_extrinsic(
            proof: EquivocationProof<<Block as BlockT>::Hash, NumberFor<Block>>,
            owner: OpaqueKeyOwnershipProof,
        ) -> Option<()> {
            Grandpa::submit_unsigned_equivocation_report(proof, owner.decode()?)
        }

        // `_`: the set is that of the block which this is asked at.
        fn generate_key_ownership_proof(
            _: SetId,
            key: GrandpaId,
        ) -> Option<OpaqueKeyOwnershipProof> {
            let proof = Owners::<Runtime>::prove((sp_consensus_grandpa::KEY_TYPE, key))?;
            Some(OpaqueKeyOwnershipProof::new(proof.encode()))
        }
    }

    impl sp_session::SessionKeys<Block> for Runtime {
        fn generate_session_keys(
            owner: Vec<u8>,
            seed: Option<Vec<u8>>,
        ) -> OpaqueGeneratedSessionKeys {
            SessionKeys::generate(&owner, seed).into()
        }

        fn decode_session_keys(encoded: Vec<u8>) -> Option<Vec<(Vec<u8>, KeyTypeId)>> {
            SessionKeys::decode_into_raw_public_keys(&encoded)
        }
    }

    impl frame_system_rpc_runtime_api::AccountNonceApi<Block, AccountId, Nonce> for Runtime {
        fn account_nonce(account: AccountId) -> Nonce {
            System::account_nonce(account)
        }
    }

    impl pallet_transaction_payment_rpc_runtime_api::TransactionPaymentApi<Block, Balance>
        for Runtime
    {
        fn query_info(
            tx: <Block as BlockT>::Extrinsic,
            len: u32,
        ) -> RuntimeDispatchInfo<Balance> {
            TransactionPayment::query_info(tx, len)
        }

        fn query_fee_details(tx: <Block as BlockT>::Extrinsic, len: u32) -> FeeDetails<Balance> {
            TransactionPayment::query_fee_details(tx, len)
        }

        fn query_weight_to_fee(weight: Weight) -> Balance {
            TransactionPayment::weight_to_fee(weight)
        }

        fn query_length_to_fee(length: u32) -> Balance {
            TransactionPayment::length_to_fee(length)
        }
    }

    impl pallet_transaction_payment_rpc_runtime_api::TransactionPaymentCallApi<
        Block,
        Balance,
        RuntimeCall,
    > for Runtime
    {
        fn query_call_info(call: RuntimeCall, len: u32) -> RuntimeDispatchInfo<Balance> {
            TransactionPayment::query_call_info(call, len)
        }

        fn query_call_fee_details(call: RuntimeCall, len: u32) -> FeeDetails<Balance> {
            TransactionPayment::query_call_fee_details(call, len)
        }

        fn query_weight_to_fee(weight: Weight) -> Balance {
            TransactionPayment::weight_to_fee(weight)
        }

        fn query_length_to_fee(length: u32) -> Balance {
            TransactionPayment::length_to_fee(length)
        }
    }

    impl pallet_reputation_runtime_api::ReputationApi<Block, AccountId> for Runtime {
        fn revision() -> u64 {
            Reputation::revision()
        }

        fn day() -> u16 {
            Reputation::day()
        }

        fn account_scores(account: AccountId) -> Option<Scores> {
            Reputation::account_scores(&account)
        }

        fn peer_score(key: OverlayKey) -> Option<PeerScore> {
            Reputation::peer_score(key)
        }

        fn peers(after: Option<OverlayKey>, limit: u32) -> Vec<PeerEarned> {
            Reputation::peers(after, limit)
        }

        fn changes_since(revision: u64) -> Option<Vec<PeerChange>> {
            Reputation::changes_since(revision)
        }

        fn validator_keys() -> Vec<OverlayKey> {
            Session::validators().iter().flat_map(Reputation::keys_of).collect()
        }

        fn bind_nonce(account: AccountId) -> u32 {
            Reputation::bind_nonce(&account)
        }
    }

    impl pallet_audits_runtime_api::AuditsApi<Block, ReporterId, ReporterSignature> for Runtime {
        fn duty(reporter: ReporterId) -> Option<Duty> {
            Audits::duty(&reporter)
        }

        fn report_extrinsic(
            report: Report,
            signature: ReporterSignature,
        ) -> <Block as BlockT>::Extrinsic {
            let call = pallet_audits::Call::report { report, signature };
            UncheckedExtrinsic::new_transaction(call.into(), authorized_extension())
        }
    }

    // For `scripts/benchmark.sh`.
    #[cfg(feature = "runtime-benchmarks")]
    impl frame_benchmarking::Benchmark<Block> for Runtime {
        fn benchmark_metadata(
            extra: bool,
        ) -> (Vec<frame_benchmarking::BenchmarkList>, Vec<frame_support::traits::StorageInfo>)
        {
            crate::benchmarks::metadata(extra)
        }

        fn dispatch_benchmark(
            config: frame_benchmarking::BenchmarkConfig,
        ) -> Result<Vec<frame_benchmarking::BenchmarkBatch>, alloc::string::String> {
            crate::benchmarks::dispatch(&config)
        }
    }

    // For the `try-runtime` tool, which runs upgrades and blocks on a copy of a chain's state and is
    // told of a failure by the panic.
    #[cfg(feature = "try-runtime")]
    impl frame_try_runtime::TryRuntime<Block> for Runtime {
        #[allow(clippy::expect_used)]
        fn on_runtime_upgrade(checks: frame_try_runtime::UpgradeCheckSelect) -> (Weight, Weight) {
            let weight = Executive::try_runtime_upgrade(checks).expect("the upgrade failed");
            (weight, <Runtime as frame_system::Config>::BlockWeights::get().max_block)
        }

        #[allow(clippy::expect_used)]
        fn execute_block(
            block: <Block as BlockT>::LazyBlock,
            state_root_check: bool,
            signature_check: bool,
            select: frame_try_runtime::TryStateSelect,
        ) -> Weight {
            Executive::try_execute_block(block, state_root_check, signature_check, select)
                .expect("the block or the state it led to is not valid")
        }
    }

    impl sp_genesis_builder::GenesisBuilder<Block> for Runtime {
        fn build_state(json: Vec<u8>) -> sp_genesis_builder::Result {
            build_state::<RuntimeGenesisConfig>(json)
        }

        fn get_preset(id: &Option<PresetId>) -> Option<Vec<u8>> {
            get_preset::<RuntimeGenesisConfig>(id, genesis::preset)
        }

        fn preset_names() -> Vec<PresetId> {
            genesis::PRESETS.into_iter().map(PresetId::from).collect()
        }
    }
}
