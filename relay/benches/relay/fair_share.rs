//! Greedy viewers on a total that binds.

use crate::{
    Outcome, Outcomes,
    load::Load,
    node::{Node, config, noise, threads},
    stats::rounded,
};
use serde_json::json;

/// Bytes a second in all: 100 Mbit/s.
const TOTAL: u32 = 12_500_000;
const VIEWERS: u32 = 60;

pub(crate) fn run(quick: bool) -> Outcomes {
    let serving = threads("service")?;
    let mut config = config();
    config.server.bytes_per_second = TOTAL.into();
    let node = serving.block_on(Node::origin(config))?;
    let (content, _) = serving.block_on(node.publish(&noise(16 * 1024 * 1024, 3)))?;
    let seconds = if quick { 10 } else { 30 };
    let load = Load { viewers: VIEWERS, rate: 0, ramp: 0, seconds, sources: VIEWERS };
    let seen = load.run(node.address, content)?;
    let refusals = ["new_viewer", "memory"]
        .map(|reason| node.metrics.refusals_total.with_label_values(&[reason]).get());
    serving.block_on(node.stop())?;
    let fair = f64::from(TOTAL) * 8.0 / 1e6 / f64::from(VIEWERS);
    let off = |place| (seen.number(place) / fair - 1.0).abs() * 100.0;
    Ok(vec![Outcome {
        bench: "relay.fair_share",
        value: rounded(off("/viewer_mbit/min").max(off("/viewer_mbit/max"))),
        unit: "% off the fair share, the viewer furthest from it",
        better: "lower",
        target: Some(10.0),
        detail: json!({
            "total_mbit": 100,
            "viewers": VIEWERS,
            "fair_mbit": rounded(fair),
            "viewer_mbit": seen.part("/viewer_mbit"),
            "got_mbit": rounded(seen.number("/mbit_per_second")),
            "troubles": seen.part("/rest/troubles"),
            "refused_new_viewer_and_memory": refusals,
        }),
    }])
}
