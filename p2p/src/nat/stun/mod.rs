//! What STUN servers see of this node: its public address, how its NAT behaves, whether UDP gets
//! out.
//!
//! The socket is one of its own, so the port that servers see is not that of the overlay's QUIC;
//! what the NAT does with one it does with the other. [`round`] decides what is asked when,
//! [`message`] is the codec, [`worker`] holds the socket.

mod message;
mod round;
#[cfg(test)]
mod tests;
mod worker;

pub use self::round::Outcome;
#[cfg(test)]
pub(crate) use self::round::Said;
pub(crate) use self::{
    round::Report,
    worker::{Ask, Heard, Worker},
};
