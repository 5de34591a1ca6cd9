//! How a newcomer gets a certificate with a token, and how a member gets its next one.

use rkyv::{Archive, Deserialize, Serialize};

use crate::header::Kind;
use crate::ids::NodeId;
use crate::limits::{
    ADDRESS_BYTES_MAX, CERTIFICATE_BYTES_MAX, CHAIN_CERTIFICATES_MAX, JOIN_ISSUERS_MAX, JOIN_SEEDS_MAX,
    TOKEN_LABEL_BYTES_MAX,
};
use crate::message::rule;
use crate::message::session::Role;
use crate::wire::{DecodeError, wire_message};

/// What a newcomer was given out of band: whom to trust, whom to ask, and proof that it may. A secret until it is used
/// up or expired. Its printed form is this frame in base64url.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the authority's SubjectPublicKeyInfo (RFC 7469's pin): the newcomer trusts no other.
    pub authority: [u8; 32],
    /// The node whose issuer made the token and counts its uses. The newcomer shows the token to no other: whoever sees
    /// it could use it.
    pub issuer: NodeId,
    /// Where that issuer is reached (`host:port`).
    pub issuer_address: String,
    /// The role in the certificate.
    pub role: Role,
    /// The name in the certificate; empty: made from the role and the newcomer's key.
    pub label: String,
    /// When it was made, by the issuer's clock.
    pub issued_at_unix_s: u64,
    /// From when on the issuer refuses it, by the issuer's clock.
    pub expires_at_unix_s: u64,
    /// Keys that may be certified with it.
    pub uses_max: u32,
    /// Tells tokens apart.
    pub nonce: [u8; 16],
    /// The issuer's HMAC-SHA256 of everything above.
    pub mac: [u8; 32],
}

wire_message!(JoinToken, Kind::JoinToken);

impl std::fmt::Debug for JoinToken {
    /// Without what makes it a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinToken")
            .field("role", &self.role)
            .field("label", &self.label)
            .field("issuer", &self.issuer)
            .field("issuer_address", &self.issuer_address)
            .field("expires_at_unix_s", &self.expires_at_unix_s)
            .field("uses_max", &self.uses_max)
            .finish_non_exhaustive()
    }
}

/// Asks for a first certificate.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct JoinRequest {
    /// The right to ask.
    pub token: JoinToken,
    /// What the newcomer wants to be; must be the token's.
    pub role: Role,
    /// PKCS #10 request (DER), signed with the newcomer's key. Only its key is used.
    pub csr: Vec<u8>,
    /// The newcomer's clock.
    pub now_unix_s: u64,
}

wire_message!(JoinRequest, Kind::JoinRequest);

/// Asks for the next certificate of the same key. Who asks is told by the certificate of the connection.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct RenewRequest {
    /// PKCS #10 request (DER), signed with the key of the connection's certificate.
    pub csr: Vec<u8>,
    /// The member's clock.
    pub now_unix_s: u64,
}

wire_message!(RenewRequest, Kind::RenewRequest);

/// Terminal: a certificate.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct JoinGrant {
    /// Certificates (DER): the holder's first, then its issuer's.
    pub chain: Vec<Vec<u8>>,
    /// The authority's certificate (DER).
    pub authority: Vec<u8>,
    /// Where certificates are renewed (`host:port`, in order of preference).
    pub issuers: Vec<String>,
    /// Members to start from (`host:port`), the issuer's node first; for a new node only.
    pub seeds: Vec<String>,
    /// The issuer's clock.
    pub now_unix_s: u64,
}

wire_message!(JoinGrant, Kind::JoinGrant);

/// Why an issuer gives no certificate. The number is the wire form and is never reused.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RefusalReason {
    /// The request is none: no proper PKCS #10, another key type, not signed with the key that it names.
    Malformed = 1,
    /// The issuer did not make this token, or somebody changed it.
    Forged = 2,
    /// Another issuer made the token, and only that one counts its uses.
    WrongIssuer = 3,
    /// The token's time is over: ask for another.
    Expired = 4,
    /// The token was used as often as it may be: ask for another.
    Exhausted = 5,
    /// The token is for another role.
    RoleNotAllowed = 6,
    /// The two clocks are too far apart for certificates to be valid on both sides.
    ClockSkew = 7,
    /// A renewal without a valid certificate, or for another key than the certificate's.
    Uncertified = 8,
    /// The issuer has too much to do: ask again later.
    Overloaded = 9,
    /// A fault at the issuer, told in its log.
    Internal = 10,
}

/// Terminal: no certificate. The token is not used up by it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct JoinRefusal {
    /// Why.
    pub reason: RefusalReason,
    /// For people: what happened and what to do.
    pub message: String,
    /// The issuer's clock.
    pub now_unix_s: u64,
}

wire_message!(JoinRefusal, Kind::JoinRefusal);

impl JoinToken {
    fn check_as(&self, kind: Kind) -> Result<(), DecodeError> {
        rule(kind, self.issuer_address.len() <= ADDRESS_BYTES_MAX, "address too long")?;
        rule(kind, self.label.len() <= TOKEN_LABEL_BYTES_MAX, "label too long")
    }

    /// The limits that the archive's validation does not know.
    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        self.check_as(Kind::JoinToken)
    }
}

impl JoinRequest {
    /// The limits that the archive's validation does not know.
    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        rule(Kind::JoinRequest, self.csr.len() <= CERTIFICATE_BYTES_MAX, "certificate request too long")?;
        self.token.check_as(Kind::JoinRequest)
    }
}

impl RenewRequest {
    /// The limits that the archive's validation does not know.
    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        rule(Kind::RenewRequest, self.csr.len() <= CERTIFICATE_BYTES_MAX, "certificate request too long")
    }
}

impl JoinGrant {
    /// The limits that the archive's validation does not know.
    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        let kind = Kind::JoinGrant;
        let fits = |der: &Vec<u8>| der.len() <= CERTIFICATE_BYTES_MAX;
        rule(kind, self.chain.len() <= CHAIN_CERTIFICATES_MAX, "too many certificates")?;
        rule(kind, self.chain.iter().all(fits) && fits(&self.authority), "certificate too long")?;
        rule(kind, self.issuers.len() <= JOIN_ISSUERS_MAX, "too many issuers")?;
        rule(kind, self.seeds.len() <= JOIN_SEEDS_MAX, "too many seeds")?;
        let mut addresses = self.issuers.iter().chain(&self.seeds);
        rule(kind, addresses.all(|address| address.len() <= ADDRESS_BYTES_MAX), "address too long")
    }
}
