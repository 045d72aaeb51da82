//! Measures how far the super-nodes are, and has the region chosen by it.

use super::{
    Config, Own,
    choose::{Chooser, Look, Measured, by_region, median},
};
use crate::{
    metrics::Metrics,
    upstream::{SuperNode, Upstream},
};
use futures::{StreamExt, stream::FuturesUnordered};
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Looks now and then. One task, with a question to each of `super_nodes` at a time.
pub(crate) struct Runner {
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) own: Own,
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
}

impl Runner {
    /// Runs until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut chooser = Chooser::new(&self.config);
        let looking = async {
            loop {
                let pause = self.look(&mut chooser).await;
                sleep(pause).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = looking => {}
        }
    }

    /// Looks once, and says when to look again.
    async fn look(&self, chooser: &mut Chooser) -> Duration {
        let nodes = self.upstream.super_nodes(self.config.super_nodes).await;
        let measuring: FuturesUnordered<_> =
            nodes.into_iter().map(|node| self.measure(node)).collect();
        let near: Vec<_> = measuring.filter_map(std::future::ready).collect().await;
        let measured = by_region(near);
        let look = chooser.look(&measured);
        let chosen = chooser.chosen();
        // Before the choice is told: whoever hears of it finds what it rests on.
        self.own.measured(measured.clone());
        if let Some(near) = measured.iter().find(|near| Some(&near.region) == chosen) {
            self.metrics.region_round_trip_seconds.set(near.round_trip.as_secs_f64());
        }
        if look == Look::Changed
            && let Some(region) = chosen
        {
            self.metrics.region_changes_total.inc();
            tracing::info!("In region {region}: its super-nodes are the nearest");
            self.own.choose(region.clone());
        }
        match look {
            Look::Nobody | Look::Contested => self.config.retry,
            Look::Settled | Look::Changed => self.config.every,
        }
    }

    async fn measure(&self, node: SuperNode) -> Option<Measured> {
        let Config { samples, timeout, .. } = self.config;
        let round_trips = self.upstream.round_trips(&node.source, samples, timeout).await;
        let round_trip = median(round_trips, samples);
        let outcome = if round_trip.is_some() { "answered" } else { "silent" };
        self.metrics.region_measurements_total.with_label_values(&[outcome]).inc();
        Some(Measured { region: node.region, round_trip: round_trip? })
    }
}
