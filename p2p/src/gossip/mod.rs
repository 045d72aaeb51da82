//! Gossip: six topics over two gossipsub behaviours.
//!
//! A message goes: gossipsub (signature, duplicate) -> [`validate`] (envelope, age, who may speak)
//! -> accept, ignore or reject -> local subscribers. Peers are scored by gossipsub from what they
//! send (`params`) and by us from what the chain says of them ([`score`]).

mod announce;
mod config;
mod envelope;
mod handle;
pub(crate) mod params;
pub mod score;
mod task;
mod topic;
pub mod validate;

pub use announce::{Announcement, AnnouncementError};
pub use config::Config;
pub use envelope::{Envelope, EnvelopeError};
pub(crate) use handle::{Command, Ends, channels};
pub use handle::{GossipHandle, Message, PublishError, Subscription};
pub(crate) use task::{Behaviours, Gossip};
pub use topic::{Channel, Topic, UnknownTopic};

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
