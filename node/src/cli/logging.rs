//! Logs on stderr: `SHOAL_LOG`, else `RUST_LOG`, else what the command is worth.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::config::Environment;

/// Starts logging at `default` unless the environment says otherwise. A filter that cannot be read is an error,
/// because a log that was asked for must not be missing silently.
pub(super) fn start(default: &str, environment: &Environment) -> Result<(), String> {
    let (name, filter) = ["SHOAL_LOG", "RUST_LOG"]
        .into_iter()
        .find_map(|name| Some((name, environment.get(name)?)))
        .unwrap_or(("default", default));
    let filter = EnvFilter::try_new(filter).map_err(|error| format!("{name}={filter}: {error}"))?;
    let logging = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .try_init();
    logging.map_err(|error| error.to_string())
}
