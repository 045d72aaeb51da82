//! What an answer cost the service, behind a header whose asker wants to know.

use codec::{Compact, Decode, Encode, Error, Input, Output};

/// What was spent, or that nothing is said about it, which takes no byte at all: so a header without
/// it is what it always was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost(Option<Spent>);

/// Where the time went until the first byte of the body could be sent, in microseconds each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Waiting for room in memory and for a turn to send.
    pub queue_us: u32,
    /// Reading and verifying what is on this service's disk.
    pub disk_us: u32,
    /// Waiting for another node.
    pub upstream_us: u32,
}

impl Cost {
    /// Nothing is said.
    pub const UNTOLD: Self = Self(None);

    /// Says it.
    pub fn of(spent: Spent) -> Self {
        Self(Some(spent))
    }

    /// What was said.
    pub fn spent(self) -> Option<Spent> {
        self.0
    }
}

impl Encode for Cost {
    fn size_hint(&self) -> usize {
        // Three compact numbers of at most five bytes.
        if self.0.is_some() { 15 } else { 0 }
    }

    fn encode_to<T: Output + ?Sized>(&self, to: &mut T) {
        if let Some(Spent { queue_us, disk_us, upstream_us }) = self.0 {
            for part in [queue_us, disk_us, upstream_us] {
                Compact(part).encode_to(to);
            }
        }
    }
}

impl Decode for Cost {
    fn decode<I: Input>(input: &mut I) -> Result<Self, Error> {
        // It stands at the end of a frame whose length is known.
        if input.remaining_len()? == Some(0) {
            return Ok(Self::UNTOLD);
        }
        let mut part = || Compact::<u32>::decode(input).map(|part| part.0);
        Ok(Self::of(Spent { queue_us: part()?, disk_us: part()?, upstream_us: part()? }))
    }
}
