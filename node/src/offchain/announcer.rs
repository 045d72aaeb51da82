//! Tells the overlay's `video` topic what this node keeps: new content at once, and what it has, one
//! content after the other, again and again.
//!
//! Gossip reaches those who are there. Whoever came later, or was restarted, learns of older content
//! from the repetition; auditors above all, who hold a super-node to what it announced itself.

use std::time::Duration;

use nsn_p2p::{Overlay, gossip};
use nsn_relay::{BlobId, ContentId, Relay, store::Content};
use prometheus_endpoint::{CounterVec, Opts, PrometheusError, Registry, U64, register};

use super::Slot;

/// What the announcer counts.
#[derive(Clone)]
pub(super) struct Metrics {
    announcements: CounterVec<U64>,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When a name is already taken in `registry`.
    pub(super) fn register(registry: &Registry) -> Result<Self, PrometheusError> {
        let announcements = Opts::new(
            "nsn_content_announcements_total",
            "Announcements of kept content on the overlay, by what came of them",
        );
        Ok(Self {
            announcements: register(CounterVec::new(announcements, &["outcome"])?, registry)?,
        })
    }
}

/// Announces. Cheap to clone.
#[derive(Clone)]
pub(super) struct Announcer {
    overlay: Slot<Overlay>,
    metrics: Metrics,
}

impl Announcer {
    /// Announces on `overlay`.
    pub(super) fn new(overlay: Slot<Overlay>, metrics: Metrics) -> Self {
        Self { overlay, metrics }
    }

    /// Tells the overlay of a content; whether it could be told. Failing is no error: viewers find
    /// content by its id.
    pub(super) async fn announce(&self, id: ContentId, total_len: u64, shards: u32) -> bool {
        let Some(overlay) = self.overlay.current() else { return false };
        let announcement = gossip::Announcement::new(BlobId::from(id).0, total_len, shards);
        let told = overlay.gossip.publish(gossip::Topic::Video, announcement.to_bytes()).await;
        let outcome = match &told {
            Ok(()) => "sent",
            Err(gossip::PublishError::NoPeers(_)) => "no_peers",
            Err(_) => "failed",
        };
        self.metrics.announcements.with_label_values(&[outcome]).inc();
        if let Err(error) = &told {
            tracing::debug!(target: "nsn::content", %id, "not announced: {error}");
        }
        told.is_ok()
    }

    /// Announces one of the contents that `relay` keeps, every `every`, in turn.
    pub(super) async fn repeat(&self, relay: &Slot<Relay>, every: Duration) {
        let mut last = None;
        loop {
            tokio::time::sleep(every).await;
            let kept = relay.current().map(|relay| relay.contents()).unwrap_or_default();
            if let Some(next) = in_turn(&kept, last) {
                last = Some(next.content_id);
                self.announce(next.content_id, next.total_len, next.shards).await;
            }
        }
    }
}

/// The content after `last` in the order of ids; after the last one, the first.
fn in_turn(kept: &[Content], last: Option<ContentId>) -> Option<&Content> {
    let after =
        last.and_then(|last| kept.iter().filter(|next| next.content_id > last).min_by_key(id));
    after.or_else(|| kept.iter().min_by_key(id))
}

fn id(content: &&Content) -> ContentId {
    content.content_id
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(n: u8) -> Content {
        Content {
            content_id: ContentId(BlobId([n; 32])),
            media_type: "video/mp4".into(),
            total_len: 1,
            shards: 1,
            name: String::new(),
            published_ms: 0,
        }
    }

    #[test]
    fn every_content_has_its_turn_whatever_comes_and_goes() {
        let mut kept = vec![content(1), content(4), content(9)];
        let mut last = None;
        let mut turn = |kept: &[Content]| {
            last = in_turn(kept, last).map(|next| next.content_id);
            last.map(|id| id.0.0[0])
        };
        assert_eq!([turn(&kept), turn(&kept)], [Some(1), Some(4)]);
        kept.remove(1);
        assert_eq!([turn(&kept), turn(&kept)], [Some(9), Some(1)]);
        kept.insert(1, content(2));
        assert_eq!(turn(&kept), Some(2));
        assert_eq!(turn(&[]), None);
    }
}
