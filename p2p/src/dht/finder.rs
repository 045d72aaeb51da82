//! Lookups from the caller to the wire and back: starts them, sends what they ask, hands on what they
//! have found.
//!
//! A caller's question goes through [`Queries`] (shared, cached, bounded), becomes a lookup among the
//! [`Searches`], and each question of that a request of the [`client`](super::client). Lookups for the
//! node's own purposes begin at [`Finder::closest`], and what is sent to one peer without a lookup at
//! [`Finder::ask`] and [`Finder::tell`]; their ends are told by [`Finder::advance`] under the purpose
//! or errand they were given.
//!
//! One turn of the driver's loop does a bounded part of it, see [`STEPS`]; the rest waits for the next.

use super::{
    ClosestError, Config, FindError, Key,
    client::{self, Reply, Request, RequestId},
    lookup::{End, Goal, Lookup, Outcome, Settings},
    network::{Contact, Failure, Question},
    queries::{Ask, Queries, Query},
    routing::MAX_ADDRESSES,
    searches::{SearchId, Searches, Step},
    space::Point,
    sweep,
    task::Behaviours,
};
use crate::{AddressPolicy, Metrics, PeerId, address::without_peer, metrics::gauge};
use libp2p::kad::KBucketKey;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// Lookups begun, and steps of lookups made, in one turn of the driver's loop. The first reads the
/// routing table, some 50 us; the second sends one question, some 10 us: 2 ms in all.
const STARTS: usize = 16;
const STEPS: usize = 64;

/// The part of all requests that lookups leave to errands: an eighth.
const FOR_ERRANDS: usize = 8;

/// Peers of one network among the nearest, unless the configuration says otherwise. Who is to fill the
/// 20 nearest needs keys in ten networks.
const GROUP_IN_LOOKUP: usize = 2;

/// What a lookup is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Callers want the providers of a key.
    Find(Key),
    /// Callers want the peers nearest to a key.
    Closest(Key),
    /// A peer's addresses are wanted.
    Locate(PeerId),
    /// The sweep explores a region, here around this point. Unless `diverse`, it wants to know all
    /// peers there, however many are of one network.
    Explore { id: u64, at: Point, diverse: bool },
    /// The routing table is to be filled.
    Refresh,
}

/// The labels of [`Purpose`], which dashboards see from the start.
pub(crate) const QUERY_KINDS: [&str; 5] = ["find", "closest", "locate", "explore", "refresh"];

impl Purpose {
    fn label(self) -> &'static str {
        match self {
            Self::Find(_) => "find",
            Self::Closest(_) => "closest",
            Self::Locate(_) => "locate",
            Self::Explore { .. } => "explore",
            Self::Refresh => "refresh",
        }
    }

    /// The point it goes to, unless it is a random one.
    pub(crate) fn point(&self) -> Option<Point> {
        match self {
            Self::Find(key) | Self::Closest(key) => Some(Point::of_key(key)),
            Self::Explore { at, .. } => Some(*at),
            Self::Locate(peer) => Some(Point::of_peer(peer)),
            Self::Refresh => None,
        }
    }
}

/// What a request to one peer is for, where no lookup sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Errand {
    /// The sweep tells a peer what this node provides, or looks whether it has kept it.
    Sweep(sweep::Task),
}

/// What has ended.
#[derive(Debug)]
pub(crate) enum Finished {
    /// A lookup for one of the node's own purposes.
    Lookup(Purpose, Outcome),
    /// A request to one peer.
    Errand(Errand, PeerId, Result<Reply, Failure>),
}

/// A caller that waits.
pub(crate) enum Waiter {
    Find(oneshot::Sender<Result<Vec<PeerId>, FindError>>),
    Closest(oneshot::Sender<Result<Vec<PeerId>, ClosestError>>),
}

/// Why callers get no answer.
#[derive(Clone, Copy)]
enum Unanswered {
    Timeout,
    Nobody,
    Busy,
}

impl Waiter {
    /// A caller that has gone away wants no answer.
    fn answer(self, answer: Result<Vec<PeerId>, Unanswered>) {
        match self {
            Self::Find(waiter) => {
                let _ = waiter.send(answer.map_err(|why| match why {
                    Unanswered::Timeout => FindError::Timeout,
                    Unanswered::Nobody => FindError::Unanswered,
                    Unanswered::Busy => FindError::Busy,
                }));
            }
            Self::Closest(waiter) => {
                let _ = waiter.send(answer.map_err(|why| match why {
                    Unanswered::Timeout => ClosestError::Timeout,
                    Unanswered::Nobody => ClosestError::Unanswered,
                    Unanswered::Busy => ClosestError::Busy,
                }));
            }
        }
    }
}

