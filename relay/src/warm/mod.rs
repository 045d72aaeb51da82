//! Fetching ahead: what nobody has asked for yet, and somebody is likely to.
//!
//! ```text
//!  announced by a bound account ─┐                    ┌─ refused, with a reason
//!  (Relay::announced)            ├──▶ plan ──▶ fills ─┤
//!  read by a viewer (server) ────┘     ▲              └─ in the cache, unread: used or wasted
//!  manifests (fills, cache) ───────────┘
//! ```
//!
//! New content is fetched from its beginning when the account that answers for who announced it is in
//! good standing and has bytes left in this hour. And of a content whose manifest this relay holds,
//! the shards after the one that a viewer reads are fetched. Both only while the service has little to do,
//! within a share of the cache, at a bounded rate and with few fetches at a time, which ask their sources
//! at the priority of a prefetch. When viewers' own prefetches are refused (`server.shed_prefetch_above`),
//! all this is given up, what is under way included.
//!
//! What to do is decided in [`plan`], from [`accounts`], [`ledger`] and [`contents`]; [`Runner`] does it.
//! Who announces or reads waits for nothing: what finds no place in the queues to the runner is dropped,
//! an announcement counted as refused, a reading not, since the next one comes soon.

mod accounts;
mod config;
mod contents;
mod ledger;
mod plan;
mod runner;

pub use config::Config;
pub(crate) use runner::Runner;

use crate::{
    body::Whole,
    content::{BlobId, ContentId, Manifest},
    metrics::Metrics,
};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Announcements that wait to be looked at: 64 of about 100 bytes.
const ANNOUNCEMENTS: usize = 64;

/// Readings that wait: 1,024 of 33 bytes.
const READINGS: usize = 1024;

/// Manifests that wait: 8 of at most `warm.manifest_bytes`, 1 MiB each at its default.
const MANIFESTS: usize = 8;

/// An account of the chain, by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Account(pub [u8; 32]);

/// Who answers for somebody that announces content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patron {
    /// The account.
    pub account: Account,
    /// The seeder component of its reputation, 0..=1000; 0 if it is shut out for any other.
    pub score: u16,
}

/// New content that somebody announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announced {
    /// Which.
    pub content: ContentId,
    /// Bytes, by the announcement.
    pub total_len: u64,
    /// Number of its shards, by the announcement.
    pub shards: u32,
    /// Who answers for it; `None` if nobody does.
    pub by: Option<Patron>,
}

/// Why something is not fetched ahead; each is a label of `nsn_relay_prefetches_refused_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// No account answers for who announced it.
    Unbound,
    /// That account's reputation is too low.
    Reputation,
    /// The content was announced before, or is held.
    Known,
    /// That account has caused as much as it may in this hour.
    Account,
    /// The announcement says what cannot be, or what the manifest does not say.
    Untrue,
    /// As much as may wait does.
    Queue,
    /// There was too much to do, for too long or at all.
    Busy,
    /// As much of the cache as may be is taken by what was fetched ahead and not read.
    Share,
    /// The cache would not take it.
    Admission,
    /// Nobody held it a moment ago.
    Absent,
}

impl Refused {
    const ALL: [Self; 10] = [
        Self::Unbound,
        Self::Reputation,
        Self::Known,
        Self::Account,
        Self::Untrue,
        Self::Queue,
        Self::Busy,
        Self::Share,
        Self::Admission,
        Self::Absent,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Unbound => "unbound",
            Self::Reputation => "reputation",
            Self::Known => "known",
            Self::Account => "account",
            Self::Untrue => "untrue",
            Self::Queue => "queue",
            Self::Busy => "busy",
            Self::Share => "share",
            Self::Admission => "admission",
            Self::Absent => "absent",
        }
    }
}

/// Tells the runner what happens. Cloning gives another handle.
#[derive(Clone)]
pub(crate) struct Warmer {
    announced: mpsc::Sender<Announced>,
    read: mpsc::Sender<Reading>,
    manifests: mpsc::Sender<Arc<Whole>>,
    longest_manifest: u32,
    metrics: Metrics,
}

/// A blob is read.
#[derive(Clone, Copy, Debug)]
struct Reading {
    id: BlobId,
    /// Whether what follows it is likely to be read next.
    leads: bool,
}

/// What the runner is told.
pub(crate) struct Inbox {
    announced: mpsc::Receiver<Announced>,
    read: mpsc::Receiver<Reading>,
    manifests: mpsc::Receiver<Arc<Whole>>,
}

/// Makes the handle and what the runner reads.
pub(crate) fn build(config: &Config, metrics: Metrics) -> (Warmer, Inbox) {
    for refused in Refused::ALL {
        metrics.prefetches_refused_total.with_label_values(&[refused.label()]);
    }
    let (announced, announcements) = mpsc::channel(ANNOUNCEMENTS);
    let (read, readings) = mpsc::channel(READINGS);
    let (manifests, found) = mpsc::channel(MANIFESTS);
    let longest_manifest = config.manifest_bytes;
    let warmer = Warmer { announced, read, manifests, longest_manifest, metrics };
    (warmer, Inbox { announced: announcements, read: readings, manifests: found })
}

impl Warmer {
    /// A content is announced.
    pub(crate) fn announced(&self, announced: Announced) {
        // A service that is going down fetches nothing ahead.
        if let Err(mpsc::error::TrySendError::Full(_)) = self.announced.try_send(announced) {
            refused(&self.metrics, Refused::Queue);
        }
    }

    /// A blob is asked for; `leads` says whether what follows it is likely to be asked for next.
    pub(crate) fn read(&self, id: BlobId, leads: bool) {
        let _ = self.read.try_send(Reading { id, leads });
    }

    /// A blob was fetched that somebody had asked for.
    pub(crate) fn fetched(&self, whole: &Arc<Whole>) {
        if whole.len() <= self.longest_manifest && Manifest::may_begin(whole.bytes(), whole.len()) {
            let _ = self.manifests.try_send(Arc::clone(whole));
        }
    }
}

fn refused(metrics: &Metrics, refused: Refused) {
    metrics.prefetches_refused_total.with_label_values(&[refused.label()]).inc();
}
