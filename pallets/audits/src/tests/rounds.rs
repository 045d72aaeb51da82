//! When windows begin and end, whom they audit, and what a report is to the pool.

use frame_support::traits::OnIdle;
use sp_runtime::transaction_validity::TransactionPriority;

use super::{check, events};
use crate::{
    Current, Event, InProgress, Reporters, Reports, SessionBegins, Tallies, WindowLength, mock::*,
    window::Span,
};

/// The windows that begin up to block `end`.
fn windows_up_to(end: u64) -> Vec<Span> {
    let mut spans = Vec::new();
    loop {
        if let Some(window) = Current::<Test>::get()
            && spans.last() != Some(&window.span)
        {
            spans.push(window.span);
        }
        check();
        if now() == end {
            return spans;
        }
        go_to(now() + 1);
    }
}

fn span(session: u32, window: u32, begins: u32) -> Span {
    Span { session, window, begins, ends: begins + 9 }
}

#[test]
fn windows_begin_with_sessions() {
    chain(4, 3).execute_with(|| {
        assert_eq!(
            events(),
            [Event::WindowBegun { session: 0, window: 0, subjects: 3, reporters: 4 }]
        );
        // The first session has no block 0 to run, so only one window fits.
        assert_eq!(
            windows_up_to(55),
            [span(0, 0, 1), span(1, 0, 20), span(1, 1, 30), span(2, 0, 40), span(2, 1, 50)]
        );
    });
}

#[test]
fn a_remainder_of_a_session_is_no_window() {
    chain(4, 3).execute_with(|| {
        SessionLength::set(27);
        assert_eq!(
            windows_up_to(82),
            [
                span(0, 0, 1),
                span(0, 1, 11),
                span(1, 0, 27),
                span(1, 1, 37),
                span(2, 0, 54),
                span(2, 1, 64),
                span(3, 0, 81)
            ]
        );
    });
}

#[test]
fn sessions_shorter_than_a_window_have_none() {
    chain(4, 3).execute_with(|| {
        go_to(20);
        SessionLength::set(9);
        go_to(27);
        assert!(Current::<Test>::get().is_none(), "the running one was void");
        assert_eq!(windows_up_to(80), []);
    });
}

#[test]
fn a_session_that_ends_unforeseen_voids_its_window() {
    chain(4, 3).execute_with(|| {
        go_to(20);
        go_to_reports();
        all_hand_in(0..4, |_| Some(counts(0, 3)));
        go_to(28);
        Session::rotate_session();
        assert!(events().contains(&Event::WindowVoid { session: 1, window: 0 }));
        assert!(Current::<Test>::get().is_none());
        assert_eq!(InProgress::<Test>::get(), Default::default());
        assert_eq!(SessionBegins::<Test>::get(), Some(28));
        check();
        go_to(29);
        assert_eq!(Tallies::<Test>::get().len(), 0, "its one chunk is gone");
        assert_eq!(Reports::<Test>::iter().count(), 0);
        assert_eq!(seeders(), Default::default(), "and moved nothing");
        check();
        // The new session is only 12 blocks long: from 28 to 40.
        assert_eq!(windows_up_to(45), [span(3, 0, 40)]);
    });
}

#[test]
fn a_session_of_unknown_end_voids_what_does_not_fit() {
    chain(4, 3).execute_with(|| {
        SessionsAreKnown::set(false);
        assert_eq!(windows_up_to(19), [span(0, 0, 1), span(0, 1, 11)]);
        go_to_reports();
        all_hand_in(0..4, |_| Some(counts(0, 3)));
        go_to(20);
        assert!(events().contains(&Event::WindowVoid { session: 0, window: 1 }));
        assert_eq!(windows_up_to(30), [span(1, 0, 20), span(1, 1, 30)]);
        assert_eq!(seeders(), Default::default());
    });
}

#[test]
fn windows_wait_while_two_are_tallied() {
    // 130 peers: two chunks.
    chain(4, 1_000).execute_with(|| {
        go_to(30);
        go_to_reports();
        all_hand_in(0..4, |_| Some(counts(1, 0)));
        // Its tally begins with block 40, and the new window gets a report in 45.
        go_to(45);
        assert_eq!(Tallies::<Test>::get().len(), 1);
        all_hand_in(0..1, |_| Some(counts(1, 0)));
        Session::rotate_session();
        assert_eq!(Tallies::<Test>::get().len(), 2);
        check();
        SessionBegins::<Test>::put(46);
        go_to(46);
        assert!(Current::<Test>::get().is_none(), "no room");
        go_to(60);
        assert_eq!(Tallies::<Test>::get().len(), 0);
        assert!(Current::<Test>::get().is_some());
        check();
    });
}

#[test]
fn without_validators_or_peers_nothing_begins() {
    chain(0, 3).execute_with(|| assert_eq!(windows_up_to(45), []));
    chain(4, 0).execute_with(|| assert_eq!(windows_up_to(45), []));
}

#[test]
fn a_chain_that_got_the_pallet_later_begins_with_its_next_session() {
    chain(4, 3).execute_with(|| {
        go_to(22);
        Current::<Test>::kill();
        SessionBegins::<Test>::kill();
        WindowLength::<Test>::kill();
        Reporters::<Test>::kill();
        assert_eq!(windows_up_to(45), [span(2, 0, 40)]);
        assert_eq!(Reporters::<Test>::get().len(), 4);
    });
}

