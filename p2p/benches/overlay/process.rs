//! The processes of a benchmark: the node that is measured on one core, the load on another.

use crate::{
    Failure,
    node::{Report, Setup},
};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use serde_json::Value;
use std::{
    env,
    io::{BufRead, BufReader, Lines, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// The load tool, built with this program.
const SWARM: &str = env!("CARGO_BIN_EXE_nsn-swarm");

/// The core of the node that is measured, and that of the load.
pub(crate) const NODE_CORE: usize = 0;
pub(crate) const LOAD_CORE: usize = 1;

/// Starts a program on one core. A process inherits the cores of the thread that starts it, so this
/// thread goes there and comes back. Where there is no such core, all stay as they are.
pub(crate) fn start_on(core: usize, command: &mut Command) -> Result<Child, Failure> {
    let this = Pid::from_raw(0);
    let all = sched_getaffinity(this)?;
    if core < CpuSet::count() && all.is_set(core)? {
        let mut one = CpuSet::new();
        one.set(core)?;
        sched_setaffinity(this, &one)?;
    }
    let child = command.spawn();
    sched_setaffinity(this, &all)?;
    Ok(child?)
}

/// Ends a process however its owner ends.
pub(crate) struct Reaped(pub(crate) Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

type Output = Lines<BufReader<ChildStdout>>;

fn output(child: &mut Child) -> Result<Output, Failure> {
    Ok(BufReader::new(child.stdout.take().ok_or("no standard output")?).lines())
}

fn next(lines: &mut Output) -> Result<Value, Failure> {
    let line = lines.next().ok_or("the process has ended; what it said is above")??;
    Ok(serde_json::from_str(&line)?)
}

/// The text at a place in a JSON value, such as `/event`.
pub(crate) fn text<'a>(value: &'a Value, place: &str) -> Result<&'a str, Failure> {
    let text = value.pointer(place).and_then(Value::as_str);
    text.ok_or_else(|| format!("there is no text at {place} of {value}").into())
}

/// A node in a process of its own.
pub(crate) struct NodeProcess {
    /// Where it listens, with its PeerId.
    pub(crate) address: String,
    lines: Output,
    stdin: ChildStdin,
    _child: Reaped,
}

impl NodeProcess {
    pub(crate) fn start(setup: &Setup) -> Result<Self, Failure> {
        let mut command = Command::new(env::current_exe()?);
        command.arg("--node").arg(serde_json::to_string(setup)?);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Reaped(start_on(NODE_CORE, &mut command)?);
        let stdin = child.0.stdin.take().ok_or("no standard input")?;
        let mut lines = output(&mut child.0)?;
        let address = text(&next(&mut lines)?, "/address")?.to_owned();
        Ok(Self { address, lines, stdin, _child: child })
    }

    /// Forgets latencies, and the most memory that was used.
    pub(crate) fn reset(&mut self) -> Result<(), Failure> {
        Ok(writeln!(self.stdin, "reset")?)
    }

    pub(crate) fn report(&mut self) -> Result<Report, Failure> {
        writeln!(self.stdin, "report")?;
        Ok(serde_json::from_value(next(&mut self.lines)?)?)
    }

    /// Waits until what it says of itself is as wanted, for so long at most; the last report either
    /// way.
    pub(crate) fn wait_for(
        &mut self,
        limit: Duration,
        wanted: impl Fn(&Report) -> bool,
    ) -> Result<Report, Failure> {
        let until = Instant::now() + limit;
        loop {
            let report = self.report()?;
            if wanted(&report) || Instant::now() > until {
                return Ok(report);
            }
            sleep(Duration::from_millis(100));
        }
    }
}

/// `nsn-swarm` against a node.
pub(crate) struct Load {
    lines: Output,
    _child: Reaped,
}

impl Load {
    /// Starts it with these arguments, written with spaces between them.
    pub(crate) fn start(against: &str, args: &str) -> Result<Self, Failure> {
        let mut command = Command::new(SWARM);
        command.args(["--against", against]).args(args.split_whitespace());
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = Reaped(start_on(LOAD_CORE, &mut command)?);
        Ok(Self { lines: output(&mut child.0)?, _child: child })
    }

    /// Waits for its end; its last line.
    pub(crate) fn finish(mut self) -> Result<Summary, Failure> {
        loop {
            let line = next(&mut self.lines)?;
            if text(&line, "/event")? == "summary" {
                return Ok(Summary(line));
            }
        }
    }
}

/// What the load says at its end.
pub(crate) struct Summary(Value);

impl Summary {
    pub(crate) fn count(&self, what: &str) -> u64 {
        self.0.get(what).and_then(Value::as_u64).unwrap_or_default()
    }

    /// Errors of a kind.
    pub(crate) fn errors(&self, kind: &str) -> u64 {
        self.0.get("errors").and_then(|e| e.get(kind)).and_then(Value::as_u64).unwrap_or_default()
    }
}
