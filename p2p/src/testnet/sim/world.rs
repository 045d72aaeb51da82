//! The simulated network: who is in it, whom each of them knows, and what it answers.

use super::{Conduct, Scenario, engine::target_of, latency::Place};
use crate::{
    Multiaddr, PeerId,
    dht::{
        Key,
        network::{Answer, Contact, Question},
        space::{BITS, Distance, Point},
    },
    identity::peer_id_of,
};
use libp2p::multiaddr::Protocol;
use rand::{
    Rng, SeedableRng,
    rngs::StdRng,
    seq::{IteratorRandom, SliceRandom, index},
};
use std::{collections::HashMap, net::Ipv4Addr, ops::Range, time::Duration};

/// Providers that a node keeps of one key, and names in one answer.
const PROVIDERS: usize = 20;

/// Peers that Sybils invent: each names another part of them.
const INVENTED: usize = 200;

/// First octets of the addresses: those of honest nodes, up to 65,536 networks of /16 from here, and
/// those of Sybils. All of them are globally routable.
const HONEST_NET: u8 = 20;
const SYBIL_NET: u8 = 60;

/// A node by its place in the order of all points.
pub(super) type Index = u32;

struct Node {
    contact: Contact,
    point: Point,
    place: Place,
    /// Its /16, by number.
    network: usize,
    sybil: bool,
    vanishes: Option<Duration>,
    /// Whom it would name: in whichever order.
    knows: Vec<Index>,
    records: HashMap<Key, Vec<Index>>,
}

/// The nodes, in the order of their points.
///
/// Worst case: 10,000 nodes that know 200 others each, and have 400 bytes of their own: 12 MB. A
/// record takes about 60 bytes.
pub(super) struct World {
    nodes: Vec<Node>,
    by_peer: HashMap<PeerId, Index>,
    k: usize,
    loss: f64,
    conduct: Option<Conduct>,
    sybils: Vec<Index>,
    /// Peers that Sybils name and that are not there.
    invented: Vec<Contact>,
    /// Keys that were tried until all Sybils lay where they should.
    pub(super) ground: u64,
    pub(super) rng: StdRng,
}

impl World {
    /// The network of a scenario; its Sybils lie nearest to `target`.
    pub(super) fn new(scenario: &Scenario, target: &Point) -> Self {
        let mut rng = StdRng::seed_from_u64(scenario.seed);
        let mut nodes: Vec<Node> = Vec::new();
        for n in 0..scenario.nodes {
            let network = rng.random_range(0..scenario.networks.max(1));
            nodes.extend(node(rng.random(), HONEST_NET, network, n, &mut rng));
        }
        let (mut ground, mut invented) = (0, Vec::new());
        if let Some(sybils) = &scenario.sybils {
            let nearest = nodes.iter().map(|node| node.point.distance(target)).min();
            for n in 0..sybils.count {
                let network = n % sybils.networks.max(1);
                let key = grind(target, nearest, &mut ground, &mut rng);
                let made = node(key, SYBIL_NET, network, n, &mut rng);
                nodes.extend(made.map(|made| Node { sybil: true, ..made }));
            }
            let inventions = if sybils.conduct == Conduct::Invents { INVENTED } else { 0 };
            for n in 0..inventions {
                // In a network of its own, as they say.
                let key = grind(target, nearest, &mut 0, &mut rng);
                invented.extend(node(key, SYBIL_NET, n, n, &mut rng).map(|made| made.contact));
            }
        }
        if let Some(churn) = &scenario.churn {
            for node in nodes.iter_mut().filter(|node| !node.sybil) {
                let when = churn.within.mul_f64(rng.random());
                node.vanishes = rng.random_bool(churn.share.clamp(0.0, 1.0)).then_some(when);
            }
        }
        nodes.sort_unstable_by_key(|node| node.point);
        let by_peer = (0..).zip(&nodes).map(|(n, node)| (node.contact.peer, n)).collect();
        let sybils = (0..).zip(&nodes).filter_map(|(n, node)| node.sybil.then_some(n)).collect();
        let mut world = Self {
            nodes,
            by_peer,
            k: scenario.dht.replication,
            loss: scenario.loss,
            conduct: scenario.sybils.as_ref().map(|sybils| sybils.conduct),
            sybils,
            invented,
            ground,
            rng,
        };
        world.get_acquainted(scenario);
        world
    }

