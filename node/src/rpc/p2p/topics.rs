//! Topic messages over JSON-RPC, for programs beside the node.

use std::{future::Future, sync::Arc};

use jsonrpsee::{
    PendingSubscriptionSink, SubscriptionMessage, SubscriptionSink,
    types::{ErrorObject, ErrorObjectOwned},
};
use nsn_p2p::{
    GossipHandle,
    gossip::{Message, PublishError, Subscription, Topic},
};
use serde::Serialize;
use sp_core::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::rpc::{bad_argument, code, failed};

/// Most subscriptions to topics on the whole node. What waits for a slow reader lies in the topic's
/// one backlog, whoever reads it; each reader adds the messages that its connection has not taken,
/// which the RPC server bounds.
const MAX_SUBSCRIPTIONS: usize = 32;

/// A message of a topic.
#[derive(Clone, Debug, PartialEq, Serialize, serde::Deserialize)]
pub struct TopicMessage {
    /// Short name of the topic.
    pub topic: String,
    /// PeerId of who made and signed it.
    pub author: String,
    /// The author's overlay key, 64 hexadecimal digits.
    pub author_key: String,
    /// When the author says it was made, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// `0x` and hexadecimal digits. The node has not looked into it.
    pub payload: Bytes,
    /// Messages of this topic that this subscription has missed so far, because it was read too
    /// slowly.
    pub missed: u64,
}

impl TopicMessage {
    fn new(message: &Message, missed: u64) -> Self {
        Self {
            topic: message.topic.label().to_owned(),
            author: message.author.to_string(),
            author_key: hex::encode(message.author_key),
            created_ms: message.created_ms,
            payload: Bytes(message.payload.to_vec()),
            missed,
        }
    }
}

/// The places for subscriptions.
#[derive(Clone)]
pub(super) struct Topics(Arc<Semaphore>);

impl Default for Topics {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_SUBSCRIPTIONS)))
    }
}

impl Topics {
    /// A place for one more, which is free again once it is dropped.
    pub(super) fn place(&self) -> Result<OwnedSemaphorePermit, ErrorObjectOwned> {
        self.0.clone().try_acquire_owned().map_err(|_| {
            failed(format!(
                "this node serves {MAX_SUBSCRIPTIONS} subscriptions to topics already: end one of \
                 them, or ask another node"
            ))
        })
    }
}

/// Publishes; says in the error's code whose fault it was.
pub(super) async fn publish(
    gossip: &GossipHandle,
    topic: Topic,
    payload: Vec<u8>,
) -> Result<(), ErrorObjectOwned> {
    gossip.publish(topic, payload).await.map_err(|error| match error {
        PublishError::TooLarge { .. } | PublishError::NotValidator(_) => bad_argument(error),
        PublishError::Closed(_) => {
            ErrorObject::owned(code::SERVICE_DOWN, error.to_string(), None::<()>)
        }
        error => failed(error),
    })
}

/// Hands on what is `heard` until the subscriber has gone or the overlay ends. A slow subscriber
/// costs nobody else anything: it is `heard` that drops what is old.
pub(super) async fn hand_on(
    pending: PendingSubscriptionSink,
    mut heard: Subscription,
    place: OwnedSemaphorePermit,
) {
    // Fails if the subscriber has gone meanwhile.
    let Ok(sink) = pending.accept().await else { return };
    while let Some(Some(message)) = unless_closed(&sink, heard.recv()).await {
        let message = TopicMessage::new(&message, heard.missed());
        let Some(message) = encode(&sink, &message) else { break };
        if sink.send(message).await.is_err() {
            break;
        }
    }
    drop(place);
}

/// What comes of `waiting`; nothing if the subscriber leaves before.
async fn unless_closed<T>(sink: &SubscriptionSink, waiting: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        got = waiting => Some(got),
        () = sink.closed() => None,
    }
}

fn encode(sink: &SubscriptionSink, message: &TopicMessage) -> Option<SubscriptionMessage> {
    SubscriptionMessage::new(sink.method_name(), sink.subscription_id(), message)
        .inspect_err(|error| tracing::warn!(%error, "a topic message cannot be written as JSON"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_few_and_come_back() {
        let topics = Topics::default();
        let mut places: Vec<_> = (0..MAX_SUBSCRIPTIONS).map(|_| topics.place().unwrap()).collect();
        let refused = topics.place().unwrap_err();
        assert!(refused.message().contains("32 subscriptions"), "{refused}");
        places.pop();
        assert!(topics.place().is_ok());
    }
}
