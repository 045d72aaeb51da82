//! Whole nodes that meet at coturn, agreed on over a circuit.

use crate::nat::{method, status};
use libp2p::multiaddr::Protocol;
use nsn_p2p::{
    Config, Identity, Multiaddr,
    connections::BanTarget,
    nat::{Method, Strategy, TurnCarrier, TurnEnabled, Use},
    testnet::{self, Node},
};
use std::{
    io::{Write as _, stderr},
    process::Stdio,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::{sleep, timeout},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// coturn on a port that was free, and its folder. None where it is not installed and need not be.
async fn coturn() -> Option<(Child, u16, tempfile::TempDir)> {
    let port = {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap().port()
    };
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("secret"), "user\npass\n").unwrap();
    let child = Command::new("turnserver")
        .args(["-n", "--no-tls", "--no-dtls", "--no-cli", "--log-file", "stdout"])
        .args(["-L", "127.0.0.1", "-E", "127.0.0.1", "--allow-loopback-peers"])
        .args(["--lt-cred-mech", "--user", "user:pass", "--realm", "nsn"])
        .args(["--listening-port", &port.to_string()])
        .arg("--pidfile")
        .arg(folder.path().join("pid"))
        .arg("--userdb")
        .arg(folder.path().join("turn.db"))
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let child = match child {
        Ok(child) => child,
        Err(error) => {
            let required = std::env::var("NSN_REQUIRE_NATLAB").is_ok_and(|value| value == "1");
            assert!(!required, "turnserver (Debian package coturn) does not run: {error}");
            let missing = "turnserver (Debian package coturn) does not run";
            let _ = writeln!(stderr(), "SKIPPED, nothing was tested: {missing}: {error}");
            return None;
        }
    };
    // It takes a moment to listen, and tells nobody when it does.
    let listens = async {
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(timeout(PATIENCE, listens).await.is_ok(), "turnserver does not listen");
    Some((child, port, folder))
}

/// A node that has no holes punched, which would work on loopback.
fn start(n: u8, listen: &str, bootnodes: Vec<Multiaddr>, tweak: impl FnOnce(&mut Config)) -> Node {
    let listen = vec![listen.parse().unwrap()];
    let mut config = Config { listen, ..testnet::config() };
    config.bootstrap.bootnodes = bootnodes;
    config.nat.strategies.order = vec![Strategy::Direct, Strategy::Turn, Strategy::Relay];
    config.nat.strategies.upgrade_after = Duration::from_millis(200);
    config.nat.relay.client.ask_after = Duration::ZERO;
    config.nat.relay.client.retry = Duration::from_millis(200);
    config.nat.turn.upgrade.after = Duration::from_millis(200);
    config.nat.turn.upgrade.retry = Duration::from_millis(200);
    // Its dials are from any port and would get through where others do not.
    config.nat.server.enabled = false;
    tweak(&mut config);
    let identity = Identity::from_secret([n; 32]).unwrap();
    Node::start(config, identity, testnet::GENESIS, &Arc::default()).unwrap()
}

/// Two nodes that cannot reach each other, since one has banned the other's address, and are connected
/// through a relay. The other one has a TURN server: it sees the address of whoever comes, and a ban
/// holds there too.
async fn meet(transport: TurnCarrier, asks: bool) {
    let Some((_coturn, port, folder)) = coturn().await else { return };
    let uri = match transport {
        TurnCarrier::Udp => format!("turn:127.0.0.1:{port}?transport=udp"),
        TurnCarrier::Tcp => format!("turn:127.0.0.1:{port}?transport=tcp"),
    };
    let with_turn = |config: &mut Config| {
        config.nat.turn.enabled = TurnEnabled::Always;
        config.nat.turn.servers = vec![uri.parse().unwrap()];
        config.nat.turn.credentials = Some(folder.path().join("secret"));
    };
    let relay = start(1, "/ip4/127.0.0.1/udp/0/quic-v1", vec![], |_| {});
    let bootnode = relay.address().await.unwrap();
    let home = start(2, "/ip4/127.0.0.2/udp/0/quic-v1", vec![bootnode.clone()], |config| {
        config.nat.relay.client.enabled = Use::Always;
        if asks {
            with_turn(config);
        }
    });
    let away = start(3, "/ip4/127.0.0.3/udp/0/quic-v1", vec![], |config| {
        if !asks {
            with_turn(config);
        }
    });
    let (bans, banned) = if asks { (&away, "127.0.0.2") } else { (&home, "127.0.0.3") };
    let banned = BanTarget::Ip(banned.parse().unwrap());
    bans.overlay.peers.ban(banned, None, "no way there".to_owned()).await.unwrap();
    status(&home, "a place", |status| status.reservations.len() == 1).await;
    let has = if asks { &home } else { &away };
    let turn = status(has, "an allocation", |status| {
        status.turn.as_ref().is_some_and(|turn| turn.relayed.is_some())
    })
    .await
    .turn
    .unwrap();
    assert_eq!((turn.server, turn.transport), (Some(uri.clone()), Some(transport)));
    assert!(turn.expires_secs.is_some_and(|left| left > 500) && turn.last.is_none());
    let relayed = turn.relayed.unwrap().to_string().replace(':', "/udp/");

    let through = bootnode.with(Protocol::P2pCircuit).with(Protocol::P2p(home.peer_id()));
    away.overlay.peers.connect(through).await.unwrap();
    for (node, other) in [(&home, &away), (&away, &home)] {
        let peer = other.peer_id();
        status(node, "a connection over TURN", |s| method(s, peer) == Some(Method::Turn)).await;
    }
    let carries = status(has, "bytes", |status| {
        let turn = status.turn.as_ref().unwrap();
        turn.connections == 1 && turn.bytes_sent > 1000 && turn.bytes_received > 1000
    });
    assert!(carries.await.turn.unwrap().permissions > 0);
    has.wait_for_metric("nsn_p2p_nat_turn_meetings_total{outcome=\"connected\"}", 1.0)
        .await
        .unwrap();
    // The circuit is closed, and what was dialled is told to nobody.
    status(&relay, "the circuit's end", |status| status.circuits.carried == 0).await;
    for node in [&home, &away] {
        let told = node.overlay.peers.status().await.unwrap();
        let all = [told.listen_addrs, told.external_addrs].concat();
        assert!(!all.iter().any(|addr| addr.contains(&relayed)), "{all:?}");
        for peer in node.overlay.peers.list().await.unwrap() {
            assert!(!peer.addresses.iter().any(|addr| addr.contains(&relayed)), "{peer:?}");
        }
    }
    for node in [home, away, relay] {
        node.stop().await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_node_behind_a_nat_with_a_turn_server_is_met_there() {
    meet(TurnCarrier::Udp, true).await;
}

#[tokio::test]
async fn a_node_whose_udp_is_blocked_is_met_at_its_turn_server_over_tcp() {
    meet(TurnCarrier::Tcp, true).await;
}

#[tokio::test]
async fn a_node_is_met_at_the_turn_server_of_whoever_connected_to_it() {
    meet(TurnCarrier::Udp, false).await;
}
