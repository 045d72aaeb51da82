//! The pallet on a chain with real sessions, bindings and scores: windows, reports good and bad, the
//! tally, and random courses of events against the invariants.

mod bad_input;
mod fuzz;
mod rounds;
mod tallies;

use frame_support::{assert_ok, traits::OneSessionHandler};
use sp_runtime::{BoundToRuntimeAppPublic, RuntimeAppPublic};

use crate::{Event, GenesisConfig, Reporters, mock::*};

/// What happened in the running block so far.
fn events() -> Vec<Event<Test>> {
    System::read_events_for_pallet()
}

fn check() {
    assert_ok!(Audits::check_state());
    assert_ok!(Reputation::check_state());
}

#[test]
fn reporters_are_those_of_the_running_session() {
    type Handler = Audits;
    let validators = [(1, reporter_key(1)), (2, reporter_key(2))];
    let session = |n: usize| validators.iter().take(n).map(|(who, key)| (who, key.clone()));
    let stored = || Reporters::<Test>::get().into_inner();

    assert_eq!(<<Audits as BoundToRuntimeAppPublic>::Public as RuntimeAppPublic>::ID.0, *b"imon");
    chain(0, 0).execute_with(|| {
        Handler::on_genesis_session(session(1));
        assert_eq!(stored(), [reporter_key(1)]);
        Handler::on_new_session(false, session(2), session(2));
        assert_eq!(stored(), [reporter_key(1)], "not changed, so not written");
        Handler::on_new_session(true, session(2), session(1));
        assert_eq!(stored(), [reporter_key(1), reporter_key(2)]);
        <Handler as OneSessionHandler<AccountId>>::on_disabled(0);
        assert_eq!(stored(), [reporter_key(1), reporter_key(2)]);
    });
}

#[test]
#[should_panic(expected = "a window of 9 blocks, fewer than 10")]
fn genesis_with_a_short_window_is_refused() {
    let genesis: GenesisConfig<Test> = serde_json::from_str(r#"{"windowLength": 9}"#).unwrap();
    chain(0, 0).execute_with(|| frame_support::traits::BuildGenesisConfig::build(&genesis));
}

#[test]
fn genesis_sets_the_length_of_a_window() {
    let genesis: GenesisConfig<Test> = serde_json::from_str(r#"{"windowLength": 12}"#).unwrap();
    chain(0, 0).execute_with(|| {
        frame_support::traits::BuildGenesisConfig::build(&genesis);
        assert_eq!(crate::WindowLength::<Test>::get(), 12);
    });
}
