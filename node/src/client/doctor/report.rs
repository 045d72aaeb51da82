//! What a report is made of, and how a person reads it.

use std::fmt::{self, Write as _};

use serde::Serialize;
use serde_json::Value;

/// How it stands with what was looked at, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// Something does not work. The command ends with 1.
    Problem,
    /// Something works worse than it could, or will not for long.
    Warning,
    /// It cannot be told.
    Unknown,
    /// Something to know; nothing is wrong.
    Note,
    /// It works.
    Ok,
}

impl Verdict {
    const ALL: [Self; 5] = [Self::Problem, Self::Warning, Self::Unknown, Self::Note, Self::Ok];

    /// The heading over all that stand so.
    const fn heading(self) -> &'static str {
        match self {
            Self::Problem => "Problems",
            Self::Warning => "Warnings",
            Self::Unknown => "Not known",
            Self::Note => "Good to know",
            Self::Ok => "Works",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Finding {
    /// What was looked at; a fixed name.
    pub(super) check: &'static str,
    /// How it stands.
    pub(super) verdict: Verdict,
    /// That in plain sentences.
    pub(super) says: String,
    /// What to do; null where there is nothing to do.
    #[serde(rename = "do")]
    pub(super) advice: Option<String>,
    /// What was judged by.
    pub(super) facts: Value,
}

impl Finding {
    /// A finding without advice and facts.
    pub(super) fn new(check: &'static str, verdict: Verdict, says: impl Into<String>) -> Self {
        Self { check, verdict, says: says.into(), advice: None, facts: serde_json::json!({}) }
    }

    pub(super) fn advise(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }

    pub(super) fn facts(self, facts: Value) -> Self {
        Self { facts, ..self }
    }
}

/// The node that was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Asked {
    /// Where.
    pub(super) url: String,
    /// Whether it answered.
    pub(super) answered: bool,
    /// What it runs.
    pub(super) name: Option<String>,
    /// Which version of it.
    pub(super) version: Option<String>,
    /// Its chain.
    pub(super) chain: Option<String>,
    /// Its PeerId on the overlay.
    pub(super) peer_id: Option<String>,
}

/// All that was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Report {
    pub(super) node: Asked,
    /// The worst first.
    pub(super) findings: Vec<Finding>,
    /// In one line.
    pub(super) summary: String,
}

impl Report {
    pub(super) fn new(node: Asked, mut findings: Vec<Finding>) -> Self {
        // Stable: within a verdict they stay in the order in which they were looked at.
        findings.sort_by_key(|finding| finding.verdict);
        let summary = summary(&findings);
        Self { node, findings, summary }
    }

    /// How the process ends: 2 if no node could be asked, 1 if there is a problem, else 0.
    pub(super) fn code(&self) -> u8 {
        let problem = self.findings.iter().any(|finding| finding.verdict == Verdict::Problem);
        match (self.node.answered, problem) {
            (false, _) => 2,
            (true, true) => 1,
            (true, false) => 0,
        }
    }
}

fn summary(findings: &[Finding]) -> String {
    let of = |verdict, one: &str, many: &str| {
        let checks: Vec<&str> =
            findings.iter().filter(|f| f.verdict == verdict).map(|f| f.check).collect();
        let word = if checks.len() == 1 { one } else { many };
        (!checks.is_empty()).then(|| format!("{} {word} ({})", checks.len(), checks.join(", ")))
    };
    let parts = [
        of(Verdict::Problem, "problem", "problems"),
        of(Verdict::Warning, "warning", "warnings"),
        of(Verdict::Unknown, "thing not known", "things not known"),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "all is well".to_owned() } else { parts.join(", ") }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        let Asked { url, name, version, chain, peer_id, .. } = &self.node;
        if let Some(name) = name {
            write!(text, "{name}")?;
            for (word, value) in [("", version), ("on ", chain), ("as ", peer_id)] {
                if let Some(value) = value {
                    write!(text, " {word}{value}")?;
                }
            }
            writeln!(text, ", at {url}")?;
        }
        for verdict in Verdict::ALL {
            let mut these = self.findings.iter().filter(|f| f.verdict == verdict).peekable();
            if these.peek().is_some() {
                writeln!(text, "\n{}", verdict.heading())?;
            }
            for finding in these {
                writeln!(text, "  {}: {}", finding.check, finding.says)?;
                if let Some(advice) = &finding.advice {
                    writeln!(text, "      What to do: {advice}")?;
                }
            }
        }
        write!(f, "{text}\nIn short: {}.", self.summary)
    }
}

/// `1 peer`, `2 peers`.
pub(super) fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// `50 s`, `12 min`, `5 h`, `3 days`: rounded down.
pub(super) fn span(secs: u64) -> String {
    match secs {
        0..120 => format!("{secs} s"),
        120..7200 => format!("{} min", secs / 60),
        7200..172_800 => format!("{} h", secs / 3600),
        _ => format!("{} days", secs / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(answered: bool, verdicts: &[Verdict]) -> Report {
        let names = ["one", "two", "three", "four", "five"];
        let findings = verdicts.iter().zip(names);
        let findings = findings.map(|(verdict, name)| Finding::new(name, *verdict, "so it is."));
        Report::new(Asked { answered, ..Asked::default() }, findings.collect())
    }

    #[test]
    fn the_worst_stands_first_and_the_rest_in_the_order_of_looking() {
        use Verdict::{Note, Ok, Problem, Warning};
        let report = report(true, &[Ok, Warning, Problem, Note, Warning]);
        let order: Vec<&str> = report.findings.iter().map(|finding| finding.check).collect();
        assert_eq!(order, ["three", "two", "five", "four", "one"]);
        let text = report.to_string();
        let at = |word: &str| text.find(word).unwrap();
        assert!(at("Problems") < at("Warnings") && at("Warnings") < at("Good to know"), "{text}");
        assert_eq!(report.summary, "1 problem (three), 2 warnings (two, five)");
        assert!(text.ends_with("In short: 1 problem (three), 2 warnings (two, five)."), "{text}");
    }

    #[test]
    fn only_problems_and_silence_change_how_the_process_ends() {
        use Verdict::{Note, Ok, Problem, Unknown, Warning};
        assert_eq!(report(true, &[Ok, Note, Unknown, Warning]).code(), 0);
        assert_eq!(report(true, &[Ok, Problem]).code(), 1);
        assert_eq!(report(false, &[Problem]).code(), 2);
        assert_eq!(report(false, &[]).code(), 2);
        assert_eq!(report(true, &[Ok, Note]).summary, "all is well");
    }

    #[test]
    fn json_has_the_words_that_programs_look_for() {
        let finding =
            Finding::new("stun", Verdict::Problem, "none answers.").advise("ask another.");
        let json = serde_json::to_value(finding).unwrap();
        let wanted = serde_json::json!({
            "check": "stun", "verdict": "problem", "says": "none answers.", "do": "ask another.",
            "facts": {},
        });
        assert_eq!(json, wanted);
        assert_eq!(
            serde_json::to_value(Finding::new("x", Verdict::Ok, "")).unwrap()["do"],
            Value::Null
        );
    }

    #[test]
    fn spans_are_short() {
        assert_eq!(
            [5, 119, 120, 7199, 7200, 172_800].map(span),
            ["5 s", "119 s", "2 min", "119 min", "2 h", "2 days"]
        );
        assert_eq!(count(1, "peer", "peers"), "1 peer");
        assert_eq!(count(0, "peer", "peers"), "0 peers");
    }
}