#[test]
fn committees_are_drawn_from_the_block_before() {
    chain(100, 30).execute_with(|| {
        let seed_and_duty = || (Current::<Test>::get().unwrap().draw.seed, duty(0).subjects);
        let first = seed_and_duty();
        assert_eq!(first.0, System::block_hash(0));
        go_to(20);
        let second = seed_and_duty();
        assert_eq!(second.0, System::block_hash(19));
        assert_ne!(first.1, second.1);
        go_to(29);
        assert_eq!(seed_and_duty(), second, "for the whole window");
    });
}

#[test]
fn a_duty_names_subjects_and_times() {
    chain(100, 30).execute_with(|| {
        go_to(30);
        let mut members = vec![0; 30];
        for n in 0..100 {
            let duty = duty(n);
            assert_eq!((duty.session, duty.window, duty.reporter), (1, 1, n as u16));
            assert_eq!((duty.begins, duty.reports_from, duty.ends), (30, 35, 39));
            for subject in duty.subjects {
                assert_eq!(subject.key, peer_key(subject.binding));
                members[subject.binding as usize] += 1;
            }
        }
        assert_eq!(members, [64; 30]);
        assert_eq!(Audits::duty(&reporter_key(100)), None, "no reporter");

        go_to_reports();
        assert!(!duty(3).reported);
        all_hand_in([3], |_| Some(counts(1, 0)));
        assert!(duty(3).reported && !duty(4).reported);
    });
    chain(4, 0).execute_with(|| assert_eq!(Audits::duty(&reporter_key(0)), None, "no window"));
}

#[test]
fn a_key_that_is_withdrawn_in_a_window_leaves_the_duty() {
    chain(4, 3).execute_with(|| {
        go_to(20);
        Reputation::unbind_peer(RuntimeOrigin::signed(peer_account(1)), peer_key(1)).unwrap();
        assert_eq!(duty(0).subjects.len(), 3, "it still answers");
        go_to(20 + UNBIND_DELAY);
        Reputation::withdraw(RuntimeOrigin::signed(peer_account(1)), peer_key(1)).unwrap();
        assert_eq!(duty(0).subjects.len(), 2);
        check();
    });
}

#[test]
fn a_new_session_has_new_reporters_and_a_window_of_its_own() {
    let mut chain = chain_of(8, (0..4).collect(), 3, peer_account);
    chain.execute_with(|| {
        begin_block();
        // Planned for session 2.
        Validators::set((2..7).collect());
        go_to(30);
        go_to_reports();
        all_hand_in(0..4, |_| Some(counts(0, 3)));
        go_to(39);
        assert_eq!(seeder(0), 500);

        go_to(40);
        check();
        assert_eq!(Reporters::<Test>::get().into_inner(), Vec::from_iter((2..7).map(reporter_key)));
        // Those who left do not matter to the tally of what they reported.
        assert!(events().contains(&Event::Tallied {
            session: 1,
            window: 1,
            reports: 4,
            decided: 3,
            undecided: 0,
        }));
        assert_eq!(seeder(0), 450);
        assert_eq!(Audits::duty(&reporter_key(0)), None);
        let duty = duty(6);
        assert_eq!((duty.session, duty.window, duty.reporter), (2, 0, 4));
    });
}

#[test]
fn a_report_is_known_to_the_pool_once_and_until_the_window_ends() {
    chain(4, 3).execute_with(|| {
        go_to(20);
        go_to_reports();
        let report = |n| report_of(n, |_| Some(counts(1, 0)));
        let valid = |n| authorize(&report(n), &signed(n, &report(n))).unwrap();
        let first = valid(0);
        assert_eq!(first.provides.len(), 1);
        assert_ne!(first.provides, valid(1).provides);
        let other = report_of(0, |_| Some(counts(0, 1)));
        let same = authorize(&other, &signed(0, &other)).unwrap();
        assert_eq!(first.provides, same.provides, "what else it says does not matter");
        assert_eq!(first.requires, Vec::<Vec<u8>>::new());
        assert_eq!(first.priority, TransactionPriority::MAX);
        assert!(first.propagate);
        // Asked for block 25, on top of block 24: good for blocks 25 to 29.
        assert_eq!(first.longevity, 5);
        go_to(29);
        assert_eq!(valid(0).longevity, 1);
    });
}

#[test]
fn a_report_is_free_and_told() {
    use frame_support::dispatch::{GetDispatchInfo, Pays};
    chain(4, 3).execute_with(|| {
        go_to_reports();
        let report = report_of(2, |binding| (binding != 1).then(|| counts(1, 0)));
        let signature = signed(2, &report);
        let call = crate::Call::<Test>::report { report: report.clone(), signature };
        assert_eq!(call.get_dispatch_info().pays_fee, Pays::No);
        hand_in(2, report).unwrap();
        let taken = Event::ReportTaken { session: 0, window: 0, reporter: 2, entries: 2 };
        assert_eq!(events(), [taken]);
    });
}

#[test]
fn idle_weight_is_not_exceeded() {
    chain(4, 300).execute_with(|| {
        go_to(20);
        go_to_reports();
        all_hand_in(0..4, |_| Some(counts(1, 0)));
        go_to(30);
        let next = || Tallies::<Test>::get().first().map(|tally| tally.next_chunk);
        assert_eq!(next(), Some(1));
        let little = frame_support::weights::Weight::from_parts(100_000_000, u64::MAX);
        assert!(Audits::on_idle(30, little).all_lte(little));
        assert_eq!(next(), Some(1));
        let much = frame_support::weights::Weight::MAX;
        let used = Audits::on_idle(30, much);
        assert_eq!(next(), Some(2));
        assert!(Audits::on_idle(30, used).all_lte(used));
        assert_eq!(next(), None, "44 are left, which cost less");
    });
}
