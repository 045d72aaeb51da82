//! Starts nodes, talks to them, and ends them, by their process ids, whatever the test did.

use std::{
    io::{BufRead, BufReader, Read},
    net::{TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use jsonrpsee::{
    core::{ClientError, client::ClientT, params::ArrayParams},
    http_client::{HttpClient, HttpClientBuilder},
    rpc_params,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// Longest wait for anything that a healthy node does within seconds; generous, since CI machines
/// have two cores and other tests run beside this one.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// The binary under test.
pub(crate) const NODE: &str = env!("CARGO_BIN_EXE_nsn-node");

/// A port that nobody uses now, for UDP and TCP.
pub(crate) fn free_port() -> u16 {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Lines that a node wrote, and a signal for each new one.
#[derive(Default)]
struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    more: Condvar,
}

impl Log {
    fn follow(self: &Arc<Self>, from: impl Read + Send + 'static) {
        let log = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                log.lines.lock().unwrap().0.push(line);
                log.more.notify_all();
            }
            log.lines.lock().unwrap().1 = true;
            log.more.notify_all();
        });
    }

    fn wait_for(&self, limit: Duration, found: impl Fn(&str) -> bool) -> Result<String, String> {
        let until = Instant::now() + limit;
        let mut lines = self.lines.lock().unwrap();
        let mut seen = 0;
        loop {
            if let Some(line) = lines.0[seen..].iter().find(|line| found(line)) {
                return Ok(line.clone());
            }
            seen = lines.0.len();
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || lines.1 {
                return Err(lines.0.join("\n"));
            }
            lines = self.more.wait_timeout(lines, left).unwrap().0;
        }
    }
}

/// How to start a node.
pub(crate) struct Setup {
    pub(crate) base: PathBuf,
    pub(crate) args: Vec<String>,
}

impl Setup {
    /// A node of the dev chain, without mDNS, on ports of its own.
    pub(crate) fn dev(base: &Path, args: &[&str]) -> Self {
        Self::of_chain("dev", base, args)
    }

    /// A node of `chain`, without mDNS, on ports of its own.
    pub(crate) fn of_chain(chain: &str, base: &Path, args: &[&str]) -> Self {
        let overlay = free_port();
        let mut all: Vec<String> = [
            "--chain",
            chain,
            "--no-mdns",
            "--no-telemetry",
            "--rpc-port=0",
            "--port=0",
            "--prometheus-port",
            &free_port().to_string(),
            "--overlay-listen-addr",
            &format!("/ip4/127.0.0.1/udp/{overlay}/quic-v1"),
            "--overlay-listen-addr",
            &format!("/ip4/127.0.0.1/tcp/{overlay}"),
            "--shard-listen-addr",
            &format!("127.0.0.1:{}", free_port()),
            "--unsafe-force-node-key-generation",
        ]
        .map(str::to_owned)
        .to_vec();
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        Self { base: base.to_path_buf(), args: all }
    }

    pub(crate) fn with(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }
}

/// A running node.
pub(crate) struct Node {
    child: Child,
    log: Arc<Log>,
    pub(crate) rpc_url: String,
    rpc: HttpClient,
    metrics_url: Option<String>,
    pub(crate) base: PathBuf,
}

impl Node {
    /// Starts a node and waits for its JSON-RPC.
    pub(crate) fn start(setup: &Setup) -> Self {
        let mut child = Command::new(NODE)
            .arg("--base-path")
            .arg(&setup.base)
            .args(&setup.args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Log::default());
        log.follow(child.stderr.take().unwrap());
        drop(child.stdout.take());
        let found = log.wait_for(PATIENCE, |line| line.contains("Running JSON-RPC server"));
        let line = found.unwrap_or_else(|all| {
            let _ = child.kill();
            panic!("the node did not start; its log:\n{all}")
        });
        let address = line.split("addr=").nth(1).unwrap().split([',', ' ']).next().unwrap();
        let rpc_url = format!("http://{address}");
        let rpc = HttpClientBuilder::default().request_timeout(PATIENCE).build(&rpc_url).unwrap();
        let port = setup.args.iter().skip_while(|arg| *arg != "--prometheus-port").nth(1);
        let metrics_url = port.map(|port| format!("127.0.0.1:{port}"));
        Self { child, log, rpc_url, rpc, metrics_url, base: setup.base.clone() }
    }

