//! Join tokens: made by one issuer, printed in one line, taken by that issuer only.

use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use shoal_protocol::header::Header;
use shoal_protocol::limits::{ADDRESS_BYTES_MAX, JOIN_BODY_BYTES_MAX, TOKEN_LABEL_BYTES_MAX};
use shoal_protocol::message::{JoinToken, Role};
use shoal_protocol::{Frame, Message, NodeId, WIRE_VERSION_MIN, decode, encode};

use super::files::IdentityError;
use super::issuer::{Issuer, is_name, random};
use super::subject::role_name;

/// Says what the line is, to people and to scanners for leaked secrets.
const PREFIX: &str = "shoal-join-";
/// The longest life of a token. It is a secret on its way; a day covers a reinstallation, not a forgotten file.
const TTL_MAX: Duration = Duration::from_secs(24 * 3600);
/// Keys that one token may certify: a fleet's largest batch of machines.
const USES_MAX: u32 = 4096;

const _: () = assert!(TOKEN_LABEL_BYTES_MAX == super::issuer::NAME_CHARS_MAX, "a label is a name");

/// What a new token allows.
#[derive(Clone, Debug)]
pub struct TokenTerms {
    /// The role in the certificates.
    pub role: Role,
    /// The name in them; empty: made from the role and the newcomer's key.
    pub label: String,
    /// How long it can be used; at most a day.
    pub ttl: Duration,
    /// How many keys it certifies, 1 to 4096.
    pub uses_max: u32,
    /// The issuer's node: newcomers show the token to no other.
    pub issuer: NodeId,
    /// Where newcomers reach it (`host:port`).
    pub issuer_address: String,
}

/// Why there is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a printed token, or not all of one.
    #[error("not a join token: {0}; copy the whole line that `shoal mesh token` printed")]
    Text(String),
    /// A token cannot be made on these terms.
    #[error("{0}")]
    Terms(String),
}

/// A join token. [`Display`](std::fmt::Display) gives the line that [`FromStr`] reads; it is a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token(JoinToken);

impl Token {
    /// Its wire form.
    pub(crate) fn message(&self) -> &JoinToken {
        &self.0
    }

    /// What its holder may become.
    #[must_use]
    pub fn role(&self) -> Role {
        self.0.role
    }

    /// Where its issuer is reached.
    #[must_use]
    pub fn issuer_address(&self) -> &str {
        &self.0.issuer_address
    }

    /// The node of the only issuer that takes it.
    #[must_use]
    pub fn issuer(&self) -> NodeId {
        self.0.issuer
    }

    /// When it expires, in seconds since the Unix epoch.
    #[must_use]
    pub fn expires_at_unix_s(&self) -> u64 {
        self.0.expires_at_unix_s
    }
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut frame = Vec::new();
        let message = Message::JoinToken(Box::new(self.0.clone()));
        encode(&message.into(), WIRE_VERSION_MIN, &mut frame).map_err(|_| std::fmt::Error)?;
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(frame))
    }
}

impl From<JoinToken> for Token {
    fn from(message: JoinToken) -> Self {
        Self(message)
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(line: &str) -> Result<Self, TokenError> {
        let text = |what: &dyn std::fmt::Display| TokenError::Text(what.to_string());
        let line =
            line.trim().strip_prefix(PREFIX).ok_or_else(|| text(&format!("does not start with {PREFIX}")))?;
        if line.len() > 2 * JOIN_BODY_BYTES_MAX as usize {
            return Err(text(&"too long"));
        }
        let frame = URL_SAFE_NO_PAD.decode(line).map_err(|error| text(&error))?;
        let (header, body) = frame.split_first_chunk().ok_or_else(|| text(&"cut off"))?;
        let header = Header::decode(header).map_err(|error| text(&error))?;
        match decode(&header, body).map_err(|error| text(&error))? {
            Frame { message: Message::JoinToken(token), .. } => Ok(Self(*token)),
            Frame { message, .. } => Err(text(&format!("holds a {:?}", message.kind()))),
        }
    }
}

impl Issuer {
    /// Makes a token that this issuer will take at its node.
    ///
    /// # Errors
    /// [`TokenError::Terms`] names the term that does not fit.
    pub fn mint(&self, terms: TokenTerms, now_unix_s: u64) -> Result<Token, TokenError> {
        let refuse = |what: String| Err(TokenError::Terms(what));
        let TokenTerms { role, label, ttl, uses_max, issuer, issuer_address } = terms;
        if !label.is_empty() && !is_name(&label) {
            return refuse(IdentityError::Name(label).to_string());
        }
        if ttl.as_secs() == 0 || ttl > TTL_MAX {
            return refuse(format!("a token lives from 1 s to {} h", TTL_MAX.as_secs() / 3600));
        }
        if uses_max == 0 || uses_max > USES_MAX {
            return refuse(format!("a token is good for 1 to {USES_MAX} uses"));
        }
        if !issuer_address.contains(':') || issuer_address.len() > ADDRESS_BYTES_MAX {
            return refuse(format!("address {issuer_address:?}: must be HOST:PORT"));
        }
        let mut token = JoinToken {
            authority: self.authority_pin,
            issuer,
            issuer_address,
            role,
            label,
            issued_at_unix_s: now_unix_s,
            expires_at_unix_s: now_unix_s + ttl.as_secs(),
            uses_max,
            nonce: random().map_err(|error| TokenError::Terms(error.to_string()))?,
            mac: [0; 32],
        };
        let mac = hmac::sign(&self.token_key, &signed_part(&token));
        token.mac.copy_from_slice(mac.as_ref());
        Ok(Token(token))
    }

    /// Whether this issuer made the token exactly so.
    pub(super) fn has_made(&self, token: &JoinToken) -> bool {
        hmac::verify(&self.token_key, &signed_part(token), &token.mac).is_ok()
    }
}

/// Every field but the MAC, each with its length where that varies: no two tokens have the same.
fn signed_part(token: &JoinToken) -> Vec<u8> {
    let JoinToken { authority, issuer, issuer_address, role, label, nonce, mac: _, .. } = token;
    let mut bytes = b"shoal join token, version 1".to_vec();
    bytes.extend_from_slice(authority);
    bytes.extend_from_slice(&issuer.0);
    bytes.extend_from_slice(nonce);
    for number in [token.issued_at_unix_s, token.expires_at_unix_s, u64::from(token.uses_max)] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    for text in [role_name(*role), label, issuer_address] {
        bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}
