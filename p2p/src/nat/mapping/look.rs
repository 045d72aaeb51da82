//! What a router says of itself. Nothing is mapped.

use super::{
    leases::{By, Failed},
    pcp, upnp,
};
use crate::{AddressPolicy, nat::config::Mapping as Config};
use std::net::IpAddr;
use tokio::time::timeout;

/// What was found in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The protocol that was asked by, or that the router named instead.
    pub(crate) by: By,
    /// The public address, if it told one, or why it is no router that maps.
    pub(crate) result: Result<Option<IpAddr>, Failed>,
}

/// Asks by each protocol that the settings allow, all at once. Ends within `timeout` of the settings.
pub(crate) async fn look(config: &Config, policy: AddressPolicy) -> Vec<Found> {
    let limit = config.timeout;
    let possible = |result: Result<Option<IpAddr>, Failed>| match result {
        Ok(Some(ip)) if !policy.allows_ip(ip) => Err(Failed::Impossible),
        result => result,
    };
    let upnp = async {
        let asked = timeout(limit, upnp::look(config)).await.unwrap_or(Err(Failed::Timeout));
        Found { by: By::Upnp, result: possible(asked.map(Some)) }
    };
    let pcp = async {
        match timeout(limit, pcp::look(config)).await.unwrap_or(Err(Failed::Timeout)) {
            Ok((by, ip)) => Found { by, result: possible(Ok(ip)) },
            Err(failed) => Found { by: By::NatPmp, result: Err(failed) },
        }
    };
    let (upnp, pcp) = futures::join!(
        futures::future::OptionFuture::from(config.upnp.then_some(upnp)),
        futures::future::OptionFuture::from(config.pcp.then_some(pcp)),
    );
    upnp.into_iter().chain(pcp).collect()
}
