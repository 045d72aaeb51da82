//! The driver's part of the directory: commands and kad's events in, queries out.

use super::{
    Announced, Command, Config, FindError, Inserted, Key, ProvideError, Refused, Schedule, Status,
    Store, admission,
    handle::Found,
    queries::{Ask, Queries},
    routing,
};
use crate::{
    AddressPolicy, Metrics, Multiaddr, PeerId, Protocols, Reputation, identity::key_of,
    metrics::gauge,
};
use libp2p::kad::{
    self, Event, GetProvidersOk, InboundRequest, Mode, QueryId, QueryResult, QueryStats,
};
use std::{collections::HashMap, net::IpAddr, num::NonZeroUsize, sync::Arc, time::Instant};
use tokio::sync::oneshot;

pub(crate) type Behaviour = kad::Behaviour<Store>;

/// Callers that wait for first announcements. A caller beyond it is told `Pending` at once.
const MAX_PROVIDE_WAITERS: usize = 1024;

/// Records expired in one turn of the loop: 1,000 take well under 1 ms.
const EXPIRE_PER_TICK: usize = 1000;

/// What the driver must hand on to another domain.
#[derive(Debug)]
pub(crate) enum Output {
    /// The lookup for a peer's addresses has ended, with those the policy allows.
    Located(PeerId, Vec<Multiaddr>),
}

/// The labels of [`Purpose`], which dashboards see from the start.
pub(crate) const QUERY_KINDS: [&str; 3] = ["find", "announce", "locate"];

/// Why a query is in flight.
enum Purpose {
    Find,
    Announce(Key),
    Locate(PeerId),
}

impl Purpose {
    fn label(&self) -> &'static str {
        match self {
            Self::Find => "find",
            Self::Announce(_) => "announce",
            Self::Locate(_) => "locate",
        }
    }
}

pub(crate) struct Dht {
    policy: AddressPolicy,
    reputation: Arc<dyn Reputation>,
    metrics: Metrics,
    queries: Queries<QueryId, Found>,
    schedule: Schedule,
    /// Queries in flight: bounded by `max_queries`, `announce_parallelism` and the lookups of peers
    /// that the service records' own bound allows.
    purposes: HashMap<QueryId, Purpose>,
    provide_waiters: HashMap<Key, Vec<oneshot::Sender<Result<Announced, ProvideError>>>>,
    provide_waiting: usize,
    routing_table: usize,
    routing: routing::Routing,
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
        .set_periodic_bootstrap_interval(Some(config.refresh));
    let store = Store::new(local, config.store.clone(), policy, config.record_ttl);
    kad::Behaviour::with_config(local, store, settings)
}

impl Dht {
    pub(crate) fn new(
        config: &Config,
        policy: AddressPolicy,
        reputation: Arc<dyn Reputation>,
        metrics: Metrics,
    ) -> Self {
        Self {
            policy,
            reputation,
            metrics,
            queries: Queries::new(config),
            schedule: Schedule::new(config),
            purposes: HashMap::new(),
            provide_waiters: HashMap::new(),
            provide_waiting: 0,
            routing_table: 0,
            routing: routing::Routing::new(admission::Limits::new(config, policy), policy),
        }
    }

    pub(crate) fn on_command(&mut self, command: Command, kad: &mut Behaviour, now: Instant) {
        match command {
            Command::Provide { key, answer } => self.provide(key, answer, kad, now),
            Command::StopProviding { key, answer } => {
                kad.store_mut().stop_providing(&key);
                let was_provided = self.schedule.remove(&key);
                self.answer_provide(&key, Announced::Pending);
                let _ = answer.send(was_provided);
            }
            Command::Find { key, limit, answer } => self.find(key, limit, answer, kad),
            Command::Status { answer } => {
                let _ = answer.send(self.status(kad));
            }
        }
    }

    fn provide(
        &mut self,
        key: Key,
        answer: oneshot::Sender<Result<Announced, ProvideError>>,
        kad: &mut Behaviour,
        now: Instant,
    ) {
        let answered = match self.schedule.insert(key, now) {
            Err(full) => Err(ProvideError::Full(full.0)),
            Ok(Inserted::Announced) => Ok(Announced::Yes),
            Ok(Inserted::New | Inserted::Waiting) => {
                kad.store_mut().provide(key);
                if self.provide_waiting < MAX_PROVIDE_WAITERS && self.routing_table > 0 {
                    self.provide_waiting += 1;
                    self.provide_waiters.entry(key).or_default().push(answer);
                    return;
                }
                Ok(Announced::Pending)
            }
        };
        let _ = answer.send(answered);
    }

    fn answer_provide(&mut self, key: &Key, announced: Announced) {
        for waiter in self.provide_waiters.remove(key).unwrap_or_default() {
            self.provide_waiting -= 1;
            let _ = waiter.send(Ok(announced));
        }
    }

