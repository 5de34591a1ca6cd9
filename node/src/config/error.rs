//! What can be wrong with a configuration.

use std::path::PathBuf;

use shoal_kernels::CONFIG_FILES;

use super::ApiKeyError;

/// The configuration cannot be used; nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML, has an unknown key, or a value of the wrong type.
    #[error("{}:{line}: {}{message}", file.display(), key.as_ref().map(|key| format!("{key}: ")).unwrap_or_default())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The key on that line, with its table.
        key: Option<String>,
        /// What is wrong and what is allowed.
        message: String,
    },
    /// A value is out of range or contradicts another.
    #[error("{place}{key} = {value}: {allowed}")]
    Value {
        /// `file:line: `, or empty where the value came from a flag.
        place: String,
        /// The key, or the flag.
        key: &'static str,
        /// What was given.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// The API-key file is unusable.
    #[error(transparent)]
    ApiKeys(#[from] ApiKeyError),
    /// HTTP would listen to the network without keys.
    #[error(
        "http.addr = {addr} is reachable from other machines, so http.api_key_file (--api-key-file) is needed: \
         a file with one key a line. Without it, HTTP listens on 127.0.0.1 only"
    )]
    PublicWithoutKeys {
        /// The address.
        addr: std::net::SocketAddr,
    },
    /// A model directory was named that is none.
    #[error("{key}: {} is no model directory: it has no {}", dir.display(), CONFIG_FILES.join(" and no "))]
    NotAModelDirectory {
        /// The key or flag.
        key: &'static str,
        /// The directory.
        dir: PathBuf,
    },
}
