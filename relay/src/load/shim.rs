//! A path with a delay: a UDP relay in front of a service.
//!
//! Loopback has no delay and no rate of its own, and a kernel may lack the means to give it one. A
//! [`Shim`] passes datagrams on in both directions, each as much later as its [`Link`] says. It can be
//! cut in the middle of a connection, as if the machine behind it had lost its power.

use crate::{sync::lock, transport};
use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{net::UdpSocket, sync::mpsc, task::JoinSet, time::sleep_until};

/// Bytes of the sockets' buffers, each way; the system may allow less.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;
/// The longest datagram there is.
const MAX_DATAGRAM: usize = 65_535;
/// Datagrams on their way in one direction of one peer: at 1,452 bytes each 24 MiB.
const ON_THE_WAY: usize = 16_384;
/// Peers that are passed on at a time. Datagrams of others are dropped.
const PEERS: usize = 1024;

/// What a path does to datagrams, in each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// How much later they arrive.
    pub delay: Duration,
    /// Bytes a second that it carries for each peer; `None` for any number.
    pub rate: Option<u64>,
    /// Bytes that wait at most where the rate is too low for what comes; the rest is dropped.
    pub queue: u64,
}

impl Link {
    /// A path that delays, and carries whatever comes.
    pub fn delay(delay: Duration) -> Self {
        Self { delay, rate: None, queue: u64::MAX }
    }
}

/// One direction of a path: when a datagram arrives.
#[derive(Clone, Copy, Debug)]
struct Way {
    /// When all that came before is on its way.
    free: Instant,
}

impl Way {
    /// When `len` bytes that come now arrive; `None` if they are dropped.
    fn arrives(&mut self, len: usize, link: &Link, now: Instant) -> Option<Instant> {
        let begins = self.free.max(now);
        if let Some(rate) = link.rate {
            let waiting = begins.saturating_duration_since(now).as_secs_f64();
            let room = Duration::try_from_secs_f64(seconds(link.queue, rate)).ok();
            if room.is_some_and(|room| waiting > room.as_secs_f64()) {
                return None;
            }
            let len = u64::try_from(len).unwrap_or(u64::MAX);
            let takes = Duration::try_from_secs_f64(seconds(len, rate)).unwrap_or_default();
            self.free = begins + takes;
        } else {
            self.free = begins;
        }
        Some(self.free + link.delay)
    }
}

#[allow(clippy::cast_precision_loss)] // A queue beyond 2^53 bytes has no bound anyway.
fn seconds(bytes: u64, rate: u64) -> f64 {
    bytes as f64 / rate.max(1) as f64
}

/// What all tasks of a shim look at.
struct Path {
    link: Mutex<Link>,
    cut: std::sync::atomic::AtomicBool,
}

/// A path to one service. Ends when dropped.
pub struct Shim {
    addr: SocketAddr,
    path: Arc<Path>,
    _running: JoinSet<()>,
}

impl Shim {
    /// Opens a port on loopback that leads to `target`.
    ///
    /// # Errors
    /// When there is no socket.
    pub fn start(target: SocketAddr, link: Link) -> io::Result<Self> {
        let front = Arc::new(socket()?);
        let addr = front.local_addr()?;
        let path = Arc::new(Path { link: Mutex::new(link), cut: false.into() });
        let mut running = JoinSet::new();
        running.spawn(serve(front, target, Arc::clone(&path)));
        Ok(Self { addr, path, _running: running })
    }

    /// Where it listens, in place of its target.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Changes the path for what comes from now on.
    pub fn set(&self, link: Link) {
        *lock(&self.path.link) = link;
    }

