//! Reports that are refused: each by its name, and without a trace.

use frame_support::{assert_noop, dispatch::RawOrigin};
use proptest::prelude::*;
use sp_runtime::{
    DispatchError, StateVersion,
    transaction_validity::{InvalidTransaction, TransactionValidityError},
};

use crate::{
    Call, Counts, Current, Entry, Error, Report,
    mock::*,
    reporter::sr25519::AuthoritySignature,
    subjects::{MAX_SUBJECTS, Subjects},
};

type Refused = Error<Test>;

fn invalid(error: Refused) -> TransactionValidityError {
    InvalidTransaction::Custom(error.code()).into()
}

/// Asserts that `report` of validator `n`, well signed, is refused as `error` and changes nothing.
#[track_caller]
fn refused(n: AccountId, report: Report, error: Refused) {
    let signature = signed(n, &report);
    refused_signed(report, signature, error);
}

#[track_caller]
fn refused_signed(report: Report, signature: AuthoritySignature, error: Refused) {
    let root = || sp_io::storage::root(StateVersion::V1);
    let before = root();
    assert_eq!(hand_in_signed(report, signature), Err(invalid(error)));
    assert_eq!(root(), before, "a refused report changed the state");
    super::check();
}

/// A good report of validator `n` on all its subjects.
fn good(n: AccountId) -> Report {
    report_of(n, |_| Some(counts(3, 0)))
}

#[test]
fn every_reason_has_a_number_of_its_own() {
    let numbered = [
        (Refused::NoWindow, 1),
        (Refused::OtherSession, 2),
        (Refused::OtherWindow, 3),
        (Refused::NotReporting, 4),
        (Refused::UnknownReporter, 5),
        (Refused::AlreadyReported, 6),
        (Refused::NoEntries, 7),
        (Refused::TooManyEntries, 8),
        (Refused::Unsorted, 9),
        (Refused::UnknownSubject, 10),
        (Refused::NotMember, 11),
        (Refused::BadCounts, 12),
        (Refused::BadSignature, 13),
    ];
    for (error, code) in numbered {
        assert_eq!(error.code(), code, "{error:?}: clients know it by {code}");
    }
}

#[test]
fn outside_a_window() {
    // Nobody to audit, so no window.
    chain(4, 0).execute_with(|| {
        let entries = vec![Entry { binding: 0, counts: counts(1, 0) }];
        refused(0, Report { session: 0, window: 0, reporter: 0, entries }, Refused::NoWindow);
    });
}

#[test]
fn for_another_session_or_window() {
    chain(4, 3).execute_with(|| {
        go_to(30);
        go_to_reports();
        let report = good(0);
        assert_eq!((report.session, report.window), (1, 1));
        for session in [0, 2, u32::MAX] {
            refused(0, Report { session, ..report.clone() }, Refused::OtherSession);
        }
        for window in [0, 2, u32::MAX] {
            refused(0, Report { window, ..report.clone() }, Refused::OtherWindow);
        }
    });
}

#[test]
fn a_report_of_a_window_that_is_over() {
    chain(4, 3).execute_with(|| {
        go_to(20);
        let span = go_to_reports();
        let report = good(0);
        go_to(span.ends.into());
        assert!(authorize(&report, &signed(0, &report)).is_ok(), "the last block of the window");
        go_to(u64::from(span.ends) + 1);
        refused(0, report.clone(), Refused::OtherWindow);
        go_to(40);
        refused(0, report, Refused::OtherSession);
    });
}

#[test]
fn while_audits_are_on() {
    chain(4, 3).execute_with(|| {
        go_to(20);
        refused(0, good(0), Refused::NotReporting);
        go_to(24);
        refused(0, good(0), Refused::NotReporting);
        go_to(25);
        assert_eq!(hand_in(0, good(0)), Ok(()));
    });
}

#[test]
fn by_nobody() {
    chain(4, 3).execute_with(|| {
        go_to_reports();
        for reporter in [4, u16::MAX] {
            refused(0, Report { reporter, ..good(0) }, Refused::UnknownReporter);
        }
    });
}

