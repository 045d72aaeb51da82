//! The worker against routers of every kind, on loopback.

use super::{
    Failed, Found, Held, Leased, Port, Transport,
    leases::By,
    look,
    worker::{Order, Told, Worker},
};
use crate::{
    AddressPolicy, Metrics,
    nat::config::{Mapping as Config, When},
};
use prometheus_endpoint::{CounterVec, U64};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(20);

const UDP: Port = Port { transport: Transport::Udp, port: 9000 };

/// How a simulated UPnP router behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Honest,
    /// The port that is wished for is taken.
    PortTaken,
    /// It maps without an end only.
    Permanent,
    Refuses,
    /// It is behind another NAT.
    PrivateAddress,
    HugeDescription,
    EndlessDescription,
    EndlessAnswer,
    SilentDescription,
    /// It names the description of another device.
    NamesAnother,
    Garbage,
}

/// What was asked of a router, in short.
type Calls = Arc<Mutex<Vec<String>>>;

fn within<'a>(text: &'a str, tag: &str) -> &'a str {
    let (_, rest) = text.split_once(&format!("<{tag}>")).unwrap_or(("", ""));
    rest.split_once('<').map_or("", |(value, _)| value)
}

fn envelope(inner: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?><s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\">\
         <s:Body>{inner}</s:Body></s:Envelope>"
    )
}

fn fault(code: u16) -> String {
    envelope(&format!(
        "<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>\
         <UPnPError xmlns=\"urn:schemas-upnp-org:control-1-0\"><errorCode>{code}</errorCode>\
         <errorDescription>no</errorDescription></UPnPError></detail></s:Fault>"
    ))
}

/// What a router answers to a call.
fn answer(manner: Manner, request: &str, calls: &Calls) -> String {
    let action = request
        .lines()
        .find_map(|line| line.strip_prefix("SOAPAction: "))
        .and_then(|line| line.trim_matches('"').split_once('#'))
        .map_or("", |(_, action)| action);
    let (port, lease) = (within(request, "NewExternalPort"), within(request, "NewLeaseDuration"));
    calls.lock().unwrap().push(format!("{action} {port} {lease}").trim().to_owned());
    let ok = |inner: &str| {
        envelope(&format!("<u:{action}Response xmlns:u=\"x\">{inner}</u:{action}Response>"))
    };
    match (action, manner) {
        ("GetExternalIPAddress", Manner::PrivateAddress) => {
            ok("<NewExternalIPAddress>192.168.0.2</NewExternalIPAddress>")
        }
        ("GetExternalIPAddress", _) => ok("<NewExternalIPAddress>8.8.8.8</NewExternalIPAddress>"),
        ("AddPortMapping", Manner::PortTaken) => fault(718),
        ("AddPortMapping", Manner::Permanent) if lease != "0" => fault(725),
        ("AddPortMapping" | "AddAnyPortMapping", Manner::Refuses) => fault(606),
        ("AddAnyPortMapping", _) => ok("<NewReservedPort>4321</NewReservedPort>"),
        _ => ok(""),
    }
}

fn description() -> String {
    "<root><device><serviceList><service>\
     <serviceType>urn:schemas-upnp-org:service:WANIPConnection:2</serviceType>\
     <SCPDURL>/scpd</SCPDURL><controlURL>/control</controlURL>\
     </service></serviceList></device></root>"
        .to_owned()
}

/// A UPnP router on loopback; where it is looked for, and what it was asked.
async fn upnp(manner: Manner) -> (SocketAddr, Calls) {
    let calls = Calls::default();
    let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let search = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (at, http_at) = (search.local_addr().unwrap(), http.local_addr().unwrap());
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = search.recv_from(&mut buffer).await {
            assert!(buffer[..length].starts_with(b"M-SEARCH * HTTP/1.1\r\n"));
            let port = http_at.port();
            let location = match manner {
                Manner::NamesAnother => "http://127.0.0.2:1/root.xml".to_owned(),
                _ => format!("http://127.0.0.1:{port}/root.xml"),
            };
            let answer = match manner {
                Manner::Garbage => "\0\0\0".to_owned(),
                _ => format!("HTTP/1.1 200 OK\r\nLOCATION: {location}\r\n\r\n"),
            };
            search.send_to(answer.as_bytes(), from).await.unwrap();
        }
    });
    let seen = calls.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = http.accept().await {
            let seen = seen.clone();
            tokio::spawn(async move {
                let mut request = Vec::new();
                let mut piece = [0; 4096];
                // A request is there when its body is.
                let text = loop {
                    let read = stream.read(&mut piece).await.unwrap_or_default();
                    request.extend_from_slice(&piece[..read]);
                    let text = String::from_utf8_lossy(&request).into_owned();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else {
                        if read == 0 { return } else { continue }
                    };
                    let length = head
                        .lines()
                        .find_map(|line| line.strip_prefix("Content-Length: "))
                        .map_or(0, |length| length.parse().unwrap());
                    if body.len() >= length || read == 0 {
                        break text;
                    }
                };
                let get = text.starts_with("GET ");
                match manner {
                    Manner::SilentDescription if get => {
                        tokio::time::sleep(PATIENCE).await;
                        return;
                    }
                    Manner::EndlessDescription | Manner::EndlessAnswer
                        if get == (manner == Manner::EndlessDescription) =>
                    {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                        while stream.write_all(&[b'<'; 4096]).await.is_ok() {}
                        return;
                    }
                    Manner::HugeDescription if get => {
                        let head = "HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n";
                        let _ = stream.write_all(head.as_bytes()).await;
                        while stream.write_all(&[b'<'; 4096]).await.is_ok() {}
                        return;
                    }
                    _ => {}
                }
                let body = if get { description() } else { answer(manner, &text, &seen) };
                let length = body.len();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
                let _ = stream.write_all((head + &body).as_bytes()).await;
            });
        }
    });
    (at, calls)
}

