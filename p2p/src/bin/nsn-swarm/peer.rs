//! One light peer: connects, says or does what it is there for, and comes back.

use crate::{
    args::{Mischief, Target},
    dial::dial,
    link::{Ears, Link, Outlet, OutletEnd, Reading, ended, unix_now, write},
    mischief::{Author, Frames, due},
    tally::{Count, Tally, Trouble},
    wire::{Part, frame},
};
use libp2p::identity::Keypair;
use nsn_p2p::Protocols;
use std::{net::IpAddr, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// First and longest wait before a peer comes back.
const RETRY_BASE: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// What all peers of a swarm share.
pub(crate) struct Shared {
    pub(crate) target: Target,
    /// The chain that they take part in.
    pub(crate) chain: Protocols,
    /// gossipsub's protocol on the control topics.
    pub(crate) protocol: Arc<str>,
    /// Topics to listen to, and to publish on.
    pub(crate) topics: Vec<&'static str>,
    /// Bytes of payload in a message.
    pub(crate) size: usize,
    pub(crate) tally: Arc<Tally>,
    /// From here on nothing new is sent.
    pub(crate) quiet: CancellationToken,
    /// From here on nothing is done at all.
    pub(crate) stop: CancellationToken,
}

/// One light peer.
#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) keypair: Keypair,
    pub(crate) source: Option<IpAddr>,
    pub(crate) shared: Arc<Shared>,
}

/// What a peer does once it is connected.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Script {
    /// Publishes `rate` messages a second, `phase` of a turn late, and listens.
    Publish { rate: f64, phase: f64 },
    /// Misbehaves `rate` times a second.
    Misbehave { kind: Mischief, rate: f64 },
    /// Listens for so long.
    Hold(Duration),
}

impl Peer {
    /// Does its work until the swarm stops, coming back whenever it is thrown out.
    pub(crate) async fn stay(self, script: Script) {
        let mut wait = RETRY_BASE;
        let stop = self.shared.stop.clone();
        while !stop.is_cancelled() {
            let started = Instant::now();
            if let Err(trouble) = self.once(script).await {
                self.shared.tally.trouble(trouble);
                // It was in for a while, so it may come back soon.
                if started.elapsed() > RETRY_MAX {
                    wait = RETRY_BASE;
                }
            }
            if matches!(script, Script::Misbehave { kind: Mischief::ConnectDisconnect, rate } if rate > 0.0)
            {
                // Its way of misbehaving; the pace is that of its script.
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(wait) => wait = RETRY_MAX.min(wait * 2),
            }
        }
    }

    /// Does its work on one connection. Ends in peace when the swarm stops.
    ///
    /// # Errors
    /// What ended it before.
    pub(crate) async fn once(&self, script: Script) -> Result<(), Trouble> {
        let stop = self.shared.stop.clone();
        let connected = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            connected = self.connect(script) => connected?,
        };
        let (mut link, outlet, end) = connected;
        self.shared.tally.add(Count::Connects, 1);
        let work = async {
            tokio::select! {
                () = stop.cancelled() => Ok(()),
                done = self.act(script, outlet) => done,
                () = ended(end) => Err(Trouble::Stream),
            }
        };
        let done = link.drive(work).await.flatten();
        if done.is_ok() {
            link.close().await;
        }
        self.shared.tally.add(Count::Ended, 1);
        done
    }

    async fn connect(&self, script: Script) -> Result<(Link, Outlet, OutletEnd), Trouble> {
        let Shared { target, protocol, topics, tally, .. } = &*self.shared;
        tally.add(Count::Attempts, 1);
        let dialled = dial(target, self.source, &self.keypair).await.map_err(|error| {
            tracing::debug!(%error, "dialling failed");
            Trouble::Dial
        })?;
        let reading = match script {
            Script::Misbehave { kind: Mischief::NeverRead, .. } => Reading::Never,
            Script::Misbehave { kind: Mischief::Trickle, .. } => Reading::Trickle,
            _ => Reading::All,
        };
        let ears = Ears { protocol: protocol.clone(), reading, tally: tally.clone() };
        let mut link = Link::new(dialled, ears);
        let (mut outlet, end) = link.open().await?;
        let subscriptions: Vec<Part<'_>> = topics.iter().map(|t| Part::Subscribe(t)).collect();
        let hello = frame(&subscriptions);
        match link.drive(write(&mut outlet, &hello)).await {
            Ok(Ok(())) => Ok((link, outlet, end)),
            _ => Err(Trouble::Refused),
        }
    }

    async fn act(&self, script: Script, mut outlet: Outlet) -> Result<(), Trouble> {
        match script {
            Script::Publish { rate, phase } => self.publish(&mut outlet, rate, phase).await,
            Script::Misbehave { kind, rate } => self.misbehave(&mut outlet, kind, rate).await,
            Script::Hold(time) => {
                sleep(time).await;
                Ok(())
            }
        }
    }

    fn author(&self) -> Author {
        Author { keypair: self.keypair.clone(), chain: self.shared.chain.clone() }
    }

    async fn publish(&self, outlet: &mut Outlet, rate: f64, phase: f64) -> Result<(), Trouble> {
        let Shared { topics, size, tally, .. } = &*self.shared;
        let (started, first) = (Instant::now(), first_sequence());
        let author = self.author();
        for (n, topic) in (0..).zip(topics.iter().cycle()) {
            self.wait(started, due(n, rate, phase)).await;
            let message = author
                .honest(topic, first.wrapping_add(n), *size, unix_now())
                .map_err(|_| Trouble::Malformed)?;
            write(outlet, &frame(&[Part::Publish(&message)])).await?;
            tally.add(Count::Published, 1);
        }
        Ok(())
    }

    async fn misbehave(
        &self,
        outlet: &mut Outlet,
        kind: Mischief,
        rate: f64,
    ) -> Result<(), Trouble> {
        let Shared { topics, size, tally, .. } = &*self.shared;
        let frames = Frames {
            kind,
            author: self.author(),
            topics: topics.clone(),
            size: *size,
            sequence: first_sequence(),
        };
        let started = Instant::now();
        for n in 0.. {
            match kind {
                Mischief::NeverRead => self.wait(started, None).await,
                Mischief::ConnectDisconnect => {
                    tally.add(Count::Abuse, 1);
                    self.wait(started, due(1, rate, 0.0)).await;
                    return Ok(());
                }
                Mischief::Flood if !self.shared.quiet.is_cancelled() => {
                    tokio::task::yield_now().await;
                }
                _ => self.wait(started, due(n, rate, 0.0)).await,
            }
            let bytes = frames.frame(n, unix_now()).map_err(|_| Trouble::Malformed)?;
            if kind == Mischief::Trickle {
                for byte in bytes {
                    write(outlet, &[byte]).await?;
                    sleep(Duration::from_secs(1)).await;
                }
            } else {
                write(outlet, &bytes).await?;
            }
            tally.add(Count::Abuse, 1);
        }
        Ok(())
    }

    /// Waits until a turn is due; for ever if there is none, or if the swarm has gone quiet.
    async fn wait(&self, started: Instant, due: Option<Duration>) {
        let quiet = &self.shared.quiet;
        match due.and_then(|due| started.checked_add(due)) {
            Some(at) if !quiet.is_cancelled() => tokio::select! {
                () = quiet.cancelled() => std::future::pending().await,
                () = sleep_until(at) => {}
            },
            _ => std::future::pending().await,
        }
    }
}

/// Sequence numbers grow with the clock, so that a peer that comes back repeats none.
fn first_sequence() -> u64 {
    u64::try_from(unix_now().as_nanos()).unwrap_or_default()
}
