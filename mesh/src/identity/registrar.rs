//! Who gets a certificate: an issuer, what it remembers of its tokens, and the rules.

use std::path::Path;

use shoal_protocol::NodeId;
use shoal_protocol::limits::JOIN_ISSUERS_MAX;
use shoal_protocol::message::{JoinGrant, JoinRefusal, JoinRequest, RefusalReason, RenewRequest, Role};

use super::files::IdentityError;
use super::issuer::{Issuer, requested_key};
use super::ledger::{Ledger, Right};
use super::own::Identity;
use super::subject::{Subject, key_id, role_name};

/// Clocks further apart are told so. Certificates are valid from an hour before they are made; what remains of it is
/// for the other members' clocks.
const CLOCK_APART_MAX_S: u64 = 600;

/// Answers requests for certificates. Not pure: a use of a token is on the disk before its certificate is made.
#[derive(Debug)]
pub struct Registrar {
    /// Where this issuer is at home.
    node: NodeId,
    issuer: Issuer,
    ledger: Ledger,
    /// Where certificates are renewed, this issuer first.
    issuers: Vec<String>,
}

impl Registrar {
    /// Opens the issuer of an identity directory and what it remembers. `issuers` are told to newcomers.
    ///
    /// # Errors
    /// As [`Issuer::load`]; [`IdentityError::Busy`] while another process issues from this directory.
    pub fn open(dir: &Path, issuers: Vec<String>, now_unix_s: u64) -> Result<Self, IdentityError> {
        let mut issuers = issuers;
        issuers.truncate(JOIN_ISSUERS_MAX);
        Ok(Self {
            node: Identity::load(dir)?.node_id(),
            issuer: Issuer::load(dir)?,
            ledger: Ledger::open(dir, now_unix_s)?,
            issuers,
        })
    }

    /// A newcomer with a token. Blocks until the use is on the disk.
    pub(crate) fn handle_join(
        &mut self,
        request: &JoinRequest,
        now_unix_s: u64,
    ) -> Result<JoinGrant, JoinRefusal> {
        let refuse = |reason, message: String| Err(JoinRefusal { reason, message, now_unix_s });
        let JoinRequest { token, role, csr, now_unix_s: theirs } = request;
        if token.issuer != self.node || token.authority != self.issuer.authority_pin {
            let message =
                format!("this is node {}; the token is for the issuer at node {}", self.node, token.issuer);
            return refuse(RefusalReason::WrongIssuer, message);
        }
        if !self.issuer.has_made(token) {
            return refuse(RefusalReason::Forged, "this issuer did not make the token".to_owned());
        }
        if now_unix_s >= token.expires_at_unix_s {
            let message =
                format!("the token expired {} s ago: make another", now_unix_s - token.expires_at_unix_s);
            return refuse(RefusalReason::Expired, message);
        }
        if *role != token.role {
            let (token, asked) = (role_name(token.role), role_name(*role));
            return refuse(
                RefusalReason::RoleNotAllowed,
                format!("the token is for a {token}, not for a {asked}"),
            );
        }
        check_clocks(*theirs, now_unix_s)?;
        let Ok(key) = requested_key(csr) else {
            return refuse(RefusalReason::Malformed, NO_PROOF.to_owned());
        };
        let id = key_id(&rcgen::PublicKeyData::subject_public_key_info(&key));
        match self.ledger.right(token, id, now_unix_s) {
            Right::New => {
                if let Err(error) = self.ledger.record(token, id) {
                    tracing::error!(%error, "the use of a join token could not be recorded");
                    return refuse(
                        RefusalReason::Internal,
                        "the issuer cannot record the use of the token".to_owned(),
                    );
                }
            }
            Right::Again => {}
            Right::Exhausted => {
                let message =
                    format!("the token was good for {} and is used up: make another", token.uses_max);
                return refuse(RefusalReason::Exhausted, message);
            }
            Right::Full => {
                let message = "the issuer remembers too many uses of tokens: try again when some expired";
                return refuse(RefusalReason::Overloaded, message.to_owned());
            }
        }
        let name = if token.label.is_empty() { name_of(*role, id) } else { token.label.clone() };
        self.grant(&key, *role, &name, now_unix_s)
    }

    /// A member whose certificate TLS has verified on this connection, or nobody.
    pub(crate) fn handle_renew(
        &mut self,
        request: &RenewRequest,
        certified: Option<&Subject>,
        now_unix_s: u64,
    ) -> Result<JoinGrant, JoinRefusal> {
        let refuse =
            |reason, message: &str| Err(JoinRefusal { reason, message: message.to_owned(), now_unix_s });
        let Some(subject) = certified else {
            return refuse(RefusalReason::Uncertified, "a renewal needs the present certificate");
        };
        // The connection may be older than the certificate's end.
        if now_unix_s >= subject.lease.until_unix_s {
            return refuse(
                RefusalReason::Uncertified,
                "the certificate has expired: join again with a token",
            );
        }
        check_clocks(request.now_unix_s, now_unix_s)?;
        let Ok(key) = requested_key(&request.csr) else {
            return refuse(RefusalReason::Malformed, NO_PROOF);
        };
        if key_id(&rcgen::PublicKeyData::subject_public_key_info(&key)) != subject.key_id {
            return refuse(
                RefusalReason::Uncertified,
                "the request is for another key than the certificate's",
            );
        }
        self.grant(&key, subject.role, &subject.name, now_unix_s)
    }

    fn grant(
        &self,
        key: &rcgen::PublicKey,
        role: Role,
        name: &str,
        now_unix_s: u64,
    ) -> Result<JoinGrant, JoinRefusal> {
        let leaf =
            self.issuer.certify(key, role, name, self.issuer.member_lease(now_unix_s)).map_err(|error| {
                tracing::error!(%error, "a certificate could not be signed");
                let message = "the issuer cannot sign".to_owned();
                JoinRefusal { reason: RefusalReason::Internal, message, now_unix_s }
            })?;
        Ok(JoinGrant {
            chain: vec![leaf.der().to_vec(), self.issuer.certificate.to_vec()],
            authority: self.issuer.authority.to_vec(),
            issuers: self.issuers.clone(),
            seeds: Vec::new(), // who is there is the node's to say
            now_unix_s,
        })
    }
}

const NO_PROOF: &str = "not a certificate request for an Ed25519 key, signed with that key";

fn check_clocks(theirs: u64, ours: u64) -> Result<(), JoinRefusal> {
    let apart_s = theirs.abs_diff(ours);
    if apart_s <= CLOCK_APART_MAX_S {
        return Ok(());
    }
    let side = if theirs < ours { "behind" } else { "ahead of" };
    let message = format!(
        "this machine's clock is {apart_s} s {side} the issuer's; certificates need clocks within \
         {CLOCK_APART_MAX_S} s: set the clocks (NTP) and try again"
    );
    Err(JoinRefusal { reason: RefusalReason::ClockSkew, message, now_unix_s: ours })
}

fn name_of(role: Role, key: NodeId) -> String {
    let id = key.to_string();
    format!("{}-{}", role_name(role), &id[..8])
}
