//! Dials that show whether a peer can be reached: who is next, how many at a time, how fast.
//!
//! Anybody may tell any address of itself. A check dials what was told, at most once a peer at a
//! time, and no faster in all than configured, so that telling addresses of others is a poor way to
//! have them dialled; the overlay's budget for each IP stands behind it.

use super::Config;
use crate::{Multiaddr, PeerId};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::Hash,
    net::IpAddr,
    time::Instant,
};

/// What a check is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It has connected to this node, and would enter the table.
    Newcomer,
    /// It is in the table and was not heard of for a while.
    Stale,
    /// It would take the place of one that has left.
    Replacement,
    /// It was in the table before the restart.
    Kept,
}

impl Why {
    /// All of them, which dashboards see from the start.
    pub(crate) const ALL: [Self; 4] = [Self::Newcomer, Self::Stale, Self::Replacement, Self::Kept];

    /// The metric label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Newcomer => "newcomer",
            Self::Stale => "stale",
            Self::Replacement => "replacement",
            Self::Kept => "kept",
        }
    }
}

/// A peer that is to be dialled. At most 320 bytes of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) peer: PeerId,
    /// What it is to be reached at, by its own word.
    pub(crate) addresses: Vec<Multiaddr>,
    /// The IP it is connected from, if it is.
    pub(crate) ip: Option<IpAddr>,
    pub(crate) why: Why,
}

/// As many checks wait as may.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

/// Checks that wait, and those under way by the name of their dial.
#[derive(Debug)]
pub(super) struct Checks<I> {
    parallel: usize,
    max_waiting: usize,
    per_second: f64,
    burst: f64,
    /// Dials that were made and have not been made up for by time.
    used: f64,
    at: Instant,
    waiting: VecDeque<Check>,
    under_way: HashMap<I, Check>,
    /// Those of both.
    peers: HashSet<PeerId>,
}

impl<I: Copy + Eq + Hash> Checks<I> {
    pub(super) fn new(config: &Config, now: Instant) -> Self {
        Self {
            parallel: config.checks,
            max_waiting: config.check_queue,
            per_second: config.check_rate.into(),
            burst: config.check_burst.into(),
            used: 0.0,
            at: now,
            waiting: VecDeque::new(),
            under_way: HashMap::new(),
            peers: HashSet::new(),
        }
    }

    /// Asks for a check. One that waits for the same peer has the newer addresses then.
    pub(super) fn ask(&mut self, check: Check) -> Result<(), Full> {
        if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.peer == check.peer) {
            *waiting = Check { why: waiting.why, ..check };
            return Ok(());
        }
        if self.peers.contains(&check.peer) {
            return Ok(());
        }
        if self.waiting.len() >= self.max_waiting {
            return Err(Full);
        }
        self.peers.insert(check.peer);
        self.waiting.push_back(check);
        Ok(())
    }

    /// Whether one more could be under way at once: room for checks that nobody waits for.
    pub(super) fn has_room(&self) -> bool {
        self.peers.len() < self.parallel
    }

    /// Whether a peer is being checked or will be.
    pub(super) fn contains(&self, peer: &PeerId) -> bool {
        self.peers.contains(peer)
    }

    /// The next check to begin now; it is to be given to [`Self::begun`] or [`Self::dropped`].
    pub(super) fn next(&mut self, now: Instant) -> Option<Check> {
        if self.waiting.is_empty() || self.under_way.len() >= self.parallel {
            return None;
        }
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.used = (self.used - passed * self.per_second).max(0.0);
        self.at = now.max(self.at);
        if self.used + 1.0 > self.burst {
            return None;
        }
        self.used += 1.0;
        self.waiting.pop_front()
    }

    /// A check is under way.
    pub(super) fn begun(&mut self, id: I, check: Check) {
        self.under_way.insert(id, check);
    }

    /// A check could not be begun.
    pub(super) fn dropped(&mut self, peer: &PeerId) {
        self.peers.remove(peer);
    }

    /// A dial has ended; the check, if it was one.
    pub(super) fn ended(&mut self, id: &I) -> Option<Check> {
        let check = self.under_way.remove(id)?;
        self.peers.remove(&check.peer);
        Some(check)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::peer_id_of;
    use proptest::prelude::*;
    use std::time::Duration;

    fn check(n: u8, port: u16) -> Check {
        let addresses = vec![format!("/ip4/8.8.8.8/tcp/{port}").parse().unwrap()];
        Check { peer: peer_id_of(&[n; 32]).unwrap(), addresses, ip: None, why: Why::Newcomer }
    }

    fn config() -> Config {
        Config { checks: 2, check_rate: 1, check_burst: 3, check_queue: 4, ..Config::default() }
    }

    #[test]
    fn a_few_at_a_time_and_a_few_a_second() {
        let now = Instant::now();
        let mut checks = Checks::new(&config(), now);
        for n in 1..=4 {
            checks.ask(check(n, 1)).unwrap();
        }
        assert_eq!(checks.ask(check(5, 1)), Err(Full));
        for id in 1..=2 {
            let next = checks.next(now).unwrap();
            checks.begun(id, next);
        }
        assert_eq!(checks.next(now), None, "two at a time");
        assert_eq!(checks.ended(&1).unwrap(), check(1, 1));
        assert_eq!(checks.ended(&1), None);
        let next = checks.next(now).unwrap();
        checks.begun(3, next);
        checks.ended(&2).unwrap();
        assert_eq!(checks.next(now), None, "three at once");
        assert_eq!(checks.next(now + Duration::from_secs(1)).unwrap(), check(4, 1));
    }

    #[test]
    fn a_peer_is_checked_once_at_a_time_at_its_newest_addresses() {
        let now = Instant::now();
        let mut checks = Checks::new(&config(), now);
        checks.ask(check(1, 1)).unwrap();
        checks.ask(check(1, 2)).unwrap();
        let next = checks.next(now).unwrap();
        assert_eq!(next, check(1, 2));
        checks.begun(1, next);
        checks.ask(check(1, 3)).unwrap();
        assert!(checks.has_room() && checks.contains(&check(1, 1).peer));
        checks.ended(&1).unwrap();
        assert!(!checks.contains(&check(1, 1).peer));
        checks.ask(check(1, 3)).unwrap();
        let next = checks.next(now).unwrap();
        checks.dropped(&next.peer);
        assert!(!checks.contains(&next.peer));
    }

    proptest! {
        #[test]
        fn bounds_hold(ops in proptest::collection::vec((0u8..12, 0u8..3, 0u64..900), 0..200)) {
            let start = Instant::now();
            let (mut now, mut begun) = (start, 0u32);
            let mut checks = Checks::new(&config(), now);
            for (n, what, wait) in ops {
                now += Duration::from_millis(wait);
                match what {
                    0 => { let _ = checks.ask(check(n, 1)); }
                    1 => if let Some(next) = checks.next(now) {
                        checks.begun(begun, next);
                        begun += 1;
                    },
                    _ => {
                        let first = checks.under_way.keys().next().copied();
                        if let Some(id) = first {
                            checks.ended(&id);
                        }
                    }
                }
                prop_assert!(checks.waiting.len() <= 4 && checks.under_way.len() <= 2);
                prop_assert_eq!(checks.peers.len(), checks.waiting.len() + checks.under_way.len());
                prop_assert!(f64::from(begun) <= 3.0 + (now - start).as_secs_f64() + 1e-6);
            }
        }
    }
}
