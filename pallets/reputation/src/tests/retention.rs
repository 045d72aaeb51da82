//! How stale scores leave.

use std::collections::BTreeSet;

use frame_support::{assert_ok, weights::Weight};

use super::{ALICE, BOB, record, scores};
use crate::{
    Config, Earned, GenesisConfig, Outcome::*, Scores, ScoresOf, Sweeping, WeightInfo, mock::*,
    retention::MAX_SWEPT, types::Sweep,
};

const CAROL: AccountId = 3;

fn cost(accounts: u32) -> Weight {
    <<Test as Config>::WeightInfo as WeightInfo>::on_idle(accounts)
}

fn recorded() -> BTreeSet<AccountId> {
    ScoresOf::<Test>::iter_keys().collect()
}

/// A chain on which the first `count` accounts earned something that is gone after a week, and on
/// which that week has passed.
fn stale_chain(count: u64) -> sp_io::TestExternalities {
    let scores = (0..count).map(|account| (account, scores(501, 500, 500))).collect();
    let mut chain = chain(GenesisConfig { scores, ..Default::default() });
    chain.execute_with(|| System::set_block_number(WEEK));
    chain
}

#[test]
fn what_has_decayed_to_neutral_leaves_and_nothing_else() {
    new_chain().execute_with(|| {
        record(&[(ALICE, ShardServed, 1), (BOB, AuditFailed, 1), (CAROL, AuditPassed, 1)]);
        pass_days(6);
        next_block_idle(Weight::MAX);
        assert_eq!(recorded(), [ALICE, BOB, CAROL].into());
        pass_days(1);
        next_block_idle(Weight::MAX);
        assert_eq!(recorded(), [BOB, CAROL].into(), "510 is 509 after a week, 501 is 500");
        assert_eq!(Reputation::account_scores(&ALICE), None);
        pass_days(7 * 200);
        next_block_idle(Weight::MAX);
        assert_eq!(recorded(), [BOB].into(), "what is bad stays until earned back");
        record(&[(BOB, AuditPassed, 5)]);
        pass_days(1);
        next_block_idle(Weight::MAX);
        assert_eq!(recorded(), [].into());
        assert_ok!(Reputation::check_state());
    });
}

#[test]
fn a_walk_takes_as_many_blocks_as_the_weight_that_is_left_makes_it() {
    stale_chain(10).execute_with(|| {
        next_block_idle(cost(4).saturating_sub(Weight::from_parts(1, 0)));
        assert_eq!(recorded().len(), 7);
        next_block_idle(cost(0));
        next_block_idle(Weight::zero());
        next_block_idle(Weight::from_parts(u64::MAX, 0));
        assert_eq!(recorded().len(), 7, "neither time nor proof for one more");
        next_block_idle(cost(4));
        assert_eq!(recorded().len(), 3);
        next_block_idle(cost(4));
        assert_eq!(recorded().len(), 0);
    });
}

#[test]
fn a_block_looks_at_no_more_than_its_share() {
    let cap = u64::from(MAX_SWEPT);
    stale_chain(cap + 1).execute_with(|| {
        next_block_idle(Weight::MAX);
        assert_eq!(recorded().len(), 1);
        next_block_idle(Weight::MAX);
        assert_eq!(recorded().len(), 0);
    });
}

#[test]
fn one_walk_a_day_sees_every_account_once() {
    new_chain().execute_with(|| {
        for account in 0..8 {
            record(&[(account, AuditFailed, 1)]);
        }
        pass_days(1);
        let day = Reputation::day();
        // Accounts that come and go meanwhile do not stop it.
        assert_eq!(Reputation::sweep_next(3), 3);
        let Some(Sweep { day: begun, after: Some(last) }) = Sweeping::<Test>::get() else {
            panic!("it is under way");
        };
        assert_eq!(begun, day);
        ScoresOf::<Test>::remove(last);
        assert_eq!(Reputation::sweep_next(3), 3);
        assert_eq!(Reputation::sweep_next(3), 2);
        assert_eq!(Sweeping::<Test>::get(), Some(Sweep { day, after: None }));
        assert_eq!(Reputation::sweep_next(3), 0, "until tomorrow");
        pass_days(1);
        assert_eq!(Reputation::sweep_next(100), 7);
    });
}

#[test]
fn a_walk_that_outlasts_its_day_is_finished_before_the_next() {
    stale_chain(10).execute_with(|| {
        assert_eq!(Reputation::sweep_next(4), 4);
        pass_days(3);
        assert_eq!(Reputation::sweep_next(100), 6);
        assert_eq!(Sweeping::<Test>::get().unwrap().after, None);
        assert_eq!(Reputation::sweep_next(100), 0, "all are gone");
        let today = Reputation::day();
        assert_eq!(Sweeping::<Test>::get(), Some(Sweep { day: today, after: None }));
    });
}

#[test]
fn who_follows_and_who_reads_anew_see_the_same_when_a_record_leaves() {
    new_chain().execute_with(|| {
        bind(1, ALICE);
        record(&[(ALICE, ShardServed, 1)]);
        next_block();
        let revision = Reputation::revision();
        pass_days(7);
        assert_eq!(Reputation::peers(None, 1)[0].earned.on(Reputation::day()), Scores::default());
        next_block_idle(Weight::MAX);
        let [peer] = Reputation::peers(None, 2)[..] else { panic!("one peer is bound") };
        assert_eq!(peer.earned, Earned::default());
        let [change] = Reputation::changes_since(revision).unwrap()[..] else {
            panic!("one peer changed")
        };
        assert_eq!((change.key, change.earned), (peer.key, Some(peer.earned)));
    });
}
