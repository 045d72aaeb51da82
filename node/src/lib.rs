//! A Substrate chain node that also carries a video distribution network.
//!
//! ```text
//!  command line (cli, command, config)
//!        |
//!  service      the plain Substrate node: client, block network, consensus
//!        |  client                                   | handles
//!  offchain     chain view, overlay, relay  ------>  rpc   p2p_v1_*, relay_v1_*, content_v1_*
//!
//!  client       `nsn-node content`, `peer`, `doctor`: talk to a running node from outside
//! ```
//!
//! The chain never waits for the video network: the services have their own runtime and threads, a
//! supervisor each, and read the chain through lock-free snapshots ([`offchain::chain_view`]).

pub mod chain_spec;
pub mod cli;
pub mod client;
pub mod command;
pub mod config;
pub mod offchain;
pub mod rpc;
pub mod service;
