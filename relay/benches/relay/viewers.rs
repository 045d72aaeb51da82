//! Viewers that play: as many as were promised, and then more until it degrades.

use crate::{
    Failure, Outcome, Outcomes,
    load::{Load, Seen},
    node::{Node, config, noise, threads},
    stats::rounded,
};
use nsn_relay::ContentId;
use serde_json::{Value, json};
use std::io::{Write as _, stderr};

/// Addresses in 127.0.0.0/8 from which they come; each is a socket of the load tool, whose share of
/// file descriptors is often 1,024.
const SOURCES: u32 = 500;
/// Shards that are watched, 1 MiB each.
const SHARDS: usize = 64;
/// No larger number is tried.
const MOST: u32 = 16_000;
const TTFB_P99_MS: f64 = 50.0;

pub(crate) fn run(quick: bool) -> Outcomes {
    let serving = threads("service")?;
    let mut settings = config();
    settings.server.max_connections = 2 * MOST;
    settings.server.max_requests = usize::try_from(2 * MOST)?;
    settings.server.handshakes_unproven = MOST;
    let (node, origin, content) = serving.block_on(async {
        let origin = Node::origin(config()).await?;
        let (content, ids) = origin.publish(&noise(SHARDS * 1024 * 1024, 4)).await?;
        let node = Node::relay(settings, vec![origin.source()]).await?;
        node.warm(&ids).await?;
        Ok::<_, Failure>((node, origin, content))
    })?;
    let (seconds, ramp) = if quick { (5, 200) } else { (30, 100) };
    let many =
        play(&node, content, Load { viewers: 1000, rate: 1, ramp, seconds, sources: SOURCES })?;
    let fast = play(&node, content, Load { viewers: 100, rate: 5, ramp, seconds, sources: 100 })?;
    let p99 = many.number("/rest/first_byte_ms/p99").max(fast.number("/rest/first_byte_ms/p99"));
    let (most, why, steps) =
        if quick { (1000, json!("not raised"), vec![]) } else { raise(&node, content)? };
    serving.block_on(async {
        node.stop().await?;
        origin.stop().await
    })?;
    Ok(vec![
        stalls("relay.viewers1000", &many),
        stalls("relay.viewers100", &fast),
        Outcome {
            bench: "relay.ttfb_p99_ms",
            value: rounded(p99),
            unit: "ms",
            better: "lower",
            target: Some(TTFB_P99_MS),
            detail: json!({
                "viewers1000": many.part("/rest/first_byte_ms"),
                "viewers100": fast.part("/rest/first_byte_ms"),
            }),
        },
        Outcome {
            bench: "relay.viewers_max",
            value: f64::from(most),
            unit: "viewers at 1 Mbit/s",
            better: "higher",
            target: None,
            detail: json!({"gave_out": why, "steps": steps}),
        },
    ])
}

fn play(node: &Node, content: ContentId, load: Load) -> Result<Seen, Failure> {
    writeln!(stderr(), "{} viewers at {} Mbit/s ...", load.viewers, load.rate)?;
    load.run(node.address, content)
}

fn stalls(bench: &'static str, seen: &Seen) -> Outcome {
    Outcome {
        bench,
        value: seen.number("/counts/stalls"),
        unit: "stalls",
        better: "lower",
        target: Some(0.0),
        detail: told(seen),
    }
}

fn told(seen: &Seen) -> Value {
    let seconds = seen.number("/seconds").max(0.001);
    json!({
        "connected": seen.part("/counts/connected"),
        "lost": seen.part("/counts/lost"),
        "stalls": seen.part("/counts/stalls"),
        "mbit_per_second": rounded(seen.number("/mbit_per_second")),
        "first_byte_ms": seen.part("/rest/first_byte_ms"),
        "troubles": seen.part("/rest/troubles"),
        "service_cores": rounded(seen.service_cpu / seconds),
        "viewers_cores": rounded(seen.viewers_cpu / seconds),
    })
}

/// Half as many again each time, until a viewer stalls, waits too long, or is lost.
fn raise(node: &Node, content: ContentId) -> Result<(u32, Value, Vec<Value>), Failure> {
    let (mut good, mut steps) = (1000, Vec::new());
    loop {
        let viewers = good * 3 / 2;
        if viewers > MOST {
            return Ok((good, json!("nothing up to the largest number tried"), steps));
        }
        let load = Load { viewers, rate: 1, ramp: 250, seconds: 15, sources: SOURCES };
        let seen = play(node, content, load)?;
        let step = json!({"viewers": viewers, "seen": told(&seen)});
        let reasons = [
            ("stalls", seen.number("/counts/stalls") > 0.0),
            ("time to first byte", seen.number("/rest/first_byte_ms/p99") > TTFB_P99_MS),
            ("connections lost", seen.number("/counts/lost") > 0.0),
            ("connections", seen.number("/counts/connected") < f64::from(viewers)),
        ];
        let gave_out: Vec<&str> =
            reasons.into_iter().filter(|(_, bad)| *bad).map(|(reason, _)| reason).collect();
        if !gave_out.is_empty() {
            let why = json!({
                "at": viewers,
                "first": gave_out,
                "service_cores": step.pointer("/seen/service_cores"),
                "viewers_cores": step.pointer("/seen/viewers_cores"),
            });
            steps.push(step);
            return Ok((good, why, steps));
        }
        steps.push(step);
        good = viewers;
    }
}
