//! `chain.report_block_weight`: what a window of audits takes of a block.
//!
//! A chain of this runtime with 100 validators and 1,000 bound peers. At the first block that takes
//! reports all validators hand theirs in, with everything that they may say, so that blocks are as
//! full of reports as they can be. Blocks are made as a node makes them: reports come from the
//! runtime API, are signed, asked about as the pool asks, and applied; those that a block has no
//! room for go into the next.
//!
//! A block's share is its weight beyond that of the same block on the same chain without peers,
//! which has no audits at all: the reports, the hooks at its beginning and end, and the tally. It is
//! held against the weight of a whole block. The window is at the end of a session, and its tally in
//! the next, so nothing is left out.
//!
//!     cargo bench -p nsn-runtime --bench report_weight -- [--quick]

// A benchmark may panic, and its output is what it prints.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation
)]

use std::{collections::VecDeque, time::Instant};

use codec::Encode;
use frame_support::weights::Weight;
use frame_system::limits::BlockWeights;
use nsn_runtime::{
    AccountId, Hash, Header, Runtime, SLOT_DURATION_MS, SessionKeys, System, UncheckedExtrinsic,
};
use pallet_audits::reporter::sr25519::{AuthorityId, AuthoritySignature};
use pallet_audits_runtime_api::{
    Counts, Duty, Entry, Report, report_payload, runtime_decl_for_audits_api::AuditsApiV1 as _,
};
use serde_json::{Value, json};
use sp_api::runtime_decl_for_core::CoreV5 as _;
use sp_block_builder::runtime_decl_for_block_builder::BlockBuilderV6 as _;
use sp_consensus_aura::AURA_ENGINE_ID;
use sp_core::{H256, Pair, ed25519, sr25519};
use sp_genesis_builder::runtime_decl_for_genesis_builder::GenesisBuilderV1 as _;
use sp_inherents::InherentData;
use sp_io::{TestExternalities, hashing::blake2_256};
use sp_runtime::{
    Digest, DigestItem,
    traits::Header as _,
    transaction_validity::{InvalidTransaction, TransactionSource, TransactionValidityError},
};
use sp_transaction_pool::runtime_api::runtime_decl_for_tagged_transaction_queue::TaggedTransactionQueueV3 as _;

const VALIDATORS: u32 = 100;
const PEERS: u32 = 1_000;
const TARGET_PERCENT: f64 = 25.0;

fn seed(kind: &str, n: u32) -> [u8; 32] {
    (kind, n).using_encoded(blake2_256)
}

fn reporter(n: u32) -> sr25519::Pair {
    sr25519::Pair::from_seed(&seed("reporter", n))
}

/// How long sessions and windows are.
#[derive(Clone, Copy)]
struct Times {
    session: u32,
    window: u32,
}

/// A genesis with `peers` bound, each to an account of its own.
fn genesis(peers: u32, times: Times) -> Vec<u8> {
    let keys: Vec<(AccountId, AccountId, SessionKeys)> = (0..VALIDATORS)
        .map(|n| {
            let keys = SessionKeys {
                aura: sr25519::Pair::from_seed(&seed("aura", n)).public().into(),
                grandpa: ed25519::Pair::from_seed(&seed("grandpa", n)).public().into(),
                im_online: reporter(n).public().into(),
            };
            let account = AccountId::new(seed("validator", n));
            (account.clone(), account, keys)
        })
        .collect();
    let bindings: Vec<(H256, AccountId)> =
        (0..peers).map(|n| (seed("key", n).into(), AccountId::new(seed("peer", n)))).collect();
    let mut genesis: Value = serde_json::from_slice(&Runtime::get_preset(&None).unwrap()).unwrap();
    genesis["session"]["keys"] = json!(keys);
    genesis["reputation"]["bindings"] = json!(bindings);
    genesis["validators"]["sessionLength"] = json!(times.session);
    genesis["audits"]["windowLength"] = json!(times.window);
    serde_json::to_vec(&genesis).unwrap()
}

/// What a block took.
struct Block {
    weight: Weight,
    reports: u32,
    milliseconds: f64,
}

struct Chain {
    state: TestExternalities,
    number: u32,
    hash: Hash,
}

impl Chain {
    fn new(peers: u32, times: Times) -> Self {
        let mut state = TestExternalities::default();
        let json = genesis(peers, times);
        state.execute_with(|| Runtime::build_state(json).unwrap());
        state.commit_all().unwrap();
        Self { state, number: 0, hash: H256::repeat_byte(1) }
    }

    /// Makes a block with as many of the `waiting` reports as it takes.
    fn block(&mut self, waiting: &mut VecDeque<UncheckedExtrinsic>) -> Block {
        let slot = 1_000_000 + u64::from(self.number);
        let digest = Digest { logs: vec![DigestItem::PreRuntime(AURA_ENGINE_ID, slot.encode())] };
        let header =
            Header::new(self.number + 1, H256::default(), H256::default(), self.hash, digest);
        let mut reports = 0;
        let start = Instant::now();
        let (header, weight) = self.state.execute_with(|| {
            Runtime::initialize_block(&header);
            let mut data = InherentData::new();
            data.put_data(*b"timstap0", &(slot * SLOT_DURATION_MS)).unwrap();
            for inherent in Runtime::inherent_extrinsics(data) {
                Runtime::apply_extrinsic(inherent).unwrap().unwrap();
            }
            while let Some(report) = waiting.front() {
                match Runtime::apply_extrinsic(report.clone()) {
                    Ok(result) => result.unwrap(),
                    Err(TransactionValidityError::Invalid(
                        InvalidTransaction::ExhaustsResources,
                    )) => break,
                    Err(error) => panic!("a report is refused: {error:?}"),
                }
                waiting.pop_front();
                reports += 1;
            }
            let header = Runtime::finalize_block();
            (header, System::block_weight().total())
        });
        let milliseconds = start.elapsed().as_secs_f64() * 1_000.0;
        self.state.commit_all().unwrap();
        self.number += 1;
        self.hash = header.hash();
        Block { weight, reports, milliseconds }
    }

