//! The sweep in a network at rest, under a virtual clock.

mod faults;
mod schedule;
mod world;

use super::*;
use crate::dht::{Class, Config};
use proptest::prelude::*;
use world::{K, Manner, World, provide, sweep, sweep_with};

/// Each key is with just the peers nearest to it that keep what they take.
fn assert_at_the_nearest(world: &World, keys: std::ops::Range<u32>) {
    let nearest = K.min(world.len());
    for key in keys.map(Key::test) {
        assert_eq!(world.holders(&key), nearest, "{key:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Whatever the network and the keys, every key is told to just the peers nearest to it, once.
    #[test]
    fn every_key_goes_to_the_peers_nearest_to_it(peers in 1u32..400, keys in 1u32..300, seed: u64) {
        let mut world = World::new(peers, seed);
    let mut sweep = sweep(&world);
        provide(&mut sweep, 0..keys, world.now);
        world.announce_all(&mut sweep);
        assert_at_the_nearest(&world, 0..keys);
        for key in (0..keys).map(Key::test) {
            prop_assert_eq!(world.all_holders(&key), K.min(world.len()));
            prop_assert_eq!(world.announced[&key], 1);
        }
        // A region of 14 peers takes a lookup; a few blocks hold fewer than that.
        let lookups = usize::try_from(sweep.status(world.now).done.lookups).unwrap();
        prop_assert!(lookups <= 4 + world.len() / 7, "{lookups} lookups, {} peers", world.len());
        prop_assert!(lookups <= 2 + 2 * usize::try_from(keys).unwrap());
        prop_assert_eq!((world.refused, sweep.changes()), (0, 0));
    }
}

#[test]
fn ten_thousand_keys_cost_a_hundredth_of_the_lookups_of_one_by_one() {
    let mut world = World::new(99, 1);
    let mut sweep = sweep(&world);
    provide(&mut sweep, 0..10_000, world.now);
    let begun = world.now;
    world.announce_all(&mut sweep);
    assert_at_the_nearest(&world, 0..10_000);
    let done = sweep.status(world.now).done;
    assert!(done.lookups <= 20, "{} lookups", done.lookups);
    assert_eq!((done.records, done.retries, world.refused), (200_000, 0, 0));
    // Each batch ends with a question and its answer.
    assert!(done.tells <= 200_000 / 100 + 99 * 10, "{} tells", done.tells);
    // 200,000 records at 4,000 a second are 50 s.
    let took = world.now - begun;
    assert!(took < Duration::from_secs(75), "{took:?}");
}

#[test]
fn a_new_key_in_a_quiet_node_is_announced_within_a_second() {
    let mut world = World::new(1000, 2);
    let mut sweep = sweep(&world);
    provide(&mut sweep, 0..1, world.now);
    world.announce_all(&mut sweep);
    let begun = world.now + Duration::from_secs(600);
    world.run(&mut sweep, Duration::from_secs(600), |_, _| false);
    provide(&mut sweep, 1..2, begun);
    world.announce_all(&mut sweep);
    // 500 ms to collect, 300 ms the lookup, 50 ms to tell all.
    assert_eq!(world.now - begun, Duration::from_millis(850));
    assert_eq!(sweep.status(world.now).done.lookups, 2);
    assert_at_the_nearest(&world, 0..2);
}

#[test]
fn keys_of_a_region_explored_a_moment_ago_need_no_lookup() {
    let mut world = World::new(60, 3);
    let mut sweep = sweep(&world);
    provide(&mut sweep, 0..500, world.now);
    world.announce_all(&mut sweep);
    let lookups = sweep.status(world.now).done.lookups;
    provide(&mut sweep, 500..600, world.now);
    world.announce_all(&mut sweep);
    assert_eq!(sweep.status(world.now).done.lookups, lookups);
    assert_at_the_nearest(&world, 0..600);
}

#[test]
fn a_few_keys_of_a_large_network_are_looked_up_each_by_itself() {
    let mut world = World::new(3000, 4);
    let mut sweep = sweep(&world);
    provide(&mut sweep, 0..8, world.now);
    world.announce_all(&mut sweep);
    assert_eq!(sweep.status(world.now).done.lookups, 8);
    assert_at_the_nearest(&world, 0..8);
    let status = sweep.status(world.now);
    assert!(status.network_size.is_some_and(|size| (1500..6000).contains(&size)), "{status:?}");
}

#[test]
fn of_one_network_no_more_peers_are_told_than_allowed() {
    for keys in [1, 3, 300] {
        let mut world = World::new(150, 10);
        world.networks = 8;
        let mut sweep = Sweep::new(&Config::default(), Some(2), 1);
        provide(&mut sweep, 0..keys, world.now);
        world.announce_all(&mut sweep);
        for key in (0..keys).map(Key::test) {
            let nearest = world.diverse(&Point::of_key(&key));
            assert_eq!((nearest.len(), world.all_holders(&key)), (16, 16));
            assert!(nearest.iter().all(|peer| world.holds(peer, &key)), "{keys} keys");
        }
    }
}

#[test]
fn the_status_tells_how_far_the_sweep_is() {
    let mut world = World::new(200, 5);
    let mut sweep = sweep(&world);
    provide(&mut sweep, 0..2000, world.now);
    let status = sweep.status(world.now);
    assert_eq!((status.kept, status.cached, status.unannounced), (2000, 0, 2000));
    assert_eq!((status.regions, status.regions_done, status.lag_seconds), (1, 1, 0));
    world.run(&mut sweep, Duration::from_secs(4), |_, _| false);
    let status = sweep.status(world.now);
    assert!(status.visits > 0 && status.tells > 0 && status.regions_done < status.regions);
    assert_eq!((status.regions, status.lag_seconds), (4, 3));
    world.announce_all(&mut sweep);
    let status = sweep.status(world.now);
    assert_eq!((status.regions, status.regions_done, status.lag_seconds), (4, 4, 0));
    assert_eq!((status.unannounced, status.visits, status.lookups, status.tells), (0, 0, 0, 0));
    assert_eq!(status.done.announced, 2000);
}

#[test]
fn a_network_without_anybody_is_tried_ever_more_seldom_until_peers_appear() {
    let mut world = World::new(0, 6);
    let mut sweep = sweep(&world);
    provide(&mut sweep, 0..5, world.now);
    world.run(&mut sweep, Duration::from_secs(3600), |_, _| false);
    // 2, 4, 8 .. 256 s and 300 s from then on, each with a lookup of 300 ms.
    let key = Key::test(0);
    assert!((18..=20).contains(&world.failed[&key]), "{}", world.failed[&key]);
    assert_eq!(sweep.progress(&key), Some(Progress::Failed));
    assert_eq!(sweep.status(world.now).unannounced, 5);
    world.grow(30, 6);
    let begun = world.now;
    sweep.retry_failed(world.now);
    world.announce_all(&mut sweep);
    assert!(world.now - begun < Duration::from_secs(5));
    assert_eq!(sweep.progress(&key), Some(Progress::Announced));
    assert_at_the_nearest(&world, 0..5);
}

#[test]
fn a_key_removed_while_it_is_announced_is_told_to_nobody_else() {
    let mut world = World::new(50, 7);
    let mut sweep = sweep(&world);
    provide(&mut sweep, 0..100, world.now);
    let exploring = |_: &World, sweep: &Sweep| sweep.status(Instant::now()).lookups > 0;
    world.run(&mut sweep, Duration::from_secs(60), exploring);
    assert!(sweep.remove(&Key::test(7)));
    assert!(!sweep.remove(&Key::test(7)));
    assert_eq!(sweep.progress(&Key::test(7)), None);
    world.announce_all(&mut sweep);
    assert_eq!(world.sent.get(&Key::test(7)), None);
    assert_eq!(world.announced.get(&Key::test(7)), None);
    assert_at_the_nearest(&world, 0..7);
    assert!(!world.disk.contains_key(&Key::test(7)));
    assert_eq!(world.disk.len(), 99);
}

#[test]
fn keys_told_to_few_are_announced_again_when_the_network_has_grown() {
    let mut world = World::new(3, 8);
    let mut sweep = sweep(&world);
    provide(&mut sweep, 0..50, world.now);
    world.announce_all(&mut sweep);
    sweep.on_routing_table(3, world.now);
    world.run(&mut sweep, Duration::from_secs(60), |_, _| false);
    assert_eq!(sweep.status(world.now).done.announced, 50, "there are no more peers");
    world.grow(60, 9);
    world.run(&mut sweep, Duration::from_secs(300), |_, _| false);
    sweep.on_routing_table(K, world.now);
    world.run(&mut sweep, Duration::from_secs(60), |_, _| false);
    assert_at_the_nearest(&world, 0..50);
    sweep.on_routing_table(K, world.now);
    world.run(&mut sweep, Duration::from_secs(1000), |_, _| false);
    assert_eq!(sweep.status(world.now).done.announced, 100, "and not a third time");
}
