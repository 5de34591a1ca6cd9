//! What a certificate says about its holder.

use sha2::{Digest, Sha256};
use shoal_protocol::NodeId;
use shoal_protocol::message::Role;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::core::Lease;

/// The DNS name in every node's certificate and in no other, under which clients verify whichever node they reach.
/// Which node it is says its key.
pub(crate) const NODE_SERVER_NAME: &str = "node.shoal.internal";

/// The URI in every certificate is `shoal://role/<role>/<name>`.
const URI_PREFIX: &str = "shoal://role/";

/// What a certificate says. Its chain is verified by TLS; this only reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) role: Role,
    pub(crate) name: String,
    /// The id of the key: SHA-256 of the SubjectPublicKeyInfo, first 16 bytes.
    pub(crate) key_id: NodeId,
    /// When it is valid.
    pub(crate) lease: Lease,
}

impl Subject {
    pub(crate) fn uri(role: Role, name: &str) -> String {
        format!("{URI_PREFIX}{}/{name}", role_name(role))
    }

    /// Reads a certificate; the error says for people why it is none of a mesh.
    pub(crate) fn of(certificate_der: &[u8]) -> Result<Self, String> {
        let certificate = parse(certificate_der)?;
        let names = certificate
            .subject_alternative_name()
            .map_err(|error| format!("subject alternative names: {error}"))?;
        let names = names.map_or(&[][..], |names| &names.value.general_names);
        let mut roles = names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => uri.strip_prefix(URI_PREFIX),
            _ => None,
        });
        let (Some(uri), None) = (roles.next(), roles.next()) else {
            return Err("names no role, or several".to_owned());
        };
        let (role, name) = uri.split_once('/').ok_or("names a role but nobody")?;
        let role = [Role::Node, Role::Client, Role::Operator]
            .into_iter()
            .find(|known| role_name(*known) == role)
            .ok_or_else(|| format!("names the unknown role {role:?}"))?;
        Ok(Self {
            role,
            name: name.to_owned(),
            key_id: key_id(certificate.public_key().raw),
            lease: lease(&certificate),
        })
    }
}

fn parse(certificate_der: &[u8]) -> Result<X509Certificate<'_>, String> {
    let parsed = X509Certificate::from_der(certificate_der);
    parsed.map(|(_, certificate)| certificate).map_err(|error| format!("not a certificate: {error}"))
}

fn lease(certificate: &X509Certificate<'_>) -> Lease {
    // Before 1970 is as good as 1970.
    let unix_s = |time: i64| u64::try_from(time).unwrap_or(0);
    let validity = certificate.validity();
    Lease {
        from_unix_s: unix_s(validity.not_before.timestamp()),
        until_unix_s: unix_s(validity.not_after.timestamp()),
    }
}

/// When a certificate is valid.
pub(super) fn lease_of(certificate_der: &[u8]) -> Result<Lease, String> {
    Ok(lease(&parse(certificate_der)?))
}

/// A certificate's SubjectPublicKeyInfo.
pub(crate) fn spki_of(certificate_der: &[u8]) -> Result<Vec<u8>, String> {
    Ok(parse(certificate_der)?.public_key().raw.to_vec())
}

/// The pin of a key, given its SubjectPublicKeyInfo (RFC 7469): all of its SHA-256.
pub(crate) fn key_pin(spki_der: &[u8]) -> [u8; 32] {
    Sha256::digest(spki_der).into()
}

/// The id of a key, given its SubjectPublicKeyInfo.
pub(super) fn key_id(spki_der: &[u8]) -> NodeId {
    let mut id = NodeId::default();
    id.0.copy_from_slice(&key_pin(spki_der)[..16]);
    id
}

pub(crate) const fn role_name(role: Role) -> &'static str {
    match role {
        Role::Node => "node",
        Role::Client => "client",
        Role::Operator => "operator",
    }
}
