//! Random calls, with good and bad input, by all origins, while time passes: against the invariants.

use std::collections::{BTreeMap, BTreeSet};

use frame_support::weights::Weight;
use proptest::prelude::*;
use sp_runtime::{DispatchError, DispatchResult, Perbill, StateVersion};
use sp_staking::offence::{OffenceDetails, OnOffenceHandler};

use crate::{
    Call, Component, Component::*, Earned, Ledger, Outcome, OverlayKey, PeerChange, PeerEarned,
    Scores, mock::*,
};

/// Overlay nodes and accounts that take part. The last account owns nothing.
const SEEDS: u8 = 5;
const ACCOUNTS: [AccountId; 5] = [0, 1, 2, 3, 10];

#[derive(Clone, Copy, Debug)]
enum By {
    Root,
    Nobody,
    Account(AccountId),
}

impl From<By> for RuntimeOrigin {
    fn from(by: By) -> Self {
        match by {
            By::Root => Self::root(),
            By::Nobody => Self::none(),
            By::Account(account) => Self::signed(account),
        }
    }
}

#[derive(Clone, Debug)]
enum Act {
    Bind { by: By, seed: u8, proof_for: AccountId, nonce_off_by: u32 },
    Unbind { by: By, seed: u8 },
    Withdraw { by: By, seed: u8 },
    Record { by: By, entries: Vec<(AccountId, Outcome, u16)> },
    Add { account: AccountId, component: Component, delta: i16 },
    Offence { account: AccountId },
    Blocks { count: u64, idle: Weight },
    Days { days: u64 },
}

impl Act {
    /// Does it; `Ok` for what cannot fail.
    fn act(&self) -> DispatchResult {
        match self.clone() {
            Self::Bind { by, seed, proof_for, nonce_off_by } => {
                let nonce = Reputation::bind_nonce(&proof_for) + nonce_off_by;
                let proof = proof(seed, proof_for, nonce);
                submit(by.into(), Call::bind_peer { key: key(seed), proof })
            }
            Self::Unbind { by, seed } => submit(by.into(), Call::unbind_peer { key: key(seed) }),
            Self::Withdraw { by, seed } => submit(by.into(), Call::withdraw { key: key(seed) }),
            Self::Record { by, entries } => {
                submit(by.into(), Call::record { entries: entries.try_into().unwrap() })
            }
            Self::Add { account, component, delta } => {
                Reputation::add(&account, component, delta);
                Ok(())
            }
            Self::Offence { account } => {
                let offender = OffenceDetails { offender: (account, ()), reporters: vec![] };
                Reputation::on_offence(&[offender], &[Perbill::one()], 0);
                Ok(())
            }
            Self::Blocks { count, idle } => {
                (0..count).for_each(|_| next_block_idle(idle));
                Ok(())
            }
            Self::Days { days } => {
                pass_days(days);
                Ok(())
            }
        }
    }

    /// What good it did to `account`, if it was done.
    fn gained(&self, account: AccountId, component: Component) -> u32 {
        match self {
            Self::Record { entries, .. } => entries
                .iter()
                .filter(|(whose, outcome, _)| {
                    *whose == account && outcome.effect().0 == component && outcome.delta() > 0
                })
                .map(|(_, outcome, times)| {
                    outcome.delta().unsigned_abs() as u32 * u32::from(*times)
                })
                .sum(),
            Self::Add { account: whose, component: moved, delta }
                if *whose == account && *moved == component =>
            {
                (*delta).max(0) as u32
            }
            _ => 0,
        }
    }
}

fn act() -> impl Strategy<Value = Act> {
    let account = || prop::sample::select(&ACCOUNTS[..]);
    let by = move || {
        prop_oneof![
            20 => account().prop_map(By::Account),
            1 => Just(By::Root),
            1 => Just(By::Nobody),
        ]
    };
    let component = || prop_oneof![Just(Director), Just(Validator), Just(Seeder)];
    let entry = (
        account(),
        prop::sample::select(&Outcome::ALL[..]),
        prop_oneof![4 => 0..=9u16, 1 => any::<u16>()],
    );
    let good_bind = (account(), 0..SEEDS).prop_map(|(account, seed)| Act::Bind {
        by: By::Account(account),
        seed,
        proof_for: account,
        nonce_off_by: 0,
    });
    let any_bind =
        (by(), 0..SEEDS, account(), 0..=1u32).prop_map(|(by, seed, proof_for, nonce_off_by)| {
            Act::Bind { by, seed, proof_for, nonce_off_by }
        });
    let idle = prop_oneof![
        Just(Weight::zero()),
        Just(Weight::MAX),
        (0..2_000_000_000u64, 0..100_000u64)
            .prop_map(|(time, proof)| Weight::from_parts(time, proof)),
    ];
    prop_oneof![
        4 => good_bind,
        1 => any_bind,
        4 => (by(), 0..SEEDS).prop_map(|(by, seed)| Act::Unbind { by, seed }),
        4 => (by(), 0..SEEDS).prop_map(|(by, seed)| Act::Withdraw { by, seed }),
        3 => prop::collection::vec(entry.clone(), 0..8)
            .prop_map(|entries| Act::Record { by: By::Root, entries }),
        1 => (by(), prop::collection::vec(entry, 0..8))
            .prop_map(|(by, entries)| Act::Record { by, entries }),
        1 => (account(), component(), any::<i16>())
            .prop_map(|(account, component, delta)| Act::Add { account, component, delta }),
        1 => account().prop_map(|account| Act::Offence { account }),
        3 => (1..40u64, idle).prop_map(|(count, idle)| Act::Blocks { count, idle }),
        2 => (1..60u64).prop_map(|days| Act::Days { days }),
    ]
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    prop::collection::vec(act(), 1..80)
}

