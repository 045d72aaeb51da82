//! `overlay.slots_missed`: whether a validator goes on authoring while its overlay is flooded.

use crate::{
    Failure, Outcome, Outcomes,
    process::{Load, NODE_CORE, Reaped, start_on, text},
    stats::real,
};
use serde_json::{Value, json};
use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::mpsc,
    thread::{self, sleep},
    time::Duration,
};

/// The engine id of AURA in a digest, and its index among the kinds of digest items: `PreRuntime`.
const AURA: &[u8; 4] = b"aura";
const PRE_RUNTIME: u8 = 6;
/// Longest wait for the node's first answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// Blocks that are authored before the flood begins.
const BEFORE: u64 = 2;
/// What floods it: honest messages as fast as it takes them, garbage, connections that come and go,
/// and everything else that a peer can do wrong.
const FLOOD: &str = "--peers 50 --rate 500 --churn 50 --bad-rate 200 --misbehave flood:4 \
    --misbehave malformed:4 --misbehave bad-signature:2 --misbehave ihave:2 --misbehave graft:2 \
    --misbehave oversized:2 --misbehave connect-disconnect:2 --misbehave never-read:4 \
    --misbehave trickle:4 --misbehave replay:2 --linger 0";

/// A real validator, alone on a dev chain and on one core, flooded from the other.
pub(crate) fn run(quick: bool) -> Outcomes {
    let program = env::var("NSN_NODE").map_err(|_| {
        "NSN_NODE does not say which nsn-node to flood; scripts/bench.sh builds one and says so"
    })?;
    let seconds = if quick { 12 } else { 300 };
    let dir = tempfile::tempdir()?;
    let node = Validator::start(&program, dir.path())?;
    let genesis = node.call("chain_getBlockHash", json!([0]))?;
    let genesis = genesis.as_str().ok_or("no genesis block")?.to_owned();
    while node.head()?.0 < BEFORE {
        sleep(Duration::from_millis(200));
    }
    let status = node.call("p2p_v1_status", json!([]))?;
    let peer = text(&status, "/peer_id")?;
    let target = format!("{}/p2p/{peer}", node.overlay);
    let calm = node.head()?;
    let load = Load::start(&target, &format!("--genesis {genesis} --duration {seconds} {FLOOD}"))?;
    let summary = load.finish()?;
    let flooded = node.head()?;
    let (blocks, slots) = (flooded.0 - calm.0, flooded.1 - calm.1);
    let missed = slots.saturating_sub(blocks);
    Ok(vec![Outcome {
        bench: "overlay.slots_missed",
        value: real(missed),
        unit: "slots",
        better: "lower",
        target: Some(0.0),
        detail: json!({
            "seconds": seconds,
            "slots": slots,
            "blocks": blocks,
            "published": summary.count("published"),
            "abuse": summary.count("abuse"),
            "connects": summary.count("connects"),
            "attempts": summary.count("attempts"),
        }),
    }])
}

struct Validator {
    rpc: String,
    /// Where its overlay listens.
    overlay: String,
    _child: Reaped,
}

impl Validator {
    fn start(program: &str, dir: &std::path::Path) -> Result<Self, Failure> {
        let overlay = format!("/ip4/127.0.0.1/tcp/{}", free_port()?);
        let mut command = Command::new(program);
        command.args(["--chain", "dev", "--alice", "--validator", "--force-authoring"]);
        command.args(["--no-mdns", "--no-telemetry", "--no-prometheus", "--rpc-port=0"]);
        command.args(["--port=0", "--unsafe-force-node-key-generation"]);
        command.args(["--overlay-listen-addr", &overlay]);
        command.args(["--shard-listen-addr", &format!("127.0.0.1:{}", free_port()?)]);
        command.arg("--base-path").arg(dir);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = Reaped(start_on(NODE_CORE, &mut command)?);
        let log = child.0.stderr.take().ok_or("no standard error")?;
        let (found, address) = mpsc::channel();
        // Reads to the end, so that the node is never held up by its log.
        thread::spawn(move || {
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                if let Some((_, rest)) = line.split_once("Running JSON-RPC server: addr=") {
                    let address = rest.split([',', ' ']).next().unwrap_or_default();
                    // Nobody waits for a second one.
                    let _ = found.send(address.to_owned());
                }
            }
        });
        let rpc = address.recv_timeout(PATIENCE).map_err(|_| "the node did not start")?;
        Ok(Self { rpc, overlay, _child: child })
    }

    /// The number of the best block, and the slot it was authored in.
    fn head(&self) -> Result<(u64, u64), Failure> {
        let header = self.call("chain_getHeader", json!([]))?;
        let number = u64::from_str_radix(text(&header, "/number")?.trim_start_matches("0x"), 16)?;
        let logs = header.pointer("/digest/logs").and_then(Value::as_array);
        let slot = logs.into_iter().flatten().filter_map(Value::as_str).find_map(slot);
        Ok((number, if number == 0 { 0 } else { slot.ok_or("a block without a slot")? }))
    }

    /// A JSON-RPC call over HTTP, one connection each.
    fn call(&self, method: &str, params: Value) -> Result<Value, Failure> {
        let body =
            json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
        let mut stream = TcpStream::connect(&self.rpc)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "POST / HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: \
             {}\r\nConnection: close\r\n\r\n{body}",
            self.rpc,
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").ok_or("the answer has no body")?;
        let answer: Value = serde_json::from_str(body)?;
        match answer.get("result") {
            Some(result) => Ok(result.clone()),
            None => Err(format!("{method}: {answer}").into()),
        }
    }
}

/// The slot in a digest item, in hex: `PreRuntime`, the engine, a length of 8, and the slot.
fn slot(item: &str) -> Option<u64> {
    let bytes = hex::decode(item.strip_prefix("0x")?).ok()?;
    let (kind, rest) = bytes.split_first()?;
    let rest = rest.strip_prefix(AURA)?.strip_prefix(&[8 << 2])?;
    (*kind == PRE_RUNTIME).then(|| rest.first_chunk().map(|slot| u64::from_le_bytes(*slot)))?
}

fn free_port() -> Result<u16, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
