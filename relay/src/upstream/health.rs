//! Whether the sources that this node counts on answer, and connections to them kept warm.
//!
//! The operator's super-nodes, the relays of the same region and whoever delivered lately are asked
//! for their status now and then: every `interval` while they answer, and with a backoff while they
//! do not. The [`Schedule`] decides; [`Upstream::watch_health`] asks.

use super::{Source, Upstream, breaker::Fault, ways::Offered};
use crate::{
    sync::lock,
    wire::{ExchangeError, Patience, Request, Way, ask},
};
use libp2p::PeerId;
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{task::JoinSet, time::sleep, time::timeout};
use tokio_util::sync::CancellationToken;

/// Settings of health checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HealthConfig {
    /// Between two checks of a source that answers. Default 20 s, less than connections may be idle.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// For an answer, a handshake included, by each way to the source. Default 3 s.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// A source that does not answer is asked again after `interval`, then after twice as long each
    /// time, and at most after this. Default 10 min.
    #[serde(with = "humantime_serde")]
    pub backoff_max: Duration,
    /// A source from the directory is checked for this long after it was last used. Default 5 min.
    #[serde(with = "humantime_serde")]
    pub remember: Duration,
    /// Sources checked at most. Default 64, as many as connections are kept.
    pub sources: usize,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(20),
            timeout: Duration::from_secs(3),
            backoff_max: Duration::from_secs(600),
            remember: Duration::from_secs(300),
            sources: 64,
        }
    }
}

/// How often the schedule is looked at. A check is late by as much at most.
const LOOK: Duration = Duration::from_secs(1);

/// Checks at a time.
const AT_ONCE: usize = 8;

/// The answer to a question for the status; far more than any has.
const SMALL: u64 = 4096;

/// Who is checked when.
pub(super) struct Schedule {
    config: HealthConfig,
    /// At most `sources`, of about 300 bytes.
    checks: HashMap<PeerId, Check>,
}

struct Check {
    source: Source,
    due: Instant,
    /// Since the last answer.
    failures: u32,
    /// Whether the last check was answered.
    usable: bool,
    /// Forgotten after this; `None` for those that the operator named.
    until: Option<Instant>,
}

impl Schedule {
    pub(super) fn new(config: HealthConfig, named: &[Source], now: Instant) -> Self {
        let mut schedule = Self { config, checks: HashMap::new() };
        for source in named {
            schedule.insert(source, None, now);
        }
        schedule
    }

    /// A source may be of use soon: it is checked from now on, for a while.
    pub(super) fn known(&mut self, source: &Source, now: Instant) {
        let until = now + self.config.remember;
        if let Some(check) = self.checks.get_mut(&source.peer) {
            check.source.addrs.clone_from(&source.addrs);
            check.until = check.until.map(|_| until);
        } else {
            self.insert(source, Some(until), now);
        }
    }

    /// A source has just delivered. It is checked when that is some time ago.
    pub(super) fn delivered(&mut self, source: &Source, now: Instant) {
        self.known(source, now);
        if let Some(check) = self.checks.get_mut(&source.peer) {
            check.usable = true;
            check.failures = 0;
            check.due = now + self.config.interval;
        }
    }

    fn insert(&mut self, source: &Source, until: Option<Instant>, now: Instant) {
        if self.checks.len() < self.config.sources {
            let source = source.clone();
            let check = Check { source, due: now, failures: 0, usable: false, until };
            self.checks.insert(check.source.peer, check);
        }
    }

    /// Who is to be checked now, at most `most`. Each is to be [`done`](Self::done) with.
    pub(super) fn due(&mut self, most: usize, now: Instant) -> Vec<Source> {
        self.checks.retain(|_, check| check.until.is_none_or(|until| now < until));
        let again = now + self.config.backoff_max.max(self.config.timeout);
        let due = self.checks.values_mut().filter(|check| check.due <= now);
        due.take(most)
            .map(|check| {
                // Should the check end without a word.
                check.due = again;
                check.source.clone()
            })
            .collect()
    }

    /// A check has ended.
    pub(super) fn done(&mut self, peer: PeerId, answered: bool, now: Instant) {
        let Some(check) = self.checks.get_mut(&peer) else { return };
        check.usable = answered;
        check.failures = if answered { 0 } else { check.failures.saturating_add(1) };
        let doublings = check.failures.saturating_sub(1).min(16);
        let backoff = self.config.interval.saturating_mul(1 << doublings);
        check.due = now + backoff.min(self.config.backoff_max.max(self.config.interval));
    }

    /// Sources that answered when they were last asked.
    pub(super) fn usable(&self) -> usize {
        self.checks.values().filter(|check| check.usable).count()
    }
}

