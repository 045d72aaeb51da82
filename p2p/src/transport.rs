//! The transport: QUIC and TCP (Noise, Yamux) behind DNS, or the in-process one for tests.
//!
//! Two things happen to every connection here and nowhere else: an address the policy does not
//! allow is never dialled, whoever suggested it (kad and DNS suggest what strangers tell them), and
//! the bytes of all streams are counted.

use crate::{
    AddressPolicy, Config, Identity, Metrics, Multiaddr, PeerId, RunError, address::without_peer,
};
use futures::{AsyncRead, AsyncWrite, ready};
use libp2p::{
    Transport as _,
    core::{
        muxing::{StreamMuxer, StreamMuxerBox, StreamMuxerEvent, SubstreamBox},
        transport::{Boxed, DialOpts, ListenerId, MemoryTransport, TransportError, TransportEvent},
        upgrade::Version,
    },
    dns, noise, quic, tcp, yamux,
};
use prometheus_endpoint::{Counter, U64};
use std::{
    collections::HashSet,
    io::{self, IoSlice, IoSliceMut},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

/// How long a handshake may take, in either direction.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

type Connection = (PeerId, StreamMuxerBox);

/// The transport that the configuration asks for: in-process if all listen addresses are
/// `/memory/...`, the network otherwise.
pub(crate) fn build(
    config: &Config,
    identity: &Identity,
    metrics: &Metrics,
) -> Result<Boxed<Connection>, RunError> {
    let in_process = config
        .listen
        .iter()
        .all(|a| matches!(a.iter().next(), Some(libp2p::multiaddr::Protocol::Memory(_))));
    let noise = noise::Config::new(identity.keypair())
        .map_err(|source| RunError::Setup { what: "encryption", source: Box::new(source) })?;
    let guard = |inner| Guard {
        inner,
        policy: config.address_policy,
        exempt: Arc::new(config.bootstrap.bootnodes.iter().map(without_peer).collect()),
    };
    let transport = if in_process {
        let memory = MemoryTransport::new()
            .upgrade(Version::V1Lazy)
            .authenticate(noise)
            .multiplex(yamux::Config::default())
            .timeout(HANDSHAKE_TIMEOUT)
            .boxed();
        guard(memory).boxed()
    } else {
        let network = || -> Boxed<Connection> {
            let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
                .upgrade(Version::V1Lazy)
                .authenticate(noise.clone())
                .multiplex(yamux::Config::default())
                .timeout(HANDSHAKE_TIMEOUT)
                .boxed();
            let quic = quic::tokio::Transport::new(quic_config(identity))
                .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
            quic.or_transport(tcp)
                .map(|either, _| match either {
                    futures::future::Either::Left(connection)
                    | futures::future::Either::Right(connection) => connection,
                })
                .boxed()
        };
        match dns::tokio::Transport::system(guard(network())) {
            Ok(transport) => transport.boxed(),
            // Containers without a resolver configuration still reach addresses given as numbers.
            Err(error) => {
                tracing::warn!(%error, "no system resolver: overlay addresses with DNS names will not work");
                guard(network()).boxed()
            }
        }
    };
    let (sent, received) = (metrics.bytes_sent.clone(), metrics.bytes_received.clone());
    Ok(transport
        .map(move |(peer, inner), _| {
            (peer, StreamMuxerBox::new(CountedMuxer { inner, sent, received }))
        })
        .boxed())
}

fn quic_config(identity: &Identity) -> quic::Config {
    let mut config = quic::Config::new(identity.keypair());
    config.handshake_timeout = HANDSHAKE_TIMEOUT;
    config
}

/// Refuses to dial what the policy does not allow. Addresses the operator configured are exempt.
struct Guard {
    inner: Boxed<Connection>,
    policy: AddressPolicy,
    exempt: Arc<HashSet<Multiaddr>>,
}

impl libp2p::Transport for Guard {
    type Output = Connection;
    type Error = io::Error;
    type ListenerUpgrade = <Boxed<Connection> as libp2p::Transport>::ListenerUpgrade;
    type Dial = <Boxed<Connection> as libp2p::Transport>::Dial;

    fn listen_on(
        &mut self,
        id: ListenerId,
        addr: Multiaddr,
    ) -> Result<(), TransportError<io::Error>> {
        self.inner.listen_on(id, addr)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        addr: Multiaddr,
        opts: DialOpts,
    ) -> Result<Self::Dial, TransportError<io::Error>> {
        if !self.policy.allows(&addr) && !self.exempt.contains(&without_peer(&addr)) {
            return Err(TransportError::MultiaddrNotSupported(addr));
        }
        self.inner.dial(addr, opts)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

/// Counts the bytes of every stream of one connection. What encryption, multiplexing and
/// retransmission add is not in these numbers: QUIC does not tell.
struct CountedMuxer {
    inner: StreamMuxerBox,
    sent: Counter<U64>,
    received: Counter<U64>,
}

impl CountedMuxer {
    fn counted(&self, inner: SubstreamBox) -> CountedStream {
        CountedStream { inner, sent: self.sent.clone(), received: self.received.clone() }
    }
}

impl StreamMuxer for CountedMuxer {
    type Substream = CountedStream;
    type Error = io::Error;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<CountedStream, io::Error>> {
        let stream = ready!(Pin::new(&mut self.inner).poll_inbound(cx))?;
        Poll::Ready(Ok(self.counted(stream)))
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<CountedStream, io::Error>> {
        let stream = ready!(Pin::new(&mut self.inner).poll_outbound(cx))?;
        Poll::Ready(Ok(self.counted(stream)))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, io::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

struct CountedStream {
    inner: SubstreamBox,
    sent: Counter<U64>,
    received: Counter<U64>,
}

fn count(counter: &Counter<U64>, bytes: usize) {
    counter.inc_by(u64::try_from(bytes).unwrap_or(u64::MAX));
}

impl AsyncRead for CountedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let bytes = ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        count(&self.received, bytes);
        Poll::Ready(Ok(bytes))
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = ready!(Pin::new(&mut self.inner).poll_read_vectored(cx, bufs))?;
        count(&self.received, bytes);
        Poll::Ready(Ok(bytes))
    }
}

impl AsyncWrite for CountedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let bytes = ready!(Pin::new(&mut self.inner).poll_write(cx, buf))?;
        count(&self.sent, bytes);
        Poll::Ready(Ok(bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, bufs))?;
        count(&self.sent, bytes);
        Poll::Ready(Ok(bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}
