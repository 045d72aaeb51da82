//! The view on a real client: real blocks with real transactions, on two forks.

use std::sync::Arc;

use clap::Parser as _;
use codec::Encode as _;
use nsn_runtime::{Hash, RuntimeCall, opaque::Block};
use pallet_reputation_runtime_api::{Earned, Outcome, PeerChange};
use sc_block_builder::BlockBuilderBuilder;
use sc_cli::SubstrateCli as _;
use sc_client_api::{Finalizer as _, HeaderBackend as _};
use sc_consensus::{BlockImport as _, BlockImportParams, ForkChoiceStrategy};
use sp_consensus::BlockOrigin;
use sp_consensus_aura::{Slot, sr25519::AuthoritySignature};
use sp_keyring::Sr25519Keyring::{Alice, Bob};
use sp_runtime::{Digest, DigestItem, OpaqueExtrinsic, traits::Block as _};

use super::{BlockRef, Chain as _, ClientChain, build, follow::How};
use crate::{cli::Cli, service};

#[path = "../../../tests/common/tx.rs"]
mod tx;

/// A client on a data folder of its own, and what keeps both alive.
struct World {
    client: Arc<service::Client>,
    _parts: Box<dyn std::any::Any>,
    _dir: tempfile::TempDir,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().to_str().unwrap();
    let cli = Cli::parse_from(["nsn-node", "--dev", "--base-path", base]);
    let config = cli.create_configuration(&cli.run, tokio::runtime::Handle::current()).unwrap();
    let parts = service::partial(&config).unwrap();
    World { client: parts.client.clone(), _parts: Box::new(parts), _dir: dir }
}

impl World {
    fn genesis(&self) -> Hash {
        self.client.info().genesis_hash
    }

    /// Imports a block on `parent` in `slot`, with `calls` by Alice and Bob, as best block or not.
    async fn author(
        &self,
        parent: Hash,
        slot: u64,
        calls: Vec<(RuntimeCall, sp_keyring::Sr25519Keyring, u32)>,
        best: bool,
    ) -> Hash {
        let number = self.client.number(parent).unwrap().unwrap();
        let pre_digest = <DigestItem as sp_consensus_aura::digests::CompatibleDigestItem<
            AuthoritySignature,
        >>::aura_pre_digest(Slot::from(slot));
        let mut builder = BlockBuilderBuilder::new(&*self.client)
            .on_parent_block(parent)
            .with_parent_block_number(number)
            .with_inherent_digests(Digest { logs: vec![pre_digest] })
            .build()
            .unwrap();
        let now = slot * nsn_runtime::SLOT_DURATION_MS;
        let timestamp = nsn_runtime::UncheckedExtrinsic::new_bare(RuntimeCall::Timestamp(
            pallet_timestamp::Call::set { now },
        ));
        builder.push(opaque(&timestamp)).unwrap();
        for (call, who, nonce) in calls {
            builder.push(opaque(&tx::signed(call, who, nonce, self.genesis()))).unwrap();
        }
        let built = builder.build().unwrap();
        let (header, body) = built.block.deconstruct();
        let hash = header.hash();
        let mut import = BlockImportParams::<Block>::new(BlockOrigin::Own, header);
        import.body = Some(body);
        import.state_action = sc_consensus::StateAction::ApplyChanges(
            sc_consensus::StorageChanges::Changes(built.storage_changes),
        );
        import.fork_choice = Some(ForkChoiceStrategy::Custom(best));
        self.client.import_block(import).await.unwrap();
        hash
    }
}

fn metrics() -> super::Metrics {
    super::Metrics::register(&prometheus_endpoint::Registry::new()).unwrap()
}

fn opaque(extrinsic: &nsn_runtime::UncheckedExtrinsic) -> OpaqueExtrinsic {
    OpaqueExtrinsic::try_from_encoded_extrinsic(&extrinsic.encode()).unwrap()
}

/// The key of `secret`.
fn key_of(secret: &[u8; 32]) -> [u8; 32] {
    sp_core::Pair::public(&<sp_core::ed25519::Pair as sp_core::Pair>::from_seed(secret)).0
}

