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

impl Channel {
    /// The short name, for metrics and RPC.
    pub fn label(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Bulk => "bulk",
        }
    }
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

/// One value for each topic.
#[derive(Clone, Debug)]
pub(crate) struct ByTopic<T> {
    recipes: T,
    video: T,
    bft: T,
    attestations: T,
    challenges: T,
    tasks: T,
}

impl<T> ByTopic<T> {
    /// Makes the value of each topic.
    pub(crate) fn try_new<E>(mut make: impl FnMut(Topic) -> Result<T, E>) -> Result<Self, E> {
        Ok(Self {
            recipes: make(Topic::Recipes)?,
            video: make(Topic::Video)?,
            bft: make(Topic::Bft)?,
            attestations: make(Topic::Attestations)?,
            challenges: make(Topic::Challenges)?,
            tasks: make(Topic::Tasks)?,
        })
    }

    /// Makes the value of each topic.
    pub(crate) fn new(mut make: impl FnMut(Topic) -> T) -> Self {
        let made: Result<Self, std::convert::Infallible> = Self::try_new(|topic| Ok(make(topic)));
        match made {
            Ok(this) => this,
            Err(never) => match never {},
        }
    }

    pub(crate) fn of(&self, topic: Topic) -> &T {
        match topic {
            Topic::Recipes => &self.recipes,
            Topic::Video => &self.video,
            Topic::Bft => &self.bft,
            Topic::Attestations => &self.attestations,
            Topic::Challenges => &self.challenges,
            Topic::Tasks => &self.tasks,
        }
    }

    pub(crate) fn of_mut(&mut self, topic: Topic) -> &mut T {
        match topic {
            Topic::Recipes => &mut self.recipes,
            Topic::Video => &mut self.video,
            Topic::Bft => &mut self.bft,
            Topic::Attestations => &mut self.attestations,
            Topic::Challenges => &mut self.challenges,
            Topic::Tasks => &mut self.tasks,
        }
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
    fn each_topic_has_its_own_value() {
        let mut labels = ByTopic::new(Topic::label);
        for topic in Topic::ALL {
            assert_eq!(*labels.of(topic), topic.label());
            *labels.of_mut(topic) = topic.name();
        }
        assert!(Topic::ALL.into_iter().all(|topic| *labels.of(topic) == topic.name()));
    }

    #[test]
    fn only_video_is_bulk() {
        let bulk: Vec<_> =
            Topic::ALL.into_iter().filter(|t| t.channel() == Channel::Bulk).collect();
        assert_eq!(bulk, [Topic::Video]);
    }
}
