//! How the process ends: the codes that scripts branch on, and which failure gets which.

use std::process::ExitCode;

use shoal_mesh::{ClientError, ConnectError};
use shoal_protocol::ErrorCode;

use crate::config::ConfigError;
use crate::store::StoreError;
use crate::store::pull::PullError;

/// The process's exit code. Never 101: a panic is reported as [`Exit::Unavailable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Exit {
    /// Everything asked for was done.
    Ok = 0,
    /// `demo` only: something failed or came twice.
    DemoFailed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The model or the configuration is wrong.
    Model = 3,
    /// The input is wrong, or an item of it failed.
    Input = 4,
    /// Unavailable, overloaded or past the deadline.
    Unavailable = 5,
    /// Interrupted by the user.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command ends early: what to tell, and the code.
#[derive(Debug)]
pub(super) struct Stop {
    pub(super) exit: Exit,
    /// Empty where there is nothing to tell (closed pipe, interrupt).
    pub(super) message: String,
}

impl Stop {
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// Ends without a word.
    pub(super) fn silent(exit: Exit) -> Self {
        Self::new(exit, "")
    }

    /// For `map_err`: any error, told as it is.
    pub(super) fn with<E: std::fmt::Display>(exit: Exit) -> impl FnOnce(E) -> Self {
        move |error| Self::new(exit, error.to_string())
    }
}

impl From<ConfigError> for Stop {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Model, error.to_string())
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::new(Exit::Model, error.to_string())
    }
}

impl From<PullError> for Stop {
    fn from(error: PullError) -> Self {
        let exit = match &error {
            PullError::Store(_) => Exit::Model,
            PullError::DiskFull { .. } | PullError::Disk { .. } | PullError::NoSource { .. } => {
                Exit::Unavailable
            }
        };
        Self::new(exit, error.to_string())
    }
}

impl From<ConnectError> for Stop {
    fn from(error: ConnectError) -> Self {
        let exit = match &error {
            ConnectError::Untrusted { .. }
            | ConnectError::Forbidden { .. }
            | ConnectError::Setup(_)
            | ConnectError::Version { .. }
            | ConnectError::NoAddress => Exit::Model,
            ConnectError::Resolve { .. }
            | ConnectError::Local(_)
            | ConnectError::NoAnswer { .. }
            | ConnectError::Overloaded { .. }
            | ConnectError::OtherNode { .. }
            | ConnectError::Full
            | ConnectError::Broken { .. } => Exit::Unavailable,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<ClientError> for Stop {
    fn from(error: ClientError) -> Self {
        let exit = match error.code() {
            ErrorCode::TooLong => Exit::Input,
            ErrorCode::InvalidRequest
            | ErrorCode::ModelNotFound
            | ErrorCode::ModelUnsupported
            | ErrorCode::ModelBroken
            | ErrorCode::Forbidden => Exit::Model,
            ErrorCode::Overloaded
            | ErrorCode::Redirect
            | ErrorCode::Loading
            | ErrorCode::DeadlineExceeded
            | ErrorCode::Cancelled
            | ErrorCode::Draining
            | ErrorCode::DeviceFailed
            | ErrorCode::Unavailable
            | ErrorCode::Internal => Exit::Unavailable,
        };
        Self::new(exit, error.to_string())
    }
}
