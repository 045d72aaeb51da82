//! `overlay.churn`, `overlay.burst` and `overlay.bytes_per_connection`: what connections cost, and
//! those that are refused.

use crate::{
    Failure, Outcome, Outcomes,
    node::{Report, Setup},
    process::{Load, NodeProcess},
    stats::{real, rounded},
};
use serde_json::{Value, json};
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

/// Longest wait for what a node is to do.
const PATIENCE: Duration = Duration::from_secs(30);

/// 50 connects and disconnects a second from 2,000 addresses, each under a fresh key, beside ten
/// peers that talk: by how much the least memory in use has grown.
pub(crate) fn churn(quick: bool) -> Outcomes {
    let (warm, time, window) = if quick { (4, 12, 3) } else { (30, 300, 20) };
    let [warm, time, window] = [warm, time, window].map(Duration::from_secs);
    let mut node = NodeProcess::start(&Setup { bound: 10, ..Setup::tcp()? })?;
    let load = Load::start(
        &node.address,
        &format!(
            "--peers 10 --rate 10 --churn 50 --sources 2000 --duration {}",
            (warm + time).as_secs() + 1
        ),
    )?;
    sleep(warm);
    let (started, before) = (Instant::now(), node.report()?);
    let first = least(&mut node, window)?;
    sleep(time.saturating_sub(started.elapsed() + window));
    let last = least(&mut node, window)?;
    let after = node.report()?;
    let summary = load.finish()?;
    // All have left but nothing was told to be forgotten sooner.
    let left = node.wait_for(PATIENCE, |r| r.connected == 0)?;
    Ok(vec![Outcome {
        bench: "overlay.churn",
        value: rounded((last - first) / 1e6),
        unit: "MB grown",
        better: "lower",
        target: Some(1.0),
        detail: json!({
            "seconds": time.as_secs(),
            "connects": summary.count("connects"),
            "refused": summary.errors("refused") + summary.errors("dial"),
            "bytes_after_warm_up": first,
            "bytes_at_the_end": last,
            "bytes_when_all_have_left": left.live,
            "cpu_share_of_a_core":
                rounded(real(after.cpu_us - before.cpu_us) / 1e6 / time.as_secs_f64()),
        }),
    }])
}

/// The least memory in use within a time: connections that are open for a second come on top of it.
fn least(node: &mut NodeProcess, within: Duration) -> Result<f64, Failure> {
    let (started, mut least) = (Instant::now(), u64::MAX);
    while started.elapsed() < within {
        least = least.min(node.report()?.live);
        sleep(Duration::from_millis(100));
    }
    Ok(real(least))
}

/// Peers that the node knows when the burst comes.
const KNOWN: u32 = 10;
/// Attempts of a burst.
const ATTEMPTS: u32 = 1000;

struct Burst {
    /// Known peers that are in at the end.
    known: u64,
    cpu_us_per_refusal: f64,
    bytes_per_refusal: f64,
    detail: Value,
}

/// A thousand attempts at once, from one address and from 200, while known peers come back.
pub(crate) fn burst(quick: bool) -> Outcomes {
    let hold = if quick { 4 } else { 9 };
    let (one, many) = (one_burst(1, hold)?, one_burst(200, hold)?);
    let known = one.known.min(many.known);
    Ok(vec![
        Outcome {
            bench: "overlay.burst",
            value: rounded(real(known) / f64::from(KNOWN) * 100.0),
            unit: "% of known peers let in",
            better: "higher",
            target: Some(100.0),
            detail: json!({ "one_address": one.detail, "200_addresses": many.detail }),
        },
        Outcome {
            bench: "overlay.burst.cpu_us_per_refusal",
            value: rounded(one.cpu_us_per_refusal.max(many.cpu_us_per_refusal)),
            unit: "us",
            better: "lower",
            target: None,
            detail: json!({
                "one_address": rounded(one.cpu_us_per_refusal),
                "200_addresses": rounded(many.cpu_us_per_refusal),
            }),
        },
        Outcome {
            bench: "overlay.burst.bytes_per_refusal",
            value: rounded(one.bytes_per_refusal.max(many.bytes_per_refusal)),
            unit: "bytes",
            better: "lower",
            target: None,
            detail: json!({
                "one_address": rounded(one.bytes_per_refusal),
                "200_addresses": rounded(many.bytes_per_refusal),
            }),
        },
    ])
}

