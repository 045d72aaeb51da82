//! Against coturn, a real TURN server, on loopback.

use super::running::{Running, receive, send};
use crate::{
    AddressPolicy,
    nat::turn::{
        client::Client,
        credentials::Credentials,
        event::{Event, Rules},
        outcome::{Asked, Outcome},
        worker::Told,
    },
};
use std::{
    net::SocketAddr,
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpStream, UdpSocket},
    process::{Child, Command},
};

const SECRET: &str = "user\npass\n";

/// coturn that runs, on a port that was free.
pub(in crate::nat) struct Coturn {
    pub(in crate::nat) port: u16,
    _child: Child,
    _folder: tempfile::TempDir,
}

impl Coturn {
    /// None where it is not installed, and that need not be so.
    pub(in crate::nat) async fn start(more: &[&str]) -> Option<Self> {
        let port = {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.local_addr().unwrap().port()
        };
        let folder = tempfile::tempdir().unwrap();
        let child = Command::new("turnserver")
            .args(["-n", "--no-tls", "--no-dtls", "--no-cli", "--log-file", "stdout"])
            .args(["-L", "127.0.0.1", "-E", "127.0.0.1", "--allow-loopback-peers"])
            .args(["--lt-cred-mech", "--user", "user:pass", "--realm", "nsn"])
            .args(["--listening-port", &port.to_string()])
            .args(more)
            .arg("--pidfile")
            .arg(folder.path().join("pid"))
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let child = match child {
            Ok(running) => running,
            Err(error) => {
                let required = std::env::var("NSN_REQUIRE_NATLAB").is_ok_and(|value| value == "1");
                assert!(!required, "turnserver (Debian package coturn) does not run: {error}");
                eprintln!("not tested: turnserver (Debian package coturn) does not run: {error}");
                return None;
            }
        };
        // It takes a moment to listen, and tells nobody when it does.
        for _ in 0..1000 {
            if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return Some(Self { port, _child: child, _folder: folder });
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("turnserver does not listen");
    }

    pub(in crate::nat) fn uri(&self, carrier: &str) -> String {
        format!("turn:127.0.0.1:{}?transport={carrier}", self.port)
    }
}

/// Sends until something comes: this is UDP.
async fn hears(socket: &UdpSocket, mut say: impl FnMut()) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 2000];
    loop {
        say();
        let heard = tokio::time::timeout(Duration::from_secs(1), socket.recv_from(&mut buffer));
        if let Ok(heard) = heard.await {
            let (length, from) = heard.unwrap();
            return (buffer[..length].to_vec(), from);
        }
    }
}

#[tokio::test]
async fn a_real_server_carries_data_both_ways_over_udp_and_over_tcp() {
    let Some(coturn) = Coturn::start(&[]).await else { return };
    for carrier in ["udp", "tcp"] {
        let mut running = Running::start(&[coturn.uri(carrier)], SECRET, |_| {}).await;
        let (relayed, socket) = running.opened().await;
        let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = peer.local_addr().unwrap();
        assert!(running.permit(&[at.ip()]).await);
        // Without a channel at first, both ways.
        let (heard, from) = hears(&peer, || send(&socket, at, b"first")).await;
        assert_eq!((heard, from), (b"first".to_vec(), relayed), "{carrier}");
        peer.send_to(b"hello", relayed).await.unwrap();
        assert_eq!(receive(&socket).await, (at, b"hello".to_vec()));
        // Then with one, of lengths that are padded over TCP and the longest that QUIC sends.
        running.shows(|shown| shown.channels == 1).await;
        for length in [1, 2, 3, 4, 1200, 1452] {
            let payload = vec![7; length];
            let (heard, _) = hears(&peer, || send(&socket, at, &payload)).await;
            assert_eq!(heard, payload, "{carrier}");
            peer.send_to(&payload, relayed).await.unwrap();
            assert_eq!(receive(&socket).await, (at, payload));
        }
        assert_eq!(running.metrics.count(Asked::Bind, Outcome::Done), 1);
        running.stop().await;
    }
}

