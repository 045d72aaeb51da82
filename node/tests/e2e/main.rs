//! Real `nsn-node` processes over JSON-RPC: what a validator, a relay operator and a viewer see.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "this crate is tests throughout; clippy.toml knows only functions marked as such"
)]

mod audits;
mod bad_input;
mod directory;
mod doctor;
mod equivocation;
mod harness;
mod main_job;
mod operations;
mod own_chain;
mod region;
mod relay_rpc;
mod reputation;
mod topics;

#[path = "../common/tx.rs"]
mod tx;
