//! Against coturn, a real TURN server, on loopback.

use super::running::{PATIENCE, Running, receive, send};
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
    time::{sleep, timeout},
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
            .arg("--userdb")
            .arg(folder.path().join("turn.db"))
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
                let missing = "turnserver (Debian package coturn) does not run";
                eprintln!("SKIPPED, nothing was tested: {missing}: {error}");
                return None;
            }
        };
        // It takes a moment to listen, and tells nobody when it does.
        let listens = async {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, listens).await.expect("turnserver listens");
        Some(Self { port, _child: child, _folder: folder })
    }

    pub(in crate::nat) fn uri(&self, carrier: &str) -> String {
        format!("turn:127.0.0.1:{}?transport={carrier}", self.port)
    }
}

/// Sends until something comes: this is UDP.
async fn hears(socket: &UdpSocket, mut say: impl FnMut()) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 2000];
    let hears = async {
        loop {
            say();
            let heard = timeout(Duration::from_secs(1), socket.recv_from(&mut buffer));
            if let Ok(heard) = heard.await {
                return heard.unwrap();
            }
        }
    };
    let (length, from) = timeout(PATIENCE, hears).await.expect("a datagram");
    (buffer[..length].to_vec(), from)
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

/// A machine against coturn. Its clock goes on only while nothing comes, and where a test says so;
/// the server's does not run ahead.
struct Machine {
    socket: UdpSocket,
    server: SocketAddr,
    client: Client,
    now: Instant,
    done: Vec<Asked>,
}

/// Wait for an answer, after which a request is sent again: coturn takes connections over TCP before
/// it reads its UDP socket, and what comes before that is lost.
const ANSWERS: Duration = Duration::from_millis(200);

impl Machine {
    async fn start(coturn: &Coturn) -> Self {
        let rules = Rules {
            waits: vec![ANSWERS; 50],
            lifetime: Duration::from_secs(600),
            keep_alive: None,
            stream: false,
            max_peers: 4,
            idle: Duration::from_secs(3600),
            policy: AddressPolicy::Any,
            v6: false,
        };
        let now = Instant::now();
        Self {
            socket: UdpSocket::bind("127.0.0.1:0").await.unwrap(),
            server: SocketAddr::from(([127, 0, 0, 1], coturn.port)),
            client: Client::new(rules, Credentials::parse(SECRET), [5; 32], now),
            now,
            done: Vec::new(),
        }
    }

    /// Sends and receives until so many requests of a kind were answered, since it began.
    async fn settle(&mut self, asked: Asked, times: usize) {
        let mut buffer = [0; 2048];
        while self.done.iter().filter(|known| **known == asked).count() < times {
            assert_eq!(self.client.is_over(), None, "{asked:?}");
            for bytes in self.client.poll(self.now) {
                self.socket.send_to(&bytes, self.server).await.unwrap();
            }
            let Ok(heard) = timeout(ANSWERS, self.socket.recv_from(&mut buffer)).await else {
                self.now += ANSWERS;
                continue;
            };
            let (length, from) = heard.unwrap();
            assert_eq!(from, self.server);
            assert_eq!(self.client.on_bytes(&buffer[..length], self.now), None);
            self.done.extend(self.client.events().into_iter().filter_map(|event| match event {
                Event::Answered(asked, Outcome::Done) => Some(asked),
                _ => None,
            }));
        }
    }
}

#[tokio::test]
async fn a_real_server_renews_allocation_permission_and_channel() {
    let Some(coturn) = Coturn::start(&[]).await else { return };
    let mut machine = Machine::start(&coturn).await;
    machine.settle(Asked::Allocate, 1).await;
    let peer = SocketAddr::from(([127, 0, 0, 1], 9));
    machine.client.permit(peer.ip(), machine.now);
    machine.settle(Asked::Permit, 1).await;
    machine.client.send(peer, b"data", machine.now).unwrap();
    machine.settle(Asked::Bind, 1).await;
    let ends = machine.client.allocation().unwrap().ends;
    for (after, asked, times) in
        [(250, Asked::Permit, 2), (60, Asked::Refresh, 1), (240, Asked::Bind, 2)]
    {
        machine.now += Duration::from_secs(after);
        machine.settle(asked, times).await;
    }
    assert!(machine.client.allocation().unwrap().ends > ends + Duration::from_secs(200));
    assert_eq!(machine.client.counts(machine.now), (1, 1));
    machine.client.close(machine.now);
    machine.settle(Asked::Refresh, 2).await;
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
