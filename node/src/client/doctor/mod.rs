//! `nsn-node doctor`: what works and what does not of a node's place in the network, and what to do.
//!
//! ```text
//!   node's JSON-RPC ── ask ── Answers ── judge (pure) ──┐
//!   this machine ───── look ── Local ─── judge::local ──┴── Report ── text or JSON
//! ```
//!
//! The second way is taken when no node answers.

mod answers;
mod ask;
mod judge;
mod look;
mod report;

use std::process::ExitCode;

use clap::Args;
use sc_service::ChainType;

use self::{
    judge::local,
    report::{Asked, Finding, Report},
};
use super::{
    Error, print_line,
    rpc::{Node, Rpc},
};
use crate::{cli::NsnArgs, config::Effective};

/// `nsn-node doctor`.
#[derive(Debug, Args)]
pub struct Command {
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    node: Node,

    /// The chain of the settings that are looked at where no node answers: on `dev` and `local`, any
    /// address may be used.
    #[arg(long, value_name = "CHAIN_SPEC", default_value = "local")]
    pub chain: String,

    /// The settings that are looked at where no node answers.
    #[command(flatten)]
    nsn: NsnArgs,
}

impl Command {
    /// `chain` is the kind of the chain that was named, or why it cannot be told.
    pub(crate) async fn run(&self, chain: Result<ChainType, String>) -> Result<ExitCode, Error> {
        let rpc = Rpc::new(&self.node, ask::LIMIT)?;
        let report = match ask::ask(&rpc, self.node.rpc_url.clone()).await {
            Ok((node, answers)) => Report::new(node, judge::judge(&answers)),
            // What it holds while it asks is some 20 KB, and rarely needed.
            Err(why) => Box::pin(self.without_node(chain, &why)).await,
        };
        let text =
            if self.json { serde_json::json!(report).to_string() } else { report.to_string() };
        // A closed pipe (`| head`) is the reader's choice, not an error.
        let _ = print_line(text);
        Ok(ExitCode::from(report.code()))
    }

    async fn without_node(&self, chain: Result<ChainType, String>, why: &str) -> Report {
        let url = self.node.rpc_url.clone();
        let mut findings: Vec<Finding> = vec![local::unreachable(&url, why)];
        let settings = chain.and_then(|chain| {
            let settings =
                Effective::resolve(&self.nsn).and_then(|read| read.for_chain(chain, false));
            settings.map_err(|error| error.to_string())
        });
        match settings {
            Ok(effective) => {
                findings.push(local::settings(Ok(())));
                findings.extend(local::findings(&look::look(&effective.settings).await));
            }
            Err(why) => findings.push(local::settings(Err(why))),
        }
        Report::new(Asked { url, ..Asked::default() }, findings)
    }
}
