//! A network at rest, in which a sweep's actions take their time and succeed or fail as they should.

use super::super::{Action, Sample, Sweep};
use crate::{
    PeerId,
    dht::{
        Announced, Class, Config, Key,
        disk::Change,
        network::{Contact, Failure},
        space::Point,
    },
    identity::peer_id_of,
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, Instant},
};

pub(super) const K: usize = 20;

/// How a peer takes records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Manner {
    #[default]
    Honest,
    /// Lookups name it, and then it cannot be reached.
    Gone,
    /// It reads everything and keeps nothing.
    Swallows,
    /// It keeps what it will be asked for first, the last of a batch.
    KeepsLast,
    /// It has no room for another record of keys whose first byte is even.
    Crowded,
}

/// What a peer admits of one provider: a bucket of 1,000 that gains 100 a second.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    level: f64,
    at: Instant,
}

pub(super) struct World {
    pub(super) now: Instant,
    /// The wall clock's time less that since the start.
    pub(super) wall_ms: u64,
    start: Instant,
    peers: Vec<(Point, PeerId)>,
    pub(super) manners: HashMap<PeerId, Manner>,
    /// How many networks the peers are in; of no known one if 0.
    pub(super) networks: u8,
    held: HashMap<PeerId, HashSet<Key>>,
    buckets: HashMap<PeerId, Bucket>,
    pub(super) admit: f64,
    replies: BTreeMap<(Instant, u64), Reply>,
    replied: u64,
    /// How often each key's announcement ended well, and how often not.
    pub(super) announced: HashMap<Key, u32>,
    pub(super) failed: HashMap<Key, u32>,
    /// Records that came faster than their peer admits.
    pub(super) refused: u64,
    /// Times that each key was sent to anybody.
    pub(super) sent: HashMap<Key, u32>,
    pub(super) disk: BTreeMap<Key, (Class, Option<u64>)>,
    /// Whether the sweep's changes go to the disk.
    pub(super) writes: bool,
}

enum Reply {
    Closest { id: u64, target: Vec<u8>, diverse: bool },
    Told { id: u64, to: PeerId, keys: Vec<Key>, sample: Key },
    Read { id: u64, at: PeerId, key: Key },
}

impl World {
    pub(super) fn new(peers: u32, seed: u64) -> Self {
        let name = |i: u32| [&i.to_le_bytes()[..], &seed.to_le_bytes()].concat();
        let peer = |i: u32| peer_id_of(blake3::hash(&name(i)).as_bytes()).unwrap();
        let mut peers: Vec<_> =
            (0..peers).map(peer).map(|peer| (Point::of_peer(&peer), peer)).collect();
        peers.sort_unstable();
        let start = Instant::now();
        Self {
            now: start,
            wall_ms: 1_800_000_000_000,
            start,
            peers,
            manners: HashMap::new(),
            networks: 0,
            held: HashMap::new(),
            buckets: HashMap::new(),
            admit: 100.0,
            replies: BTreeMap::new(),
            replied: 0,
            announced: HashMap::new(),
            failed: HashMap::new(),
            refused: 0,
            sent: HashMap::new(),
            disk: BTreeMap::new(),
            writes: true,
        }
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.wall_ms + u64::try_from((self.now - self.start).as_millis()).unwrap()
    }

    /// Makes every `each`th peer behave so.
    pub(super) fn make(&mut self, each: usize, manner: Manner) {
        for (_, peer) in self.peers.iter().step_by(each) {
            self.manners.insert(*peer, manner);
        }
    }

    /// The network is joined by as many peers again.
    pub(super) fn grow(&mut self, peers: u32, seed: u64) {
        self.peers.extend(Self::new(peers, seed).peers);
        self.peers.sort_unstable();
    }

    pub(super) fn len(&self) -> usize {
        self.peers.len()
    }

    fn manner(&self, peer: &PeerId) -> Manner {
        self.manners.get(peer).copied().unwrap_or_default()
    }

