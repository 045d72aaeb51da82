//! Reachability of whole nodes on loopback: dial-backs, what peers see, STUN, and leaving nothing.

use nsn_p2p::{
    Config, Identity, Multiaddr, PeerId,
    nat::{Method, Standing, State, Status, StunOutcome},
    testnet::{self, Node},
};
use std::{sync::Arc, time::Duration};
use tokio::net::UdpSocket;

const PATIENCE: Duration = Duration::from_secs(60);

fn start(n: u8, bootnodes: Vec<Multiaddr>, tweak: impl FnOnce(&mut Config)) -> Node {
    let listen = ["/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"];
    let listen = listen.iter().map(|addr| addr.parse().unwrap()).collect();
    let mut config = Config { listen, ..testnet::config() };
    config.bootstrap.bootnodes = bootnodes;
    tweak(&mut config);
    let identity = Identity::from_secret([n; 32]).unwrap();
    Node::start(config, identity, testnet::GENESIS, &Arc::default()).unwrap()
}

/// Waits until the status is as wanted. It signals nothing, so this looks now and then.
pub(crate) async fn status(node: &Node, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
    let found = async {
        loop {
            let status = node.overlay.nat.status().await.unwrap();
            if wanted(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if let Ok(status) = tokio::time::timeout(PATIENCE, found).await {
        return status;
    }
    let last = node.overlay.nat.status().await.unwrap();
    assert!(wanted(&last), "waited in vain for {what}: {last:#?}");
    last
}

/// What the best connection to a peer came by.
pub(crate) fn method(status: &Status, peer: PeerId) -> Option<Method> {
    let peer = peer.to_string();
    status.connections.iter().find(|known| known.peer_id == peer).map(|known| known.method)
}

#[tokio::test]
async fn what_is_listened_on_is_told_and_the_operators_word_is_named() {
    let public: Multiaddr = "/ip4/127.0.0.9/tcp/9000".parse().unwrap();
    let node = start(1, vec![], |config| config.public_addrs = vec![public.clone()]);
    let status = status(&node, "three addresses", |status| status.addresses.len() == 3).await;
    assert!(status.addresses.iter().all(|address| address.standing == Standing::Trusted));
    let given = status.addresses.iter().find(|a| a.address == public.to_string()).unwrap();
    assert_eq!(given.known_from, ["operator"]);
    assert_eq!((status.verdict.state, status.verdict.confidence), (State::Public, 100));
    assert!(!status.dial_back_servers && status.stun.is_empty() && status.mappings.is_empty());
    node.stop().await.unwrap().unwrap();
}

/// A server that tells every client that it is at this address.
async fn stun_server(mapped: std::net::SocketAddr) -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let named = socket.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            assert!(length >= 20);
            let std::net::SocketAddr::V4(mapped) = mapped else { return };
            // MAPPED-ADDRESS, 12 bytes (RFC 8489, 14.1).
            let mut answer = vec![1, 1, 0, 12];
            answer.extend_from_slice(&buffer[4..20]);
            answer.extend_from_slice(&[0, 1, 0, 8, 0, 1]);
            answer.extend_from_slice(&mapped.port().to_be_bytes());
            answer.extend_from_slice(&mapped.ip().octets());
            let _ = socket.send_to(&answer, from).await;
        }
    });
    named
}

#[tokio::test]
async fn what_stun_servers_say_is_shown_with_what_they_said_last() {
    let mapped = "8.8.8.8:4242".parse().unwrap();
    let answers = stun_server(mapped).await;
    let dead = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let node = start(1, vec![], |config| {
        config.nat.stun.servers = vec![answers.clone(), dead.clone()];
    });
    let both = |status: &Status| status.stun.iter().all(|server| server.last.is_some());
    let status = status(&node, "answers", both).await;
    assert_eq!(status.verdict.public_ip, Some(mapped.ip()));
    assert_eq!(
        (status.stun[0].last, status.stun[0].mapped),
        (Some(StunOutcome::Answered), Some(mapped))
    );
    assert_eq!((status.stun[1].server.as_str(), status.stun[1].mapped), (dead.as_str(), None));
    let counted = "nsn_p2p_nat_stun_answers_total{outcome=\"answered\"}";
    node.wait_for_metric(counted, 1.0).await.unwrap();
    node.stop().await.unwrap().unwrap();
}

