//! What peers that misbehave send. Pure: a frame from the kind, a count and the time.

use crate::{
    args::Mischief,
    link::stamped,
    wire::{Message, Part, frame, length_prefix},
};
use libp2p::identity::{Keypair, SigningError};
use nsn_p2p::{Protocols, gossip::Envelope};
use std::time::Duration;

/// What a frame announces that is too large; the control channel takes a little over 1 MiB.
const OVERSIZED: u64 = 64 << 20;
/// Bytes of it that are sent.
const OVERSIZED_START: usize = 64 << 10;
/// Ids in one promise.
const PROMISED: u64 = 1000;
/// How wrong the clock of `future` and `expired` is.
const HOUR: Duration = Duration::from_secs(3600);
/// How long messages say that they are of use.
const TTL_MS: u32 = 60_000;

/// Who writes messages, and on which chain.
#[derive(Clone)]
pub(crate) struct Author {
    pub(crate) keypair: Keypair,
    pub(crate) chain: Protocols,
}

impl Author {
    /// An honest message: stamped, sealed, fresh.
    pub(crate) fn honest(
        &self,
        topic: &str,
        sequence: u64,
        size: usize,
        now: Duration,
    ) -> Result<Message, SigningError> {
        self.at(topic, sequence, size, now, now)
    }

    /// A message that says it was made at `created`.
    fn at(
        &self,
        topic: &str,
        sequence: u64,
        size: usize,
        now: Duration,
        created: Duration,
    ) -> Result<Message, SigningError> {
        let created_ms = u64::try_from(created.as_millis()).unwrap_or(u64::MAX);
        let envelope = Envelope::new(stamped(now, size), created_ms, TTL_MS);
        let data = envelope.sealed(&self.chain, topic, &self.keypair)?;
        Ok(self.carrying(topic, sequence, data))
    }

    /// A message that carries any bytes.
    fn carrying(&self, topic: &str, sequence: u64, data: Vec<u8>) -> Message {
        let author = self.keypair.public().to_peer_id();
        Message { author, data, sequence, topic: topic.to_owned() }
    }
}

/// One peer's frames.
pub(crate) struct Frames {
    pub(crate) kind: Mischief,
    pub(crate) author: Author,
    /// Topics that exist, at least one.
    pub(crate) topics: Vec<&'static str>,
    pub(crate) size: usize,
    /// The number of the first message. Above what the same key used before.
    pub(crate) sequence: u64,
}

impl Frames {
    /// The frame of turn `n`.
    pub(crate) fn frame(&self, n: u64, now: Duration) -> Result<Vec<u8>, SigningError> {
        let topic = self.topic(n);
        let sequence = self.sequence.wrapping_add(n);
        let honest = |sequence| self.author.honest(topic, sequence, self.size, now);
        let skewed = |created| self.author.at(topic, sequence, self.size, now, created);
        let publish = |message: &Message| frame(&[Part::Publish(message)]);
        Ok(match self.kind {
            Mischief::Malformed => {
                // The version of an envelope, and nothing that follows it in one.
                let mut data = vec![Envelope::VERSION];
                data.extend_from_slice(&n.to_be_bytes());
                publish(&self.author.carrying(topic, sequence, data))
            }
            Mischief::BadSignature => {
                let mut message = honest(sequence)?;
                // The seal is at the end.
                if let Some(last) = message.data.last_mut() {
                    *last ^= 1;
                }
                publish(&message)
            }
            Mischief::Future => publish(&skewed(now + HOUR)?),
            Mischief::Expired => publish(&skewed(now.saturating_sub(HOUR))?),
            Mischief::UnknownTopic => {
                let topic = format!("/nsn/nowhere-{n}/1.0.0");
                let data = honest(sequence)?.data;
                let message = self.author.carrying(&topic, sequence, data);
                frame(&[Part::Subscribe(&topic), Part::Publish(&message)])
            }
            Mischief::Replay => publish(&honest(self.sequence)?),
            Mischief::Ihave => {
                let ids: Vec<[u8; 20]> = (0..PROMISED).map(|id| promised(sequence, id)).collect();
                frame(&[Part::IHave(topic, &ids)])
            }
            Mischief::Graft => {
                let turn = |topic: &&'static str| {
                    if n.is_multiple_of(2) { Part::Graft(topic) } else { Part::Prune(topic) }
                };
                frame(&self.topics.iter().map(turn).collect::<Vec<_>>())
            }
            Mischief::Oversized => {
                let mut bytes = length_prefix(OVERSIZED);
                bytes.resize(bytes.len() + OVERSIZED_START, 0);
                bytes
            }
            Mischief::Flood
            | Mischief::Trickle
            | Mischief::NeverRead
            | Mischief::ConnectDisconnect => publish(&honest(sequence)?),
        })
    }

    fn topic(&self, n: u64) -> &'static str {
        let count = self.topics.len().max(1);
        let at = usize::try_from(n).unwrap_or_default() % count;
        self.topics.get(at).copied().unwrap_or_default()
    }
}

