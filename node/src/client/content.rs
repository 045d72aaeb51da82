//! `nsn-node content publish|get|list`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};
use jsonrpsee::rpc_params;
use libp2p::PeerId;
use nsn_relay::{
    ContentId, Progress, Stage,
    client::{self as viewer, Address, DownloadError, Downloaded, ViewError, Viewer},
};
use tokio::sync::watch;

use super::{
    Error, print_line,
    progress::Bar,
    rpc::{Node, Rpc},
};
use crate::{
    offchain::publish::Published,
    rpc::{content::Kept, relay::Relay},
};

/// How often the node is asked how far it is.
const POLL: Duration = Duration::from_millis(200);

/// Longest wait for a publication; hours of video take minutes.
const PUBLISH_LIMIT: Duration = Duration::from_secs(6 * 3600);

/// Names tried in the inbox.
const MAX_NAMES: usize = 100;

/// Entries of a list asked for at a time.
const PAGE: u32 = 500;

/// Relays of a region that are tried at most, and addresses of each.
const RELAYS: u32 = 8;
const ADDRESSES: usize = 2;

/// Longest wait for any other answer.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// What to do with content.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Publish a file on a super-node that runs on this machine.
    Publish(Publish),
    /// Fetch a content from a relay and verify every byte of it.
    Get(Get),
    /// List what a super-node keeps.
    List(List),
}

/// `content publish`.
#[derive(Debug, Args)]
pub struct Publish {
    /// The file.
    file: PathBuf,
    /// Its media type [default: by its name].
    #[arg(long, value_name = "TYPE")]
    media_type: Option<String>,
    /// One JSON object on standard output, no progress.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: Node,
}

/// `content get`.
#[derive(Debug, Args)]
pub struct Get {
    /// What to fetch: the 64 hexadecimal digits that `content publish` printed.
    content_id: ContentId,
    /// A relay's or super-node's shard service, with `/p2p/` [default: that of the node at --rpc-url].
    #[arg(long, value_name = "MULTIADDR")]
    from: Option<Address>,
    /// Fetch from a relay of this region, which the node at --rpc-url finds; if one fails, from the
    /// next.
    #[arg(long, value_name = "NAME", conflicts_with = "from", value_parser = crate::config::parse_region)]
    region: Option<String>,
    /// Where to put it. An interrupted fetch leaves FILE.part and goes on from there.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Shards fetched at the same time.
    #[arg(long, value_name = "N", default_value_t = viewer::Config::default().parallel)]
    parallel: usize,
    /// One JSON object on standard output, no progress.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: Node,
}

/// `content list`.
#[derive(Debug, Args)]
pub struct List {
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: Node,
}

impl Command {
    pub(crate) async fn run(&self) -> Result<(), Error> {
        match self {
            Self::Publish(command) => command.run().await,
            Self::Get(command) => command.run().await,
            Self::List(command) => command.run().await,
        }
    }
}

impl Publish {
    async fn run(&self) -> Result<(), Error> {
        let rpc = Rpc::new(&self.node, PUBLISH_LIMIT)?;
        let inbox: PathBuf = rpc.call::<String>("content_v1_inbox", rpc_params![]).await?.into();
        let staged = Staged::put(&self.file, &inbox)?;

        let mut bar = Bar::new("publishing", 0, self.json);
        let call = rpc
            .call::<Published>("content_v1_publish", rpc_params![&staged.name, &self.media_type]);
        tokio::pin!(call);
        let published = loop {
            tokio::select! {
                done = &mut call => break done?,
                () = tokio::time::sleep(POLL) => {
                    let params = rpc_params![&staged.name];
                    // A poll that fails is not worth a word: the call itself tells what is wrong.
                    if let Ok(Some(progress)) =
                        rpc.call::<Option<Progress>>("content_v1_publishProgress", params).await
                    {
                        bar.set(stage(progress.stage), progress.done, progress.total);
                    }
                }
                _ = tokio::signal::ctrl_c() => {
                    return Err(Error::Argument(
                        "stopped; the node goes on with what it has begun, and a second try is quick"
                            .into(),
                    ));
                }
            }
        };
        bar.finish();
        if self.json {
            print_line(serde_json::json!(published))?;
        } else {
            print_line(format_args!(
                "published {} ({} bytes in {} shards)",
                self.file.display(),
                published.total_len,
                published.shards
            ))?;
            print_line(&published.content_id)?;
        }
        Ok(())
    }
}

/// A file put into the inbox; taken out again when dropped.
struct Staged {
    path: PathBuf,
    name: String,
}

