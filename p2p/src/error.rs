//! Errors of building and running the overlay. Each operation of a handle has its own enum beside
//! the handle.

use crate::Multiaddr;
use std::io;
use thiserror::Error;

/// The driver has ended (or was never run and is gone), so nobody answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the overlay is not running")]
pub struct Closed;

/// The configuration cannot work.
#[derive(Debug, Error)]
pub enum BuildError {
    /// A setting, by its path in the configuration, and what is wrong with it.
    #[error("overlay setting `{setting}`: {problem}")]
    Setting {
        /// Path of the setting, for example `bootstrap.bootnodes`.
        setting: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
}

/// Why [`Driver::run`](crate::Driver::run) ended otherwise than by its token.
#[derive(Debug, Error)]
pub enum RunError {
    /// A configured address cannot be listened on.
    #[error(
        "the overlay cannot listen on {address}: {source}; stop what holds the port, or give \
         another address with --overlay-listen-addr"
    )]
    Listen {
        /// The address as configured.
        address: Multiaddr,
        /// What the system or the transport said.
        source: io::Error,
    },
    /// Transport or gossip could not be set up.
    #[error("the overlay cannot set up {what}: {source}")]
    Setup {
        /// What was being set up.
        what: &'static str,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The task that validates gossip has ended, by a panic.
    #[error("gossip is no longer validated")]
    Validation,
    /// Every listener has closed; the node could be reached by nobody.
    #[error("the overlay no longer listens on any address (last reason: {reason})")]
    ListenersGone {
        /// Why the last one closed.
        reason: String,
    },
}
