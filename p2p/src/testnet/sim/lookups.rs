//! Lookups in a simulated network, each by another node and for another key.

use super::{
    Scenario, Spread,
    engine::{Engine, Step},
    world::{Index, World},
};
use crate::{
    PeerId,
    dht::{
        Key,
        lookup::{Goal, Outcome},
        network::Question,
        space::Point,
    },
};
use rand::Rng;
use serde::Serialize;
use std::{convert::Infallible, time::Duration};

/// What came of lookups for providers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LookupReport {
    /// How many there were.
    pub lookups: usize,
    /// Those that found the provider.
    pub found: usize,
    /// Peers asked one after the other until the provider was known.
    pub hops: Spread,
    /// Questions and answers.
    pub messages: Spread,
    /// Milliseconds.
    pub millis: Spread,
    /// Lookups for the nearest peers of a point, which is how a key alone is announced: of the nearest
    /// there were, the share that they found.
    pub nearest_found: f64,
    /// Questions and answers of such a lookup.
    pub nearest_messages: Spread,
    /// Milliseconds of such a lookup.
    pub nearest_millis: Spread,
}

impl LookupReport {
    /// The share that found the provider, 0 to 1.
    pub fn success(&self) -> f64 {
        self.found as f64 / self.lookups.max(1) as f64
    }
}

/// `count` times: one node announces a key alone, another looks for it.
///
/// Keys are announced before anybody vanishes. With churn the lookups begin at random moments of twice
/// the time in which nodes vanish; who looks, and who provides, stays.
pub fn lookups(scenario: &Scenario, count: usize) -> LookupReport {
    let mut world = World::new(scenario, &Point::of_bytes(b""));
    let (mut found, mut nearest_found) = (0, Vec::new());
    let (mut hops, mut messages, mut millis) = (Vec::new(), Vec::new(), Vec::new());
    let (mut nearest_messages, mut nearest_millis) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let Some(provider) = world.pick() else { break };
        let Some(asker) = world.pick_but(provider) else { break };
        let key = Key::shard(&world.rng.random());
        if let Some(announced) = announce(&mut world, scenario, provider, key) {
            nearest_found.push(announced.nearest_found);
            nearest_messages.push(announced.messages);
            nearest_millis.push(announced.took.as_secs_f64() * 1e3);
        }
        let after = scenario
            .churn
            .map_or(Duration::ZERO, |churn| churn.within.mul_f64(2.0 * world.rng.random::<f64>()));
        if let Some(ended) = find(&mut world, scenario, asker, key, 1, after) {
            let provider = world.contact(provider).map(|contact| contact.peer);
            found += usize::from(ended.outcome.providers.first() == provider.as_ref());
            hops.push(f64::from(ended.outcome.hops));
            messages.push(ended.messages);
            millis.push(ended.took.as_secs_f64() * 1e3);
        }
    }
    LookupReport {
        lookups: count,
        found,
        hops: Spread::of(hops),
        messages: Spread::of(messages),
        millis: Spread::of(millis),
        nearest_found: Spread::of(nearest_found).mean,
        nearest_messages: Spread::of(nearest_messages),
        nearest_millis: Spread::of(nearest_millis),
    }
}

/// What an announcement of one key came to.
pub(super) struct Announcement {
    /// Of the nearest peers there are, the share that was found.
    nearest_found: f64,
    /// Peers that keep the record.
    pub(super) kept_by: usize,
    messages: f64,
    told: usize,
    took: Duration,
}

impl Announcement {
    /// Questions, answers, and a record to each peer.
    pub(super) fn all_messages(&self) -> f64 {
        self.messages + self.told as f64
    }
}

/// A node looks for the nearest peers of a key and tells them that it provides it.
pub(super) fn announce(
    world: &mut World,
    scenario: &Scenario,
    provider: Index,
    key: Key,
) -> Option<Announcement> {
    let question = Question::Closest(key.as_bytes().to_vec());
    let ended = alone(world, scenario, provider, Goal::Closest, question, Duration::ZERO)?;
    let own = world.contact(provider)?.peer;
    let nearest =
        world.truly_nearest(&Point::of_key(&key), scenario.dht.replication + 1, Duration::ZERO);
    let nearest = nearest.into_iter().map(|contact| contact.peer).filter(|peer| *peer != own);
    let nearest: Vec<PeerId> = nearest.take(scenario.dht.replication).collect();
    let told: Vec<PeerId> = ended.outcome.closest.iter().map(|contact| contact.peer).collect();
    let known = nearest.iter().filter(|peer| told.contains(peer)).count();
    let told_of = told.iter().filter_map(|peer| world.index_of(peer)).collect::<Vec<_>>();
    let kept_by = told_of.into_iter().filter(|peer| world.tell(*peer, key, provider)).count();
    Some(Announcement {
        nearest_found: known as f64 / nearest.len().max(1) as f64,
        told: told.len(),
        kept_by,
        messages: ended.messages,
        took: ended.took,
    })
}

/// A node looks for up to `limit` providers of a key, so long after the beginning.
pub(super) fn find(
    world: &mut World,
    scenario: &Scenario,
    asker: Index,
    key: Key,
    limit: usize,
    after: Duration,
) -> Option<Ended> {
    alone(world, scenario, asker, Goal::Providers(limit), Question::Providers(key), after)
}

/// A lookup that has ended.
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    pub(super) took: Duration,
    /// Questions and answers, those that came too late included.
    messages: f64,
}

/// One lookup of a node that is connected to nobody, to its end.
fn alone(
    world: &mut World,
    scenario: &Scenario,
    node: Index,
    goal: Goal,
    question: Question,
    after: Duration,
) -> Option<Ended> {
    let mut engine: Engine<'_, (), Infallible> = Engine::new(world, scenario, node, after);
    engine.begin((), goal, question);
    let (outcome, took) = match engine.step()? {
        Step::Ended { outcome, took, .. } => (outcome, took),
        Step::Own(never) => match never {},
    };
    // What was asked is answered, even if nobody waits for it any more.
    while engine.step().is_some() {}
    let messages = (engine.messages.questions + engine.messages.answers) as f64;
    Some(Ended { outcome, took, messages })
}
