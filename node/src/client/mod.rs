//! The commands that talk to a running node or to a relay, from outside.

pub mod content;
pub mod doctor;
pub mod peer;
mod progress;
mod rpc;

use std::{future::Future, io::Write as _};

use crate::{cli::ConfigCmd, config};

/// Why a command failed: one line that says what and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The node's JSON-RPC did not answer.
    #[error(
        "the node's JSON-RPC at {url} did not answer: {source}. Is the node running, and is --rpc-url \
         what its log says after \"Running JSON-RPC server\"?"
    )]
    Unreachable {
        /// Where it was asked.
        url: String,
        /// What the connection said.
        source: Box<jsonrpsee::core::ClientError>,
    },
    /// The node answered with an error.
    #[error("the node refused: {0}")]
    Refused(String),
    /// A local file.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The relay could not be reached.
    #[error(transparent)]
    Relay(#[from] nsn_relay::client::ViewError),
    /// The content could not be fetched.
    #[error(transparent)]
    Fetch(#[from] nsn_relay::client::DownloadError),
    /// An argument that parses but cannot be used.
    #[error("{0}")]
    Argument(String),
    /// Standard output is closed, or no threads are to be had.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// Runs an asynchronous command to its end on a small runtime of its own.
pub(crate) fn run<T>(command: impl Future<Output = Result<T, Error>>) -> sc_cli::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| sc_cli::Error::Application(Box::new(error)))?;
    let result = runtime.block_on(command);
    result.map_err(|error| sc_cli::Error::Application(Box::new(error)))
}

/// Prints the effective configuration.
pub(crate) fn print_config(
    command: &ConfigCmd,
    chain: sc_service::ChainType,
) -> Result<(), config::Error> {
    let effective = config::Effective::resolve(&command.nsn)?.for_chain(chain, true)?;
    let text = if command.json { effective.to_json()? } else { effective.to_toml()? };
    // A closed pipe (`| head`) is the reader's choice, not an error.
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
    Ok(())
}

/// One line on standard output.
fn print_line(line: impl std::fmt::Display) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{line}")
}
