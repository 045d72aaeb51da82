//! How long a message takes between two simulated nodes.
//!
//! Each node has a place on a plane, in milliseconds, and a height above it: what its own access
//! link adds. A round trip takes the distance between both places and both heights. Dabek et al.,
//! "Vivaldi" (SIGCOMM 2004), found that this describes the round trips among 1,740 Internet hosts
//! with a median error of 11 %. How wide the plane is and how high the nodes are is chosen here, not
//! measured: so that the median round trip is about 60 ms, and one in a hundred above 130 ms.

use rand::{Rng, rngs::StdRng};
use std::{f64::consts::TAU, time::Duration};

/// Side of the square on which nodes lie, in milliseconds of round trip.
const SIDE_MS: f64 = 92.0;

/// Median height of a node in milliseconds, and how much it varies: sigma of a lognormal, so that one
/// node in twenty adds more than 15 ms.
const HEIGHT_MS: f64 = 4.0;
const HEIGHT_SIGMA: f64 = 0.8;

/// How much one message differs from another between the same nodes: sigma of a lognormal of median
/// one.
const JITTER_SIGMA: f64 = 0.1;

/// What a lost packet costs: a second try after QUIC's probe timeout, which is at least the round
/// trip and four times its deviation (RFC 9002, 6.2.1), taken as three round trips in all.
const LOST_ROUND_TRIPS: f64 = 3.0;

/// Where a node is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    x: f64,
    y: f64,
    height: f64,
}

impl Place {
    pub(super) fn random(rng: &mut StdRng) -> Self {
        let (x, y) = (rng.random::<f64>() * SIDE_MS, rng.random::<f64>() * SIDE_MS);
        Self { x, y, height: HEIGHT_MS * lognormal(HEIGHT_SIGMA, rng) }
    }

    /// The time of one round trip to another node, of which `loss` (0..=1) lose a packet.
    pub(super) fn round_trip(&self, to: &Self, loss: f64, rng: &mut StdRng) -> Duration {
        let distance = (self.x - to.x).hypot(self.y - to.y);
        let usual = (distance + self.height + to.height) * lognormal(JITTER_SIGMA, rng);
        let lost = if rng.random_bool(loss.clamp(0.0, 1.0)) { LOST_ROUND_TRIPS } else { 0.0 };
        Duration::from_secs_f64(usual * (1.0 + lost) / 1e3)
    }
}

/// A lognormal of median one.
fn lognormal(sigma: f64, rng: &mut StdRng) -> f64 {
    // Box and Muller's; the first is above zero.
    let (a, b) = (1.0 - rng.random::<f64>(), rng.random::<f64>());
    (sigma * (-2.0 * a.ln()).sqrt() * (TAU * b).cos()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testnet::sim::report::Spread;
    use rand::SeedableRng;

    #[test]
    fn the_median_round_trip_is_sixty_milliseconds() {
        let mut rng = StdRng::seed_from_u64(1);
        let trips = (0..20_000).map(|_| {
            let (a, b) = (Place::random(&mut rng), Place::random(&mut rng));
            a.round_trip(&b, 0.0, &mut rng).as_secs_f64() * 1e3
        });
        let trips = Spread::of(trips.collect());
        assert!((55.0..65.0).contains(&trips.p50), "{trips:?}");
        assert!((110.0..150.0).contains(&trips.p99), "{trips:?}");
    }

    #[test]
    fn what_is_lost_is_sent_again() {
        let mut rng = StdRng::seed_from_u64(2);
        let (a, b) = (Place::random(&mut rng), Place::random(&mut rng));
        let whole = a.round_trip(&b, 0.0, &mut StdRng::seed_from_u64(3));
        let lost = a.round_trip(&b, 1.0, &mut StdRng::seed_from_u64(3));
        assert!(lost > whole * 3 && lost < whole * 5, "{whole:?} {lost:?}");
    }
}
