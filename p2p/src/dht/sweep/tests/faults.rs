//! Peers that cannot be reached, keep nothing, or have no room.

use super::*;

/// Announces 400 keys in a network of which every fourth peer is of this manner, and gives back what
/// the sweep did.
fn with_every_fourth(manner: Manner) -> (World, Sweep) {
    let mut world = World::new(120, 1);
    let mut sweep = sweep(&world);
    world.make(4, manner);
    provide(&mut sweep, 0..400, world.now);
    world.announce_all(&mut sweep);
    (world, sweep)
}

#[test]
fn those_that_cannot_be_reached_are_passed_over_for_the_next_nearest() {
    let (world, sweep) = with_every_fourth(Manner::Gone);
    let full = (0..400).filter(|n| world.holders(&Key::test(*n)) == K).count();
    assert!(full >= 396, "{full} of 400 are with all 20");
    let done = sweep.status(world.now).done;
    assert_eq!((done.announced, done.failed), (400, 0));
    // Each of 30 peers is tried twice in each of its visits.
    assert!(done.retries <= 30 * 2 * done.visits, "{} retries", done.retries);
}

#[test]
fn those_that_keep_nothing_are_found_out_and_passed_over() {
    let (world, sweep) = with_every_fourth(Manner::Swallows);
    let full = (0..400).filter(|n| world.holders(&Key::test(*n)) == K).count();
    assert!(full >= 396, "{full} of 400 are with all 20");
    assert_eq!(sweep.status(world.now).done.failed, 0);
}

#[test]
fn one_that_keeps_only_what_it_is_asked_for_first_is_found_out_by_reading_back() {
    let mut world = World::new(20, 2);
    world.make(4, Manner::KeepsLast);
    let mut config = Config::default();
    config.sweep.read_backs = 40;
    let mut sweep = sweep_with(&config, &world);
    provide(&mut sweep, 0..100, world.now);
    world.announce_all(&mut sweep);
    let done = sweep.status(world.now).done;
    assert_eq!(done.read_backs, 40);
    assert_eq!(done.retries, 5, "each of the five liars was found out once");
    assert_eq!((done.announced, done.failed), (100, 0), "15 of 20 are a majority");
}

#[test]
fn a_crowded_key_counts_as_announced_and_its_peers_are_not_blamed() {
    let (world, sweep) = with_every_fourth(Manner::Crowded);
    let done = sweep.status(world.now).done;
    assert_eq!((done.announced, done.failed, done.retries), (400, 0, 0));
    drop(world);
}

#[test]
fn peers_that_admit_less_than_expected_are_told_again_until_enough_have_it() {
    let mut world = World::new(20, 3);
    let mut sweep = sweep(&world);
    world.admit = 20.0;
    provide(&mut sweep, 0..2000, world.now);
    world.announce_all(&mut sweep);
    assert!(world.refused > 0, "they were told too fast");
    let found = (0..2000).filter(|n| world.holders(&Key::test(*n)) > K / 2).count();
    assert!(found >= 1980, "{found} of 2,000 are with most of their peers");
    assert_eq!(sweep.status(world.now).unannounced, 0);
}

#[test]
fn what_all_refuse_is_tried_again_more_and_more_seldom() {
    let mut world = World::new(30, 4);
    let mut sweep = sweep(&world);
    world.make(1, Manner::Swallows);
    provide(&mut sweep, 0..1, world.now);
    world.run(&mut sweep, Duration::from_secs(24 * 3600), |_, _| false);
    // 2, 4 .. 2,048 s and then once an hour, each time with the waits between tries at one peer.
    let failed = world.failed[&Key::test(0)];
    assert!((25..=34).contains(&failed), "{failed}");
    assert_eq!(sweep.progress(&Key::test(0)), Some(Progress::Failed));
    world.make(1, Manner::Honest);
    world.announce_all(&mut sweep);
    assert_eq!(world.holders(&Key::test(0)), K);
}

#[test]
fn a_majority_is_needed_unless_one_is_said_to_be_enough() {
    for (quorum, unannounced) in [(Quorum::Majority, 300), (Quorum::One, 0)] {
        let mut world = World::new(20, 5);
        world.make(1, Manner::Swallows);
        // Three of four keep nothing.
        world.make(4, Manner::Honest);
        let mut config = Config::default();
        config.sweep.quorum = quorum;
        let mut sweep = sweep_with(&config, &world);
        provide(&mut sweep, 0..300, world.now);
        world.run(&mut sweep, Duration::from_secs(120), |_, _| false);
        assert_eq!(sweep.status(world.now).unannounced, unannounced, "{quorum:?}");
    }
}

#[derive(Clone, Debug)]
enum Event {
    Provide(u32, Class),
    Stop(u32),
    Run(u16),
    Make(usize, Manner),
    Retry,
}

fn event() -> impl Strategy<Value = Event> {
    let class = prop_oneof![Just(Class::Kept), Just(Class::Cached)];
    let manner = prop_oneof![
        Just(Manner::Honest),
        Just(Manner::Gone),
        Just(Manner::Swallows),
        Just(Manner::KeepsLast),
        Just(Manner::Crowded),
    ];
    prop_oneof![
        6 => (0u32..60, class).prop_map(|(n, class)| Event::Provide(n, class)),
        2 => (0u32..60).prop_map(Event::Stop),
        4 => any::<u16>().prop_map(Event::Run),
        1 => (1usize..5, manner).prop_map(|(each, manner)| Event::Make(each, manner)),
        1 => Just(Event::Retry),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Whatever keys come and go and whatever peers do, the bounds hold, the disk has what is
    /// provided, and once peers are honest again everything is announced.
    #[test]
    fn nothing_is_forgotten_and_no_bound_is_passed(
        events in proptest::collection::vec(event(), 1..60), peers in 1u32..60, seed: u64,
    ) {
        let mut world = World::new(peers, seed);
        let mut config = Config { max_kept: 40, max_cached: 10, ..Config::default() };
        config.sweep.visit_keys = 15;
        config.sweep.batch = 5;
        let mut sweep = sweep_with(&config, &world);
        for event in events {
            match event {
                Event::Provide(n, class) => { let _ = sweep.insert(Key::test(n), class, world.now); }
                Event::Stop(n) => { sweep.remove(&Key::test(n)); }
                Event::Run(ms) => {
                    world.run(&mut sweep, Duration::from_millis(ms.into()), |_, _| false);
                }
                Event::Make(each, manner) => world.make(each, manner),
                Event::Retry => sweep.retry_failed(world.now),
            }
            let status = sweep.status(world.now);
            prop_assert!(status.kept <= 40 && status.cached <= 10);
            prop_assert!(status.visits <= 5 && status.lookups <= 4 && status.tells <= 32);
            prop_assert!(sweep.in_flight.len() <= 4 + 32 + 5 * 3);
            prop_assert!(sweep.ended.len() <= 5 * 15);
        }
        world.make(1, Manner::Honest);
        for _ in 0..3 {
            sweep.retry_failed(world.now);
            world.announce_all(&mut sweep);
        }
        world.run(&mut sweep, Duration::ZERO, |_, _| false);
        prop_assert_eq!(sweep.status(world.now).unannounced, 0);
        for n in 0..60 {
            let key = Key::test(n);
            let progress = sweep.progress(&key);
            prop_assert_eq!(world.disk.contains_key(&key), progress.is_some());
            prop_assert!(progress.is_none() || progress == Some(Progress::Announced));
        }
    }
}
