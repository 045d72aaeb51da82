//! The command line: Substrate's own options and subcommands, and ours beside them.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand as ClapSubcommand};
use libp2p::Multiaddr;
use sc_cli::{RunCmd, SubstrateCli};

use crate::{chain_spec, client, config::ServiceFailure};

/// `nsn-node`.
#[derive(Debug, Parser)]
pub struct Cli {
    /// What to do instead of running a node.
    #[command(subcommand)]
    pub subcommand: Option<Subcommand>,

    /// Substrate's options of a running node.
    #[command(flatten)]
    pub run: RunCmd,

    /// Our options of a running node.
    #[command(flatten)]
    pub nsn: NsnArgs,
}

/// Options of the video network. Each stands over the same setting in `--nsn-config`, which stands
/// over the default.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Video network")]
pub struct NsnArgs {
    /// Settings of the video network as TOML; `nsn-node config` prints all of them with their values.
    #[arg(long, value_name = "FILE")]
    pub nsn_config: Option<PathBuf>,

    /// Keep published content for good and serve it.
    #[arg(long)]
    pub super_node: bool,

    /// Cache content and serve it to viewers, fetching what is missing.
    #[arg(long)]
    pub relay: bool,

    /// Do not join the overlay; without it there is no directory, so no relay and no super-node.
    #[arg(long, conflicts_with_all = ["super_node", "relay"])]
    pub no_overlay: bool,

    /// Where the overlay listens; may be given more than once [default: UDP (QUIC) and TCP port 9000].
    #[arg(long, value_name = "MULTIADDR")]
    pub overlay_listen_addr: Vec<Multiaddr>,

    /// Where others reach the overlay, if that is not where it listens; may be given more than once.
    #[arg(long, value_name = "MULTIADDR")]
    pub overlay_public_addr: Vec<Multiaddr>,

    /// Peers through which the overlay is found, with `/p2p/`; may be given more than once.
    #[arg(long, value_name = "MULTIADDR")]
    pub overlay_bootnodes: Vec<Multiaddr>,

    /// Where the shard service listens (UDP) [default: 0.0.0.0:9003].
    #[arg(long, value_name = "IP:PORT")]
    pub shard_listen_addr: Option<SocketAddr>,

    /// Bytes that the relay's cache may hold, for example 20GiB [default: 10GiB].
    #[arg(long, value_name = "SIZE", value_parser = crate::config::parse_size)]
    pub relay_cache_size: Option<u64>,

    /// The region that this node serves: 1 to 32 of a-z, 0-9 and the hyphen [default: a relay takes that
    /// of the nearest super-node].
    #[arg(long, value_name = "NAME", value_parser = crate::config::parse_region)]
    pub region: Option<String>,

    /// When a service of the video network fails: start it again beside the running chain, or end
    /// the node [default: degrade].
    #[arg(long, value_enum, value_name = "WHAT")]
    pub service_failure: Option<ServiceFailure>,

    /// Makes a service panic once, some seconds after its start (SERVICE=SECONDS), to show that the
    /// chain goes on. Development and local chains only.
    #[arg(long, hide = true, value_name = "SERVICE=SECONDS", value_parser = crate::config::parse_fault)]
    pub test_panic: Option<crate::config::Fault>,

    /// Answers every question for a shard with "not found", while what is held goes on being claimed,
    /// to show that audits notice. Development and local chains only.
    #[arg(long, hide = true)]
    pub test_withhold: bool,
}

/// Subcommands.
#[derive(Debug, ClapSubcommand)]
#[allow(clippy::large_enum_variant, reason = "one exists, for as long as the process starts")]
pub enum Subcommand {
    /// Publish, fetch and list video.
    #[command(subcommand)]
    Content(client::content::Command),

    /// The link between an overlay key and the account that answers for it.
    #[command(subcommand)]
    Peer(client::peer::Command),

    /// Print the effective settings of the video network, as `--nsn-config` takes them.
    Config(ConfigCmd),

    /// Tell what works and what does not of a running node's place in the network, and what to do
    /// about it. Ends with 0 if there is no problem, 1 if there is one, 2 if no node could be asked.
    Doctor(client::doctor::Command),

    /// Make, inspect and insert keys.
    #[command(subcommand)]
    Key(sc_cli::KeySubcommand),

    /// Build a chain specification (older name of export-chain-spec).
    #[allow(deprecated, reason = "zombienet calls it by this name")]
    BuildSpec(sc_cli::BuildSpecCmd),

    /// Write the chain specification.
    ExportChainSpec(sc_cli::ExportChainSpecCmd),

    /// Check a block that is already imported by executing it again.
    CheckBlock(sc_cli::CheckBlockCmd),

    /// Write blocks to a file.
    ExportBlocks(sc_cli::ExportBlocksCmd),

    /// Read blocks from a file.
    ImportBlocks(sc_cli::ImportBlocksCmd),

    /// Write the state of a block as a chain specification.
    ExportState(sc_cli::ExportStateCmd),

    /// Remove the chain's database.
    PurgeChain(sc_cli::PurgeChainCmd),

    /// Take back blocks that are not finalised.
    Revert(sc_cli::RevertCmd),

    /// Columns of the database.
    ChainInfo(sc_cli::ChainInfoCmd),
}

/// `nsn-node config`.
#[derive(Debug, Args)]
pub struct ConfigCmd {
    /// Print JSON instead of TOML.
    #[arg(long)]
    pub json: bool,

    /// The chain whose settings are shown: on `dev` and `local`, any address may be used.
    #[arg(long, value_name = "CHAIN_SPEC", default_value = "local")]
    pub chain: String,

    /// The options whose effect is shown.
    #[command(flatten)]
    pub nsn: NsnArgs,
}

impl SubstrateCli for Cli {
    fn impl_name() -> String {
        "NSN node".into()
    }

    fn impl_version() -> String {
        env!("SUBSTRATE_CLI_IMPL_VERSION").into()
    }

    fn description() -> String {
        env!("CARGO_PKG_DESCRIPTION").into()
    }

    fn author() -> String {
        "the NSN developers".into()
    }

    fn support_url() -> String {
        "the issue tracker of the repository that this binary was built from".into()
    }

    fn copyright_start_year() -> i32 {
        2026
    }

    fn executable_name() -> String {
        "nsn-node".into()
    }

    fn load_spec(&self, id: &str) -> Result<Box<dyn sc_service::ChainSpec>, String> {
        Ok(Box::new(match id {
            "dev" => chain_spec::development()?,
            "" | "local" => chain_spec::local()?,
            path => {
                chain_spec::ChainSpec::from_json_file(PathBuf::from(path)).map_err(|error| {
                    format!("{error} ({path:?} is neither dev nor local, so it was read as a file)")
                })?
            }
        }))
    }
}