impl Staged {
    fn put(file: &Path, inbox: &Path) -> Result<Self, Error> {
        let failed = |source| Error::File { path: file.display().to_string(), source };
        let file = file.canonicalize().map_err(failed)?;
        if !file.is_file() {
            return Err(Error::Argument(format!(
                "{} is not a file: give one file; a folder is published file by file",
                file.display()
            )));
        }
        if !inbox.is_dir() {
            return Err(Error::Argument(format!(
                "the node's inbox {} is not on this machine: run this where the node runs",
                inbox.display()
            )));
        }
        let original = file.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let original = original.trim_start_matches('.');
        // The name is kept, since lists show it, unless it is taken or one that the inbox hides.
        let plain = (!original.is_empty()).then(|| original.to_owned());
        let numbered = (1..MAX_NAMES).map(|n| format!("{n}-{original}"));
        for name in plain.into_iter().chain(numbered) {
            let path = inbox.join(&name);
            match place(&file, &path) {
                Ok(()) => return Ok(Self { path, name }),
                // Never touched: it may be another name of somebody's original.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => {
                    return Err(Error::File { path: path.display().to_string(), source });
                }
            }
        }
        Err(Error::Argument(format!(
            "the inbox {} holds {MAX_NAMES} files of that name: clear it",
            inbox.display()
        )))
    }
}

/// Gives `file` a second name, which costs nothing on the same file system; otherwise copies its
/// bytes. Never writes to a file that is there already.
fn place(file: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(file, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {}
        linked => return linked,
    }
    let mut from = fs::File::open(file)?;
    let mut to = fs::OpenOptions::new().write(true).create_new(true).open(path)?;
    io::copy(&mut from, &mut to).map(drop).inspect_err(|_| {
        // Half a copy is of no use; what is left of it if this fails shows in the inbox.
        let _ = fs::remove_file(path);
    })
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Left behind it only takes room; the node's operator sees it in the inbox.
        let _ = fs::remove_file(&self.path);
    }
}

impl Get {
    async fn run(&self) -> Result<(), Error> {
        let relays = match (self.from, &self.region) {
            (Some(address), _) => vec![address],
            (None, Some(region)) => self.relays_of(region).await?,
            (None, None) => vec![self.ask_node().await?],
        };
        let mut bar = Bar::new("connecting", 0, self.json);
        let mut failed = Vec::new();
        for from in &relays {
            if relays.len() > 1 {
                bar.say(&format!("fetching from {from}"));
            }
            match self.fetch(*from, &mut bar).await {
                Ok(fetched) => {
                    bar.finish();
                    return self.report(*from, &fetched);
                }
                Err(error) if self.region.is_some() && is_of_the_relay(&error) => {
                    bar.say(&format!("{}: {error}", from.peer));
                    failed.push((from.peer, error));
                }
                Err(error) => return Err(error),
            }
        }
        let region = self.region.clone().unwrap_or_default();
        Err(none_gave_it(&region, &failed))
    }

    async fn fetch(&self, from: Address, bar: &mut Bar) -> Result<Downloaded, Error> {
        let config = viewer::Config { parallel: self.parallel.max(1), ..Default::default() };
        let (sender, mut progress) = watch::channel(Progress::START);
        let viewer = Viewer::connect(from, None, config).await?;
        let fetched = {
            let download = viewer.download(self.content_id, &self.output, &sender);
            tokio::pin!(download);
            loop {
                tokio::select! {
                    fetched = &mut download => break fetched,
                    Ok(()) = progress.changed() => {
                        let progress = *progress.borrow_and_update();
                        bar.set(stage(progress.stage), progress.done, progress.total);
                    }
                    _ = tokio::signal::ctrl_c() => {
                        return Err(Error::Argument(format!(
                            "stopped; the same command goes on from {}.part",
                            self.output.display()
                        )));
                    }
                }
            }
        };
        viewer.close().await;
        Ok(fetched?)
    }

    fn report(&self, from: Address, fetched: &Downloaded) -> Result<(), Error> {
        if self.json {
            print_line(serde_json::json!({
                "content_id": self.content_id.to_string(),
                "file": self.output,
                "from": from.to_string(),
                "media_type": fetched.media_type,
                "total_len": fetched.total_len,
                "shards": fetched.shards,
                "resumed_shards": fetched.resumed,
                "from_memory": fetched.sources.memory,
                "from_disk": fetched.sources.disk,
                "from_upstream": fetched.sources.upstream,
            }))?;
        } else {
            print_line(format_args!(
                "fetched and verified {} ({} bytes, {})",
                self.output.display(),
                fetched.total_len,
                fetched.media_type
            ))?;
        }
        Ok(())
    }

    /// The relays of a region, each address of each, the one to try first in front.
    async fn relays_of(&self, region: &str) -> Result<Vec<Address>, Error> {
        let rpc = Rpc::new(&self.node, CALL_LIMIT)?;
        let found: Vec<Relay> = rpc.call("relay_v1_find", rpc_params![region, RELAYS]).await?;
        let addresses: Vec<Address> = found
            .iter()
            .flat_map(|relay| relay.shard_addrs.iter().take(ADDRESSES))
            .filter_map(|address| address.parse().ok())
            .collect();
        if addresses.is_empty() {
            return Err(Error::Argument(format!(
                "the node at {} knows of no relay in region {region}; name one with --from, or try \
                 another region",
                self.node.rpc_url
            )));
        }
        Ok(addresses)
    }

