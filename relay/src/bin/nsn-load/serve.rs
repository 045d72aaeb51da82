//! The bare server as a program.

use crate::{Failure, args::Serve};
use bytes::Bytes;
use libp2p::identity::Keypair;
use nsn_relay::{BlobId, load::Baseline, server};
use serde_json::json;
use std::{collections::HashMap, io::Write};
use tokio_util::sync::CancellationToken;

/// Says where it listens and what it has, and serves until it is interrupted.
pub(crate) async fn run(
    args: Serve,
    out: &mut impl Write,
    interrupted: CancellationToken,
) -> Result<(), Failure> {
    let config = server::Config { listen_addr: args.listen, ..(*args.settings).clone() };
    let blobs: Vec<(BlobId, Bytes)> = (0..args.count).map(|n| noise(&args, n)).collect();
    let ids: Vec<String> = blobs.iter().map(|(id, _)| id.to_string()).collect();
    let blobs: HashMap<BlobId, Bytes> = blobs.into_iter().collect();
    let bare = Baseline::bind(&Keypair::generate_ed25519(), &config, blobs)?;
    let line = json!({"event": "serving", "address": bare.address().to_string(), "shards": ids});
    writeln!(out, "{line}")?;
    out.flush()?;
    bare.run(interrupted).await;
    Ok(())
}

/// Bytes that compress to nothing.
pub(crate) fn noise(args: &Serve, n: u32) -> (BlobId, Bytes) {
    let mut bytes = vec![0; usize::try_from(args.len).unwrap_or_default()];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&args.seed.to_le_bytes());
    hasher.update(&n.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    (BlobId::of(&bytes), bytes.into())
}
