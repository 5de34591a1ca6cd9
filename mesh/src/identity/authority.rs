//! The authority of a mesh: a root whose key can stay offline, and an issuer that signs identities.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ED25519, SanType,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use shoal_protocol::message::Role;

use super::files::{self, IdentityError, Written};
use super::own::Identity;
use super::subject::{NODE_SERVER_NAME, Subject};

const ROOT_FILE: &str = "root.crt";
const ROOT_KEY_FILE: &str = "root.key";
const ISSUER_FILE: &str = "issuer.crt";
const ISSUER_KEY_FILE: &str = "issuer.key";

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Certificates are valid from a little before now: clocks of spot machines are off by minutes.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(3600);
/// Life of a root and of an issuer; an issuer is replaced by signing another with the root key.
const AUTHORITY_LIFE: Duration = DAY.saturating_mul(3650);
const ISSUER_LIFE: Duration = DAY.saturating_mul(1825);
/// Life of an identity. Long, because nothing renews one yet.
const IDENTITY_LIFE: Duration = DAY.saturating_mul(365);
/// Characters of a name.
const NAME_CHARS_MAX: usize = 64;

/// Signs identities. Its root key signs issuers only and is not needed to issue: move `root.key` offline.
///
/// On disk: `root.crt`, `root.key`, `issuer.crt`, `issuer.key` (keys readable by their owner only), all PEM.
pub struct Authority {
    root_pem: String,
    root_key_pem: Option<String>,
    issuer_pem: String,
    issuer_key_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new authority, in memory: Ed25519 keys, a root that may sign one level of issuers, and one issuer that may
    /// sign identities only.
    ///
    /// # Errors
    /// [`IdentityError::Certificate`] when the system gives no randomness.
    pub fn create() -> Result<Self, IdentityError> {
        let root_key = KeyPair::generate_for(&PKCS_ED25519)?;
        let root = ca_params("Shoal root", 1, AUTHORITY_LIFE).self_signed(&root_key)?;
        let signer = Issuer::from_ca_cert_der(root.der(), &root_key)?;
        let issuer_key = KeyPair::generate_for(&PKCS_ED25519)?;
        let issuer = ca_params("Shoal issuer", 0, ISSUER_LIFE).signed_by(&issuer_key, &signer)?;
        Ok(Self {
            root_pem: root.pem(),
            root_key_pem: Some(root_key.serialize_pem()),
            issuer_pem: issuer.pem(),
            issuer_key_pem: issuer_key.serialize_pem(),
            issuer: Issuer::from_ca_cert_der(issuer.der(), issuer_key)?,
        })
    }

    /// Reads an authority that can issue. The root key is not needed and not read.
    ///
    /// # Errors
    /// [`IdentityError::Missing`], [`IdentityError::Io`] and [`IdentityError::Malformed`] name the file.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let (_, root_pem) = files::read(dir, ROOT_FILE)?;
        let (issuer_path, issuer_pem) = files::read(dir, ISSUER_FILE)?;
        let (key_path, issuer_key_pem) = files::read(dir, ISSUER_KEY_FILE)?;
        files::warn_if_exposed(&key_path);
        let malformed = |path, what: String| IdentityError::Malformed { path, what };
        let key =
            KeyPair::from_pem(&issuer_key_pem).map_err(|error| malformed(key_path, error.to_string()))?;
        let der = CertificateDer::from_pem_slice(issuer_pem.as_bytes())
            .map_err(|error| malformed(issuer_path.clone(), error.to_string()))?;
        let issuer =
            Issuer::from_ca_cert_der(&der, key).map_err(|error| malformed(issuer_path, error.to_string()))?;
        Ok(Self { root_pem, root_key_pem: None, issuer_pem, issuer_key_pem, issuer })
    }

    /// Writes the authority into `dir`, which is made if it is not there; with `root.key` where it was just created.
    ///
    /// # Errors
    /// [`IdentityError::Exists`] and [`IdentityError::Io`]; nothing was written then.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        let file = |name, pem, secret| Written { name, pem, secret };
        let mut files = vec![
            file(ISSUER_KEY_FILE, &self.issuer_key_pem[..], true),
            file(ROOT_FILE, &self.root_pem, false),
            file(ISSUER_FILE, &self.issuer_pem, false),
        ];
        if let Some(key) = &self.root_key_pem {
            files.insert(0, file(ROOT_KEY_FILE, key, true));
        }
        files::write_all(dir, &files)
    }

    /// Issues an identity with a new key, valid for a year. Only a node's can act as a server.
    ///
    /// # Errors
    /// [`IdentityError::Name`] for a name that does not fit; [`IdentityError::Certificate`] when the system gives no
    /// randomness.
    pub fn issue(&self, role: Role, name: &str) -> Result<Identity, IdentityError> {
        let fits = |char: char| char.is_ascii_alphanumeric() || ".-_".contains(char);
        if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(fits) {
            return Err(IdentityError::Name(name.to_owned()));
        }
        let mut params = params(name, IDENTITY_LIFE);
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![SanType::URI(Subject::uri(role, name).try_into()?)];
        if role == Role::Node {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
            let dns = SanType::DnsName(NODE_SERVER_NAME.try_into()?);
            params.subject_alt_names.push(dns);
        }
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let leaf = params.signed_by(&key, &self.issuer)?;
        let chain_pem = leaf.pem() + &self.issuer_pem;
        Identity::from_pem(chain_pem, key.serialize_pem(), self.root_pem.clone())
            .map_err(|(_, what)| IdentityError::Certificate(what))
    }
}

impl std::fmt::Debug for Authority {
    /// Without the keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let root = if self.root_key_pem.is_some() { "with" } else { "without" };
        write!(f, "Authority({root} root key)")
    }
}

fn ca_params(name: &str, path_length: u8, life: Duration) -> CertificateParams {
    let mut params = params(name, life);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = path_length == 0;
    params
}

fn params(name: &str, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = wall_clock();
    params.not_before = (now - CLOCK_SKEW_MAX).into();
    params.not_after = (now + life).into();
    params
}

#[expect(clippy::disallowed_methods, reason = "stamps certificates, which live in wall time")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}