    fn node(&self, index: Index) -> Option<&Node> {
        self.nodes.get(usize::try_from(index).ok()?)
    }

    pub(super) fn contact(&self, index: Index) -> Option<&Contact> {
        self.node(index).map(|node| &node.contact)
    }

    pub(super) fn index_of(&self, peer: &PeerId) -> Option<Index> {
        self.by_peer.get(peer).copied()
    }

    pub(super) fn is_sybil(&self, index: Index) -> bool {
        self.node(index).is_some_and(|node| node.sybil)
    }

    /// Whether the node is there, so long after the beginning.
    pub(super) fn lives(&self, index: Index, at: Duration) -> bool {
        self.node(index).is_some_and(|node| node.vanishes.is_none_or(|vanishes| at < vanishes))
    }

    /// A random honest node that never vanishes.
    pub(super) fn pick(&mut self) -> Option<Index> {
        self.pick_of(|_| true)
    }

    /// Another one.
    pub(super) fn pick_but(&mut self, other: Index) -> Option<Index> {
        self.pick_of(|n| n != other)
    }

    fn pick_of(&mut self, wanted: impl Fn(Index) -> bool) -> Option<Index> {
        let stays = |node: &Node| !node.sybil && node.vanishes.is_none();
        let honest = (0..).zip(&self.nodes).filter_map(|(n, node)| stays(node).then_some(n));
        honest.filter(|n| wanted(*n)).choose(&mut self.rng)
    }

    /// The time of a round trip.
    pub(super) fn round_trip(&mut self, from: Index, to: Index) -> Duration {
        let place = |index| self.node(index).map(|node| node.place);
        let (Some(from), Some(to)) = (place(from), place(to)) else { return Duration::ZERO };
        from.round_trip(&to, self.loss, &mut self.rng)
    }

    /// The `count` peers that a node knows nearest to a point.
    pub(super) fn known_near(&self, index: Index, target: &Point, count: usize) -> Vec<Contact> {
        let knows = self.node(index).map_or(&[][..], |node| &node.knows);
        self.nearest(knows.iter().copied(), target, count)
    }

    fn nearest(
        &self,
        among: impl Iterator<Item = Index>,
        target: &Point,
        count: usize,
    ) -> Vec<Contact> {
        let far = |n: Index| self.node(n).map(|node| (node.point.distance(target), n));
        let mut near: Vec<(Distance, Index)> = among.filter_map(far).collect();
        if count < near.len() {
            near.select_nth_unstable(count);
            near.truncate(count);
        }
        near.sort_unstable();
        near.iter().filter_map(|(_, n)| self.contact(*n).cloned()).collect()
    }

    /// What a node answers, as kad's server does: the `k` nearest peers that it knows but the one
    /// that asks, and the providers it was told of. A Sybil names Sybils alone.
    pub(super) fn answer(&self, index: Index, asker: Index, question: &Question) -> Answer {
        let Some(node) = self.node(index) else { return Answer::default() };
        let target = target_of(question);
        let others = node.knows.iter().copied().filter(|other| *other != asker);
        let closer = if node.sybil && self.conduct == Some(Conduct::Invents) {
            let first = usize::try_from(index).unwrap_or_default().wrapping_mul(self.k);
            let from = first % self.invented.len().max(1);
            self.invented.iter().cycle().skip(from).take(self.k).cloned().collect()
        } else {
            self.nearest(others, &target, self.k)
        };
        let mut answer = Answer { closer, ..<_>::default() };
        if let Question::Providers(key) = question {
            let lies = node.sybil && self.conduct == Some(Conduct::Lies);
            let named = if lies { Some(&self.sybils) } else { node.records.get(key) };
            let named = named.into_iter().flatten().take(PROVIDERS);
            answer.providers = named.filter_map(|n| self.contact(*n).cloned()).collect();
        }
        if let Question::Held(key, _) = question {
            answer.held = node.records.get(key).is_some_and(|held| held.contains(&asker));
        }
        answer
    }

