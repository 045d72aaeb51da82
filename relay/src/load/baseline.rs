//! A bare server: quinn, the wire's frames, and blobs in memory.

use crate::{
    client::Address,
    content::BlobId,
    error::{BuildError, RunError},
    server,
    transport::{self, Listeners},
    wire::{Code, Encoding, Request, Response, Source, encode_frame, read_frame},
};
use bytes::Bytes;
use libp2p::identity::Keypair;
use quinn::{Connection, RecvStream, SendStream};
use std::{collections::HashMap, sync::Arc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Why there is no bare server.
#[derive(Debug, thiserror::Error)]
pub enum BaselineError {
    /// Its settings make no sense.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// It cannot listen.
    #[error(transparent)]
    Listen(#[from] RunError),
}

/// A server that has every blob in memory and asks nobody for leave: no limits, no lookup, nothing
/// counted. It answers requests for blobs with the bytes alone, and to everything else says that it is
/// a bad request. Not for the open network.
pub struct Baseline {
    listeners: Listeners,
    address: Address,
    blobs: Arc<HashMap<BlobId, Bytes>>,
}

impl Baseline {
    /// Listens as a service with these settings would. The blobs are not verified.
    ///
    /// # Errors
    /// See [`BaselineError`].
    pub fn bind(
        identity: &Keypair,
        config: &server::Config,
        blobs: HashMap<BlobId, Bytes>,
    ) -> Result<Self, BaselineError> {
        let tls = transport::server_config(identity, config).map_err(BuildError::from)?;
        let listeners = server::listen(config, &tls, identity)?;
        let socket = listeners.local_addr().map_err(RunError::Socket)?;
        let address = Address { socket, peer: identity.public().to_peer_id() };
        Ok(Self { listeners, address, blobs: Arc::new(blobs) })
    }

    /// Where it listens, with the real port.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Serves until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                incoming = self.listeners.accept() => match incoming {
                    Some(incoming) => {
                        let blobs = Arc::clone(&self.blobs);
                        connections.spawn(async move {
                            if let Ok(connection) = incoming.await {
                                serve(connection, blobs).await;
                            }
                        });
                    }
                    None => break,
                },
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
            }
        }
        self.listeners.close(Code::ShuttingDown.into(), b"");
    }
}

async fn serve(connection: Connection, blobs: Arc<HashMap<BlobId, Bytes>>) {
    let mut requests = JoinSet::new();
    loop {
        tokio::select! {
            stream = connection.accept_bi() => match stream {
                Ok((send, receive)) => {
                    requests.spawn(answer(send, receive, Arc::clone(&blobs)));
                }
                Err(_) => return,
            },
            Some(_) = requests.join_next(), if !requests.is_empty() => {}
        }
    }
}

/// Answers one request. What fails here is the asker's to notice.
async fn answer(mut send: SendStream, mut receive: RecvStream, blobs: Arc<HashMap<BlobId, Bytes>>) {
    let request = read_frame::<Request>(&mut receive).await;
    let (header, body) = match request {
        Ok(
            Request::Get { id, range, encoding: Encoding::Raw, .. }
            | Request::GetAs { id, range, encoding: Encoding::Raw, .. },
        ) => found(&blobs, id, range),
        _ => (Response::refusal(Code::BadRequest), Bytes::new()),
    };
    let Ok(frame) = encode_frame(&header) else { return };
    if send.write_all(&frame).await.is_ok() && send.write_chunk(body).await.is_ok() {
        let _ = send.finish();
    }
}

fn found(
    blobs: &HashMap<BlobId, Bytes>,
    id: BlobId,
    range: Option<(u64, u64)>,
) -> (Response, Bytes) {
    let refused = |code| (Response::refusal(code), Bytes::new());
    let Some(blob) = blobs.get(&id) else { return refused(Code::NotFound) };
    let total = u64::try_from(blob.len()).unwrap_or(u64::MAX);
    let (first, end) = range.unwrap_or((0, total));
    match (usize::try_from(first), usize::try_from(end)) {
        (Ok(first), Ok(end)) if first < end && end <= blob.len() => {
            let body = blob.slice(first..end);
            let length = u64::try_from(body.len()).unwrap_or(u64::MAX);
            (Response::ok(length, total, Some(Source::Memory)), body)
        }
        _ => refused(Code::Range),
    }
}
