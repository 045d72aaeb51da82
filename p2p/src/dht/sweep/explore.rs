//! Which lookups show all peers that the keys of a visit belong to.
//!
//! A region is explored by lookups that take every peer, so that it is known wholly; a crowd of one
//! network takes a few more of them, and is thinned out when keys are allotted. A lookup for a few
//! keys alone takes only so many peers of one network, so that it ends with the peers of that key,
//! and says nothing of what else there is.

use super::{
    atlas::Atlas,
    prefix::{Prefix, head},
    random::Random,
};
use crate::dht::{Key, space::Point};

/// Up to so many keys are looked up each by itself, which gives the peers nearest to it exactly. To
/// know a whole region takes three to six lookups.
pub(super) const FEW_KEYS: usize = 4;

/// Most lookups of one visit. A region of 40 to 80 peers takes three to six, and somewhat more where
/// it is widened; liars could go on for ever.
const MAX_LOOKUPS: usize = 24;

/// Lookups of a visit that may end without having shown all there is.
const MAX_FRUITLESS: usize = 2;

/// Tries in one turn to find bytes that lie in a block: about 1 ms.
const GRIND_TURN: u64 = 2048;

/// Tries in all; a block of 17 bits is found in 2^20 tries, save once in 3,000 times.
const GRIND_MAX: u64 = 1 << 20;

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Look for the peers nearest to these bytes.
    For {
        target: Vec<u8>,
        /// Of one network only as many as a key is announced to.
        diverse: bool,
    },
    /// A lookup in flight must end first.
    Wait,
    /// Go on searching for bytes in the next turn.
    Again,
    /// All that is needed is known, or as much as can be.
    Explored,
}

/// One visit's exploration.
#[derive(Debug, Default)]
pub(super) struct Explore {
    asked: usize,
    in_flight: usize,
    fruitless: usize,
    /// The next of few keys.
    next_key: usize,
    /// The key that was looked up before the region was known, unless what it found may be too much
    /// of one network.
    probed: Option<Key>,
    grind: Option<Grind>,
}

/// The search for bytes that lie in a block.
#[derive(Debug)]
struct Grind {
    block: Prefix,
    salt: u64,
    tries: u64,
}

impl Explore {
    /// A lookup is in flight whose answer may make others needless.
    pub(super) fn is_busy(&self) -> bool {
        self.in_flight > 0
    }

    /// A lookup for one of the keys, to learn how large the network is.
    pub(super) fn probe(&mut self, key: &Key, is_limited: bool) -> Look {
        if self.in_flight > 0 {
            return Look::Wait;
        }
        if self.asked > 0 {
            return Look::Explored;
        }
        self.probed = (!is_limited).then_some(*key);
        self.ask(key.as_bytes().to_vec(), false)
    }

    /// The next lookup for the keys of a region, which are given with their places. The region is
    /// widened if too few peers are in it. `is_limited` says that a key is announced to only so many
    /// peers of one network.
    pub(super) fn next(
        &mut self,
        region: &mut Prefix,
        keys: &[(u64, Key)],
        (k, is_limited): (usize, bool),
        atlas: &Atlas,
        random: &mut Random,
    ) -> Look {
        if keys.len() <= FEW_KEYS {
            return self.next_of_few(keys, is_limited, atlas);
        }
        if self.in_flight > 0 {
            return Look::Wait;
        }
        if self.asked >= MAX_LOOKUPS || self.fruitless >= MAX_FRUITLESS {
            return Look::Explored;
        }
        loop {
            match atlas.unknown(*region) {
                Some(block) => return self.look_into(block, keys, random),
                None if atlas.count(*region) >= k || *region == Prefix::ALL => {
                    return Look::Explored;
                }
                None => *region = region.parent(),
            }
        }
    }

    fn next_of_few(&mut self, keys: &[(u64, Key)], is_limited: bool, atlas: &Atlas) -> Look {
        while let Some((place, key)) = keys.get(self.next_key) {
            self.next_key += 1;
            if self.probed != Some(*key) && !atlas.settles(*place) {
                return self.ask(key.as_bytes().to_vec(), is_limited);
            }
        }
        if self.in_flight > 0 { Look::Wait } else { Look::Explored }
    }

    fn look_into(&mut self, block: Prefix, keys: &[(u64, Key)], random: &mut Random) -> Look {
        if let Some((_, key)) = keys.iter().find(|(place, _)| block.contains(*place)) {
            return self.ask(key.as_bytes().to_vec(), false);
        }
        let mut grind = match self.grind.take() {
            Some(grind) if grind.block == block => grind,
            _ => Grind { block, salt: random.next(), tries: 0 },
        };
        for _ in 0..GRIND_TURN {
            grind.tries += 1;
            let bytes = [grind.salt.to_be_bytes(), grind.tries.to_be_bytes()].concat();
            if block.contains(head(&Point::of_bytes(&bytes))) {
                return self.ask(bytes, false);
            }
        }
        if grind.tries >= GRIND_MAX {
            return Look::Explored;
        }
        self.grind = Some(grind);
        Look::Again
    }

    fn ask(&mut self, target: Vec<u8>, diverse: bool) -> Look {
        self.asked += 1;
        self.in_flight += 1;
        Look::For { target, diverse }
    }

    /// A lookup has ended, having shown all there is or not.
    pub(super) fn ended(&mut self, complete: bool) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.fruitless += usize::from(!complete);
    }
}
