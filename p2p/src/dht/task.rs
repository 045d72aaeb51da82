//! The driver's part of the directory: commands and events in, lookups and records out.

use super::{
    Announced, Class, Command, Config, Key, ProvideError, Rank, Status, Store, admission, client,
    disk::Disk,
    finder::{Errand, Finder, Finished, Purpose, Waiter},
    moves::Moves,
    queries::Query,
    routing::{self, Seen},
    sweep::{self, Announcer},
};
use crate::{
    AddressPolicy, Metrics, Multiaddr, PeerId, Protocols, Reputation, address::is_circuit,
    identity::key_of, metrics::gauge, nat::strategies::Known,
};
use libp2p::kad::{self, Event, InboundRequest, Mode};
use std::{collections::VecDeque, num::NonZeroUsize, sync::Arc, time::Instant};

pub(crate) type Behaviour = kad::Behaviour<Store>;

/// The two behaviours of the directory: kad serves and keeps the routing table, the client asks.
pub(crate) struct Behaviours<'a> {
    pub(crate) kad: &'a mut Behaviour,
    pub(crate) client: &'a mut client::Behaviour,
}

/// Records expired in one turn of the loop: 1,000 take well under 1 ms.
const EXPIRE_PER_TICK: usize = 1000;

/// What the driver must hand on to another domain.
#[derive(Debug)]
pub(crate) enum Output {
    /// The lookup for a peer's addresses has ended, with those the policy allows.
    Located(PeerId, Vec<Multiaddr>),
    /// Somebody said through which relays a provider is reached.
    Relayed(Known),
}

pub(crate) struct Dht {
    pub(super) local: PeerId,
    pub(super) policy: AddressPolicy,
    pub(super) reputation: Arc<dyn Reputation>,
    pub(super) metrics: Metrics,
    /// None if nothing is kept over a restart.
    pub(super) disk: Option<Disk>,
    finder: Finder,
    pub(super) announcer: Announcer,
    /// At most one for each lookup for a peer, which the service records' own bound limits, and 20
    /// for each answer that came in one turn.
    outputs: VecDeque<Output>,
    routing_table: usize,
    pub(super) routing: routing::Routing,
    moves: Moves,
}

/// kad as configured, with a store of our own and nothing republished by itself.
pub(crate) fn behaviour(
    local: PeerId,
    config: &Config,
    policy: AddressPolicy,
    protocols: &Protocols,
) -> Behaviour {
    let mut settings = kad::Config::new(protocols.kad());
    let positive = |n: usize| NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN);
    settings
        .set_query_timeout(config.query_timeout)
        .set_substreams_timeout(config.peer_timeout)
        .set_parallelism(positive(config.parallelism))
        .set_replication_factor(positive(config.replication))
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_kbucket_size(positive(config.replication))
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        .set_caching(kad::Caching::Disabled)
        .set_provider_record_ttl(Some(config.record_ttl))
        .set_provider_publication_interval(None)
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_periodic_bootstrap_interval(None);
    let began = Instant::now();
    let store = Store::new(local, config.store.clone(), policy, config.record_ttl, began);
    kad::Behaviour::with_config(local, store, settings)
}

impl Dht {
    pub(crate) fn new(
        local: PeerId,
        config: &Config,
        policy: AddressPolicy,
        reputation: Arc<dyn Reputation>,
        metrics: Metrics,
    ) -> Self {
        let limits = admission::Limits::new(config, policy);
        let upkeep = routing::Upkeep::new(local, config.refresh, &config.table, Instant::now());
        let finder = Finder::new(local, config, policy, metrics.clone());
        let (max_group, shown) = (finder.max_group(), metrics.sweep.clone());
        let announcer = Announcer::new(&local, config, max_group, rand::random(), shown);
        Self {
            local,
            policy,
            reputation,
            finder,
            announcer,
            metrics,
            disk: None,
            outputs: VecDeque::new(),
            routing_table: 0,
            routing: routing::Routing::new(limits, policy, upkeep),
            moves: Moves::new(&config.sweep),
        }
    }

    pub(crate) fn on_command(&mut self, command: Command, mut parts: Behaviours<'_>, now: Instant) {
        match command {
            Command::Provide { key, class, answer } => {
                let _ = answer.send(self.provide(key, class, parts.kad, now));
            }
            Command::Announced { key, answer } => {
                if self.announcer.await_announced(key, answer) == Err(sweep::Busy) {
                    self.metrics.commands_refused.with_label_values(&["dht"]).inc();
                }
            }
            Command::StopProviding { key, answer } => {
                let was_provided = self.announcer.stop_providing(&key);
                self.withdrawn(&key, parts.kad);
                let _ = answer.send(was_provided);
            }
            Command::Find { key, limit, answer } => {
                let waiter = Waiter::Find(answer);
                self.finder.query(Query::Find(key), limit, waiter, &mut parts, now);
            }
            Command::Closest { key, answer } => {
                let waiter = Waiter::Closest(answer);
                self.finder.query(Query::Closest(key), usize::MAX, waiter, &mut parts, now);
            }
            Command::Status { answer } => {
                let _ = answer.send(self.status(parts.kad, now));
            }
        }
    }

