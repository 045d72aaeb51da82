//! `nsn-shard/1`: what goes over a stream between a viewer and a shard service.
//!
//! QUIC with ALPN [`ALPN`]. One bidirectional stream a request: the asker sends one [`Request`]
//! frame and closes its side; the server sends one [`Response`] frame, then exactly as many bytes
//! of body as it promised, then closes its side. A body that cannot be completed ends in a stream
//! reset that carries a [`Code`]; it never ends cleanly. Closed connections carry a [`Code`] too.
//!
//! A frame is a big-endian `u16` length, 1 to [`MAX_FRAME`], and that many bytes of SCALE with
//! nothing after them. SCALE's indices are part of the protocol and are written out; index 1 of
//! [`Encoding`] is kept for BLAKE3-interleaved bodies.

mod code;
mod exchange;
mod frame;
mod message;

pub use code::{Code, UnknownCode};
pub use exchange::{Answer, ExchangeError, Patience, Promised, ask, get_blob};
pub use frame::{FrameError, MAX_FRAME, ReadFrameError, decode_frame, encode_frame, read_frame};
pub use message::{Busy, Encoding, MAX_HAS, Request, Response, ServiceStatus, Source};

/// The application protocol name that both sides must offer.
pub const ALPN: &[u8] = b"nsn-shard/1";
