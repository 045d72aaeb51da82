use super::*;
use crate::{
    content::{ShardId, manifest::Part},
    warm::Account,
};
use proptest::prelude::*;
use std::{cell::RefCell, collections::BTreeSet};

const SECOND: Duration = Duration::from_secs(1);
const LEN: u32 = 1000;

/// A cache of as many bytes as it says, which takes what it is told to.
struct Fake {
    held: RefCell<BTreeSet<BlobId>>,
    keeps: bool,
    holds: bool,
    capacity: u64,
}

impl Shelf for Fake {
    fn holds(&self, id: BlobId) -> bool {
        self.held.borrow().contains(&id)
    }
    fn would_keep(&self, _: BlobId, _: u32) -> bool {
        self.keeps
    }
    fn would_hold(&self, _: u32) -> bool {
        self.holds
    }
    fn capacity(&self) -> u64 {
        self.capacity
    }
}

fn shelf() -> Fake {
    Fake { held: RefCell::default(), keeps: true, holds: true, capacity: 1_000_000 }
}

/// A content of so many shards of [`LEN`] bytes.
fn film(n: u8, shards: u8) -> Manifest {
    let part = |at| Part { id: ShardId(shard(n, at)), len: LEN };
    Manifest::new("video/mp4", (0..shards).map(part).collect()).unwrap()
}

fn shard(n: u8, at: u8) -> BlobId {
    let mut id = [n; 32];
    id[0] = at;
    BlobId(id)
}

fn len_of(film: &Manifest) -> u32 {
    u32::try_from(film.encode().len()).unwrap()
}

fn announced(film: &Manifest, account: u8, score: u16) -> Announced {
    Announced {
        content: film.id(),
        total_len: film.total_len(),
        shards: u32::try_from(film.shards().len()).unwrap(),
        by: Some(Patron { account: Account([account; 32]), score }),
    }
}

fn config() -> Config {
    Config { bytes_per_second: 0, ..Config::default() }
}

fn whole(len: u32, manifest: Option<Manifest>) -> Outcome {
    Outcome::Whole { len, manifest, ours: true }
}

/// Fetches what is to be fetched now, and gives it in its order with what was refused.
fn run(
    plan: &mut Plan,
    shelf: &Fake,
    film: &Manifest,
    now: Instant,
) -> (Vec<BlobId>, Vec<Refused>) {
    let (mut fetched, mut refused) = (Vec::new(), Vec::new());
    loop {
        match plan.next(shelf, 0, now) {
            Next::Fetch(wanted) => {
                let manifest = (wanted.what != What::Shard).then(|| film.clone());
                let len = manifest.as_ref().map_or(LEN, len_of);
                shelf.held.borrow_mut().insert(wanted.id);
                fetched.push(wanted.id);
                refused.extend(plan.done(wanted.id, whole(len, manifest), now).err());
            }
            Next::Refused(reason) => refused.push(reason),
            Next::At(_) | Next::Full | Next::Nothing => return (fetched, refused),
        }
    }
}

#[test]
fn an_announced_content_is_fetched_from_its_beginning_as_far_as_configured() {
    let now = Instant::now();
    let config = Config { content_bytes: 2500, ..config() };
    let (mut plan, shelf, film) = (Plan::new(config, now), shelf(), film(1, 5));
    plan.announced(&announced(&film, 1, 500), &shelf, now).unwrap();
    let (fetched, refused) = run(&mut plan, &shelf, &film, now);
    assert_eq!(fetched, [film.id().into(), shard(1, 0), shard(1, 1)]);
    assert_eq!(refused, []);
    assert_eq!(plan.unread(), u64::from(2 * LEN + len_of(&film)));
    assert!(plan.is_idle());
}

#[test]
fn who_is_not_bound_or_known_enough_or_said_it_before_causes_nothing() {
    let now = Instant::now();
    let (mut plan, shelf, film) = (Plan::new(config(), now), shelf(), film(1, 2));
    let good = announced(&film, 1, 500);
    let mut announce = |announced: Announced| plan.announced(&announced, &shelf, now);
    assert_eq!(announce(Announced { by: None, ..good }), Err(Refused::Unbound));
    assert_eq!(announce(announced(&film, 1, 499)), Err(Refused::Reputation));
    assert_eq!(announce(Announced { shards: 0, ..good }), Err(Refused::Untrue));
    assert_eq!(announce(Announced { shards: u32::MAX, ..good }), Err(Refused::Untrue));
    assert_eq!(announce(good), Ok(()));
    assert_eq!(announce(announced(&film, 2, 900)), Err(Refused::Known));
    shelf.held.borrow_mut().insert(self::film(2, 1).id().into());
    assert_eq!(
        plan.announced(&announced(&self::film(2, 1), 1, 500), &shelf, now),
        Err(Refused::Known)
    );
}

