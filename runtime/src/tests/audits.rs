//! Audits through blocks: a duty asked of the runtime, a report as the pool and a block see it, and
//! what it does to a score.

use frame_support::assert_ok;
use pallet_audits::{Error, Reporters, reporter::sr25519::AuthoritySignature};
use pallet_audits_runtime_api::{
    Counts, Duty, Entry, Report, report_payload, runtime_decl_for_audits_api::AuditsApiV1 as _,
};
use pallet_reputation_runtime_api::runtime_decl_for_reputation_api::ReputationApiV2 as _;
use serde_json::json;
use sp_genesis_builder::LOCAL_TESTNET_RUNTIME_PRESET;
use sp_keyring::Sr25519Keyring::{self, Alice, Bob, Charlie, Dave};
use sp_runtime::transaction_validity::{
    InvalidTransaction, TransactionSource, TransactionValidityError,
};

use super::{
    account,
    chain::{Chain, genesis_json},
    check_state,
};
use crate::{Audits, Balances, Runtime, System, UncheckedExtrinsic};

/// The overlay key that is audited, and whose it is.
const KEY: [u8; 32] = [7; 32];
const OWNER: Sr25519Keyring = Charlie;

/// The local preset with one bound key, in its first block: Alice and Bob are the reporters.
fn chain() -> Chain {
    let mut genesis = genesis_json(LOCAL_TESTNET_RUNTIME_PRESET);
    let key = format!("0x{}", "07".repeat(32));
    genesis["reputation"]["bindings"] = json!([[key, account(OWNER)]]);
    let mut chain = Chain::new(&genesis);
    chain.block();
    chain
}

fn duty(chain: &mut Chain, who: Sr25519Keyring) -> Option<Duty> {
    chain.run(|| Runtime::duty(who.public().into()))
}

/// Makes blocks until the next one takes reports.
fn blocks_to_reports(chain: &mut Chain) -> Duty {
    loop {
        let duty = duty(chain, Alice).unwrap();
        if chain.number() + 1 == duty.reports_from {
            return duty;
        }
        chain.block();
    }
}

/// A report of `who`, signed by `signer`, as its node hands it in.
fn report_by(
    chain: &mut Chain,
    who: Sr25519Keyring,
    signer: Sr25519Keyring,
    counts: Counts,
) -> UncheckedExtrinsic {
    let Duty { session, window, reporter, subjects, .. } = duty(chain, who).unwrap();
    let entries: Vec<_> =
        subjects.iter().map(|subject| Entry { binding: subject.binding, counts }).collect();
    chain.run(|| {
        let genesis = System::block_hash(0);
        let payload = report_payload(genesis.as_fixed_bytes(), session, window, &entries);
        let signature: AuthoritySignature = signer.sign(&payload).into();
        Runtime::report_extrinsic(Report { session, window, reporter, entries }, signature)
    })
}

fn missed() -> Counts {
    Counts::new(0, 3).unwrap()
}

fn invalid(error: Error<Runtime>) -> TransactionValidityError {
    InvalidTransaction::Custom(error.code()).into()
}

fn seeder(chain: &mut Chain) -> u16 {
    chain.run(|| Runtime::account_scores(account(OWNER)).unwrap_or_default().seeder)
}

#[test]
fn reports_of_a_window_lower_a_score_without_anybody_paying() {
    let mut chain = chain();
    let issuance = chain.run(Balances::total_issuance);
    let duty = blocks_to_reports(&mut chain);
    assert_eq!(duty.subjects.iter().map(|subject| subject.key).collect::<Vec<_>>(), [KEY]);
    assert_eq!((duty.begins, duty.reports_from, duty.ends), (1, 6, 10));

    for who in [Alice, Bob] {
        let report = report_by(&mut chain, who, who, missed());
        let valid = chain.validate(TransactionSource::External, report.clone()).unwrap();
        assert!(valid.propagate);
        assert_eq!(valid.longevity, u64::from(duty.ends - chain.number()));
        assert_ok!(chain.block_with(vec![report]).remove(0).unwrap());
    }
    assert!(self::duty(&mut chain, Bob).unwrap().reported);
    assert_eq!(seeder(&mut chain), 500);

    while chain.number() <= duty.ends {
        chain.block();
    }
    assert_eq!(seeder(&mut chain), 450);
    let revision = chain.run(Runtime::revision);
    assert_eq!(revision, 1, "nodes are told");
    assert_eq!(chain.run(Balances::total_issuance), issuance, "no fee was burnt");
    chain.run(check_state);
}

#[test]
fn neither_the_pool_nor_a_block_takes_a_report_that_is_not_good() {
    let mut chain = chain();
    let refused = |chain: &mut Chain, report: UncheckedExtrinsic, error: Error<Runtime>| {
        let error = invalid(error);
        for source in [TransactionSource::Local, TransactionSource::External] {
            assert_eq!(chain.validate(source, report.clone()), Err(error));
        }
        // An author who puts it into a block all the same makes a block that nobody imports.
        assert_eq!(chain.block_with(vec![report]), [Err(error)]);
    };

    let early = report_by(&mut chain, Alice, Alice, missed());
    refused(&mut chain, early, Error::NotReporting);
    let duty = blocks_to_reports(&mut chain);
    let forged = report_by(&mut chain, Alice, Bob, missed());
    refused(&mut chain, forged, Error::BadSignature);
    let good = report_by(&mut chain, Alice, Alice, missed());
    assert_ok!(chain.block_with(vec![good.clone()]).remove(0).unwrap());
    refused(&mut chain, good.clone(), Error::AlreadyReported);
    let both = report_by(&mut chain, Bob, Bob, missed());
    assert_eq!(
        chain.block_with(vec![both.clone(), both]),
        [Ok(Ok(())), Err(invalid(Error::AlreadyReported))],
        "twice in one block"
    );
    while chain.number() <= duty.ends {
        chain.block();
    }
    assert_eq!(self::duty(&mut chain, Alice), None, "the rest of the session is no window");
    refused(&mut chain, good, Error::NoWindow);
}

#[test]
fn who_is_no_reporter_has_no_duty() {
    let mut chain = chain();
    assert_eq!(duty(&mut chain, Dave), None);
    assert_eq!(chain.run(|| Reporters::<Runtime>::get().len()), 2);
}

#[test]
fn every_session_of_a_test_chain_has_two_windows() {
    let mut chain = chain();
    let mut windows = Vec::new();
    while chain.number() < 60 {
        if let Some(duty) = duty(&mut chain, Alice) {
            windows.push((duty.session, duty.window, duty.begins, duty.ends));
        }
        chain.run(|| {
            assert_ok!(Audits::check_state());
        });
        chain.block();
    }
    windows.dedup();
    assert_eq!(
        windows,
        [(0, 0, 1, 10), (1, 0, 20, 29), (1, 1, 30, 39), (2, 0, 40, 49), (2, 1, 50, 59)]
    );
}
