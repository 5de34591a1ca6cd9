//! A process that must not outlive the one that started it.

use std::io::{ErrorKind, Read};
use std::process;

use super::exit::{Exit, Stop};

/// Ends this process at once when its standard input ends. The other end of the pipe is closed by the system however
/// the parent dies, also by SIGKILL; reading blocks, so it has a thread.
pub(super) fn end_with_stdin() -> Result<(), Stop> {
    let wait = || {
        let mut unread = [0; 64];
        loop {
            match std::io::stdin().read(&mut unread) {
                Ok(1..) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => process::exit(Exit::Interrupted as i32),
            }
        }
    };
    let started = std::thread::Builder::new().name("shoal-parent".to_owned()).spawn(wait);
    started.map(drop).map_err(Stop::with(Exit::Unavailable))
}
