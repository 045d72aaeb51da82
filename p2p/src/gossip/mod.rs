//! Gossip: six topics over two gossipsub behaviours.
//!
//! A message goes: gossipsub (duplicate) -> [`Stage`](stage) beside the swarm's task ([`validate`]: who
//! may speak, envelope, age, the author's seal; then allowances) -> accept, ignore or reject -> local
//! subscribers. What gossipsub refuses by itself is seen by `watch`, which wraps it.
//!
//! Peers are scored by gossipsub from what they send (`params`), and by us ([`score`]) from what the
//! chain says of them, from the faults that [`ledger`] remembers after they left, and from whether
//! `admission` wants them in the meshes. [`GossipHandle::peer`] explains a score in words.

mod admission;
mod allowance;
mod announce;
mod config;
mod envelope;
mod explain;
mod handle;
pub mod ledger;
mod metrics;
pub(crate) mod params;
mod replays;
pub mod score;
mod stage;
mod task;
mod topic;
pub mod validate;
mod watch;

#[cfg(test)]
mod kill_switch;

pub use admission::NotAdmitted;
pub use announce::{Announcement, AnnouncementError};
pub use config::Config;
pub use envelope::{Envelope, EnvelopeError, View};
pub use explain::{BehaviourScore, PeerScore, RefusedCount};
pub(crate) use handle::{Command, Ends, channels};
pub use handle::{ExplainError, GossipHandle, Message, PublishError, Subscription};
pub(crate) use metrics::GossipMetrics;
pub(crate) use stage::Judged;
pub(crate) use task::{Behaviours, Gossip, Parts};
pub use topic::{Channel, Topic, UnknownTopic};
pub(crate) use watch::{Behaviour as Watched, Heard};

/// What [`PeersHandle::status`](crate::PeersHandle::status) says of one topic.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TopicStatus {
    /// Short name of the topic, for example `video`.
    pub topic: &'static str,
    /// Peers in this node's mesh.
    pub mesh: usize,
    /// Connected peers that subscribe to it.
    pub subscribers: usize,
}
