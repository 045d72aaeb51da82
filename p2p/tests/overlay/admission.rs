//! Every reason to refuse a connection, raised through real sockets. All of 127.0.0.0/8 is this
//! machine, so a client can come from many addresses.

use crate::bare::Bare;
use libp2p::multiaddr::Protocol;
use nsn_p2p::{
    Config, Identity, Multiaddr, Standing,
    connections::{BanError, BanTarget, Caps, UnbanError},
    peers::{Changes, ConnectError},
    testnet::{self, Node, StaticReputation},
};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::AsyncReadExt,
    net::{TcpSocket, TcpStream},
};

type Chain = Arc<StaticReputation>;

fn start(n: u8, listen: &str, chain: &Chain, tweak: impl FnOnce(&mut Config)) -> Node {
    let mut config = Config { listen: vec![listen.parse().unwrap()], ..testnet::config() };
    tweak(&mut config);
    let identity = Identity::from_secret([n; 32]).unwrap();
    Node::start(config, identity, testnet::GENESIS, chain).unwrap()
}

const TCP: &str = "/ip4/127.0.0.1/tcp/0";
const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

/// A node that does nothing by itself. Over QUIC its connections come from this address; over TCP
/// libp2p leaves the address to the system, which takes 127.0.0.1.
///
/// However often it is refused, it goes on trying: it is the other side that is tested here.
fn peer_at(n: u8, from: &str, chain: &Chain) -> Node {
    start(n, from, chain, |config| config.peers.breaker.failures = 1_000)
}

fn refused(reason: &str) -> &'static str {
    format!("nsn_p2p_connections_refused_total{{reason=\"{reason}\"}}").leak()
}

const PENDING: &str = "nsn_p2p_connections_pending{direction=\"inbound\"}";

/// Where the node listens over TCP.
async fn socket_of(node: &Node) -> SocketAddr {
    let tcp = |addr: &Multiaddr| {
        let mut parts = addr.iter();
        match (parts.next()?, parts.next()?) {
            (Protocol::Ip4(ip), Protocol::Tcp(port)) => Some(SocketAddr::from((ip, port))),
            _ => None,
        }
    };
    let listens = |c: &Changes| c.listen.iter().any(|addr| tcp(addr).is_some());
    let changes = node.wait_for("a TCP address", listens).await.unwrap();
    changes.listen.iter().find_map(tcp).unwrap()
}

/// Where the node listens over QUIC.
async fn quic_of(node: &Node) -> Multiaddr {
    let quic = |addr: &&Multiaddr| addr.iter().any(|part| part == Protocol::QuicV1);
    let listens = |c: &Changes| c.listen.iter().any(|addr| quic(&addr));
    let changes = node.wait_for("a QUIC address", listens).await.unwrap();
    changes.listen.iter().find(quic).unwrap().clone()
}