/// How a simulated PCP or NAT-PMP router behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gateway {
    Pcp,
    /// It answers NAT-PMP with the version that it knows instead.
    PcpAlone,
    NatPmp,
    /// It answers with too few bytes.
    Truncated,
    /// It maps for no time at all.
    NoLease,
    Silent,
}

/// A router at its fixed port, on a loopback address of its own; and what it was asked.
async fn gateway(manner: Gateway) -> (IpAddr, Calls) {
    let calls = Calls::default();
    let (ip, socket) = loop {
        let [a, b, c] = rand::random::<[u8; 3]>();
        let ip = Ipv4Addr::new(127, a, b, c.clamp(2, 250));
        if let Ok(socket) = UdpSocket::bind((ip, crab_nat::GATEWAY_PORT)).await {
            break (ip, socket);
        }
    };
    let seen = calls.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 1100];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let request = &buffer[..length];
            let answer = match (request[0], manner) {
                (_, Gateway::Silent) => continue,
                (_, Gateway::Truncated) => vec![0; 3],
                (2, Gateway::Pcp | Gateway::NoLease) => pcp_answer(request, manner, &seen),
                // A version that it does not know: it names its own.
                (2, Gateway::NatPmp) => vec![0, 0, 0, 1, 0, 0, 0, 9],
                // RFC 6887, 7.2 and 9.
                (0, Gateway::PcpAlone) => vec![2, 0x80, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9],
                (0, Gateway::NatPmp) => natpmp_answer(request, &seen),
                _ => continue,
            };
            socket.send_to(&answer, from).await.unwrap();
        }
    });
    (ip.into(), calls)
}