fn root() -> Vec<u8> {
    sp_io::storage::root(StateVersion::V1)
}

/// All peers, as a node reads them that knows nothing.
fn all_peers() -> BTreeMap<OverlayKey, Earned> {
    Reputation::peers(None, 1_000)
        .into_iter()
        .map(|PeerEarned { key, earned }| (key, earned))
        .collect()
}

/// A node that follows the changes.
#[derive(Default)]
struct Follower {
    revision: u64,
    table: BTreeMap<OverlayKey, Earned>,
}

impl Follower {
    /// Catches up with the chain as it is.
    fn follow(&mut self) {
        match Reputation::changes_since(self.revision) {
            Some(changes) => {
                for PeerChange { key, earned } in changes {
                    match earned {
                        Some(earned) => self.table.insert(key, earned),
                        None => self.table.remove(&key),
                    };
                }
            }
            None => self.table = all_peers(),
        }
        self.revision = Reputation::revision();
    }
}

/// A component of what is known for worse than neutral, or neutral.
fn badness(scores: Scores, component: Component) -> u32 {
    let scores = scores.at_most_neutral();
    u32::from(match component {
        Director => scores.director,
        Validator => scores.validator,
        Seeder => scores.seeder,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever is called, the invariants hold, and what is refused is refused by name and changes
    /// nothing.
    #[test]
    fn the_state_stays_sound(acts in acts()) {
        new_chain().execute_with(|| {
            for act in acts {
                let before = root();
                if let Err(error) = act.act() {
                    let named = matches!(
                        error,
                        DispatchError::BadOrigin
                            | DispatchError::Module(_)
                            | DispatchError::Token(_)
                            | DispatchError::Arithmetic(_)
                    );
                    prop_assert!(named, "{act:?}: {error:?}");
                    prop_assert_eq!(root(), before, "{:?} failed and changed", act);
                }
                prop_assert_eq!(Reputation::check_state(), Ok(()), "after {:?}", act);
            }
            Ok(())
        })?;
    }

    /// A node that follows the changes has the table of one that reads it anew; what stood still says
    /// so; and a block makes one revision at most.
    #[test]
    fn following_is_as_good_as_reading_anew(acts in acts()) {
        new_chain().execute_with(|| {
            let (mut lazy, mut diligent) = (Follower::default(), Follower::default());
            for act in acts {
                let _ = act.act();
                let (revision, peers) = (diligent.revision, diligent.table.clone());
                next_block();
                diligent.follow();
                prop_assert_eq!(&diligent.table, &all_peers());
                if !matches!(act, Act::Blocks { .. } | Act::Days { .. }) {
                    prop_assert!(Reputation::revision() <= revision + 1);
                }
                if diligent.revision == revision {
                    prop_assert_eq!(&diligent.table, &peers, "changed without a revision");
                }
                if matches!(act, Act::Days { .. }) {
                    lazy.follow();
                    prop_assert_eq!(&lazy.table, &all_peers());
                }
            }
            Ok(())
        })?;
    }

    /// No key and no account is ever better than it was last seen by more than was earned since, in
    /// what is below neutral: not by a new key, a new account, both in turn, nor by waiting.
    #[test]
    fn a_bad_past_is_not_shaken_off(acts in acts()) {
        new_chain().execute_with(|| {
            let mut keys = BTreeMap::<(OverlayKey, u8), u32>::new();
            let mut accounts = BTreeMap::<(AccountId, u8), u32>::new();
            for act in acts {
                let done = act.act().is_ok();
                for component in [Director, Validator, Seeder] {
                    let gained = |account| if done { act.gained(account, component) } else { 0 };
                    for account in ACCOUNTS {
                        let scores = Reputation::account_scores(&account).unwrap_or_default();
                        let now = badness(scores, component);
                        let was = accounts.insert((account, component as u8), now).unwrap_or(500);
                        prop_assert!(now <= was + gained(account), "{account} by {act:?}");
                        for key in Reputation::keys_of(&account) {
                            let was = keys.insert((key, component as u8), now).unwrap_or(500);
                            prop_assert!(now <= was + gained(account), "{key:?} by {act:?}");
                        }
                    }
                }
            }
            Ok(())
        })?;
    }
}

/// The acts above are of use only if they reach what they are to try.
#[test]
fn random_acts_reach_every_error_and_every_event() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};

    let mut runner = TestRunner::deterministic();
    let (mut errors, mut events) = (BTreeSet::new(), BTreeSet::new());
    let (mut pasts, mut removed) = (0, 0);
    for _ in 0..100 {
        let acts = acts().new_tree(&mut runner).unwrap().current();
        new_chain().execute_with(|| {
            for act in acts {
                let records = crate::ScoresOf::<Test>::iter().count();
                if let Err(error) = act.act() {
                    errors.insert(<&'static str>::from(error));
                }
                pasts += crate::KeyHistory::<Test>::iter().count();
                removed += records.saturating_sub(crate::ScoresOf::<Test>::iter().count());
            }
            for event in super::events() {
                let name = format!("{event:?}");
                events.insert(name.split([' ', '{']).next().unwrap().to_owned());
            }
        });
    }
    let expected = [
        "AlreadyUnbinding",
        "Bad origin",
        "BadProof",
        "BoundToAnother",
        "Funds are unavailable",
        "KeyAlreadyBound",
        "NotBound",
        "NotUnbinding",
        "StillAnswering",
        "TooManyKeys",
    ];
    let expected: BTreeSet<_> = expected.into();
    assert!(errors.is_superset(&expected), "{:?}", expected.difference(&errors));
    assert_eq!(events.len(), 4, "{events:?}");
    assert!(pasts > 0 && removed > 0, "{pasts} {removed}");
}
