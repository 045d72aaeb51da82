//! Whether a provider is found although Sybils surround its key.

use super::{
    Scenario, Spread,
    lookups::{Ended, announce, find},
    world::World,
};
use crate::dht::{Key, lookup::Outcome, space::Point};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::Serialize;
use std::time::Duration;

/// What came of lookups for keys that are surrounded.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EclipseReport {
    /// Networks, each with another key that is surrounded.
    pub networks: usize,
    /// Lookups in them.
    pub lookups: usize,
    /// Those that found the honest provider.
    pub found: usize,
    /// Peers that keep the honest record, of as many as are told.
    pub kept_by: Spread,
    /// Ids tried for each of a network's Sybils until it lay nearer than any honest node.
    pub tries_an_id: Spread,
    /// Providers that a successful lookup found, Sybils included.
    pub providers: Spread,
    /// Milliseconds that a lookup took.
    pub millis: Spread,
}

impl EclipseReport {
    /// The share of lookups that found the honest provider, 0 to 1.
    pub fn success(&self) -> f64 {
        self.found as f64 / self.lookups.max(1) as f64
    }
}

/// `networks` times: a network in which the scenario's Sybils surround a key, which one honest node
/// announces and `lookups` others look for, wanting `limit` providers.
pub fn eclipse(
    scenario: &Scenario,
    networks: usize,
    lookups: usize,
    limit: usize,
) -> EclipseReport {
    let mut seeds = StdRng::seed_from_u64(scenario.seed);
    let mut report = EclipseReport {
        networks,
        lookups: 0,
        found: 0,
        kept_by: Spread::default(),
        tries_an_id: Spread::default(),
        providers: Spread::default(),
        millis: Spread::default(),
    };
    let (mut kept_by, mut tries) = (Vec::new(), Vec::new());
    let (mut providers, mut millis) = (Vec::new(), Vec::new());
    for _ in 0..networks {
        let scenario = Scenario { seed: seeds.random(), ..scenario.clone() };
        let key = Key::shard(&seeds.random());
        let mut world = World::new(&scenario, &Point::of_key(&key));
        let sybils = scenario.sybils.map_or(1, |sybils| sybils.count.max(1));
        tries.push(world.ground as f64 / sybils as f64);
        let Some(provider) = world.pick() else { continue };
        let Some(announced) = announce(&mut world, &scenario, provider, key) else { continue };
        kept_by.push(announced.kept_by as f64);
        let Some(honest) = world.contact(provider).map(|contact| contact.peer) else { continue };
        for _ in 0..lookups {
            let Some(asker) = world.pick_but(provider) else { break };
            report.lookups += 1;
            let ended = find(&mut world, &scenario, asker, key, limit, Duration::ZERO);
            let Some(Ended { outcome: Outcome { providers: found, .. }, took, .. }) = ended else {
                continue;
            };
            millis.push(took.as_secs_f64() * 1e3);
            if found.contains(&honest) {
                report.found += 1;
                providers.push(found.len() as f64);
            }
        }
    }
    report.kept_by = Spread::of(kept_by);
    report.tries_an_id = Spread::of(tries);
    report.providers = Spread::of(providers);
    report.millis = Spread::of(millis);
    report
}