    /// All that keep records, nearest to the point first.
    pub(super) fn nearest(&self, to: &Point, wanted: impl Fn(Manner) -> bool) -> Vec<PeerId> {
        let mut near: Vec<_> =
            self.peers.iter().filter(|(_, peer)| wanted(self.manner(peer))).collect();
        near.sort_unstable_by_key(|(at, _)| at.distance(to));
        near.into_iter().take(K).map(|(_, peer)| *peer).collect()
    }

    /// The network that a peer is in.
    fn network(&self, peer: &PeerId) -> Option<u8> {
        peer.to_bytes().last()?.checked_rem(self.networks)
    }

    fn contact(&self, peer: PeerId) -> Contact {
        let address = self.network(&peer).map(|n| format!("/ip4/9.{n}.1.1/tcp/1").parse().unwrap());
        Contact { peer, addresses: address.into_iter().collect() }
    }

    /// The peers nearest to the point, at most two of one network.
    pub(super) fn diverse(&self, to: &Point) -> Vec<PeerId> {
        let mut near = self.peers.clone();
        near.sort_unstable_by_key(|(at, _)| at.distance(to));
        let mut taken: HashMap<u8, usize> = HashMap::new();
        near.retain(|(_, peer)| {
            let taken = taken.entry(self.network(peer).unwrap()).or_default();
            *taken += 1;
            *taken <= 2
        });
        near.into_iter().take(K).map(|(_, peer)| peer).collect()
    }

    pub(super) fn holds(&self, peer: &PeerId, key: &Key) -> bool {
        self.held.get(peer).is_some_and(|held| held.contains(key))
    }

    /// Of the honest peers nearest to a key, how many hold its record.
    pub(super) fn holders(&self, key: &Key) -> usize {
        let near = self.nearest(&Point::of_key(key), |manner| manner == Manner::Honest);
        near.iter().filter(|peer| self.holds(peer, key)).count()
    }

    /// All peers that hold a key's record.
    pub(super) fn all_holders(&self, key: &Key) -> usize {
        self.held.values().filter(|held| held.contains(key)).count()
    }

    /// Lets time pass until nothing is left to do before `until`, or `stop` says so.
    pub(super) fn run(
        &mut self,
        sweep: &mut Sweep,
        until: Duration,
        stop: impl Fn(&Self, &Sweep) -> bool,
    ) {
        let end = self.now + until;
        loop {
            while let Some(action) = sweep.poll(self.now) {
                self.act(action);
            }
            if self.writes {
                self.write(sweep);
            }
            if stop(self, sweep) {
                return;
            }
            let reply = self.replies.first_key_value().map(|((at, _), _)| *at);
            let Some(next) = reply.into_iter().chain(sweep.wake()).min() else { break };
            if next > end {
                break;
            }
            // Nothing may be polled for ever without time passing, except the search for bytes.
            self.now = next.max(self.now);
            if let Some(entry) = self.replies.first_entry()
                && entry.key().0 <= self.now
            {
                let reply = entry.remove();
                self.reply(sweep, reply);
            }
        }
        self.now = self.now.max(end);
    }

    /// Lets time pass until everything is announced, at most an hour.
    pub(super) fn announce_all(&mut self, sweep: &mut Sweep) {
        self.run(sweep, Duration::from_secs(3600), |_, sweep| {
            sweep.provided.unannounced() == 0 && sweep.visits.is_empty()
        });
    }

    fn write(&mut self, sweep: &mut Sweep) {
        for change in sweep.take_changes(usize::MAX) {
            match change {
                Change::Put { key, class, announced_ms } => {
                    self.disk.insert(key, (class, announced_ms));
                }
                Change::Remove { key } => {
                    self.disk.remove(&key).expect("only what is on the disk leaves it");
                }
            }
        }
    }

