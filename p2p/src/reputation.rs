//! What the overlay asks the chain about a peer.

use crate::OverlayKey;
use serde::Serialize;

/// A peer with any component under this is graylisted: refused, and its gossip ignored.
pub const GRAYLIST_BELOW: u16 = 200;

/// The reputation of the account an overlay key is bound to. Each number is 0..=1000, and 500 is
/// neutral.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// The components weighed 50/30/20, as the chain weighs them.
    pub total: u16,
    /// For producing content slots.
    pub director: u16,
    /// For votes.
    pub validator: u16,
    /// For shards served, as audits saw it.
    pub seeder: u16,
}

impl Standing {
    /// What an account has to begin with.
    pub const NEUTRAL: Self = Self { total: 500, director: 500, validator: 500, seeder: 500 };

    /// Whether any component is under [`GRAYLIST_BELOW`].
    pub fn graylisted(&self) -> bool {
        [self.director, self.validator, self.seeder].into_iter().any(|c| c < GRAYLIST_BELOW)
    }
}

/// A snapshot of the chain's reputation. Calls come from the swarm's own task, for every connection
/// and every message: they must not block, lock for long or await.
pub trait Reputation: Send + Sync + 'static {
    /// The standing of the account this key is bound to; `None` for an unbound key.
    fn standing(&self, key: &OverlayKey) -> Option<Standing>;

    /// Whether this key is bound to a current validator.
    fn is_validator(&self, key: &OverlayKey) -> bool;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_low_component_graylists() {
        assert!(!Standing::NEUTRAL.graylisted());
        assert!(!Standing { seeder: 200, ..Standing::NEUTRAL }.graylisted());
        assert!(Standing { seeder: 199, ..Standing::NEUTRAL }.graylisted());
        assert!(Standing { director: 0, ..Standing::NEUTRAL }.graylisted());
        assert!(Standing { validator: 1, ..Standing::NEUTRAL }.graylisted());
    }
}
