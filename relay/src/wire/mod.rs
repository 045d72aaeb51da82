//! `nsn-shard/1`: what goes over a stream between a viewer and a shard service.
//!
//! QUIC with ALPN [`ALPN`], or substreams of the overlay where there is no way to a service's own
//! port ([`Way`]; what differs there is in `stream::substream`). One bidirectional stream a request: the asker sends one [`Request`]
//! frame and closes its side; the server sends one [`Response`] frame, then exactly as many bytes
//! of body as it promised, then closes its side. A body that cannot be completed ends in a stream
//! reset that carries a [`Code`]; it never ends cleanly. Closed connections carry a [`Code`] too.
//!
//! A frame is a big-endian `u16` length, 1 to [`MAX_FRAME`], and that many bytes of SCALE with
//! nothing after them. SCALE's indices are part of the protocol and are written out.
//!
//! # What came later
//!
//! A header may grow at its end, and only for whoever showed that it knows of it: who asks with
//! [`Request::GetAs`] gets a [`Cost`] behind the rest of the header, who asks with `Get` does not. A
//! service that goes down closes its connections with [`Code::ShuttingDown`] and, as the reason, a
//! [`Busy`] that names other relays ([`farewell`]).
//!
//! # The body of a blob
//!
//! | [`Encoding`] | body | verified |
//! | --- | --- | --- |
//! | `Raw` | the bytes of the range | by the asker, once it has the whole blob |
//! | `Verified` | the 16 KiB groups that hold the range, with the tree's hashes between them | group by group, as they arrive |
//!
//! In both, `length` is the exact number of bytes of the body, and `total` the length of the blob;
//! neither is repeated in the body. A range that is empty or not inside the blob gets
//! [`Code::Range`], with `total`.
//!
//! A `Verified` body is bao's combined encoding with chunk groups of log 4, in pre-order and without
//! bao's length prefix; with `first` and `end` the range widened to whole groups, it is what
//! `bao_tree::io::sync::encode_ranges` writes for the chunks `16 * first .. 16 * end` (without an end
//! if the blob's last group is among them) of a tree of `total` bytes:
//!
//! ```text
//! body(node)  = left hash (32 bytes), right hash (32 bytes), body(left), body(right)
//! body(group) = its bytes
//! ```
//!
//! beginning at the root, where a child without a wanted group is left out; its hash still stands in
//! its parent. The root of a blob of one group is that group. A group alone costs its bytes and 64
//! for each level above it: 6 levels in a blob of 1 MiB, 10 in one of 16 MiB. The total is proven by
//! the blob's last group and by nothing else (see [`Span::proves_total`]).

mod code;
mod cost;
mod exchange;
mod farewell;
mod frame;
mod groups;
mod message;
mod stream;
mod verified;
mod walk;

pub use code::{Code, UnknownCode};
pub use cost::{Cost, Spent};
pub use exchange::{Answer, Carrier, ExchangeError, Patience, Promised, ask, get_blob};
pub use farewell::{MAX_OTHERS, farewell, read_farewell};
pub use frame::{
    FrameError, MAX_FRAME, ReadExact, ReadFrameError, decode_frame, encode_frame, read_frame,
};
pub(crate) use groups::get_groups_as;
pub use groups::{Groups, get_groups};
pub use message::{Busy, Encoding, MAX_HAS, Priority, Request, Response, ServiceStatus, Source};
pub use stream::{Asked, StreamError, Way};
pub(crate) use stream::{Ended, Gone, Receiver, Sender, accepted};
pub(crate) use verified::nodes_len;
pub use verified::{GROUP_LEN, Group, Outboard, Span, encode, group_count};
pub(crate) use verified::{Node, node_count};
pub(crate) use walk::{Piece, Walk};

/// The application protocol name that both sides must offer.
pub const ALPN: &[u8] = b"nsn-shard/1";