/// A connection that says nothing.
async fn knock(node: &Node, from: [u8; 4]) -> TcpStream {
    let to = socket_of(node).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::from(from), 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

/// Waits until the other side has hung up.
async fn hung_up(mut stream: TcpStream) {
    // An end or a reset.
    let read = stream.read(&mut [0; 64]).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

#[tokio::test]
async fn one_source_is_held_to_its_rate_and_others_still_come_in() {
    let node = start(1, TCP, &Chain::default(), |config| {
        config.admission.source_burst = 2;
        config.admission.source_rate = 1;
    });
    let _in = [knock(&node, [127, 0, 0, 2]).await, knock(&node, [127, 0, 0, 2]).await];
    hung_up(knock(&node, [127, 0, 0, 2]).await).await;
    assert_eq!(node.metric(refused("source_rate")), 1.0);
    let _other = knock(&node, [127, 0, 0, 3]).await;
    node.wait_for_metric(PENDING, 3.0).await.unwrap();
    let status = node.overlay.peers.status().await.unwrap().admission;
    assert_eq!((status.pending_inbound, status.recent_sources), (3, 2));
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn all_together_are_held_to_the_rate() {
    let node = start(1, TCP, &Chain::default(), |config| {
        config.admission.burst = 4;
        config.admission.rate = 1;
    });
    let _in = [knock(&node, [127, 0, 0, 2]).await, knock(&node, [127, 0, 0, 3]).await];
    hung_up(knock(&node, [127, 0, 0, 4]).await).await;
    assert_eq!(node.metric(refused("rate")), 1.0);
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn one_address_and_one_network_hold_no_more_than_their_caps() {
    let node = start(1, TCP, &Chain::default(), |config| {
        config.admission.caps_by_address = Caps::On;
        config.admission.max_per_ip = 2;
        config.admission.max_per_ip_group = 3;
    });
    let _in = [knock(&node, [127, 0, 0, 2]).await, knock(&node, [127, 0, 0, 2]).await];
    hung_up(knock(&node, [127, 0, 0, 2]).await).await;
    assert_eq!(node.metric(refused("ip")), 1.0);
    let _third = knock(&node, [127, 0, 0, 3]).await;
    hung_up(knock(&node, [127, 0, 0, 4]).await).await;
    assert_eq!(node.metric(refused("ip_group")), 1.0);
    let _elsewhere = knock(&node, [127, 1, 0, 4]).await;
    node.wait_for_metric(PENDING, 4.0).await.unwrap();
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn those_who_never_shake_hands_hold_half_of_the_places_for_it() {
    let node = start(1, TCP, &Chain::default(), |config| {
        config.peers.max_pending_inbound = 4;
        config.admission.max_pending_per_source = 1;
    });
    let _in = [knock(&node, [127, 0, 0, 2]).await, knock(&node, [127, 0, 0, 3]).await];
    hung_up(knock(&node, [127, 0, 0, 4]).await).await;
    assert_eq!(node.metric(refused("pending")), 1.0);
    drop(_in);
    // Their places are free again.
    while node.metric(PENDING) > 0.0 {
        tokio::task::yield_now().await;
    }
    let _in = knock(&node, [127, 0, 0, 2]).await;
    hung_up(knock(&node, [127, 0, 0, 2]).await).await;
    assert_eq!(node.metric(refused("pending")), 2.0, "one source has one of them");
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn places_are_kept_for_connections_that_this_node_opens() {
    let chain = Chain::default();
    let node = start(1, TCP, &chain, |config| {
        config.peers.max_connections = 2;
        config.admission.outbound_reserve = 50;
    });
    let addr = node.address().await.unwrap();
    let peers = [2, 3, 4].map(|n| peer_at(n, TCP, &chain));
    peers[0].overlay.peers.connect(addr.clone()).await.unwrap();
    // It is dialled back, to see whether it can be reached, and that connection is gone again.
    let table = |c: &Changes| c.connected == 1 && c.routing_table == 1;
    node.wait_for("its inbound peer", table).await.unwrap();
    while node.overlay.peers.status().await.unwrap().connections > 1 {
        tokio::task::yield_now().await;
    }
    assert!(peers[1].overlay.peers.connect(addr.clone()).await.is_err());
    assert_eq!(node.metric(refused("outbound_reserve")), 1.0);
    let outbound = peers[1].address().await.unwrap();
    node.overlay.peers.connect(outbound).await.unwrap();
    let status = node.overlay.peers.status().await.unwrap().admission;
    assert_eq!((status.inbound, status.inbound_limit, status.outbound), (1, 1, 1));

    assert!(peers[2].overlay.peers.connect(addr).await.is_err());
    assert_eq!(node.metric(refused("total")), 1.0);
    let one_more = peers[2].address().await.unwrap();
    let full = node.overlay.peers.connect(one_more).await.unwrap_err();
    assert!(matches!(&full, ConnectError::Refused(why) if why.contains("as many")), "{full}");
    for node in peers.into_iter().chain([node]) {
        node.stop().await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn one_key_holds_no_more_than_its_places() {
    let chain = Chain::default();
    let node = start(1, TCP, &chain, |config| config.peers.max_per_peer = 1);
    let addr = node.address().await.unwrap();
    let twins = [peer_at(2, TCP, &chain), peer_at(2, TCP, &chain)];
    twins[0].overlay.peers.connect(addr.clone()).await.unwrap();
    node.wait_for("the first", |c| c.connected == 1).await.unwrap();
    // The handshake succeeds, so the second learns of it when it is hung up on.
    let _ = twins[1].overlay.peers.connect(addr).await;
    node.wait_for_metric(refused("per_peer"), 1.0).await.unwrap();
    twins[1].wait_for("to be hung up on", |c| c.connected == 0).await.unwrap();
    for node in twins.into_iter().chain([node]) {
        node.stop().await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn keys_that_are_no_peers_are_not_dialled() {
    let node = start(1, TCP, &Chain::default(), |_| {});
    let dial = |peer: String| {
        let addr: Multiaddr = format!("/ip4/127.0.0.1/tcp/9/p2p/{peer}").parse().unwrap();
        node.overlay.peers.connect(addr)
    };
    // An RSA key, named by its SHA-256.
    let rsa = libp2p::multihash::Multihash::wrap(0x12, &[1; 32]).unwrap();
    let rsa = nsn_p2p::PeerId::from_multihash(rsa).unwrap();
    assert!(matches!(dial(rsa.to_string()).await, Err(ConnectError::Refused(_))));
    assert_eq!(node.metric(refused("key_type")), 1.0);
    let own = node.peer_id().to_string();
    assert!(matches!(dial(own).await, Err(ConnectError::Refused(_))));
    assert_eq!(node.metric(refused("own_key")), 1.0);
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn whoever_is_banned_is_out_until_the_ban_is_lifted() {
    let chain = Chain::default();
    let dir = tempfile::tempdir().unwrap();
    let overlay_dir = Some(dir.path().join("overlay"));
    let begin = || start(1, QUIC, &chain, |config| config.dir = overlay_dir.clone());
    let node = begin();
    let there = peer_at(2, &QUIC.replace("127.0.0.1", "127.0.0.9"), &chain);
    let addr = node.address().await.unwrap();
    there.overlay.peers.connect(addr.clone()).await.unwrap();
    node.wait_for("the peer", |c| c.connected == 1).await.unwrap();

    let ip: BanTarget = "127.0.0.9".parse().unwrap();
    let ban = node.overlay.peers.ban(ip, None, "spam".to_owned()).await.unwrap();
    assert_eq!((ban.target, ban.until_ms), (ip, None));
    node.wait_for("the peer to leave", |c| c.connected == 0).await.unwrap();
    there.wait_for("to be hung up on", |c| c.connected == 0).await.unwrap();
    assert!(there.overlay.peers.connect(addr).await.is_err());
    node.wait_for_metric(refused("banned"), 1.0).await.unwrap();
    let back = there.address().await.unwrap();
    let undialled = node.overlay.peers.connect(back.clone()).await.unwrap_err();
    assert!(undialled.to_string().contains("banned"), "{undialled}");
    assert_eq!(node.metric("nsn_p2p_bans{target=\"ip\"}"), 1.0);
    node.stop().await.unwrap().unwrap();

    // It outlasts a restart.
    let node = begin();
    let addr = node.address().await.unwrap();
    assert_eq!(node.overlay.peers.bans().await.unwrap(), std::slice::from_ref(&ban));
    assert!(there.overlay.peers.connect(addr.clone()).await.is_err());
    assert_eq!(node.overlay.peers.unban(ip).await, Ok(ban));
    assert_eq!(node.overlay.peers.unban(ip).await, Err(UnbanError::NotBanned));

    // The same by peer, wherever it comes from.
    let peer = BanTarget::Peer(there.peer_id());
    node.overlay.peers.ban(peer, Some(Duration::from_secs(3600)), String::new()).await.unwrap();
    let before = node.metric(refused("banned"));
    let _ = there.overlay.peers.connect(addr.clone()).await;
    node.wait_for_metric(refused("banned"), before + 1.0).await.unwrap();
    there.wait_for("to be hung up on", |c| c.connected == 0).await.unwrap();
    assert!(matches!(node.overlay.peers.connect(back).await, Err(ConnectError::Refused(_))));
    node.overlay.peers.unban(peer).await.unwrap();
    there.overlay.peers.connect(addr).await.unwrap();
    node.stop().await.unwrap().unwrap();
    there.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_banned_address_is_hung_up_on_over_tcp() {
    let node = start(1, TCP, &Chain::default(), |_| {});
    let ip: BanTarget = "127.0.0.9".parse().unwrap();
    node.overlay.peers.ban(ip, None, String::new()).await.unwrap();
    hung_up(knock(&node, [127, 0, 0, 9]).await).await;
    assert_eq!(node.metric(refused("banned")), 1.0);
    let _in = knock(&node, [127, 0, 0, 8]).await;
    node.wait_for_metric(PENDING, 1.0).await.unwrap();
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_ban_that_makes_no_sense_is_refused_and_one_that_is_over_is_gone() {
    let node = start(1, TCP, &Chain::default(), |config| config.admission.max_bans = 1);
    let ban = |target, duration| node.overlay.peers.ban(target, duration, String::new());
    let own = BanTarget::Peer(node.peer_id());
    assert_eq!(ban(own, None).await, Err(BanError::OwnKey));
    let ip: BanTarget = "9.9.9.9".parse().unwrap();
    assert_eq!(ban(ip, Some(Duration::ZERO)).await, Err(BanError::Duration));
    ban(ip, Some(Duration::from_millis(1))).await.unwrap();
    while !node.overlay.peers.bans().await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    ban("9.9.9.8".parse().unwrap(), None).await.unwrap();
    assert_eq!(ban(ip, None).await, Err(BanError::Full));
    node.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn whoever_comes_fast_over_quic_proves_its_address_and_comes_in() {
    let node = start(1, QUIC, &Chain::default(), |config| config.admission.source_rate = 1);
    let addr = quic_of(&node).await;
    let mut held = Vec::new();
    while let Ok(connection) = Bare::new([100 + held.len() as u8; 32]).dial(&addr).await {
        held.push(connection);
        assert!(held.len() < 100, "nobody is refused");
    }
    assert!(held.len() >= 10, "{}", held.len());
    node.wait_for("all of them", |c| c.connected == held.len()).await.unwrap();
    // The first half of the source's burst came in without a proof.
    let asked = node.metric("nsn_p2p_connections_proofs_asked_total");
    assert!(asked >= 3.0 && asked <= held.len() as f64 - 5.0, "{asked} of {}", held.len());
    assert_eq!(node.metric(refused("source_rate")), 1.0);
    node.stop().await.unwrap().unwrap();
}

/// A node that has met a peer of an account in good standing, which has left again; and how that
/// peer comes back.
async fn node_that_knows(tweak: impl FnOnce(&mut Config)) -> (Chain, Node, Node) {
    let chain = Chain::default();
    let node = start(1, QUIC, &chain, tweak);
    let known = || peer_at(2, &QUIC.replace("127.0.0.1", "127.0.0.7"), &chain);
    let first = known();
    chain.set(first.identity.key(), Some(Standing::NEUTRAL));
    first.overlay.peers.connect(quic_of(&node).await).await.unwrap();
    node.wait_for("the known peer", |c| c.connected == 1).await.unwrap();
    first.stop().await.unwrap().unwrap();
    node.wait_for("it to leave", |c| c.connected == 0).await.unwrap();
    let again = known();
    (chain, node, again)
}

#[tokio::test]
async fn a_known_peer_comes_in_during_a_burst_from_200_addresses() {
    let (_, node, known) = node_that_knows(|config| {
        config.listen.push(TCP.parse().unwrap());
        config.admission.burst = 40;
        config.admission.rate = 1;
    })
    .await;
    let mut held = Vec::new();
    for n in 0..1000u16 {
        held.push(knock(&node, [127, 0, 1, 1 + (n % 200) as u8]).await);
    }
    node.wait_for_metric(refused("rate"), 900.0).await.unwrap();
    known.overlay.peers.connect(quic_of(&node).await).await.unwrap();
    node.wait_for("the known peer", |c| c.connected == 1).await.unwrap();
    let status = node.overlay.peers.status().await.unwrap().admission;
    assert!(status.pending_inbound <= 32 && status.recent_sources <= 64, "{status:?}");
    node.stop().await.unwrap().unwrap();
    known.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_known_peer_takes_the_place_of_a_stranger_and_a_stranger_of_nobody() {
    let (chain, node, known) = node_that_knows(|config| {
        config.peers.max_connections = 2;
        config.admission.outbound_reserve = 0;
    })
    .await;
    let addr = node.address().await.unwrap();
    let strangers = [3, 4, 5].map(|n| peer_at(n, &QUIC.replace(".1", &format!(".{n}")), &chain));
    for stranger in &strangers[..2] {
        stranger.overlay.peers.connect(addr.clone()).await.unwrap();
    }
    node.wait_for("two strangers", |c| c.connected == 2).await.unwrap();
    assert!(strangers[2].overlay.peers.connect(addr.clone()).await.is_err());
    assert_eq!(node.metric("nsn_p2p_connections_displaced_total"), 0.0);

    known.overlay.peers.connect(addr).await.unwrap();
    node.wait_for_metric("nsn_p2p_connections_displaced_total", 1.0).await.unwrap();
    strangers[1].wait_for("the younger stranger to leave", |c| c.connected == 0).await.unwrap();
    node.wait_for("two peers", |c| c.connected == 2).await.unwrap();
    let peers = node.overlay.peers.list().await.unwrap();
    assert!(peers.iter().any(|peer| peer.peer_id == known.peer_id().to_string()));
    for node in strangers.into_iter().chain([node, known]) {
        node.stop().await.unwrap().unwrap();
    }
}
