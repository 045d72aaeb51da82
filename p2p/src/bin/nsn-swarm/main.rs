//! `nsn-swarm`: many light peers against one overlay node, honest ones and others.
//!
//! A light peer speaks gossipsub's wire by hand ([`wire`], [`negotiate`]) over libp2p's own encryption
//! and multiplexing ([`dial`]), so that hundreds of them cost less than the node that they load, and
//! so that they can say what the library never would ([`mischief`]). `nsn-swarm --help` tells what
//! they can do.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `args.rs` | the command line |
//! | `keys.rs` | keys from a seed |
//! | `wire.rs`, `negotiate.rs` | the wire |
//! | `dial.rs`, `link.rs` | one connection |
//! | `mischief.rs`, `peer.rs` | what a peer sends, and when |
//! | `swarm.rs` | who comes when |
//! | `tally.rs` | what is counted and told |

mod args;
mod dial;
mod keys;
mod link;
mod mischief;
mod negotiate;
mod peer;
mod swarm;
mod tally;
#[cfg(test)]
mod tests;
mod wire;

use args::{Args, Target, Wire};
use clap::Parser;
use nsn_p2p::{
    Config, Identity,
    testnet::{self, Node},
};
use std::{error::Error, io, process::ExitCode, sync::Arc};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::from_default_env())
        .with_writer(io::stderr)
        .init();
    match tokio::runtime::Runtime::new()
        .map_err(Failure::from)
        .and_then(|rt| rt.block_on(run(args)))
    {
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
    if let Some(target) = args.against.clone() {
        swarm::run(args, target, &mut io::stdout(), interrupted).await?;
        return Ok(());
    }
    let node = start_node(&args)?;
    let target: Target = node.address().await?.to_string().parse()?;
    swarm::run(args, target, &mut io::stdout(), interrupted).await?;
    node.stop().await??;
    Ok(())
}

/// A node of its own to go against.
fn start_node(args: &Args) -> Result<Node, Failure> {
    let listen = match args.wire {
        Wire::Tcp => "/ip4/127.0.0.1/tcp/0",
        Wire::Quic => "/ip4/127.0.0.1/udp/0/quic-v1",
    };
    let config = Config { listen: vec![listen.parse()?], ..testnet::config() };
    // No light peer has it: theirs are hashes.
    let identity = Identity::from_secret([1; 32])?;
    Ok(Node::start(config, identity, args.genesis.0, &Arc::default())?)
}
