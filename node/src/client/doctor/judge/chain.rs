//! The chain beside the overlay, and the clock, by the age of the best block.

use serde_json::json;

use super::not_told;
use crate::client::doctor::{
    answers::{Answer, Answers, Health},
    report::{Finding, Verdict, count, span},
};

/// The best block may be so many slots old: authors may miss some in a row.
const MAX_SLOTS_BEHIND: u64 = 20;

/// It may be so many slots ahead: authors' clocks are not the same to the second.
const MAX_SLOTS_AHEAD: u64 = 1;

pub(super) fn findings(answers: &Answers) -> Vec<Finding> {
    let health = match &answers.health {
        Answer::Is(health) => chain(health, answers),
        other => not_told("chain", other),
    };
    [health].into_iter().chain(clock(answers)).collect()
}

/// How old the best block is, in milliseconds: below zero if it is of the future.
fn age_ms(answers: &Answers) -> Option<i128> {
    let slot = answers.head.is()?.slot()?;
    let made = i128::from(slot).saturating_mul(answers.slot_ms?.into());
    Some(i128::from(answers.now_ms).saturating_sub(made))
}

fn slots(answers: &Answers, n: u64) -> i128 {
    i128::from(answers.slot_ms.unwrap_or_default()) * i128::from(n)
}

fn chain(health: &Health, answers: &Answers) -> Finding {
    let Health { peers, is_syncing, should_have_peers } = *health;
    let facts = json!({
        "peers": peers,
        "syncing": is_syncing,
        "best_block_age_ms": age_ms(answers).map(|age| age.to_string()),
    });
    let finding = if should_have_peers && peers == 0 {
        Finding::new("chain", Verdict::Problem, "The chain's own network has no peer.").advise(
            "give --bootnodes, or bootNodes in the chain's specification, and let TCP 30333 out (or \
             the port of --port)",
        )
    } else if is_syncing {
        let with = count(peers, "peer", "peers");
        let says = format!(
            "The chain is still being fetched, from {with}; reputations are of the blocks fetched so far."
        );
        Finding::new("chain", Verdict::Note, says)
    } else {
        match age_ms(answers) {
            Some(age) if age > slots(answers, MAX_SLOTS_BEHIND) => {
                let secs = u64::try_from(age / 1000).unwrap_or(u64::MAX);
                let says = format!(
                    "The newest block is {} old: the chain stands still, or this node hears nothing of \
                     it, or a clock is wrong.",
                    span(secs)
                );
                Finding::new("chain", Verdict::Warning, says).advise(
                    "compare with another node of the chain, and see that this machine's clock and the \
                     node's are set by NTP",
                )
            }
            _ => {
                let says =
                    format!("The chain runs, with {}.", count(peers, "other peer", "other peers"));
                Finding::new("chain", Verdict::Ok, says)
            }
        }
    };
    finding.facts(facts)
}

/// Nothing where no block tells: at genesis, or while old ones are fetched.
fn clock(answers: &Answers) -> Option<Finding> {
    let age = age_ms(answers)?;
    let facts = json!({ "best_block_age_ms": age.to_string() });
    let ahead = -age;
    if ahead > slots(answers, MAX_SLOTS_AHEAD) {
        let secs = u64::try_from(ahead / 1000).unwrap_or(u64::MAX);
        let says = format!(
            "The newest block is {} in the future: this machine's clock is slow.",
            span(secs)
        );
        let finding = Finding::new("clock", Verdict::Problem, says).advise(
            "set the clock by NTP (timedatectl set-ntp true): records and messages expire by it",
        );
        return Some(finding.facts(facts));
    }
    (age <= slots(answers, MAX_SLOTS_BEHIND)).then(|| {
        Finding::new("clock", Verdict::Ok, "The clock agrees with the newest block.").facts(facts)
    })
}
