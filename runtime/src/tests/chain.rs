//! A chain in memory: blocks go through the runtime APIs, as on a node.

use codec::{Decode, Encode};
use serde_json::Value;
use sp_api::runtime_decl_for_core::CoreV5 as _;
use sp_block_builder::runtime_decl_for_block_builder::BlockBuilderV6 as _;
use sp_consensus_aura::AURA_ENGINE_ID;
use sp_core::{
    H256,
    offchain::{TransactionPoolExt, testing::TestTransactionPoolExt},
};
use sp_genesis_builder::runtime_decl_for_genesis_builder::GenesisBuilderV1 as _;
use sp_inherents::InherentData;
use sp_io::TestExternalities;
use sp_keyring::Sr25519Keyring;
use sp_keystore::{KeystoreExt, testing::MemoryKeystore};
use sp_runtime::{
    ApplyExtrinsicResult, Digest, DigestItem, DispatchError, MultiSignature,
    generic::{Era, SignedPayload},
    traits::Header as _,
    transaction_validity::{TransactionSource, TransactionValidity},
};
use sp_transaction_pool::runtime_api::runtime_decl_for_tagged_transaction_queue::TaggedTransactionQueueV3 as _;

use crate::{
    BlockNumber, Hash, Header, Runtime, RuntimeCall, SLOT_DURATION_MS, Session, TxExtension,
    UncheckedExtrinsic,
};

/// The default genesis with the preset `name` laid over it, as a node does it.
pub(super) fn genesis_json(name: &str) -> Value {
    let mut genesis = serde_json::from_slice(&Runtime::get_preset(&None).unwrap()).unwrap();
    let patch = Runtime::get_preset(&Some(name.into())).unwrap();
    merge(&mut genesis, serde_json::from_slice(&patch).unwrap());
    genesis
}

/// RFC 7396, without the deletions that presets do not use.
fn merge(target: &mut Value, patch: Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(target.entry(key).or_insert(Value::Null), value);
            }
        }
        (target, patch) => *target = patch,
    }
}

/// The chain and its newest block.
pub(super) struct Chain {
    state: TestExternalities,
    number: BlockNumber,
    hash: Hash,
}

impl Chain {
    /// A new chain from a preset.
    pub(super) fn preset(name: &str) -> Self {
        Self::new(&genesis_json(name))
    }

    /// A new chain from a genesis.
    pub(super) fn new(genesis: &Value) -> Self {
        let mut state = TestExternalities::default();
        let json = serde_json::to_vec(genesis).unwrap();
        state.execute_with(|| Runtime::build_state(json).unwrap());
        state.commit_all().unwrap();
        Self { state, number: 0, hash: H256::repeat_byte(1) }
    }

    /// Gives the runtime a keystore, as a node has one: session keys can then be made.
    pub(super) fn add_keystore(&mut self) {
        self.state.register_extension(KeystoreExt::new(MemoryKeystore::new()));
    }

    /// Runs `f` on the newest state.
    pub(super) fn run<R>(&mut self, f: impl FnOnce() -> R) -> R {
        self.state.execute_with(f)
    }

    /// The number of the newest block.
    pub(super) fn number(&self) -> BlockNumber {
        self.number
    }

    /// Makes an empty block.
    pub(super) fn block(&mut self) {
        self.block_with(Vec::new());
    }

    /// Makes empty blocks up to the first of session `index`.
    pub(super) fn blocks_to_session(&mut self, index: u32) {
        while self.run(Session::current_index) < index {
            self.block();
        }
    }

    /// Makes a block with one call, signed by `who`, and says how the call went.
    pub(super) fn submit(
        &mut self,
        who: Sr25519Keyring,
        call: impl Into<RuntimeCall>,
    ) -> Result<(), DispatchError> {
        let transaction = self.run(|| signed(who, call.into()));
        self.block_with(vec![transaction]).remove(0).unwrap()
    }

    /// What `f` hands to the pool of the node that calls it.
    pub(super) fn submitted_by(&mut self, f: impl FnOnce()) -> Vec<UncheckedExtrinsic> {
        let (pool, state) = TestTransactionPoolExt::new();
        self.state.register_extension(TransactionPoolExt::new(pool));
        self.state.execute_with(f);
        let submitted = std::mem::take(&mut state.write().transactions);
        submitted.iter().map(|bytes| UncheckedExtrinsic::decode(&mut &bytes[..]).unwrap()).collect()
    }

    /// What the pool is told of `transaction` when it comes from `source`.
    pub(super) fn validate(
        &mut self,
        source: TransactionSource,
        transaction: UncheckedExtrinsic,
    ) -> TransactionValidity {
        let hash = self.hash;
        self.state.execute_with(|| {
            sp_io::storage::start_transaction();
            let validity = Runtime::validate_transaction(source, transaction, hash);
            sp_io::storage::rollback_transaction();
            validity
        })
    }

    /// Makes a block with `transactions`, and says how each went; those that are not valid are left
    /// out, as an author does.
    pub(super) fn block_with(
        &mut self,
        transactions: Vec<UncheckedExtrinsic>,
    ) -> Vec<ApplyExtrinsicResult> {
        // Blocks are made in consecutive slots, starting well after the epoch.
        let slot = 1_000_000 + u64::from(self.number);
        let digest = Digest { logs: vec![DigestItem::PreRuntime(AURA_ENGINE_ID, slot.encode())] };
        let header =
            Header::new(self.number + 1, H256::default(), H256::default(), self.hash, digest);
        let (header, results) = self.state.execute_with(|| {
            Runtime::initialize_block(&header);
            let mut data = InherentData::new();
            data.put_data(*b"timstap0", &(slot * SLOT_DURATION_MS)).unwrap();
            for inherent in Runtime::inherent_extrinsics(data) {
                Runtime::apply_extrinsic(inherent).unwrap().unwrap();
            }
            let results = transactions.into_iter().map(Runtime::apply_extrinsic).collect();
            (Runtime::finalize_block(), results)
        });
        self.number += 1;
        self.hash = header.hash();
        results
    }
}

/// `call` as an immortal transaction of `who` with its next nonce.
fn signed(who: Sr25519Keyring, call: RuntimeCall) -> UncheckedExtrinsic {
    let account = who.to_account_id();
    let extension: TxExtension = (
        frame_system::AuthorizeCall::new(),
        frame_system::CheckNonZeroSender::new(),
        frame_system::CheckSpecVersion::new(),
        frame_system::CheckTxVersion::new(),
        frame_system::CheckGenesis::new(),
        frame_system::CheckEra::from(Era::Immortal),
        frame_system::CheckNonce::from(crate::System::account_nonce(&account)),
        frame_system::CheckWeight::new(),
        pallet_transaction_payment::ChargeTransactionPayment::from(0),
        frame_metadata_hash_extension::CheckMetadataHash::new(false),
        frame_system::WeightReclaim::new(),
    );
    let payload = SignedPayload::new(call.clone(), extension.clone()).unwrap();
    let signature = payload.using_encoded(|bytes| who.sign(bytes));
    UncheckedExtrinsic::new_signed(
        call,
        account.into(),
        MultiSignature::Sr25519(signature),
        extension,
    )
}
