//! Requests and response headers.

// The derive for an enum casts each variant's index, which is written out and below 256.
#![allow(clippy::cast_possible_truncation)]

use super::{Code, Cost};
use crate::content::BlobId;
use codec::{Decode, Encode};
use serde::Serialize;

/// The most ids that one [`Request::Has`] may ask for; so many fit a frame.
pub const MAX_HAS: usize = 120;

/// What a viewer or a relay asks.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Request {
    /// Send a blob, or part of it. The body is its bytes.
    #[codec(index = 0)]
    Get {
        /// Which blob.
        id: BlobId,
        /// Bytes wanted, as first and one past the last; `None` for all. Must lie in the blob,
        /// whatever the encoding.
        range: Option<(u64, u64)>,
        /// How the body is to be sent.
        encoding: Encoding,
        /// Whether a relay that does not hold the blob should fetch it. Relays ask each other
        /// with `false`, so that a request never goes round in a circle.
        fill: bool,
    },
    /// Which of these blobs are held here? The body has one byte for each, 0 or 1. At most
    /// [`MAX_HAS`] ids.
    #[codec(index = 1)]
    Has {
        /// The blobs asked about.
        ids: Vec<BlobId>,
    },
    /// How is the service? The body is a SCALE [`ServiceStatus`].
    #[codec(index = 2)]
    Status,
    /// As `Get`, and says how urgent it is. The answer's header says what it cost.
    #[codec(index = 3)]
    GetAs {
        /// What it is for.
        priority: Priority,
        /// Which blob.
        id: BlobId,
        /// As in `Get`.
        range: Option<(u64, u64)>,
        /// As in `Get`.
        encoding: Encoding,
        /// As in `Get`.
        fill: bool,
    },
}

/// How urgent a request is, among those of one viewer; and what a busy service gives up first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Nobody waits for it yet.
    #[codec(index = 0)]
    Prefetch,
    /// It is played next.
    #[codec(index = 1)]
    Play,
    /// Somebody has jumped there and looks at a still picture.
    #[codec(index = 2)]
    Seek,
}

/// How a body is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Encoding {
    /// The bytes alone; the asker verifies when it has them all.
    #[codec(index = 0)]
    Raw,
    /// The bytes in groups of 16 KiB with the hashes between them, so that each group verifies as
    /// it arrives. A range is widened to whole groups.
    #[codec(index = 1)]
    Verified,
}

/// Where a blob came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// It was in memory.
    #[codec(index = 0)]
    Memory,
    /// It was read from this service's disk.
    #[codec(index = 1)]
    Disk,
    /// It was fetched from another node for this request.
    #[codec(index = 2)]
    Upstream,
}

/// What stands before a body.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Response {
    /// What became of the request. Anything but [`Code::Ok`] has no body.
    pub code: Code,
    /// Bytes of body that follow, hashes between them included.
    pub length: u64,
    /// Length of the whole blob; 0 where none is meant or known.
    pub total: u64,
    /// Where the blob came from; `None` where there is none.
    pub source: Option<Source>,
    /// Present with [`Code::Busy`] and [`Code::ShuttingDown`] alone.
    pub busy: Option<Busy>,
    /// Present where [`Request::GetAs`] was answered with a body.
    pub cost: Cost,
}

/// When and where to try again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Busy {
    /// Milliseconds to wait before asking here again; 0 when there is no again.
    pub retry_after_ms: u32,
    /// Other relays to try meanwhile, as multiaddresses in their binary form; often none.
    pub others: Vec<Vec<u8>>,
}

/// How the service is, as it tells any asker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ServiceStatus {
    /// It keeps published content for good.
    pub origin: bool,
    /// It fetches and caches what it lacks.
    pub relay: bool,
    /// Connections now.
    pub viewers: u32,
    /// Connections at most.
    pub max_viewers: u32,
}

impl Response {
    /// The header of a body.
    pub fn ok(length: u64, total: u64, source: Option<Source>) -> Self {
        Self { code: Code::Ok, length, total, source, busy: None, cost: Cost::UNTOLD }
    }

    /// The header that stands alone when there is no body.
    pub fn refusal(code: Code) -> Self {
        Self { code, length: 0, total: 0, source: None, busy: None, cost: Cost::UNTOLD }
    }
}
