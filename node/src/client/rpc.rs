//! A running node, as the commands ask it.

use std::time::Duration;

use clap::Args;
use jsonrpsee::{
    core::{ClientError, client::ClientT, params::ArrayParams},
    http_client::{HttpClient, HttpClientBuilder},
};
use serde::de::DeserializeOwned;

use super::Error;

/// The node to ask.
#[derive(Debug, Args)]
pub(super) struct Node {
    /// JSON-RPC of the node.
    #[arg(
        long,
        visible_alias = "rpc",
        value_name = "URL",
        default_value = "http://127.0.0.1:9944"
    )]
    pub(super) rpc_url: String,
}

/// A node's JSON-RPC.
pub(super) struct Rpc {
    client: HttpClient,
    url: String,
}

impl Rpc {
    /// `limit` is the longest wait for one answer.
    pub(super) fn new(node: &Node, limit: Duration) -> Result<Self, Error> {
        // The URLs that people copy say ws:// as often as http://; the node serves both.
        let url = match node.rpc_url.strip_prefix("ws://") {
            Some(rest) => format!("http://{rest}"),
            None => node.rpc_url.clone(),
        };
        let client = HttpClientBuilder::default()
            .request_timeout(limit)
            .build(&url)
            .map_err(|error| Error::Argument(format!("--rpc-url {url}: {error}")))?;
        Ok(Self { client, url })
    }

    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        params: ArrayParams,
    ) -> Result<T, Error> {
        self.ask(method, params).await.map_err(|error| match error {
            ClientError::Call(refusal) => Error::Refused(refusal.message().to_owned()),
            source => Error::Unreachable { url: self.url.clone(), source: Box::new(source) },
        })
    }

    /// The same for those who tell one failure from another.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        method: &str,
        params: ArrayParams,
    ) -> Result<T, ClientError> {
        self.client.request(method, params).await
    }
}
