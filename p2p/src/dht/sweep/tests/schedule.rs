//! Renewals, restarts and clocks.

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

/// A sweep that begins with what the other world's disk has.
fn restarted(world: &World) -> Sweep {
    let mut sweep = Sweep::new(&Config::default(), None, 2);
    let kept = world.disk.iter().map(|(key, (class, announced))| (*key, *class, *announced));
    sweep.restore(kept, world.now, world.now_ms());
    sweep
}

#[test]
fn records_are_renewed_in_time_and_with_few_lookups_whenever_their_keys_came() {
    let mut world = World::new(150, 1);
    let mut sweep = sweep(&world);
    // 1,200 keys over ten hours.
    for n in 0..120 {
        provide(&mut sweep, n * 10..n * 10 + 10, world.now);
        world.run(&mut sweep, HOUR / 12, |_, _| false);
    }
    let first = sweep.status(world.now).done;
    for _ in 0..10 {
        let before = sweep.status(world.now).done;
        world.run(&mut sweep, HOUR * 12, |_, _| false);
        let done = sweep.status(world.now).done;
        let renewed = done.announced - before.announced;
        assert!((1200..=1600).contains(&renewed), "{renewed} renewals in twelve hours");
        assert!(sweep.status(world.now).lag_seconds < 60);
    }
    let done = sweep.status(world.now).done;
    let lookups = (done.lookups - first.lookups) / 10;
    // Four regions of some 40 peers, each visited at most four times in twelve hours.
    assert!(lookups <= 4 * 4 * 6, "{lookups} lookups in twelve hours");
    assert_eq!((done.failed, world.refused), (0, 0));
}

#[test]
fn after_a_restart_nothing_fresh_is_announced_again_and_nothing_is_forgotten() {
    let mut world = World::new(100, 2);
    let mut sweep = sweep(&world);
    provide(&mut sweep, 0..3000, world.now);
    // Killed in the middle.
    let half = |world: &World, _: &Sweep| world.announced.len() >= 1500;
    world.run(&mut sweep, HOUR, half);
    drop(sweep);
    let announced = world.announced.clone();
    assert!(announced.len() < 3000);
    assert_eq!(world.disk.len(), 3000);
    let mut sweep = restarted(&world);
    assert_eq!(sweep.status(world.now).unclaimed, 3000);
    for n in 0..3000 {
        let key = Key::test(n);
        let insertion = sweep.insert(key, Class::Kept, world.now).unwrap();
        let fresh = announced.contains_key(&key);
        assert_eq!(insertion.announced == Announced::Yes, fresh);
        assert_eq!(sweep.progress(&key) == Some(Progress::Announced), fresh);
    }
    assert_eq!(sweep.status(world.now).unclaimed, 0);
    assert_eq!(sweep.changes(), 0, "the disk has it all");
    world.announce_all(&mut sweep);
    for n in 0..3000 {
        assert_eq!(world.announced[&Key::test(n)], 1, "each once in all");
    }
    assert_eq!(world.disk.values().filter(|(_, at)| at.is_some()).count(), 3000);
    // What was announced before the restart is renewed when it would have been.
    world.run(&mut sweep, HOUR * 12, |_, _| false);
    assert!((0..3000).all(|n| world.announced[&Key::test(n)] == 2));
}

#[test]
fn what_is_not_provided_again_is_dropped_in_time_and_never_announced() {
    let mut world = World::new(30, 3);
    let mut sweep = sweep(&world);
    provide(&mut sweep, 0..20, world.now);
    world.announce_all(&mut sweep);
    world.run(&mut sweep, HOUR * 13, |_, _| false);
    drop(sweep);
    world.announced.clear();
    world.wall_ms += 13 * 3_600_000;
    let mut sweep = restarted(&world);
    provide(&mut sweep, 0..15, world.now);
    assert!(sweep.remove(&Key::test(15)), "it was provided before");
    world.run(&mut sweep, HOUR - Duration::from_secs(1), |_, _| false);
    assert_eq!((sweep.status(world.now).unclaimed, world.disk.len()), (4, 19));
    world.run(&mut sweep, Duration::from_secs(2), |_, _| false);
    assert_eq!((sweep.status(world.now).unclaimed, world.disk.len()), (0, 15));
    assert_eq!(world.announced.len(), 15, "they were overdue");
    assert_eq!(sweep.progress(&Key::test(16)), None);
}

