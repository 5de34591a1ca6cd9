//! The identity of this process: a certificate chain and the key that proves it.

use std::path::Path;

use rcgen::{KeyPair, PublicKeyData};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use shoal_protocol::NodeId;
use shoal_protocol::message::Role;

use super::files::{self, IdentityError, Written};
use super::subject::{Subject, key_id};

const CHAIN_FILE: &str = "identity.crt";
const KEY_FILE: &str = "identity.key";
const AUTHORITY_FILE: &str = "authority.crt";

/// A certificate chain (leaf, then issuer), its key, and the authority that it trusts.
///
/// On disk: `identity.crt`, `identity.key` (readable by its owner only) and `authority.crt`, all PEM.
pub struct Identity {
    chain_pem: String,
    key_pem: String,
    authority_pem: String,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivatePkcs8KeyDer<'static>,
    pub(crate) authority: CertificateDer<'static>,
    subject: Subject,
}

impl Identity {
    /// Puts an identity together and checks that the parts belong together.
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
        Ok(Self { chain_pem, key_pem, authority_pem, chain, key, authority, subject })
    }

    /// Reads the three files of `dir`.
    ///
    /// # Errors
    /// [`IdentityError::Missing`], [`IdentityError::Io`] and [`IdentityError::Malformed`] name the file.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let (_, chain) = files::read(dir, CHAIN_FILE)?;
        let (key_path, key) = files::read(dir, KEY_FILE)?;
        let (_, authority) = files::read(dir, AUTHORITY_FILE)?;
        files::warn_if_exposed(&key_path);
        Self::from_pem(chain, key, authority)
            .map_err(|(name, what)| IdentityError::Malformed { path: dir.join(name), what })
    }

    /// Writes the three files into `dir`, which is made if it is not there.
    ///
    /// # Errors
    /// [`IdentityError::Exists`] and [`IdentityError::Io`]; nothing was written then.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        let file = |name, pem, secret| Written { name, pem, secret };
        files::write_all(
            dir,
            &[
                file(KEY_FILE, &self.key_pem, true),
                file(CHAIN_FILE, &self.chain_pem, false),
                file(AUTHORITY_FILE, &self.authority_pem, false),
            ],
        )
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
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self {
            chain_pem: self.chain_pem.clone(),
            key_pem: self.key_pem.clone(),
            authority_pem: self.authority_pem.clone(),
            chain: self.chain.clone(),
            key: self.key.clone_key(),
            authority: self.authority.clone(),
            subject: self.subject.clone(),
        }
    }
}

impl std::fmt::Debug for Identity {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({:?} {})", self.role(), self.node_id())
    }
}
