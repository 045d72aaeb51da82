//! Which way to a source is tried first, and after how long the other beside it.
//!
//! Decisions only. There are two ways: QUIC to the shard service's own port, where the source's record
//! names an address, and a stream over the overlay's connections. The first is the better one where it
//! works: it has its own congestion control and windows, and burdens no third node. So it goes first
//! while nothing is known, and has a head start. From then on what was measured decides: a way that
//! failed of late comes second, and so does one over which blobs take longer.

use super::{
    Config,
    breaker::{Breaker, BreakerConfig, Fault, Stand},
    measured::{Assumed, Measured},
    rank::{ALIKE, USUAL_GROUPS},
};
use crate::wire::Way;
use libp2p::PeerId;
use lru::LruCache;
use serde::{Deserialize, Serialize};
use std::{
    num::NonZeroUsize,
    time::{Duration, Instant},
};

/// Settings of the way over the overlay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OverlayConfig {
    /// Whether sources are asked over the overlay where their own port cannot be reached. Default true.
    pub enabled: bool,
    /// What the way that is tried first has of a start over the other. Default 300 ms, a handshake
    /// around the world.
    #[serde(with = "humantime_serde")]
    pub head_start: Duration,
    /// For a stream over the overlay, finding the source and connecting to it included. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub open_timeout: Duration,
    /// Sources of which is remembered how well each way works. Default 1,024, about 1 MB.
    pub book: usize,
}

impl Default for OverlayConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            head_start: Duration::from_millis(300),
            open_timeout: Duration::from_secs(5),
            book: 1024,
        }
    }
}

/// One way to a source, as operators see it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WayView {
    /// Which.
    pub way: Way,
    /// It led nowhere just now, or the other one was there first.
    pub failing: bool,
    /// It failed too often of late: not tried while there is another.
    pub breaker_open: bool,
    /// What 1 MiB is expected to take over it, in milliseconds; null while that was not measured.
    pub expected_ms: Option<f64>,
}

/// Which ways there are to a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offered {
    pub(super) quic: bool,
    pub(super) overlay: bool,
}

impl Offered {
    fn has(self, way: Way) -> bool {
        match way {
            Way::Quic => self.quic,
            Way::Overlay => self.overlay,
        }
    }
}

/// One way to one source: 450 bytes.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    measured: Measured,
    breaker: Breaker,
}

/// The order among ways. Less is sooner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    open: bool,
    failing: bool,
    slower: bool,
    way: Way,
}

/// What is known of the ways to the sources used last.
pub(super) struct Ways {
    assumed: Assumed,
    breaker: BreakerConfig,
    /// At most `overlay.book`. One that falls out is unknown again.
    entries: LruCache<PeerId, [State; 2]>,
}

impl Ways {
    pub(super) fn new(config: &Config) -> Self {
        let most = NonZeroUsize::new(config.overlay.book).unwrap_or(NonZeroUsize::MIN);
        Self {
            assumed: Assumed::of(config),
            breaker: config.breaker.clone(),
            entries: LruCache::sparse(most),
        }
    }

    /// The ways to try, in their order. One with an open breaker is left out where there is another.
    pub(super) fn order(&self, peer: PeerId, offered: Offered, now: Instant) -> Vec<Way> {
        let states = self.entries.peek(&peer).copied().unwrap_or_default();
        let took = |way: Way| {
            let measured = state(&states, way).measured;
            let took = || measured.forecast(&self.assumed, now).micros(USUAL_GROUPS);
            measured.is_known().then(took)
        };
        let place = |way: Way| {
            let State { breaker, .. } = state(&states, way);
            let stand = breaker.stand(now);
            let other = took(other(way));
            Place {
                open: matches!(stand, Stand::Open(_)),
                failing: stand == Stand::HalfOpen || breaker.failing(now, &self.breaker),
                slower: took(way).zip(other).is_some_and(|(ours, theirs)| ours > theirs * ALIKE),
                way,
            }
        };
        let offered = Way::ALL.into_iter().filter(|way| offered.has(*way));
        let mut places: Vec<Place> = offered.map(place).collect();
        places.sort_unstable();
        let any_closed = places.iter().any(|place| !place.open);
        places.retain(|place| !place.open || !any_closed);
        places.into_iter().map(|place| place.way).collect()
    }

    /// The ways there are, in their order, those that are left out behind them.
    pub(super) fn explain(&self, peer: PeerId, offered: Offered, now: Instant) -> Vec<WayView> {
        let states = self.entries.peek(&peer).copied().unwrap_or_default();
        let order = self.order(peer, offered, now);
        let left_out = Way::ALL.into_iter().filter(|way| offered.has(*way) && !order.contains(way));
        let views = order.iter().copied().chain(left_out).map(|way| {
            let State { measured, breaker } = state(&states, way);
            let expected = || measured.forecast(&self.assumed, now).micros(USUAL_GROUPS) / 1000.0;
            WayView {
                way,
                failing: breaker.failing(now, &self.breaker),
                breaker_open: matches!(breaker.stand(now), Stand::Open(_)),
                expected_ms: measured.is_known().then(expected),
            }
        });
        views.collect()
    }

    /// A source needed this long to its first group.
    pub(super) fn first(&mut self, peer: PeerId, way: Way, took: Duration, now: Instant) {
        self.state(peer, way).measured.first(took, now);
    }

    /// And this long for each further one.
    pub(super) fn pace(&mut self, peer: PeerId, way: Way, took: Duration, now: Instant) {
        self.state(peer, way).measured.group(took, now);
    }

