//! The pallet on a chain of its own.
//!
//! | file | what |
//! |---|---|
//! | `bindings.rs` | calls about bindings, and every way they are refused |
//! | `scores.rs` | what moves scores, and decay |
//! | `feed.rs` | pages, revisions and changes |
//! | `retention.rs` | how stale scores leave |
//! | `genesis.rs` | what a chain starts with, and what it does not start with |
//! | `migrations.rs` | from one storage version to the next |
//! | `random.rs` | random calls against the invariants |

mod bindings;
mod feed;
mod genesis;
mod migrations;
mod random;
mod retention;
mod scores;

use frame_support::assert_ok;

use crate::{Event, Outcome, Scores, mock::*};

const ALICE: AccountId = 1;
const BOB: AccountId = 2;

fn scores(director: u16, validator: u16, seeder: u16) -> Scores {
    Scores { director, validator, seeder }
}

fn record_call(entries: &[(AccountId, Outcome, u16)]) -> crate::Call<Test> {
    crate::Call::record { entries: entries.to_vec().try_into().unwrap() }
}

fn record(entries: &[(AccountId, Outcome, u16)]) {
    assert_ok!(submit(RuntimeOrigin::root(), record_call(entries)));
}

fn events() -> Vec<Event<Test>> {
    System::read_events_for_pallet()
}