    fn act(&mut self, action: Action) {
        let ms = Duration::from_millis;
        let (after, reply) = match action {
            Action::Ended { key, announced } => {
                let counts = match announced {
                    Announced::Yes => &mut self.announced,
                    Announced::Pending => &mut self.failed,
                };
                *counts.entry(key).or_default() += 1;
                return;
            }
            Action::Closest { id, target, diverse } => {
                (ms(300), Reply::Closest { id, target, diverse })
            }
            Action::Tell { id, to, keys, sample } => {
                assert!(keys.contains(&sample));
                for key in &keys {
                    *self.sent.entry(*key).or_default() += 1;
                }
                (ms(50), Reply::Told { id, to: to.peer, keys, sample })
            }
            Action::ReadBack { id, at, key } => (ms(50), Reply::Read { id, at: at.peer, key }),
        };
        self.replied += 1;
        self.replies.insert((self.now + after, self.replied), reply);
    }

    fn reply(&mut self, sweep: &mut Sweep, reply: Reply) {
        let now_ms = self.now_ms();
        match reply {
            Reply::Closest { id, target, diverse } => {
                let target = Point::of_bytes(&target);
                let near =
                    if diverse { self.diverse(&target) } else { self.nearest(&target, |_| true) };
                let contacts = near.into_iter().map(|peer| self.contact(peer)).collect();
                sweep.on_closest(id, contacts, true, self.now);
            }
            Reply::Told { id, to, keys, sample } => {
                let told = self.take(&to, &keys).map(|()| self.shows(&to, &sample));
                sweep.on_told(id, told, self.now, now_ms);
            }
            Reply::Read { id, at, key } => {
                let read = match self.manner(&at) {
                    Manner::Gone => Err(Failure::Unreachable),
                    _ => Ok(self.shows(&at, &key)),
                };
                sweep.on_read(id, read, self.now);
            }
        }
    }

    fn shows(&self, peer: &PeerId, key: &Key) -> Sample {
        if self.holds(peer, key) {
            return Sample::Kept;
        }
        let crowded = self.manner(peer) == Manner::Crowded && key.as_bytes()[0].is_multiple_of(2);
        if crowded { Sample::Crowded } else { Sample::Missing }
    }

    fn take(&mut self, peer: &PeerId, keys: &[Key]) -> Result<(), Failure> {
        let (manner, now, admit) = (self.manner(peer), self.now, self.admit);
        let bucket = self.buckets.entry(*peer).or_insert(Bucket { level: admit * 10.0, at: now });
        bucket.level += (now - bucket.at).as_secs_f64() * admit;
        bucket.level = bucket.level.min(admit * 10.0);
        bucket.at = now;
        let held = self.held.entry(*peer).or_default();
        for (i, key) in keys.iter().enumerate() {
            if bucket.level < 1.0 {
                self.refused += 1;
                continue;
            }
            bucket.level -= 1.0;
            let keeps = match manner {
                Manner::Honest => true,
                Manner::Gone => return Err(Failure::Unreachable),
                Manner::Swallows => false,
                Manner::KeepsLast => i + 1 == keys.len(),
                Manner::Crowded => key.as_bytes()[0] % 2 == 1,
            };
            if keeps {
                held.insert(*key);
            }
        }
        Ok(())
    }
}

/// A sweep with the usual settings and an empty disk.
pub(super) fn sweep(world: &World) -> Sweep {
    sweep_with(&Config::default(), world)
}

/// A sweep with an empty disk.
pub(super) fn sweep_with(config: &Config, world: &World) -> Sweep {
    let mut sweep = Sweep::new(config, None, 1);
    sweep.restore([], world.now, world.now_ms());
    sweep
}

/// Provides keys of these numbers for good.
pub(super) fn provide(sweep: &mut Sweep, keys: std::ops::Range<u32>, now: Instant) {
    for n in keys {
        sweep.insert(Key::test(n), Class::Kept, now).unwrap();
    }
}
