//! Pages, revisions and changes.

use std::collections::BTreeMap;

use frame_support::assert_ok;
use sp_core::H256;

use super::{ALICE, BOB, record, scores};
use crate::{
    Earned, GenesisConfig, Log, Outcome::*, OverlayKey, PeerChange, PeerEarned, PeerScore, Pending,
    Scores, mock::*,
};

/// What changed since `revision`, by key; `None` if the chain does not tell.
fn changes(revision: u64) -> Option<BTreeMap<OverlayKey, Option<Scores>>> {
    let changes = Reputation::changes_since(revision)?;
    let day = Reputation::day();
    let told = changes.len();
    let by_key: BTreeMap<_, _> = changes
        .into_iter()
        .map(|PeerChange { key, earned }| (key, earned.map(|earned| earned.on(day))))
        .collect();
    assert_eq!(by_key.len(), told, "a key twice");
    Some(by_key)
}

fn is(seed: u8, scores: Scores) -> (OverlayKey, Option<Scores>) {
    (key(seed), Some(scores))
}

fn gone(seed: u8) -> (OverlayKey, Option<Scores>) {
    (key(seed), None)
}

#[test]
fn a_peer_has_the_scores_of_its_account() {
    new_chain().execute_with(|| {
        assert_eq!(Reputation::peer_score(key(1)), None);
        bind(1, ALICE);
        let neutral = PeerScore { key: key(1), scores: Scores::default() };
        assert_eq!(Reputation::peer_score(key(1)), Some(neutral));
        record(&[(ALICE, AuditFailed, 8)]);
        assert_eq!(Reputation::peer_score(key(1)).unwrap().scores, scores(500, 500, 100));
    });
}

#[test]
fn a_page_tells_what_was_earned_and_when() {
    new_chain().execute_with(|| {
        bind(1, ALICE);
        pass_days(3);
        record(&[(ALICE, AuditPassed, 1)]);
        pass_days(30);
        let earned = Earned { scores: scores(500, 500, 510), days: [0, 0, 3] };
        assert_eq!(Reputation::peers(None, 10), [PeerEarned { key: key(1), earned }]);
    });
}

#[test]
fn pages_give_every_peer_once_whatever_their_size() {
    new_chain().execute_with(|| {
        for seed in 0..20 {
            bind(seed, AccountId::from(seed / 3));
        }
        record(&[(3, SlotAccepted, 1)]);
        let all = Reputation::peers(None, u32::MAX);
        assert_eq!(all.len(), 20);
        let day = Reputation::day();
        for PeerEarned { key, earned } in &all {
            let score = PeerScore { key: *key, scores: earned.on(day) };
            assert_eq!(Reputation::peer_score(*key), Some(score));
        }

        for size in [1, 7, 20, 1_000] {
            let mut paged = Vec::new();
            loop {
                let page = Reputation::peers(paged.last().map(|peer: &PeerEarned| peer.key), size);
                assert!(page.len() <= size as usize);
                if page.is_empty() {
                    break;
                }
                paged.extend(page);
            }
            assert_eq!(paged, all, "pages of {size}");
        }
        assert!(Reputation::peers(None, 0).is_empty());
    });
}

#[test]
fn a_page_is_capped_at_1000() {
    let bindings = (0..1_001).map(|n| (H256::from_low_u64_be(n), n)).collect();
    chain(GenesisConfig { bindings, ..Default::default() }).execute_with(|| {
        let page = Reputation::peers(None, u32::MAX);
        assert_eq!(page.len(), 1_000);
        assert_eq!(Reputation::peers(page.last().map(|peer| peer.key), u32::MAX).len(), 1);
    });
}

#[test]
fn the_revision_grows_once_in_a_block_that_changes_bound_peers() {
    new_chain().execute_with(|| {
        next_block();
        assert_eq!(Reputation::revision(), 0, "nothing happened");
        record(&[(ALICE, ShardServed, 10)]);
        next_block();
        assert_eq!(Reputation::revision(), 0, "nobody is bound");

        bind(1, ALICE);
        bind(2, ALICE);
        record(&[(ALICE, AuditPassed, 1)]);
        assert_eq!(Reputation::revision(), 0, "at the end of the block");
        next_block();
        assert_eq!(Reputation::revision(), 1);
        next_block();
        assert_eq!(Reputation::revision(), 1);
        record(&[(BOB, AuditFailed, 1)]);
        record(&[(ALICE, AuditFailed, 0)]);
        next_block();
        assert_eq!(Reputation::revision(), 1, "no answer about a peer changed");
        record(&[(ALICE, AuditFailed, 1)]);
        next_block();
        assert_eq!(Reputation::revision(), 2);
        assert!(!Pending::<Test>::exists());
    });
}