/// One burst, measured for `hold` seconds.
fn one_burst(sources: u32, hold: u64) -> Result<Burst, Failure> {
    let setup = Setup { bound: KNOWN, limited: true, ..Setup::tcp()? };
    let mut node = NodeProcess::start(&setup)?;
    let known =
        |seconds: u64| format!("--peers {KNOWN} --rate 0 --ramp 0 --duration {seconds} --linger 0");
    Load::start(&node.address, &known(2))?.finish()?;
    node.wait_for(PATIENCE, |r| r.connected == 0)?;
    // What the first connections leave behind is not the burst's.
    node.reset()?;
    let before = node.report()?;
    let burst = Load::start(
        &node.address,
        &format!(
            "--peers 0 --burst {ATTEMPTS} --sources {sources} --duration {} --linger 0 --seed 1",
            hold + 2
        ),
    )?;
    sleep(Duration::from_millis(300));
    let back = Load::start(&node.address, &known(hold + 1))?;
    sleep(Duration::from_secs(hold));
    let after = node.report()?;
    let (back, burst) = (back.finish()?, burst.finish()?);
    let (admitted, refused) =
        (burst.count("connects"), burst.count("attempts") - burst.count("connects"));
    let per_refusal = |amount: u64| real(amount) / real(refused.max(1));
    let Report { cpu_us, peak, .. } = after;
    let (cpu, bytes) =
        (per_refusal(cpu_us - before.cpu_us), per_refusal(peak.saturating_sub(before.live)));
    Ok(Burst {
        known: back.count("connected"),
        cpu_us_per_refusal: cpu,
        bytes_per_refusal: bytes,
        detail: json!({
            "attempts": burst.count("attempts"),
            "admitted": admitted,
            "refused": refused,
            "known_peers_in": back.count("connected"),
            "known_peers_attempts": back.count("attempts"),
            "peak_bytes": peak.saturating_sub(before.live),
        }),
    })
}

/// Connections of the next benchmark: below the 204 that a node lets in by default.
const IDLE: u32 = 200;

/// What a connection takes that speaks gossip and says nothing, over TCP and over QUIC.
pub(crate) fn idle(quick: bool) -> Outcomes {
    let settle = if quick { 2 } else { 30 };
    let tcp = one_idle("/ip4/127.0.0.1/tcp/0", settle)?;
    let quic = one_idle("/ip4/127.0.0.1/udp/0/quic-v1", settle)?;
    Ok(vec![Outcome {
        bench: "overlay.bytes_per_connection",
        value: rounded(tcp.0.max(quic.0)),
        unit: "bytes",
        better: "lower",
        target: Some(300_000.0),
        detail: json!({
            "tcp": rounded(tcp.0),
            "tcp_connections": tcp.1,
            "quic": rounded(quic.0),
            "quic_connections": quic.1,
        }),
    }])
}

/// Bytes for each connection, and how many there were.
fn one_idle(listen: &str, settle: u64) -> Result<(f64, u64), Failure> {
    let setup = Setup { listen: listen.parse()?, bound: IDLE, ..Setup::tcp()? };
    let mut node = NodeProcess::start(&setup)?;
    sleep(Duration::from_secs(1));
    let before = node.report()?;
    let arrive = Duration::from_secs(15);
    let load = Load::start(
        &node.address,
        &format!("--peers {IDLE} --rate 0 --linger 0 --duration {}", settle + arrive.as_secs()),
    )?;
    node.wait_for(arrive, |r| r.connected == u64::from(IDLE))?;
    sleep(Duration::from_secs(settle));
    let with = node.report()?;
    drop(load);
    let each = real(with.live.saturating_sub(before.live)) / real(with.connected.max(1));
    Ok((each, with.connected))
}
