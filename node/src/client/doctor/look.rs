//! What can be seen of this machine and its network without a node.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
};

use libp2p::{Multiaddr, multiaddr::Protocol};

use super::judge::local::{Local, Port, PortState};
use crate::config::Settings;

/// Tries the ports that a node with these settings would bind, and asks the STUN servers and the
/// router. Takes at most some 10 s with the usual settings; nothing is left bound or mapped.
pub(super) async fn look(settings: &Settings) -> Local {
    let mut ports = Vec::new();
    let overlay = &settings.overlay;
    if !settings.no_overlay {
        for (udp, at) in overlay.listen.iter().filter_map(socket) {
            ports.push(port(udp, at, "--overlay-listen-addr"));
        }
    }
    if settings.relay || settings.super_node {
        ports.push(port(true, settings.shards.server.listen_addr, "--shard-listen-addr"));
    }
    let mut local = Local {
        listen_addrs: overlay.listen.iter().map(Multiaddr::to_string).collect(),
        ports,
        ..Local::default()
    };
    if !settings.no_overlay {
        let found = nsn_p2p::nat::probe(&overlay.nat, overlay.address_policy).await;
        // The same fields as a node answers. Neither fails: the metrics are shown nowhere, and what is
        // found is plain.
        local.nat = found
            .ok()
            .and_then(|found| serde_json::to_value(found).ok())
            .and_then(|found| serde_json::from_value(found).ok())
            .unwrap_or_default();
    }
    local
}

/// Where an address listens, and whether over UDP.
fn socket(addr: &Multiaddr) -> Option<(bool, SocketAddr)> {
    let mut parts = addr.iter();
    let ip: IpAddr = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Udp(port) => Some((true, SocketAddr::new(ip, port))),
        Protocol::Tcp(port) => Some((false, SocketAddr::new(ip, port))),
        _ => None,
    }
}

fn port(udp: bool, at: SocketAddr, flag: &'static str) -> Port {
    let bound = if udp { UdpSocket::bind(at).map(drop) } else { TcpListener::bind(at).map(drop) };
    let name = format!("{} {at}", if udp { "UDP" } else { "TCP" });
    Port { name, flag, state: state(bound) }
}

fn state(bound: io::Result<()>) -> PortState {
    match bound {
        Ok(()) => PortState::Free,
        Err(error) if error.kind() == ErrorKind::AddrInUse => PortState::Held,
        Err(error) => PortState::Barred(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_free_held_or_barred() {
        let held = UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = held.local_addr().unwrap();
        assert_eq!(port(true, at, "").state, PortState::Held);
        drop(held);
        assert_eq!(port(true, at, "").state, PortState::Free);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let held = port(false, listener.local_addr().unwrap(), "--flag");
        assert_eq!((held.state, held.flag), (PortState::Held, "--flag"));
        // TEST-NET-1 is no address of this machine.
        let elsewhere = port(true, "192.0.2.1:9000".parse().unwrap(), "");
        assert!(matches!(elsewhere.state, PortState::Barred(_)), "{elsewhere:?}");
    }

    #[test]
    fn listen_addresses_are_read() {
        let read = |text: &str| socket(&text.parse().unwrap());
        let any = "0.0.0.0:9000".parse().unwrap();
        assert_eq!(read("/ip4/0.0.0.0/udp/9000/quic-v1"), Some((true, any)));
        assert_eq!(read("/ip4/0.0.0.0/tcp/9000"), Some((false, any)));
        assert_eq!(read("/memory/1"), None);
    }
}