#[test]
fn twice_in_a_window() {
    chain(4, 3).execute_with(|| {
        go_to_reports();
        assert_eq!(hand_in(0, good(0)), Ok(()));
        refused(0, good(0), Refused::AlreadyReported);
        go_to(now() + 1);
        let other = report_of(0, |_| Some(counts(0, 1)));
        refused(0, other, Refused::AlreadyReported);
    });
}

#[test]
fn with_no_or_too_many_entries() {
    chain(4, 3).execute_with(|| {
        go_to_reports();
        refused(0, Report { entries: vec![], ..good(0) }, Refused::NoEntries);
        let entries = |n| (0..n).map(|binding| Entry { binding, counts: counts(1, 0) }).collect();
        refused(0, Report { entries: entries(4), ..good(0) }, Refused::TooManyEntries);
        refused(0, Report { entries: entries(100_000), ..good(0) }, Refused::TooManyEntries);
    });
}

#[test]
fn unsorted_or_with_a_subject_twice() {
    chain(4, 3).execute_with(|| {
        go_to_reports();
        let mut report = good(0);
        report.entries.swap(0, 1);
        refused(0, report, Refused::Unsorted);
        let mut report = good(0);
        report.entries[1] = report.entries[0];
        refused(0, report, Refused::Unsorted);
    });
}

#[test]
fn on_unknown_peers() {
    chain(4, 3).execute_with(|| {
        go_to_reports();
        for binding in [3, u32::MAX] {
            let mut report = good(0);
            report.entries[2].binding = binding;
            refused(0, report, Refused::UnknownSubject);
        }
    });
}

#[test]
fn on_a_peer_that_was_withdrawn_before_the_window() {
    chain(4, 3).execute_with(|| {
        let origin = || RuntimeOrigin::signed(peer_account(1));
        Reputation::unbind_peer(origin(), peer_key(1)).unwrap();
        go_to(now() + UNBIND_DELAY);
        Reputation::withdraw(origin(), peer_key(1)).unwrap();
        go_to(20);
        go_to_reports();
        let report = good(0);
        assert_eq!(report.entries.iter().map(|e| e.binding).collect::<Vec<_>>(), [0, 2]);
        let mut other = report.clone();
        other.entries[1].binding = 1;
        refused(0, other, Refused::UnknownSubject);
        assert_eq!(hand_in(0, report), Ok(()));
    });
}

#[test]
fn on_a_peer_whose_turn_it_is_not() {
    let peers = MAX_SUBJECTS + 1;
    chain(4, peers).execute_with(|| {
        go_to_reports();
        let window = Current::<Test>::get().unwrap();
        assert_eq!(window.subjects, Subjects::of(peers, window.number));
        let other = window.subjects.first ^ 1;
        let entries = vec![Entry { binding: other, counts: counts(1, 0) }];
        refused(0, Report { entries, ..good(0) }, Refused::UnknownSubject);
    });
}

#[test]
fn on_a_peer_of_another_committee() {
    chain(100, 30).execute_with(|| {
        go_to_reports();
        let own: Vec<_> = duty(0).subjects.iter().map(|subject| subject.binding).collect();
        assert!(!own.is_empty() && own.len() < 30, "{}", own.len());
        for binding in (0..30).filter(|binding| !own.contains(binding)) {
            let entries = vec![Entry { binding, counts: counts(1, 0) }];
            refused(0, Report { entries, ..good(0) }, Refused::NotMember);
        }
        // Somebody else's report, signed by this reporter.
        let theirs = Report { reporter: 0, ..good(1) };
        refused(0, theirs, Refused::NotMember);
    });
}

#[test]
fn with_counts_that_overflow_or_say_nothing() {
    chain(4, 3).execute_with(|| {
        go_to_reports();
        // 15 and 1, 8 and 8, 15 and 15, none.
        for byte in [0xf1, 0x88, 0xff, 0x00] {
            let mut report = good(0);
            report.entries[1].counts = codec::Decode::decode(&mut &[byte][..]).unwrap();
            refused(0, report, Refused::BadCounts);
        }
        let mut report = good(0);
        report.entries[1].counts = counts(7, 8);
        assert_eq!(hand_in(0, report), Ok(()));
    });
}

