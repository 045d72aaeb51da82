//! The handle through which gossip is published and heard.

use super::{Config, PeerScore, Topic};
use crate::{Closed, Metrics, OverlayKey, PeerId};
use libp2p::bytes::Bytes;
use prometheus_endpoint::{Counter, U64};
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::{
    broadcast::{self, error::RecvError},
    mpsc, oneshot,
};

/// A message that passed validation.
#[derive(Clone, Debug)]
pub struct Message {
    /// The topic it came on.
    pub topic: Topic,
    /// Who made and signed it.
    pub author: PeerId,
    /// The author's key.
    pub author_key: OverlayKey,
    /// When the author says it was made, in milliseconds since the Unix epoch. Never far from now.
    pub created_ms: u64,
    /// What the topic carries. Not looked into: what it means is for the subscriber to check.
    pub payload: Bytes,
}

/// Why a message was not published.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PublishError {
    /// The payload is larger than the topic allows.
    #[error("a message of {size} bytes is too large for {topic}, which takes {limit}")]
    TooLarge {
        /// The topic.
        topic: Topic,
        /// Length of the payload.
        size: usize,
        /// Most the topic takes.
        limit: usize,
    },
    /// Only validators speak on this topic.
    #[error("only keys bound to current validators may publish on {0}")]
    NotValidator(Topic),
    /// No connected peer listens to the topic.
    #[error("no connected peer listens to {0}")]
    NoPeers(Topic),
    /// Every peer's queue is full.
    #[error("the queues to all {0} peers are full")]
    QueuesFull(usize),
    /// Too many calls are waiting already.
    #[error("too many messages are waiting to be published")]
    Busy,
    /// gossipsub refused for another reason.
    #[error("the message could not be published: {0}")]
    Failed(String),
    /// The overlay is not running.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// Why a peer's score is not explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ExplainError {
    /// Too many calls are waiting already.
    #[error("too many calls of gossip are waiting")]
    Busy,
    /// The overlay is not running.
    #[error(transparent)]
    Closed(#[from] Closed),
}

pub(crate) enum Command {
    Publish { topic: Topic, payload: Vec<u8>, answer: oneshot::Sender<Result<(), PublishError>> },
    Explain { peer: PeerId, answer: oneshot::Sender<PeerScore> },
}

/// Publishes and subscribes. Cheap to clone.
#[derive(Clone)]
pub struct GossipHandle {
    commands: mpsc::Sender<Command>,
    // Weak, so that subscriptions end with the driver, which holds the strong ones.
    topics: Arc<Vec<(Topic, broadcast::WeakSender<Message>)>>,
    metrics: Metrics,
}

/// What the driver holds of the channels.
pub(crate) struct Ends {
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) topics: Vec<(Topic, broadcast::Sender<Message>)>,
}

pub(crate) fn channels(config: &Config, metrics: &Metrics) -> (GossipHandle, Ends) {
    let (sender, commands) = mpsc::channel(config.publish_queue);
    let topics: Vec<_> = Topic::ALL
        .into_iter()
        .map(|topic| {
            let backlog = match topic.channel() {
                super::Channel::Control => config.control_backlog,
                super::Channel::Bulk => config.bulk_backlog,
            };
            (topic, broadcast::Sender::new(backlog))
        })
        .collect();
    let weak = topics.iter().map(|(topic, sender)| (*topic, sender.downgrade())).collect();
    let handle =
        GossipHandle { commands: sender, topics: Arc::new(weak), metrics: metrics.clone() };
    (handle, Ends { commands, topics })
}

impl GossipHandle {
    /// Signs the payload and sends it to the peers that listen to the topic. Returns once it is in
    /// their queues, which is no promise of delivery. Nothing comes back to this node's own
    /// subscribers.
    pub async fn publish(
        &self,
        topic: Topic,
        payload: impl Into<Vec<u8>>,
    ) -> Result<(), PublishError> {
        let (answer, answered) = oneshot::channel();
        let command = Command::Publish { topic, payload: payload.into(), answer };
        self.send(command, PublishError::Busy)?;
        answered.await.map_err(|_| Closed)?
    }