    fn find(&mut self, key: Key, limit: usize, answer: Found, kad: &mut Behaviour) {
        match self.queries.ask(key, limit, answer) {
            Ask::Start => self.start_find(key, kad),
            Ask::Joined | Ask::Queued => {}
            Ask::Ready(answer, providers) => {
                let _ = answer.send(Ok(providers));
            }
            Ask::Refused(answer) => {
                self.metrics.commands_refused.with_label_values(&["dht"]).inc();
                let _ = answer.send(Err(FindError::Busy));
            }
        }
    }

    fn start_find(&mut self, key: Key, kad: &mut Behaviour) {
        let id = kad.get_providers(key.record_key());
        self.purposes.insert(id, Purpose::Find);
        self.queries.started(key, id);
    }

    /// Looks for the addresses of a peer; ends in [`Output::Located`].
    pub(crate) fn locate(&mut self, peer: PeerId, kad: &mut Behaviour) {
        let id = kad.get_closest_peers(peer);
        self.purposes.insert(id, Purpose::Locate(peer));
    }

    /// Looks for peers near this node and in each bucket of the table, connecting to those found.
    pub(crate) fn look_around(&mut self, kad: &mut Behaviour) {
        // Without any known peer there is nobody to ask; the bootnodes are being dialled.
        if let Err(error) = kad.bootstrap() {
            tracing::trace!(%error, "no peer to ask for peers");
        }
    }

    /// Starts what is due. Called after every turn of the loop.
    pub(crate) fn advance(&mut self, kad: &mut Behaviour, now: Instant) {
        while let Some(key) = self.queries.next_queued() {
            self.start_find(key, kad);
        }
        while let Some(key) = self.schedule.next(now) {
            if self.routing_table == 0 {
                self.announce_ended(&key, false, now);
                continue;
            }
            match kad.start_providing(key.record_key()) {
                Ok(id) => {
                    self.purposes.insert(id, Purpose::Announce(key));
                }
                // Our store takes every key of ours; kad's signature allows it to refuse.
                Err(error) => {
                    tracing::warn!(?key, %error, "announcement refused by the record store");
                    self.announce_ended(&key, false, now);
                }
            }
        }
    }

    fn announce_ended(&mut self, key: &Key, announced: bool, now: Instant) {
        if announced {
            self.schedule.announced(key, now);
            self.metrics.kad_published.inc();
            self.answer_provide(key, Announced::Yes);
        } else {
            self.schedule.failed(key, now);
            self.answer_provide(key, Announced::Pending);
        }
    }

    pub(crate) fn on_event(
        &mut self,
        event: Event,
        kad: &mut Behaviour,
        now: Instant,
    ) -> Option<Output> {
        match event {
            Event::OutboundQueryProgressed { id, result, stats, step } => {
                return self.on_progress(id, result, &stats, step.last, kad, now);
            }
            Event::InboundRequest {
                request: InboundRequest::AddProvider { record: Some(record) },
            } => self.on_record(&record, kad, now),
            Event::RoutingUpdated { peer, .. } => {
                self.routing.on_inserted(&peer);
                self.count_routing_table(kad, now);
            }
            Event::ModeChanged { new_mode } => {
                tracing::info!(mode = mode_label(new_mode), "directory mode");
            }
            // Answered by kad itself; or routable peers, which enter the table when they identify
            // themselves.
            Event::InboundRequest { .. }
            | Event::UnroutablePeer { .. }
            | Event::RoutablePeer { .. }
            | Event::PendingRoutablePeer { .. } => {}
        }
        None
    }

    fn on_progress(
        &mut self,
        id: QueryId,
        result: QueryResult,
        stats: &QueryStats,
        last: bool,
        kad: &mut Behaviour,
        now: Instant,
    ) -> Option<Output> {
        match result {
            QueryResult::GetProviders(Ok(GetProvidersOk::FoundProviders { providers, .. })) => {
                let found = self.queries.found(&id, providers);
                for (answer, providers) in found.answered {
                    let _ = answer.send(Ok(providers));
                }
                if found.finish
                    && let Some(mut query) = kad.query_mut(&id)
                {
                    query.finish();
                }
                return None;
            }
            QueryResult::GetProviders(ended) => {
                let timed_out = ended.is_err();
                self.ended(id, stats, timed_out);
                for (answer, providers) in self.queries.ended(&id) {
                    let none = timed_out && providers.is_empty();
                    let _ = answer.send(if none { Err(FindError::Timeout) } else { Ok(providers) });
                }
            }
            QueryResult::StartProviding(ended) => {
                // kad calls it a success once it has tried; only a peer that answered was told.
                let announced = ended.is_ok() && stats.num_successes() > 0;
                if let Some(Purpose::Announce(key)) = self.ended(id, stats, ended.is_err()) {
                    self.announce_ended(&key, announced, now);
                }
            }
            QueryResult::GetClosestPeers(ended) => {
                let timed_out = ended.is_err();
                let peers = match ended {
                    Ok(ok) => ok.peers,
                    Err(kad::GetClosestPeersError::Timeout { peers, .. }) => peers,
                };
                if let Some(Purpose::Locate(peer)) = self.ended(id, stats, timed_out) {
                    let addrs = peers.into_iter().filter(|p| p.peer_id == peer);
                    let allowed = addrs.flat_map(|p| p.addrs).filter(|a| self.policy.allows(a));
                    return Some(Output::Located(
                        peer,
                        allowed.take(routing::MAX_ADDRESSES).collect(),
                    ));
                }
            }
            QueryResult::Bootstrap(Ok(_)) if last => self.metrics.kad_bootstraps.inc(),
            QueryResult::Bootstrap(Err(_)) => self.metrics.kad_query_timeouts.inc(),
            // Not asked for.
            QueryResult::Bootstrap(Ok(_))
            | QueryResult::RepublishProvider(_)
            | QueryResult::GetRecord(_)
            | QueryResult::PutRecord(_)
            | QueryResult::RepublishRecord(_) => {}
        }
        None
    }

