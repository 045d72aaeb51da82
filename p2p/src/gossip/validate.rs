//! Whether a message is delivered and passed on.
//!
//! gossipsub has checked that the message is new. What is left: who may speak on the topic, whether the
//! envelope is whole and of today, and last, because it takes longest, whether its author sealed it. Reject costs the peer that passed the
//! message on, so only what that peer must answer for is rejected: every honest peer drops an
//! undecodable message, but two honest peers may differ on the time and on who is a validator just
//! now.

use super::{EnvelopeError, Topic, View};
use crate::{OverlayKey, Protocols, Reputation};
use serde::Serialize;

/// What is to be done with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Deliver and pass on.
    Accept(View<'a>),
    /// Drop, at nobody's cost.
    Ignore(Reason),
    /// Drop, at the cost of who passed it on.
    Reject(Reason),
}

/// Why a message is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// No envelope.
    Malformed,
    /// An envelope of an unknown version.
    UnknownVersion,
    /// Larger than the topic takes.
    Oversized,
    /// The signature is missing or wrong, or is not that of the author named.
    WronglySigned,
    /// A sequence number of a wrong length.
    Unnumbered,
    /// On a topic this node never said it listens to.
    UnknownTopic,
    /// The same message as before, to which somebody gave another sequence number. (The same once more
    /// is no refusal but a duplicate, of which a mesh has many.)
    Replayed,
    /// Made later than now, by more than clocks may differ.
    Future,
    /// Its time is over.
    Expired,
    /// Its author uses no ed25519 key.
    AuthorKeyType,
    /// Its author is graylisted.
    AuthorGraylisted,
    /// The peer that passed it on has a score below the graylist threshold.
    SenderGraylisted,
    /// Its author is no current validator, and the topic is theirs.
    NotValidator,
    /// Its author is unbound and has used up what unbound authors may send.
    Allowance,
    /// This node has as many messages to validate as it takes on.
    Overloaded,
    /// This node made it, in an earlier life.
    OwnMessage,
}

impl Reason {
    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownVersion => "unknown_version",
            Self::Oversized => "oversized",
            Self::WronglySigned => "wrongly_signed",
            Self::Unnumbered => "unnumbered",
            Self::UnknownTopic => "unknown_topic",
            Self::Replayed => "replayed",
            Self::Future => "future",
            Self::Expired => "expired",
            Self::AuthorKeyType => "author_key_type",
            Self::AuthorGraylisted => "author_graylisted",
            Self::SenderGraylisted => "sender_graylisted",
            Self::NotValidator => "not_validator",
            Self::Allowance => "allowance",
            Self::Overloaded => "overloaded",
            Self::OwnMessage => "own_message",
        }
    }

    /// What was wrong with messages, to end a sentence that begins with how many there were.
    pub fn words(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownVersion => "of a version this node does not know",
            Self::Oversized => "larger than their topic takes",
            Self::WronglySigned => "wrongly signed",
            Self::Unnumbered => "with a sequence number of a wrong length",
            Self::UnknownTopic => "on a topic this node does not listen to",
            Self::Replayed => "repeated under a new number",
            Self::Future => "from the future by this node's clock",
            Self::Expired => "expired",
            Self::AuthorKeyType => "by authors without an ed25519 key",
            Self::AuthorGraylisted => "by graylisted authors",
            Self::SenderGraylisted => "sent while it was graylisted",
            Self::NotValidator => "by authors who are no validators, on a topic of validators",
            Self::Allowance => "beyond what unbound authors may send",
            Self::Overloaded => "more than this node could validate at that moment",
            Self::OwnMessage => "this node's own from before it was restarted",
        }
    }
}

/// What bounds a message's age.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest lifetime that counts, in milliseconds.
    pub max_ttl_ms: u32,
    /// How far clocks may differ, in milliseconds.
    pub max_skew_ms: u32,
}

/// One message as gossipsub hands it over.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// The topic it came on.
    pub topic: Topic,
    /// The key that is said to have sealed it; `None` if it is no ed25519 key.
    pub author: Option<OverlayKey>,
    /// Whether the peer that sent it to us is the author.
    pub from_author: bool,
    /// The envelope's bytes.
    pub data: &'a [u8],
}

