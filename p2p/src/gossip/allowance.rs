//! What authors without a peer binding may send: so much for each, and so much for all of them.
//!
//! A binding costs a deposit and names an account that answers; a key costs nothing. So an unbound
//! author has a small allowance on each topic, and all unbound authors share one that is larger, for
//! whoever makes many keys. Bound authors are held by their reputation instead.

use super::{Config, Topic, topic::ByTopic};
use crate::OverlayKey;
use lru::LruCache;
use std::{
    num::NonZeroUsize,
    time::{Duration, Instant},
};

/// How much may be sent on one topic.
#[derive(Clone, Copy, Debug)]
struct Rate {
    /// Messages a second.
    messages: f64,
    /// Bytes of payload a second.
    bytes: f64,
    /// For how long unused allowance is saved up.
    saved: Duration,
}

/// What is left of an allowance.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    messages: f64,
    bytes: f64,
    at: Instant,
}

impl Bucket {
    fn full(rate: Rate, now: Instant) -> Self {
        let saved = rate.saved.as_secs_f64();
        Self { messages: rate.messages * saved, bytes: rate.bytes * saved, at: now }
    }

    fn refill(&mut self, rate: Rate, now: Instant) {
        let full = Self::full(rate, now);
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.messages = (self.messages + passed * rate.messages).min(full.messages);
        self.bytes = (self.bytes + passed * rate.bytes).min(full.bytes);
        self.at = self.at.max(now);
    }

    fn holds(&self, bytes: f64) -> bool {
        self.messages >= 1.0 && self.bytes >= bytes
    }

    fn take(&mut self, bytes: f64) {
        self.messages -= 1.0;
        self.bytes -= bytes;
    }
}

/// The allowances of all unbound authors. Holds no clock.
pub(crate) struct Allowances {
    each: Rate,
    all: Rate,
    authors: LruCache<(OverlayKey, Topic), Bucket>,
    shared: ByTopic<Option<Bucket>>,
}

impl Allowances {
    pub(crate) fn new(config: &Config) -> Self {
        let each = Rate {
            messages: config.unbound_messages.into(),
            bytes: config.unbound_bytes.into(),
            saved: config.unbound_saved,
        };
        let authors = f64::from(config.unbound_authors);
        Self {
            each,
            all: Rate { messages: each.messages * authors, bytes: each.bytes * authors, ..each },
            // An author that falls out of the table comes back with a full bucket, which a new key
            // would have had anyway.
            authors: LruCache::new(
                NonZeroUsize::new(config.unbound_table).unwrap_or(NonZeroUsize::MIN),
            ),
            shared: ByTopic::new(|_| None),
        }
    }

    /// Whether the author may send a payload of so many bytes now. What is refused uses up nothing,
    /// neither its own allowance nor that of all.
    pub(crate) fn take(
        &mut self,
        author: OverlayKey,
        topic: Topic,
        bytes: usize,
        now: Instant,
    ) -> bool {
        let bytes = u32::try_from(bytes).map_or(f64::INFINITY, f64::from);
        let (each, all) = (self.each, self.all);
        let own = self.authors.get_or_insert_mut((author, topic), || Bucket::full(each, now));
        let shared = self.shared.of_mut(topic).get_or_insert_with(|| Bucket::full(all, now));
        own.refill(each, now);
        shared.refill(all, now);
        let allowed = own.holds(bytes) && shared.holds(bytes);
        if allowed {
            own.take(bytes);
            shared.take(bytes);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config() -> Config {
        Config {
            unbound_messages: 10,
            unbound_bytes: 1000,
            unbound_saved: Duration::from_secs(2),
            unbound_authors: 3,
            unbound_table: 4,
            ..Config::default()
        }
    }

    fn key(n: u8) -> OverlayKey {
        [n; 32]
    }

    #[test]
    fn an_author_has_what_it_saved_and_then_its_rate() {
        let now = Instant::now();
        let mut allowances = Allowances::new(&config());
        let mut taken =
            |at| (0..100).filter(|_| allowances.take(key(1), Topic::Tasks, 1, at)).count();
        assert_eq!(taken(now), 20, "two seconds' worth at first");
        assert_eq!(taken(now + Duration::from_millis(500)), 5);
        assert_eq!(taken(now + Duration::from_secs(3600)), 20, "no more is saved");
    }

    #[test]
    fn bytes_count_and_topics_do_not_mix() {
        let now = Instant::now();
        let mut allowances = Allowances::new(&config());
        assert!(!allowances.take(key(1), Topic::Tasks, 2001, now), "larger than can be saved");
        assert!(allowances.take(key(1), Topic::Tasks, 2000, now));
        assert!(!allowances.take(key(1), Topic::Tasks, 1, now));
        assert!(allowances.take(key(1), Topic::Video, 2000, now));
    }

    #[test]
    fn many_keys_have_no_more_than_all_may() {
        let now = Instant::now();
        let mut allowances = Allowances::new(&config());
        let sent = (0..200u8)
            .flat_map(|n| std::iter::repeat_n(n, 20))
            .filter(|n| allowances.take(key(*n), Topic::Tasks, 1, now))
            .count();
        assert_eq!(sent, 60, "three authors' worth");
        assert!(allowances.authors.len() <= 4);
    }

    proptest! {
        #[test]
        fn nobody_ever_sends_more_than_saved_and_rate_allow(
            steps in prop::collection::vec((0u64..500, 0usize..600), 1..200),
        ) {
            let start = Instant::now();
            let mut allowances = Allowances::new(&config());
            let (mut at, mut messages, mut bytes) = (0, 0.0, 0.0);
            for (wait, size) in steps {
                at += wait;
                let now = start + Duration::from_millis(at);
                if allowances.take(key(1), Topic::Bft, size, now) {
                    messages += 1.0;
                    bytes += size as f64;
                }
                let seconds = at as f64 / 1000.0 + 2.0;
                prop_assert!(messages <= 10.0 * seconds + 1e-6);
                prop_assert!(bytes <= 1000.0 * seconds + 1e-3);
            }
        }
    }
}