/// An id of a message that nobody has.
fn promised(sequence: u64, id: u64) -> [u8; 20] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&sequence.to_be_bytes());
    hasher.update(&id.to_be_bytes());
    let mut bytes = [0; 20];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// When turn `n` of a peer is due after its start, which is `phase` (0..1) of a turn late; nothing if
/// it has none.
pub(crate) fn due(n: u64, rate: f64, phase: f64) -> Option<Duration> {
    #[allow(clippy::cast_precision_loss, reason = "2^53 turns are never reached")]
    let turns = n as f64 + phase;
    Duration::try_from_secs_f64(turns / rate).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Received;
    use clap::ValueEnum;
    use proptest::prelude::*;

    const NOW: Duration = Duration::from_secs(1_800_000_000);

    fn frames(kind: Mischief) -> Frames {
        Frames {
            kind,
            author: Author {
                keypair: Keypair::ed25519_from_bytes([1; 32]).unwrap(),
                chain: Protocols::new(&[7; 32]),
            },
            topics: vec!["/nsn/tasks/1.0.0", "/nsn/recipes/1.0.0"],
            size: 64,
            sequence: 100,
        }
    }

    /// What the frame of a kind carries.
    fn carried(kind: Mischief, n: u64) -> Vec<Result<Envelope, nsn_p2p::gossip::EnvelopeError>> {
        let bytes = frames(kind).frame(n, NOW).unwrap();
        let prefix = bytes.iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
        let received = Received::read(&bytes[prefix..]).unwrap();
        received.data.into_iter().map(Envelope::from_bytes).collect()
    }

    #[test]
    fn each_kind_is_wrong_in_its_own_way() {
        let created = |kind| carried(kind, 0)[0].as_ref().unwrap().created_ms;
        let now_ms = u64::try_from(NOW.as_millis()).unwrap();
        assert_eq!(created(Mischief::Flood), now_ms);
        assert_eq!(created(Mischief::Future), now_ms + 3_600_000);
        assert_eq!(created(Mischief::Expired), now_ms - 3_600_000);
        assert!(carried(Mischief::Malformed, 3)[0].is_err());
        let replay = frames(Mischief::Replay);
        assert_eq!(replay.frame(0, NOW).unwrap(), replay.frame(2, NOW).unwrap());
    }

    #[test]
    fn an_oversized_frame_is_small_here() {
        let bytes = frames(Mischief::Oversized).frame(0, NOW).unwrap();
        assert!(bytes.len() < 2 * OVERSIZED_START);
    }

    #[test]
    fn turns_are_evenly_spread() {
        assert_eq!(due(0, 10.0, 0.5), Some(Duration::from_millis(50)));
        assert_eq!(due(10, 10.0, 0.5), Some(Duration::from_millis(1050)));
        assert_eq!(due(0, 0.0, 0.5), None);
        assert_eq!(due(5, 0.0, 0.0), None);
    }

    proptest! {
        #[test]
        fn every_kind_has_a_frame_for_every_turn(kind in 0..13usize, n: u64) {
            let kind = Mischief::value_variants()[kind];
            prop_assert!(!frames(kind).frame(n, NOW).unwrap().is_empty());
        }
    }
}
