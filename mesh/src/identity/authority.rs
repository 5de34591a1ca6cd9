//! The authority of a mesh: a root key that signs issuers and nothing else, and stays offline.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose, PKCS_ED25519};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::files::{self, IdentityError, Written};
use super::issuer::Issuer;
use super::time::{DAY_S, stamp, unix_time_s};
use crate::core::Lease;

const ROOT_FILE: &str = "root.crt";
const ROOT_KEY_FILE: &str = "root.key";

/// Clocks of spot machines are off by minutes: certificates are valid from this much before they are made.
const CLOCK_SKEW_MAX_S: u64 = 3600;
/// Life of an authority.
const AUTHORITY_LIFE_S: u64 = 3650 * DAY_S;
/// Life of an issuer; it is replaced by signing another with the root key.
const ISSUER_LIFE_S: u64 = 1825 * DAY_S;

/// The root of trust. Its key signs issuers only: it is needed to make an issuer and never again.
///
/// On disk: `root.crt` and `root.key` (readable by its owner only), both PEM. Keep the directory offline.
pub struct Authority {
    certificate_pem: String,
    key_pem: String,
    signer: rcgen::Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new authority, in memory: an Ed25519 key whose certificate allows one level of issuers below it.
    ///
    /// # Errors
    /// [`IdentityError::Certificate`] when the system gives no randomness.
    pub fn create() -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let certificate = ca_params("Shoal root", 1, AUTHORITY_LIFE_S).self_signed(&key)?;
        Ok(Self {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            signer: rcgen::Issuer::from_ca_cert_der(certificate.der(), key)?,
        })
    }

    /// Reads an authority with its key.
    ///
    /// # Errors
    /// [`IdentityError::Missing`], [`IdentityError::Io`] and [`IdentityError::Malformed`] name the file.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let (path, certificate_pem) = files::read(dir, ROOT_FILE)?;
        let (key_path, key_pem) = files::read(dir, ROOT_KEY_FILE)?;
        files::warn_if_exposed(&key_path);
        let key = KeyPair::from_pem(&key_pem).map_err(files::malformed(&key_path))?;
        let der =
            CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(files::malformed(&path))?;
        let signer = rcgen::Issuer::from_ca_cert_der(&der, key).map_err(files::malformed(&path))?;
        Ok(Self { certificate_pem, key_pem, signer })
    }

    /// Writes the authority into `dir`, which is made if it is not there.
    ///
    /// # Errors
    /// [`IdentityError::Exists`] and [`IdentityError::Io`]; nothing was written then.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        files::write_all(
            dir,
            &[
                Written { name: ROOT_KEY_FILE, text: &self.key_pem, secret: true },
                Written { name: ROOT_FILE, text: &self.certificate_pem, secret: false },
            ],
        )
    }

    /// Makes an issuer: a new key that may sign identities and no further issuers.
    ///
    /// # Errors
    /// [`IdentityError::Certificate`] when the system gives no randomness.
    pub fn issuer(&self) -> Result<Issuer, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let certificate = ca_params("Shoal issuer", 0, ISSUER_LIFE_S).signed_by(&key, &self.signer)?;
        Issuer::new(self.certificate_pem.clone(), certificate.pem(), key)
            .map_err(|(_, what)| IdentityError::Certificate(what))
    }
}

impl std::fmt::Debug for Authority {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

fn ca_params(name: &str, path_length: u8, life_s: u64) -> CertificateParams {
    let mut params = params(name, lease_from(unix_time_s(), life_s));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = path_length == 0;
    params
}

/// From a little before now, for `life_s` from now on.
pub(super) fn lease_from(now_unix_s: u64, life_s: u64) -> Lease {
    Lease { from_unix_s: now_unix_s.saturating_sub(CLOCK_SKEW_MAX_S), until_unix_s: now_unix_s + life_s }
}

pub(super) fn params(name: &str, lease: Lease) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = stamp(lease.from_unix_s);
    params.not_after = stamp(lease.until_unix_s);
    params
}
