//! Who comes when, and what each viewer does.

use crate::{
    Failure,
    args::{View, read_ids},
    choice::Zipf,
    https::{self, Https},
    link::{Ask, Shard, Target, Trouble},
    player::Player,
    tally::{Count, Counts, Tally},
};
use nsn_relay::client::{self, Viewer};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use std::{
    fs,
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

/// A viewer whose connection was lost or could not be made waits this long.
const AGAIN: Duration = Duration::from_secs(1);
/// No server makes a viewer wait longer.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What every viewer has in common.
struct Plan {
    target: Target,
    /// Bytes a second; 0 for as fast as it can.
    rate: f64,
    ahead: f64,
    seek_every: Duration,
    zipf: Zipf,
    seed: u64,
    tally: Tally,
}

/// What one viewer got.
struct Watched {
    bytes: AtomicU64,
    player: Option<Player>,
}

/// Plays, and tells what came of it.
pub(crate) async fn run(
    args: View,
    out: &mut impl Write,
    interrupted: CancellationToken,
) -> Result<(), Failure> {
    let target = target(&args).await?;
    let zipf = Zipf::new(target.places(), args.zipf.0);
    let plan = Arc::new(Plan {
        target,
        rate: args.rate.0 * 1e6 / 8.0,
        ahead: args.ahead.0,
        seek_every: args.seek_every.seconds(),
        zipf,
        seed: args.seed,
        tally: Tally::default(),
    });
    tell(out, "start", json!({"viewers": args.viewers, "rate_mbit": args.rate.0}))?;

    let began = Instant::now();
    let stop = interrupted.child_token();
    let mut viewers = JoinSet::new();
    let between = if args.ramp.0 > 0.0 { 1.0 / args.ramp.0 } else { 0.0 };
    for viewer in 0..args.viewers {
        let after = Duration::from_secs_f64(between * f64::from(viewer));
        let (plan, stop) = (Arc::clone(&plan), stop.clone());
        viewers.spawn(async move {
            let mut watched = Watched { bytes: AtomicU64::new(0), player: None };
            let playing = async {
                sleep(after).await;
                play(viewer, &plan, &mut watched).await;
            };
            stop.run_until_cancelled(playing).await;
            if let Some(player) = &mut watched.player {
                player.advance(Instant::now());
            }
            watched
        });
    }

    let ramp = Duration::from_secs_f64(between * f64::from(args.viewers));
    let end = began + ramp + args.duration.seconds();
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    seconds.tick().await;
    // What came while all of them were there.
    let (mut before, mut full) = (Counts::default(), None);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep_until(end.into()) => break,
            _ = seconds.tick() => {
                let now = plan.tally.counts();
                if full.is_none() && began.elapsed() >= ramp {
                    full = Some((Instant::now(), now));
                }
                tell(out, "second", now.since(&before).told())?;
                before = now;
            }
        }
    }
    let (counts, now) = (plan.tally.counts(), Instant::now());
    stop.cancel();
    let took = now.saturating_duration_since(began).as_secs_f64();
    let mut bytes: Vec<u64> = Vec::new();
    let (mut stalled, mut stalled_for) = (0u32, Duration::ZERO);
    while let Some(watched) = viewers.join_next().await {
        let watched = watched?;
        bytes.push(watched.bytes.load(Relaxed));
        if let Some(player) = watched.player.filter(|player| player.stalls > 0) {
            stalled += 1;
            stalled_for += player.stalled;
        }
    }
    bytes.sort_unstable();
    let (since, before) = full.unwrap_or((began, Counts::default()));
    let steady = counts.since(&before).get(Count::Bytes) as f64
        / now.saturating_duration_since(since).as_secs_f64().max(0.001);
    let mbit = |bytes: u64| bytes as f64 * 8.0 / 1e6 / took.max(0.001);
    let at = |part: usize| {
        let last = bytes.len().saturating_sub(1);
        bytes.get(last * part / 100).copied().map_or(0.0, mbit)
    };
    tell(
        out,
        "summary",
        json!({
            "seconds": took,
            "counts": counts.told(),
            "mbit_per_second": steady * 8.0 / 1e6,
            "viewers_stalled": stalled,
            "stalled_seconds": stalled_for.as_secs_f64(),
            "viewer_mbit": {"min": at(0), "p10": at(10), "p50": at(50), "p90": at(90), "max": at(100)},
            "rest": plan.tally.rest(),
        }),
    )
}