    fn provide(
        &mut self,
        key: Key,
        class: Class,
        kad: &mut Behaviour,
        now: Instant,
    ) -> Result<Announced, ProvideError> {
        let provided = self.announcer.provide(key, class, now)?;
        if provided.is_new {
            kad.store_mut().provide(key);
            self.finder.changed(&key);
        }
        if let Some(left) = provided.left {
            self.withdrawn(&left, kad);
        }
        Ok(provided.announced)
    }

    /// A key is provided no longer.
    fn withdrawn(&mut self, key: &Key, kad: &mut Behaviour) {
        kad.store_mut().stop_providing(key);
        self.finder.changed(key);
    }

    /// Looks for the addresses of a peer; ends in [`Output::Located`].
    pub(crate) fn locate(&mut self, peer: PeerId, mut parts: Behaviours<'_>, now: Instant) {
        self.finder.closest(peer.to_bytes(), Purpose::Locate(peer), &mut parts, now);
    }

    /// A peer could not be reached, or its connection broke.
    pub(crate) fn on_lost(&mut self, peer: &PeerId, now: Instant) {
        self.finder.lost(peer, now);
    }

    /// Starts what is due and takes what has ended. Called after every turn of the loop.
    pub(crate) fn advance(&mut self, mut parts: Behaviours<'_>, now: Instant, now_ms: u64) {
        if let Some(target) = self.next_refresh(parts.kad, now) {
            self.finder.closest(target, Purpose::Refresh, &mut parts, now);
        }
        for finished in self.finder.advance(&mut parts, now) {
            if let Finished::Lookup(purpose, outcome) = &finished
                && outcome.answered > 0
                && let Some(point) = purpose.point()
            {
                self.routing.upkeep.looked(&point, now);
            }
            match finished {
                Finished::Lookup(Purpose::Explore { id, .. }, outcome) => {
                    self.announcer.on_lookup(id, outcome, now);
                }
                Finished::Lookup(Purpose::Locate(peer), outcome) => {
                    let found = outcome.closest.into_iter().find(|found| found.peer == peer);
                    let addresses = found.map(|found| found.addresses).unwrap_or_default();
                    self.outputs.push_back(Output::Located(peer, addresses));
                }
                Finished::Lookup(Purpose::Refresh, outcome) => {
                    self.refreshed(outcome.answered > 0, now);
                }
                // Callers were answered by the finder.
                Finished::Lookup(Purpose::Find(_) | Purpose::Closest(_), _) => {}
                Finished::Errand(Errand::Sweep(task), peer, result) => {
                    let (finder, at) = (&mut self.finder, (now, now_ms));
                    self.announcer.on_errand(task, peer, result, finder, &mut parts, at);
                }
            }
        }
        let reachable = self.routing_table > 0;
        self.announcer.advance(&mut self.finder, &mut parts, reachable, now);
    }

    /// When [`Self::advance`] is to be called, if nothing else happens.
    pub(crate) fn wakes_at(&self, client: &client::Behaviour, now: Instant) -> Option<Instant> {
        self.finder.wakes_at(client, now).into_iter().chain(self.announcer.wakes_at(now)).min()
    }

    /// What is to be handed on, once.
    pub(crate) fn next_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// A question or a batch of records of the client has ended.
    pub(crate) fn on_client(&mut self, event: client::Event, kad: &mut Behaviour, now: Instant) {
        if let Some(peer) = self.finder.asked(event.id) {
            self.on_answered(&peer, event.result.as_ref().err().copied(), kad, now);
        }
        if let Ok(client::Reply::Answer(answer)) = &event.result {
            let relayed = answer.providers.iter().filter_map(|provider| {
                let circuits = provider.addresses.iter().filter(|addr| is_circuit(addr));
                let addresses: Vec<Multiaddr> = circuits.cloned().collect();
                let some = !addresses.is_empty() && provider.peer != self.local;
                some.then(|| Known { peer: provider.peer, addresses })
            });
            self.outputs.extend(relayed.map(Output::Relayed));
        }
        self.finder.on_event(event, now);
    }

