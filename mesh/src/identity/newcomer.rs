//! The asking side: a key, the request for its certificate, and the checks of what comes back.

use rcgen::{KeyPair, PKCS_ED25519};
use rustls_pki_types::CertificateDer;
use shoal_protocol::message::{JoinGrant, JoinRequest, RenewRequest, Role};

use super::files::IdentityError;
use super::issuer::request_for;
use super::own::{Identity, pem_of};
use super::subject::{key_pin, spki_of};
use super::token::Token;

/// A key without a certificate, and the token that is to get it one. The same newcomer may ask several times: one use
/// of the token is one key.
pub(crate) struct Newcomer {
    key: KeyPair,
    token: Token,
    role: Role,
}

impl Newcomer {
    /// Makes a key.
    pub(crate) fn new(token: Token, role: Role) -> Result<Self, IdentityError> {
        Ok(Self { key: KeyPair::generate_for(&PKCS_ED25519)?, token, role })
    }

    pub(crate) fn token(&self) -> &Token {
        &self.token
    }

    pub(crate) fn request(&self, now_unix_s: u64) -> Result<JoinRequest, IdentityError> {
        let (csr, token) = (request_for(&self.key)?, self.token.message().clone());
        Ok(JoinRequest { token, role: self.role, csr, now_unix_s })
    }

    /// The identity that was granted. The connection has proved that the sender is of the pinned authority; this
    /// proves that it gave what was asked for.
    pub(crate) fn handle_grant(&self, grant: JoinGrant) -> Result<Identity, IdentityError> {
        let wrong = |what: &str| IdentityError::Certificate(format!("the issuer granted {what}"));
        let root = spki_of(&grant.authority).map_err(|what| wrong(&what))?;
        if key_pin(&root) != self.token.message().authority {
            return Err(wrong("an identity of another authority"));
        }
        let chain = grant.chain.iter().map(|certificate| pem_of(certificate)).collect();
        let identity = Identity::from_pem(chain, self.key.serialize_pem(), pem_of(&grant.authority))
            .map_err(|(_, what)| wrong(&what))?;
        if identity.role() != self.role {
            return Err(wrong("another role"));
        }
        Ok(identity.with_issuers(grant.issuers).with_seeds(grant.seeds))
    }
}

impl Identity {
    pub(crate) fn renew_request(&self, now_unix_s: u64) -> Result<RenewRequest, IdentityError> {
        Ok(RenewRequest { csr: request_for(&self.key_pair()?)?, now_unix_s })
    }

    /// The same identity with the certificate that was granted.
    pub(crate) fn handle_grant(&self, grant: JoinGrant) -> Result<Self, IdentityError> {
        let next = self.with_chain(grant.chain.into_iter().map(CertificateDer::from).collect())?;
        if next.role() != self.role() {
            return Err(IdentityError::Certificate("the issuer granted another role".to_owned()));
        }
        Ok(next)
    }
}