#[test]
fn an_account_causes_no_more_than_its_bytes_whichever_content_they_are_of() {
    let now = Instant::now();
    let manifest_len = u64::from(manifest::longest(3).unwrap());
    let config = Config { account_bytes: 2 * manifest_len + 4500, ..config() };
    let (mut plan, shelf) = (Plan::new(config, now), shelf());
    let films = [film(1, 3), film(2, 3), film(3, 3)];
    let mut caused = |film: &Manifest, account| -> Result<_, Refused> {
        plan.announced(&announced(film, account, 500), &shelf, now)?;
        Ok(run(&mut plan, &shelf, film, now))
    };
    assert_eq!(caused(&films[0], 1).unwrap().0.len(), 4);
    let (fetched, refused) = caused(&films[1], 1).unwrap();
    assert_eq!((fetched.len(), refused), (2, vec![Refused::Account; 2]));
    assert_eq!(
        caused(&films[2], 1).unwrap().0,
        [films[2].id().into()],
        "no more than its manifest"
    );
    assert_eq!(caused(&film(4, 3), 2).unwrap().0.len(), 4, "another account has its own");
}

#[test]
fn a_manifest_that_is_not_what_was_announced_leads_to_nothing_and_costs_its_account() {
    let now = Instant::now();
    let (mut plan, truth) = (Plan::new(config(), now), film(1, 3));
    let shelf = Fake { capacity: 1 << 40, ..shelf() };
    let said = announced(&truth, 1, 500);
    let lies = [Announced { total_len: 1, ..said }, Announced { shards: 2, ..said }];
    for (n, lie) in (0..).zip(lies) {
        let lie = Announced { content: ContentId(shard(9, n)), ..lie };
        plan.announced(&lie, &shelf, now).unwrap();
        let Next::Fetch(wanted) = plan.next(&shelf, 0, now) else { panic!() };
        let ended = plan.done(wanted.id, whole(16 << 20, Some(truth.clone())), now);
        assert_eq!(ended, Err(Refused::Untrue));
        assert!(plan.is_idle());
    }
    // 32 MiB are gone by now, of 256: what cannot be a manifest at all is charged as well.
    for n in 2..17 {
        let lie = Announced { content: ContentId(shard(9, n)), ..said };
        if plan.announced(&lie, &shelf, now) == Err(Refused::Account) {
            return assert_eq!(n, 16);
        }
        let Next::Fetch(wanted) = plan.next(&shelf, 0, now) else { panic!() };
        assert_eq!(plan.done(wanted.id, whole(16 << 20, None), now), Err(Refused::Untrue));
        assert!(plan.read(wanted.id, &shelf, 0, now).used);
    }
    panic!("the account was never empty");
}

#[test]
fn what_follows_a_shard_that_is_read_is_fetched_and_counts_as_used_when_read() {
    let now = Instant::now();
    let (mut plan, shelf, film) = (Plan::new(config(), now), shelf(), film(1, 9));
    plan.learn(film.id().into(), Some(&film));
    assert_eq!(plan.read(shard(1, 2), &shelf, 0, now), Meaning::default());
    let ahead = [3, 4, 5, 6].map(|at| shard(1, at));
    assert_eq!(run(&mut plan, &shelf, &film, now).0, ahead);
    // The next reading finds the first of them, and wants one more.
    assert_eq!(plan.read(shard(1, 3), &shelf, 0, now), Meaning { used: true, refused: None });
    assert_eq!(plan.read(shard(1, 3), &shelf, 0, now), Meaning { used: false, refused: None });
    assert_eq!(run(&mut plan, &shelf, &film, now).0, [shard(1, 7)]);
    assert_eq!(plan.unread(), 4 * u64::from(LEN));
}

