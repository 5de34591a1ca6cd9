//! Keys that change while the node runs.

use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use crate::config::ApiKeys;

/// A revoked key is refused after this time at the latest. The file is small and read as a whole: its time stamp would
/// miss a second change within one tick of the file system's clock.
const INTERVAL: Duration = Duration::from_secs(1);

/// Reads the key file again and again, on a thread of its own because a file system may block. A file that cannot be
/// used changes nothing: half a file, as an editor leaves it for a moment, must not lock every caller out.
#[derive(Debug)]
pub(super) struct KeyWatch {
    /// Dropped to end the thread.
    _stop: SyncSender<()>,
}

impl KeyWatch {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub(super) fn start(keys: ApiKeys) -> std::io::Result<Self> {
        let (stop, stopped) = sync_channel::<()>(0);
        std::thread::Builder::new().name("api-keys".to_owned()).spawn(move || {
            let mut told = None;
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                reload(&keys, &mut told);
            }
        })?;
        Ok(Self { _stop: stop })
    }
}

/// Reads once. The same failure is told once.
fn reload(keys: &ApiKeys, told: &mut Option<String>) {
    match keys.reload() {
        Ok(changed) => {
            *told = None;
            if changed {
                tracing::info!(?keys, "the API keys changed");
            }
        }
        Err(error) => {
            let error = error.to_string();
            if told.as_ref() != Some(&error) {
                tracing::error!(%error, "the API keys stay as they were");
                *told = Some(error);
            }
        }
    }
}