/// RFC 6887, 7.2 and 11.1.
fn pcp_answer(request: &[u8], manner: Gateway, calls: &Calls) -> Vec<u8> {
    let lease = if manner == Gateway::NoLease { [0; 4] } else { request[4..8].try_into().unwrap() };
    calls.lock().unwrap().push(format!("map {}", u32::from_be_bytes(lease)));
    let mut answer = vec![2, request[1] | 0x80, 0, 0];
    answer.extend_from_slice(&lease);
    // Epoch, reserved; then nonce, protocol and internal port as asked.
    answer.extend_from_slice(&[0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    answer.extend_from_slice(&request[24..42]);
    answer.extend_from_slice(&7777u16.to_be_bytes());
    answer.extend_from_slice(&Ipv4Addr::new(8, 8, 8, 8).to_ipv6_mapped().octets());
    answer
}

/// RFC 6886, 3.2 and 3.3.
fn natpmp_answer(request: &[u8], calls: &Calls) -> Vec<u8> {
    let head = [0, request[1] | 0x80, 0, 0, 0, 0, 0, 9];
    if request[1] == 0 {
        return [&head[..], &[8, 8, 8, 8]].concat();
    }
    let (internal, lease) = (&request[4..6], &request[8..12]);
    let seconds = u32::from_be_bytes(lease.try_into().unwrap());
    calls.lock().unwrap().push(format!("map {seconds}"));
    let external = if seconds == 0 { 0u16 } else { 5555 };
    [&head[..], internal, &external.to_be_bytes(), lease].concat()
}

struct Running {
    orders: Option<mpsc::Sender<Order>>,
    told: mpsc::Receiver<Told>,
    shown: watch::Receiver<Leased>,
    answers: CounterVec<U64>,
    task: JoinHandle<()>,
}

impl Running {
    fn start(config: Config, policy: AddressPolicy) -> Self {
        let (orders, ordered) = mpsc::channel(1);
        let (tell, told) = mpsc::channel(8);
        let (show, shown) = watch::channel(Leased::default());
        let answers = Metrics::unregistered().unwrap().nat.mapping_answers.clone();
        let worker = Worker::new(&config, policy, ordered, tell, show, answers.clone());
        let task = tokio::spawn(worker.run());
        Self { orders: Some(orders), told, shown, answers, task }
    }

    fn upnp(search: SocketAddr) -> Self {
        let config =
            Config { pcp: false, upnp_search: search, timeout: Duration::from_secs(1), ..config() };
        Self::start(config, AddressPolicy::Global)
    }

    fn pcp(gateway: IpAddr) -> Self {
        let config = Config { upnp: false, gateway: Some(gateway), ..config() };
        Self::start(config, AddressPolicy::Global)
    }

    async fn order(&self, order: Order) {
        self.orders.as_ref().unwrap().send(order).await.unwrap();
    }

    /// The first mapping, once there is one.
    async fn held(&mut self) -> Held {
        self.shown.wait_for(|shown| !shown.held.is_empty()).await.unwrap().held[0]
    }

    async fn told(&mut self) -> Told {
        timeout(PATIENCE, self.told.recv()).await.unwrap().unwrap()
    }

    /// Waits until a call has ended so. Metrics signal nothing, so this looks now and then.
    async fn ended(&self, label: &str) {
        let ended = async {
            while self.answers.with_label_values(&[label]).get() == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, ended).await.unwrap_or_else(|_| panic!("waited in vain for {label}"));
    }

    async fn stop(mut self) -> Duration {
        let began = Instant::now();
        self.orders = None;
        self.told.close();
        timeout(PATIENCE, self.task).await.unwrap().unwrap();
        began.elapsed()
    }
}

fn config() -> Config {
    Config { enabled: When::On, ..Config::default() }
}

fn calls(calls: &Calls) -> Vec<String> {
    calls.lock().unwrap().clone()
}

fn mapped(port: u16) -> Told {
    Told::Mapped(format!("/ip4/8.8.8.8/udp/{port}/quic-v1").parse().unwrap())
}

#[tokio::test]
async fn upnp_maps_the_port_that_is_listened_on_and_removes_it_at_the_end() {
    let (search, asked) = upnp(Manner::Honest).await;
    let mut running = Running::upnp(search);
    running.order(Order::Want(vec![UDP])).await;
    assert_eq!(running.told().await, mapped(9000));
    let held = running.held().await;
    assert_eq!((held.by, held.port), (By::Upnp, UDP));
    running.stop().await;
    assert_eq!(
        calls(&asked),
        ["GetExternalIPAddress", "AddPortMapping 9000 3600", "DeletePortMapping 9000"]
    );
}

#[tokio::test]
async fn a_router_that_has_not_that_port_gives_any() {
    let (search, asked) = upnp(Manner::PortTaken).await;
    let mut running = Running::upnp(search);
    running.order(Order::Want(vec![UDP])).await;
    assert_eq!(running.told().await, mapped(4321));
    running.stop().await;
    assert!(calls(&asked).contains(&"DeletePortMapping 4321".to_owned()));
}

#[tokio::test]
async fn a_router_that_maps_for_ever_is_asked_again_all_the_same() {
    let (search, _) = upnp(Manner::Permanent).await;
    let mut running = Running::upnp(search);
    running.order(Order::Want(vec![UDP])).await;
    assert_eq!(running.told().await, mapped(9000));
    let ends = running.held().await.ends;
    assert!(ends <= Instant::now() + Duration::from_secs(3600));
    running.stop().await;
}

#[tokio::test]
async fn descriptions_without_end_and_other_lies_cost_little_and_are_counted() {
    for (manner, failed) in [
        (Manner::HugeDescription, Failed::Malformed),
        (Manner::EndlessDescription, Failed::Malformed),
        (Manner::EndlessAnswer, Failed::Malformed),
        (Manner::SilentDescription, Failed::Timeout),
        (Manner::NamesAnother, Failed::Malformed),
        (Manner::Garbage, Failed::Malformed),
        (Manner::Refuses, Failed::Refused),
        (Manner::PrivateAddress, Failed::Impossible),
    ] {
        let (search, asked) = upnp(manner).await;
        let mut running = Running::upnp(search);
        running.order(Order::Want(vec![UDP])).await;
        running.ended(failed.label()).await;
        assert!(running.told.try_recv().is_err(), "{manner:?}: nothing is told");
        assert!(running.shown.borrow().held.is_empty(), "{manner:?}");
        running.stop().await;
        if manner == Manner::PrivateAddress {
            assert!(calls(&asked).contains(&"DeletePortMapping 9000".to_owned()));
        }
    }
}

#[tokio::test]
async fn pcp_maps_renews_and_removes() {
    let (router, asked) = gateway(Gateway::Pcp).await;
    let mut running = Running::pcp(router);
    running.order(Order::Want(vec![UDP])).await;
    assert_eq!(running.told().await, mapped(7777));
    assert_eq!(running.held().await.by, By::Pcp);
    running.order(Order::Again).await;
    let renewed = async {
        while running.answers.with_label_values(&["mapped"]).get() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, renewed).await.unwrap();
    running.stop().await;
    assert_eq!(calls(&asked), ["map 3600", "map 3600", "map 0"]);
}

#[tokio::test]
async fn a_router_that_knows_no_pcp_maps_by_nat_pmp() {
    let (router, asked) = gateway(Gateway::NatPmp).await;
    let mut running = Running::pcp(router);
    running.order(Order::Want(vec![UDP])).await;
    assert_eq!(running.told().await, mapped(5555));
    assert_eq!(running.held().await.by, By::NatPmp);
    running.stop().await;
    assert_eq!(calls(&asked), ["map 3600", "map 0"]);
}

#[tokio::test]
async fn routers_that_answer_badly_or_not_at_all_are_counted() {
    for (manner, failed) in [
        (Gateway::Truncated, Failed::Malformed),
        (Gateway::NoLease, Failed::Malformed),
        (Gateway::Silent, Failed::Timeout),
    ] {
        let (router, _) = gateway(manner).await;
        let mut running = Running::pcp(router);
        running.order(Order::Want(vec![UDP])).await;
        running.ended(failed.label()).await;
        assert!(running.told.try_recv().is_err(), "{manner:?}");
        running.stop().await;
    }
}

#[tokio::test]
async fn what_is_no_longer_listened_on_is_taken_back() {
    let (search, asked) = upnp(Manner::Honest).await;
    let mut running = Running::upnp(search);
    running.order(Order::Want(vec![UDP])).await;
    assert_eq!(running.told().await, mapped(9000));
    running.order(Order::Want(vec![])).await;
    assert_eq!(running.told().await, Told::Lost("/ip4/8.8.8.8/udp/9000/quic-v1".parse().unwrap()));
    running.stop().await;
    assert!(calls(&asked).contains(&"DeletePortMapping 9000".to_owned()));
}

#[tokio::test]
async fn a_router_that_has_gone_does_not_hold_up_the_end() {
    let (search, _) = upnp(Manner::Honest).await;
    let mut running = Running::upnp(search);
    running.order(Order::Want(vec![UDP])).await;
    running.told().await;
    // The next call finds nobody who answers.
    let (router, _) = gateway(Gateway::Silent).await;
    let silent =
        Config { gateway: Some(router), remove_timeout: Duration::from_millis(200), ..config() };
    let busy = Running::start(silent, AddressPolicy::Global);
    busy.order(Order::Want(vec![UDP])).await;
    assert!(busy.stop().await < Duration::from_secs(2));
    running.stop().await;
}

#[tokio::test]
async fn looking_at_a_router_tells_its_protocols_and_maps_nothing() {
    let (search, upnp_calls) = upnp(Manner::Honest).await;
    let (router, pcp_calls) = gateway(Gateway::NatPmp).await;
    let config = Config { upnp_search: search, gateway: Some(router), ..config() };
    let public = Ok(Some(IpAddr::from([8, 8, 8, 8])));
    assert_eq!(
        look(&config, AddressPolicy::Global).await,
        [Found { by: By::Upnp, result: public }, Found { by: By::NatPmp, result: public }]
    );
    assert_eq!(calls(&upnp_calls), ["GetExternalIPAddress"]);
    assert_eq!(calls(&pcp_calls), Vec::<String>::new());
}

#[tokio::test]
async fn looking_at_a_router_that_is_silent_or_lies_says_so_in_time() {
    let (search, _) = upnp(Manner::PrivateAddress).await;
    let (router, _) = gateway(Gateway::Silent).await;
    let config = Config { upnp_search: search, gateway: Some(router), ..config() };
    let found = look(&config, AddressPolicy::Global).await;
    let failed: Vec<_> = found.iter().map(|found| found.result.unwrap_err()).collect();
    assert_eq!(failed, [Failed::Impossible, Failed::Timeout]);
    let off = Config { upnp: false, pcp: false, ..config };
    assert_eq!(look(&off, AddressPolicy::Global).await, []);
}

#[tokio::test]
async fn a_router_that_speaks_pcp_alone_is_known_by_the_version_it_names() {
    let (router, asked) = gateway(Gateway::PcpAlone).await;
    let config = Config { upnp: false, gateway: Some(router), ..config() };
    let found = look(&config, AddressPolicy::Global).await;
    assert_eq!(found, [Found { by: By::Pcp, result: Ok(None) }]);
    assert_eq!(calls(&asked), Vec::<String>::new());
}