    /// A node is told that another provides a key. Whether it keeps that: Sybils swallow it.
    pub(super) fn tell(&mut self, index: Index, key: Key, provider: Index) -> bool {
        let node = usize::try_from(index).ok().and_then(|index| self.nodes.get_mut(index));
        let Some(node) = node.filter(|node| !node.sybil) else { return false };
        let providers = node.records.entry(key).or_default();
        if providers.contains(&provider) {
            return true;
        }
        let room = providers.len() < PROVIDERS;
        if room {
            providers.push(provider);
        }
        room
    }

    /// Whether a node has the record of a provider.
    pub(super) fn holds(&self, index: Index, key: &Key, provider: Index) -> bool {
        let node = self.node(index);
        node.and_then(|node| node.records.get(key)).is_some_and(|held| held.contains(&provider))
    }

    /// The providers of a key that a node has records of itself.
    pub(super) fn providers_at(&self, index: Index, key: &Key) -> Vec<PeerId> {
        let held = self.node(index).and_then(|node| node.records.get(key));
        let held = held.into_iter().flatten();
        held.filter_map(|n| self.contact(*n)).map(|contact| contact.peer).collect()
    }

    /// How many keys each honest node has records of.
    pub(super) fn held(&self) -> Vec<f64> {
        let honest = self.nodes.iter().filter(|node| !node.sybil);
        honest.map(|node| node.records.len() as f64).collect()
    }

    /// The `count` nodes nearest to a point of all that are there.
    pub(super) fn truly_nearest(&self, target: &Point, count: usize, at: Duration) -> Vec<Contact> {
        let all = (0..).zip(&self.nodes).map(|(n, _)| n).filter(|n| self.lives(*n, at));
        self.nearest(all, target, count)
    }

    /// Fills the routing tables. A node knows of each of its buckets as many as there are places, at
    /// random from those that belong there; the near ones, in which there are fewer, as far as it
    /// has heard of them.
    fn get_acquainted(&mut self, scenario: &Scenario) {
        let points: Vec<Point> = self.nodes.iter().map(|node| node.point).collect();
        let mut rng = StdRng::seed_from_u64(self.rng.random());
        for own in 0..points.len() {
            let sybil = self.nodes.get(own).is_some_and(|node| node.sybil);
            let knows = if sybil {
                self.sybils.clone()
            } else {
                self.table(&buckets(&points, own), scenario, &mut rng)
            };
            if let Some(node) = self.nodes.get_mut(own) {
                node.knows = knows;
            }
        }
    }

    fn table(&self, buckets: &[Range<usize>], scenario: &Scenario, rng: &mut StdRng) -> Vec<Index> {
        let (mut table, mut networks) = (Vec::new(), HashMap::new());
        let room = |count: Option<&usize>, cap: Option<usize>| {
            cap.is_none_or(|cap| count.copied().unwrap_or_default() < cap)
        };
        // Which bucket filled first is chance, and matters where a network's places are counted.
        let mut buckets = buckets.to_vec();
        buckets.shuffle(rng);
        for bucket in buckets {
            let (mut places, mut in_bucket) = (self.k, HashMap::new());
            for other in self.candidates(&bucket, scenario, rng) {
                if places == 0 {
                    break;
                }
                let Some(node) = self.node(other) else { continue };
                let network = (node.sybil, node.network);
                let caps = &scenario.dht;
                if room(in_bucket.get(&network), caps.max_group_in_bucket)
                    && room(networks.get(&network), caps.max_group_in_table)
                {
                    *in_bucket.entry(network).or_default() += 1;
                    *networks.entry(network).or_default() += 1;
                    table.push(other);
                    places -= 1;
                }
            }
        }
        table
    }