#[test]
fn what_is_read_while_it_is_fetched_ahead_is_used_and_never_wasted() {
    let now = Instant::now();
    let (mut plan, shelf, film) = (Plan::new(config(), now), shelf(), film(1, 2));
    plan.learn(film.id().into(), Some(&film));
    plan.read(shard(1, 0), &shelf, 0, now);
    let Next::Fetch(wanted) = plan.next(&shelf, 0, now) else { panic!() };
    assert!(!plan.was_read(wanted.id));
    assert!(plan.read(wanted.id, &shelf, 0, now).used && plan.was_read(wanted.id));
    assert!(!plan.read(wanted.id, &shelf, 0, now).used);
    plan.done(wanted.id, whole(LEN, None), now).unwrap();
    assert_eq!((plan.unread(), plan.judge(&shelf, now + 1_000_000 * SECOND)), (0, 0));
}

#[test]
fn a_busy_service_begins_nothing_and_gives_up_what_waited_for_too_long() {
    let now = Instant::now();
    let (mut plan, shelf, film) = (Plan::new(config(), now), shelf(), film(1, 9));
    let again = announced(&film, 1, 500);
    plan.announced(&again, &shelf, now).unwrap();
    assert_eq!(plan.next(&shelf, 50, now), Next::Full);
    let late = now + Config::default().patience;
    assert_eq!(plan.next(&shelf, 50, late - SECOND), Next::Full);
    assert_eq!(plan.next(&shelf, 50, late), Next::Refused(Refused::Busy));
    assert_eq!(plan.next(&shelf, 50, late), Next::Nothing);
    plan.announced(&again, &shelf, late).expect("nothing came of it, so it may be said again");
    // A reader's next shards do not even wait.
    plan.learn(film.id().into(), Some(&film));
    assert_eq!(plan.read(shard(1, 0), &shelf, 50, late).refused, Some(Refused::Busy));
    assert_eq!(plan.shed(), 1);
    assert!(plan.is_idle());
    plan.announced(&again, &shelf, late).unwrap();
}

#[test]
fn readers_come_before_announcements_and_the_rate_holds_for_both() {
    let now = Instant::now();
    let config = Config { bytes_per_second: 1000, parallel: 9, ..Config::default() };
    let (mut plan, shelf, film) = (Plan::new(config, now), shelf(), film(1, 3));
    plan.announced(&announced(&self::film(2, 1), 1, 500), &shelf, now).unwrap();
    plan.learn(film.id().into(), Some(&film));
    plan.read(shard(1, 1), &shelf, 0, now);
    let Next::Fetch(first) = plan.next(&shelf, 0, now) else { panic!() };
    assert_eq!((first.id, first.cause), (shard(1, 2), Cause::Ahead));
    assert_eq!(plan.next(&shelf, 0, now), Next::At(now + SECOND));
    let Next::Fetch(second) = plan.next(&shelf, 0, now + SECOND) else { panic!() };
    assert!(matches!(second.cause, Cause::Announced(_)));
}

#[test]
fn what_was_not_read_takes_a_share_of_the_cache_and_no_more() {
    let now = Instant::now();
    let (mut plan, film) = (Plan::new(config(), now), film(1, 9));
    let shelf = Fake { capacity: 25_000, ..shelf() };
    plan.learn(film.id().into(), Some(&film));
    plan.read(shard(1, 0), &shelf, 0, now);
    let (fetched, refused) = run(&mut plan, &shelf, &film, now);
    assert_eq!((fetched.len(), refused), (2, vec![Refused::Share; 2]), "2,500 bytes of 25,000");
    // What was given up leaves its share to others.
    let later = now + Config::default().judge_after;
    assert_eq!(plan.judge(&shelf, later), 2);
    plan.read(shard(1, 4), &shelf, 0, later);
    assert_eq!(run(&mut plan, &shelf, &film, later).0.len(), 2);
}

#[test]
fn without_a_share_nothing_is_ever_fetched_ahead() {
    let now = Instant::now();
    let (mut plan, shelf, film) =
        (Plan::new(Config { cache_percent: 0, ..config() }, now), shelf(), film(1, 3));
    plan.announced(&announced(&film, 1, 1000), &shelf, now).unwrap();
    assert_eq!(run(&mut plan, &shelf, &film, now), (vec![], vec![Refused::Share]));
}

