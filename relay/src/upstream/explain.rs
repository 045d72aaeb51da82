//! Whom a blob would be asked of, in what order and why: for operators.

use super::{Upstream, rank::Candidate};
use crate::{content::BlobId, sync::lock};
use futures::StreamExt;
use serde::Serialize;
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Groups of the usual shard of 1 MiB.
const USUAL_GROUPS: u32 = 64;

/// A node that may hold a blob.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SourceView {
    /// Who, base58.
    pub peer_id: String,
    /// Where its shard service listens, UDP.
    pub addresses: Vec<SocketAddr>,
    /// Whether the directory or the node itself says that it holds the blob; otherwise it is asked on
    /// the chance.
    pub named: bool,
    /// Seeder component of its reputation, 0..=1000; null for one that no account answers for.
    pub seeder_score: Option<u16>,
    /// How busy it says it is, 0 idle to 255 full; null where it did not say.
    pub load: Option<u8>,
    /// Whether there is a connection to it now.
    pub connected: bool,
    /// It failed too often of late: not asked, or only for want of others.
    pub breaker_open: bool,
    /// What it is expected to need for 1 MiB, in milliseconds; null where it would not be asked.
    pub expected_ms: Option<f64>,
    /// And to its first 16 KiB in 95 of 100 cases.
    pub first_p95_ms: Option<f64>,
}

impl Upstream {
    /// Whom a fetch of `id` would ask, the first in front. Takes as long as the directory does, the
    /// configured timeout at most.
    pub(crate) async fn explain(&self, id: BlobId) -> Vec<SourceView> {
        let found: Vec<Candidate> = self
            .candidates(id)
            .filter_map(|found| std::future::ready(found.ok()))
            .collect::<Vec<_>>()
            .await
            .concat();
        let found: Vec<_> =
            found.into_iter().filter(|candidate| candidate.source.peer != self.us).collect();
        let ranked = lock(&self.book).rank(id, found.clone(), Instant::now());
        let mut views: Vec<_> = ranked
            .iter()
            .map(|ranked| SourceView {
                breaker_open: ranked.open,
                expected_ms: Some(ranked.forecast.micros(USUAL_GROUPS) / 1000.0),
                first_p95_ms: Some(millis(ranked.forecast.first_p95())),
                ..self.view(&ranked.candidate)
            })
            .collect();
        for candidate in &found {
            let view = self.view(candidate);
            if !views.iter().any(|other| other.peer_id == view.peer_id) {
                views.push(view);
            }
        }
        views
    }

    /// One that the ranking left out, which it does with those whose breaker is open.
    fn view(&self, candidate: &Candidate) -> SourceView {
        let Candidate { source, named } = candidate;
        SourceView {
            peer_id: source.peer.to_string(),
            addresses: source.addrs.clone(),
            named: *named,
            seeder_score: source.seeder_score,
            load: source.load,
            connected: self.pool.open(source.peer).is_some(),
            breaker_open: true,
            expected_ms: None,
            first_p95_ms: None,
        }
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
