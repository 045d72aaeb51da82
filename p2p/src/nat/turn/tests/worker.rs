//! The worker over real sockets, against servers that are honest, dead, slow or lying.

use super::{
    running::{PATIENCE, Running, descriptors, receive, send},
    server::{Manner, Server},
};
use crate::nat::turn::{
    frame::Cutter,
    outcome::{Asked, Bad, Outcome},
    worker::{Order, Told},
};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    time::timeout,
};

const SECRET: &str = "user\npass\n";

type Shared = Arc<Mutex<Server>>;

/// What comes back for a datagram.
type Answers = dyn Fn(&[u8], SocketAddr) -> Vec<Vec<u8>> + Send + Sync;

fn honest(manner: Manner) -> Shared {
    Arc::new(Mutex::new(Server::new(manner)))
}

async fn udp(answers: Arc<Answers>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            for answer in answers(&buffer[..length], from) {
                let _ = socket.send_to(&answer, from).await;
            }
        }
    });
    at
}

async fn udp_of(server: &Shared) -> SocketAddr {
    let server = server.clone();
    udp(Arc::new(move |bytes, _| server.lock().unwrap().answer(bytes).into_iter().collect())).await
}

/// A TCP server that does this with each connection.
async fn tcp<F>(serve: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    at
}

async fn tcp_of(server: &Shared) -> SocketAddr {
    let server = server.clone();
    tcp(move |mut stream| {
        let server = server.clone();
        async move {
            let (mut cutter, mut buffer) = (Cutter::default(), [0; 500]);
            loop {
                let Ok(length @ 1..) = stream.read(&mut buffer).await else { return };
                cutter.put(&buffer[..length]);
                let mut answers = Vec::new();
                while let Some(frame) = cutter.take().unwrap() {
                    answers.extend(server.lock().unwrap().answer(frame));
                }
                for answer in answers {
                    // In two parts, as the network may.
                    let (first, second) = answer.split_at(answer.len() / 2);
                    stream.write_all(first).await.unwrap();
                    stream.flush().await.unwrap();
                    stream.write_all(second).await.unwrap();
                }
            }
        }
    })
    .await
}