/// What a peer says that it sees becomes a candidate, is dialled back, and is told then; one that
/// nobody reaches is not. The node listens where the other cannot know, on another loopback
/// address.
#[tokio::test]
async fn a_candidate_is_told_once_a_peer_has_dialled_it_back() {
    let router = fake_router().await;
    let first = start(1, vec![], |_| {});
    let bootnode = first.address().await.unwrap();
    let second = start(2, vec![bootnode], |config| {
        // Only an address that is not loopback is worth a mapping; the router says what is reached.
        config.listen = vec!["/ip4/0.0.0.0/tcp/0".parse().unwrap()];
        config.nat.mapping.enabled = nsn_p2p::nat::When::On;
        config.nat.mapping.upnp = false;
        config.nat.mapping.gateway = Some(router);
    });
    let confirmed = status(&second, "a confirmed mapping", |status| {
        status.addresses.iter().any(|address| address.standing == Standing::Confirmed)
    })
    .await;
    let address = confirmed.addresses.iter().find(|a| a.standing == Standing::Confirmed).unwrap();
    assert_eq!(address.known_from, ["router"]);
    assert!(address.address.starts_with("/ip4/127.0.0.77/tcp/"), "{}", address.address);
    assert_eq!(address.reached_by, 1);
    assert!(!confirmed.mappings.is_empty());
    let told = second.overlay.peers.status().await.unwrap().external_addrs;
    assert!(told.contains(&address.address), "{told:?}");
    second.wait_for_metric("nsn_p2p_nat_dial_backs_total{outcome=\"reached\"}", 1.0).await.unwrap();
    first
        .wait_for_metric("nsn_p2p_nat_dial_backs_served_total{outcome=\"dialled\"}", 1.0)
        .await
        .unwrap();
    // The dial-back's connection has served its purpose and goes.
    status_of_connections(&second, 1).await;
    second.stop().await.unwrap().unwrap();
    first.stop().await.unwrap().unwrap();
}

async fn status_of_connections(node: &Node, wanted: usize) {
    let found = async {
        while node.overlay.peers.status().await.unwrap().connections > wanted {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap();
}

#[tokio::test]
async fn a_mapping_that_nobody_reaches_is_told_to_nobody() {
    let router = fake_router_at([127, 0, 0, 78], 1).await;
    let first = start(1, vec![], |_| {});
    let bootnode = first.address().await.unwrap();
    let second = start(2, vec![bootnode], |config| {
        config.listen = vec!["/ip4/0.0.0.0/tcp/0".parse().unwrap()];
        config.nat.retry = Duration::from_millis(200);
        config.nat.mapping.enabled = nsn_p2p::nat::When::On;
        config.nat.mapping.upnp = false;
        config.nat.mapping.gateway = Some(router);
    });
    let given_up = status(&second, "a withdrawn mapping", |status| {
        status.addresses.iter().any(|address| address.standing == Standing::Withdrawn)
    })
    .await;
    let address = given_up.addresses.iter().find(|a| a.standing == Standing::Withdrawn).unwrap();
    assert!(address.failures >= 2);
    let told = second.overlay.peers.status().await.unwrap().external_addrs;
    assert!(!told.contains(&address.address), "{told:?}");
    second.stop().await.unwrap().unwrap();
    first.stop().await.unwrap().unwrap();
}

/// A NAT-PMP router that says it maps each port to the same port of 127.0.0.77, where a node that
/// listens on all addresses is reached in truth.
async fn fake_router() -> std::net::IpAddr {
    fake_router_at([127, 0, 0, 77], 0).await
}

/// The same for any address; ports are moved by `offset`, where nobody listens.
async fn fake_router_at(external: [u8; 4], offset: u16) -> std::net::IpAddr {
    let (ip, socket) = loop {
        let [a, b, c] = rand::random::<[u8; 3]>();
        let ip = std::net::Ipv4Addr::new(127, a.max(1), b, c.clamp(2, 250));
        // NAT-PMP's port (RFC 6886, 3.1).
        if let Ok(socket) = UdpSocket::bind((ip, 5351)).await {
            break (ip, socket);
        }
    };
    tokio::spawn(async move {
        let mut buffer = [0; 1100];
        while let Ok((_, from)) = socket.recv_from(&mut buffer).await {
            let head = [0, buffer[1] | 0x80, 0, 0, 0, 0, 0, 9];
            let answer = match buffer[..2] {
                // PCP: the version that is known is 0.
                [2, _] => vec![0, 0, 0, 1, 0, 0, 0, 9],
                [0, 0] => [&head[..], &external].concat(),
                _ => {
                    let wanted = u16::from_be_bytes([buffer[4], buffer[5]]);
                    let lease = &buffer[8..12];
                    let gone = lease == [0; 4];
                    let port = if gone { 0 } else { wanted.wrapping_sub(offset) };
                    [&head[..], &buffer[4..6], &port.to_be_bytes(), lease].concat()
                }
            };
            let _ = socket.send_to(&answer, from).await;
        }
    });
    ip.into()
}