    fn ended(&mut self, id: QueryId, stats: &QueryStats, timed_out: bool) -> Option<Purpose> {
        let purpose = self.purposes.remove(&id)?;
        if let Some(duration) = stats.duration() {
            let metric = self.metrics.kad_query_duration.with_label_values(&[purpose.label()]);
            metric.observe(duration.as_secs_f64());
        }
        if timed_out {
            self.metrics.kad_query_timeouts.inc();
        }
        Some(purpose)
    }

    /// A peer placed a record here. kad has checked that the provider is who sent it.
    fn on_record(&mut self, record: &kad::ProviderRecord, kad: &mut Behaviour, now: Instant) {
        let standing = key_of(&record.provider).and_then(|key| self.reputation.standing(&key));
        let stored = if standing.is_some_and(|s| s.graylisted()) {
            Err(Refused::Graylisted)
        } else {
            kad.store_mut().add(&record.key, &record.provider, &record.addresses, now)
        };
        if let Err(reason) = stored {
            self.metrics.kad_records_refused.with_label_values(&[reason.label()]).inc();
            tracing::debug!(provider = %record.provider, reason = reason.label(), "record refused");
        }
    }

    /// A peer that speaks our kad, and is connected from `ip`, told its addresses; what it told
    /// before no longer counts.
    pub(crate) fn on_identified(
        &mut self,
        peer: &PeerId,
        ip: Option<IpAddr>,
        addresses: &[Multiaddr],
        kad: &mut Behaviour,
        now: Instant,
    ) {
        let admitted = self.routing.admit(kad, peer, ip, addresses, &*self.reputation);
        if let Err(reason) = admitted {
            self.metrics.kad_routing_refused.with_label_values(&[reason.label()]).inc();
            tracing::debug!(%peer, reason = reason.label(), "not in the routing table");
        }
        self.count_routing_table(kad, now);
    }

    /// Reputation has changed: graylisted peers leave the routing table.
    pub(crate) fn on_reputation(&mut self, kad: &mut Behaviour, now: Instant) {
        routing::remove_graylisted(kad, &*self.reputation);
        self.count_routing_table(kad, now);
    }

    /// Takes a peer out of the routing table.
    pub(crate) fn forget_peer(&mut self, peer: &PeerId, kad: &mut Behaviour, now: Instant) {
        kad.remove_peer(peer);
        self.count_routing_table(kad, now);
    }

    fn count_routing_table(&mut self, kad: &mut Behaviour, now: Instant) {
        let before = self.routing_table;
        self.routing_table = kad.kbuckets().map(|bucket| bucket.num_entries()).sum();
        self.metrics.kad_routing_table_size.set(gauge(self.routing_table));
        if before == 0 && self.routing_table > 0 {
            self.schedule.retry_failed(now);
        }
    }

    pub(crate) fn on_tick(&mut self, kad: &mut Behaviour, now: Instant) {
        kad.store_mut().expire(now, EXPIRE_PER_TICK);
        self.metrics.kad_records.set(gauge(kad.store_mut().len()));
        self.metrics.kad_provided.set(gauge(self.schedule.len()));
        self.count_routing_table(kad, now);
    }

    /// Peers in the routing table.
    pub(crate) fn routing_table(&self) -> usize {
        self.routing_table
    }

    pub(crate) fn status(&self, kad: &mut Behaviour) -> Status {
        Status {
            mode: mode_label(kad.mode()),
            routing_table: self.routing_table,
            provided: self.schedule.len(),
            unannounced: self.schedule.unannounced(),
            records: kad.store_mut().len(),
            lookups: self.queries.in_flight(),
            waiting: self.queries.waiting(),
        }
    }
}

fn mode_label(mode: Mode) -> &'static str {
    match mode {
        Mode::Client => "client",
        Mode::Server => "server",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_query_kind_is_shown_from_the_start() {
        let peer = crate::identity::peer_id_of(&[1; 32]).unwrap();
        let purposes = [Purpose::Find, Purpose::Announce(Key::test(1)), Purpose::Locate(peer)];
        assert_eq!(purposes.map(|purpose| purpose.label()), QUERY_KINDS);
    }
}