fn peer(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Waits until the simulated server has what is wanted of it.
async fn until(server: &Shared, what: impl Fn(&Server) -> bool) {
    let began = Instant::now();
    while !what(&server.lock().unwrap()) {
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", server.lock().unwrap());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn data_goes_out_over_udp_and_over_tcp_and_the_allocation_is_given_back() {
    for carrier in ["udp", "tcp"] {
        let server = honest(Manner::default());
        let at = if carrier == "udp" { udp_of(&server).await } else { tcp_of(&server).await };
        let before = descriptors();
        let named = format!("turn:{at}?transport={carrier}");
        let mut running = Running::start(&[named], SECRET, |_| {}).await;
        let (relayed, socket) = running.opened().await;
        assert_eq!(relayed, peer("9.9.9.9:5000"));
        assert!(running.permit(&[peer("7.7.7.7:1").ip()]).await);
        for n in 0..100_u8 {
            send(&socket, peer("7.7.7.7:1"), &[n; 33]);
        }
        until(&server, |server| server.relayed.len() == 100).await;
        let sent: Vec<u8> =
            server.lock().unwrap().relayed.iter().map(|(_, data)| data[0]).collect();
        assert_eq!(sent, (0..100).collect::<Vec<u8>>(), "{carrier}");
        assert_eq!(running.metrics.bytes_sent.get(), 3300);
        running.stop().await;
        assert!(!server.lock().unwrap().allocated, "{carrier}");
        drop(socket);
        // The test's own server keeps one for a connection that it may not have seen the end of.
        assert!(descriptors() <= before + 1, "{carrier}");
    }
}

#[tokio::test]
async fn data_comes_in_and_what_nobody_permitted_does_not() {
    let server = honest(Manner::default());
    let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let client = Arc::new(OnceLock::new());
    let at = socket.local_addr().unwrap();
    tokio::spawn({
        let (socket, client, server) = (socket.clone(), client.clone(), server.clone());
        async move {
            let mut buffer = [0; 4096];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                let _ = client.set(from);
                let answer = server.lock().unwrap().answer(&buffer[..length]);
                if let Some(answer) = answer {
                    socket.send_to(&answer, from).await.unwrap();
                }
            }
        }
    });
    let mut running = Running::start(&[format!("turn:{at}")], SECRET, |_| {}).await;
    let (_, relayed) = running.opened().await;
    assert!(running.permit(&[peer("7.7.7.7:1").ip()]).await);
    let client = *client.get().unwrap();
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for (from, data) in [
        (&*socket, Server::data(peer("6.6.6.6:1"), b"nobody knows me")),
        (&stranger, Server::data(peer("7.7.7.7:1"), b"not the server")),
        (&*socket, Server::data(peer("7.7.7.7:1"), b"hello")),
    ] {
        from.send_to(&data, client).await.unwrap();
    }
    assert_eq!(receive(&relayed).await, (peer("7.7.7.7:1"), b"hello".to_vec()));
    until(&server, |server| !server.channels.is_empty()).await;
    socket.send_to(b"\x40\x00\x00\x05again", client).await.unwrap();
    assert_eq!(receive(&relayed).await, (peer("7.7.7.7:1"), b"again".to_vec()));
    assert_eq!(running.metrics.bytes_received.get(), 10);
    assert_eq!(running.metrics.count_bad(Bad::Unexpected), 1);
    assert_eq!(running.metrics.count_bad(Bad::WrongAddress), 1);
    running.stop().await;
}

#[tokio::test]
async fn a_queue_that_is_full_makes_quic_wait_and_wakes_it() {
    use quinn::AsyncUdpSocket;
    use std::{future::poll_fn, io::ErrorKind};
    let server = honest(Manner::default());
    let at = udp_of(&server).await;
    let mut running =
        Running::start(&[format!("turn:{at}")], SECRET, |config| config.queue = 4).await;
    let (_, socket) = running.opened().await;
    assert!(running.permit(&[peer("7.7.7.7:1").ip()]).await);
    let transmit = |contents| quinn::udp::Transmit {
        destination: peer("7.7.7.7:1"),
        ecn: None,
        contents,
        segment_size: None,
        src_ip: None,
    };
    // The worker runs on this thread, and so not before the first await.
    let taken = (0..10).take_while(|_| socket.try_send(&transmit(&[1; 10])).is_ok()).count();
    assert_eq!(taken, 4);
    assert_eq!(socket.try_send(&transmit(&[1; 10])).unwrap_err().kind(), ErrorKind::WouldBlock);
    let mut poller = socket.clone().create_io_poller();
    let writable = timeout(PATIENCE, poll_fn(|cx| poller.as_mut().poll_writable(cx)));
    writable.await.expect("it is woken").unwrap();
    socket.try_send(&transmit(&[1; 10])).unwrap();
    until(&server, |server| server.relayed.len() == 5).await;
    running.stop().await;
    socket.try_send(&transmit(&[1; 10])).expect("dropped, as on a path that is gone");
    let writable = timeout(PATIENCE, poll_fn(|cx| poller.as_mut().poll_writable(cx)));
    writable.await.expect("it is woken").unwrap();
}

#[tokio::test]
async fn liars_and_the_dead_over_udp_are_told_apart_and_the_next_is_tried() {
    let elsewhere = Arc::new(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    let of = |server: Shared, change: fn(Vec<u8>) -> Vec<Vec<u8>>| -> Arc<Answers> {
        Arc::new(move |bytes, _| {
            server.lock().unwrap().answer(bytes).map(change).unwrap_or_default()
        })
    };
    let from_elsewhere: Arc<Answers> = Arc::new(move |bytes, from| {
        let answer = Server::new(Manner::default()).answer(bytes).unwrap();
        elsewhere.send_to(&answer, from).unwrap();
        vec![]
    });
    let circle = Arc::new(OnceLock::<SocketAddr>::new());
    let circular: Arc<Answers> = {
        let circle = circle.clone();
        Arc::new(move |bytes, _| {
            let sends_on = circle.get().copied();
            let manner = Manner { sends_on, ..Manner::default() };
            Server::new(manner).answer(bytes).into_iter().collect()
        })
    };
    let plain = || honest(Manner::default());
    let stale = honest(Manner { nonce_lasts: 1, ..Manner::default() });
    let silent: Arc<Answers> = Arc::new(|_, _| vec![]);
    let flood: Arc<Answers> = Arc::new(|_, _| vec![vec![0xff; 100]; 300]);
    let at_circle = udp(circular).await;
    circle.set(at_circle).unwrap();
    // Nobody listens there: the kernel says so.
    let dead = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let last = honest(Manner::default());
    let servers = [
        dead,
        udp(silent).await,
        udp(from_elsewhere).await,
        udp(of(plain(), |answer| vec![answer[..answer.len() - 4].to_vec()])).await,
        udp(of(plain(), |mut answer| {
            answer.resize(9000, 0);
            vec![answer]
        }))
        .await,
        udp(flood).await,
        at_circle,
        udp_of(&stale).await,
    ];
    let before = descriptors();
    let named = servers.map(|at| format!("turn:{at}"));
    let mut running = Running::start(&named, SECRET, |config| {
        config.retry = Duration::from_secs(60);
    })
    .await;
    let count = |running: &Running, outcome| running.metrics.count_lost(outcome);
    running.shows(|shown| shown.last == Some(Outcome::StaleNonce)).await;
    assert_eq!(count(&running, Outcome::Timeout), 6);
    assert_eq!(count(&running, Outcome::Redirect), 1);
    assert_eq!(count(&running, Outcome::StaleNonce), 1);
    for bad in [Bad::WrongAddress, Bad::Malformed, Bad::Oversized] {
        assert!(running.metrics.count_bad(bad) >= 1, "{bad:?}");
    }
    assert_eq!(descriptors(), before, "a server that is left leaves no socket");
    running.stop().await;
    // And where one of them is honest, it is found.
    let named = [servers[1], servers[6], udp_of(&last).await].map(|at| format!("turn:{at}"));
    let mut running = Running::start(&named, SECRET, |_| {}).await;
    running.opened().await;
    running.stop().await;
}

#[tokio::test]
async fn liars_and_the_dead_over_tcp_are_told_apart() {
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let garbage = tcp(|mut stream| async move {
        let _ = stream.write_all(&[0xff; 4096]).await;
        let _ = stream.read(&mut [0; 100]).await;
    })
    .await;
    let endless = tcp(|mut stream| async move {
        // A channel's data that is never all there.
        let _ = stream.write_all(b"\x40\x00\xff\xff").await;
        while stream.write_all(&[0; 1000]).await.is_ok() {}
    })
    .await;
    let hangs_up = tcp(|stream| async move { drop(stream) }).await;
    let silent = tcp(|mut stream| async move {
        while matches!(stream.read(&mut [0; 100]).await, Ok(1..)) {}
    })
    .await;
    let before = descriptors();
    let servers = [dead, garbage, endless, hangs_up, silent];
    let named = servers.map(|at| format!("turn:{at}?transport=tcp"));
    let mut running = Running::start(&named, SECRET, |config| {
        config.timeout = Duration::from_millis(300);
        config.retry = Duration::from_secs(60);
    })
    .await;
    running.shows(|shown| shown.last == Some(Outcome::Timeout)).await;
    assert_eq!(running.metrics.count_lost(Outcome::Unreachable), 2);
    assert_eq!(running.metrics.count_lost(Outcome::Malformed), 2);
    assert_eq!(running.metrics.count_lost(Outcome::Timeout), 1);
    running.stop().await;
    // The test's own servers close theirs as soon as they notice.
    let began = Instant::now();
    while descriptors() > before {
        assert!(began.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_redirect_is_followed_to_another_server() {
    let server = honest(Manner::default());
    let to = udp_of(&server).await;
    let first = honest(Manner { sends_on: Some(to), ..Manner::default() });
    let at = udp_of(&first).await;
    let mut running = Running::start(&[format!("turn:{at}")], SECRET, |_| {}).await;
    running.opened().await;
    assert!(server.lock().unwrap().allocated);
    assert_eq!(running.metrics.count(Asked::Allocate, Outcome::Redirect), 1);
    running.stop().await;
}

#[tokio::test]
async fn what_is_wanted_no_more_is_given_back_and_had_again() {
    let server = honest(Manner::default());
    let at = udp_of(&server).await;
    let mut running = Running::start(&[format!("turn:{at}")], SECRET, |_| {}).await;
    let (relayed, _) = running.opened().await;
    running.orders.send(Order::Want(false)).await.unwrap();
    assert_eq!(running.next().await, Told::Lost { relayed });
    assert!(!server.lock().unwrap().allocated);
    assert!(!running.permit(&[peer("7.7.7.7:1").ip()]).await, "there is nothing to permit");
    running.orders.send(Order::Want(true)).await.unwrap();
    running.opened().await;
    running.stop().await;
}

#[tokio::test]
async fn names_that_lead_nowhere_and_credentials_that_are_none_are_told() {
    let named = ["turn:nobody.invalid:1".to_owned()];
    let mut running = Running::start(&named, SECRET, |_| {}).await;
    running.shows(|shown| shown.last == Some(Outcome::Unresolved)).await;
    running.stop().await;
    let mut running = Running::start(&named, "only a name", |_| {}).await;
    running.shows(|shown| shown.last == Some(Outcome::Credentials)).await;
    running.stop().await;
}

#[tokio::test]
async fn it_ends_at_once_whatever_the_server_does() {
    let silent = udp(Arc::new(|_, _| vec![])).await;
    let unheard = tcp(|mut stream| async move {
        while matches!(stream.read(&mut [0; 100]).await, Ok(1..)) {}
    })
    .await;
    for named in [format!("turn:{silent}"), format!("turn:{unheard}?transport=tcp")] {
        let running = Running::start(&[named], SECRET, |config| {
            config.retransmit = vec![crate::nat::config::Wait(Duration::from_secs(10))];
            config.timeout = Duration::from_secs(10);
        })
        .await;
        let began = Instant::now();
        running.stop().await;
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}
