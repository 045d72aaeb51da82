//! The tool against a bare server, as a whole.

use crate::args::{Args, Command};
use clap::Parser;
use serde_json::Value;
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
    crate::viewers::run(view, &mut out, CancellationToken::new()).await.unwrap();
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
    ] {
        assert!(Args::try_parse_from(line.split(' ')).is_err(), "{line}");
    }
    assert!(Args::try_parse_from("nsn-load view --url https://localhost/a".split(' ')).is_ok());
}

#[test]
fn only_one_https_server_at_a_time_is_put_under_load() {
    let urls = |texts: [&str; 2]| texts.map(|text| text.parse().unwrap()).to_vec();
    let make =
        |texts| crate::https::Https::new(urls(texts), None).map(|_| ()).map_err(|e| e.to_string());
    assert!(make(["https://a.invalid/1", "https://b.invalid/1"]).unwrap_err().contains("another"));
    assert!(make(["http://a.invalid/1", "http://a.invalid/2"]).unwrap_err().contains("https://"));
}
