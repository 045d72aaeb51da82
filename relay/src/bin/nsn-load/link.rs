//! A viewer's connection, and one request on it.

use crate::{
    Failure,
    https::{Https, HttpsLink},
};
use nsn_relay::{
    BlobId,
    client::Address,
    load::{Dialler, Pulled, pull},
    wire::{Encoding, ExchangeError, Patience, Priority, Request, Source},
};
use quinn::Connection;
use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// From the first packet to a connection, and from a request to its header.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// For the next bytes of a body.
const STALL: Duration = Duration::from_secs(10);

/// What is watched, and where.
pub(crate) enum Target {
    /// Shards of a shard service.
    Shards(Shards),
    /// Files of an HTTPS server.
    Https(Https),
}

/// Shards, and the sockets from which they are asked for.
pub(crate) struct Shards {
    address: Address,
    shards: Vec<Shard>,
    /// Addresses of this machine that viewers share; 0 for whatever the system chooses.
    sources: u32,
    /// One for each address that is in use: at most 60,000, and no more than viewers.
    sockets: Mutex<HashMap<u32, Arc<Dialler>>>,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shard {
    pub(crate) id: BlobId,
    /// Its length, where a manifest tells it.
    pub(crate) len: Option<u32>,
}

/// A connection.
pub(crate) enum Link {
    Quic(Connection),
    Https(HttpsLink),
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    /// Which of the target's things.
    pub(crate) place: usize,
    /// Only the second half of it, at once.
    pub(crate) seek: bool,
}

/// What came of one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Got {
    pub(crate) bytes: u64,
    pub(crate) first_byte: Duration,
    /// Where the service had it from, if it says so.
    pub(crate) source: Option<Source>,
}

/// Why nothing came.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The server said no, and when to come back.
    Refused(&'static str, Duration),
    /// The connection is of no use any more.
    Lost(String),
    /// This request failed, another may not.
    Failed(String),
}

impl Target {
    pub(crate) fn shards(address: Address, shards: Vec<Shard>, sources: u32) -> Self {
        let sources = if on_loopback(address.socket.ip()) { sources } else { 0 };
        Self::Shards(Shards { address, shards, sources, sockets: Mutex::default() })
    }

    /// How many things there are to watch.
    pub(crate) fn places(&self) -> usize {
        match self {
            Self::Shards(shards) => shards.shards.len(),
            Self::Https(https) => https.places(),
        }
    }

    /// Connects as viewer number `viewer`.
    pub(crate) async fn connect(&self, viewer: u32) -> Result<Link, Failure> {
        match self {
            Self::Shards(shards) => {
                let socket = shards.socket(viewer)?;
                let connection = socket.connect(shards.address, PATIENCE).await?;
                Ok(Link::Quic(connection))
            }
            Self::Https(https) => Ok(Link::Https(https.connect().await?)),
        }
    }

    /// Asks, and takes all that comes; `each` is told how many bytes came, as they come.
    pub(crate) async fn get(
        &self,
        link: &mut Link,
        ask: Ask,
        each: impl FnMut(usize) + Send,
    ) -> Result<Got, Trouble> {
        match (self, link) {
            (Self::Shards(shards), Link::Quic(connection)) => {
                shards.get(connection, ask, each).await
            }
            (Self::Https(https), Link::Https(link)) => https.get(link, ask, each).await,
            _ => Err(Trouble::Lost("a link to another target".into())),
        }
    }
}

fn on_loopback(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if ip.is_loopback())
}

/// The n-th source address: 127.16.0.1 and on, so that no test's own is among them.
fn source(n: u32) -> IpAddr {
    let [_, high, middle, low] = (n + 1).to_be_bytes();
    Ipv4Addr::new(127, 16 + high % 200, middle, low).into()
}

impl Shards {
    fn socket(&self, viewer: u32) -> io::Result<Arc<Dialler>> {
        // Without addresses to share, a socket is shared by 16 viewers: one for all is one task.
        let (n, ip) = match (self.sources, self.address.socket.ip()) {
            (0, IpAddr::V4(_)) => (viewer / 16, Ipv4Addr::UNSPECIFIED.into()),
            (0, IpAddr::V6(_)) => (viewer / 16, Ipv6Addr::UNSPECIFIED.into()),
            (sources, _) => (viewer % sources, source(viewer % sources)),
        };
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(socket) = sockets.get(&n) {
            return Ok(Arc::clone(socket));
        }
        let socket = Arc::new(Dialler::bind(ip)?);
        sockets.insert(n, Arc::clone(&socket));
        Ok(socket)
    }

    async fn get(
        &self,
        connection: &Connection,
        ask: Ask,
        each: impl FnMut(usize) + Send,
    ) -> Result<Got, Trouble> {
        let Some(Shard { id, len }) = self.shards.get(ask.place).copied() else {
            return Err(Trouble::Failed("no such shard".into()));
        };
        // The second half, as far as its place is known.
        let half = len.map(|len| (u64::from(len / 2), u64::from(len)));
        let (priority, range) =
            if ask.seek { (Priority::Seek, half) } else { (Priority::Play, None) };
        let request = Request::GetAs { priority, id, range, encoding: Encoding::Raw, fill: true };
        let patience = Patience { header: PATIENCE, stall: STALL };
        match pull(connection, &request, patience, each).await {
            Ok(Pulled { header, first_byte, .. }) => {
                Ok(Got { bytes: header.length, first_byte, source: header.source })
            }
            Err(ExchangeError::Refused { code, busy }) => {
                let wait = busy.map_or(1000, |busy| busy.retry_after_ms);
                Err(Trouble::Refused(code.words(), Duration::from_millis(wait.into())))
            }
            Err(ExchangeError::Reset(code)) => {
                Err(Trouble::Refused(code.words(), Duration::from_secs(1)))
            }
            Err(error) if error.is_connection() => Err(Trouble::Lost(error.to_string())),
            Err(error) => Err(Trouble::Failed(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_differ_and_lie_in_127_8() {
        let all: std::collections::HashSet<IpAddr> = (0..60_000).map(source).collect();
        assert_eq!(all.len(), 60_000);
        assert!(all.iter().all(|ip| on_loopback(*ip)));
    }
}