/// Who sends a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    /// A lookup under way.
    Search(SearchId),
    /// Whoever sends without a lookup; told of its end.
    Errand(Errand),
}

/// A request without an end.
struct Asked {
    asker: Asker,
    peer: PeerId,
    at: Instant,
    /// Whether the peer was connected then.
    connected: bool,
}

pub(crate) struct Finder {
    local: PeerId,
    settings: Settings,
    /// Paths of a lookup for providers; the others follow one.
    paths: usize,
    peer_timeout: Duration,
    tell_timeout: Duration,
    max_requests: usize,
    queries: Queries<Waiter>,
    searches: Searches<Purpose>,
    /// As many as the client has, 150 bytes each.
    asked: HashMap<RequestId, Asked>,
    last_request: RequestId,
    /// What has ended and was not told yet: at most what one turn brings.
    finished: Vec<Finished>,
    metrics: Metrics,
}

impl Finder {
    pub(crate) fn new(
        local: PeerId,
        config: &Config,
        policy: AddressPolicy,
        metrics: Metrics,
    ) -> Self {
        let default = (policy == AddressPolicy::Global).then_some(GROUP_IN_LOOKUP);
        Self {
            local,
            settings: Settings {
                width: config.replication,
                parallelism: config.parallelism,
                paths: 1,
                max_group: config.max_group_in_lookup.or(default),
                timeout: config.query_timeout,
            },
            paths: config.lookup_paths,
            peer_timeout: config.peer_timeout,
            tell_timeout: config.tell_timeout,
            max_requests: config.max_questions,
            queries: Queries::new(config),
            searches: Searches::new(config.min_patience, config.peer_timeout),
            asked: HashMap::new(),
            last_request: 0,
            finished: Vec::new(),
            metrics,
        }
    }

    /// How many peers of one network may be among those nearest to something.
    pub(crate) fn max_group(&self) -> Option<usize> {
        self.settings.max_group
    }

    /// A caller wants something looked for.
    pub(crate) fn query(
        &mut self,
        query: Query,
        limit: usize,
        waiter: Waiter,
        parts: &mut Behaviours<'_>,
        now: Instant,
    ) {
        let metrics = &self.metrics.lookups;
        match self.queries.ask(query, limit, waiter, now) {
            Ask::Ready(waiter, peers) => {
                metrics.cache_hits.inc();
                waiter.answer(Ok(peers));
            }
            Ask::Start(wanted) => {
                metrics.cache_misses.inc();
                self.start_query(query, wanted, parts, now);
            }
            Ask::Joined(wanted) => {
                metrics.cache_misses.inc();
                self.searches.want_of(&purpose_of(query), wanted);
            }
            Ask::Queued => metrics.cache_misses.inc(),
            Ask::Refused(waiter) => {
                self.metrics.commands_refused.with_label_values(&["dht"]).inc();
                waiter.answer(Err(Unanswered::Busy));
            }
        }
    }

    /// This node provides a key from now on, or no longer.
    pub(crate) fn changed(&mut self, key: &Key) {
        self.queries.changed(key);
    }

    /// A peer could not be reached, or its connection broke.
    pub(crate) fn lost(&mut self, peer: &PeerId, now: Instant) {
        self.queries.lost(peer, now);
    }

    fn start_query(
        &mut self,
        query: Query,
        wanted: usize,
        parts: &mut Behaviours<'_>,
        now: Instant,
    ) {
        match query {
            Query::Closest(key) => {
                self.closest(key.as_bytes().to_vec(), Purpose::Closest(key), parts, now);
            }
            Query::Find(key) => {
                let known = parts.kad.store_mut().providers_at(&key, now);
                let known: Vec<PeerId> = known.iter().map(|record| record.provider).collect();
                let settings = Settings { paths: self.paths, ..self.settings.clone() };
                let goal = Goal::Providers(wanted);
                let mut lookup = self.lookup(settings, goal, key.as_bytes(), parts, now);
                for provider in &known {
                    lookup.knows(*provider);
                }
                for (waiter, providers) in self.queries.found(&query, known) {
                    waiter.answer(Ok(providers));
                }
                self.searches.start(lookup, Question::Providers(key), Purpose::Find(key), now);
            }
        }
    }