    /// Nothing passes any more, or again.
    pub fn cut(&self, cut: bool) {
        self.path.cut.store(cut, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Path {
    fn is_cut(&self) -> bool {
        self.cut.load(std::sync::atomic::Ordering::Relaxed)
    }
}

fn socket() -> io::Result<UdpSocket> {
    let any: IpAddr = Ipv4Addr::LOCALHOST.into();
    let socket = transport::socket(SocketAddr::new(any, 0), SOCKET_BUFFER)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// Passes datagrams of every peer to the target, from a socket for each peer, and what comes back.
async fn serve(front: Arc<UdpSocket>, target: SocketAddr, path: Arc<Path>) {
    let mut peers: HashMap<SocketAddr, mpsc::Sender<(Instant, Vec<u8>)>> = HashMap::new();
    let mut ways: HashMap<SocketAddr, Way> = HashMap::new();
    let mut running = JoinSet::new();
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        // A peer that has gone makes the next call fail on some systems.
        let Ok((len, from)) = front.recv_from(&mut buffer).await else { continue };
        if path.is_cut() {
            continue;
        }
        if !peers.contains_key(&from) {
            let Ok(back) = socket() else { continue };
            if peers.len() >= PEERS || back.connect(target).await.is_err() {
                continue;
            }
            let back = Arc::new(back);
            let (there, queue) = mpsc::channel(ON_THE_WAY);
            running.spawn(deliver(Arc::clone(&back), None, queue, Arc::clone(&path)));
            running.spawn(answer(back, Arc::clone(&front), from, Arc::clone(&path)));
            peers.insert(from, there);
            ways.insert(from, Way { free: Instant::now() });
        }
        let now = Instant::now();
        let link = *lock(&path.link);
        let arrives = ways.get_mut(&from).and_then(|way| way.arrives(len, &link, now));
        if let (Some(at), Some(datagram), Some(there)) =
            (arrives, buffer.get(..len), peers.get(&from))
        {
            // A full queue drops, as a path does.
            let _ = there.try_send((at, datagram.to_vec()));
        }
    }
}

/// Passes what the target answers to one peer.
async fn answer(back: Arc<UdpSocket>, front: Arc<UdpSocket>, to: SocketAddr, path: Arc<Path>) {
    let (here, queue) = mpsc::channel(ON_THE_WAY);
    let mut running = JoinSet::new();
    running.spawn(deliver(front, Some(to), queue, Arc::clone(&path)));
    let mut way = Way { free: Instant::now() };
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let Ok(len) = back.recv(&mut buffer).await else {
            tokio::task::yield_now().await;
            continue;
        };
        let link = *lock(&path.link);
        let arrives = way.arrives(len, &link, Instant::now());
        if let (Some(at), Some(datagram)) = (arrives, buffer.get(..len)) {
            let _ = here.try_send((at, datagram.to_vec()));
        }
    }
}

/// Sends each datagram when its time has come.
async fn deliver(
    socket: Arc<UdpSocket>,
    to: Option<SocketAddr>,
    mut queue: mpsc::Receiver<(Instant, Vec<u8>)>,
    path: Arc<Path>,
) {
    while let Some((at, datagram)) = queue.recv().await {
        if at > Instant::now() {
            sleep_until(at.into()).await;
        }
        if path.is_cut() {
            continue;
        }
        // What cannot be sent is lost, which a path may do.
        let _ = match to {
            Some(to) => socket.send_to(&datagram, to).await,
            None => socket.send(&datagram).await,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn what_is_sent_arrives_later_both_ways_and_nothing_once_it_is_cut() {
        let target = socket().unwrap();
        let shim = Shim::start(target.local_addr().unwrap(), Link::delay(20 * MS)).unwrap();
        let client = socket().unwrap();
        client.connect(shim.addr()).await.unwrap();
        let mut buffer = [0; 16];
        let began = Instant::now();
        client.send(b"there").await.unwrap();
        let (len, from) = target.recv_from(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..len], b"there");
        assert!(began.elapsed() >= 20 * MS);
        target.send_to(b"back", from).await.unwrap();
        let len = client.recv(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..len], b"back");
        assert!(began.elapsed() >= 40 * MS);
        shim.cut(true);
        client.send(b"lost").await.unwrap();
        shim.set(Link::delay(Duration::ZERO));
        let lost = tokio::time::timeout(100 * MS, target.recv_from(&mut buffer)).await;
        assert!(lost.is_err());
        shim.cut(false);
        client.send(b"again").await.unwrap();
        let len = target.recv(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..len], b"again");
    }

    proptest! {
        #[test]
        fn a_rate_is_kept_and_the_queue_is_bounded(
            sent in prop::collection::vec((0u32..20, 1usize..1500), 1..200),
            rate in 1_000u64..1_000_000,
            queue in 0u64..100_000,
        ) {
            let start = Instant::now();
            let link = Link { delay: 20 * MS, rate: Some(rate), queue };
            let mut way = Way { free: start };
            let (mut now, mut bytes, mut last) = (start, 0u64, start);
            for (ms, len) in sent {
                now += MS * ms;
                if let Some(at) = way.arrives(len, &link, now) {
                    bytes += len as u64;
                    prop_assert!(at >= last && at >= now + link.delay);
                    let waits = (at - link.delay).saturating_duration_since(now);
                    prop_assert!(waits.as_secs_f64() <= seconds(queue + 1500, rate) + 0.001);
                    last = at;
                }
            }
            let took = last.saturating_duration_since(start).as_secs_f64();
            prop_assert!(bytes as f64 <= took * rate as f64 + 1.0);
        }
    }
}