    /// The report of validator `n` as its node makes it: on all subjects that it has.
    fn report(&mut self, n: u32) -> (UncheckedExtrinsic, usize) {
        let hash = self.hash;
        self.state.execute_with(|| {
            let key: AuthorityId = reporter(n).public().into();
            let Duty { session, window, reporter: place, subjects, .. } =
                Runtime::duty(key).unwrap();
            let counts = Counts::new(3, 0).unwrap();
            let entries: Vec<Entry> =
                subjects.iter().map(|subject| Entry { binding: subject.binding, counts }).collect();
            let genesis = System::block_hash(0);
            let payload = report_payload(genesis.as_fixed_bytes(), session, window, &entries);
            let signature: AuthoritySignature = reporter(n).sign(&payload).into();
            let length = entries.len();
            let report = Report { session, window, reporter: place, entries };
            let extrinsic = Runtime::report_extrinsic(report, signature);

            sp_io::storage::start_transaction();
            let source = TransactionSource::External;
            Runtime::validate_transaction(source, extrinsic.clone(), hash).unwrap();
            sp_io::storage::rollback_transaction();
            (extrinsic, length)
        })
    }
}

/// What the audits of a whole window take, block by block: the blocks of the last window of the
/// session after the first, and those in which it is tallied.
fn measure(times: Times) -> Vec<(Block, f64)> {
    let limits: BlockWeights = <Runtime as frame_system::Config>::BlockWeights::get();
    let whole = limits.max_block;
    let mut audited = Chain::new(PEERS, times);
    let mut idle = Chain::new(0, times);
    let mut waiting = VecDeque::new();
    let begins = 2 * times.session - times.window;
    let reports_from = begins + times.window.div_ceil(2);
    let ends = begins + times.window - 1;

    let mut blocks = Vec::new();
    let mut entries = 0;
    while audited.number < ends + times.window {
        if audited.number + 1 == reports_from {
            for n in 0..VALIDATORS {
                let (report, length) = audited.report(n);
                waiting.push_back(report);
                entries += length;
            }
        }
        let block = audited.block(&mut waiting);
        let other = idle.block(&mut VecDeque::new());
        if audited.number == ends {
            assert!(waiting.is_empty(), "{} reports came too late", waiting.len());
        }
        if audited.number >= begins {
            let share = block.weight.saturating_sub(other.weight);
            let percent = 100.0 * share.ref_time() as f64 / whole.ref_time() as f64;
            blocks.push((block, percent));
        }
    }
    assert_eq!(entries as u32, PEERS * 64, "each peer has a committee of 64");
    let reports: u32 = blocks.iter().map(|(block, _)| block.reports).sum();
    assert_eq!(reports, VALIDATORS, "all reports got in");
    audited.state.execute_with(|| {
        assert!(!pallet_audits::Tallies::<Runtime>::exists(), "the tally is not over");
        let moved = pallet_reputation::ScoresOf::<Runtime>::iter().count();
        assert_eq!(moved as u32, PEERS, "every peer was judged");
    });
    blocks
}

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    // The usual lengths, and those of test chains, where all has to happen in fewer blocks.
    let usual = Times { session: 200, window: 100 };
    let test = Times { session: 20, window: 10 };
    let mut worst = 0f64;
    let mut detail = serde_json::Map::new();
    for (name, times) in [("test_chain", test), ("usual", usual)] {
        if quick && name == "usual" {
            continue;
        }
        eprintln!("report_weight: sessions of {}, windows of {}", times.session, times.window);
        let blocks = measure(times);
        let most = |of: fn(&(Block, f64)) -> f64| blocks.iter().map(of).fold(0.0, f64::max);
        let percent = most(|(_, percent)| *percent);
        worst = worst.max(percent);
        let full = blocks.iter().max_by_key(|(block, _)| block.reports).unwrap();
        let told = json!({
            "percent": percent,
            "percent_without_reports":
                most(|(block, percent)| if block.reports == 0 { *percent } else { 0.0 }),
            "blocks_with_reports": blocks.iter().filter(|(block, _)| block.reports > 0).count(),
            "reports_in_the_fullest": full.0.reports,
            "milliseconds_of_the_fullest": full.0.milliseconds,
            "milliseconds_of_the_slowest": most(|(block, _)| block.milliseconds),
        });
        detail.insert(name.into(), told);
    }
    detail.insert("validators".into(), json!(VALIDATORS));
    detail.insert("peers".into(), json!(PEERS));
    let detail = Value::Object(detail);
    println!(
        r#"{{"bench":"chain.report_block_weight","value":{worst:.2},"unit":"% of a block","better":"lower","target":{TARGET_PERCENT},"detail":{detail}}}"#
    );
}