#[test]
fn what_the_disk_would_not_take_is_fetched_for_readers_alone_if_memory_would() {
    let now = Instant::now();
    let film = film(1, 2);
    for (holds, expected) in [(true, vec![]), (false, vec![Refused::Admission])] {
        let mut plan = Plan::new(config(), now);
        let shelf = Fake { keeps: false, holds, ..shelf() };
        plan.announced(&announced(&film, 1, 500), &shelf, now).unwrap();
        assert_eq!(run(&mut plan, &shelf, &film, now), (vec![], vec![Refused::Admission]));
        plan.learn(film.id().into(), Some(&film));
        plan.read(shard(1, 0), &shelf, 0, now);
        assert_eq!(run(&mut plan, &shelf, &film, now).1, expected);
    }
}

#[test]
fn a_fetch_that_has_to_wait_is_tried_again_and_paid_once() {
    let now = Instant::now();
    let len = u64::from(manifest::longest(1).unwrap());
    let config = Config { account_bytes: len + u64::from(LEN), ..config() };
    let (mut plan, shelf, film) = (Plan::new(config, now), shelf(), film(1, 1));
    plan.announced(&announced(&film, 1, 500), &shelf, now).unwrap();
    let Next::Fetch(first) = plan.next(&shelf, 0, now) else { panic!() };
    plan.done(first.id, whole(100, Some(film.clone())), now).unwrap();
    for _ in 0..5 {
        let Next::Fetch(wanted) = plan.next(&shelf, 0, now) else { panic!() };
        assert_eq!(wanted.id, shard(1, 0));
        plan.put_back(wanted.id);
    }
    assert_eq!(run(&mut plan, &shelf, &film, now), (vec![shard(1, 0)], vec![]));
}

#[derive(Clone, Debug)]
enum Op {
    Announce { film: u8, account: u8 },
    Read { film: u8, at: u8 },
    Next { fullness: u64 },
    Done { whole: bool },
    PutBack,
    Shed,
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0u8..6, 0u8..3).prop_map(|(film, account)| Op::Announce { film, account }),
        (0u8..6, 0u8..8).prop_map(|(film, at)| Op::Read { film, at }),
        (0u64..100).prop_map(|fullness| Op::Next { fullness }),
        any::<bool>().prop_map(|whole| Op::Done { whole }),
        Just(Op::PutBack),
        Just(Op::Shed),
        (0u64..2000).prop_map(Op::Pass),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_it_stays_within_its_bounds(ops in prop::collection::vec(op(), 0..200)) {
        let mut now = Instant::now();
        let config = Config { queue: 6, parallel: 2, shards: 20, table: 8, ..config() };
        let shelf = Fake { capacity: 60_000, ..shelf() };
        let mut plan = Plan::new(config, now);
        let mut running: Vec<Wanted> = Vec::new();
        for op in ops {
            match op {
                Op::Announce { film: n, account } => {
                    let _ = plan.announced(&announced(&film(n, 8), account, 600), &shelf, now);
                }
                Op::Read { film: n, at } => {
                    plan.learn(film(n, 8).id().into(), Some(&film(n, 8)));
                    plan.read(shard(n, at), &shelf, 0, now);
                }
                Op::Next { fullness } => match plan.next(&shelf, fullness, now) {
                    Next::Fetch(wanted) => {
                        prop_assert!(fullness < 50);
                        prop_assert!(running.iter().all(|other| other.id != wanted.id), "twice");
                        running.push(wanted);
                    }
                    Next::Full => prop_assert!(fullness >= 50),
                    Next::Refused(_) | Next::At(_) | Next::Nothing => {}
                },
                Op::Done { whole: came } => if let Some(wanted) = running.pop() {
                    let manifest = (0..6).map(|n| film(n, 8)).find(|film| wanted.id == film.id().into());
                    let len = manifest.as_ref().map_or(LEN, len_of);
                    let outcome = if came { whole(len, manifest) } else { Outcome::Nothing };
                    let _ = plan.done(wanted.id, outcome, now);
                },
                Op::PutBack => if let Some(wanted) = running.pop() {
                    plan.put_back(wanted.id);
                },
                Op::Shed => {
                    plan.shed();
                    prop_assert!(plan.queued.is_empty());
                }
                Op::Pass(secs) => {
                    now += Duration::from_secs(secs);
                    plan.judge(&shelf, now);
                }
            }
            // One that is put back has had a place before.
            prop_assert!(plan.ahead.len() <= 8 && plan.announced.len() <= 8);
            prop_assert_eq!(plan.queued.len(), plan.ahead.len() + plan.announced.len());
            prop_assert_eq!(plan.running.len(), running.len());
            prop_assert!(plan.running.len() <= 2);
            prop_assert!(plan.unread() <= 6000, "the share");
        }
    }
}