impl Upstream {
    /// Checks sources until `stop`.
    pub(crate) async fn watch_health(self: Arc<Self>, stop: CancellationToken) {
        let mut checks = JoinSet::new();
        loop {
            let now = Instant::now();
            for sibling in self.siblings() {
                lock(&self.schedule).known(&sibling, now);
            }
            let free = AT_ONCE.saturating_sub(checks.len());
            for source in lock(&self.schedule).due(free, now) {
                checks.spawn(Arc::clone(&self).check(source));
            }
            self.publish(now);
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep(LOOK) => {}
                // A panic in one has been reported by the panic hook.
                Some(_) = checks.join_next(), if !checks.is_empty() => {}
            }
        }
        checks.shutdown().await;
    }

    fn publish(&self, now: Instant) {
        let usable = lock(&self.schedule).usable();
        self.metrics.p2p_peers.set(u64::try_from(usable).unwrap_or(u64::MAX));
        let open = lock(&self.book).open(now);
        self.metrics.breakers_open.set(u64::try_from(open).unwrap_or(u64::MAX));
    }

    async fn check(self: Arc<Self>, source: Source) {
        let peer = source.peer;
        // The direct way is looked at whatever the other one does: once it works it is to be used. The
        // overlay's connections are not kept open by checks that need not be.
        let Offered { quic, overlay } = self.reach.offered(&source);
        let offered = [quic.then_some(Way::Quic), overlay.then_some(Way::Overlay)];
        let within = self.config.health.timeout;
        for way in offered.into_iter().flatten() {
            let answered = timeout(within, self.status(&source, way, within)).await;
            let now = Instant::now();
            match answered {
                Ok(Ok(took)) => {
                    self.reach.answered(peer, way, now);
                    lock(&self.book).answered(peer, took, now);
                    return lock(&self.schedule).done(peer, true, now);
                }
                Ok(Err(reason)) => tracing::debug!("{peer} failed a health check: {reason}"),
                Err(_) => tracing::debug!("{peer} did not answer a health check in time"),
            }
            self.reach.failed(peer, way, now);
        }
        let now = Instant::now();
        self.metrics.health_check_failures_total.inc();
        lock(&self.book).failed(peer, Fault::Failed, now);
        lock(&self.schedule).done(peer, false, now);
    }

    /// Asks a source for its status, and gives how long the answer took, without the handshake.
    pub(super) async fn status(
        &self,
        source: &Source,
        way: Way,
        within: Duration,
    ) -> Result<Duration, String> {
        let reached = self.reach.by(way, source).await.map_err(|error| error.to_string())?;
        let patience = Patience { header: within, stall: within };
        let asked = Instant::now();
        let answer = async {
            let answer = ask(&reached.link, &Request::Status, patience).await?;
            answer.body(SMALL, within, |_| {}).await
        };
        answer.await.map_err(|error: ExchangeError| error.to_string())?;
        Ok(asked.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn source() -> Source {
        Source { peer: PeerId::random(), addrs: vec![], seeder_score: None, load: None }
    }

    #[test]
    fn one_that_answers_is_asked_every_interval_and_one_that_does_not_ever_more_seldom() {
        let config = HealthConfig::default();
        let mut now = Instant::now();
        let named = source();
        let mut schedule = Schedule::new(config.clone(), std::slice::from_ref(&named), now);
        assert_eq!(schedule.due(9, now), std::slice::from_ref(&named));
        assert_eq!(schedule.due(9, now + config.interval), [], "it is being checked");
        schedule.done(named.peer, true, now);
        assert_eq!(schedule.usable(), 1);
        for factor in [1u32, 1, 2, 4, 8, 16, 30, 30] {
            let due = now + (config.interval * factor).min(config.backoff_max);
            assert_eq!(schedule.due(9, due - Duration::from_millis(1)), []);
            now = due;
            assert_eq!(schedule.due(9, now).len(), 1);
            schedule.done(named.peer, false, now);
            assert_eq!(schedule.usable(), 0);
        }
    }

    #[test]
    fn one_that_is_not_used_any_more_is_forgotten_and_one_that_was_named_is_not() {
        let config = HealthConfig::default();
        let now = Instant::now();
        let (named, used) = (source(), source());
        let mut schedule = Schedule::new(config.clone(), std::slice::from_ref(&named), now);
        schedule.known(&used, now);
        schedule.known(&named, now);
        assert_eq!(schedule.due(9, now).len(), 2);
        for peer in [named.peer, used.peer] {
            schedule.done(peer, true, now);
        }
        assert_eq!(schedule.due(9, now + config.remember), [named]);
        assert_eq!(schedule.usable(), 1);
    }

    #[test]
    fn one_that_has_just_delivered_is_usable_and_is_not_asked_at_once() {
        let config = HealthConfig::default();
        let now = Instant::now();
        let used = source();
        let mut schedule = Schedule::new(config.clone(), &[], now);
        schedule.delivered(&used, now);
        assert_eq!((schedule.usable(), schedule.due(9, now)), (1, vec![]));
        assert_eq!(schedule.due(9, now + config.interval), [used]);
    }

    proptest! {
        #[test]
        fn the_schedule_is_bounded(used in 0usize..200, most in 1usize..20) {
            let now = Instant::now();
            let config = HealthConfig { sources: most, ..HealthConfig::default() };
            let mut schedule = Schedule::new(config, &[], now);
            for _ in 0..used {
                schedule.known(&source(), now);
            }
            prop_assert_eq!(schedule.checks.len(), used.min(most));
        }
    }
}
