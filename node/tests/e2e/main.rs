//! Real `nsn-node` processes over JSON-RPC: what a validator, a relay operator and a viewer see.

mod bad_input;
mod harness;
mod main_job;
mod operations;
mod reputation;

#[path = "../common/tx.rs"]
mod tx;
