//! Who may speak in a mesh: the authority that signs, the identities that it issues, and what a certificate says.

mod authority;
mod files;
mod own;
mod subject;

pub use authority::Authority;
pub use files::IdentityError;
pub use own::Identity;
pub(crate) use subject::{NODE_SERVER_NAME, Subject};

#[cfg(test)]
mod tests;
