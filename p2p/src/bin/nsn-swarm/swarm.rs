//! All peers of a run: who comes when, and what is told of it.

use crate::{
    args::{Args, Mischief, Target},
    keys::secret,
    mischief::due,
    peer::{Peer, Script, Shared},
    tally::{Numbers, Tally},
};
use libp2p::identity::Keypair;
use nsn_p2p::{Protocols, gossip::Topic};
use serde_json::json;
use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::Semaphore,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long a connection of the churn is held.
const CHURN_HOLD: Duration = Duration::from_secs(1);
/// Connections of the churn at a time. Worst case: 4,096 * about 300 KB = 1.2 GB.
const MAX_CHURN: usize = 4096;
/// How long peers may take to leave.
const LEAVE: Duration = Duration::from_secs(3);
/// PeerIds that the first line tells, at most.
const TOLD: usize = 64;

struct Swarm {
    args: Args,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    started: Instant,
}

/// Runs the swarm to its end, or until `interrupted`, writing lines to `out`.
///
/// # Errors
/// If a line cannot be written.
pub(crate) async fn run(
    args: Args,
    target: Target,
    out: &mut impl Write,
    interrupted: CancellationToken,
) -> io::Result<()> {
    let chain = Protocols::new(&args.genesis.0);
    let shared = Arc::new(Shared {
        protocol: format!("{}/1.1.0", chain.control()).into(),
        chain,
        topics: args.topics().into_iter().map(Topic::name).collect(),
        size: usize::try_from(args.size).unwrap_or(usize::MAX),
        tally: Arc::new(Tally::default()),
        quiet: CancellationToken::new(),
        stop: CancellationToken::new(),
        target,
    });
    let swarm = Swarm { args, shared, tasks: TaskTracker::new(), started: Instant::now() };
    swarm.say_start(out)?;
    swarm.burst();
    swarm.honest();
    swarm.bad();
    swarm.churn();
    swarm.report(out, &interrupted).await
}

impl Swarm {
    fn peer(&self, role: &str, index: u32) -> io::Result<Peer> {
        let secret = secret(self.args.seed, role, index);
        let keypair = Keypair::ed25519_from_bytes(secret).map_err(io::Error::other)?;
        let source = self.args.source(self.shared.target.ip, role == "honest", index);
        Ok(Peer { keypair, source, shared: self.shared.clone() })
    }

    fn bad_kinds(&self) -> impl Iterator<Item = (u32, Mischief)> + '_ {
        let each = |m: &crate::args::Misbehaving| std::iter::repeat_n(m.kind, m.peers.into());
        (0..).zip(self.args.misbehave.iter().flat_map(each))
    }

    fn say_start(&self, out: &mut impl Write) -> io::Result<()> {
        let mut bad = Vec::new();
        for (index, kind) in self.bad_kinds().take(TOLD) {
            let peer = self.peer("bad", index)?.keypair.public().to_peer_id().to_string();
            bad.push(json!({ "peer": peer, "kind": format!("{kind:?}") }));
        }
        let target = self.shared.target.addr.to_string();
        let line = json!({
            "event": "start",
            "target": target,
            "peers": self.args.peers,
            "burst": self.args.burst,
            "seed": self.args.seed,
            "misbehaving": bad,
        });
        writeln!(out, "{line}")
    }

    fn burst(&self) {
        for index in 0..self.args.burst {
            let Ok(peer) = self.peer("burst", index) else { continue };
            self.tasks.spawn(async move {
                let script = Script::Hold(Duration::MAX / 4);
                if let Err(trouble) = peer.once(script).await {
                    peer.shared.tally.trouble(trouble);
                }
            });
        }
    }

    fn honest(&self) {
        let count = self.args.peers;
        let rate = self.args.rate.0 / f64::from(count.max(1));
        for index in 0..count {
            let Ok(peer) = self.peer("honest", index) else { continue };
            let phase = f64::from(index) / f64::from(count);
            // Without a ramp, all at once.
            let at = due(index.into(), self.args.ramp.0, 0.0).unwrap_or_default();
            let at = self.started + at;
            self.tasks.spawn(async move {
                sleep_until(at).await;
                peer.stay(Script::Publish { rate, phase }).await;
            });
        }
    }

    fn bad(&self) {
        let rate = self.args.bad_rate.0;
        for (index, kind) in self.bad_kinds() {
            let Ok(peer) = self.peer("bad", index) else { continue };
            self.tasks.spawn(peer.stay(Script::Misbehave { kind, rate }));
        }
    }

    fn churn(&self) {
        let rate = self.args.churn.0;
        if rate <= 0.0 {
            return;
        }
        let places = Arc::new(Semaphore::new(MAX_CHURN));
        let (shared, tasks, started) = (self.shared.clone(), self.tasks.clone(), self.started);
        let mut peers = (0..u32::MAX).map_while({
            let (args, shared) = (self.args.clone(), self.shared.clone());
            move |index| {
                let secret = secret(args.seed, "churn", index);
                let keypair = Keypair::ed25519_from_bytes(secret).ok()?;
                let source = args.source(shared.target.ip, false, index);
                Some(Peer { keypair, source, shared: shared.clone() })
            }
        });
        self.tasks.spawn(async move {
            for n in 0.. {
                let at = started + due(n, rate, 0.0).unwrap_or_default();
                let next = async {
                    sleep_until(at).await;
                    places.clone().acquire_owned().await.ok().zip(peers.next())
                };
                let next = tokio::select! {
                    () = shared.quiet.cancelled() => None,
                    next = next => next,
                };
                let Some((place, peer)) = next else { return };
                tasks.spawn(async move {
                    if let Err(trouble) = peer.once(Script::Hold(CHURN_HOLD)).await {
                        peer.shared.tally.trouble(trouble);
                    }
                    drop(place);
                });
            }
        });
    }

    async fn report(self, out: &mut impl Write, interrupted: &CancellationToken) -> io::Result<()> {
        let Self { args, shared, tasks, started } = self;
        let quiet_at = started + Duration::from_secs_f64(args.duration.0);
        let stop_at = quiet_at + Duration::from_secs_f64(args.linger.0);
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        seconds.tick().await;
        // Nothing was counted before the start.
        let begun = Tally::default().now();
        let mut then = begun.clone();
        let mut say = |event, now: &Numbers, then: &Numbers| {
            let line = now.since(then).line(event, started.elapsed(), now.connected());
            writeln!(out, "{}", serde_json::to_string(&line)?)?;
            out.flush()
        };
        loop {
            tokio::select! {
                _ = seconds.tick() => {
                    let now = shared.tally.now();
                    say("second", &now, &then)?;
                    then = now;
                }
                () = sleep_until(quiet_at), if !shared.quiet.is_cancelled() => shared.quiet.cancel(),
                () = sleep_until(stop_at) => break,
                () = interrupted.cancelled() => break,
            }
        }
        let last = shared.tally.now();
        shared.quiet.cancel();
        shared.stop.cancel();
        tasks.close();
        if timeout(LEAVE, tasks.wait()).await.is_err() {
            tracing::debug!(left = tasks.len(), "peers did not leave in time");
        }
        say("summary", &last, &begun)
    }
}
