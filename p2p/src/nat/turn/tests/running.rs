//! A worker that runs, and its socket.

use crate::{
    AddressPolicy, Metrics,
    nat::{
        config::Wait,
        turn::{
            config::Turn,
            metrics::TurnMetrics,
            socket::{Relayed, Sockets},
            worker::{Joints, Order, Shown, Told, Worker},
        },
    },
};
use quinn::{
    AsyncUdpSocket,
    udp::{RecvMeta, Transmit},
};
use std::{
    future::poll_fn,
    io::IoSliceMut,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};

/// Longest wait for anything.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A worker, and the other ends of what joins it with the overlay.
pub(super) struct Running {
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) told: mpsc::Receiver<Told>,
    pub(super) shown: watch::Receiver<Shown>,
    pub(super) sockets: Sockets,
    pub(super) metrics: TurnMetrics,
    task: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Running {
    /// A worker that wants an allocation of these servers.
    pub(super) async fn start(
        servers: &[String],
        secret: &str,
        change: impl FnOnce(&mut Turn),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials");
        std::fs::write(&path, secret).unwrap();
        let mut config = Turn {
            servers: servers.iter().map(|server| server.parse().unwrap()).collect(),
            credentials: Some(path),
            retransmit: [50, 100, 200].map(|ms| Wait(Duration::from_millis(ms))).to_vec(),
            timeout: Duration::from_secs(2),
            retry: Duration::from_millis(50),
            ..Turn::default()
        };
        change(&mut config);
        config.validate().unwrap();
        let (orders, ordered) = mpsc::channel(8);
        let (tell, told) = mpsc::channel(8);
        let (show, shown) = watch::channel(Shown::default());
        let sockets = Sockets::default();
        let metrics = Metrics::unregistered().unwrap().nat.turn.clone();
        let joints = Joints { orders: ordered, told: tell, shown: show, sockets: sockets.clone() };
        let worker = Worker::new(&config, AddressPolicy::Any, joints, metrics.clone());
        let task = tokio::spawn(worker.run());
        orders.send(Order::Want(true)).await.unwrap();
        Self { orders, told, shown, sockets, metrics, task, _folder: folder }
    }

    /// The next that the worker tells.
    pub(super) async fn next(&mut self) -> Told {
        timeout(PATIENCE, self.told.recv()).await.expect("something is told").unwrap()
    }

    /// Waits for an allocation: its address, and the socket.
    pub(super) async fn opened(&mut self) -> (SocketAddr, Arc<Relayed>) {
        let told = self.next().await;
        let Told::Opened { relayed, .. } = told else { panic!("{told:?}") };
        (relayed, Arc::new(self.sockets.take(relayed).unwrap()))
    }

    /// Lets addresses send; whether the server does.
    pub(super) async fn permit(&mut self, ips: &[IpAddr]) -> bool {
        let order = Order::Permit { token: 9, ips: ips.to_vec() };
        self.orders.send(order).await.unwrap();
        let told = self.next().await;
        let Told::Permitted { token: 9, any } = told else { panic!("{told:?}") };
        any
    }

    /// Waits until the worker says so.
    pub(super) async fn shows(&mut self, what: impl FnMut(&Shown) -> bool) -> Shown {
        timeout(PATIENCE, self.shown.wait_for(what)).await.expect("in time").unwrap().clone()
    }

    /// Ends it as the overlay does.
    pub(super) async fn stop(self) {
        let Self { orders, task, told, .. } = self;
        drop(orders);
        timeout(PATIENCE, task).await.expect("it ends").unwrap();
        drop(told);
    }
}

/// Sends as QUIC does.
pub(super) fn send(socket: &Relayed, destination: SocketAddr, contents: &[u8]) {
    let transmit = Transmit { destination, ecn: None, contents, segment_size: None, src_ip: None };
    socket.try_send(&transmit).unwrap();
}

/// Receives as QUIC does.
pub(super) async fn receive(socket: &Relayed) -> (SocketAddr, Vec<u8>) {
    let mut buffer = [0; 2000];
    let mut meta = [RecvMeta::default()];
    let received =
        poll_fn(|cx| socket.poll_recv(cx, &mut [IoSliceMut::new(&mut buffer)], &mut meta));
    assert_eq!(timeout(PATIENCE, received).await.expect("a datagram").unwrap(), 1);
    (meta[0].addr, buffer[..meta[0].len].to_vec())
}

/// Descriptors of this process.
pub(super) fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
