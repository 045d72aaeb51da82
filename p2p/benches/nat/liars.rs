//! Servers and routers on loopback that are dead, slow, or lie.

use crate::Failure;
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
};

/// The magic cookie of STUN (RFC 8489, 5), which follows type and length.
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

/// How a server lies.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lie {
    /// It hears and says nothing.
    Silence,
    /// No message at all, many times.
    Garbage,
    /// A message that is cut short.
    Short,
    /// A success of another request.
    Another,
}

/// An address at which nobody listens.
pub(crate) async fn dead() -> Result<SocketAddr, Failure> {
    Ok(UdpSocket::bind("127.0.0.1:0").await?.local_addr()?)
}

/// A server over UDP that lies.
pub(crate) async fn udp(lie: Lie) -> Result<SocketAddr, Failure> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    let at = socket.local_addr()?;
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let asked = buffer.get(..length).unwrap_or_default();
            for answer in answers(lie, asked) {
                let _ = socket.send_to(&answer, from).await;
            }
        }
    });
    Ok(at)
}

fn answers(lie: Lie, asked: &[u8]) -> Vec<Vec<u8>> {
    // A success of the method that was asked for, with 12 bytes of attributes.
    let [_, method, ..] = *asked else { return vec![] };
    let head = [&[1, method, 0, 12], &COOKIE[..]].concat();
    match lie {
        Lie::Silence => vec![],
        Lie::Garbage => vec![vec![0xff; 100]; 20],
        Lie::Short => vec![[&head[..], asked.get(8..20).unwrap_or_default(), &[0]].concat()],
        Lie::Another => vec![[&head[..], &[7; 24]].concat()],
    }
}

/// How a server over TCP behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stream {
    /// It takes what comes and says nothing.
    Silent,
    /// It closes at once.
    HangsUp,
    /// It sends bytes for ever.
    Endless,
}

/// A server over TCP that is no help.
pub(crate) async fn tcp(behaves: Stream) -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, behaves));
        }
    });
    Ok(at)
}

async fn serve(mut stream: TcpStream, behaves: Stream) {
    match behaves {
        Stream::HangsUp => {}
        Stream::Silent => while matches!(stream.read(&mut [0; 512]).await, Ok(1..)) {},
        Stream::Endless => while stream.write_all(&[b'a'; 4096]).await.is_ok() {},
    }
}

/// A UPnP router that says that its description is at each of these places in turn, and every fourth
/// time nothing.
pub(crate) async fn router() -> Result<SocketAddr, Failure> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    let at = socket.local_addr()?;
    let places =
        [tcp(Stream::Silent).await?, tcp(Stream::Endless).await?, tcp(Stream::HangsUp).await?];
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        let mut turns =
            places.map(Some).into_iter().chain([None]).collect::<Vec<_>>().into_iter().cycle();
        while let Ok((_, from)) = socket.recv_from(&mut buffer).await {
            if let Some(Some(place)) = turns.next() {
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nLOCATION: http://{place}/desc.xml\r\n\
                     ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n"
                );
                let _ = socket.send_to(answer.as_bytes(), from).await;
            }
        }
    });
    Ok(at)
}
