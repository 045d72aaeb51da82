//! The tool against a bare server, as a whole.

use crate::{
    args::{Args, Command},
    https::Https,
    link::{Ask, Target, Trouble},
};
use clap::Parser;
use rustls::RootCertStore;
use serde_json::Value;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Serves, views, and gives what the viewers' side said.
async fn view(options: &str) -> Vec<Value> {
    let Command::Serve(serve) =
        Args::parse_from("nsn-load serve --count 4 --len 200000".split(' ')).command
    else {
        panic!()
    };
    let blobs = (0..serve.count).map(|n| crate::serve::noise(&serve, n));
    let blobs: std::collections::HashMap<_, _> = blobs.collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ids");
    let ids: Vec<String> = blobs.keys().map(ToString::to_string).collect();
    std::fs::write(&file, ids.join("\n")).unwrap();
    let config = nsn_relay::server::Config { listen_addr: serve.listen, ..Default::default() };
    let identity = libp2p::identity::Keypair::generate_ed25519();
    let bare = nsn_relay::load::Baseline::bind(&identity, &config, blobs).unwrap();
    let line =
        format!("nsn-load view --against {} --shards {} {options}", bare.address(), file.display());
    let stop = CancellationToken::new();
    let serving = tokio::spawn(bare.run(stop.clone()));
    let Command::View(view) = Args::parse_from(line.split(' ')).command else { panic!() };
    let mut out = Vec::new();
    crate::viewers::run(*view, &mut out, CancellationToken::new()).await.unwrap();
    stop.cancel();
    serving.await.unwrap();
    let text = String::from_utf8(out).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn viewers_play_without_a_stall_and_say_what_came() {
    let lines = view("--viewers 5 --ramp 0 --duration 2 --rate 1").await;
    assert_eq!(lines[0]["event"], "start");
    let summary = lines.last().unwrap();
    assert_eq!(summary["event"], "summary");
    assert_eq!(summary["counts"]["connected"], 5);
    assert_eq!((&summary["counts"]["stalls"], &summary["viewers_stalled"]), (&0.into(), &0.into()));
    // Ten seconds ahead at 125 kB a second are seven shards of 200 kB, and what is played meanwhile.
    let requests = summary["counts"]["requests"].as_u64().unwrap();
    assert!((35..=50).contains(&requests), "{requests}");
    assert_eq!(summary["counts"]["bytes"].as_u64(), Some(requests * 200_000));
    assert_eq!(summary["rest"]["first_byte_ms"]["count"].as_u64(), Some(requests));
    assert_eq!(summary["counts"]["from_memory"].as_u64(), Some(requests));
    assert_eq!(summary["rest"]["troubles"], serde_json::json!({}));
}

#[tokio::test(flavor = "multi_thread")]
async fn seeks_are_told_apart_and_greedy_viewers_are_not_paced() {
    let lines = view("--viewers 2 --ramp 0 --duration 1 --rate 0 --seek-every 0.1").await;
    let summary = lines.last().unwrap();
    let seeks = summary["counts"]["seeks"].as_u64().unwrap();
    let answered = summary["rest"]["seek_first_byte_ms"]["count"].as_u64().unwrap();
    assert!(seeks >= 2 && answered >= 1 && answered <= seeks, "{summary}");
    assert!(summary["counts"]["requests"].as_u64().unwrap() >= 10, "{summary}");
}

#[test]
fn a_command_line_that_makes_no_sense_is_refused() {
    for line in [
        "nsn-load view",
        "nsn-load view --against /ip4/127.0.0.1/udp/9003 --shards x",
        "nsn-load view --url https://localhost/a --against /ip4/127.0.0.1/udp/9003/quic-v1",
        "nsn-load view --url https://localhost/a --viewers 0",
        "nsn-load view --url https://localhost/a --rate -1",
        "nsn-load serve --len 0",
        "nsn-load serve --settings {\"sokets\":2}",
    ] {
        assert!(Args::try_parse_from(line.split(' ')).is_err(), "{line}");
    }
    for line in
        ["nsn-load view --url https://localhost/a", "nsn-load serve --settings {\"sockets\":2}"]
    {
        assert!(Args::try_parse_from(line.split(' ')).is_ok(), "{line}");
    }
}

#[test]
fn only_one_https_server_at_a_time_is_put_under_load() {
    let make = |texts: [&str; 2]| {
        let urls = texts.map(|text| text.parse().unwrap()).to_vec();
        Https::new(urls, RootCertStore::empty()).err().map(|error| error.to_string())
    };
    assert_eq!(make(["https://a.invalid/1", "https://a.invalid/2"]), None);
    assert!(make(["https://a.invalid/1", "https://b.invalid/1"]).unwrap().contains("another"));
    assert!(make(["http://a.invalid/1", "http://a.invalid/2"]).unwrap().contains("https://"));
}

/// An HTTPS server that answers `/whole` with 300,000 bytes, a range of it with that, and everything
/// else with 404. Gives its port and the certificate to trust.
async fn https_server() -> (u16, RootCertStore) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.key_pair.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut connection =
                    h2::server::handshake(acceptor.accept(tcp).await.unwrap()).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let found = request.uri().path() == "/whole";
                    let part = request.headers().contains_key("range");
                    let (status, len): (u16, usize) = match (found, part) {
                        (true, false) => (200, 300_000),
                        (true, true) => (206, 100_000),
                        (false, _) => (404, 0),
                    };
                    let answer = http::Response::builder().status(status).body(()).unwrap();
                    let mut body = respond.send_response(answer, len == 0).unwrap();
                    if len > 0 {
                        body.send_data(vec![7; len].into(), true).unwrap();
                    }
                }
            });
        }
    });
    (port, roots)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_https_server_is_asked_for_files_and_parts_of_them() {
    let (port, roots) = https_server().await;
    let url = |path: &str| format!("https://localhost:{port}/{path}").parse().unwrap();
    let https = Https::new(vec![url("whole"), url("nothing")], roots).unwrap();
    let target = Target::Https(https);
    let mut link = target.connect(0).await.unwrap();
    let mut came = 0;
    let whole = Ask { place: 0, seek: false };
    let got = target.get(&mut link, whole, |bytes| came += bytes).await.unwrap();
    assert_eq!((got.bytes, came), (300_000, 300_000));
    let got = target.get(&mut link, Ask { seek: true, ..whole }, |_| {}).await.unwrap();
    assert_eq!(got.bytes, 100_000);
    let error = target.get(&mut link, Ask { place: 1, seek: false }, |_| {}).await;
    assert!(matches!(error, Err(Trouble::Failed(words)) if words.contains("404")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_https_server_that_nobody_vouches_for_is_not_asked() {
    let (port, _) = https_server().await;
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(other.cert.der().clone()).unwrap();
    let url = format!("https://localhost:{port}/whole").parse().unwrap();
    let target = Target::Https(Https::new(vec![url], roots).unwrap());
    assert!(target.connect(0).await.is_err());
}
