//! When to look for peers, and where: near this node, and in each bucket that nobody looked into of
//! late.
//!
//! Every interval a round begins with a lookup for this node's own place, which finds everybody near
//! it. The buckets farther away are full of others of whom such a lookup learns little, so a random
//! point of each follows, one lookup at a time with a pause between them. A bucket into which a
//! lookup for something else has gone meanwhile is left out.

use super::Config;
use crate::dht::space::Point;
use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

/// Buckets of which a round looks into at most. Of a network of 10,000 nodes the first 10 hold more
/// than the lookup for the own place tells; each more doubles the network.
const MAX_BUCKETS: u32 = 16;

/// Where to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Near this node.
    Own,
    /// At a random point that has as many leading bits in common with this node's.
    Bucket(u32),
}

/// How a round has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    /// It goes on.
    Open,
    /// Its lookups found peers.
    Succeeded,
    /// None of them found anybody.
    Failed,
}

/// Which lookups a round still has before it, and when.
#[derive(Debug)]
pub(super) struct Refresh {
    every: Duration,
    pause: Duration,
    /// At most [`MAX_BUCKETS`] and one.
    left: VecDeque<Target>,
    /// The lookup under way.
    under_way: Option<Target>,
    found: bool,
    /// When the next round, or the next lookup of this one, may begin.
    next: Instant,
    /// When somebody looked into a bucket last: at most 256.
    looked: HashMap<u32, Instant>,
}

impl Refresh {
    /// The first round begins at once.
    pub(super) fn new(every: Duration, config: &Config, now: Instant) -> Self {
        Self {
            every,
            pause: config.refresh_pause,
            left: VecDeque::new(),
            under_way: None,
            found: false,
            next: now,
            looked: HashMap::new(),
        }
    }

    /// Whether a lookup may begin now.
    pub(super) fn due(&self, now: Instant) -> bool {
        self.under_way.is_none() && self.next <= now
    }

    /// The next lookup to begin now; [`Self::ended`] is to be called when it has. `depth` is how many
    /// buckets hold more peers than the lookup for the own place would tell.
    pub(super) fn next(&mut self, depth: u32, now: Instant) -> Option<Target> {
        if !self.due(now) {
            return None;
        }
        if self.left.is_empty() {
            self.found = false;
            self.left.push_back(Target::Own);
            self.left.extend((0..depth.min(MAX_BUCKETS)).map(Target::Bucket));
        }
        while let Some(target) = self.left.pop_front() {
            let lately = match target {
                Target::Own => false,
                Target::Bucket(bucket) => self
                    .looked
                    .get(&bucket)
                    .is_some_and(|at| now.saturating_duration_since(*at) < self.every),
            };
            if !lately {
                self.under_way = Some(target);
                return Some(target);
            }
        }
        None
    }

    /// The lookup has ended, and found peers or did not.
    pub(super) fn ended(&mut self, found: bool, now: Instant) -> Round {
        if let Some(Target::Bucket(bucket)) = self.under_way.take()
            && found
        {
            self.looked_into(bucket, now);
        }
        self.found |= found;
        // Those that were looked into lately would be left out when their turn came.
        self.left.retain(|target| match target {
            Target::Own => true,
            Target::Bucket(bucket) => self
                .looked
                .get(bucket)
                .is_none_or(|at| now.saturating_duration_since(*at) >= self.every),
        });
        if !self.left.is_empty() {
            self.next = now + self.pause;
            return Round::Open;
        }
        self.next = now + self.every;
        if self.found { Round::Succeeded } else { Round::Failed }
    }

    /// A lookup has gone into a bucket.
    pub(super) fn looked_into(&mut self, bucket: u32, now: Instant) {
        self.looked.insert(bucket, now);
    }

    /// Peers are few: a round may begin now.
    pub(super) fn hurry(&mut self, now: Instant) {
        if self.left.is_empty() && self.under_way.is_none() {
            self.next = self.next.min(now);
        }
    }
}

/// Bytes whose point has exactly `bucket` leading bits in common with `own`, which takes about
/// 2^(bucket + 1) tries: at [`MAX_BUCKETS`] some 130,000, or 40 ms. None if a few times as many do
/// not suffice.
pub(super) fn preimage(own: &Point, bucket: u32, seed: [u8; 24]) -> Option<Vec<u8>> {
    let tries = 16u64.checked_shl(bucket)?.min(1 << 21);
    (0..tries).find_map(|n| {
        let bytes = [&seed[..], &n.to_le_bytes()].concat();
        (Point::of_bytes(&bytes).common_prefix(own) == bucket).then_some(bytes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refresh(now: Instant) -> Refresh {
        Refresh::new(Duration::from_secs(300), &Config::default(), now)
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_round_looks_near_and_then_into_each_bucket_one_after_the_other() {
        let mut now = Instant::now();
        let mut refresh = refresh(now);
        assert_eq!(refresh.next(2, now), Some(Target::Own));
        assert_eq!(refresh.next(2, now), None, "one at a time");
        assert_eq!(refresh.ended(true, now), Round::Open);
        assert_eq!(refresh.next(2, now), None, "a pause");
        for bucket in [0, 1] {
            now += seconds(2);
            assert_eq!(refresh.next(2, now), Some(Target::Bucket(bucket)));
            let round = if bucket == 1 { Round::Succeeded } else { Round::Open };
            assert_eq!(refresh.ended(true, now), round);
        }
        assert_eq!(refresh.next(2, now + seconds(299)), None);
        refresh.looked_into(1, now + seconds(200));
        now += seconds(300);
        assert_eq!(refresh.next(2, now), Some(Target::Own));
        assert_eq!(refresh.ended(true, now), Round::Open);
        now += seconds(2);
        assert_eq!(refresh.next(2, now), Some(Target::Bucket(0)));
        assert_eq!(refresh.ended(true, now), Round::Succeeded, "the other was looked into");
    }

    #[test]
    fn a_round_that_found_nobody_has_failed_and_peers_that_are_few_begin_the_next() {
        let now = Instant::now();
        let mut refresh = refresh(now);
        assert_eq!(refresh.next(0, now), Some(Target::Own));
        refresh.hurry(now);
        assert_eq!(refresh.next(0, now), None, "one is under way");
        assert_eq!(refresh.ended(false, now), Round::Failed);
        assert_eq!(refresh.next(0, now), None);
        refresh.hurry(now + seconds(10));
        assert_eq!(refresh.next(300, now + seconds(10)), Some(Target::Own));
        assert_eq!(refresh.left.len(), 16, "no more buckets than these");
    }

    #[test]
    fn a_point_of_every_bucket_is_found() {
        let own = Point::of_bytes(b"own");
        for bucket in 0..12 {
            let bytes = preimage(&own, bucket, [3; 24]).unwrap();
            assert_eq!(Point::of_bytes(&bytes).common_prefix(&own), bucket);
        }
        assert_eq!(preimage(&own, 255, [3; 24]), None);
    }
}
