//! How fast bytes go out: to one viewer, and to all of them together.
//!
//! Whoever sends a piece waits for its turn first ([`Pace::turn`]). While the total does not bind,
//! turns are given at once; while it does, viewers share it fairly ([`shares`]). Without any limit
//! there is no lock and no waiting.
//!
//! At most one piece of each request waits: `server.max_requests` of about 100 bytes, 800 KiB.

mod allowance;
mod shares;

pub(crate) use shares::{Rates, WEIGHT};

use crate::{sync::lock, wire::Priority};
use libp2p::PeerId;
use shares::{Next, Shares};
use std::{collections::HashMap, sync::Mutex, time::Instant};
use tokio::sync::{Notify, oneshot};

/// Gives turns to those who send.
pub(crate) struct Pace {
    /// Nothing is limited.
    free: bool,
    state: Mutex<State>,
    /// A turn comes earlier than the timer thinks.
    sooner: Notify,
}

struct State {
    shares: Shares,
    /// Who waits, by ticket.
    turns: HashMap<u64, oneshot::Sender<()>>,
    next_ticket: u64,
    /// When the timer looks again; `None` while it waits to be told.
    timer: Option<Instant>,
}

impl State {
    /// Gives all turns that can be given, and says when there will be others.
    fn give(&mut self, now: Instant) -> Option<Instant> {
        loop {
            match self.shares.next(now) {
                Next::Go(ticket) => {
                    // Whoever is gone has withdrawn its ticket, or is about to.
                    if let Some(turn) = self.turns.remove(&ticket) {
                        let _ = turn.send(());
                    }
                }
                Next::At(at) => return Some(at),
                Next::Nothing => return None,
            }
        }
    }
}

/// A piece that waits. Dropped before its turn, it waits no more.
struct Waiting<'a> {
    pace: &'a Pace,
    viewer: PeerId,
    ticket: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.pace.state);
        if state.turns.remove(&self.ticket).is_some() {
            state.shares.withdraw(self.viewer, self.ticket, Instant::now());
        }
    }
}

impl Pace {
    pub(crate) fn new(rates: Rates) -> Self {
        let state = State {
            shares: Shares::new(rates, Instant::now()),
            turns: HashMap::new(),
            next_ticket: 0,
            timer: None,
        };
        Self {
            free: rates.total == 0 && rates.viewer == 0,
            state: Mutex::new(state),
            sooner: Notify::new(),
        }
    }

    /// Whether anything is limited.
    pub(crate) fn is_free(&self) -> bool {
        self.free
    }

    /// Viewers that wait for a turn.
    pub(crate) fn busy(&self) -> usize {
        if self.free { 0 } else { lock(&self.state).shares.busy() }
    }

    /// Waits until `viewer` may send `bytes` more.
    pub(crate) async fn turn(&self, viewer: PeerId, weight: u32, priority: Priority, bytes: u32) {
        if self.free {
            return;
        }
        let (turn, given) = oneshot::channel();
        let ticket = {
            let now = Instant::now();
            let mut state = lock(&self.state);
            let ticket = state.next_ticket;
            state.next_ticket = ticket.wrapping_add(1);
            state.turns.insert(ticket, turn);
            state.shares.ask(viewer, weight, priority, (ticket, bytes), now);
            let next = state.give(now);
            if next.is_some_and(|next| state.timer.is_none_or(|timer| next < timer)) {
                self.sooner.notify_one();
            }
            ticket
        };
        let _waiting = Waiting { pace: self, viewer, ticket };
        // The sender goes only when it has been used.
        let _ = given.await;
    }

    /// Gives turns as they come. Never ends.
    pub(crate) async fn run(&self) {
        loop {
            let next = {
                let mut state = lock(&self.state);
                state.timer = state.give(Instant::now());
                state.timer
            };
            match next {
                None => self.sooner.notified().await,
                Some(at) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(at.into()) => {}
                        () = self.sooner.notified() => {}
                    }
                }
            }
        }
    }
}

/// Which share a viewer gets, by the reputation of the account that answers for it: an unknown one
/// and one of up to 500 get [`WEIGHT`], one of 1,000 gets `most` percent of that.
pub(crate) fn weight(score: Option<u16>, most: u32) -> u32 {
    let above = u32::from(score.unwrap_or(0).min(1000)).saturating_sub(500);
    let extra = most.saturating_sub(WEIGHT);
    WEIGHT.saturating_add(extra.saturating_mul(above) / 500)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::Arc, time::Duration};

    fn pace(total: u64) -> Arc<Pace> {
        let rates = Rates { total, viewer: 0, burst: Duration::from_secs(1), lanes: 100 };
        Arc::new(Pace::new(rates))
    }

    #[test]
    fn reputation_above_the_middle_weighs_more_and_none_weighs_as_before() {
        let weights = [None, Some(0), Some(500), Some(750), Some(1000), Some(5000)];
        assert_eq!(weights.map(|score| weight(score, 300)), [100, 100, 100, 200, 300, 300]);
        assert_eq!(weight(Some(1000), 50), 100);
    }

    #[tokio::test]
    async fn without_limits_there_is_no_waiting_and_no_timer() {
        let pace = pace(0);
        for _ in 0..1000 {
            pace.turn(PeerId::random(), WEIGHT, Priority::Play, u32::MAX).await;
        }
        assert_eq!(pace.busy(), 0);
        assert!(lock(&pace.state).turns.is_empty());
    }

    #[tokio::test]
    async fn turns_are_given_as_the_rate_allows() {
        let pace = pace(1_000_000);
        let timer = tokio::spawn({
            let pace = Arc::clone(&pace);
            async move { pace.run().await }
        });
        let (viewer, began) = (PeerId::random(), Instant::now());
        // The burst, what may be owed, and one that waits until that is paid: 66 ms.
        for _ in 0..3 {
            pace.turn(viewer, WEIGHT, Priority::Play, 65_536).await;
        }
        assert!(began.elapsed() >= Duration::from_millis(60), "{:?}", began.elapsed());
        timer.abort();
    }

    #[tokio::test]
    async fn who_gives_up_leaves_nothing_behind() {
        let pace = pace(1);
        let viewer = PeerId::random();
        pace.turn(viewer, WEIGHT, Priority::Play, u32::MAX).await;
        let mut waiting = Box::pin(pace.turn(viewer, WEIGHT, Priority::Play, 1));
        assert!(futures::poll!(&mut waiting).is_pending());
        assert_eq!(pace.busy(), 1);
        drop(waiting);
        assert_eq!(pace.busy(), 0);
        assert!(lock(&pace.state).turns.is_empty());
    }
}
