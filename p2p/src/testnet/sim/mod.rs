//! The directory under virtual time: the same lookups and the same sweep as the node's, in networks
//! that no machine could run as real nodes.
//!
//! What decides is the product's own code, which takes `now` and holds no clock, socket or
//! randomness. What is simulated is the rest: other nodes (their routing tables, and what their kad
//! answers), the time that messages take (`latency`), nodes that vanish, and Sybils. Events happen
//! in the order of their time; all chance comes from the scenario's seed, so a scenario gives the
//! same report each time.
//!
//! | what | how it is simulated |
//! | --- | --- |
//! | routing tables | as kad keeps them: buckets of `k` chosen at random among those that belong there; of a bucket that is not full, the share [`Scenario::known`] is known. Tables are not repaired while a simulation runs |
//! | a question | one round trip; two more before the first to a peer, for the connection and the protocol; then the answer of kad's server |
//! | a node that has vanished | silence, until the question's time is up |
//! | a Sybil | an id that was ground until it lay nearer to the target than any honest node's; it swallows records, and what it answers is a lie; see [`Conduct`] |
//!
//! What it leaves out: processor time, bandwidth, connection limits and refusals.

mod eclipse;
mod engine;
mod latency;
mod lookups;
mod report;
mod sweep;
#[cfg(test)]
mod tests;
mod world;

use crate::dht;
pub use eclipse::{EclipseReport, eclipse};
pub use lookups::{LookupReport, lookups};
pub use report::Spread;
use std::time::Duration;
pub use sweep::{SweepReport, sweep};

/// A network, and the settings of the directory in it.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Everything random comes from it.
    pub seed: u64,
    /// Honest nodes. Default 100, at most 10,000.
    pub nodes: usize,
    /// Networks (/16 of IPv4) over which honest nodes are spread at random. Default 200.
    pub networks: usize,
    /// Of the peers that belong into a bucket which is not full, the share that is in it. Default
    /// 0.95.
    pub known: f64,
    /// The share of messages that lose a packet, which costs them time. Default 0.01.
    pub loss: f64,
    /// Nodes that vanish; none by default.
    pub churn: Option<Churn>,
    /// Attackers; none by default.
    pub sybils: Option<Sybils>,
    /// The directory's settings: those of lookups and of the sweep, and how many places one network
    /// has in a routing table. By default none is limited: see [`Self::defended`].
    pub dht: dht::Config,
}

/// Nodes that vanish without a word.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Churn {
    /// The share of honest nodes, 0 to 1.
    pub share: f64,
    /// They vanish at random moments of this time.
    pub within: Duration,
}

/// Attackers that lie nearest to what is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sybils {
    /// How many.
    pub count: usize,
    /// Networks (/16 of IPv4) that they have addresses in.
    pub networks: usize,
    /// What they do.
    pub conduct: Conduct,
}

/// What a Sybil answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduct {
    /// That Sybils are the nearest, and that there are no providers.
    Hides,
    /// That Sybils are the nearest, and the providers.
    Lies,
    /// That peers are the nearest which are not there, each in another network, and that there are no
    /// providers. Who asks those waits in vain.
    Invents,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            seed: 1,
            nodes: 100,
            networks: 200,
            known: 0.95,
            loss: 0.01,
            churn: None,
            sybils: None,
            dht: dht::Config::default(),
        }
    }
}

impl Scenario {
    /// With what a node of a public network does against Sybils, as it is by default there.
    #[must_use]
    pub fn defended(mut self) -> Self {
        self.dht.max_group_in_bucket = Some(2);
        self.dht.max_group_in_table = Some(10);
        self.dht.max_group_in_lookup = Some(2);
        self.dht.lookup_paths = dht::Config::default().lookup_paths;
        self
    }

    /// With nothing against Sybils: peers of one network may be any number anywhere, and a lookup
    /// follows one path.
    #[must_use]
    pub fn undefended(mut self) -> Self {
        self.dht.max_group_in_bucket = None;
        self.dht.max_group_in_table = None;
        self.dht.max_group_in_lookup = None;
        self.dht.lookup_paths = 1;
        self
    }
}
