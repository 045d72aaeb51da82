//! When the addresses that this node's records tell have changed. Pure: no clock.
//!
//! A peer keeps a provider's addresses once, whatever number of its records it holds, and takes those
//! of the record that it was told last. So after a move it is enough to announce some of the keys
//! anew.

use super::sweep;
use crate::Multiaddr;
use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

/// How often keys may be announced anew within `sweep.moved_apart`. A node that starts behind a NAT
/// moves to its relays at once, and its router may change soon after.
const IN_A_ROW: usize = 3;

/// The addresses that were told, and those that are not told yet: a few of each.
#[derive(Debug)]
pub(super) struct Moves {
    settle: Duration,
    apart: Duration,
    told: BTreeSet<Multiaddr>,
    now: Option<(BTreeSet<Multiaddr>, Instant)>,
    /// When it was done last, the latest last: at most [`IN_A_ROW`].
    done: VecDeque<Instant>,
}

impl Moves {
    pub(super) fn new(config: &sweep::Config) -> Self {
        Self {
            settle: config.moved_settle,
            apart: config.moved_apart,
            told: BTreeSet::new(),
            now: None,
            done: VecDeque::new(),
        }
    }

    /// Whether keys are to be announced anew: the addresses are others than were told, and have been
    /// for a while. `told` says that there is anybody who could have been told.
    pub(super) fn on_tick(&mut self, own: &[Multiaddr], told: bool, now: Instant) -> bool {
        let own: BTreeSet<Multiaddr> = own.iter().cloned().collect();
        if !told {
            self.told = own;
            return false;
        }
        // There is nothing better to tell.
        if own.is_empty() || own == self.told {
            self.now = None;
            return false;
        }
        let since = match &self.now {
            Some((before, since)) if *before == own => *since,
            _ => {
                self.now = Some((own.clone(), now));
                now
            }
        };
        let settled = now.saturating_duration_since(since) >= self.settle;
        self.done.retain(|at| now.saturating_duration_since(*at) < self.apart);
        if !settled || self.done.len() >= IN_A_ROW {
            return false;
        }
        self.told = own;
        self.now = None;
        self.done.push_back(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE: Duration = Duration::from_secs(2);
    const APART: Duration = Duration::from_secs(60);

    fn addrs(ports: &[u16]) -> Vec<Multiaddr> {
        ports.iter().map(|port| format!("/ip4/8.8.8.8/tcp/{port}").parse().unwrap()).collect()
    }

    fn moves() -> Moves {
        Moves::new(&sweep::Config::default())
    }

    #[test]
    fn what_was_there_before_anybody_could_be_told_is_no_move() {
        let (mut moves, now) = (moves(), Instant::now());
        assert!(!moves.on_tick(&addrs(&[1]), false, now));
        assert!(!moves.on_tick(&addrs(&[1]), true, now + APART));
        assert!(!moves.on_tick(&addrs(&[1, 1]), true, now + 2 * APART), "in any order and number");
    }

    #[test]
    fn a_move_counts_once_it_has_settled_and_once() {
        let (mut moves, now) = (moves(), Instant::now());
        moves.on_tick(&addrs(&[1]), false, now);
        assert!(!moves.on_tick(&addrs(&[2]), true, now));
        assert!(!moves.on_tick(&addrs(&[3]), true, now + SETTLE), "it moved again");
        assert!(moves.on_tick(&addrs(&[3]), true, now + 2 * SETTLE));
        assert!(!moves.on_tick(&addrs(&[3]), true, now + APART));
    }

    #[test]
    fn moves_come_no_faster_than_they_may_and_the_last_one_is_told() {
        let (mut moves, start) = (moves(), Instant::now());
        let mut told = Vec::new();
        for second in 0..200u64 {
            let port = u16::try_from(second / 5 % 2).unwrap();
            if moves.on_tick(&addrs(&[port]), true, start + Duration::from_secs(second)) {
                told.push(second);
            }
        }
        let within = |pair: &[u64]| pair[1] - pair[0] >= APART.as_secs();
        let starts: Vec<u64> = told.iter().copied().step_by(IN_A_ROW).collect();
        assert!(starts.windows(2).all(within), "{told:?}");
        let crowded =
            told.windows(IN_A_ROW + 1).any(|many| many[IN_A_ROW] - many[0] < APART.as_secs());
        assert!(!crowded && told.len() >= 3 * IN_A_ROW, "{told:?}");
    }

    #[test]
    fn a_node_that_is_nowhere_tells_nothing_and_one_that_is_back_where_it_was_neither() {
        let (mut moves, now) = (moves(), Instant::now());
        moves.on_tick(&addrs(&[1]), false, now);
        assert!(!moves.on_tick(&[], true, now));
        assert!(!moves.on_tick(&[], true, now + APART));
        assert!(!moves.on_tick(&addrs(&[1]), true, now + 2 * APART));
    }
}
