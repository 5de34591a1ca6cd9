//! An identity whose certificate may be replaced while endpoints use it.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::files::IdentityError;
use super::own::Identity;

/// An identity as endpoints hold it: a renewed certificate is shown from the next handshake on, and connections that
/// exist go on. Clones share it.
#[derive(Clone, Debug)]
pub struct LiveIdentity(Arc<RwLock<Arc<Identity>>>);

impl From<Identity> for LiveIdentity {
    fn from(identity: Identity) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(identity))))
    }
}

impl LiveIdentity {
    /// The identity as it is now.
    #[must_use]
    pub fn current(&self) -> Arc<Identity> {
        // Replacing is one assignment; a panic cannot leave half of it.
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shows `next` from now on. It must be of the same key, role and authority: those are who this is.
    ///
    /// # Errors
    /// [`IdentityError::Certificate`]; nothing changed then.
    pub fn replace(&self, next: Identity) -> Result<(), IdentityError> {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let is_same = next.node_id() == current.node_id()
            && next.role() == current.role()
            && next.authority == current.authority;
        if !is_same {
            let what = "the new certificate is another's: of another key, role or authority";
            return Err(IdentityError::Certificate(what.to_owned()));
        }
        *current = Arc::new(next);
        Ok(())
    }
}

impl ResolvesServerCert for LiveIdentity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current().certified.clone())
    }
}

impl ResolvesClientCert for LiveIdentity {
    fn resolve(&self, _authorities: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current().certified.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
