//! An issuer: the key below the authority's that signs identities. A node whose identity directory holds one serves
//! joins and renewals.

use std::path::Path;

use rcgen::{
    CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ED25519,
    PublicKeyData, SanType, SerialNumber,
};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use shoal_protocol::message::Role;

use super::authority::{lease_from, params};
use super::files::{self, AUTHORITY_FILE, IdentityError, Written};
use super::own::Identity;
use super::subject::{NODE_SERVER_NAME, Subject, key_pin, lease_of, spki_of};
use super::time::{DAY_S, unix_time_s};
use crate::core::Lease;

const ISSUER_FILE: &str = "issuer.crt";
const ISSUER_KEY_FILE: &str = "issuer.key";
const ADDRESS_FILE: &str = "issuer.address";

/// Life of an identity that a person makes with the issuer's files at hand, and that nothing may renew.
const IDENTITY_LIFE_S: u64 = 365 * DAY_S;
/// Life of a certificate that is asked for over the network. Short, because nothing revokes one.
const MEMBER_LIFE_S: u64 = DAY_S;
/// Characters of a name.
pub(super) const NAME_CHARS_MAX: usize = 64;

/// Signs identities. Holds no more than its own key; the authority's is not needed.
///
/// On disk, in the directory of its node's identity: `issuer.crt` and `issuer.key` (readable by its owner only).
pub struct Issuer {
    certificate_pem: String,
    authority_pem: String,
    pub(super) certificate: CertificateDer<'static>,
    pub(super) authority: CertificateDer<'static>,
    /// SHA-256 of the authority's key.
    pub(super) authority_pin: [u8; 32],
    /// Signs join tokens; follows from its key, so that it survives restarts and nobody else has it.
    pub(super) token_key: hmac::Key,
    until_unix_s: u64,
    signer: rcgen::Issuer<'static, KeyPair>,
}

