//! What a program of benchmarks prints, and how it is told what to run.

use serde::Serialize;
use serde_json::Value;
use std::{
    error::Error,
    io::{Write as _, stderr, stdout},
};

/// What a benchmark found.
#[derive(Serialize)]
pub(crate) struct Outcome {
    pub(crate) bench: &'static str,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) better: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<f64>,
    pub(crate) detail: Value,
}

pub(crate) type Failure = Box<dyn Error + Send + Sync>;
pub(crate) type Outcomes = Result<Vec<Outcome>, Failure>;

/// What a benchmark prints, and what runs it, quickly or not.
pub(crate) type Bench = (&'static [&'static str], fn(bool) -> Outcomes);

/// Runs those of the benchmarks that begin with one of the names in `args`, all without one. A number
/// never makes it fail.
pub(crate) fn run(benches: &[Bench], args: impl Iterator<Item = String>) -> Result<(), Failure> {
    let (mut names, mut quick) = (Vec::new(), false);
    for arg in args {
        match arg.as_str() {
            "--quick" => quick = true,
            // What cargo adds.
            "--bench" => {}
            _ => names.push(arg),
        }
    }
    let picked =
        |bench: &str| names.is_empty() || names.iter().any(|name| bench.starts_with(name.as_str()));
    let mut failed: Vec<&str> = Vec::new();
    for (prints, run) in benches {
        if !prints.iter().any(|bench| picked(bench)) {
            continue;
        }
        writeln!(stderr(), "{} ...", prints.join(", "))?;
        match run(quick) {
            Ok(outcomes) => {
                for outcome in outcomes {
                    writeln!(stdout(), "{}", serde_json::to_string(&outcome)?)?;
                }
            }
            // The others can run all the same.
            Err(error) => {
                writeln!(stderr(), "could not run: {error}")?;
                failed.extend(prints.first().copied());
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("could not run: {failed:?}").into()) }
}