#[tokio::test(flavor = "multi_thread")]
async fn chain_view_follows_real_forks_and_finality() {
    let world = world();
    let metrics = metrics();
    let (view, driver) = build(ClientChain::new(world.client.clone()), metrics.clone());
    let secret = [5; 32];
    let key = key_of(&secret);
    let seeder = || view.snapshot().best.scores(&key).map(|scores| scores.seeder);
    let genesis = world.genesis();

    // Trunk: the key is bound to Bob.
    let bind = (tx::bind(&secret, Bob, genesis), Bob, 0);
    let trunk = world.author(genesis, 1, vec![bind], true).await;
    driver.refresh();
    assert_eq!(view.snapshot().best.block.hash, trunk);
    assert_eq!(seeder(), Some(500));
    assert_eq!(view.hint(&key).map(|scores| scores.seeder), Some(500));
    assert_eq!(view.scores(&key), None, "not finalised yet");

    // Two forks, each with one change: the same revision, other scores.
    let up = (tx::record(Bob, Outcome::AuditPassed, 10), Alice, 0);
    let down = (tx::record(Bob, Outcome::AuditFailed, 8), Alice, 0);
    let left = world.author(trunk, 2, vec![up], true).await;
    driver.refresh();
    let before = view.snapshot().best.revision;
    assert_eq!(seeder(), Some(600));
    let right = world.author(trunk, 3, vec![down], true).await;
    driver.refresh();
    assert_eq!(view.snapshot().best.block.hash, right);
    assert_eq!(view.snapshot().best.revision, before, "which is what makes forks a trap");
    assert_eq!(seeder(), Some(100));

    // The left fork grows and is best again, then final.
    let left_tip = world.author(left, 4, vec![], true).await;
    driver.refresh();
    assert_eq!(seeder(), Some(600));
    world.client.finalize_block(left_tip, None, true).unwrap();
    driver.refresh();
    assert_eq!(view.scores(&key).map(|scores| scores.seeder), Some(600));
    assert_eq!(view.snapshot().finalized.block.hash, left_tip);
    assert_eq!(*view.changes().borrow(), 1, "one change of the finalised table");

    // All of it by what the blocks' own log told.
    assert_eq!(metrics.advances("best", How::Reorganised), 2);
    for head in ["best", "finalized"] {
        assert!(metrics.changes(head) > 0);
    }
    assert_eq!(metrics.advances("finalized", How::Rebuilt), 1, "genesis");
    assert_eq!(metrics.advances("best", How::Rebuilt), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_chain_tells_what_changed_since_a_revision() {
    let world = world();
    let chain = ClientChain::new(world.client.clone());
    let at = |number, hash| BlockRef { number, hash };
    let (mine, other) = ([5; 32], [6; 32]);
    let genesis = world.genesis();
    let start = chain.revision(at(0, genesis)).unwrap();
    let binds = [(&mine, Alice), (&other, Bob)]
        .map(|(secret, who)| (tx::bind(secret, who, genesis), who, 0));
    let one = at(1, world.author(genesis, 1, binds.into(), true).await);
    let fail = (tx::record(Bob, Outcome::AuditFailed, 1), Alice, 1);
    let two = at(2, world.author(one.hash, 2, vec![fail], true).await);
    let three = at(3, world.author(two.hash, 3, vec![], true).await);

    assert_eq!(chain.revision(one).unwrap(), start + 1, "one revision for all of a block");
    assert_eq!(chain.revision(three).unwrap(), start + 2, "and none for nothing");
    let since = |block, revision| {
        let mut changes = chain.changes_since(block, revision).unwrap()?;
        changes.sort_by_key(|change| change.key);
        Some(changes)
    };
    let day = chain.day(three).unwrap();
    let mut slashed = Earned::default();
    slashed.apply(Outcome::AuditFailed.effect().0, Outcome::AuditFailed.effect().1, day);
    let neutral = PeerChange { key: key_of(&mine), earned: Some(Earned::default()) };
    let slashed = PeerChange { key: key_of(&other), earned: Some(slashed) };
    let mut both = vec![neutral, slashed];
    both.sort_by_key(|change| change.key);
    assert_eq!(since(three, start), Some(both.clone()), "each key once, as it is now");
    assert_eq!(since(three, start + 1), Some(vec![slashed]));
    assert_eq!(since(three, start + 2), Some(vec![]));
    assert_eq!(since(three, start + 3), None, "ahead of this chain");

    // What the pages say is the same.
    let mut pages = chain.peers(three, usize::MAX).unwrap();
    pages.sort_by_key(|peer| peer.key);
    let all = pages.iter().map(|peer| PeerChange { key: peer.key, earned: Some(peer.earned) });
    assert_eq!(all.collect::<Vec<_>>(), both);
}