impl Issuer {
    /// Puts an issuer together; an error names the file that is wrong.
    pub(super) fn new(
        authority_pem: String,
        certificate_pem: String,
        key: KeyPair,
    ) -> Result<Self, (&'static str, String)> {
        let wrong = |file| move |error: &dyn std::fmt::Display| (file, error.to_string());
        let der = |pem: &str, file| {
            CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| wrong(file)(&error))
        };
        let authority = der(&authority_pem, AUTHORITY_FILE)?;
        let certificate = der(&certificate_pem, ISSUER_FILE)?;
        let root = spki_of(&authority).map_err(|what| (AUTHORITY_FILE, what))?;
        let own = spki_of(&certificate).map_err(|what| (ISSUER_FILE, what))?;
        if own != key.subject_public_key_info() {
            return Err((ISSUER_KEY_FILE, "does not belong to the certificate".to_owned()));
        }
        let secret = hmac::Key::new(hmac::HMAC_SHA256, key.serialized_der());
        let token_key = hmac::sign(&secret, b"shoal join token key, version 1");
        Ok(Self {
            authority_pin: key_pin(&root),
            token_key: hmac::Key::new(hmac::HMAC_SHA256, token_key.as_ref()),
            until_unix_s: lease_of(&certificate).map_err(|what| (ISSUER_FILE, what))?.until_unix_s,
            signer: rcgen::Issuer::from_ca_cert_der(&certificate, key)
                .map_err(|error| wrong(ISSUER_FILE)(&error))?,
            certificate_pem,
            authority_pem,
            certificate,
            authority,
        })
    }

    /// Whether `dir` holds an issuer's key.
    #[must_use]
    pub fn is_in(dir: &Path) -> bool {
        dir.join(ISSUER_KEY_FILE).exists()
    }

    /// Reads the issuer of an identity directory.
    ///
    /// # Errors
    /// [`IdentityError::Missing`], [`IdentityError::Io`] and [`IdentityError::Malformed`] name the file.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let (_, authority) = files::read(dir, AUTHORITY_FILE)?;
        let (_, certificate) = files::read(dir, ISSUER_FILE)?;
        let (key_path, key) = files::read(dir, ISSUER_KEY_FILE)?;
        files::warn_if_exposed(&key_path);
        let key = KeyPair::from_pem(&key).map_err(files::malformed(&key_path))?;
        Self::new(authority, certificate, key)
            .map_err(|(name, what)| IdentityError::Malformed { path: dir.join(name), what })
    }

    /// Writes its two files into the directory of its node's identity.
    ///
    /// # Errors
    /// [`IdentityError::Exists`] and [`IdentityError::Io`]; nothing was written then.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        files::write_all(
            dir,
            &[
                Written { name: ISSUER_KEY_FILE, text: &self.signer.key().serialize_pem(), secret: true },
                Written { name: ISSUER_FILE, text: &self.certificate_pem, secret: false },
            ],
        )
    }

    /// Notes where newcomers reach the issuer of `dir`, for the tokens that are made there.
    ///
    /// # Errors
    /// [`IdentityError::Io`]; the former address is there then.
    pub fn save_address(dir: &Path, address: &str) -> Result<(), IdentityError> {
        files::replace(dir, ADDRESS_FILE, &format!("{address}\n"))
    }

    /// Where newcomers reach the issuer of `dir`, once it has served.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn address(dir: &Path) -> Result<Option<String>, IdentityError> {
        match files::read(dir, ADDRESS_FILE) {
            Ok((_, address)) => Ok(Some(address.trim().to_owned())),
            Err(IdentityError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Issues an identity with a new key, valid for a year. Only a node's can act as a server.
    ///
    /// # Errors
    /// [`IdentityError::Name`] for a name that does not fit; [`IdentityError::Certificate`] when the system gives no
    /// randomness.
    pub fn issue(&self, role: Role, name: &str) -> Result<Identity, IdentityError> {
        self.issue_for(role, name, lease_from(unix_time_s(), IDENTITY_LIFE_S))
    }

    pub(crate) fn issue_for(&self, role: Role, name: &str, lease: Lease) -> Result<Identity, IdentityError> {
        if !is_name(name) {
            return Err(IdentityError::Name(name.to_owned()));
        }
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let leaf = self.certify(&key, role, name, lease)?;
        let chain = leaf.pem() + &self.certificate_pem;
        Identity::from_pem(chain, key.serialize_pem(), self.authority_pem.clone())
            .map_err(|(_, what)| IdentityError::Certificate(what))
    }

    /// The next certificate of an identity of this issuer's own node: nobody has to be asked for it.
    ///
    /// # Errors
    /// [`IdentityError::Certificate`] when the system gives no randomness.
    pub fn renew(&self, identity: &Identity, now_unix_s: u64) -> Result<Identity, IdentityError> {
        let key = identity.key_pair()?;
        let lease = self.member_lease(now_unix_s);
        let leaf = self.certify(&key, identity.role(), identity.name(), lease)?;
        identity.with_chain(vec![leaf.der().clone(), self.certificate.clone()])
    }

    /// From a little before now, for a day, but no longer than the issuer itself.
    pub(super) fn member_lease(&self, now_unix_s: u64) -> Lease {
        let lease = lease_from(now_unix_s, MEMBER_LIFE_S);
        Lease { until_unix_s: lease.until_unix_s.min(self.until_unix_s), ..lease }
    }

    /// Signs a certificate for a key whose owner was checked.
    pub(super) fn certify(
        &self,
        key: &impl PublicKeyData,
        role: Role,
        name: &str,
        lease: Lease,
    ) -> Result<rcgen::Certificate, IdentityError> {
        let mut params = params(name, lease);
        params.serial_number = Some(SerialNumber::from_slice(&random::<16>()?));
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
        Ok(params.signed_by(key, &self.signer)?)
    }
}

impl std::fmt::Debug for Issuer {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer").finish_non_exhaustive()
    }
}

/// A PKCS #10 request for `key`. It names nothing: role and name are the issuer's to say.
pub(super) fn request_for(key: &KeyPair) -> Result<Vec<u8>, IdentityError> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    Ok(params.serialize_request(key)?.der().to_vec())
}

/// The key of an untrusted request, which the sender has proved to hold.
pub(super) fn requested_key(csr: &[u8]) -> Result<rcgen::PublicKey, String> {
    let csr = CertificateSigningRequestParams::from_der(&csr.into()).map_err(|error| error.to_string())?;
    if csr.public_key.algorithm() != &PKCS_ED25519 {
        return Err("the key is not an Ed25519 key".to_owned());
    }
    Ok(csr.public_key)
}

pub(super) fn is_name(name: &str) -> bool {
    let fits = |char: char| char.is_ascii_alphanumeric() || ".-_".contains(char);
    !name.is_empty() && name.len() <= NAME_CHARS_MAX && name.chars().all(fits)
}

pub(super) fn random<const N: usize>() -> Result<[u8; N], IdentityError> {
    let mut bytes = [0; N];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| IdentityError::Certificate("the system gives no randomness".to_owned()))?;
    Ok(bytes)
}
