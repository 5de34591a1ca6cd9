//! The identity of this process: a certificate chain and the key that proves it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use pem::{EncodeConfig, LineEnding, Pem};
use rcgen::{KeyPair, PublicKeyData};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use shoal_protocol::NodeId;
use shoal_protocol::limits::{JOIN_ISSUERS_MAX, JOIN_SEEDS_MAX};
use shoal_protocol::message::Role;

use super::files::{
    self, AUTHORITY_FILE, CHAIN_FILE, ISSUERS_FILE, IdentityError, KEY_FILE, LISTENING_FILE, SEEDS_FILE,
    Written,
};
use super::subject::{Subject, key_id};
use crate::core::Lease;

/// A certificate chain (leaf, then issuer), its key, and the authority that it trusts.
///
/// On disk: `identity.crt`, `identity.key` (readable by its owner only) and `authority.crt`, all PEM, and `issuers`:
/// where the certificate is renewed, one `host:port` a line, which may be edited. A node's also has `seeds`: the members
/// that it starts from, in the same form.
#[derive(Clone)]
pub struct Identity {
    chain_pem: String,
    key_pem: String,
    authority_pem: String,
    issuers: Vec<String>,
    seeds: Vec<String>,
    pub(crate) key: Arc<PrivatePkcs8KeyDer<'static>>,
    pub(crate) authority: CertificateDer<'static>,
    /// Chain and key as TLS shows them.
    pub(crate) certified: Arc<CertifiedKey>,
    subject: Subject,
}

