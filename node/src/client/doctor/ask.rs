//! The questions to a running node.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonrpsee::{
    core::{ClientError, params::ArrayParams},
    rpc_params,
};
use serde::de::DeserializeOwned;

use super::{
    answers::{Answer, Answers, little_endian},
    report::Asked,
};
use crate::{client::rpc::Rpc, rpc::code};

/// Longest wait for one answer. A node answers at once; one that does not is no better off for being
/// waited for longer.
pub(super) const LIMIT: Duration = Duration::from_secs(10);

/// What `check_if_safe` refuses with (`sc-rpc-api`, `policy`): method not found.
const UNSAFE: i32 = -32_601;

/// Asks a node all there is to ask, all at once.
///
/// # Errors
/// Why the first question had no answer at all: there is no node.
pub(super) async fn ask(rpc: &Rpc, url: String) -> Result<(Asked, Answers), String> {
    let name: String = rpc.ask("system_name", rpc_params![]).await.map_err(|error| root(&error))?;
    let (version, chain) = tokio::join!(text(rpc, "system_version"), text(rpc, "system_chain"));
    let slot = rpc_params!["AuraApi_slot_duration", "0x"];
    let (chain_type, health, head, slot_ms, overlay, nat, breakers, shards) = tokio::join!(
        one(rpc, "system_chainType", rpc_params![]),
        one(rpc, "system_health", rpc_params![]),
        one(rpc, "chain_getHeader", rpc_params![]),
        rpc.ask::<String>("state_call", slot),
        one(rpc, "p2p_v1_status", rpc_params![]),
        one(rpc, "p2p_v1_natStatus", rpc_params![]),
        one(rpc, "p2p_v1_breakers", rpc_params![]),
        one(rpc, "relay_v1_status", rpc_params![]),
    );
    let answers = Answers {
        chain_type,
        health,
        head,
        slot_ms: slot_ms.ok().and_then(|encoded| little_endian(&encoded)).filter(|ms| *ms > 0),
        now_ms: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
        overlay,
        nat,
        breakers,
        shards,
    };
    let peer_id = answers.overlay.is().and_then(|overlay| overlay.peer_id.clone());
    Ok((Asked { url, answered: true, name: Some(name), version, chain, peer_id }, answers))
}

async fn text(rpc: &Rpc, method: &str) -> Option<String> {
    rpc.ask(method, rpc_params![]).await.ok()
}

async fn one<T: DeserializeOwned>(rpc: &Rpc, method: &str, params: ArrayParams) -> Answer<T> {
    match rpc.ask(method, params).await {
        Ok(answer) => Answer::Is(answer),
        Err(error) => ended(&error),
    }
}

/// How a question without an answer has ended.
fn ended<T>(error: &ClientError) -> Answer<T> {
    match error {
        ClientError::Call(refusal) if refusal.code() == code::SERVICE_DOWN => {
            Answer::Down(refusal.message().to_owned())
        }
        ClientError::Call(refusal)
            if refusal.code() == UNSAFE && refusal.message().contains("unsafe") =>
        {
            Answer::Unsafe
        }
        ClientError::Call(refusal) => Answer::Failed(refusal.message().to_owned()),
        other => Answer::Failed(root(other)),
    }
}

/// What an error goes back to: those around it say little more than that something failed.
fn root(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.last().map(ToString::to_string).unwrap_or_default()
}