    /// Looks for the peers nearest to the point of these bytes. Ends in [`Finished::Lookup`].
    pub(crate) fn closest(
        &mut self,
        target: Vec<u8>,
        purpose: Purpose,
        parts: &mut Behaviours<'_>,
        now: Instant,
    ) {
        let goal = match purpose {
            Purpose::Locate(peer) => Goal::Peer(peer),
            _ => Goal::Closest,
        };
        let mut settings = self.settings.clone();
        if matches!(purpose, Purpose::Explore { diverse: false, .. }) {
            settings.max_group = None;
        }
        let lookup = self.lookup(settings, goal, &target, parts, now);
        self.searches.start(lookup, Question::Closest(target), purpose, now);
    }

    /// A lookup that begins at the nearest peers of the routing table.
    fn lookup(
        &self,
        settings: Settings,
        goal: Goal,
        target: &[u8],
        parts: &mut Behaviours<'_>,
        now: Instant,
    ) -> Lookup {
        let key = KBucketKey::new(target.to_vec());
        let nearest = parts.kad.find_closest_local_peers(&key, &self.local);
        let seeds = nearest.map(|known| Contact {
            peer: known.node_id,
            addresses: known.multiaddrs.iter().take(MAX_ADDRESSES).map(without_peer).collect(),
        });
        Lookup::new(settings, goal, self.local, Point::of_bytes(target), seeds, now)
    }

    /// Tells a peer that this node provides some keys, and asks whether it has kept one of them. Ends
    /// in [`Finished::Errand`].
    pub(crate) fn tell(
        &mut self,
        errand: Errand,
        to: Contact,
        keys: Vec<Key>,
        sample: Key,
        client: &mut client::Behaviour,
        now: Instant,
    ) {
        let (provider, addresses) = (self.local, client.own_addresses());
        let request = Request::Tell { keys, sample, provider, addresses };
        let deadline = now + self.tell_timeout;
        self.send(Asker::Errand(errand), to, request, deadline, client, now);
    }

    /// Asks a peer. Ends in [`Finished::Errand`], where it is no lookup that asks.
    pub(crate) fn ask(
        &mut self,
        asker: Asker,
        to: Contact,
        question: Question,
        client: &mut client::Behaviour,
        now: Instant,
    ) {
        let deadline = now + self.peer_timeout;
        self.send(asker, to, Request::Ask(question), deadline, client, now);
    }

    fn send(
        &mut self,
        asker: Asker,
        to: Contact,
        request: Request,
        deadline: Instant,
        client: &mut client::Behaviour,
        now: Instant,
    ) {
        self.last_request += 1;
        let connected = client.is_connected(&to.peer);
        let asked = Asked { asker, peer: to.peer, at: now, connected };
        self.asked.insert(self.last_request, asked);
        self.metrics.lookups.questions.inc();
        client.send(self.last_request, to, request, deadline);
    }

    /// Who was asked, or told, by a request.
    pub(crate) fn asked(&self, id: RequestId) -> Option<PeerId> {
        self.asked.get(&id).map(|asked| asked.peer)
    }

    /// A request has ended.
    pub(crate) fn on_event(&mut self, event: client::Event, now: Instant) {
        let client::Event { id, result, reached } = event;
        let Some(Asked { asker, peer, at, connected }) = self.asked.remove(&id) else { return };
        let metrics = &self.metrics.lookups;
        match &result {
            Ok(Reply::Answer(_)) => {
                let took = now.saturating_duration_since(at);
                metrics.answer_seconds.observe(took.as_secs_f64());
                self.searches.observe(connected, took);
            }
            // A batch takes as long as it is long.
            Ok(Reply::Told { .. }) => {}
            Err(failure) => {
                metrics.failed.with_label_values(&[failure.label()]).inc();
                tracing::trace!(%peer, %failure, "a question failed");
            }
        }
        let search = match asker {
            Asker::Search(search) => search,
            Asker::Errand(errand) => {
                self.finished.push(Finished::Errand(errand, peer, result));
                return;
            }
        };
        let Ok(Reply::Answer(answer)) = result else {
            self.searches.on_failure(search, &peer);
            return;
        };
        let dropped = |reason: super::network::Dropped| {
            metrics.dropped.with_label_values(&[reason.label()]).inc();
        };
        let told = self.searches.on_answer(search, &peer, reached, answer, dropped);
        if let Some((Purpose::Find(key), providers)) = told {
            let found = self.queries.found(&Query::Find(*key), providers);
            for (waiter, providers) in found {
                waiter.answer(Ok(providers));
            }
        }
    }

