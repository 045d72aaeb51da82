//! Which router stands between this node and others, by the kernel's routing table.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};
use tokio::{io::AsyncReadExt, net::UdpSocket};

/// The kernel's IPv4 routing table, as text.
const ROUTES: &str = "/proc/net/route";

/// Most of it that is read, in bytes: 500 routes. The default route is one of the first.
const MAX_BYTES: u64 = 64 * 1024;

/// Set for a route that is up, and for one that leads to a router (`linux/route.h`).
const UP_AND_GATEWAY: u32 = 0x3;

/// The router of the default route with the lowest metric, if there is one.
pub(super) async fn default_gateway() -> Option<Ipv4Addr> {
    let mut text = String::new();
    let file = tokio::fs::File::open(ROUTES).await.ok()?;
    file.take(MAX_BYTES).read_to_string(&mut text).await.ok()?;
    parse(&text)
}

/// Reads a table as `/proc/net/route` shows it: destination, gateway, flags, metric and mask are
/// columns 2, 3, 4, 7 and 8, addresses in hexadecimal in the machine's order of bytes.
fn parse(text: &str) -> Option<Ipv4Addr> {
    let routes = text.lines().skip(1).filter_map(|line| {
        let columns: Vec<&str> = line.split_ascii_whitespace().take(8).collect();
        let &[_, destination, gateway, flags, _, _, metric, mask] = columns.as_slice() else {
            return None;
        };
        let hex = |text| u32::from_str_radix(text, 16).ok();
        let leads_out = hex(destination)? == 0
            && hex(mask)? == 0
            && hex(flags)? & UP_AND_GATEWAY == UP_AND_GATEWAY;
        let gateway = Ipv4Addr::from(hex(gateway)?.to_ne_bytes());
        (leads_out && !gateway.is_unspecified()).then_some((metric.parse::<u32>().ok()?, gateway))
    });
    routes.min_by_key(|(metric, _)| *metric).map(|(_, gateway)| gateway)
}

/// This node's address as the router sees it: that of the interface towards it. Sends nothing.
pub(super) async fn local_towards(router: IpAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match router {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // Any port: it is only the route that is asked for.
    socket.connect(SocketAddr::new(router, 9)).await?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEAD: &str =
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";

    fn hex(ip: [u8; 4]) -> String {
        format!("{:08X}", u32::from_ne_bytes(ip))
    }

    fn route(to: [u8; 4], gateway: [u8; 4], flags: u32, metric: u32, mask: [u8; 4]) -> String {
        let (to, gateway, mask) = (hex(to), hex(gateway), hex(mask));
        format!("eth0\t{to}\t{gateway}\t{flags:04X}\t0\t0\t{metric}\t{mask}\t0\t0\t0\n")
    }

    #[test]
    fn the_default_route_with_the_lowest_metric_is_taken() {
        let all = [0; 4];
        let text = [
            HEAD.to_owned(),
            route([10, 0, 0, 0], [10, 0, 0, 9], 3, 0, [255, 0, 0, 0]),
            route(all, [192, 168, 1, 2], 3, 600, all),
            route(all, [192, 168, 1, 1], 3, 100, all),
            route(all, [192, 168, 1, 3], 2, 50, all),
            route(all, all, 1, 10, all),
        ]
        .concat();
        assert_eq!(parse(&text), Some(Ipv4Addr::new(192, 168, 1, 1)));
        assert_eq!(parse(HEAD), None);
        assert_eq!(parse(""), None);
    }

    #[tokio::test]
    async fn towards_loopback_this_node_is_loopback() {
        let local = local_towards(Ipv4Addr::LOCALHOST.into()).await.unwrap();
        assert_eq!(local, IpAddr::from(Ipv4Addr::LOCALHOST));
    }

    proptest! {
        #[test]
        fn no_text_is_a_panic(text: String, columns in "[0-9A-F\t\n ]{0,200}") {
            parse(&text);
            parse(&format!("{HEAD}{columns}"));
        }
    }
}
