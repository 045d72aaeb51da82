//! What reports do to scores.

use super::{check, events};
use crate::{Event, MovedAccounts, Reports, Tallies, mock::*};

/// The session has windows in blocks 20 to 29 and 30 to 39. All of `validators` say `counts` in the
/// first, which is then tallied.
fn one_window(
    validators: impl IntoIterator<Item = AccountId>,
    say: impl Fn(AccountId, u32) -> Option<crate::Counts>,
) {
    go_to(20);
    go_to_reports();
    for (place, n) in validators.into_iter().enumerate() {
        if place > 0 && place % MAX_REPORTS_PER_BLOCK as usize == 0 {
            go_to(now() + 1);
        }
        hand_in(n, report_of(n, |binding| say(n, binding))).unwrap();
    }
    go_to(39);
    check();
}

#[test]
fn what_all_say_happens() {
    chain(4, 3).execute_with(|| {
        one_window(0..4, |_, binding| match binding {
            0 => Some(counts(3, 0)),
            1 => Some(counts(0, 3)),
            _ => None,
        });
        assert_eq!((seeder(0), seeder(1), seeder(2)), (513, 450, 500));
        let scores = Reputation::account_scores(&peer_account(1)).unwrap();
        assert_eq!((scores.director, scores.validator), (500, 500), "only the seeder");
    });
}

#[test]
fn the_tally_is_told_and_leaves_nothing() {
    chain(4, 3).execute_with(|| {
        go_to(20);
        go_to_reports();
        all_hand_in(0..4, |_| Some(counts(1, 0)));
        assert_eq!(Reports::<Test>::iter().count(), 4);
        go_to(30);
        assert!(events().contains(&Event::Tallied {
            session: 1,
            window: 0,
            reports: 4,
            decided: 3,
            undecided: 0,
        }));
        assert_eq!(Reports::<Test>::iter().count(), 0);
        assert!(!Tallies::<Test>::exists() && !MovedAccounts::<Test>::exists());
    });
}

#[test]
fn the_quorum_is_more_than_two_thirds_of_the_committee() {
    for (validators, reporting, moved) in [
        (1, 1, true),
        (2, 2, true),
        (3, 3, true),
        (4, 3, true),
        (6, 5, true),
        (1, 0, false),
        (2, 1, false),
    ] {
        chain(validators, 1).execute_with(|| {
            one_window(0..reporting, |_, _| Some(counts(0, 1)));
            let score = if moved { 450 } else { 500 };
            assert_eq!(seeder(0), score, "{reporting} of {validators}");
        });
    }
}

#[test]
fn without_a_quorum_only_more_than_half_of_all_move_anything() {
    // Six: five are a quorum. With four it takes all four on one side.
    for (say, score) in
        [([-1, -1, -1, -1], 450), ([-1, -1, -1, 1], 500), ([1, 1, 1, 1], 511), ([1, 1, 1, -1], 500)]
    {
        chain(6, 1).execute_with(|| {
            one_window(0..4, |n, _| {
                Some(if say[n as usize] < 0 { counts(0, 1) } else { counts(1, 0) })
            });
            assert_eq!(seeder(0), score, "{say:?}");
        });
    }
    chain(6, 1).execute_with(|| {
        one_window(0..3, |_, _| Some(counts(0, 1)));
        assert_eq!(seeder(0), 500, "half of all");
    });
}

#[test]
fn a_third_that_keeps_silent_shields_nobody() {
    chain(100, 20).execute_with(|| {
        one_window(0..67, |_, _| Some(counts(0, 2)));
        assert!((0..20).all(|peer| seeder(peer) == 450), "{:?}", seeders());
    });
}

#[test]
fn a_third_that_lies_moves_nothing() {
    chain(100, 20).execute_with(|| {
        one_window(0..100, |n, binding| {
            let bad = binding < 10;
            Some(if bad == (n < 67) { counts(0, 3) } else { counts(3, 0) })
        });
        assert!((0..10).all(|peer| seeder(peer) == 450), "{:?}", seeders());
        assert!((10..20).all(|peer| seeder(peer) == 513), "{:?}", seeders());
    });
}

#[test]
fn the_median_decides() {
    chain(4, 1).execute_with(|| {
        let say = [counts(1, 0), counts(2, 0), counts(4, 0), counts(0, 15)];
        one_window(0..4, |n, _| Some(say[n as usize]));
        assert_eq!(seeder(0), 511, "the lower of the two in the middle");
    });
}

