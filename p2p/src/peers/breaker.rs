//! Which peers are not dialled for a while, because dialling them has failed again and again.
//!
//! A peer's breaker is *closed* while it failed less often in a row than [`Config::failures`] says:
//! dials pass. It is *open* after that: dials are refused until a wait is over, which doubles with
//! each failure. Then it is *half open*: one dial passes, and says by its end whether the wait begins
//! anew or the peer is forgotten. No clock and no randomness in here.

mod config;

use crate::PeerId;
pub use config::Config;
use libp2p::swarm::ConnectionId;
use lru::LruCache;
use serde::Serialize;
use std::{
    num::NonZeroUsize,
    time::{Duration, Instant},
};

/// Why a dial failed, as far as it tells of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Nothing listens there.
    Refused,
    /// No answer in time.
    Timeout,
    /// No way there.
    Unreachable,
    /// Somebody else answered.
    WrongPeer,
    /// It answered, and ended the connection at once.
    HungUp,
    /// Anything else on the way to an encrypted connection.
    Transport,
}

impl Failure {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::WrongPeer => "wrong_peer",
            Self::HungUp => "hung_up",
            Self::Transport => "transport",
        }
    }
}

/// A peer that is not dialled for now, and for how long yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Open {
    pub(crate) failures: u32,
    pub(crate) wait: Duration,
}

/// The failures of one peer that could not be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BreakerView {
    /// Its PeerId.
    pub peer_id: String,
    /// `closed`: dials pass still. `open`: they are refused. `half_open`: the wait is over, and one
    /// dial decides.
    pub state: &'static str,
    /// Failures in a row.
    pub failures: u32,
    /// Until the next dial may pass, in milliseconds; 0 if it may now.
    pub next_try_ms: u64,
    /// What the last failure was: `refused`, `timeout`, `unreachable`, `wrong_peer`, `hung_up` or
    /// `transport`.
    pub last_error: &'static str,
    /// How long ago that was, in milliseconds.
    pub failed_ms_ago: u64,
}

#[derive(Debug)]
struct Entry {
    failures: u32,
    last: Failure,
    failed_at: Instant,
    /// End of the wait; none while there are too few failures for one.
    until: Option<Instant>,
    /// The one dial that passed since, until it is known how it ended.
    trial: Option<ConnectionId>,
}

/// The breakers of all peers that failed of late.
#[derive(Debug)]
pub(crate) struct Breaker {
    config: Config,
    /// By their last failure, the newest first: nothing else moves an entry to the front.
    peers: LruCache<PeerId, Entry>,
}

impl Breaker {
    pub(crate) fn new(config: &Config) -> Self {
        let capacity = NonZeroUsize::new(config.peers).unwrap_or(NonZeroUsize::MIN);
        Self { config: config.clone(), peers: LruCache::sparse(capacity) }
    }

    /// Whether the peer may be dialled. If its wait is over, the dial that asks is the trial, and no
    /// other passes until it has ended.
    pub(crate) fn ask(
        &mut self,
        peer: &PeerId,
        id: ConnectionId,
        now: Instant,
    ) -> Result<(), Open> {
        if let Some(open) = self.open(peer, now) {
            return Err(open);
        }
        if let Some(entry) = self.peers.peek_mut(peer)
            && entry.until.is_some()
        {
            entry.trial = Some(id);
        }
        Ok(())
    }

    /// The peer is said to be elsewhere now: its wait ends, but not sooner after its last failure than
    /// the first wait would have. Whoever lies of it gains a dial every [`Config::base`].
    pub(crate) fn moved(&mut self, peer: &PeerId) {
        if let Some(entry) = self.peers.peek_mut(peer)
            && let Some(until) = entry.until
        {
            entry.until = Some(until.min(entry.failed_at + self.config.base));
        }
    }

    /// Whether a dial to the peer would be refused now.
    pub(crate) fn open(&self, peer: &PeerId, now: Instant) -> Option<Open> {
        let entry = self.peers.peek(peer)?;
        let wait = entry.until?.saturating_duration_since(now);
        let open = !wait.is_zero() || entry.trial.is_some();
        open.then_some(Open { failures: entry.failures, wait })
    }

