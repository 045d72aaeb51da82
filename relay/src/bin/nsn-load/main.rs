//! `nsn-load`: viewers by the hundred against one shard service, or against what could be used
//! instead.
//!
//! `nsn-load view` plays: each viewer is a connection and a player with a buffer, so what is counted
//! is what people would notice. `nsn-load serve` is the bare server to hold a service against: the
//! same wire and QUIC, blobs in memory, nothing else. `nsn-load --help` tells the rest.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `args.rs` | the command line |
//! | `player.rs` | a buffer that fills and empties, and its stalls |
//! | `choice.rs` | what a viewer watches |
//! | `link.rs`, `https.rs` | a connection: to a shard service, to an HTTPS server |
//! | `viewers.rs` | who comes when, and what each does |
//! | `tally.rs` | what is counted and told |
//! | `serve.rs` | the bare server |

mod args;
mod choice;
mod https;
mod link;
mod player;
mod serve;
mod tally;
#[cfg(test)]
mod tests;
mod viewers;

use args::{Args, Command};
use clap::Parser;
use std::{error::Error, io, process::ExitCode};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::from_default_env())
        .with_writer(io::stderr)
        .init();
    let done = tokio::runtime::Runtime::new()
        .map_err(Failure::from)
        .and_then(|runtime| runtime.block_on(run(args)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), Failure> {
    let interrupted = CancellationToken::new();
    let on_interrupt = interrupted.clone();
    tokio::spawn(async move {
        // Without a way to hear of it, the run ends by its duration.
        if tokio::signal::ctrl_c().await.is_ok() {
            on_interrupt.cancel();
        }
    });
    match args.command {
        Command::View(view) => viewers::run(*view, &mut io::stdout(), interrupted).await,
        Command::Serve(serve) => serve::run(serve, &mut io::stdout(), interrupted).await,
    }
}
