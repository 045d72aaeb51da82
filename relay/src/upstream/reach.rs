//! Reaching a source: the ways in their order ([`ways`](super::ways)), the next beside the last when
//! that takes longer than its head start.

use super::{
    Config, DialError, Pool, Source,
    race::staggered,
    ways::{Offered, OverlayConfig, WayView, Ways},
};
use crate::{
    metrics::Metrics,
    overlay::{OpenError, Overlay, Substream},
    sync::lock,
    wire::{Asked, Carrier, ExchangeError, Way},
};
use libp2p::PeerId;
use quinn::Connection;
use std::{
    io,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::time::timeout;

/// Reaches sources, and remembers how.
pub(super) struct Reach {
    pool: Pool,
    overlay: Option<Arc<dyn Overlay>>,
    ways: Mutex<Ways>,
    config: OverlayConfig,
    metrics: Metrics,
}

/// What requests to a source go over.
#[derive(Clone)]
pub(super) enum Link {
    Quic(Connection),
    Overlay(Arc<Substreams>),
}

/// Streams to one source over the overlay.
pub(super) struct Substreams {
    overlay: Arc<dyn Overlay>,
    peer: PeerId,
    within: Duration,
    /// The one by which it was seen that there is a way; for the first request.
    first: Mutex<Option<Substream>>,
}

/// A link, and whether it had been used before.
pub(super) struct Reached {
    pub(super) link: Link,
    pub(super) reused: bool,
}

impl Link {
    pub(super) fn way(&self) -> Way {
        match self {
            Self::Quic(_) => Way::Quic,
            Self::Overlay(_) => Way::Overlay,
        }
    }
}

impl Carrier for Link {
    async fn send(&self, frame: &[u8]) -> Result<Asked, ExchangeError> {
        match self {
            Self::Quic(connection) => connection.send(frame).await,
            Self::Overlay(substreams) => substreams.send(frame).await,
        }
    }
}

impl Carrier for Substreams {
    async fn send(&self, frame: &[u8]) -> Result<Asked, ExchangeError> {
        let first = lock(&self.first).take();
        let substream = match first {
            Some(first) => first,
            None => open(&self.overlay, self.peer, self.within).await.map_err(|error| {
                tracing::debug!("no other stream to {}: {error}", self.peer);
                ExchangeError::Overlay(io::ErrorKind::NotConnected)
            })?,
        };
        Asked::over(substream, frame).await.map_err(ExchangeError::Overlay)
    }
}

async fn open(
    overlay: &Arc<dyn Overlay>,
    peer: PeerId,
    within: Duration,
) -> Result<Substream, OpenError> {
    timeout(within, overlay.open(peer)).await.unwrap_or(Err(OpenError::Timeout))
}

impl Reach {
    pub(super) fn new(
        pool: Pool,
        overlay: Option<Arc<dyn Overlay>>,
        config: &Config,
        metrics: Metrics,
    ) -> Self {
        let overlay = overlay.filter(|_| config.overlay.enabled);
        let ways = Mutex::new(Ways::new(config));
        Self { pool, overlay, ways, config: config.overlay.clone(), metrics }
    }

    /// A link to a source, by the way that is there first.
    pub(super) async fn reach(&self, source: &Source) -> Result<Reached, DialError> {
        let peer = source.peer;
        let order = lock(&self.ways).order(peer, self.offered(source), Instant::now());
        let first = order.first().copied();
        let head_start = |_: &Way| self.config.head_start;
        let attempt = |way| async move {
            let reached = self.by(way, source).await;
            if reached.is_err() {
                self.failed(peer, way, Instant::now());
            }
            reached
        };
        let raced = staggered(order, usize::MAX, head_start, attempt).await;
        let reached =
            raced.map_err(|mut errors| errors.pop().unwrap_or(DialError::NoAddress(peer)))?;
        if let Some(slow) = first.filter(|first| *first != reached.link.way())
            && lock(&self.ways).passed(peer, slow, Instant::now())
        {
            tracing::debug!("{peer} is reached by {} sooner", reached.link.way().label());
            self.count_failure(slow);
        }
        Ok(reached)
    }

    /// A link to a source by one way. What comes of it is the caller's to remember.
    pub(super) async fn by(&self, way: Way, source: &Source) -> Result<Reached, DialError> {
        let peer = source.peer;
        match (way, &self.overlay) {
            (Way::Quic, _) => self.pool.connection(source).await.map(|pooled| Reached {
                link: Link::Quic(pooled.connection),
                reused: pooled.reused,
            }),
            (Way::Overlay, Some(overlay)) => {
                let within = self.config.open_timeout;
                let opened = open(overlay, peer, within).await;
                let link = |first| Substreams {
                    overlay: Arc::clone(overlay),
                    peer,
                    within,
                    first: Mutex::new(Some(first)),
                };
                opened.map_err(|source| DialError::Overlay { peer, source }).map(|first| Reached {
                    link: Link::Overlay(Arc::new(link(first))),
                    // The connection under it is older, and shared.
                    reused: true,
                })
            }
            (Way::Overlay, None) => Err(DialError::NoAddress(peer)),
        }
    }

    /// Which ways there are to a source.
    pub(super) fn offered(&self, source: &Source) -> Offered {
        Offered { quic: !source.addrs.is_empty(), overlay: self.overlay.is_some() }
    }

    /// The ways to a source, for operators.
    pub(super) fn explain(&self, source: &Source) -> Vec<WayView> {
        lock(&self.ways).explain(source.peer, self.offered(source), Instant::now())
    }

    /// The QUIC connection to a peer, if there is one now.
    pub(super) fn open_connection(&self, peer: PeerId) -> Option<Connection> {
        self.pool.open(peer)
    }

    /// A source needed this long to its first group.
    pub(super) fn first(&self, peer: PeerId, way: Way, took: Duration, now: Instant) {
        lock(&self.ways).first(peer, way, took, now);
    }

    /// A source has delivered what was asked of it, at this pace if it was several groups.
    pub(super) fn delivered(&self, peer: PeerId, way: Way, pace: Option<Duration>, now: Instant) {
        let mut ways = lock(&self.ways);
        if let Some(pace) = pace {
            ways.pace(peer, way, pace, now);
        }
        ways.succeeded(peer, way, now);
        drop(ways);
        self.metrics.upstream_deliveries_total.with_label_values(&[way.label()]).inc();
    }

    /// A way that answers.
    pub(super) fn answered(&self, peer: PeerId, way: Way, now: Instant) {
        lock(&self.ways).succeeded(peer, way, now);
    }

    /// A way led nowhere, or broke.
    pub(super) fn failed(&self, peer: PeerId, way: Way, now: Instant) {
        lock(&self.ways).failed(peer, way, now);
        self.count_failure(way);
    }

    fn count_failure(&self, way: Way) {
        self.metrics.upstream_way_failures_total.with_label_values(&[way.label()]).inc();
    }

    /// Closes the connections to other nodes.
    pub(super) async fn close(&self) {
        self.pool.close().await;
    }
}
