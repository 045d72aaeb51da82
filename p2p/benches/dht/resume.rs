//! `dht.resume`: a node is killed in the middle of announcing, and comes back.

use crate::{
    Failure, Outcome, Outcomes,
    net::{found, key, provide},
    stats::{real, rounded},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use nsn_p2p::{
    Config, Multiaddr, Standing,
    testnet::{GENESIS, Node, StaticReputation, Testnet, config, numbered},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    env,
    io::{BufRead as _, BufReader, Lines, Write as _, stderr, stdin, stdout},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tokio::time::{sleep, timeout};

/// Nodes that are told, and keys of the one that is killed.
const NODES: u32 = 24;
const KEYS: usize = 10_000;
const QUICK_KEYS: usize = 3_000;
/// It is killed once so many in a hundred are announced.
const KILLED_AT: usize = 50;
/// How often it says how far it is.
const SAYS_EVERY: Duration = Duration::from_millis(10);
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(300);
/// Number of its key.
const NUMBER: u32 = 1 << 20;
/// Lookups in flight while it is read what was announced.
const READS_AT_ONCE: usize = 64;

/// What the node that is killed is told.
#[derive(Serialize, Deserialize)]
struct Setup {
    folder: PathBuf,
    bootnodes: Vec<Multiaddr>,
    keys: usize,
}

/// How far it is.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Progress {
    /// Keys that it had in mind when it started, before it was told to provide any.
    restored: usize,
    /// Of the keys that it was told to provide, those it knew to be announced.
    fresh: usize,
    /// Keys that it announced since its start.
    announced: u64,
    /// Keys that are still to be announced, and regions in which peers are still to be told.
    left: usize,
}

fn tcp(config: &mut Config) {
    config.listen = "/ip4/127.0.0.1/tcp/0".parse().into_iter().collect();
}

/// On real sockets, since there are two processes.
pub(crate) fn run(quick: bool) -> Outcomes {
    let keys = if quick { QUICK_KEYS } else { KEYS };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let net = runtime.block_on(Testnet::join(NODES, tcp))?;
    let bootnodes = net.nodes.iter().take(3).map(Node::address);
    let bootnodes = runtime.block_on(futures::future::try_join_all(bootnodes))?;
    // A super-node is bound to an account.
    net.reputation.set(numbered(NUMBER)?.key(), Some(Standing::NEUTRAL));
    let folder = tempfile::tempdir()?;
    let setup = Setup { folder: folder.path().to_owned(), bootnodes, keys };

    writeln!(stderr(), "  {keys} keys; it is killed when {KILLED_AT} % are announced ...")?;
    let mut first = Provider::start(&setup)?;
    let half = u64::try_from(keys * KILLED_AT / 100)?;
    let before = first.wait_for(|progress| progress.announced >= half)?;
    let before = Progress { announced: first.kill()?.unwrap_or(before).announced, ..before };

    writeln!(stderr(), "  it comes back ...")?;
    let mut second = Provider::start(&setup)?;
    let after = second.wait_for(|progress| progress.left == 0)?;
    second.kill()?;
    let provider = numbered(NUMBER)?.peer_id();
    let read = runtime.block_on(found(&net.nodes, (0..keys).map(key), provider, READS_AT_ONCE));
    runtime.block_on(net.stop())?;

    let fresh = u64::try_from(after.fresh)?;
    let due = u64::try_from(keys)?.saturating_sub(fresh);
    Ok(vec![
        Outcome {
            bench: "dht.resume",
            value: real(after.announced.saturating_sub(due)),
            unit: "fresh keys announced again",
            better: "lower",
            target: Some(0.0),
            detail: json!({
                "how": "real nodes on loopback TCP; the one that is killed in a process of its own",
                "nodes": NODES,
                "keys": keys,
                "announced_before_the_kill": before.announced,
                "known_to_be_fresh_after_it": after.fresh,
                "announced_and_not_on_disk_yet": before.announced.saturating_sub(fresh),
                "announced_after_it": after.announced,
            }),
        },
        Outcome {
            bench: "dht.resume.forgotten",
            value: real(keys.saturating_sub(after.restored.min(read)).try_into()?),
            unit: "keys",
            better: "lower",
            target: Some(0.0),
            detail: json!({
                "provided_before_the_kill": keys,
                "in_mind_after_it": after.restored,
                "found_by_others_in_the_end": read,
                "found_share": rounded(real(read.try_into()?) / real(keys.try_into()?)),
            }),
        },
    ])
}

/// The node that is killed.
struct Provider {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// It ends when this closes.
    _stdin: Option<ChildStdin>,
}

impl Provider {
    fn start(setup: &Setup) -> Result<Self, Failure> {
        let mut command = Command::new(env::current_exe()?);
        command.arg("--provider").arg(serde_json::to_string(setup)?);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().ok_or("no standard output")?;
        let stdin = child.stdin.take();
        Ok(Self { child, lines: BufReader::new(stdout).lines(), _stdin: stdin })
    }

    fn next(&mut self) -> Result<Option<Progress>, Failure> {
        let Some(line) = self.lines.next() else { return Ok(None) };
        // What it was saying when it was killed is no whole line.
        Ok(serde_json::from_str(&line?).ok())
    }

    fn wait_for(&mut self, wanted: impl Fn(&Progress) -> bool) -> Result<Progress, Failure> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let progress = self.next()?.ok_or("it has ended; what it said is above")?;
            if wanted(&progress) {
                return Ok(progress);
            }
        }
        Err("it did not come so far in time".into())
    }

    /// Ends it as a power cut would; the last it said.
    fn kill(&mut self) -> Result<Option<Progress>, Failure> {
        kill(Pid::from_raw(self.child.id().try_into()?), Signal::SIGKILL)?;
        self.child.wait()?;
        let mut last = None;
        while let Some(progress) = self.next()? {
            last = Some(progress);
        }
        Ok(last)
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Provides keys until it is killed, or standard input ends.
pub(crate) fn serve(setup: &str) -> Result<(), Failure> {
    let setup: Setup = serde_json::from_str(setup)?;
    // Whoever started it has gone when this ends.
    thread::spawn(|| {
        let _ = stdin().lines().count();
        std::process::exit(1);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(announce(&setup))
}

async fn announce(setup: &Setup) -> Result<(), Failure> {
    let mut config = config();
    tcp(&mut config);
    config.dir = Some(setup.folder.clone());
    config.bootstrap.bootnodes = setup.bootnodes.clone();
    let (identity, chain) = (numbered(NUMBER)?, Arc::new(StaticReputation::default()));
    chain.set(identity.key(), Some(Standing::NEUTRAL));
    let node = Node::start(config, identity, GENESIS, &chain)?;
    node.wait_for("peers", |c| c.routing_table >= 10).await?;
    let restored = node.overlay.dht.status().await?.sweep.unclaimed;
    let fresh = provide(&node, (0..setup.keys).map(key)).await?;
    let say = async {
        loop {
            let sweep = node.overlay.dht.status().await?.sweep;
            let (announced, left) = (sweep.done.announced, sweep.unannounced + sweep.visits);
            let progress = Progress { restored, fresh, announced, left };
            writeln!(stdout(), "{}", serde_json::to_string(&progress)?)?;
            sleep(SAYS_EVERY).await;
        }
    };
    timeout(PATIENCE * 2, say).await?
}
