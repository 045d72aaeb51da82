//! What can be found out of the network without a running node: which STUN servers answer, what they
//! show of the NAT, and which protocols the router speaks. Nothing is changed by it: no port is mapped,
//! and no socket is left open.

use super::{
    By, Config, NatType, StunOutcome, StunView,
    mapping::{Failed, Found, look},
    stun::{Ask, Worker},
};
use crate::{AddressPolicy, Metrics};
use prometheus_endpoint::PrometheusError;
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};
use tokio::{net::UdpSocket, sync::mpsc};

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Probe {
    /// The STUN servers of the settings.
    pub stun: Vec<StunView>,
    /// What they show to stand between this machine and others.
    pub nat: NatType,
    /// What the router answers, by each protocol; empty where the settings have it asked by none.
    pub routers: Vec<RouterView>,
}

/// What the router answers by one protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouterView {
    /// By which protocol.
    pub protocol: By,
    /// The public address that it says it has; null if it told none.
    pub external_ip: Option<IpAddr>,
    /// Why it is of no use: `no_router`, `timeout`, `refused`, `malformed`, `io` or `impossible`; null if
    /// it answered.
    pub failed: Option<&'static str>,
}

/// Asks the STUN servers and the router of `config`, once. Takes at most the longer of
/// `mapping.timeout` and of `stun.resolve_timeout` and five times all waits of `stun.retransmit`.
///
/// # Errors
/// When the metrics that the questions count cannot be made.
pub async fn probe(config: &Config, policy: AddressPolicy) -> Result<Probe, PrometheusError> {
    let outcomes = Metrics::unregistered()?.nat.stun_answers.clone();
    let (asks, asked) = mpsc::channel(1);
    let (hear, mut heard) = mpsc::channel(1);
    // The channel is new, so it has room; the worker ends after the one round.
    let _ = asks.try_send(Ask { discover: true });
    drop(asks);
    let worker = Worker::new(&config.stun, policy, asked, hear, outcomes);
    let routers = async {
        let asked = config.mapping.enabled.applies(policy);
        if asked { look(&config.mapping, policy).await } else { Vec::new() }
    };
    let ((), heard, routers) = tokio::join!(worker.run(), heard.recv(), routers);
    let heard = heard.unwrap_or_default();
    let view = |name: &String| {
        let said = heard.by_name().find(|(named, ..)| *named == name.as_str());
        let (result, took) = said
            .map_or((Err(StunOutcome::Unsent), Default::default()), |(_, result, took)| {
                (result, took)
            });
        StunView {
            server: name.clone(),
            last: Some(result.err().unwrap_or(StunOutcome::Answered)),
            mapped: result.ok(),
            took_ms: result.ok().map(|_| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
            ago_secs: Some(0),
        }
    };
    let stun: Vec<StunView> = config.stun.servers.iter().map(view).collect();
    let nat = match stun.iter().find_map(|server| server.mapped) {
        Some(at) if own(at).await => NatType::None,
        _ => NatType::of(heard.report.mapping, heard.report.filtering),
    };
    let router = |found: Found| RouterView {
        protocol: found.by,
        external_ip: found.result.ok().flatten(),
        failed: found.result.err().map(Failed::label),
    };
    Ok(Probe { stun, nat, routers: routers.into_iter().map(router).collect() })
}

/// Whether an address is one of this machine's own: only those can be bound.
async fn own(at: SocketAddr) -> bool {
    UdpSocket::bind((at.ip(), 0)).await.is_ok()
}