    pub(crate) fn on_event(&mut self, event: Event, kad: &mut Behaviour, now: Instant) {
        match event {
            Event::InboundRequest {
                request: InboundRequest::AddProvider { record: Some(record) },
            } => self.on_record(&record, kad, now),
            Event::RoutingUpdated { peer, .. } => {
                self.routing.on_inserted(&peer);
                self.routing.upkeep.changed = true;
                self.count_routing_table(kad, now);
            }
            Event::ModeChanged { new_mode } => {
                tracing::info!(mode = mode_label(new_mode), "directory mode");
            }
            // Answered by kad itself; or routable peers, which enter the table when they identify
            // themselves. What kad asks for is peers, by a bootstrap of its own while the table has
            // less than 20, which cannot be turned off; it dials those it finds.
            Event::OutboundQueryProgressed { .. }
            | Event::InboundRequest { .. }
            | Event::UnroutablePeer { .. }
            | Event::RoutablePeer { .. }
            | Event::PendingRoutablePeer { .. } => {}
        }
    }

    /// A peer placed a record here. kad has checked that the provider is who sent it.
    fn on_record(&mut self, record: &kad::ProviderRecord, kad: &mut Behaviour, now: Instant) {
        let standing = key_of(&record.provider).and_then(|key| self.reputation.standing(&key));
        let (provider, rank) = (&record.provider, Rank::of(standing));
        let store = kad.store_mut();
        if let Err(reason) = store.add(&record.key, provider, &record.addresses, rank, now) {
            self.metrics.kad_records_refused.with_label_values(&[reason.label()]).inc();
            tracing::debug!(provider = %record.provider, reason = reason.label(), "record refused");
        }
    }

    /// A peer that speaks our kad told its addresses; what it told before no longer counts.
    pub(crate) fn on_identified(
        &mut self,
        peer: &PeerId,
        seen: Seen<'_>,
        kad: &mut Behaviour,
        now: Instant,
    ) {
        let admitted = self.routing.identified(kad, peer, seen, &*self.reputation, now);
        if let Err(reason) = admitted {
            self.metrics.kad_routing_refused.with_label_values(&[reason.label()]).inc();
            tracing::debug!(%peer, reason = reason.label(), "not in the routing table");
        }
        self.count_routing_table(kad, now);
    }

    /// Reputation has changed: graylisted peers leave the routing table.
    pub(crate) fn on_reputation(&mut self, kad: &mut Behaviour, now: Instant) {
        routing::remove_graylisted(kad, &*self.reputation);
        let reputation = &*self.reputation;
        kad.store_mut().on_reputation(|key| Rank::of(reputation.standing(key)));
        self.count_routing_table(kad, now);
    }

    /// Takes a peer out of the routing table.
    pub(crate) fn forget_peer(&mut self, peer: &PeerId, kad: &mut Behaviour, now: Instant) {
        kad.remove_peer(peer);
        self.routing.upkeep.changed = true;
        self.count_routing_table(kad, now);
    }

    pub(super) fn count_routing_table(&mut self, kad: &mut Behaviour, now: Instant) {
        let before = self.routing_table;
        self.routing_table = kad.kbuckets().map(|bucket| bucket.num_entries()).sum();
        self.metrics.kad_routing_table_size.set(gauge(self.routing_table));
        if before == 0 && self.routing_table > 0 {
            self.announcer.on_first_peers(now);
        }
    }

    pub(crate) fn on_tick(&mut self, parts: Behaviours<'_>, now: Instant, now_ms: u64) {
        let Behaviours { kad, client } = parts;
        if self.moves.on_tick(&client.own_addresses(), self.routing_table > 0, now) {
            tracing::debug!("announced anew: this node is reached elsewhere");
            self.announcer.moved(now);
        }
        kad.store_mut().expire(now, EXPIRE_PER_TICK);
        let left = kad.store_mut().take_left();
        self.metrics.kad_records_expired.inc_by(left.expired);
        for (reason, count) in left.displaced() {
            self.metrics.kad_records_displaced.with_label_values(&[reason]).inc_by(count);
        }
        self.keep_table(kad, now);
        self.save(kad, now, now_ms);
        self.metrics.kad_records.set(gauge(kad.store_mut().len()));
        self.count_routing_table(kad, now);
        let own = key_of(&self.local).and_then(|key| self.reputation.standing(&key));
        self.announcer.on_tick(self.routing_table, own.is_some(), now);
    }

    /// Peers in the routing table.
    pub(crate) fn routing_table(&self) -> usize {
        self.routing_table
    }

    pub(crate) fn status(&self, kad: &mut Behaviour, now: Instant) -> Status {
        let sweep = self.announcer.status(now);
        Status {
            mode: mode_label(kad.mode()),
            routing_table: self.routing_table,
            provided: sweep.kept + sweep.cached,
            unannounced: sweep.unannounced,
            sweep,
            records: kad.store_mut().len(),
            lookups: self.finder.in_flight(),
            waiting: self.finder.waiting(),
        }
    }
}

fn mode_label(mode: Mode) -> &'static str {
    match mode {
        Mode::Client => "client",
        Mode::Server => "server",
    }
}
