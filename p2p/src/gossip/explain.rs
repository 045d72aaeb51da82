//! Why a peer is scored so.

use super::{
    Config, Topic,
    score::{self, Application, Thresholds},
    validate::Reason,
};
use crate::Standing;
use serde::Serialize;
use std::time::Duration;

/// What one gossipsub behaviour makes of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct BehaviourScore {
    /// `control` or `bulk`.
    pub channel: &'static str,
    /// The whole score, the application's part included.
    pub score: f64,
    /// What gossipsub measured itself: time in the mesh and first deliveries above zero; bad
    /// messages, broken promises, crowded addresses and full queues below.
    pub measured: f64,
}

/// How many messages that a peer passed on were refused for a reason since it connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RefusedCount {
    /// The reason, as in metrics.
    pub reason: &'static str,
    /// Messages.
    pub count: u64,
}

/// A peer's gossip score and where it comes from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PeerScore {
    /// Its PeerId.
    pub peer_id: String,
    /// Whether it is connected. If not, its score is what it would come back with.
    pub connected: bool,
    /// The lower of the behaviours' scores, which is the one that [`PeerView`](crate::peers::PeerView)
    /// shows.
    pub score: f64,
    /// By behaviour.
    pub behaviours: Vec<BehaviourScore>,
    /// What this node adds to both.
    pub application: Application,
    /// The standing of the account it is bound to; nothing if it is unbound.
    pub standing: Option<Standing>,
    /// Its faults, each counting less with time.
    pub guilt: f64,
    /// What scores are held against.
    pub thresholds: Thresholds,
    /// Topics in whose mesh it is.
    pub meshes: Vec<&'static str>,
    /// Topics it listens to.
    pub topics: Vec<&'static str>,
    /// Its messages that were refused since it connected.
    pub refused: Vec<RefusedCount>,
    /// All that in plain sentences.
    pub words: Vec<String>,
}

/// What the sentences are made of.
pub(super) struct Facts<'a> {
    pub(super) score: f64,
    pub(super) behaviours: &'a [BehaviourScore],
    pub(super) application: &'a Application,
    pub(super) standing: Option<Standing>,
    pub(super) guilt: f64,
    pub(super) meshes: &'a [&'static str],
    pub(super) refused: &'a [(Reason, u64)],
}

/// Points of which nobody needs to hear.
const NOTHING: f64 = 0.05;

pub(super) fn words(facts: &Facts<'_>, config: &Config) -> Vec<String> {
    let mut words =
        vec![format!("Its score is {:.1}: it {}.", facts.score, score::effect(facts.score))];
    words.push(reputation(facts));
    for behaviour in facts.behaviours.iter().filter(|b| b.measured.abs() > NOTHING) {
        let what = if behaviour.measured > 0.0 { "earns it" } else { "costs it" };
        words.push(format!(
            "What it does on the {} topics {what} {:.1} points.",
            behaviour.channel,
            behaviour.measured.abs()
        ));
    }
    for (reason, count) in facts.refused {
        words.push(match count {
            1 => format!("Since it connected, 1 of its messages was {}.", reason.words()),
            n => format!("Since it connected, {n} of its messages were {}.", reason.words()),
        });
    }
    if facts.application.faults < -NOTHING {
        words.push(format!(
            "Faults of the past weigh like {:.1} bad messages and cost {:.1} points, whether it stays \
             or comes back; this fades, their weight by half in {}.",
            facts.guilt,
            -facts.application.faults,
            in_words(config.ledger_half_life),
        ));
    }
    if let Some(reason) = facts.application.not_admitted {
        words.push(match reason {
            super::NotAdmitted::Unbound => {
                "It is kept out of the meshes because unbound peers hold the places they may."
            }
            super::NotAdmitted::IpGroup => {
                "It is kept out of the meshes because peers of its network hold the places they may."
            }
            super::NotAdmitted::Source => {
                "It is kept out of the meshes because it is unbound and others misbehaved from its \
                 address."
            }
        }
        .to_owned());
    }
    words.push(match facts.meshes {
        [] => "It is in none of our meshes.".to_owned(),
        topics => format!("It is in our mesh of {}.", topics.join(", ")),
    });
    words
}

fn reputation(facts: &Facts<'_>) -> String {
    let points = facts.application.reputation;
    match facts.standing {
        None => "It is bound to no account, so the chain says nothing of it.".to_owned(),
        Some(standing) if standing.graylisted() => format!(
            "A part of its reputation is below {}: it is graylisted, {points:+.1} points.",
            crate::GRAYLIST_BELOW
        ),
        Some(standing) => {
            format!(
                "Its reputation on the chain is {} of 1000: {points:+.1} points.",
                standing.total
            )
        }
    }
}

fn in_words(duration: Duration) -> String {
    match duration.as_secs() {
        secs if secs >= 120 => format!("{} minutes", secs / 60),
        secs => format!("{secs} seconds"),
    }
}

/// Labels of topics.
pub(super) fn labels(topics: impl Iterator<Item = Topic>) -> Vec<&'static str> {
    topics.map(Topic::label).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gossip::NotAdmitted;

    fn told(application: Application, facts: Facts<'_>) -> String {
        words(&Facts { application: &application, ..facts }, &Config::default()).join("\n")
    }

    #[test]
    fn a_peer_that_sent_garbage_is_explained() {
        let application = Application::new(None, 3.0, None);
        let behaviours = [BehaviourScore { channel: "control", score: -180.0, measured: -90.0 }];
        let text = told(
            application,
            Facts {
                score: -180.0,
                behaviours: &behaviours,
                application: &application,
                standing: None,
                guilt: 3.0,
                meshes: &[],
                refused: &[(Reason::Malformed, 3), (Reason::Expired, 1)],
            },
        );
        assert_eq!(
            text,
            "Its score is -180.0: it is graylisted: nothing it sends is read.\n\
             It is bound to no account, so the chain says nothing of it.\n\
             What it does on the control topics costs it 90.0 points.\n\
             Since it connected, 3 of its messages were malformed.\n\
             Since it connected, 1 of its messages was expired.\n\
             Faults of the past weigh like 3.0 bad messages and cost 90.0 points, whether it stays or \
             comes back; this fades, their weight by half in 10 minutes.\n\
             It is in none of our meshes."
        );
    }

    #[test]
    fn a_good_peer_and_one_without_a_place_are_explained() {
        for (not_admitted, wanted) in [
            (None, "may be in our meshes"),
            (Some(NotAdmitted::Unbound), "unbound peers hold the places"),
            (Some(NotAdmitted::IpGroup), "peers of its network hold the places"),
            (Some(NotAdmitted::Source), "misbehaved from its address"),
        ] {
            let application = Application::new(Some(Standing::NEUTRAL), 0.0, not_admitted);
            let text = told(
                application,
                Facts {
                    score: application.total,
                    behaviours: &[],
                    application: &application,
                    standing: Some(Standing::NEUTRAL),
                    guilt: 0.0,
                    meshes: &["video", "tasks"],
                    refused: &[],
                },
            );
            assert!(text.contains(wanted), "{text}");
            assert!(text.contains("500 of 1000: +1.0 points"), "{text}");
            assert!(text.contains("our mesh of video, tasks."), "{text}");
        }
    }
}