    /// A dial that had passed has failed. Whether the peer's breaker was closed and is open now.
    ///
    /// `alone` says that this node was connected to nobody, and `jitter` takes up to a quarter off
    /// the wait, so that nodes that failed together do not try again together.
    pub(crate) fn failed(
        &mut self,
        peer: &PeerId,
        id: ConnectionId,
        why: Failure,
        alone: bool,
        jitter: u8,
        now: Instant,
    ) -> bool {
        let before = self.peers.peek(peer);
        // Dials that were under way when the breaker opened tell nothing new.
        if before.is_some_and(|entry| entry.until.is_some() && entry.trial != Some(id)) {
            return false;
        }
        let was_open = before.is_some_and(|entry| entry.until.is_some());
        let failures = before.map_or(0, |entry| entry.failures);
        // What failed for want of a network of our own must not cost the peer more than that wait.
        let at_most = alone && self.config.wait(failures, false) >= Some(self.config.max_alone);
        let failures = if at_most { failures } else { failures.saturating_add(1) };
        let until = self.config.wait(failures, alone).map(|wait| {
            let less = (wait / 4).saturating_mul(u32::from(jitter)) / u32::from(u8::MAX);
            now + wait.saturating_sub(less)
        });
        let opened = until.is_some() && !was_open;
        self.peers.push(*peer, Entry { failures, last: why, failed_at: now, until, trial: None });
        opened
    }

    /// A dial has ended without telling anything of the peer: the next may be the trial.
    pub(crate) fn abandoned(&mut self, peer: &PeerId, id: ConnectionId) {
        if let Some(entry) = self.peers.peek_mut(peer)
            && entry.trial == Some(id)
        {
            entry.trial = None;
        }
    }

    /// The peer was reached, and stayed.
    pub(crate) fn succeeded(&mut self, peer: &PeerId) {
        self.peers.pop(peer);
    }

    /// Forgets what is too old.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some((_, entry)) = self.peers.peek_lru()
            && entry.failed_at + self.config.forget_after <= now
        {
            self.peers.pop_lru();
        }
    }

    /// How many are open, the half open ones not among them.
    pub(crate) fn count_open(&self, now: Instant) -> usize {
        self.peers.iter().filter(|(_, entry)| entry.until.is_some_and(|until| now < until)).count()
    }

    /// What is known of one peer's failures.
    pub(crate) fn view(&self, peer: &PeerId, now: Instant) -> Option<BreakerView> {
        self.peers.peek(peer).map(|entry| entry.view(peer, now))
    }

    /// All of them, the last failure first.
    pub(crate) fn views(&self, now: Instant) -> Vec<BreakerView> {
        self.peers.iter().map(|(peer, entry)| entry.view(peer, now)).collect()
    }
}

