//! Viewers of an HTTPS server: one connection each, TLS 1.3 where it can be had, HTTP/2.

use crate::{
    Failure,
    link::{Ask, Got, PATIENCE, Trouble},
};
use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request, Uri, header};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, task::JoinHandle, time::timeout};
use tokio_rustls::TlsConnector;

/// Bytes in flight on one stream and on a connection, as viewers of a shard service have them.
const STREAM_WINDOW: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// Files of one server.
pub(crate) struct Https {
    urls: Vec<Uri>,
    host: String,
    port: u16,
    name: ServerName<'static>,
    tls: TlsConnector,
}

/// A connection to it, and the task that moves its frames.
pub(crate) struct HttpsLink {
    requests: SendRequest<Bytes>,
    moving: JoinHandle<()>,
}

impl Drop for HttpsLink {
    fn drop(&mut self) {
        self.moving.abort();
    }
}

impl Https {
    /// All of `urls` are on the server of the first, which has to prove itself to one of `roots`.
    pub(crate) fn new(urls: Vec<Uri>, roots: RootCertStore) -> Result<Self, Failure> {
        let server = |url: &Uri| {
            let https = url.scheme_str() == Some("https");
            let host = url.host().filter(|_| https).ok_or("a URL must begin with https://")?;
            Ok::<_, Failure>((host.to_owned(), url.port_u16().unwrap_or(443)))
        };
        let (host, port) = server(urls.first().ok_or("no URL")?)?;
        for url in &urls {
            if server(url)? != (host.clone(), port) {
                return Err(format!("{url} is on another server than {host}:{port}").into());
            }
        }
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let tls = TlsConnector::from(Arc::new(tls));
        Ok(Self { urls, host, port, name, tls })
    }

    pub(crate) fn places(&self) -> usize {
        self.urls.len()
    }

    pub(crate) async fn connect(&self) -> Result<HttpsLink, Failure> {
        let connecting = async {
            let host = self.host.trim_matches(['[', ']']);
            let tcp = TcpStream::connect((host, self.port)).await?;
            tcp.set_nodelay(true)?;
            let tls = self.tls.connect(self.name.clone(), tcp).await?;
            if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
                return Err(Failure::from("the server does not speak HTTP/2"));
            }
            let connecting = h2::client::Builder::new()
                .initial_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .handshake(tls);
            let (requests, connection) = connecting.await?;
            let moving = tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!("a connection ended: {error}");
                }
            });
            Ok(HttpsLink { requests, moving })
        };
        timeout(PATIENCE, connecting).await?
    }

    pub(crate) async fn get(
        &self,
        link: &mut HttpsLink,
        ask: Ask,
        mut each: impl FnMut(usize) + Send,
    ) -> Result<Got, Trouble> {
        let Some(url) = self.urls.get(ask.place) else {
            return Err(Trouble::Failed("no such URL".into()));
        };
        let began = Instant::now();
        let mut request = Request::builder().method(Method::GET).uri(url.clone());
        if ask.seek {
            request = request.header(header::RANGE, "bytes=524288-786431");
        }
        let request = request.body(()).map_err(|error| Trouble::Failed(error.to_string()))?;
        let lost = |error: h2::Error| Trouble::Lost(error.to_string());
        let fetch = async {
            let mut requests = link.requests.clone().ready().await.map_err(lost)?;
            let (answer, _) = requests.send_request(request, true).map_err(lost)?;
            let answer = answer.await.map_err(lost)?;
            if answer.status() == http::StatusCode::SERVICE_UNAVAILABLE {
                return Err(Trouble::Refused("busy", Duration::from_secs(1)));
            }
            if !answer.status().is_success() {
                return Err(Trouble::Failed(answer.status().to_string()));
            }
            let mut body = answer.into_body();
            let (mut bytes, mut first_byte) = (0u64, None);
            while let Some(piece) = body.data().await {
                let piece = piece.map_err(lost)?;
                first_byte.get_or_insert_with(|| began.elapsed());
                each(piece.len());
                bytes = bytes.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
                body.flow_control().release_capacity(piece.len()).map_err(lost)?;
            }
            let first_byte = first_byte.unwrap_or_else(|| began.elapsed());
            Ok(Got { bytes, first_byte, source: None })
        };
        // A whole file at once, so it gets longer than a piece would.
        let patience = PATIENCE.saturating_mul(6);
        timeout(patience, fetch)
            .await
            .unwrap_or_else(|_| Err(Trouble::Lost(format!("no whole answer in {patience:?}"))))
    }
}

/// The certificates in a PEM file, or those that the system trusts.
pub(crate) fn roots(ca: Option<&Path>) -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            let named = |error| format!("cannot read {}: {error}", path.display());
            for certificate in CertificateDer::pem_file_iter(path).map_err(named)? {
                roots.add(certificate.map_err(named)?)?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
        }
    }
    if roots.is_empty() {
        return Err("there are no certificates to trust; name some with --ca FILE".into());
    }
    Ok(roots)
}