impl Identity {
    /// Puts an identity together and checks that the parts belong together; an error names the file that is wrong.
    pub(super) fn from_pem(
        chain_pem: String,
        key_pem: String,
        authority_pem: String,
    ) -> Result<Self, (&'static str, String)> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain_pem.as_bytes()).collect();
        let chain = chain.map_err(|error| (CHAIN_FILE, error.to_string()))?;
        let leaf = chain.first().ok_or((CHAIN_FILE, "no certificate".to_owned()))?;
        let subject = Subject::of(leaf).map_err(|what| (CHAIN_FILE, what))?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|error| (KEY_FILE, error.to_string()))?;
        let pair = KeyPair::try_from(&key).map_err(|error| (KEY_FILE, error.to_string()))?;
        if subject.key_id != key_id(&pair.subject_public_key_info()) {
            return Err((KEY_FILE, "does not belong to the certificate".to_owned()));
        }
        let authority = CertificateDer::from_pem_slice(authority_pem.as_bytes())
            .map_err(|error| (AUTHORITY_FILE, error.to_string()))?;
        let signing = rustls::crypto::ring::sign::any_supported_type(&key.clone_key().into())
            .map_err(|error| (KEY_FILE, error.to_string()))?;
        Ok(Self {
            chain_pem,
            key_pem,
            authority_pem,
            issuers: Vec::new(),
            seeds: Vec::new(),
            key: Arc::new(key),
            authority,
            certified: Arc::new(CertifiedKey::new(chain, signing)),
            subject,
        })
    }

    /// Whether `dir` holds an identity, or the rest of one: its key.
    #[must_use]
    pub fn is_in(dir: &Path) -> bool {
        dir.join(KEY_FILE).exists()
    }

    /// Reads the files of `dir`.
    ///
    /// # Errors
    /// [`IdentityError::Missing`], [`IdentityError::Io`] and [`IdentityError::Malformed`] name the file.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let (_, chain) = files::read(dir, CHAIN_FILE)?;
        let (key_path, key) = files::read(dir, KEY_FILE)?;
        let (_, authority) = files::read(dir, AUTHORITY_FILE)?;
        files::warn_if_exposed(&key_path);
        let identity = Self::from_pem(chain, key, authority)
            .map_err(|(name, what)| IdentityError::Malformed { path: dir.join(name), what })?;
        // A file may be missing: an identity made by hand is renewed by nobody, and a first node has no seeds.
        let lines = |name| match files::read(dir, name) {
            Ok((_, text)) => Ok(text.lines().map(str::to_owned).collect()),
            Err(IdentityError::Missing { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        Ok(identity.with_issuers(lines(ISSUERS_FILE)?).with_seeds(lines(SEEDS_FILE)?))
    }

    /// Writes the files into `dir`, which is made if it is not there.
    ///
    /// # Errors
    /// [`IdentityError::Exists`] and [`IdentityError::Io`]; nothing was written then.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        let file = |name, text, secret| Written { name, text, secret };
        let (issuers, seeds) = (lines_of(&self.issuers), lines_of(&self.seeds));
        let mut all = vec![
            file(KEY_FILE, &self.key_pem, true),
            file(AUTHORITY_FILE, &self.authority_pem, false),
            file(ISSUERS_FILE, &issuers, false),
        ];
        if !self.seeds.is_empty() {
            all.push(file(SEEDS_FILE, &seeds, false));
        }
        // Last: with it the identity is whole.
        all.push(file(CHAIN_FILE, &self.chain_pem, false));
        files::write_all(dir, &all)
    }

    /// Notes members (`host:port`) for the next start of the node whose identity is in `dir`.
    ///
    /// # Errors
    /// [`IdentityError::Io`]; the former ones are there then.
    pub fn save_seeds(dir: &Path, seeds: &[String]) -> Result<(), IdentityError> {
        files::replace(dir, SEEDS_FILE, &lines_of(seeds))
    }

    /// Notes where the node whose identity is in `dir` is reached on its own machine.
    ///
    /// # Errors
    /// [`IdentityError::Io`]; the former address is there then.
    pub fn save_listening(dir: &Path, address: SocketAddr) -> Result<(), IdentityError> {
        files::replace(dir, LISTENING_FILE, &format!("{address}\n"))
    }

    /// Where the node whose identity is in `dir` was reached when it last ran.
    ///
    /// # Errors
    /// [`IdentityError::Missing`] if it never ran; [`IdentityError::Io`] and [`IdentityError::Malformed`].
    pub fn listening(dir: &Path) -> Result<SocketAddr, IdentityError> {
        let (path, text) = files::read(dir, LISTENING_FILE)?;
        text.trim().parse().map_err(files::malformed(&path))
    }

    /// Replaces the certificate in `dir` by this one, which is of the same key.
    ///
    /// # Errors
    /// [`IdentityError::Io`]; the former certificate is there then.
    pub fn save_certificate(&self, dir: &Path) -> Result<(), IdentityError> {
        files::replace(dir, CHAIN_FILE, &self.chain_pem)
    }

    /// The same identity with another certificate for its key.
    pub(super) fn with_chain(&self, chain: Vec<CertificateDer<'static>>) -> Result<Self, IdentityError> {
        let chain_pem = chain.iter().map(|certificate| pem_of(certificate)).collect();
        let next = Self::from_pem(chain_pem, self.key_pem.clone(), self.authority_pem.clone());
        let next = next.map_err(|(_, what)| IdentityError::Certificate(what))?;
        Ok(next.with_issuers(self.issuers.iter().cloned()).with_seeds(self.seeds.iter().cloned()))
    }

    pub(crate) fn with_issuers(mut self, issuers: impl IntoIterator<Item = String>) -> Self {
        self.issuers = addresses(issuers, JOIN_ISSUERS_MAX);
        self
    }

    pub(crate) fn with_seeds(mut self, seeds: impl IntoIterator<Item = String>) -> Self {
        self.seeds = addresses(seeds, JOIN_SEEDS_MAX);
        self
    }

    pub(super) fn key_pair(&self) -> Result<KeyPair, IdentityError> {
        Ok(KeyPair::try_from(&*self.key)?)
    }

    /// The id of its key: SHA-256 of the SubjectPublicKeyInfo, first 16 bytes.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.subject.key_id
    }

    /// What its certificate allows.
    #[must_use]
    pub fn role(&self) -> Role {
        self.subject.role
    }

    /// The name in its certificate.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.subject.name
    }

    /// When its certificate is valid.
    #[must_use]
    pub fn lease(&self) -> Lease {
        self.subject.lease
    }

    /// Where its certificate is renewed, in order of preference.
    #[must_use]
    pub fn issuers(&self) -> &[String] {
        &self.issuers
    }

    /// Members to start from, as they were when it joined or last ran.
    #[must_use]
    pub fn seeds(&self) -> &[String] {
        &self.seeds
    }
}

fn addresses(from: impl IntoIterator<Item = String>, max: usize) -> Vec<String> {
    let trimmed = from.into_iter().map(|address| address.trim().to_owned());
    trimmed.filter(|address| !address.is_empty()).take(max).collect()
}

fn lines_of(addresses: &[String]) -> String {
    addresses.iter().map(|address| format!("{address}\n")).collect()
}

pub(super) fn pem_of(certificate_der: &[u8]) -> String {
    let pem = Pem::new("CERTIFICATE", certificate_der);
    pem::encode_config(&pem, EncodeConfig::new().set_line_ending(LineEnding::LF))
}

impl std::fmt::Debug for Identity {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({:?} {})", self.role(), self.node_id())
    }
}