#[tokio::test]
async fn a_real_server_lets_nobody_send_without_permission() {
    let Some(coturn) = Coturn::start(&[]).await else { return };
    let mut running = Running::start(&[coturn.uri("udp")], SECRET, |_| {}).await;
    let (relayed, socket) = running.opened().await;
    let stranger = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = peer.local_addr().unwrap();
    assert!(running.permit(&[at.ip()]).await);
    for _ in 0..3 {
        stranger.send_to(b"psst", relayed).await.unwrap();
    }
    peer.send_to(b"hello", relayed).await.unwrap();
    assert_eq!(receive(&socket).await, (at, b"hello".to_vec()), "the first that comes");
    running.stop().await;
}

#[tokio::test]
async fn a_real_server_gives_one_allocation_and_takes_it_back() {
    // One allocation a user, so a second shows whether the first is gone.
    let Some(coturn) = Coturn::start(&["--user-quota", "1"]).await else { return };
    let mut running = Running::start(&[coturn.uri("udp")], SECRET, |_| {}).await;
    let (relayed, _socket) = running.opened().await;
    let mut second = Running::start(&[coturn.uri("udp")], SECRET, |_| {}).await;
    second.shows(|shown| shown.last == Some(Outcome::Quota)).await;
    running.stop().await;
    // It tries again by itself.
    let (again, _socket) = second.opened().await;
    assert_ne!(again, relayed);
    second.stop().await;
}

/// The machine's clock runs ahead, the server's does not.
#[tokio::test]
async fn a_real_server_renews_allocation_permission_and_channel() {
    let Some(coturn) = Coturn::start(&[]).await else { return };
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = SocketAddr::from(([127, 0, 0, 1], coturn.port));
    let rules = Rules {
        waits: vec![Duration::from_secs(1); 5],
        lifetime: Duration::from_secs(600),
        keep_alive: None,
        stream: false,
        max_peers: 4,
        idle: Duration::from_secs(3600),
        policy: AddressPolicy::Any,
        v6: false,
    };
    let mut now = Instant::now();
    let mut client = Client::new(rules, Credentials::parse(SECRET), [5; 32], now);
    let mut done: Vec<Asked> = Vec::new();
    // What is asked is answered, until so many requests of a kind were.
    let settle = async |client: &mut Client, done: &mut Vec<Asked>, now, asked, times| {
        let mut buffer = [0; 2048];
        let count = |done: &[Asked]| done.iter().filter(|known| **known == asked).count();
        while count(done) < times {
            for bytes in client.poll(now) {
                socket.send_to(&bytes, server).await.unwrap();
            }
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            assert_eq!(from, server);
            assert_eq!(client.on_bytes(&buffer[..length], now), None);
            done.extend(client.events().into_iter().filter_map(|event| match event {
                Event::Answered(asked, Outcome::Done) => Some(asked),
                _ => None,
            }));
        }
    };
    settle(&mut client, &mut done, now, Asked::Allocate, 1).await;
    let peer = SocketAddr::from(([127, 0, 0, 1], 9));
    client.permit(peer.ip(), now);
    settle(&mut client, &mut done, now, Asked::Permit, 1).await;
    client.send(peer, b"data", now).unwrap();
    settle(&mut client, &mut done, now, Asked::Bind, 1).await;
    let ends = client.allocation().unwrap().ends;
    for (after, asked, times) in
        [(250, Asked::Permit, 2), (60, Asked::Refresh, 1), (240, Asked::Bind, 2)]
    {
        now += Duration::from_secs(after);
        settle(&mut client, &mut done, now, asked, times).await;
    }
    assert!(client.allocation().unwrap().ends > ends + Duration::from_secs(200));
    assert_eq!(client.counts(now), (1, 1));
    client.close(now);
    settle(&mut client, &mut done, now, Asked::Refresh, 2).await;
}

#[tokio::test]
async fn a_real_server_knows_a_wrong_password() {
    let Some(coturn) = Coturn::start(&[]).await else { return };
    for carrier in ["udp", "tcp"] {
        let wrong = "user\nwrong\n";
        let mut running = Running::start(&[coturn.uri(carrier)], wrong, |_| {}).await;
        running.shows(|shown| shown.last == Some(Outcome::Unauthorized)).await;
        running.stop().await;
    }
}

#[tokio::test]
async fn a_real_server_that_dies_is_noticed_over_tcp_at_once() {
    let Some(coturn) = Coturn::start(&[]).await else { return };
    let mut running = Running::start(&[coturn.uri("tcp")], SECRET, |_| {}).await;
    let (relayed, _socket) = running.opened().await;
    drop(coturn);
    assert_eq!(running.next().await, Told::Lost { relayed });
    running.stop().await;
}