    /// Who may come into a bucket, in the order of coming: Sybils are always first.
    fn candidates(
        &self,
        bucket: &Range<usize>,
        scenario: &Scenario,
        rng: &mut StdRng,
    ) -> Vec<Index> {
        let inside = |n: &Index| usize::try_from(*n).is_ok_and(|n| bucket.contains(&n));
        let mut coming: Vec<Index> = self.sybils.iter().copied().filter(inside).collect();
        coming.shuffle(rng);
        // Enough that a bucket fills although some are refused for their network.
        let spare = if scenario.dht.max_group_in_bucket.is_some() { 4 } else { 1 };
        let drawn = bucket.len().min(self.k.saturating_mul(spare));
        // Where there are more than places, those it has not heard of leave no gap.
        let full = bucket.len() > self.k;
        let heard_of = if full { 1.0 } else { scenario.known.clamp(0.0, 1.0) };
        for n in index::sample(rng, bucket.len(), drawn) {
            let Ok(n) = Index::try_from(bucket.start.saturating_add(n)) else { continue };
            if !self.is_sybil(n) && rng.random_bool(heard_of) {
                coming.push(n);
            }
        }
        coming
    }
}

fn node(key: [u8; 32], net: u8, network: usize, number: usize, rng: &mut StdRng) -> Option<Node> {
    let peer = peer_id_of(&key)?;
    let [high, low] = u16::try_from(network).ok()?.to_be_bytes();
    let [.., c, d] = number.to_be_bytes();
    let ip = Ipv4Addr::new(net.saturating_add(high), low, c, d);
    let address = Multiaddr::from(ip).with(Protocol::Udp(9000)).with(Protocol::QuicV1);
    Some(Node {
        contact: Contact { peer, addresses: vec![address] },
        point: Point::of_peer(&peer),
        place: Place::random(rng),
        network,
        sybil: false,
        vanishes: None,
        knows: Vec::new(),
        records: HashMap::new(),
    })
}

/// Tries keys until one lies nearer to the target than any honest node does.
fn grind(target: &Point, nearest: Option<Distance>, tried: &mut u64, rng: &mut StdRng) -> [u8; 32] {
    loop {
        *tried += 1;
        let key = rng.random();
        let point = peer_id_of(&key).map(|peer| Point::of_peer(&peer));
        if nearest.is_none_or(|nearest| point.is_some_and(|p| p.distance(target) < nearest)) {
            return key;
        }
    }
}

/// The buckets of a node's routing table that are not empty, each as a range of the sorted points:
/// bucket `i` holds all nodes that have `i` leading bits in common with this one and no more.
fn buckets(points: &[Point], own: usize) -> Vec<Range<usize>> {
    let Some(point) = points.get(own) else { return Vec::new() };
    let (mut buckets, mut with) = (Vec::new(), 0..points.len());
    for bit in 0..BITS {
        if with.len() <= 1 {
            break;
        }
        // Those with a zero in this bit come first.
        let ones = points.get(with.clone()).map_or(0, |p| p.partition_point(|p| !is_one(p, bit)));
        let middle = with.start + ones;
        let (zeros, ones) = (with.start..middle, middle..with.end);
        let other = if is_one(point, bit) {
            with = ones;
            zeros
        } else {
            with = zeros;
            ones
        };
        if !other.is_empty() {
            buckets.push(other);
        }
    }
    buckets
}

