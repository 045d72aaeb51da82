//! One connection: the handshake, then a task for each request.

use super::{Handshake, Shared, request, viewer::Viewer};
use crate::{
    error::Refusal,
    pace, transport,
    wire::{Code, Receiver, Sender},
};
use quinn::{Connection, ConnectionError, Incoming};
use std::sync::Arc;
use tokio::{task::JoinSet, time::timeout};

/// Counts a connection as long as it lasts.
struct Counted<'a>(&'a Shared);

impl<'a> Counted<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.metrics.viewer_connections.inc();
        Self(shared)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.metrics.viewer_connections.dec();
    }
}

/// Serves one connection to its end.
pub(super) async fn serve(incoming: Incoming, handshake: Handshake, shared: Arc<Shared>) {
    let from = incoming.remote_address();
    let connected = timeout(shared.config.handshake_timeout, incoming).await;
    drop(handshake);
    let connection = match connected {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!("{from}: handshake failed: {error}");
            return shared.count(Refusal::Handshake);
        }
        Err(_) => {
            tracing::debug!("{from}: handshake took too long");
            return shared.count(Refusal::Handshake);
        }
    };
    let Some(peer) = transport::peer_of(&connection) else {
        connection.close(Refusal::Handshake.code().into(), b"no identity");
        return shared.count(Refusal::Handshake);
    };
    let _counted = Counted::new(&shared);
    tracing::debug!("{peer} connected from {from}");
    let weight = pace::weight(shared.standing.score(&peer), shared.config.known_weight);
    let viewer = Arc::new(Viewer::new(peer, weight));
    let ended = serve_requests(&connection, &viewer, &shared).await;
    tracing::debug!("{peer} gone: {ended}");
}

async fn serve_requests(
    connection: &Connection,
    viewer: &Arc<Viewer>,
    shared: &Arc<Shared>,
) -> ConnectionError {
    let mut requests = JoinSet::new();
    loop {
        tokio::select! {
            stream = connection.accept_bi() => {
                let (mut send, mut receive) = match stream {
                    Ok(stream) => stream,
                    Err(error) => return error,
                };
                match Arc::clone(&shared.requests).try_acquire_owned() {
                    Ok(turn) => {
                        let (viewer, shared) = (Arc::clone(viewer), Arc::clone(shared));
                        let (send, receive) = (Sender::Quic(send), Receiver::Quic(receive));
                        let request = request::Request::new(send, receive, viewer, shared, turn);
                        requests.spawn(request.serve());
                    }
                    // Not even read: a code in the reset costs nothing.
                    Err(_) => {
                        shared.count(Refusal::Requests);
                        let _ = receive.stop(Code::Busy.into());
                        let _ = send.reset(Code::Busy.into());
                    }
                }
            }
            // The panic hook has reported a panic, and the stream was reset with code 10.
            Some(_) = requests.join_next(), if !requests.is_empty() => {}
            // Nothing is in flight here any more, so this viewer may go elsewhere at once.
            () = shared.draining.cancelled(), if requests.is_empty() => {
                connection.close(Code::ShuttingDown.into(), &shared.farewell());
                return connection.closed().await;
            }
        }
    }
}