#[test]
fn with_a_signature_of_somebody_else_or_for_something_else() {
    chain(4, 3).execute_with(|| {
        go_to_reports();
        let report = good(0);
        refused_signed(report.clone(), signed(1, &report), Refused::BadSignature);
        let other = report_of(0, |_| Some(counts(0, 3)));
        refused_signed(report.clone(), signed(0, &other), Refused::BadSignature);
        let nothing = sp_core::sr25519::Signature::from_raw([0; 64]).into();
        refused_signed(report, nothing, Refused::BadSignature);
    });
}

#[test]
fn replayed_on_another_chain() {
    // The same validators, peers, session and window; only the genesis is another.
    let (report, signature) = chain(4, 3).execute_with(|| {
        go_to_reports();
        (good(0), signed(0, &good(0)))
    });
    let mut other = chain_of(4, (0..4).collect(), 3, peer_account);
    Salt::set(1);
    other.execute_with(|| {
        begin_block();
        go_to_reports();
        assert_eq!(report, good(0), "all else is the same");
        refused_signed(report, signature, Refused::BadSignature);
    });
}

#[test]
fn more_than_a_block_may_take() {
    chain(AccountId::from(MAX_REPORTS_PER_BLOCK) + 2, 3).execute_with(|| {
        go_to_reports();
        all_hand_in(0..MAX_REPORTS_PER_BLOCK.into(), |_| Some(counts(1, 0)));
        let last = AccountId::from(MAX_REPORTS_PER_BLOCK);
        let full = Err(InvalidTransaction::ExhaustsResources.into());
        assert_eq!(hand_in(last, good(last)), full);
        // Between blocks the pool asks on the state of the full block, for the next one.
        end_block();
        let (block, hash) = (now() + 1, System::block_hash(0));
        System::initialize(&block, &hash, &Default::default());
        assert!(authorize(&good(last), &signed(last, &good(last))).is_ok());
        assert_eq!(hand_in(last, good(last)), Ok(()));
    });
}

#[test]
fn nobody_reports_by_an_origin_of_another_kind() {
    chain(4, 3).execute_with(|| {
        go_to_reports();
        let report = || {
            let signature = signed(0, &good(0));
            Call::<Test>::report { report: good(0), signature }
        };
        for origin in [RawOrigin::Root, RawOrigin::None, RawOrigin::Signed(0)] {
            let dispatched = frame_support::traits::UnfilteredDispatchable::dispatch_bypass_filter(
                report(),
                origin.into(),
            );
            assert_noop!(dispatched, DispatchError::BadOrigin);
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is in a report, it is taken or refused, does not panic, and leaves the state sound;
    /// one that is taken says nothing it may not.
    #[test]
    fn any_report_is_taken_or_refused(
        session in 0u32..3, window in 0u32..3, reporter in 0u16..6,
        entries in prop::collection::vec((prop_oneof![0u32..6, any::<u32>()], any::<u8>()), 0..8),
        sort: bool, signer in 0u64..6,
    ) {
        chain(4, 5).execute_with(|| {
            go_to(20);
            go_to_reports();
            let mut entries: Vec<_> = entries
                .into_iter()
                .map(|(binding, byte)| {
                    let counts: Counts = codec::Decode::decode(&mut &[byte][..]).unwrap();
                    Entry { binding, counts }
                })
                .collect();
            if sort {
                entries.sort_by_key(|entry| entry.binding);
            }
            let report = Report { session, window, reporter, entries };
            let taken = hand_in(signer, report.clone());
            prop_assert!(!matches!(taken, Err(TransactionValidityError::Unknown(_))));
            if taken.is_ok() {
                prop_assert_eq!((session, window, u64::from(reporter)), (1, 0, signer));
                prop_assert!(report.entries.is_sorted_by_key(|entry| entry.binding));
                prop_assert!(report.entries.iter().all(|entry| entry.binding < 5));
            }
            prop_assert_eq!(Audits::check_state(), Ok(()));
            Ok(())
        })?;
    }
}
