//! The command line.

use clap::{Args as Group, Parser, Subcommand};
use nsn_relay::{BlobId, ContentId, client::Address, server};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

const OUTPUT: &str = "\
A viewer plays shard after shard at --rate, from a place that it chooses: popular shards more often
(--zipf). It keeps --ahead seconds in its buffer and stalls when that runs empty; a stall ends when
there is a second to play again. With --rate 0 it fetches as fast as it can. It seeks (--seek-every)
by asking for the second half of another shard, urgently, and plays on from there. A viewer that was
told to come back later does so; one whose connection was lost connects again after a second.

Output is one JSON object a line: `start` first, `second` once a second with what came in it, and
`summary` with all of it. Time to first byte is from the request to the first bytes of the body.";

/// Puts a shard service under load, and says how its viewers fare.
#[derive(Clone, Debug, Parser)]
#[command(name = "nsn-load", version, after_long_help = OUTPUT)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Plays as many viewers would.
    View(Box<View>),
    /// Serves noise from memory over the same wire, with bare quinn and nothing else: what a service
    /// is measured against. It lets everybody in.
    Serve(Serve),
}

#[derive(Clone, Debug, Group)]
pub(crate) struct View {
    /// The shard service, as /ip4/../udp/../quic-v1/p2p/..
    #[arg(long, value_name = "MULTIADDR", required_unless_present = "url", conflicts_with = "url")]
    pub(crate) against: Option<Address>,
    /// What to watch: a content, whose manifest the service is asked for.
    #[arg(long, value_name = "CONTENT_ID", conflicts_with_all = ["shards", "url"])]
    pub(crate) content: Option<ContentId>,
    /// What to watch: a file with the id of a shard on each line.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["content", "url"])]
    pub(crate) shards: Option<PathBuf>,
    /// Instead of a shard service, an HTTPS server that speaks HTTP/2, and what it serves; as often
    /// as wanted, all of one server.
    #[arg(long, value_name = "URL")]
    pub(crate) url: Vec<http::Uri>,
    /// Certificates to trust in place of the system's, as PEM.
    #[arg(long, value_name = "FILE", requires = "url")]
    pub(crate) ca: Option<PathBuf>,
    /// Viewers.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub(crate) viewers: u32,
    /// What each plays, in Mbit/s; 0 for as fast as it can.
    #[arg(long, default_value = "1", value_name = "MBIT")]
    pub(crate) rate: Real,
    /// Seconds that a viewer keeps in its buffer.
    #[arg(long, default_value = "10", value_name = "SECONDS")]
    pub(crate) ahead: Real,
    /// Seconds from one seek of a viewer to the next, on average; 0 for never.
    #[arg(long, default_value = "0", value_name = "SECONDS")]
    pub(crate) seek_every: Real,
    /// Exponent of Zipf's law by which places are chosen; 0 makes all equally popular.
    #[arg(long, default_value = "1", value_name = "EXPONENT")]
    pub(crate) zipf: Real,
    /// Viewers that connect a second; 0 for all at once.
    #[arg(long, default_value = "50", value_name = "PER_SECOND")]
    pub(crate) ramp: Real,
    /// Seconds to play, from the moment the last viewer comes.
    #[arg(long, default_value = "10", value_name = "SECONDS")]
    pub(crate) duration: Real,
    /// Addresses in 127.0.0.0/8 that viewers share in turn, where the target is one of them; 0 lets
    /// the system choose.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(..=60_000))]
    pub(crate) sources: u32,
    /// The same seed makes the same choices.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}

#[derive(Clone, Debug, Group)]
pub(crate) struct Serve {
    /// UDP address to listen on; port 0 takes a free one.
    #[arg(long, default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))]
    pub(crate) listen: SocketAddr,
    /// Settings of the server, as JSON in the names of `[shards.server]`, such as
    /// {"quic":{"cipher":"chacha20"},"sockets":2}.
    #[arg(long, default_value = "{}", value_name = "JSON", value_parser = settings)]
    pub(crate) settings: Box<server::Config>,
    /// Shards to serve.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) count: u32,
    /// Bytes of each.
    #[arg(long, default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    pub(crate) len: u32,
    /// The same seed makes the same shards.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}

/// A number that is finite and not negative.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Real(pub(crate) f64);

impl Real {
    pub(crate) fn seconds(self) -> Duration {
        Duration::from_secs_f64(self.0)
    }
}

impl FromStr for Real {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse::<f64>() {
            Ok(number) if (0.0..=1e6).contains(&number) => Ok(Self(number)),
            _ => Err("it must be a number from 0 to 1,000,000"),
        }
    }
}

fn settings(text: &str) -> Result<Box<server::Config>, String> {
    serde_json::from_str(text).map(Box::new).map_err(|error| error.to_string())
}

/// The ids that a file has, one on each line.
pub(crate) fn read_ids(text: &str) -> Result<Vec<BlobId>, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.map(|line| line.parse().map_err(|error| format!("{line:?}: {error}"))).collect()
}
