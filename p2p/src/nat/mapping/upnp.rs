//! UPnP IGD: igd-next speaks SOAP, over a transport of ours that reads no more than it should.
//!
//! Its own search and client read descriptions and answers of any length, so searching and fetching
//! are ours as well. Every call is within the caller's time limit.

use super::{
    describe::{self, Control},
    gateway::local_towards,
    http,
    leases::{By, Failed, Granted, Held, Port, Transport},
};
use crate::nat::config::Mapping as Config;
use igd_next::{
    AddAnyPortError, AddPortError, GetExternalIpError, PortMappingProtocol, RequestError,
    aio::{Gateway, Provider},
};
use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};
use tokio::net::UdpSocket;

/// How a mapping is named in the router's own list.
const DESCRIPTION: &str = "nsn-node";

/// Longest answer to the search: one datagram.
const MAX_DATAGRAM: usize = 1500;

/// Answers to the search that are looked at; a network has few routers.
const MAX_ANSWERS: usize = 16;

/// The arguments of the actions that are called, as the service's specification lists them (WANIP
/// Connection:1, 2.4.16, 2.4.18). igd-next fills in what it is told the action takes.
const ADD: [&str; 8] = [
    "NewRemoteHost",
    "NewExternalPort",
    "NewProtocol",
    "NewInternalPort",
    "NewInternalClient",
    "NewEnabled",
    "NewPortMappingDescription",
    "NewLeaseDuration",
];
const DELETE: [&str; 3] = ["NewRemoteHost", "NewExternalPort", "NewProtocol"];

/// Carries igd-next's calls.
#[derive(Clone, Copy, Debug)]
struct Bounded;

impl Provider for Bounded {
    async fn send_async(url: &str, action: &str, body: &str) -> Result<String, RequestError> {
        let (at, path) = describe::split(url)
            .ok_or_else(|| RequestError::from(io::Error::from(io::ErrorKind::InvalidInput)))?;
        let answer = http::post(at, &path, action, body).await?;
        Ok(String::from_utf8(answer)?)
    }
}

type Router = Gateway<Bounded>;

/// Asks for a mapping, or for the one that is held to last longer.
pub(super) async fn map(
    config: &Config,
    port: Port,
    held: Option<Held>,
) -> Result<Granted, Failed> {
    let router = find(config).await?;
    let local = local_towards(router.addr.ip()).await.map_err(|_| Failed::Io)?;
    let local = SocketAddr::new(local, port.port);
    let ip = external(&router).await?;
    let protocol = protocol(port.transport);
    let seconds = u32::try_from(config.lease.as_secs()).unwrap_or(u32::MAX);
    // The port that is held or, at first, the one that is listened on; else any.
    let wished = held.map_or(port.port, |held| held.external.port());
    let added = router.add_port(protocol, wished, local, seconds, DESCRIPTION).await;
    let (external, lease) = match added {
        Ok(()) => (wished, config.lease),
        Err(AddPortError::OnlyPermanentLeasesSupported) => {
            let added = router.add_port(protocol, wished, local, 0, DESCRIPTION).await;
            added.map_err(|error| of_add(&error))?;
            (wished, config.lease)
        }
        Err(error @ AddPortError::RequestError(RequestError::IoError(_))) => {
            return Err(of_add(&error));
        }
        Err(_) => {
            let any = router.add_any_port(protocol, local, seconds, DESCRIPTION).await;
            (any.map_err(|error| of_any(&error))?, config.lease)
        }
    };
    if external == 0 {
        return Err(Failed::Malformed);
    }
    Ok(Granted { external: SocketAddr::new(ip, external), lease, by: By::Upnp })
}

/// Looks for a router that maps ports; the public address that it says it has. Maps nothing.
pub(super) async fn look(config: &Config) -> Result<IpAddr, Failed> {
    external(&find(config).await?).await
}

async fn external(router: &Router) -> Result<IpAddr, Failed> {
    router.get_external_ip().await.map_err(|error| match error {
        GetExternalIpError::RequestError(error) => of(&error),
        GetExternalIpError::ActionNotAuthorized => Failed::Refused,
    })
}

/// Takes a mapping back.
pub(super) async fn remove(config: &Config, held: Held) -> Result<(), Failed> {
    let router = find(config).await?;
    let removed = router.remove_port(protocol(held.port.transport), held.external.port()).await;
    removed.map_err(|_| Failed::Refused)
}

fn protocol(transport: Transport) -> PortMappingProtocol {
    match transport {
        Transport::Udp => PortMappingProtocol::UDP,
        Transport::Tcp => PortMappingProtocol::TCP,
    }
}

/// Searches for a router that maps ports. Runs until one is found: the caller's limit ends it.
async fn find(config: &Config) -> Result<Router, Failed> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.map_err(|_| Failed::Io)?;
    let host = config.upnp_search;
    let search = format!(
        "M-SEARCH * HTTP/1.1\r\nHOST: {host}\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\n\
         ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n"
    );
    // No network, or none with multicast.
    socket.send_to(search.as_bytes(), host).await.map_err(|_| Failed::NoRouter)?;
    let mut buffer = [0; MAX_DATAGRAM];
    let mut last = Failed::NoRouter;
    // Answers come within MX seconds; those that lead nowhere are passed over.
    let wait = Duration::from_secs(2).min(config.timeout / 2);
    for _ in 0..MAX_ANSWERS {
        let answer = tokio::time::timeout(wait, socket.recv_from(&mut buffer)).await;
        let Ok(Ok((length, from))) = answer else { return Err(last) };
        let answer = buffer.get(..length).unwrap_or_default();
        let Some((at, path)) = describe::location(answer, from) else {
            last = Failed::Malformed;
            continue;
        };
        match http::get(at, &path).await {
            Ok(description) => match describe::control(&description, at) {
                Some(control) => return Ok(router(at, path, control)),
                None => last = Failed::Malformed,
            },
            Err(error) => last = of_io(&error),
        }
    }
    Err(last)
}

fn router(addr: SocketAddr, root_url: String, control: Control) -> Router {
    let list = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut control_schema = HashMap::from([
        ("AddPortMapping".to_owned(), list(&ADD)),
        ("DeletePortMapping".to_owned(), list(&DELETE)),
    ]);
    if control.any_port {
        control_schema.insert("AddAnyPortMapping".to_owned(), list(&ADD));
    }
    Gateway {
        addr,
        root_url,
        control_url: control.path,
        control_schema_url: String::new(),
        control_schema,
        provider: Bounded,
    }
}

fn of_io(error: &io::Error) -> Failed {
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::FileTooLarge => Failed::Malformed,
        _ => Failed::Io,
    }
}

fn of(error: &RequestError) -> Failed {
    match error {
        RequestError::IoError(error) => of_io(error),
        RequestError::InvalidResponse(_) | RequestError::Utf8Error(_) => Failed::Malformed,
        _ => Failed::Refused,
    }
}

fn of_add(error: &AddPortError) -> Failed {
    match error {
        AddPortError::RequestError(error) => of(error),
        _ => Failed::Refused,
    }
}

fn of_any(error: &AddAnyPortError) -> Failed {
    match error {
        AddAnyPortError::RequestError(error) => of(error),
        _ => Failed::Refused,
    }
}