    /// A JSON-RPC call that must succeed.
    pub(crate) async fn call(&self, method: &str, params: ArrayParams) -> Value {
        self.try_call(method, params).await.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// A JSON-RPC call.
    pub(crate) async fn try_call(
        &self,
        method: &str,
        params: ArrayParams,
    ) -> Result<Value, ClientError> {
        self.rpc.request(method, params).await
    }

    /// Calls until `good` says so.
    pub(crate) async fn call_until(
        &self,
        method: &str,
        params: ArrayParams,
        good: impl Fn(&Value) -> bool,
    ) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let last = self.try_call(method, params.clone()).await;
            if let Ok(value) = &last
                && good(value)
            {
                return value.clone();
            }
            assert!(
                Instant::now() < until,
                "{method} never became good; last {last:?}; log:\n{}",
                self.log_text()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Height of the best block.
    pub(crate) async fn height(&self) -> u64 {
        let header = self.call("chain_getHeader", rpc_params![]).await;
        u64::from_str_radix(header["number"].as_str().unwrap().trim_start_matches("0x"), 16)
            .unwrap()
    }

    /// Waits until the best block is at least `height`.
    pub(crate) async fn wait_height(&self, height: u64) {
        self.call_until("chain_getHeader", rpc_params![], |header| {
            let number = header["number"].as_str().unwrap_or("0x0");
            u64::from_str_radix(number.trim_start_matches("0x"), 16).unwrap_or(0) >= height
        })
        .await;
    }

    /// The overlay's addresses, each with `/p2p/`.
    pub(crate) async fn overlay_addrs(&self) -> Vec<String> {
        let status = self
            .call_until("p2p_v1_status", rpc_params![], |status| {
                status["listen_addrs"].as_array().is_some_and(|all| !all.is_empty())
            })
            .await;
        let peer = status["peer_id"].as_str().unwrap();
        let addrs = status["listen_addrs"].as_array().unwrap();
        addrs
            .iter()
            .map(|addr| {
                let addr = addr.as_str().unwrap();
                if addr.contains("/p2p/") { addr.into() } else { format!("{addr}/p2p/{peer}") }
            })
            .collect()
    }

    /// The shard service's address, with `/p2p/`.
    pub(crate) async fn shard_addr(&self) -> String {
        let status = self
            .call_until("relay_v1_status", rpc_params![], |status| {
                status["listen_addrs"].as_array().is_some_and(|all| !all.is_empty())
            })
            .await;
        status["listen_addrs"][0].as_str().unwrap().to_owned()
    }

    /// Waits until at least `count` overlay peers are connected.
    pub(crate) async fn wait_overlay_peers(&self, count: u64) {
        self.call_until("p2p_v1_status", rpc_params![], |status| {
            status["connected_peers"].as_u64().is_some_and(|peers| peers >= count)
        })
        .await;
    }

    /// A metric's value, summed over its labels; 0 when it is not there.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = http_get(self.metrics_url.as_deref().unwrap(), "/metrics");
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// All metrics as text.
    pub(crate) fn metrics_text(&self) -> String {
        http_get(self.metrics_url.as_deref().unwrap(), "/metrics")
    }

    /// Waits for a line of the log.
    pub(crate) fn wait_log(&self, text: &str) -> String {
        self.log
            .wait_for(PATIENCE, |line| line.contains(text))
            .unwrap_or_else(|all| panic!("{text:?} never logged; log:\n{all}"))
    }

    /// The whole log so far.
    pub(crate) fn log_text(&self) -> String {
        self.log.lines.lock().unwrap().0.join("\n")
    }

    /// Ends the node at once, as a crash would.
    pub(crate) fn sigkill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks the node to stop, and waits for it. The time it took, how it ended, and its log.
    pub(crate) fn stop(mut self) -> (Duration, ExitStatus, String) {
        let start = Instant::now();
        kill(self.pid(), Signal::SIGTERM).unwrap();
        while start.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (start.elapsed(), status, self.log_text());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the node did not stop; log:\n{}", self.log_text());
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- log of {} ----\n{}", self.base.display(), self.log_text());
        }
    }
}

/// Runs `nsn-node` with `args` to its end.
pub(crate) async fn run(args: &[&str]) -> Output {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    tokio::task::spawn_blocking(move || Command::new(NODE).args(args).output().unwrap())
        .await
        .unwrap()
}

/// Publishes `file` on `node`; the answer of `--json`.
pub(crate) async fn publish(node: &Node, file: &Path) -> Value {
    let out =
        run(&["content", "publish", file.to_str().unwrap(), "--rpc-url", &node.rpc_url, "--json"])
            .await;
    assert!(out.status.success(), "{}\n{}", String::from_utf8_lossy(&out.stderr), node.log_text());
    serde_json::from_slice(&out.stdout).unwrap()
}

/// Fetches a content from `from` into `to`; what the command printed.
pub(crate) async fn get(id: &str, from: &str, to: &Path) -> Result<Value, String> {
    let out =
        run(&["content", "get", id, "--from", from, "-o", to.to_str().unwrap(), "--json"]).await;
    if out.status.success() {
        Ok(serde_json::from_slice(&out.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&out.stderr).into_owned())
    }
}

/// A file of `len` bytes that no two shards of are alike.
pub(crate) fn make_file(path: &Path, len: usize) {
    let mut bytes = vec![0; len];
    blake3::Hasher::new()
        .update(path.as_os_str().as_encoded_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

/// Whether two files have the same bytes.
pub(crate) fn same(a: &Path, b: &Path) -> bool {
    std::fs::read(a).unwrap() == std::fs::read(b).unwrap()
}

fn http_get(address: &str, path: &str) -> String {
    use std::io::Write as _;
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}
