//! TURN against servers of every kind: simulated, over real sockets, and coturn.

mod client;
pub(in crate::nat) mod coturn;
mod meet;
mod running;
mod server;
mod swarms;
mod worker;
