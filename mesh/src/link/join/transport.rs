//! TLS where one side may be a stranger: the newcomer pins the authority that its token names, the issuer asks for a
//! certificate but does without.

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{ClientConfig, ServerConfig, VarInt};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use shoal_protocol::limits::JOIN_BODY_BYTES_MAX;
use shoal_protocol::message::JoinToken;

use super::super::transport::{SetupError, dial_config, dialing, provider, roots, setup, transport};
use crate::identity::{LiveIdentity, key_pin, spki_of};

const ALPN_JOIN: &[u8] = b"shoal-join/1";

/// For a newcomer: no certificate of its own, and only the token's authority is trusted.
pub(super) fn newcomer_config(token: &JoinToken) -> Result<ClientConfig, SetupError> {
    let pinned = Pinned {
        authority: token.authority,
        from: UnixTime::since_unix_epoch(Duration::from_secs(token.issued_at_unix_s)),
        until: UnixTime::since_unix_epoch(Duration::from_secs(token.expires_at_unix_s)),
        provider: provider(),
    };
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(setup)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(pinned))
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    dialing(tls)
}

/// For a member that renews.
pub(super) fn member_config(identity: &LiveIdentity) -> Result<ClientConfig, SetupError> {
    dial_config(identity, ALPN_JOIN.to_vec())
}

/// For an issuer. A certificate that is shown must be valid; who shows none is a stranger.
pub(super) fn issuer_config(identity: &LiveIdentity) -> Result<ServerConfig, SetupError> {
    let roots = Arc::new(roots(&identity.current())?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).allow_unauthenticated();
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(setup)?
        .with_client_cert_verifier(verifier.build().map_err(setup)?)
        .with_cert_resolver(Arc::new(WithAuthority(identity.clone())));
    tls.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    tls.send_tls13_tickets = 0;
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).map_err(setup)?));
    let mut transport = transport();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .stream_receive_window(VarInt::from_u32(2 * JOIN_BODY_BYTES_MAX))
        .receive_window(VarInt::from_u32(2 * JOIN_BODY_BYTES_MAX));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// Shows the authority's certificate too: a newcomer knows only the pin of its key.
#[derive(Debug)]
struct WithAuthority(LiveIdentity);

impl ResolvesServerCert for WithAuthority {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let identity = self.0.current();
        let mut chain = identity.certified.cert.clone();
        chain.push(identity.authority.clone());
        Some(Arc::new(CertifiedKey::new(chain, identity.certified.key.clone())))
    }
}

/// Trusts a chain that ends in the pinned key.
///
/// The token was good at some time between its making and its end, which its issuer's clock has told; a newcomer's
/// clock that says otherwise is wrong. The chain is judged at the nearest time in between, so that a wrong clock comes
/// as far as the issuer, which can say how wrong it is.
#[derive(Debug)]
struct Pinned {
    authority: [u8; 32],
    from: UnixTime,
    until: UnixTime,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let is_pinned =
            |der: &&CertificateDer<'_>| spki_of(der).is_ok_and(|key| key_pin(&key) == self.authority);
        let authority = intermediates.iter().find(is_pinned).ok_or(CertificateError::UnknownIssuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone());
        let verifier = verifier.build().map_err(|error| Error::General(error.to_string()))?;
        let at = now.min(self.until).max(self.from);
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, at)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("QUIC has no TLS 1.2".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
