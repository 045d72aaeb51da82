//! Random courses of events: reports good and bad, blocks, sessions that end at any time, keys that
//! come and go.

use proptest::prelude::*;
use sp_runtime::StateVersion;

use crate::{Current, Entry, Report, mock::*, tally};

/// Something that happens.
#[derive(Clone, Debug)]
enum Act {
    /// So many blocks go by.
    Blocks(u64),
    /// The validator reports, saying this of each of its subjects, and what is wrong with it.
    Report { who: AccountId, says: (u8, u8), wrong: Option<Wrong> },
    /// All validators report.
    All { says: (u8, u8) },
    /// The session ends now.
    Rotate,
    /// The sessions planned from now on have the validators below this one.
    Validators(AccountId),
    /// Sessions are so long from now on.
    SessionLength(u64),
    /// Peer and account agree to part.
    Unbind(u32),
    /// What is left of it is taken back.
    Withdraw(u32),
    /// Whether blocks have weight to spare from now on.
    Idle(bool),
}

#[derive(Clone, Copy, Debug)]
enum Wrong {
    Session,
    Window,
    Reporter,
    Order,
    Binding,
    Counts,
    Signer,
}

const HOLDERS: AccountId = 6;
const PEERS: u32 = 140;

fn act() -> impl Strategy<Value = Act> {
    use Wrong::*;
    let wrong =
        prop::sample::select(vec![Session, Window, Reporter, Order, Binding, Counts, Signer]);
    let says = (0u8..8, 0u8..8);
    prop_oneof![
        4 => (1u64..8).prop_map(Act::Blocks),
        4 => (0..HOLDERS, says.clone(), prop::option::of(wrong))
            .prop_map(|(who, says, wrong)| Act::Report { who, says, wrong }),
        2 => says.prop_map(|says| Act::All { says }),
        1 => Just(Act::Rotate),
        1 => (0..=HOLDERS).prop_map(Act::Validators),
        1 => (1u64..40).prop_map(Act::SessionLength),
        1 => (0..PEERS).prop_map(Act::Unbind),
        1 => (0..PEERS).prop_map(Act::Withdraw),
        1 => any::<bool>().prop_map(Act::Idle),
    ]
}

fn spoil(report: &mut Report, wrong: Wrong) {
    match wrong {
        Wrong::Session => report.session ^= 1,
        Wrong::Window => report.window ^= 1,
        Wrong::Reporter => report.reporter = 100,
        Wrong::Order => report.entries.reverse(),
        Wrong::Binding => report.entries.push(Entry { binding: PEERS, counts: counts(1, 0) }),
        Wrong::Counts => {
            if let Some(entry) = report.entries.first_mut() {
                entry.counts = codec::Decode::decode(&mut &[0xff][..]).unwrap();
            }
        }
        Wrong::Signer => {}
    }
}

/// Hands in a report; one that is refused must change nothing.
fn report(who: AccountId, says: (u8, u8), wrong: Option<Wrong>) -> Result<(), TestCaseError> {
    if Audits::duty(&reporter_key(who)).is_none() {
        return Ok(());
    }
    let mut report = report_of(who, |_| Some(counts(says.0, says.1)));
    if let Some(wrong) = wrong {
        spoil(&mut report, wrong);
    }
    let signer = if matches!(wrong, Some(Wrong::Signer)) { who + 1 } else { who };
    let signature = signed(signer, &report);
    let changes_nothing =
        matches!(wrong, Some(Wrong::Order)) && report.entries.len() < 2 || wrong.is_none();
    let before = sp_io::storage::root(StateVersion::V1);
    let result = hand_in_signed(report, signature);
    prop_assert!(changes_nothing || result.is_err(), "{wrong:?} was taken");
    if result.is_err() {
        prop_assert_eq!(sp_io::storage::root(StateVersion::V1), before, "refused, and changed");
    }
    Ok(())
}

fn run(act: &Act) -> Result<(), TestCaseError> {
    match *act {
        Act::Blocks(blocks) => {
            for _ in 0..blocks {
                let before = seeders();
                go_to(now() + 1);
                for (account, score) in seeders() {
                    let moved = score as i16 - before.get(&account).map_or(500, |old| *old as i16);
                    prop_assert!((tally::WORST..=tally::BEST).contains(&moved), "by {moved}");
                }
                prop_assert_eq!(Audits::check_state(), Ok(()), "in block {}", now());
            }
        }
        Act::Report { who, says, wrong } => report(who, says, wrong)?,
        Act::All { says } => {
            for who in 0..HOLDERS {
                report(who, says, None)?;
            }
        }
        Act::Rotate => Session::rotate_session(),
        Act::Validators(below) => Validators::set((0..below).collect()),
        Act::SessionLength(length) => SessionLength::set(length),
        Act::Unbind(n) => {
            let _ = Reputation::unbind_peer(RuntimeOrigin::signed(peer_account(n)), peer_key(n));
        }
        Act::Withdraw(n) => {
            let _ = Reputation::withdraw(RuntimeOrigin::signed(peer_account(n)), peer_key(n));
        }
        Act::Idle(idle) => {
            let weight = frame_support::weights::Weight::MAX;
            IdleWeight::set(if idle { weight } else { Default::default() });
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_happens_the_state_stays_sound(acts in prop::collection::vec(act(), 1..60)) {
        let mut chain = chain_of(HOLDERS, (0..4).collect(), PEERS, peer_account);
        chain.execute_with(|| {
            begin_block();
            for act in &acts {
                run(act)?;
                prop_assert_eq!(Audits::check_state(), Ok(()), "after {:?}", act);
            }
            // Left alone, everything that was reported is worked off.
            SessionLength::set(20);
            go_to(now() + 60);
            let window = Current::<Test>::get().map(|window| window.number);
            prop_assert!(!crate::Tallies::<Test>::exists(), "in window {window:?}");
            prop_assert_eq!(crate::Reports::<Test>::iter().count(), 0);
            Ok(())
        })?;
    }
}
