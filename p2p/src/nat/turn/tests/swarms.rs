//! The overlay's transport over coturn: QUIC at a relayed address.

use super::{
    coturn::Coturn,
    running::{PATIENCE, Running},
};
use crate::{
    Config, Identity, Metrics, Multiaddr, PeerId,
    connections::Door,
    nat::{
        strategies::Shared,
        turn::{socket::Sockets, worker::Told},
    },
    testnet, transport,
};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{
    Swarm,
    core::{
        Endpoint,
        muxing::{StreamMuxer, StreamMuxerBox},
        transport::{Boxed, DialOpts, ListenerId, PortUse, Transport, TransportEvent},
    },
    multiaddr::Protocol,
    ping,
    swarm::{self, SwarmEvent},
};
use std::{future::poll_fn, net::SocketAddr, pin::Pin, time::Duration};
use tokio::{sync::watch, time::timeout};

const SECRET: &str = "user\npass\n";

/// Enough that windows, retransmissions and both ways of framing play a part.
const BYTES: usize = 1 << 20;

type Network = Boxed<(PeerId, StreamMuxerBox)>;

fn network(n: u8, sockets: &Sockets) -> (PeerId, Network) {
    let listen = vec!["/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap()];
    let config = Config { listen, ..testnet::config() };
    let identity = Identity::from_secret([n; 32]).unwrap();
    let metrics = Metrics::unregistered().unwrap();
    let (keep, _) = watch::channel(Vec::new());
    let door = Door::new(&config, identity.peer_id(), vec![], keep, metrics.clone());
    let paths = Shared::new(&config.nat.strategies, metrics.nat.clone());
    let built = transport::build(&config, &identity, &door, &paths, sockets, &metrics);
    (identity.peer_id(), built.unwrap().0)
}

fn quic(at: SocketAddr) -> Multiaddr {
    Multiaddr::from(at.ip()).with(Protocol::Udp(at.port())).with(Protocol::QuicV1)
}

/// A worker with an allocation that lets loopback send to it. Its socket is still to be listened on.
async fn allocation(coturn: &Coturn, carrier: &str) -> (Running, SocketAddr) {
    let mut running = Running::start(&[coturn.uri(carrier)], SECRET, |_| {}).await;
    let told = running.next().await;
    let Told::Opened { relayed, .. } = told else { panic!("{told:?}") };
    assert!(running.permit(&[[127, 0, 0, 1].into()]).await);
    (running, relayed)
}

/// Runs a transport, for whose sake everything else of it happens.
fn drive(mut network: Network) {
    tokio::spawn(async move {
        loop {
            network.select_next_some().await;
        }
    });
}

/// Connects, and opens a stream.
async fn connect(
    listener: &mut Network,
    dialler: &mut Network,
    at: SocketAddr,
) -> ((PeerId, StreamMuxerBox), (PeerId, StreamMuxerBox), Multiaddr) {
    let opts = DialOpts { role: Endpoint::Dialer, port_use: PortUse::Reuse };
    let dial = dialler.dial(quic(at), opts).unwrap();
    let listen = async {
        loop {
            if let TransportEvent::Incoming { upgrade, send_back_addr, .. } =
                listener.select_next_some().await
            {
                return (upgrade.await.unwrap(), send_back_addr);
            }
        }
    };
    let both = async { tokio::join!(listen, dial) };
    let ((came, from), went) = timeout(PATIENCE, both).await.expect("a connection");
    (came, went.unwrap(), from)
}

/// Sends so many bytes each way at the same time, and checks them.
async fn exchange(mut one: StreamMuxerBox, mut other: StreamMuxerBox) {
    let opened = poll_fn(|cx| Pin::new(&mut one).poll_outbound(cx)).await.unwrap();
    let (mut read, mut write) = opened.split();
    let first = async {
        write.write_all(&vec![1; BYTES]).await.unwrap();
        write.close().await.unwrap();
    };
    let first_reads = async {
        let mut got = Vec::new();
        read.read_to_end(&mut got).await.unwrap();
        assert!(got.len() == BYTES && got.iter().all(|byte| *byte == 2));
    };
    let second = async {
        let accepted = poll_fn(|cx| Pin::new(&mut other).poll_inbound(cx)).await.unwrap();
        let (mut read, mut write) = accepted.split();
        let reads = async {
            let mut got = Vec::new();
            read.read_to_end(&mut got).await.unwrap();
            assert!(got.len() == BYTES && got.iter().all(|byte| *byte == 1));
        };
        let writes = async {
            write.write_all(&vec![2; BYTES]).await.unwrap();
            write.close().await.unwrap();
        };
        tokio::join!(reads, writes);
    };
    let all = async { tokio::join!(first, first_reads, second) };
    timeout(PATIENCE, all).await.expect("all bytes in time");
}

#[tokio::test]
async fn a_megabyte_goes_each_way_over_a_relayed_address() {
    let Some(coturn) = Coturn::start(&[]).await else { return };
    for carrier in ["udp", "tcp"] {
        let (running, relayed) = allocation(&coturn, carrier).await;
        let (id, mut listener) = network(1, &running.sockets);
        listener.listen_on(ListenerId::next(), quic(relayed)).unwrap();
        let (other, mut dialler) = network(2, &Sockets::default());
        let (came, went, from) = connect(&mut listener, &mut dialler, relayed).await;
        assert_eq!((came.0, went.0), (other, id), "both have proved who they are");
        assert_ne!(from, quic(relayed), "it is seen where it is");
        drive(listener);
        drive(dialler);
        let began = std::time::Instant::now();
        exchange(came.1, went.1).await;
        let took = began.elapsed();
        eprintln!("{carrier}: {BYTES} bytes each way in {took:?}");
        assert!(running.metrics.bytes_sent.get() > BYTES as u64);
        assert!(running.metrics.bytes_received.get() > BYTES as u64);
        running.stop().await;
    }
}

/// Where UDP gets out of neither, both speak to the server over TCP.
#[tokio::test]
async fn two_relayed_addresses_reach_each_other() {
    let Some(coturn) = Coturn::start(&[]).await else { return };
    let (one, at_one) = allocation(&coturn, "tcp").await;
    let (two, at_two) = allocation(&coturn, "tcp").await;
    let (_, mut listener) = network(1, &one.sockets);
    listener.listen_on(ListenerId::next(), quic(at_one)).unwrap();
    let (_, mut dialler) = network(2, &two.sockets);
    dialler.listen_on(ListenerId::next(), quic(at_two)).unwrap();
    two.sockets.go_through(at_one);
    let (came, went, from) = connect(&mut listener, &mut dialler, at_one).await;
    assert_eq!(from, quic(at_two), "it dialled from its own relayed address");
    drive(listener);
    drive(dialler);
    exchange(came.1, went.1).await;
    assert!(two.metrics.bytes_sent.get() > BYTES as u64);
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn swarms_connect_over_a_relayed_address_that_nobody_is_told_of() {
    let Some(coturn) = Coturn::start(&[]).await else { return };
    let (running, relayed) = allocation(&coturn, "udp").await;
    let swarm = |(id, network)| {
        let ping = ping::Config::new().with_interval(Duration::from_millis(50));
        Swarm::new(network, ping::Behaviour::new(ping), id, swarm::Config::with_tokio_executor())
    };
    let mut listener = swarm(network(1, &running.sockets));
    let mut dialler = swarm(network(2, &Sockets::default()));
    let at = listener.listen_on(quic(relayed)).unwrap();
    dialler.dial(quic(relayed)).unwrap();
    let (mut pings, mut closed) = (0, false);
    let both = async {
        while pings < 5 || !closed {
            tokio::select! {
                event = listener.select_next_some() => match event {
                    SwarmEvent::NewListenAddr { address, .. } => panic!("{address} was told"),
                    SwarmEvent::ListenerClosed { .. } => {}
                    _ => {}
                },
                event = dialler.select_next_some() => match event {
                    SwarmEvent::Behaviour(ping::Event { result, .. }) => {
                        pings += usize::from(result.is_ok());
                        if pings == 5 {
                            // The allocation is over: connections close, and the peer hears of it.
                            listener.remove_listener(at);
                        }
                    }
                    SwarmEvent::ConnectionClosed { .. } => closed = true,
                    _ => {}
                },
            }
        }
    };
    timeout(PATIENCE, both).await.expect("pings, and then an end");
    assert_eq!(listener.listeners().count(), 0);
    running.stop().await;
}
