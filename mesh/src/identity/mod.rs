//! Who may speak in a mesh: the authority that signs, the identities that it issues, and what a certificate says.

mod authority;
mod files;
mod issuer;
mod ledger;
mod live;
mod newcomer;
mod own;
mod registrar;
mod subject;
mod time;
mod token;

pub use authority::Authority;
pub use files::IdentityError;
pub use issuer::Issuer;
pub use live::LiveIdentity;
pub(crate) use newcomer::Newcomer;
pub use own::Identity;
pub use registrar::Registrar;
pub(crate) use subject::{NODE_SERVER_NAME, Subject, key_pin, spki_of};
pub use time::WallClock;
pub(crate) use time::unix_time_s;
pub use token::{Token, TokenError, TokenTerms};

#[cfg(test)]
mod tests;
