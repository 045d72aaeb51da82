//! When each peer in the table was last heard of, and how often it failed since.

use super::Config;
use crate::PeerId;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

#[derive(Clone, Copy, Debug)]
struct State {
    heard: Instant,
    failures: u32,
    /// It is not asked before.
    next: Instant,
}

/// The peers in the table, which bounds them: 256 buckets of 20, 120 bytes each, 600 KB; a usual
/// table has 200.
#[derive(Debug)]
pub(super) struct Health {
    stale_after: Duration,
    retry: Duration,
    max_failures: u32,
    peers: HashMap<PeerId, State>,
}

impl Health {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            stale_after: config.stale_after,
            retry: config.stale_retry,
            max_failures: config.max_failures,
            peers: HashMap::new(),
        }
    }

    /// These are in the table now, and connected or not.
    pub(super) fn update(&mut self, table: impl Iterator<Item = (PeerId, bool)>, now: Instant) {
        let mut before = std::mem::take(&mut self.peers);
        for (peer, connected) in table {
            let new = State { heard: now, failures: 0, next: now };
            let mut state = before.remove(&peer).unwrap_or(new);
            if connected {
                // Whether it answers is another matter.
                state.heard = now;
            }
            self.peers.insert(peer, state);
        }
    }

    /// A peer has answered, or was reached.
    pub(super) fn heard(&mut self, peer: &PeerId, now: Instant) {
        if let Some(state) = self.peers.get_mut(peer) {
            *state = State { heard: now, failures: 0, next: now };
        }
    }

    /// A peer could not be reached, or did not answer. Whether it has failed so often that it is to
    /// leave the table.
    pub(super) fn failed(&mut self, peer: &PeerId, now: Instant) -> bool {
        let Some(state) = self.peers.get_mut(peer) else { return false };
        // What fails at the same time for several reasons has failed once.
        if state.failures > 0 && now < state.next {
            return false;
        }
        state.failures += 1;
        state.next = now + self.retry;
        // It is to be seen soon whether that was all.
        state.heard = state.heard.min(now.checked_sub(self.stale_after).unwrap_or(state.heard));
        state.failures >= self.max_failures
    }

    /// This node could not ask a peer; it is tried later.
    pub(super) fn not_asked(&mut self, peer: &PeerId, now: Instant) {
        if let Some(state) = self.peers.get_mut(peer) {
            state.next = now + self.retry;
        }
    }

    /// Peers to ask now, the longest silent first.
    pub(super) fn due(&self, now: Instant) -> Vec<PeerId> {
        let silent = |state: &State| now.saturating_duration_since(state.heard);
        let due = self
            .peers
            .iter()
            .filter(|(_, state)| silent(state) >= self.stale_after && state.next <= now);
        let mut due: Vec<_> = due.map(|(peer, state)| (silent(state), *peer)).collect();
        due.sort_unstable_by(|a, b| b.cmp(a));
        due.into_iter().map(|(_, peer)| peer).collect()
    }

    /// When a peer in the table was last heard of.
    pub(super) fn last_heard(&self, peer: &PeerId) -> Option<Instant> {
        self.peers.get(peer).map(|state| state.heard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::peer_id_of;

    fn peer(n: u8) -> PeerId {
        peer_id_of(&[n; 32]).unwrap()
    }

    fn minutes(n: u64) -> Duration {
        Duration::from_secs(60 * n)
    }

    #[test]
    fn who_is_silent_is_asked_and_who_fails_twice_leaves() {
        // Far from the machine's start, so that times before it exist.
        let start = Instant::now() + minutes(60);
        let mut health = Health::new(&Config { max_failures: 2, ..Config::default() });
        let table = || [(peer(1), false), (peer(2), true)].into_iter();
        health.update(table(), start);
        assert!(health.due(start + minutes(9)).is_empty());
        let now = start + minutes(10);
        health.update(table(), now);
        assert_eq!(health.due(now), [peer(1)], "the other is connected");
        assert!(!health.failed(&peer(1), now));
        assert!(!health.failed(&peer(1), now), "the same failure, told twice");
        assert!(health.due(now).is_empty(), "not at once again");
        let later = now + Duration::from_secs(30);
        assert_eq!(health.due(later), [peer(1)]);
        assert!(health.failed(&peer(1), later));
        health.update([(peer(2), true)].into_iter(), later);
        assert!(health.due(later + minutes(9)).is_empty() && health.last_heard(&peer(1)).is_none());
    }

    #[test]
    fn an_answer_makes_up_for_failures_and_a_question_that_was_not_asked_counts_for_nothing() {
        let start = Instant::now() + minutes(60);
        let mut health = Health::new(&Config { max_failures: 2, ..Config::default() });
        health.update([(peer(1), false)].into_iter(), start);
        let now = start + minutes(10);
        assert!(!health.failed(&peer(1), now));
        health.heard(&peer(1), now);
        assert!(!health.failed(&peer(1), now + minutes(10)));
        health.heard(&peer(1), now + minutes(10));
        let now = now + minutes(20);
        assert_eq!(health.due(now), [peer(1)]);
        health.not_asked(&peer(1), now);
        assert!(health.due(now).is_empty());
        assert!(!health.failed(&peer(1), now + minutes(1)), "the first");
    }

    #[test]
    fn one_that_fails_while_it_is_connected_is_asked_soon() {
        let start = Instant::now() + minutes(60);
        let mut health = Health::new(&Config { max_failures: 2, ..Config::default() });
        health.update([(peer(1), false)].into_iter(), start);
        assert!(!health.failed(&peer(1), start));
        assert_eq!(health.due(start + Duration::from_secs(30)), [peer(1)]);
    }
}
