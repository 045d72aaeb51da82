//! The other end of a connection that speaks no protocol of ours: stock libp2p transports, and the
//! connection itself as they hand it out.

use futures::future::poll_fn;
use libp2p::{
    Transport,
    core::{
        Endpoint,
        muxing::{StreamMuxer, StreamMuxerBox},
        transport::{Boxed, DialOpts, PortUse},
        upgrade::Version,
    },
    identity::Keypair,
    noise, quic, tcp, yamux,
};
use nsn_p2p::{Multiaddr, PeerId};
use std::{io, pin::Pin};

/// Dials as libp2p does, over TCP or QUIC.
pub(crate) struct Bare {
    tcp: Boxed<(PeerId, StreamMuxerBox)>,
    quic: Boxed<(PeerId, StreamMuxerBox)>,
}

impl Bare {
    pub(crate) fn new(secret: [u8; 32]) -> Self {
        let keypair = Keypair::ed25519_from_bytes(secret).unwrap();
        let tcp = tcp::tokio::Transport::new(tcp::Config::default())
            // Not the lazy version: a dial that is done means that the other side is done too.
            .upgrade(Version::V1)
            .authenticate(noise::Config::new(&keypair).unwrap())
            .multiplex(yamux::Config::default())
            .boxed();
        let quic = quic::tokio::Transport::new(quic::Config::new(&keypair))
            .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
            .boxed();
        Self { tcp, quic }
    }

    /// Nothing is sent until the dial is awaited.
    pub(crate) fn dial(
        &mut self,
        address: &Multiaddr,
    ) -> impl Future<Output = io::Result<(PeerId, StreamMuxerBox)>> + use<> {
        let quic = address.to_string().contains("quic");
        let (transport, port_use) = if quic {
            // All from one socket.
            (&mut self.quic, PortUse::Reuse)
        } else {
            (&mut self.tcp, PortUse::New)
        };
        transport.dial(address.clone(), DialOpts { role: Endpoint::Dialer, port_use }).unwrap()
    }
}

/// Takes what comes in on a connection until it ends.
pub(crate) async fn until_closed(mut muxer: StreamMuxerBox) {
    let mut streams = Vec::new();
    while let Ok(stream) = poll_fn(|cx| {
        let _ = Pin::new(&mut muxer).poll(cx)?;
        Pin::new(&mut muxer).poll_inbound(cx)
    })
    .await
    {
        streams.push(stream);
    }
}
