//! Whether a message is delivered and passed on.
//!
//! gossipsub has checked the signature and that the message is new. What is left: who may speak on
//! the topic, and whether the envelope is whole and of today. Reject costs the peer that passed the
//! message on, so only what that peer must answer for is rejected: every honest peer drops an
//! undecodable message, but two honest peers may differ on the time and on who is a validator just
//! now.

use super::{Envelope, EnvelopeError, Topic};
use crate::{OverlayKey, Reputation};

/// What is to be done with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Deliver and pass on.
    Accept(Envelope),
    /// Drop, at nobody's cost.
    Ignore(Reason),
    /// Drop, at the cost of who passed it on.
    Reject(Reason),
}

/// Why a message is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No envelope.
    Malformed,
    /// An envelope of an unknown version.
    UnknownVersion,
    /// Its time is over.
    Expired,
    /// Made later than now, by more than clocks may differ.
    Future,
    /// Its author uses no ed25519 key.
    AuthorKeyType,
    /// Its author is graylisted.
    AuthorGraylisted,
    /// Its author is no current validator, and the topic is theirs.
    NotValidator,
}

impl Reason {
    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownVersion => "unknown_version",
            Self::Expired => "expired",
            Self::Future => "future",
            Self::AuthorKeyType => "author_key_type",
            Self::AuthorGraylisted => "author_graylisted",
            Self::NotValidator => "not_validator",
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
    /// The key that signed it; `None` if it is no ed25519 key.
    pub author: Option<OverlayKey>,
    /// Whether the peer that sent it to us is the author.
    pub from_author: bool,
    /// The envelope's bytes.
    pub data: &'a [u8],
}

/// Judges a message. `now_ms` is milliseconds since the Unix epoch.
pub fn judge(
    message: Received<'_>,
    reputation: &dyn Reputation,
    limits: Limits,
    now_ms: u64,
) -> Verdict {
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
    let envelope = match Envelope::from_bytes(message.data) {
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
    Verdict::Accept(envelope)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Standing, testnet::StaticReputation};
    use codec::Encode;
    use proptest::prelude::*;

    const NOW: u64 = 1_800_000_000_000;
    const LIMITS: Limits = Limits { max_ttl_ms: 120_000, max_skew_ms: 10_000 };
    const AUTHOR: OverlayKey = [1; 32];

    fn message(topic: Topic, data: &[u8]) -> Received<'_> {
        Received { topic, author: Some(AUTHOR), from_author: true, data }
    }

    fn judge_now(message: Received<'_>, reputation: &StaticReputation) -> Verdict {
        judge(message, reputation, LIMITS, NOW)
    }

    #[test]
    fn a_fresh_envelope_is_accepted() {
        let envelope = Envelope::new(vec![1, 2], NOW - 5, 1000);
        let verdict =
            judge_now(message(Topic::Video, &envelope.encode()), &StaticReputation::default());
        assert_eq!(verdict, Verdict::Accept(envelope));
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
            let bytes = Envelope::new(vec![], created_ms, ttl_ms).encode();
            judge_now(message(Topic::Tasks, &bytes), &nobody)
        };
        assert_eq!(at(NOW - 1001, 1000), Verdict::Ignore(Reason::Expired));
        assert_eq!(at(NOW - 120_001, u32::MAX), Verdict::Ignore(Reason::Expired));
        assert_eq!(at(NOW + 10_001, 1000), Verdict::Ignore(Reason::Future));
        assert!(matches!(at(NOW + 9_999, 1000), Verdict::Accept(_)));
        assert_eq!(at(u64::MAX, u32::MAX), Verdict::Ignore(Reason::Future));
        assert_eq!(at(0, u32::MAX), Verdict::Ignore(Reason::Expired));
    }

    #[test]
    fn votes_are_for_validators() {
        let bytes = Envelope::new(vec![], NOW, 1000).encode();
        let reputation = StaticReputation::default();
        let direct = message(Topic::Bft, &bytes);
        let passed_on = Received { from_author: false, ..direct };
        assert_eq!(judge_now(direct, &reputation), Verdict::Reject(Reason::NotValidator));
        assert_eq!(judge_now(passed_on, &reputation), Verdict::Ignore(Reason::NotValidator));
        reputation.set_validator(AUTHOR, true);
        assert!(matches!(judge_now(direct, &reputation), Verdict::Accept(_)));
    }

    #[test]
    fn a_graylisted_author_is_not_heard_and_its_messenger_not_punished() {
        let bytes = Envelope::new(vec![], NOW, 1000).encode();
        let reputation = StaticReputation::default();
        reputation.set(AUTHOR, Some(Standing { seeder: 0, ..Standing::NEUTRAL }));
        assert_eq!(
            judge_now(message(Topic::Video, &bytes), &reputation),
            Verdict::Ignore(Reason::AuthorGraylisted)
        );
    }

    #[test]
    fn another_kind_of_key_is_rejected() {
        let bytes = Envelope::new(vec![], NOW, 1000).encode();
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
                message(Topic::Challenges, &data), &StaticReputation::default(), LIMITS, now,
            );
        }
    }
}