impl Entry {
    fn view(&self, peer: &PeerId, now: Instant) -> BreakerView {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let state = match self.until {
            None => "closed",
            Some(until) if now < until => "open",
            Some(_) => "half_open",
        };
        BreakerView {
            peer_id: peer.to_string(),
            state,
            failures: self.failures,
            next_try_ms: self.until.map_or(0, |until| ms(until.saturating_duration_since(now))),
            last_error: self.last.label(),
            failed_ms_ago: ms(now.saturating_duration_since(self.failed_at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::peer_id_of;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const SECOND: Duration = Duration::from_secs(1);

    fn peer(n: u8) -> PeerId {
        peer_id_of(&[n; 32]).unwrap()
    }

    fn id(n: usize) -> ConnectionId {
        ConnectionId::new_unchecked(n)
    }

    fn breaker(peers: usize) -> Breaker {
        Breaker::new(&Config { max: 8 * SECOND, max_alone: 2 * SECOND, peers, ..Config::default() })
    }

    /// Dials and fails, without jitter.
    fn fail(breaker: &mut Breaker, alone: bool, now: Instant) -> bool {
        breaker.ask(&peer(1), id(7), now).unwrap();
        breaker.failed(&peer(1), id(7), Failure::Timeout, alone, 0, now)
    }

    #[test]
    fn a_peer_that_is_said_to_be_elsewhere_is_tried_there_soon() {
        let now = Instant::now();
        let mut breaker = breaker(10);
        breaker.moved(&peer(1));
        let mut at = now;
        for _ in 0..4 {
            at += 10 * SECOND;
            fail(&mut breaker, false, at);
        }
        assert_eq!(breaker.open(&peer(1), at).map(|open| open.wait), Some(4 * SECOND));
        breaker.moved(&peer(1));
        assert_eq!(breaker.open(&peer(1), at).map(|open| open.wait), Some(SECOND));
        assert_eq!(breaker.ask(&peer(1), id(1), at + SECOND), Ok(()));
        assert!(breaker.ask(&peer(1), id(2), at + SECOND).is_err(), "one trial, as ever");
        breaker.failed(&peer(1), id(1), Failure::Timeout, false, 0, at + SECOND);
        let wait = breaker.open(&peer(1), at + SECOND).map(|open| open.wait);
        assert_eq!(wait, Some(8 * SECOND), "it was not there either");
    }

    #[test]
    fn waits_double_up_to_the_longest_and_one_dial_ends_each() {
        let mut now = Instant::now();
        let mut breaker = breaker(10);
        assert!(!fail(&mut breaker, false, now), "one failure is none");
        assert!(fail(&mut breaker, false, now), "the second opens");
        for (wait, failures) in [(1, 2), (2, 3), (4, 4), (8, 5), (8, 6)] {
            let wait = wait * SECOND;
            assert_eq!(breaker.ask(&peer(1), id(1), now), Err(Open { failures, wait }));
            assert_eq!(breaker.count_open(now), 1);
            now += wait;
            assert_eq!(breaker.count_open(now), 0);
            assert_eq!(breaker.ask(&peer(1), id(1), now), Ok(()));
            assert!(breaker.ask(&peer(1), id(2), now).is_err(), "one trial at a time");
            assert_eq!(breaker.view(&peer(1), now).unwrap().state, "half_open");
            assert!(!breaker.failed(&peer(1), id(1), Failure::Timeout, false, 0, now));
        }
        assert_eq!(breaker.open(&peer(2), now), None, "others are dialled");
    }

    #[test]
    fn a_success_forgets_the_failures() {
        let now = Instant::now();
        let mut breaker = breaker(10);
        fail(&mut breaker, false, now);
        fail(&mut breaker, false, now);
        breaker.ask(&peer(1), id(1), now + SECOND).unwrap();
        breaker.succeeded(&peer(1));
        assert_eq!(breaker.open(&peer(1), now), None);
        assert_eq!(breaker.view(&peer(1), now), None);
    }

    #[test]
    fn a_trial_that_told_nothing_is_followed_by_another() {
        let now = Instant::now();
        let mut breaker = breaker(10);
        fail(&mut breaker, false, now);
        fail(&mut breaker, false, now);
        let later = now + SECOND;
        breaker.ask(&peer(1), id(1), later).unwrap();
        breaker.abandoned(&peer(1), id(9));
        assert!(breaker.ask(&peer(1), id(2), later).is_err(), "that was another dial");
        breaker.abandoned(&peer(1), id(1));
        assert_eq!(breaker.ask(&peer(1), id(2), later), Ok(()));
    }

    #[test]
    fn dials_that_were_under_way_when_it_opened_do_not_lengthen_the_wait() {
        let now = Instant::now();
        let mut breaker = breaker(10);
        fail(&mut breaker, false, now);
        fail(&mut breaker, false, now);
        assert!(!breaker.failed(&peer(1), id(3), Failure::Timeout, false, 0, now));
        assert_eq!(breaker.open(&peer(1), now), Some(Open { failures: 2, wait: SECOND }));
    }

    #[test]
    fn failures_of_a_node_that_is_connected_to_nobody_cost_little() {
        let mut now = Instant::now();
        let mut breaker = breaker(10);
        for _ in 0..20 {
            fail(&mut breaker, true, now);
            now += 2 * SECOND;
        }
        assert_eq!(breaker.open(&peer(1), now), None);
        fail(&mut breaker, false, now);
        assert_eq!(breaker.open(&peer(1), now).unwrap().wait, 4 * SECOND, "the one after 2 s");
    }

    #[test]
    fn jitter_takes_at_most_a_quarter() {
        let now = Instant::now();
        for (jitter, wait) in [(0, 1000), (51, 950), (255, 750)] {
            let mut breaker = breaker(10);
            fail(&mut breaker, false, now);
            breaker.failed(&peer(1), id(1), Failure::Refused, false, jitter, now);
            let view = breaker.view(&peer(1), now).unwrap();
            assert_eq!((view.next_try_ms, view.last_error, view.state), (wait, "refused", "open"));
        }
    }

    #[test]
    fn old_failures_are_forgotten_and_the_oldest_make_room() {
        let now = Instant::now();
        let mut breaker = breaker(2);
        for n in 1..=3 {
            breaker.failed(
                &peer(n),
                id(1),
                Failure::Timeout,
                false,
                0,
                now + u32::from(n) * SECOND,
            );
        }
        let left: Vec<String> = breaker.views(now).into_iter().map(|view| view.peer_id).collect();
        assert_eq!(left, [peer(3).to_string(), peer(2).to_string()]);
        breaker.expire(now + Config::default().forget_after + 2 * SECOND);
        assert_eq!(breaker.views(now).len(), 1);
        breaker.expire(now + Config::default().forget_after + 3 * SECOND);
        assert!(breaker.views(now).is_empty());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Dial(u8),
        Fail(usize, bool, u8),
        Succeed(usize),
        Abandon(usize),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..6u8).prop_map(Step::Dial),
            (any::<usize>(), any::<bool>(), any::<u8>()).prop_map(|(n, a, j)| Step::Fail(n, a, j)),
            any::<usize>().prop_map(Step::Succeed),
            any::<usize>().prop_map(Step::Abandon),
            (0..20_000u64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// Whatever happens: the table keeps its bound, no wait is longer than the longest, what is
        /// refused passes once its wait is over and its trial has ended, and after enough failures
        /// only one dial of a peer is under way that began since.
        #[test]
        fn it_refuses_only_for_a_time_and_never_grows(
            steps in proptest::collection::vec(step(), 1..200)
        ) {
            let mut now = Instant::now();
            let mut breaker = breaker(4);
            let mut dials: Vec<(ConnectionId, PeerId)> = Vec::new();
            let mut trials: HashMap<PeerId, ConnectionId> = HashMap::new();
            for (n, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Dial(p) => {
                        let waiting = breaker.view(&peer(p), now).filter(|v| v.state != "closed");
                        match breaker.ask(&peer(p), id(n), now) {
                            Ok(()) => {
                                if waiting.is_some() {
                                    prop_assert_eq!(trials.insert(peer(p), id(n)), None);
                                }
                                dials.push((id(n), peer(p)));
                            }
                            Err(open) => {
                                prop_assert!(open.wait <= 8 * SECOND);
                                prop_assert!(open.failures >= 2);
                                prop_assert!(!open.wait.is_zero() || trials.contains_key(&peer(p)));
                            }
                        }
                    }
                    Step::Wait(ms) => now += Duration::from_millis(ms),
                    _ if dials.is_empty() => {}
                    Step::Fail(at, ..) | Step::Succeed(at) | Step::Abandon(at) => {
                        let (id, peer) = dials.remove(at % dials.len());
                        let was_trial = trials.get(&peer) == Some(&id);
                        match step {
                            Step::Fail(_, alone, jitter) => {
                                breaker.failed(&peer, id, Failure::Transport, alone, jitter, now);
                            }
                            Step::Succeed(_) => breaker.succeeded(&peer),
                            _ => breaker.abandoned(&peer, id),
                        }
                        if was_trial || matches!(step, Step::Succeed(_)) {
                            trials.remove(&peer);
                        }
                    }
                }
                // A peer whose entry made room for another is no longer on trial.
                trials.retain(|peer, _| breaker.view(peer, now).is_some());
                prop_assert!(breaker.peers.len() <= 4);
            }
            now += 8 * SECOND;
            for (dial, peer) in dials {
                breaker.abandoned(&peer, dial);
            }
            for p in 0..6 {
                prop_assert_eq!(breaker.open(&peer(p), now), None);
            }
        }
    }
}