/// Finds out what there is to watch.
async fn target(args: &View) -> Result<Target, Failure> {
    let Some(address) = args.against else {
        let roots = https::roots(args.ca.as_deref())?;
        return Ok(Target::Https(Https::new(args.url.clone(), roots)?));
    };
    let shards: Vec<Shard> = match (&args.content, &args.shards) {
        (Some(content), _) => {
            let viewer = Viewer::connect(address, None, client::Config::default()).await?;
            let (manifest, _) = viewer.manifest(*content).await?;
            viewer.close().await;
            let part = |part: &nsn_relay::content::manifest::Part| Shard {
                id: part.id.into(),
                len: Some(part.len),
            };
            manifest.shards().iter().map(part).collect()
        }
        (None, Some(path)) => {
            let text = fs::read_to_string(path)
                .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            read_ids(&text)?.into_iter().map(|id| Shard { id, len: None }).collect()
        }
        (None, None) => Vec::new(),
    };
    if shards.is_empty() {
        return Err("there is nothing to watch".into());
    }
    Ok(Target::shards(address, shards, args.sources))
}

/// Connects and plays, again and again, until it is dropped.
async fn play(viewer: u32, plan: &Plan, watched: &mut Watched) {
    let mut rng = StdRng::seed_from_u64(plan.seed.wrapping_add(viewer.into()));
    let places = plan.target.places();
    let mut place = plan.zipf.choose(&mut rng);
    if plan.rate > 0.0 {
        watched.player = Some(Player::new(plan.rate, plan.ahead, Instant::now()));
    }
    let mut seek_at = next_seek(plan, &mut rng);
    loop {
        let mut link = match plan.target.connect(viewer).await {
            Ok(link) => link,
            Err(error) => {
                plan.tally.trouble("no connection", &error.to_string());
                sleep(AGAIN).await;
                continue;
            }
        };
        plan.tally.add(Count::Connected, 1);
        loop {
            let now = Instant::now();
            let full = watched.player.as_mut().map_or(Duration::ZERO, |player| player.content(now));
            let due = seek_at.map(|at| at.saturating_duration_since(now));
            let seek = due.is_some_and(|due| due <= full);
            sleep(if seek { due.unwrap_or_default() } else { full }).await;
            if seek {
                place = plan.zipf.choose(&mut rng);
                seek_at = next_seek(plan, &mut rng);
                plan.tally.add(Count::Seeks, 1);
                if let Some(player) = &mut watched.player {
                    player.jump(Instant::now());
                }
            }
            let bytes = &watched.bytes;
            let each = |came: usize| {
                let came = u64::try_from(came).unwrap_or(u64::MAX);
                bytes.fetch_add(came, Relaxed);
                plan.tally.add(Count::Bytes, came);
            };
            match plan.target.get(&mut link, Ask { place, seek }, each).await {
                Ok(got) => {
                    plan.tally.add(Count::Requests, 1);
                    plan.tally.first_byte(seek, got.first_byte);
                    plan.tally.source(got.source);
                    if let Some(player) = &mut watched.player {
                        let stalls = player.stalls;
                        player.received(got.bytes, Instant::now());
                        plan.tally.add(Count::Stalls, player.stalls - stalls);
                    }
                    place = (place + 1) % places.max(1);
                }
                Err(Trouble::Refused(words, wait)) => {
                    plan.tally.trouble("refused", words);
                    sleep(wait.min(LONGEST_WAIT)).await;
                }
                Err(Trouble::Lost(words)) => {
                    plan.tally.trouble("lost", &words);
                    plan.tally.add(Count::Lost, 1);
                    sleep(AGAIN).await;
                    break;
                }
                Err(Trouble::Failed(words)) => {
                    plan.tally.trouble("failed", &words);
                    place = (place + 1) % places.max(1);
                    sleep(AGAIN).await;
                }
            }
        }
    }
}

/// When a viewer jumps next: after an exponential time, as whoever decides at any moment alike.
fn next_seek(plan: &Plan, rng: &mut StdRng) -> Option<Instant> {
    if plan.seek_every.is_zero() {
        return None;
    }
    let many = -(1.0 - rng.random::<f64>()).ln();
    Some(Instant::now() + plan.seek_every.mul_f64(many.min(100.0)))
}

fn tell(out: &mut impl Write, event: &str, what: Value) -> Result<(), Failure> {
    let mut line = json!({ "event": event });
    if let (Some(line), Value::Object(what)) = (line.as_object_mut(), what) {
        line.extend(what);
    }
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}
