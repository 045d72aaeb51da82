//! The topics, fixed by the protocol.

use libp2p::gossipsub::{IdentTopic, TopicHash};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use thiserror::Error;

/// Which gossipsub behaviour carries a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channel {
    /// Small messages, flood published.
    Control,
    /// Large ones, through the mesh alone.
    Bulk,
}

/// A gossip topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Topic {
    /// Recipes for content; for other programs.
    Recipes,
    /// Announcements of new content, and live chunks. The only topic of [`Channel::Bulk`].
    Video,
    /// Votes. Only keys bound to current validators may speak.
    Bft,
    /// Attestations.
    Attestations,
    /// Challenges; for other programs.
    Challenges,
    /// Tasks; for other programs.
    Tasks,
}

/// A name that is no topic.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "no gossip topic is called {0:?}; there are recipes, video, bft, attestations, challenges, tasks"
)]
pub struct UnknownTopic(String);

impl Topic {
    /// All topics.
    pub const ALL: [Self; 6] =
        [Self::Recipes, Self::Video, Self::Bft, Self::Attestations, Self::Challenges, Self::Tasks];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Recipes => "/nsn/recipes/1.0.0",
            Self::Video => "/nsn/video/1.0.0",
            Self::Bft => "/nsn/bft/1.0.0",
            Self::Attestations => "/nsn/attestations/1.0.0",
            Self::Challenges => "/nsn/challenges/1.0.0",
            Self::Tasks => "/nsn/tasks/1.0.0",
        }
    }

    /// The short name, for metrics, RPC and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Recipes => "recipes",
            Self::Video => "video",
            Self::Bft => "bft",
            Self::Attestations => "attestations",
            Self::Challenges => "challenges",
            Self::Tasks => "tasks",
        }
    }

    /// The behaviour that carries it.
    pub fn channel(self) -> Channel {
        if self == Self::Video { Channel::Bulk } else { Channel::Control }
    }

    /// How much what a peer does on this topic weighs in its score.
    pub fn weight(self) -> f64 {
        match self {
            Self::Bft => 3.0,
            Self::Video => 2.0,
            _ => 1.0,
        }
    }

    pub(crate) fn ident(self) -> IdentTopic {
        IdentTopic::new(self.name())
    }

    pub(crate) fn hash(self) -> TopicHash {
        self.ident().hash()
    }

    /// The topic of a wire name (gossipsub's hash of our topics is their name).
    pub(crate) fn from_hash(hash: &TopicHash) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.name() == hash.as_str())
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl FromStr for Topic {
    type Err = UnknownTopic;

    /// Takes the short name and the name on the wire.
    fn from_str(s: &str) -> Result<Self, UnknownTopic> {
        Self::ALL
            .into_iter()
            .find(|t| t.label() == s || t.name() == s)
            .ok_or_else(|| UnknownTopic(s.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_topic() {
        for topic in Topic::ALL {
            assert_eq!(topic.label().parse(), Ok(topic));
            assert_eq!(topic.name().parse(), Ok(topic));
            assert_eq!(Topic::from_hash(&topic.hash()), Some(topic));
        }
        assert!("nonsense".parse::<Topic>().is_err());
        assert_eq!(Topic::from_hash(&IdentTopic::new("video").hash()), None);
    }

    #[test]
    fn only_video_is_bulk() {
        let bulk: Vec<_> =
            Topic::ALL.into_iter().filter(|t| t.channel() == Channel::Bulk).collect();
        assert_eq!(bulk, [Topic::Video]);
    }
}