#[test]
fn a_clock_that_jumped_makes_keys_due_and_no_more() {
    let day_ms = 24 * 3_600_000;
    for (jump, fresh) in [(0, true), (1_000, true), (day_ms, false), (-1_000, false)] {
        let mut world = World::new(30, 4);
        let mut sweep = sweep(&world);
        provide(&mut sweep, 0..10, world.now);
        world.announce_all(&mut sweep);
        drop(sweep);
        world.wall_ms = world.wall_ms.checked_add_signed(jump).unwrap();
        let mut sweep = restarted(&world);
        let insertion = sweep.insert(Key::test(1), Class::Kept, world.now).unwrap();
        assert_eq!(insertion.announced == Announced::Yes, fresh, "{jump} ms");
        world.run(&mut sweep, HOUR, |_, _| false);
        assert_eq!(world.announced[&Key::test(1)], if fresh { 1 } else { 2 }, "{jump} ms");
    }
}

#[test]
fn what_was_kept_for_a_larger_bound_is_taken_as_far_as_it_goes() {
    let mut world = World::new(30, 5);
    let mut sweep = sweep(&world);
    provide(&mut sweep, 0..20, world.now);
    world.announce_all(&mut sweep);
    let config = Config { max_kept: 7, max_cached: 1, ..Config::default() };
    let mut sweep = Sweep::new(&config, None, 1);
    let kept: Vec<_> = world.disk.iter().map(|(key, (class, at))| (*key, *class, *at)).collect();
    sweep.restore(kept, world.now, world.now_ms());
    assert_eq!(sweep.status(world.now).unclaimed, 8);
    world.run(&mut sweep, Duration::ZERO, |_, _| false);
    assert_eq!(world.disk.len(), 8);
}

#[test]
fn a_cached_key_that_leaves_for_another_leaves_the_disk_too() {
    let mut world = World::new(30, 6);
    let config = Config { max_cached: 10, ..Config::default() };
    let mut sweep = sweep_with(&config, &world);
    for n in 0..10 {
        sweep.insert(Key::test(n), Class::Cached, world.now).unwrap();
    }
    world.announce_all(&mut sweep);
    sweep.insert(Key::test(0), Class::Cached, world.now).unwrap();
    let insertion = sweep.insert(Key::test(10), Class::Cached, world.now).unwrap();
    assert_eq!(insertion.left, Some(Key::test(1)), "the first was used since");
    world.announce_all(&mut sweep);
    assert_eq!((world.disk.len(), world.disk.get(&Key::test(1))), (10, None));
    let promoted = sweep.insert(Key::test(0), Class::Kept, world.now).unwrap();
    assert_eq!(promoted, Insertion { is_new: false, announced: Announced::Yes, left: None });
    world.run(&mut sweep, Duration::ZERO, |_, _| false);
    assert!(matches!(world.disk[&Key::test(0)], (Class::Kept, Some(_))));
}

#[test]
fn a_disk_that_takes_nothing_loses_nothing_and_fills_no_memory() {
    let mut world = World::new(30, 7);
    let mut sweep = sweep(&world);
    world.writes = false;
    for n in 0..500 {
        provide(&mut sweep, n..n + 1, world.now);
        sweep.remove(&Key::test(n));
    }
    assert_eq!(sweep.changes(), 0, "what never came to the disk need not leave it");
    provide(&mut sweep, 0..100, world.now);
    assert_eq!(sweep.take_changes(60).len(), 60);
    for n in 0..100 {
        sweep.remove(&Key::test(n));
    }
    assert_eq!(sweep.changes(), 60);
    provide(&mut sweep, 0..100, world.now);
    assert_eq!(sweep.changes(), 100);
    assert_eq!(sweep.take_changes(usize::MAX).len(), 100);
    assert_eq!(sweep.changes(), 0);
    let mut without = Sweep::new(&Config::default(), None, 1);
    provide(&mut without, 0..100, world.now);
    assert_eq!((without.changes(), without.take_changes(usize::MAX).len()), (0, 0));
}