#[test]
fn changes_are_told_since_each_revision() {
    new_chain().execute_with(|| {
        bind(1, ALICE);
        bind(2, ALICE);
        next_block();
        bind(3, BOB);
        next_block();
        record(&[(ALICE, AuditPassed, 1)]);
        next_block();
        assert_eq!(Reputation::revision(), 3);

        let (neutral, good) = (Scores::default(), scores(500, 500, 510));
        let all = [is(1, good), is(2, good), is(3, neutral)].into();
        assert_eq!(changes(0), Some(all));
        assert_eq!(changes(1), Some([is(1, good), is(2, good), is(3, neutral)].into()));
        assert_eq!(changes(2), Some([is(1, good), is(2, good)].into()));
        assert_eq!(changes(3), Some([].into()));
        assert_eq!(changes(4), None, "it is yet to come");
    });
}

#[test]
fn a_key_that_left_is_told_of_and_one_that_moved_is_told_as_it_is() {
    new_chain().execute_with(|| {
        bind(1, ALICE);
        bind(2, ALICE);
        record(&[(ALICE, AuditFailed, 1)]);
        next_block();
        unbind(1, ALICE);
        next_block();
        assert_eq!(Reputation::revision(), 2, "asking for it changed nothing yet");
        assert_eq!(changes(1), Some([gone(1)].into()));
        assert_eq!(changes(0), Some([gone(1), is(2, scores(500, 500, 450))].into()));

        // Bob takes the key's past over, and it concerns his other key too.
        bind(3, BOB);
        next_block();
        let revision = Reputation::revision();
        bind(1, BOB);
        next_block();
        let bad = scores(500, 500, 450);
        assert_eq!(changes(revision), Some([is(1, bad), is(3, bad)].into()));
    });
}

#[test]
fn only_so_many_revisions_are_kept() {
    new_chain().execute_with(|| {
        bind(1, ALICE);
        for _ in 0..10 {
            record(&[(ALICE, AuditPassed, 1)]);
            next_block();
        }
        let newest = Reputation::revision();
        assert_eq!(newest, 10);
        let kept = u64::from(KEPT_REVISIONS);
        assert!(changes(newest - kept).is_some());
        assert_eq!(changes(newest - kept - 1), None);
        assert_eq!(Log::<Test>::iter().count() as u64, kept);
        assert_ok!(Reputation::check_state());
    });
}

#[test]
fn a_block_that_touched_too_much_tells_nothing_and_those_after_it_do() {
    new_chain().execute_with(|| {
        for seed in 0..u8::try_from(MAX_TOUCHED).unwrap() {
            bind(seed, seed.into());
        }
        next_block();
        assert_eq!(Reputation::revision(), 1);
        assert_eq!(changes(0), None);
        record(&[(ALICE, AuditPassed, 1)]);
        next_block();
        assert_eq!(changes(1), Some([is(1, scores(500, 500, 510))].into()));
        assert_eq!(changes(0), None);
        // One less is told.
        for seed in 0..u8::try_from(MAX_TOUCHED).unwrap() - 1 {
            record(&[(seed.into(), AuditFailed, 1)]);
        }
        next_block();
        assert_eq!(changes(2).unwrap().len(), MAX_TOUCHED as usize - 1);
    });
}

#[test]
fn what_is_recorded_twice_in_a_block_is_told_once() {
    new_chain().execute_with(|| {
        bind(1, ALICE);
        next_block();
        record(&[(ALICE, AuditPassed, 1)]);
        record(&[(ALICE, AuditPassed, 1)]);
        next_block();
        let place = u32::try_from(Reputation::revision() % u64::from(KEPT_REVISIONS)).unwrap();
        assert_eq!(Log::<Test>::get(place).unwrap().touched.unwrap().len(), 1);
        assert_eq!(changes(1), Some([is(1, scores(500, 500, 520))].into()));
    });
}