#[test]
fn peers_that_nobody_agrees_about_stay() {
    chain(6, 2).execute_with(|| {
        go_to(20);
        go_to_reports();
        all_hand_in(0..6, |binding| (binding == 0).then(|| counts(1, 0)));
        go_to(30);
        assert_eq!((seeder(0), seeder(1)), (511, 500));
        go_to_reports();
        all_hand_in(0..3, |_| Some(counts(0, 1)));
        go_to(40);
        assert!(events().contains(&Event::Tallied {
            session: 1,
            window: 1,
            reports: 3,
            decided: 0,
            undecided: 2,
        }));
        assert_eq!((seeder(0), seeder(1)), (511, 500));
    });
}

#[test]
fn a_chunk_a_block_and_another_if_there_is_weight() {
    for (idle, blocks) in [(false, 3), (true, 2)] {
        // 300 peers are three chunks, of 128, 128 and 44.
        chain(4, 300).execute_with(|| {
            go_to(20);
            go_to_reports();
            all_hand_in(0..4, |_| Some(counts(1, 0)));
            go_to(29);
            if idle {
                IdleWeight::set(frame_support::weights::Weight::MAX);
            }
            let mut sizes = vec![seeders().len()];
            while Tallies::<Test>::exists() || now() < 30 {
                go_to(now() + 1);
                sizes.push(seeders().len());
                check();
            }
            let expected: &[usize] = if idle { &[0, 128, 300] } else { &[0, 128, 256, 300] };
            assert_eq!(sizes, expected);
            assert_eq!(now(), 29 + blocks);
        });
    }
}

#[test]
fn a_full_tally_is_over_before_the_next_window_is() {
    chain(4, 1_000).execute_with(|| {
        for window in 0..4 {
            go_to(20 + 10 * window);
            assert_eq!(Tallies::<Test>::get().len(), usize::from(window > 0));
            go_to_reports();
            all_hand_in(0..4, |_| Some(counts(1, 0)));
            check();
            go_to(29 + 10 * window);
            assert_eq!(Tallies::<Test>::get().len(), 0);
            check();
        }
        assert_eq!(seeders().len(), 1_000);
    });
}

#[test]
fn reports_of_a_window_do_not_mix_with_those_of_the_one_being_tallied() {
    chain(4, 1_000).execute_with(|| {
        go_to(20);
        go_to_reports();
        all_hand_in(0..4, |_| Some(counts(1, 0)));
        // Chunk 5 of 0..=7 is worked off at the beginning of this block.
        go_to(35);
        all_hand_in(0..4, |_| Some(counts(0, 1)));
        go_to(39);
        assert!(seeders().values().all(|score| *score == 511));
        go_to(49);
        assert!(seeders().values().all(|score| *score == 461));
    });
}

#[test]
fn an_account_with_many_keys_moves_once() {
    let account = |n: u32| peer_account(if n < 16 { 0 } else { n });
    for (bad, score) in [(0, 511), (1, 450), (16, 450)] {
        let mut chain = chain_of(4, (0..4).collect(), 17, account);
        chain.execute_with(|| {
            begin_block();
            one_window(0..4, |_, binding| {
                Some(if binding < bad { counts(0, 1) } else { counts(1, 0) })
            });
            assert_eq!(seeder(0), score, "{bad} of 16 keys fail");
            assert_eq!(seeder(16), 511);
        });
    }
}

#[test]
fn a_key_that_was_withdrawn_since_moves_nobody() {
    chain(4, 2).execute_with(|| {
        go_to(20);
        Reputation::unbind_peer(RuntimeOrigin::signed(peer_account(0)), peer_key(0)).unwrap();
        go_to_reports();
        all_hand_in(0..4, |_| Some(counts(0, 1)));
        Reputation::withdraw(RuntimeOrigin::signed(peer_account(0)), peer_key(0)).unwrap();
        go_to(30);
        assert!(events().contains(&Event::Tallied {
            session: 1,
            window: 0,
            reports: 4,
            decided: 1,
            undecided: 1,
        }));
        assert_eq!((seeder(0), seeder(1)), (500, 450));
    });
}

#[test]
fn a_peer_that_fails_is_graylisted_after_seven_windows() {
    chain(4, 1).execute_with(|| {
        go_to(20);
        let mut windows = 0;
        while !Reputation::account_scores(&peer_account(0)).unwrap_or_default().graylisted() {
            go_to_reports();
            all_hand_in(0..4, |_| Some(counts(0, 3)));
            go_to((now() / 10 + 1) * 10);
            windows += 1;
        }
        assert_eq!((windows, seeder(0)), (7, 150));
    });
}
