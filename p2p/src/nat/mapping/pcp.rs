//! PCP, and NAT-PMP where the router knows no PCP: crab_nat speaks both.

use super::{
    gateway::{default_gateway, local_towards},
    leases::{By, Failed, Granted, Port, Transport},
};
use crate::nat::config::Mapping as Config;
use crab_nat::{
    InternetProtocol, MappingFailure, PortMapping, PortMappingOptions, PortMappingType,
    TimeoutConfig, VersionCode, natpmp, pcp,
};
use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    time::Duration,
};

/// 250 ms at first (RFC 6886, 3.1), then twice that, then once more: 1.75 s in all, so that both
/// protocols fit into `nat.mapping.timeout`.
const PATIENCE: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 2,
    max_retry_timeout: None,
};

/// Asks for a mapping, or for the one that is held to last longer. It is needed for the next time:
/// its number shows the router that it is this node's.
pub(super) async fn map(
    config: &Config,
    port: Port,
    held: Option<PortMapping>,
) -> Result<(Granted, PortMapping), Failed> {
    let mapping = match held {
        Some(mut mapping) => {
            mapping.renew().await.map_err(|error| of(&error))?;
            mapping
        }
        None => ask(config, port).await?,
    };
    let (ip, by) = match mapping.mapping_type() {
        PortMappingType::Pcp { external_ip, .. } => (external_ip.to_canonical(), By::Pcp),
        PortMappingType::NatPmp => {
            let asked = natpmp::external_address(mapping.gateway(), Some(PATIENCE)).await;
            (IpAddr::V4(asked.map_err(|error| of_natpmp(&error))?), By::NatPmp)
        }
    };
    let lease = Duration::from_secs(mapping.lifetime().into());
    if lease.is_zero() {
        return Err(Failed::Malformed);
    }
    let external = SocketAddr::new(ip, mapping.external_port().get());
    Ok((Granted { external, lease, by }, mapping))
}

async fn router(config: &Config) -> Result<IpAddr, Failed> {
    match config.gateway {
        Some(router) => Ok(router),
        None => Ok(default_gateway().await.ok_or(Failed::NoRouter)?.into()),
    }
}

/// Which protocol the router speaks, and the public address that it says it has if it told one. Maps
/// nothing: PCP has no question that does not, but a router that speaks it alone answers one of NAT-PMP
/// with the version that it knows (RFC 6887, 9).
pub(super) async fn look(config: &Config) -> Result<(By, Option<IpAddr>), Failed> {
    let router = router(config).await?;
    match natpmp::external_address(router.into(), Some(PATIENCE)).await {
        Ok(ip) => Ok((By::NatPmp, Some(ip.into()))),
        Err(natpmp::Failure::UnsupportedVersion(VersionCode::Pcp)) => Ok((By::Pcp, None)),
        Err(error) => Err(of_natpmp(&error)),
    }
}

async fn ask(config: &Config, port: Port) -> Result<PortMapping, Failed> {
    let router = router(config).await?;
    let local = local_towards(router).await.map_err(|_| Failed::Io)?;
    let internal = NonZeroU16::new(port.port).ok_or(Failed::Io)?;
    let protocol = match port.transport {
        Transport::Udp => InternetProtocol::Udp,
        Transport::Tcp => InternetProtocol::Tcp,
    };
    let options = PortMappingOptions {
        // The one that is listened on, if the router has it free.
        external_port: Some(internal),
        lifetime_seconds: u32::try_from(config.lease.as_secs()).ok(),
        timeout_config: Some(PATIENCE),
    };
    match PortMapping::new(router.into(), local, protocol, internal, options).await {
        // Old routers are silent to a version that they do not know.
        Err(MappingFailure::Pcp(pcp::Failure::Timeout)) => {
            let asked = natpmp::port_mapping(router.into(), protocol, internal, options).await;
            asked.map_err(|error| of_natpmp(&error))
        }
        asked => asked.map_err(|error| of(&error)),
    }
}

/// Takes a mapping back.
pub(super) async fn remove(mapping: PortMapping) -> Result<(), Failed> {
    mapping.try_drop().await.map_err(|(error, _)| of(&error))
}

fn of(error: &MappingFailure) -> Failed {
    match error {
        MappingFailure::NatPmp(error) => of_natpmp(error),
        MappingFailure::Pcp(error) => match error {
            pcp::Failure::Socket(_) => Failed::Io,
            pcp::Failure::Timeout => Failed::Timeout,
            pcp::Failure::Nonce | pcp::Failure::InvalidResponse(_) => Failed::Malformed,
            _ => Failed::Refused,
        },
    }
}

fn of_natpmp(error: &natpmp::Failure) -> Failed {
    match error {
        // Nobody listens at the port: the router says so.
        natpmp::Failure::Socket(_) => Failed::Io,
        natpmp::Failure::Timeout => Failed::Timeout,
        natpmp::Failure::InvalidResponse(_) => Failed::Malformed,
        _ => Failed::Refused,
    }
}