/// A bit of a point, the first being the highest of its first byte.
fn is_one(point: &Point, bit: u32) -> bool {
    let byte = usize::try_from(bit / 8).ok().and_then(|at| point.bits().get(at));
    byte.is_some_and(|byte| byte & (0x80 >> (bit % 8)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testnet::sim::{Churn, Sybils};
    use std::collections::HashSet;

    fn world(scenario: &Scenario) -> World {
        World::new(scenario, &target())
    }

    fn target() -> Point {
        Point::of_key(&Key::test(1))
    }

    #[test]
    fn a_bucket_holds_those_with_just_as_many_bits_in_common() {
        let world = world(&Scenario { nodes: 300, ..Scenario::default() });
        let points: Vec<Point> = world.nodes.iter().map(|node| node.point).collect();
        for own in [0, 150, 299] {
            let buckets = buckets(&points, own);
            let held: usize = buckets.iter().map(Range::len).sum();
            assert_eq!(held, 299, "everybody but itself is in one");
            for bucket in buckets {
                let common = |n: usize| points[n].common_prefix(&points[own]);
                let first = common(bucket.start);
                assert!(bucket.clone().all(|n| common(n) == first && n != own));
            }
        }
    }

    #[test]
    fn tables_are_full_where_there_are_enough_and_nobody_is_in_them_twice() {
        let world = world(&Scenario { nodes: 400, known: 1.0, ..Scenario::default() });
        let points: Vec<Point> = world.nodes.iter().map(|node| node.point).collect();
        for own in [0, 200, 399] {
            let table: HashSet<Index> = world.nodes[own].knows.iter().copied().collect();
            assert_eq!(table.len(), world.nodes[own].knows.len());
            for bucket in buckets(&points, own) {
                let held = bucket
                    .clone()
                    .filter(|n| table.contains(&Index::try_from(*n).unwrap()))
                    .count();
                assert_eq!(held, bucket.len().min(20));
            }
        }
    }

    #[test]
    fn one_network_has_only_its_places_in_a_table() {
        let mut scenario = Scenario { nodes: 400, networks: 8, ..Scenario::default() };
        scenario.dht.max_group_in_bucket = Some(2);
        scenario.dht.max_group_in_table = Some(5);
        let world = world(&scenario);
        for node in &world.nodes {
            let mut places = [0; 8];
            for known in &node.knows {
                places[world.node(*known).unwrap().network] += 1;
            }
            assert!(places.iter().all(|count| *count <= 5), "{places:?}");
        }
    }

    #[test]
    fn sybils_lie_nearest_and_name_and_keep_nobody_else() {
        let sybils = Sybils { count: 7, networks: 2, conduct: Conduct::Lies };
        let scenario = Scenario { nodes: 200, sybils: Some(sybils), ..Scenario::default() };
        let mut world = world(&scenario);
        let asker = world.pick().unwrap();
        let nearest = world.truly_nearest(&target(), 8, Duration::ZERO);
        let sybil = |contact: &Contact| world.is_sybil(world.index_of(&contact.peer).unwrap());
        assert_eq!(nearest.iter().filter(|contact| sybil(contact)).count(), 7);
        assert!(!sybil(&nearest[7]));
        assert!(world.ground > 7);
        let key = Key::test(1);
        let first = world.index_of(&nearest[0].peer).unwrap();
        let answer = world.answer(first, asker, &Question::Providers(key));
        assert!(!answer.closer.is_empty() && answer.closer.iter().all(sybil));
        assert!(!answer.providers.is_empty() && answer.providers.iter().all(sybil));
        assert!(!world.tell(first, key, asker));
        let honest = world.index_of(&nearest[7].peer).unwrap();
        assert!(world.tell(honest, key, asker));
        let answer = world.answer(honest, first, &Question::Providers(key));
        assert_eq!(answer.providers, [world.contact(asker).unwrap().clone()]);
    }

    #[test]
    fn a_quarter_vanishes_in_time() {
        let churn = Churn { share: 0.25, within: Duration::from_secs(60) };
        let world = world(&Scenario { nodes: 400, churn: Some(churn), ..Scenario::default() });
        let lives = |at| (0..400).filter(|n| world.lives(*n, Duration::from_secs(at))).count();
        assert_eq!(lives(0), 400);
        assert!((320..380).contains(&lives(30)), "{}", lives(30));
        assert!((270..330).contains(&lives(60)), "{}", lives(60));
    }

    #[test]
    fn the_same_seed_makes_the_same_network() {
        let shape = |seed| {
            let world = world(&Scenario { seed, nodes: 300, ..Scenario::default() });
            let shape = world.nodes.into_iter().map(|node| (node.contact, node.knows));
            shape.collect::<Vec<_>>()
        };
        assert_eq!(shape(1), shape(1));
        assert_ne!(shape(1), shape(2));
    }
}
