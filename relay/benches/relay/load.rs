//! `nsn-load` as a process of its own, and what it and this one cost.

use crate::Failure;
use nix::sys::resource::{UsageWho, getrusage};
use nsn_relay::{ContentId, client::Address};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

/// The load tool, built with this program.
const TOOL: &str = env!("CARGO_BIN_EXE_nsn-load");

/// Viewers of one run.
pub(crate) struct Load {
    pub(crate) viewers: u32,
    /// Mbit/s each; 0 for as fast as it can.
    pub(crate) rate: u32,
    /// Viewers that come a second; 0 for all at once.
    pub(crate) ramp: u32,
    /// Seconds from the last one's coming.
    pub(crate) seconds: u32,
    /// Addresses in 127.0.0.0/8.
    pub(crate) sources: u32,
}

/// What came of a run.
pub(crate) struct Seen {
    /// What the tool said at its end.
    pub(crate) summary: Value,
    /// Seconds of processor time by the service, in this process, and by the viewers.
    pub(crate) service_cpu: f64,
    pub(crate) viewers_cpu: f64,
}

impl Load {
    /// Runs viewers against a service of this process, to their end.
    pub(crate) fn run(&self, address: Address, content: ContentId) -> Result<Seen, Failure> {
        let before = (cpu(UsageWho::RUSAGE_SELF)?, cpu(UsageWho::RUSAGE_CHILDREN)?);
        let numbers = [
            ("--viewers", self.viewers),
            ("--rate", self.rate),
            ("--ramp", self.ramp),
            ("--duration", self.seconds),
            ("--sources", self.sources),
        ];
        let mut command = Command::new(TOOL);
        command.args(["view", "--against", &address.to_string()]);
        command.args(["--content", &content.to_string()]);
        for (option, number) in numbers {
            command.args([option, &number.to_string()]);
        }
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().ok_or("no standard output")?;
        let mut last = String::new();
        for line in BufReader::new(out).lines() {
            last = line?;
        }
        if !child.wait()?.success() {
            return Err("nsn-load failed; what it said is above".into());
        }
        let summary: Value = serde_json::from_str(&last)?;
        let service_cpu = cpu(UsageWho::RUSAGE_SELF)? - before.0;
        let viewers_cpu = cpu(UsageWho::RUSAGE_CHILDREN)? - before.1;
        Ok(Seen { summary, service_cpu, viewers_cpu })
    }
}

/// Seconds of processor time so far.
fn cpu(who: UsageWho) -> Result<f64, Failure> {
    let usage = getrusage(who)?;
    let seconds =
        |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1_000_000.0;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

impl Seen {
    /// A number at a place in the summary, 0 where there is none.
    pub(crate) fn number(&self, place: &str) -> f64 {
        self.summary.pointer(place).and_then(Value::as_f64).unwrap_or_default()
    }

    /// What stands at a place in the summary, null where there is nothing.
    pub(crate) fn part(&self, place: &str) -> &Value {
        self.summary.pointer(place).unwrap_or(&Value::Null)
    }
}
