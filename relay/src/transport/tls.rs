//! TLS of the serving side: libp2p's certificates, with ciphers in an order of our own.
//!
//! libp2p's configuration puts ChaCha20 first, and its parts cannot be changed one by one. Where the
//! processor has AES instructions, AES-128-GCM carries about twice as much; so the configuration is
//! made here, from libp2p's certificates and libp2p's way of checking them. The server's order counts,
//! so viewers need to know nothing of it.

use super::TlsError;
use libp2p::identity::Keypair;
use rustls::{
    DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme, SupportedCipherSuite,
    client::danger::HandshakeSignatureValid,
    crypto::{
        CryptoProvider,
        aws_lc_rs::{
            self,
            cipher_suite::{
                TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
            },
        },
    },
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The cipher that a server takes where the viewer offers it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cipher {
    /// AES-128-GCM where the processor has instructions for it, ChaCha20 elsewhere.
    #[default]
    Auto,
    /// AES-128-GCM.
    Aes128,
    /// ChaCha20-Poly1305.
    Chacha20,
}

impl Cipher {
    /// All suites of TLS 1.3, the preferred one first. QUIC begins every connection with
    /// AES-128-GCM, so that one may not be missing.
    fn suites(self) -> Vec<SupportedCipherSuite> {
        let aes = match self {
            Self::Auto => has_aes(),
            Self::Aes128 => true,
            Self::Chacha20 => false,
        };
        let mut suites = vec![
            TLS13_AES_128_GCM_SHA256,
            TLS13_AES_256_GCM_SHA384,
            TLS13_CHACHA20_POLY1305_SHA256,
        ];
        if !aes {
            suites.reverse();
        }
        suites
    }
}

/// Whether the processor has instructions for AES and for the multiplication of its GCM mode.
fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    let has = std::arch::is_x86_feature_detected!("aes")
        && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    let has = std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    let has = false;
    has
}

/// A server that proves `identity`, and to which every viewer has to prove one.
pub(super) fn server(identity: &Keypair, cipher: Cipher) -> Result<ServerConfig, TlsError> {
    let (certificate, key) = libp2p_tls::certificate::generate(identity)?;
    let key = aws_lc_rs::sign::any_ecdsa_type(&key)?;
    let certified = CertifiedKey::new(vec![certificate], key);
    let provider =
        CryptoProvider { cipher_suites: cipher.suites(), ..aws_lc_rs::default_provider() };
    let mut tls = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(Viewers))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    tls.ignore_client_order = true;
    Ok(tls)
}

/// Takes any viewer that shows one certificate of libp2p's kind, signed by itself and by the overlay
/// key that it names.
#[derive(Debug)]
struct Viewers;

impl ClientCertVerifier for Viewers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        if !intermediates.is_empty() {
            return Err(rustls::Error::General("more than one certificate".into()));
        }
        // Checks the dates, the certificate's own signature and that of the overlay key.
        libp2p_tls::certificate::parse(end_entity)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // The configuration allows TLS 1.3 alone.
        Err(rustls::Error::General("TLS 1.2 is not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        libp2p_tls::certificate::parse(certificate)?.verify_signature(
            signature.scheme,
            message,
            signature.signature(),
        )?;
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ED25519,
            SignatureScheme::RSA_PSS_SHA512,
            SignatureScheme::RSA_PSS_SHA384,
            SignatureScheme::RSA_PSS_SHA256,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a viewer with libp2p's own configuration, ChaCha20 first, comes to with a server.
    fn negotiated(cipher: Cipher) -> rustls::CipherSuite {
        let (ours, theirs) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        let server = server(&ours, cipher).unwrap();
        let peer = ours.public().to_peer_id();
        let mut client = libp2p_tls::make_client_config(&theirs, Some(peer)).unwrap();
        client.alpn_protocols.clear();
        let mut server = rustls::ServerConnection::new(Arc::new(server)).unwrap();
        let name = "nsn".try_into().unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(client), name).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            let mut unread = &bytes[..];
            while !unread.is_empty() {
                server.read_tls(&mut unread).unwrap();
                server.process_new_packets().unwrap();
            }
            let mut bytes = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            let mut unread = &bytes[..];
            while !unread.is_empty() {
                client.read_tls(&mut unread).unwrap();
                client.process_new_packets().unwrap();
            }
        }
        server.negotiated_cipher_suite().unwrap().suite()
    }

    #[test]
    fn the_server_chooses_the_cipher_whatever_the_viewer_prefers() {
        use rustls::CipherSuite::{TLS13_AES_128_GCM_SHA256, TLS13_CHACHA20_POLY1305_SHA256};
        assert_eq!(negotiated(Cipher::Aes128), TLS13_AES_128_GCM_SHA256);
        assert_eq!(negotiated(Cipher::Chacha20), TLS13_CHACHA20_POLY1305_SHA256);
        let auto =
            if has_aes() { TLS13_AES_128_GCM_SHA256 } else { TLS13_CHACHA20_POLY1305_SHA256 };
        assert_eq!(negotiated(Cipher::Auto), auto);
    }

    #[test]
    fn a_viewer_that_proves_no_identity_is_not_taken() {
        let (certificate, _key) =
            libp2p_tls::certificate::generate(&Keypair::generate_ed25519()).unwrap();
        let verify = |certificate: &CertificateDer<'_>, others: &[CertificateDer<'_>]| {
            Viewers.verify_client_cert(certificate, others, UnixTime::now())
        };
        assert!(verify(&certificate, &[]).is_ok());
        assert!(verify(&certificate, std::slice::from_ref(&certificate)).is_err());
        // The signature is at the end of a certificate, what it signs before it.
        for at in [certificate.len() - 1, certificate.len() / 2] {
            let mut other = certificate.to_vec();
            other[at] ^= 1;
            assert!(verify(&CertificateDer::from(other), &[]).is_err());
        }
        assert!(verify(&CertificateDer::from(vec![1, 2, 3]), &[]).is_err());
    }
}