/// Judges a message on a topic of `chain`. `now_ms` is milliseconds since the Unix epoch.
pub fn judge<'a>(
    message: Received<'a>,
    chain: &Protocols,
    reputation: &dyn Reputation,
    limits: Limits,
    now_ms: u64,
) -> Verdict<'a> {
    let Some(author) = message.author else {
        return Verdict::Reject(Reason::AuthorKeyType);
    };
    // Cheap questions of the author first, so that what is refused anyway is not decoded.
    if reputation.standing(&author).is_some_and(|s| s.graylisted()) {
        return Verdict::Ignore(Reason::AuthorGraylisted);
    }
    if message.topic == Topic::Bft && !reputation.is_validator(&author) {
        return if message.from_author {
            Verdict::Reject(Reason::NotValidator)
        } else {
            Verdict::Ignore(Reason::NotValidator)
        };
    }
    let envelope = match View::of(message.data) {
        Ok(envelope) => envelope,
        Err(EnvelopeError::Malformed) => return Verdict::Reject(Reason::Malformed),
        Err(EnvelopeError::Version(_)) => return Verdict::Ignore(Reason::UnknownVersion),
    };
    if envelope.created_ms > now_ms.saturating_add(limits.max_skew_ms.into()) {
        return Verdict::Ignore(Reason::Future);
    }
    if envelope.expires_ms(limits.max_ttl_ms) < now_ms {
        return Verdict::Ignore(Reason::Expired);
    }
    if !envelope.is_signed_by(&author, chain, message.topic.name()) {
        return Verdict::Reject(Reason::WronglySigned);
    }
    Verdict::Accept(envelope)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Identity, Standing,
        gossip::Envelope,
        testnet::{GENESIS, StaticReputation},
    };
    use proptest::prelude::*;

    const NOW: u64 = 1_800_000_000_000;
    const LIMITS: Limits = Limits { max_ttl_ms: 120_000, max_skew_ms: 10_000 };

    fn author() -> Identity {
        Identity::from_secret([1; 32]).unwrap()
    }

    fn chain() -> Protocols {
        Protocols::new(&GENESIS)
    }

    fn sealed(topic: Topic, payload: Vec<u8>, created_ms: u64, ttl_ms: u32) -> Vec<u8> {
        let envelope = Envelope::new(payload, created_ms, ttl_ms);
        envelope.sealed(&chain(), topic.name(), author().keypair()).unwrap()
    }

    fn message(topic: Topic, data: &[u8]) -> Received<'_> {
        Received { topic, author: Some(author().key()), from_author: true, data }
    }

    fn judge_now<'a>(message: Received<'a>, reputation: &StaticReputation) -> Verdict<'a> {
        judge(message, &chain(), reputation, LIMITS, NOW)
    }

    #[test]
    fn a_fresh_envelope_is_accepted() {
        let bytes = sealed(Topic::Video, vec![1, 2], NOW - 5, 1000);
        let verdict = judge_now(message(Topic::Video, &bytes), &StaticReputation::default());
        let Verdict::Accept(view) = verdict else { panic!("{verdict:?}") };
        assert_eq!((view.created_ms, view.payload), (NOW - 5, &[1, 2][..]));
    }

    #[test]
    fn garbage_is_rejected_and_other_versions_ignored() {
        let nobody = StaticReputation::default();
        assert_eq!(
            judge_now(message(Topic::Tasks, &[1, 2, 3]), &nobody),
            Verdict::Reject(Reason::Malformed)
        );
        assert_eq!(
            judge_now(message(Topic::Tasks, &[9, 2, 3]), &nobody),
            Verdict::Ignore(Reason::UnknownVersion)
        );
    }

    #[test]
    fn age_is_bounded_whatever_the_author_says() {
        let nobody = StaticReputation::default();
        let at = |created_ms, ttl_ms| {
            let bytes = sealed(Topic::Tasks, vec![], created_ms, ttl_ms);
            match judge_now(message(Topic::Tasks, &bytes), &nobody) {
                Verdict::Accept(_) => None,
                Verdict::Ignore(reason) => Some(reason),
                Verdict::Reject(reason) => panic!("{reason:?} costs the sender"),
            }
        };
        assert_eq!(at(NOW - 1001, 1000), Some(Reason::Expired));
        assert_eq!(at(NOW - 120_001, u32::MAX), Some(Reason::Expired));
        assert_eq!(at(NOW + 10_001, 1000), Some(Reason::Future));
        assert_eq!(at(NOW + 9_999, 1000), None);
        assert_eq!(at(u64::MAX, u32::MAX), Some(Reason::Future));
        assert_eq!(at(0, u32::MAX), Some(Reason::Expired));
    }

    #[test]
    fn votes_are_for_validators() {
        let bytes = sealed(Topic::Bft, vec![], NOW, 1000);
        let reputation = StaticReputation::default();
        let direct = message(Topic::Bft, &bytes);
        let passed_on = Received { from_author: false, ..direct };
        assert_eq!(judge_now(direct, &reputation), Verdict::Reject(Reason::NotValidator));
        assert_eq!(judge_now(passed_on, &reputation), Verdict::Ignore(Reason::NotValidator));
        reputation.set_validator(author().key(), true);
        assert!(matches!(judge_now(direct, &reputation), Verdict::Accept(_)));
    }

    #[test]
    fn a_graylisted_author_is_not_heard_and_its_messenger_not_punished() {
        let bytes = sealed(Topic::Video, vec![], NOW, 1000);
        let reputation = StaticReputation::default();
        reputation.set(author().key(), Some(Standing { seeder: 0, ..Standing::NEUTRAL }));
        assert_eq!(
            judge_now(message(Topic::Video, &bytes), &reputation),
            Verdict::Ignore(Reason::AuthorGraylisted)
        );
    }

    #[test]
    fn only_what_its_author_sealed_for_this_topic_is_accepted() {
        let nobody = StaticReputation::default();
        let bytes = sealed(Topic::Video, vec![1], NOW, 1000);
        let rejected = Verdict::Reject(Reason::WronglySigned);
        let elsewhere = message(Topic::Tasks, &bytes);
        assert_eq!(judge_now(elsewhere, &nobody), rejected);
        let other = Identity::from_secret([2; 32]).unwrap().key();
        let of_another = Received { author: Some(other), ..message(Topic::Video, &bytes) };
        assert_eq!(judge_now(of_another, &nobody), rejected);
        let mut changed = bytes.clone();
        changed[14] ^= 1;
        assert_eq!(judge_now(message(Topic::Video, &changed), &nobody), rejected);
    }

    #[test]
    fn another_kind_of_key_is_rejected() {
        let bytes = sealed(Topic::Video, vec![], NOW, 1000);
        let message = Received { author: None, ..message(Topic::Video, &bytes) };
        assert_eq!(
            judge_now(message, &StaticReputation::default()),
            Verdict::Reject(Reason::AuthorKeyType)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(data: Vec<u8>, now: u64) {
            let _ = judge(
                message(Topic::Challenges, &data), &chain(), &StaticReputation::default(), LIMITS, now,
            );
        }
    }
}
