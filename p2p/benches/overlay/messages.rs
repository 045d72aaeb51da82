//! `overlay.node1000` and `overlay.cpu_vs_bare_gossipsub`: one node under a thousand messages a
//! second.

use crate::{
    Failure, Outcome, Outcomes,
    node::{Report, Setup},
    process::{Load, NodeProcess},
    stats::{median, quantile, real, rounded},
};
use serde_json::json;
use std::{thread::sleep, time::Duration};

/// Peers that publish, and messages a second of all of them.
const PEERS: u32 = 100;
const RATE: u32 = 1000;
/// Payload of a message, in bytes. With envelope, seal and author about 430 on the wire.
const SIZE: u32 = 256;
/// Peers connect within 2.5 s, 40 a second, and meshes form in the next heartbeats.
const WARM: Duration = Duration::from_secs(4);
/// The load goes on for so long after what is measured.
const AFTER: Duration = Duration::from_secs(1);

/// What a node did within the time that was measured, and in all.
struct Run {
    /// CPU time in microseconds for each message that local subscribers had.
    cpu_us: f64,
    /// Messages that local subscribers had in that time.
    messages: u64,
    /// At its end.
    report: Report,
    /// Of the whole run, from the first message to the last.
    published: u64,
    lost: u64,
    /// What light peers in its meshes had from it, and their 99th percentile in milliseconds.
    forwarded: u64,
    closed: u64,
}

fn run(bare: bool, time: Duration) -> Result<Run, Failure> {
    let setup = Setup { bare, bound: PEERS, ..Setup::tcp()? };
    let mut node = NodeProcess::start(&setup)?;
    let load = Load::start(
        &node.address,
        &format!(
            "--peers {PEERS} --ramp 40 --rate {RATE} --size {SIZE} --linger 1 --duration {}",
            (WARM + time + AFTER).as_secs()
        ),
    )?;
    sleep(WARM);
    node.reset()?;
    let before = node.report()?;
    sleep(time);
    let report = node.report()?;
    let summary = load.finish()?;
    let published = summary.count("published");
    let end = node.wait_for(Duration::from_secs(5), |r| r.delivered >= published)?;
    let messages = report.delivered - before.delivered;
    Ok(Run {
        cpu_us: real(report.cpu_us - before.cpu_us) / real(messages.max(1)),
        messages,
        report,
        published,
        lost: published.saturating_sub(end.delivered),
        forwarded: summary.count("delivered"),
        closed: summary.errors("closed") + summary.errors("stream") + summary.errors("refused"),
    })
}

/// One real node, 100 publishing peers, 1,000 messages a second.
pub(crate) fn node1000(quick: bool) -> Outcomes {
    let time = Duration::from_secs(if quick { 6 } else { 60 });
    let run = run(false, time)?;
    let detail = json!({
        "peers": PEERS,
        "published": run.published,
        "lost": run.lost,
        "missed_by_a_slow_subscriber": run.report.missed,
        "messages_per_second": rounded(real(run.messages) / time.as_secs_f64()),
        "forwarded_to_the_mesh": run.forwarded,
        "connections_closed": run.closed,
        "handling_p50_ms": rounded(run.report.p50_ms),
        "handling_p95_ms": rounded(run.report.p95_ms),
        "handling_max_ms": rounded(run.report.max_ms),
        "cpu_us_per_message": rounded(run.cpu_us),
        "seconds": time.as_secs(),
    });
    Ok(vec![
        Outcome {
            bench: "overlay.node1000",
            value: rounded(run.report.p99_ms),
            unit: "ms",
            better: "lower",
            target: Some(50.0),
            detail,
        },
        Outcome {
            bench: "overlay.node1000.lost",
            value: real(run.lost),
            unit: "messages",
            better: "lower",
            target: Some(0.0),
            detail: json!({ "published": run.published }),
        },
    ])
}

/// The same, and the same of gossipsub alone, in turn.
pub(crate) fn cpu_vs_bare(quick: bool) -> Outcomes {
    let (rounds, time) = if quick { (1, 5) } else { (5, 20) };
    let time = Duration::from_secs(time);
    let (mut ours, mut bare, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut lost = [0, 0];
    for _ in 0..rounds {
        let (our, base) = (run(false, time)?, run(true, time)?);
        ours.push(our.cpu_us);
        bare.push(base.cpu_us);
        ratios.push(our.cpu_us / base.cpu_us);
        lost = [lost[0] + our.lost, lost[1] + base.lost];
    }
    let (our, base) = (median(&mut ours), median(&mut bare));
    Ok(vec![Outcome {
        bench: "overlay.cpu_vs_bare_gossipsub",
        value: rounded(our / base),
        unit: "x bare gossipsub",
        better: "lower",
        target: Some(1.2),
        detail: json!({
            "rounds": rounds,
            "seconds": time.as_secs(),
            "overlay_us_per_message": rounded(our),
            "bare_us_per_message": rounded(base),
            "least_ratio": rounded(quantile(&mut ratios, 0.0)),
            "largest_ratio": rounded(quantile(&mut ratios, 1.0)),
            "overlay_lost": lost[0],
            "bare_lost": lost[1],
        }),
    }])
}