    async fn ask_node(&self) -> Result<Address, Error> {
        let rpc = Rpc::new(&self.node, CALL_LIMIT)?;
        let status: serde_json::Value = rpc.call("relay_v1_status", rpc_params![]).await?;
        let first = status.get("listen_addrs").and_then(|all| all.get(0));
        first.and_then(|address| address.as_str()?.parse().ok()).ok_or_else(|| {
            Error::Argument(format!(
                "the node at {} serves no shards; name a relay with --from, or a region with --region",
                self.node.rpc_url
            ))
        })
    }
}

/// Whether another relay may do better.
fn is_of_the_relay(error: &Error) -> bool {
    match error {
        Error::Relay(ViewError::Socket(_)) => false,
        Error::Relay(_) => true,
        Error::Fetch(DownloadError::Fetch { source, .. }) => {
            !matches!(source, ViewError::Manifest(_) | ViewError::Socket(_))
        }
        _ => false,
    }
}

/// The one error of a region whose relays all failed.
fn none_gave_it(region: &str, failed: &[(PeerId, Error)]) -> Error {
    let reasons: Vec<String> =
        failed.iter().map(|(peer, error)| format!("{peer}: {error}")).collect();
    Error::Argument(format!(
        "no relay of region {region} gave it, of {} tried: {}",
        failed.len(),
        reasons.join("; ")
    ))
}

impl List {
    async fn run(&self) -> Result<(), Error> {
        let rpc = Rpc::new(&self.node, CALL_LIMIT)?;
        let mut after: Option<String> = None;
        loop {
            let page: Vec<Kept> = rpc.call("content_v1_list", rpc_params![&after, PAGE]).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.content_id.clone());
            for content in page {
                self.print(&content)?;
            }
        }
        if after.is_none() && !self.json {
            print_line("this node keeps no published content")?;
        }
        Ok(())
    }

    fn print(&self, content: &Kept) -> Result<(), Error> {
        if self.json {
            print_line(serde_json::json!(content))?;
        } else {
            print_line(format_args!(
                "{}  {:>14} bytes  {}  {}",
                content.content_id, content.total_len, content.media_type, content.name
            ))?;
        }
        Ok(())
    }
}

/// What a bar says of a stage.
const fn stage(stage: Stage) -> &'static str {
    match stage {
        Stage::Starting => "starting",
        Stage::Storing => "storing",
        Stage::Checking => "checking",
        Stage::Fetching => "fetching",
        Stage::Finishing => "finishing",
        Stage::Done => "done",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nsn_relay::{
        BlobId, Manifest,
        upstream::DialError,
        wire::{Code, ExchangeError},
    };

    #[test]
    fn staging_never_touches_a_file_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let inbox = dir.path().join("inbox");
        fs::create_dir(&inbox).unwrap();
        let film = dir.path().join("film.mp4");
        fs::write(&film, b"the original").unwrap();
        // What a killed publication leaves: a second name of the original itself.
        fs::hard_link(&film, inbox.join("film.mp4")).unwrap();
        fs::write(inbox.join("1-film.mp4"), b"somebody else's").unwrap();

        let staged = Staged::put(&film, &inbox).unwrap();
        assert_eq!(staged.name, "2-film.mp4");
        assert_eq!(fs::read(&film).unwrap(), b"the original");
        assert_eq!(fs::read(inbox.join("1-film.mp4")).unwrap(), b"somebody else's");
        drop(staged);
        assert!(!inbox.join("2-film.mp4").exists());
        assert_eq!(fs::read(&film).unwrap(), b"the original");
    }

    #[test]
    fn another_relay_is_tried_for_what_is_one_relays_fault() {
        let peer = PeerId::random();
        let refused = |code| ViewError::Exchange(ExchangeError::Refused { code, busy: None });
        let fetch = |source| DownloadError::Fetch { what: "shard", id: BlobId([1; 32]), source };
        let unreachable = Error::Relay(ViewError::Dial(DialError::NoAddress(peer)));
        assert!(is_of_the_relay(&unreachable));
        assert!(is_of_the_relay(&Error::Fetch(fetch(refused(Code::NotFound)))));
        let manifest = ViewError::Manifest(Manifest::decode(b"x").unwrap_err());
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let write = DownloadError::Write { path: "x".into(), source: full() };
        for other in [
            Error::Fetch(fetch(manifest)),
            Error::Fetch(write),
            Error::Relay(ViewError::Socket(full())),
            Error::Argument("stopped".into()),
        ] {
            assert!(!is_of_the_relay(&other), "{other}");
        }
        let text = none_gave_it("eu", &[(peer, unreachable)]).to_string();
        assert!(text.contains("region eu") && text.contains(&peer.to_string()), "{text}");
        assert!(!text.contains('\n'), "one line");
    }

    #[test]
    fn a_copy_is_made_only_where_there_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&from, b"a").unwrap();
        std::os::unix::fs::symlink(dir.path().join("nowhere"), &to).unwrap();
        assert_eq!(place(&from, &to).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(!dir.path().join("nowhere").exists(), "a link in the inbox is not followed");
    }
}