    /// A peer's gossip score and where it comes from, in numbers and words. A peer that was never
    /// heard of has the score of any newcomer.
    ///
    /// # Errors
    /// If the overlay is busy or not running.
    pub async fn peer(&self, peer: PeerId) -> Result<PeerScore, ExplainError> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Explain { peer, answer }, ExplainError::Busy)?;
        Ok(answered.await.map_err(|_| Closed)?)
    }

    fn send<E: From<Closed>>(&self, command: Command, busy: E) -> Result<(), E> {
        self.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                self.metrics.commands_refused.with_label_values(&["gossip"]).inc();
                busy
            }
            mpsc::error::TrySendError::Closed(_) => Closed.into(),
        })
    }

    /// Messages of a topic from now on. A subscriber that reads too slowly misses the oldest ones;
    /// the newest are kept.
    pub fn subscribe(&self, topic: Topic) -> Result<Subscription, Closed> {
        let (_, weak) = self.topics.iter().find(|(t, _)| *t == topic).ok_or(Closed)?;
        let receiver = weak.upgrade().ok_or(Closed)?.subscribe();
        let missed = self.metrics.gossip.topics.of(topic).missed.clone();
        Ok(Subscription { receiver, missed, missed_here: 0 })
    }
}

/// Messages of one topic.
pub struct Subscription {
    receiver: broadcast::Receiver<Message>,
    missed: Counter<U64>,
    missed_here: u64,
}

impl Subscription {
    /// The next message; `None` once the overlay has ended.
    pub async fn recv(&mut self) -> Option<Message> {
        loop {
            match self.receiver.recv().await {
                Ok(message) => return Some(message),
                Err(RecvError::Lagged(n)) => {
                    self.missed.inc_by(n);
                    self.missed_here = self.missed_here.saturating_add(n);
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// How many messages this subscriber missed by reading too slowly.
    pub fn missed(&self) -> u64 {
        self.missed_here
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(n: u64) -> Message {
        Message {
            topic: Topic::Tasks,
            author: crate::identity::peer_id_of(&[1; 32]).unwrap(),
            author_key: [1; 32],
            created_ms: n,
            payload: Bytes::new(),
        }
    }

    #[tokio::test]
    async fn a_slow_subscriber_keeps_the_newest_and_counts_the_rest() {
        let config = Config { control_backlog: 4, ..Config::default() };
        let (handle, ends) = channels(&config, &Metrics::unregistered().unwrap());
        let mut subscription = handle.subscribe(Topic::Tasks).unwrap();
        let (_, sender) = ends.topics.iter().find(|(t, _)| *t == Topic::Tasks).unwrap();
        for n in 0..10 {
            sender.send(message(n)).unwrap();
        }
        assert_eq!(subscription.recv().await.unwrap().created_ms, 6);
        assert_eq!(subscription.missed(), 6);
        drop(ends);
        for n in 7..10 {
            assert_eq!(subscription.recv().await.unwrap().created_ms, n);
        }
        assert!(subscription.recv().await.is_none());
        assert_eq!(handle.subscribe(Topic::Tasks).err(), Some(Closed));
        assert_eq!(handle.publish(Topic::Tasks, vec![1]).await, Err(PublishError::Closed(Closed)));
    }

    #[tokio::test]
    async fn a_full_channel_refuses() {
        let config = Config { publish_queue: 1, ..Config::default() };
        let (handle, ends) = channels(&config, &Metrics::unregistered().unwrap());
        let waiting = tokio::spawn({
            let handle = handle.clone();
            async move { handle.publish(Topic::Tasks, vec![]).await }
        });
        while ends.commands.is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(handle.publish(Topic::Tasks, vec![]).await, Err(PublishError::Busy));
        drop(ends);
        assert_eq!(waiting.await.unwrap(), Err(PublishError::Closed(Closed)));
    }
}
