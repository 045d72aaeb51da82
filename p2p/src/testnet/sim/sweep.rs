//! The sweep of one node in a simulated network, beside announcing each key alone.

use super::{
    Scenario, Spread,
    engine::{Engine, Step},
    lookups::{announce, find},
    world::{Index, World},
};
use crate::dht::{
    Announced, Class, Key,
    lookup::End,
    network::Failure,
    space::Point,
    sweep::{Action, Sample, Sweep},
};
use rand::{Rng, seq::IteratorRandom};
use serde::Serialize;
use std::time::{Duration, Instant};

/// How long a sweep may take, by the simulation's clock. What is renewed after is another matter.
const HORIZON: Duration = Duration::from_secs(3600);

/// A time of day for the records; which one makes no difference.
const UNIX_MS: u64 = 1_800_000_000_000;

/// What a sweep took.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SweepReport {
    /// Keys that the node provides.
    pub keys: usize,
    /// Those that were announced.
    pub announced: usize,
    /// Seconds until the last of them was.
    pub seconds: f64,
    /// Lookups.
    pub lookups: u64,
    /// Questions and answers of these.
    pub lookup_messages: u64,
    /// Batches of records; each ends with a question and its answer.
    pub tells: u64,
    /// Records in them.
    pub records: u64,
    /// Records read back afterwards.
    pub read_backs: u64,
    /// All messages, by key.
    pub messages_a_key: f64,
    /// Messages of announcing a key alone: its lookup, and one record to each of the peers it found.
    pub alone_messages_a_key: f64,
    /// Of the peers truly nearest to each key, the share that holds its record.
    pub placed: f64,
    /// Keys that others looked for after the node had gone, and those they found.
    pub read: usize,
    /// See `read`.
    pub found: usize,
    /// Records that each peer holds.
    pub held: Spread,
}

/// What happens to the node besides the ends of lookups.
enum Other {
    Told { id: u64, to: Index, sample: Key, lives: bool },
    Read { id: u64, at: Index, key: Key, lives: bool },
    Wake,
}

/// One node begins to provide `keys` keys at once and sweeps; `sample` of them are looked for by
/// others then, and as many are announced alone for comparison.
pub fn sweep(scenario: &Scenario, keys: usize, sample: usize) -> SweepReport {
    let mut world = World::new(scenario, &Point::of_bytes(b""));
    let keys: Vec<Key> = (0..keys).map(|_| Key::shard(&world.rng.random())).collect();
    let local = world.pick().unwrap_or_default();
    let mut report = run(&mut world, scenario, local, &keys);

    let k = scenario.dht.replication;
    let picked = keys.iter().copied().choose_multiple(&mut world.rng, sample);
    let (mut placed, mut wanted) = (0_usize, 0_usize);
    for key in &picked {
        // The node itself is none of those it tells.
        let nearest = world.truly_nearest(&Point::of_key(key), k + 1, Duration::ZERO);
        let nearest = nearest.iter().filter_map(|contact| world.index_of(&contact.peer));
        for peer in nearest.filter(|peer| *peer != local).take(k) {
            wanted += 1;
            placed += usize::from(world.holds(peer, key, local));
        }
    }
    report.placed = placed as f64 / wanted.max(1) as f64;
    report.held = Spread::of(world.held());
    let provider = world.contact(local).map(|contact| contact.peer);
    // Whoever vanishes has done so by then.
    let after = scenario.churn.map_or(Duration::ZERO, |churn| churn.within);
    for key in &picked {
        let Some(asker) = world.pick_but(local) else { break };
        let ended = find(&mut world, scenario, asker, *key, 1, after);
        let first = ended.and_then(|ended| ended.outcome.providers.first().copied());
        report.read += 1;
        report.found += usize::from(first.is_some() && first == provider);
    }
    let mut alone = Vec::new();
    for _ in 0..sample {
        let key = Key::shard(&world.rng.random());
        alone.extend(announce(&mut world, scenario, local, key).map(|a| a.all_messages()));
    }
    report.alone_messages_a_key = Spread::of(alone).mean;
    report
}

