//! From the command line to what runs.

use std::process::ExitCode;

use nsn_runtime::opaque::Block;
use sc_cli::SubstrateCli;
use sc_network::config::TransportConfig;
use sc_service::{Configuration, PartialComponents as Parts};

use crate::{
    cli::{Cli, Subcommand},
    client, config, service,
};

/// Parses the command line and does what it says. How the process is to end: `doctor` has codes of its
/// own, everything else succeeds or fails.
///
/// # Errors
/// Whatever the command failed with; the caller prints it and exits non-zero.
pub fn run() -> sc_cli::Result<ExitCode> {
    let cli = Cli::from_args();
    let done = match &cli.subcommand {
        None => run_node(&cli),
        Some(Subcommand::Doctor(command)) => {
            let chain = cli.load_spec(&command.chain).map(|spec| spec.chain_type());
            return client::run(command.run(chain));
        }
        Some(Subcommand::Content(command)) => client::run(command.run()),
        Some(Subcommand::Peer(command)) => command.run().map_err(application),
        Some(Subcommand::Config(command)) => {
            let chain = cli.load_spec(&command.chain)?.chain_type();
            client::print_config(command, chain).map_err(application)
        }
        Some(Subcommand::Key(command)) => command.run(&cli),
        #[allow(deprecated, reason = "zombienet calls it by this name")]
        Some(Subcommand::BuildSpec(command)) => cli
            .create_runner(command)?
            .sync_run(|config| command.run(config.chain_spec, config.network)),
        Some(Subcommand::ExportChainSpec(command)) => command.run(cli.load_spec(&command.chain)?),
        Some(Subcommand::CheckBlock(command)) => cli.create_runner(command)?.async_run(|config| {
            let Parts { client, task_manager, import_queue, .. } = service::partial(&config)?;
            Ok((command.run(client, import_queue), task_manager))
        }),
        Some(Subcommand::ExportBlocks(command)) => {
            cli.create_runner(command)?.async_run(|config| {
                let Parts { client, task_manager, .. } = service::partial(&config)?;
                Ok((command.run(client, config.database), task_manager))
            })
        }
        Some(Subcommand::ImportBlocks(command)) => {
            cli.create_runner(command)?.async_run(|config| {
                let Parts { client, task_manager, import_queue, .. } = service::partial(&config)?;
                Ok((command.run(client, import_queue), task_manager))
            })
        }
        Some(Subcommand::ExportState(command)) => cli.create_runner(command)?.async_run(|config| {
            let Parts { client, task_manager, .. } = service::partial(&config)?;
            Ok((command.run(client, config.chain_spec), task_manager))
        }),
        Some(Subcommand::PurgeChain(command)) => {
            cli.create_runner(command)?.sync_run(|config| command.run(config.database))
        }
        Some(Subcommand::Revert(command)) => cli.create_runner(command)?.async_run(|config| {
            let Parts { client, task_manager, backend, .. } = service::partial(&config)?;
            let grandpa = Box::new(|client, _, blocks| {
                sc_consensus_grandpa::revert(client, blocks)?;
                Ok(())
            });
            Ok((command.run(client, backend, Some(grandpa)), task_manager))
        }),
        Some(Subcommand::ChainInfo(command)) => {
            cli.create_runner(command)?.sync_run(|config| command.run::<Block>(&config))
        }
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn run_node(cli: &Cli) -> sc_cli::Result<()> {
    // Before anything is opened or started: a bad setting ends here, with one line.
    let nsn = config::Effective::resolve(&cli.nsn).map_err(application)?;
    let runner = cli.create_runner(&cli.run)?;
    let Configuration { chain_spec, network, .. } = runner.config();
    let mdns = matches!(network.transport, TransportConfig::Normal { enable_mdns: true, .. });
    let nsn = nsn.for_chain(chain_spec.chain_type(), mdns).map_err(application)?;
    runner.run_node_until_exit(|config| async move {
        service::full(config, nsn).map_err(sc_cli::Error::Service)
    })
}

fn application(error: impl std::error::Error + Send + Sync + 'static) -> sc_cli::Error {
    sc_cli::Error::Application(Box::new(error))
}