    /// What was asked for came.
    pub(super) fn succeeded(&mut self, peer: PeerId, way: Way, now: Instant) {
        self.state(peer, way).breaker.succeeded(now);
    }

    /// It led nowhere, or broke.
    pub(super) fn failed(&mut self, peer: PeerId, way: Way, now: Instant) {
        let breaker = self.breaker.clone();
        self.state(peer, way).breaker.failed(Fault::Failed, now, &breaker);
    }

    /// The other way was there first, its head start notwithstanding. Counts as a failure, unless one
    /// was counted just now.
    pub(super) fn passed(&mut self, peer: PeerId, way: Way, now: Instant) -> bool {
        let breaker = &self.breaker;
        let states = self.entries.peek(&peer).copied().unwrap_or_default();
        let new = !state(&states, way).breaker.failing(now, breaker);
        if new {
            self.failed(peer, way, now);
        }
        new
    }

    fn state(&mut self, peer: PeerId, way: Way) -> &mut State {
        let [quic, overlay] = self.entries.get_or_insert_mut(peer, Default::default);
        match way {
            Way::Quic => quic,
            Way::Overlay => overlay,
        }
    }
}

fn state(states: &[State; 2], way: Way) -> State {
    let [quic, overlay] = states;
    match way {
        Way::Quic => *quic,
        Way::Overlay => *overlay,
    }
}

fn other(way: Way) -> Way {
    match way {
        Way::Quic => Way::Overlay,
        Way::Overlay => Way::Quic,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Way::{Overlay, Quic};
    use proptest::prelude::*;

    const BOTH: Offered = Offered { quic: true, overlay: true };
    const MS: Duration = Duration::from_millis(1);

    fn ways() -> (Ways, BreakerConfig, PeerId, Instant) {
        let config = Config::default();
        (Ways::new(&config), config.breaker, PeerId::random(), Instant::now())
    }

    #[test]
    fn the_direct_way_goes_first_while_nothing_is_known() {
        let (ways, _, peer, now) = ways();
        assert_eq!(ways.order(peer, BOTH, now), [Quic, Overlay]);
        assert_eq!(ways.order(peer, Offered { quic: false, ..BOTH }, now), [Overlay]);
        assert_eq!(ways.order(peer, Offered { overlay: false, ..BOTH }, now), [Quic]);
        assert!(ways.order(peer, Offered { quic: false, overlay: false }, now).is_empty());
    }

    #[test]
    fn what_was_measured_decides_and_is_forgotten_in_time() {
        let (mut ways, _, peer, now) = ways();
        ways.first(peer, Overlay, 20 * MS, now);
        assert_eq!(ways.order(peer, BOTH, now), [Quic, Overlay], "the other was never measured");
        ways.first(peer, Quic, 900 * MS, now);
        assert_eq!(ways.order(peer, BOTH, now), [Overlay, Quic]);
        let later = now + Duration::from_secs(3600);
        assert_eq!(ways.order(peer, BOTH, later), [Quic, Overlay]);
        // As quick as the other, it is the better one.
        let (mut ways, _, peer, now) = self::ways();
        ways.first(peer, Overlay, 50 * MS, now);
        ways.first(peer, Quic, 55 * MS, now);
        assert_eq!(ways.order(peer, BOTH, now), [Quic, Overlay]);
    }

    #[test]
    fn a_way_that_fails_comes_second_then_not_at_all_and_then_gets_a_chance() {
        let (mut ways, config, peer, now) = ways();
        assert!(ways.passed(peer, Quic, now));
        assert!(!ways.passed(peer, Quic, now), "that was the same failure");
        assert_eq!(ways.order(peer, BOTH, now), [Overlay, Quic]);
        let mut at = now;
        for _ in 1..config.failures {
            at += config.open_for;
            assert_eq!(ways.order(peer, BOTH, at), [Quic, Overlay]);
            assert!(ways.passed(peer, Quic, at));
        }
        assert_eq!(ways.order(peer, BOTH, at), [Overlay]);
        let explained = ways.explain(peer, BOTH, at);
        let told = explained.iter().map(|view| (view.way, view.breaker_open, view.expected_ms));
        assert!(told.eq([(Overlay, false, None), (Quic, true, None)]), "{explained:?}");
        assert_eq!(
            ways.order(peer, Offered { overlay: false, ..BOTH }, at),
            [Quic],
            "all there is"
        );
        at += config.open_for;
        assert_eq!(ways.order(peer, BOTH, at), [Overlay, Quic]);
        ways.succeeded(peer, Quic, at);
        assert_eq!(ways.order(peer, BOTH, at), [Quic, Overlay]);
    }

    proptest! {
        #[test]
        fn no_way_is_tried_that_is_not_offered_and_one_always_is_if_any_is(
            quic: bool,
            overlay: bool,
            events in prop::collection::vec((0u8..4, any::<bool>(), 0u64..9000), 0..40),
        ) {
            let (mut ways, _, peer, mut now) = ways();
            for (event, direct, ms) in events {
                let way = if direct { Quic } else { Overlay };
                now += Duration::from_millis(ms);
                match event {
                    0 => ways.first(peer, way, Duration::from_millis(ms), now),
                    1 => ways.succeeded(peer, way, now),
                    2 => ways.failed(peer, way, now),
                    _ => { ways.passed(peer, way, now); }
                }
                let offered = Offered { quic, overlay };
                let order = ways.order(peer, offered, now);
                prop_assert_eq!(order.is_empty(), !quic && !overlay);
                prop_assert!(order.iter().all(|way| offered.has(*way)));
                prop_assert!(order.len() < 2 || order[0] != order[1]);
            }
        }
    }
}
