//! What moves scores, and decay.

use frame_support::assert_noop;
use sp_runtime::{DispatchError, Perbill};
use sp_staking::offence::{OffenceDetails, OnOffenceHandler};

use super::{ALICE, BOB, events, record, record_call, scores};
use crate::{
    Component::*, Config, Event, GenesisConfig, Ledger, Outcome, Outcome::*, Scores, ScoresOf,
    WeightInfo, mock::*,
};

#[test]
fn only_the_origin_for_it_records() {
    new_chain().execute_with(|| {
        for origin in [RuntimeOrigin::signed(ALICE), RuntimeOrigin::none()] {
            let call = record_call(&[(ALICE, ShardServed, 1)]);
            assert_noop!(submit(origin, call), DispatchError::BadOrigin);
        }
    });
}

#[test]
fn each_outcome_moves_what_the_table_says() {
    for outcome in Outcome::ALL {
        new_chain().execute_with(|| {
            record(&[(ALICE, outcome, 1)]);
            let (component, delta) = outcome.effect();
            let moved = 500u16.saturating_add_signed(delta);
            let expected = match component {
                Director => scores(moved, 500, 500),
                Validator => scores(500, moved, 500),
                Seeder => scores(500, 500, moved),
            };
            assert_eq!(Reputation::account_scores(&ALICE), Some(expected), "{outcome:?}");
        });
    }
}

#[test]
fn recording_starts_at_500_and_stays_in_range() {
    new_chain().execute_with(|| {
        assert_eq!(Reputation::account_scores(&ALICE), None);
        record(&[(ALICE, SlotAccepted, 1), (BOB, VoteWrong, 15)]);
        assert_eq!(Reputation::account_scores(&ALICE), Some(scores(600, 500, 500)));
        assert_eq!(Reputation::account_scores(&BOB), Some(scores(500, 350, 500)));

        record(&[(ALICE, SlotAccepted, u16::MAX), (BOB, VoteWrong, u16::MAX)]);
        assert_eq!(Reputation::account_scores(&ALICE), Some(scores(1_000, 500, 500)));
        assert_eq!(Reputation::account_scores(&BOB), Some(scores(500, 0, 500)));
    });
}

#[test]
fn entries_apply_in_order_and_an_account_is_told_of_once() {
    new_chain().execute_with(|| {
        // Had the sum been applied, it would be 900.
        record(&[(ALICE, SlotAccepted, 6), (BOB, ShardServed, 1), (ALICE, SlotRejected, 1)]);
        assert_eq!(
            events(),
            [
                Event::ScoresRecorded { account: ALICE, scores: scores(800, 500, 500) },
                Event::ScoresRecorded { account: BOB, scores: scores(500, 500, 501) },
            ]
        );
    });
}

#[test]
fn what_says_nothing_is_not_recorded() {
    new_chain().execute_with(|| {
        record(&[]);
        record(&[(ALICE, ShardServed, 0)]);
        Reputation::add(&ALICE, Seeder, 0);
        assert_eq!(ScoresOf::<Test>::iter().count(), 0);
        assert!(events().is_empty());
    });
}

#[test]
fn another_pallet_writes_as_a_record_does() {
    new_chain().execute_with(|| {
        Reputation::add(&ALICE, Seeder, -37);
        assert_eq!(Reputation::account_scores(&ALICE), Some(scores(500, 500, 463)));
        Reputation::add(&ALICE, Seeder, i16::MIN);
        assert_eq!(Reputation::account_scores(&ALICE), Some(scores(500, 500, 0)));
        assert_eq!(events().len(), 2);
    });
}

#[test]
fn what_was_earned_decays_by_the_week_and_what_was_lost_stays() {
    new_chain().execute_with(|| {
        record(&[(ALICE, SlotAccepted, 4), (ALICE, AuditFailed, 4)]);
        let on_day = |days| {
            pass_days(days);
            Reputation::account_scores(&ALICE).unwrap()
        };
        assert_eq!(on_day(6), scores(900, 500, 300));
        assert_eq!(on_day(1), scores(880, 500, 300));
        assert_eq!(on_day(7), scores(861, 500, 300));
        assert_eq!(on_day(7 * 200), scores(500, 500, 300));
        assert_eq!(ScoresOf::<Test>::get(ALICE).unwrap().scores.director, 900, "only on read");
    });
}

#[test]
fn a_change_adds_to_what_is_left_and_ends_the_inactivity_of_its_component() {
    new_chain().execute_with(|| {
        record(&[(ALICE, SlotAccepted, 4), (ALICE, AuditPassed, 40)]);
        pass_days(7);
        record(&[(ALICE, SlotMissed, 1)]);
        assert_eq!(Reputation::account_scores(&ALICE), Some(scores(730, 500, 880)));
        pass_days(6);
        assert_eq!(Reputation::account_scores(&ALICE), Some(scores(730, 500, 880)));
        pass_days(1);
        assert_eq!(Reputation::account_scores(&ALICE), Some(scores(718, 500, 861)));
    });
}

#[test]
fn days_are_counted_from_the_first_block_and_end_at_the_last_that_fits() {
    new_chain().execute_with(|| {
        for (block, day) in [(0, 0), (DAY - 1, 0), (DAY, 1), (65_535 * DAY, u16::MAX)] {
            System::set_block_number(block);
            assert_eq!(Reputation::day(), day);
        }
        System::set_block_number(u64::MAX);
        assert_eq!(Reputation::day(), u16::MAX);
    });
}

#[test]
fn each_offender_is_charged_whatever_the_fraction() {
    new_chain().execute_with(|| {
        let offender = |account| OffenceDetails { offender: (account, ()), reporters: vec![9] };
        let fractions = [Perbill::zero(), Perbill::one()];
        let weight = Reputation::on_offence(&[offender(ALICE), offender(BOB)], &fractions, 0);
        for account in [ALICE, BOB] {
            let scores = Reputation::account_scores(&account).unwrap();
            assert_eq!(scores, self::scores(500, 100, 500));
            assert!(scores.graylisted());
        }
        let one = <<Test as Config>::WeightInfo as WeightInfo>::add();
        assert_eq!(weight, one.saturating_mul(2));
        assert_eq!(Reputation::account_scores(&9), None, "who reports gains nothing");
    });
}

#[test]
fn view_functions_answer_by_account_by_peer_and_by_page() {
    let recorded = (0..20).map(|account| (account, scores(500, 500, 520))).collect();
    chain(GenesisConfig { scores: recorded, ..Default::default() }).execute_with(|| {
        bind(1, ALICE);
        pass_days(7);
        let now = scores(500, 500, 519);
        assert_eq!(Reputation::score_of_account(ALICE), Some(now));
        assert_eq!(Reputation::score_of_account(99), None);
        assert_eq!(Reputation::score_of_peer(key(1)).unwrap().scores, now);
        assert_eq!(Reputation::score_of_peer(key(3)), None);

        let all = Reputation::page_of_scores(None, u32::MAX);
        assert_eq!(all.len(), 20);
        let mut paged: Vec<(AccountId, Scores)> = Vec::new();
        loop {
            let page = Reputation::page_of_scores(paged.last().map(|(who, _)| *who), 7);
            if page.is_empty() {
                break;
            }
            assert!(page.len() <= 7);
            paged.extend(page);
        }
        assert_eq!(paged, all);
        assert!(all.iter().all(|(_, scores)| *scores == now));
        assert!(Reputation::page_of_scores(None, 0).is_empty());
    });
}