    /// Does the next part of what is to be done; what has ended since the last call.
    pub(crate) fn advance(&mut self, parts: &mut Behaviours<'_>, now: Instant) -> Vec<Finished> {
        parts.client.expire(now);
        for _ in 0..STARTS {
            let Some((query, wanted)) = self.queries.next_queued() else { break };
            self.start_query(query, wanted, parts, now);
        }
        for _ in 0..STEPS {
            let room = self.has_room(parts.client);
            let connected = |peer: &PeerId| parts.client.is_connected(peer);
            match self.searches.step(now, room, connected) {
                None => break,
                Some(Step::Ask { search, to, question }) => {
                    self.ask(Asker::Search(search), to, question, parts.client, now);
                }
                Some(Step::Ended { search, purpose, outcome, took }) => {
                    self.forget(search, parts.client);
                    self.ended(purpose, outcome, took, now);
                }
            }
        }
        let metrics = &self.metrics.lookups;
        metrics.in_flight.set(gauge(parts.client.in_flight()));
        metrics.running.set(gauge(self.searches.len()));
        metrics.waiting.set(gauge(self.queries.waiting()));
        std::mem::take(&mut self.finished)
    }

    /// When [`Self::advance`] is to be called, if nothing else happens.
    pub(crate) fn wakes_at(&self, client: &client::Behaviour, now: Instant) -> Option<Instant> {
        let due = !self.finished.is_empty()
            || self.queries.is_due()
            || self.searches.is_due(self.has_room(client));
        let later = self.searches.wakes_at().into_iter().chain(client.expires_at()).min();
        if due { Some(now) } else { later }
    }

    fn has_room(&self, client: &client::Behaviour) -> bool {
        client.in_flight() < self.max_requests - self.max_requests / FOR_ERRANDS
    }

    /// Takes back what a lookup that has ended still waits to ask.
    fn forget(&mut self, search: SearchId, client: &mut client::Behaviour) {
        self.asked.retain(|id, asked| {
            asked.asker != Asker::Search(search) || !client.forget(*id, &asked.peer)
        });
    }

    fn ended(&mut self, purpose: Purpose, outcome: Outcome, took: Duration, now: Instant) {
        let kind = purpose.label();
        self.metrics.kad_query_duration.with_label_values(&[kind]).observe(took.as_secs_f64());
        let lookups = &self.metrics.lookups;
        let count = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        lookups.questions_each.with_label_values(&[kind]).observe(count(outcome.asked));
        if outcome.hops > 0 {
            lookups.hops.with_label_values(&[kind]).observe(outcome.hops.into());
        }
        if outcome.end == End::Timeout {
            self.metrics.kad_query_timeouts.inc();
        }
        match purpose {
            Purpose::Find(key) => {
                self.answer(Query::Find(key), outcome.providers.clone(), &outcome, now);
            }
            Purpose::Closest(key) => {
                let closest = outcome.closest.iter().map(|contact| contact.peer).collect();
                self.answer(Query::Closest(key), closest, &outcome, now);
            }
            Purpose::Locate(_) | Purpose::Explore { .. } | Purpose::Refresh => {
                self.finished.push(Finished::Lookup(purpose, outcome));
            }
        }
    }

    /// Answers those that still wait for a lookup that has ended.
    fn answer(&mut self, query: Query, found: Vec<PeerId>, outcome: &Outcome, now: Instant) {
        for (waiter, peers) in self.queries.found(&query, found) {
            waiter.answer(Ok(peers));
        }
        let (waiters, none) = match outcome.end {
            End::Enough => (self.queries.ended(&query, false, now), Ok(())),
            End::Timeout => (self.queries.failed(&query), Err(Unanswered::Timeout)),
            // Whoever knows nobody can ask nobody: what it has itself is all it can tell, for now.
            End::Converged if outcome.asked == 0 => (self.queries.failed(&query), Ok(())),
            End::Converged if outcome.answered == 0 => {
                (self.queries.failed(&query), Err(Unanswered::Nobody))
            }
            End::Converged => (self.queries.ended(&query, true, now), Ok(())),
        };
        for (waiter, peers) in waiters {
            waiter.answer(if peers.is_empty() { none.map(|()| peers) } else { Ok(peers) });
        }
    }

    /// Lookups for callers in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.queries.in_flight()
    }

    /// Callers that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.queries.waiting()
    }
}

fn purpose_of(query: Query) -> Purpose {
    match query {
        Query::Find(key) => Purpose::Find(key),
        Query::Closest(key) => Purpose::Closest(key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_query_kind_is_shown_from_the_start() {
        let (key, peer) = (Key::test(1), crate::identity::peer_id_of(&[1; 32]).unwrap());
        let purposes = [
            Purpose::Find(key),
            Purpose::Closest(key),
            Purpose::Locate(peer),
            Purpose::Explore { id: 1, at: Point::of_key(&key), diverse: true },
            Purpose::Refresh,
        ];
        assert_eq!(purposes.map(Purpose::label), QUERY_KINDS);
    }
}