fn run(world: &mut World, scenario: &Scenario, local: Index, keys: &[Key]) -> SweepReport {
    let mut sweep = Sweep::new(&scenario.dht, scenario.dht.max_group_in_lookup, scenario.seed);
    let mut engine: Engine<'_, u64, Other> = Engine::new(world, scenario, local, Duration::ZERO);
    let begun = engine.now;
    for key in keys {
        // Beyond the bound of the configuration it is refused, which shows in `announced`.
        let _ = sweep.insert(*key, Class::Kept, begun);
    }
    let (mut announced, mut last, mut read_backs) = (0, begun, 0);
    let mut wakes: Option<Instant> = None;
    loop {
        while let Some(action) = sweep.poll(engine.now) {
            match action {
                Action::Closest { id, target, diverse } => engine.explore(id, target, diverse),
                Action::Tell { id, to, keys, sample } => {
                    let Some(to) = engine.world.index_of(&to.peer) else {
                        sweep.on_told(id, Err(Failure::Unreachable), engine.now, UNIX_MS);
                        continue;
                    };
                    let done = engine.exchange(to);
                    if done.is_some() {
                        for key in keys {
                            engine.world.tell(to, key, local);
                        }
                    }
                    let lives = done.is_some();
                    let at = done.unwrap_or(engine.now + scenario.dht.peer_timeout);
                    engine.at(at, Other::Told { id, to, sample, lives });
                }
                Action::ReadBack { id, at, key } => {
                    read_backs += 1;
                    let Some(peer) = engine.world.index_of(&at.peer) else {
                        sweep.on_read(id, Err(Failure::Unreachable), engine.now);
                        continue;
                    };
                    let done = engine.exchange(peer);
                    let lives = done.is_some();
                    let at = done.unwrap_or(engine.now + scenario.dht.peer_timeout);
                    engine.at(at, Other::Read { id, at: peer, key, lives });
                }
                Action::Ended { announced: Announced::Yes, .. } => {
                    announced += 1;
                    last = engine.now;
                }
                Action::Ended { .. } => {}
            }
        }
        if let Some(wake) = sweep.wake()
            && wake < begun + HORIZON
            && wakes.is_none_or(|at| wake < at)
        {
            wakes = Some(wake);
            engine.at(wake, Other::Wake);
        }
        let read = |world: &World, peer, key: &Key, lives| {
            let sample = if world.holds(peer, key, local) { Sample::Kept } else { Sample::Missing };
            if lives { Ok(sample) } else { Err(Failure::Timeout) }
        };
        match engine.step() {
            None => break,
            Some(Step::Ended { purpose, outcome, .. }) => {
                let complete = outcome.end == End::Converged;
                sweep.on_closest(purpose, outcome.closest, complete, engine.now);
            }
            Some(Step::Own(Other::Told { id, to, sample, lives })) => {
                let told = read(engine.world, to, &sample, lives);
                sweep.on_told(id, told, engine.now, UNIX_MS);
            }
            Some(Step::Own(Other::Read { id, at, key, lives })) => {
                let read = read(engine.world, at, &key, lives);
                sweep.on_read(id, read, engine.now);
            }
            Some(Step::Own(Other::Wake)) => wakes = None,
        }
    }
    let done = sweep.status(engine.now).done;
    let lookup_messages = engine.messages.questions + engine.messages.answers;
    let messages = lookup_messages + done.records + 2 * (done.tells + read_backs);
    SweepReport {
        keys: keys.len(),
        announced,
        seconds: last.saturating_duration_since(begun).as_secs_f64(),
        lookups: done.lookups,
        lookup_messages,
        tells: done.tells,
        records: done.records,
        read_backs,
        messages_a_key: messages as f64 / keys.len().max(1) as f64,
        alone_messages_a_key: 0.0,
        placed: 0.0,
        read: 0,
        found: 0,
        held: Spread::default(),
    }
}
