//! Why a node does not start.

use std::path::PathBuf;

use shoal_kernels::{CpuIsa, PlanError};
use shoal_mesh::{BindError, IdentityError};

use crate::store::StoreError;

/// Why a node does not start. Everything that was started is stopped again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The processor lacks the instruction set that was asked for.
    #[error("this processor has no {wanted}; it has {}", CpuIsa::available().map(CpuIsa::name).collect::<Vec<_>>().join(", "))]
    Isa {
        /// Asked for.
        wanted: CpuIsa,
    },
    /// The device has no kernels for the number format that was asked for.
    #[error(transparent)]
    Dtype(#[from] PlanError),
    /// A GPU was asked for, and none can be used.
    #[error("no GPU: {reason}")]
    NoGpu {
        /// Why not.
        reason: String,
    },
    /// The models on disk cannot be listed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system has no thread for the node.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
    /// An actor does not start.
    #[error("cannot start the device: {message}")]
    Device {
        /// What it said.
        message: String,
    },
    /// The node's identity cannot be read.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The node's certificate is over, and nobody renews such a one.
    #[error(
        "{}: the certificate has expired: move the directory away and join again with a token",
        dir.display()
    )]
    Expired {
        /// The identity's directory.
        dir: PathBuf,
    },
    /// The generation cannot be kept: a restarted node could not be told from its former self.
    #[error("{}: {source}", path.display())]
    Generation {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The QUIC address cannot be had.
    #[error("cannot listen for QUIC: {0}")]
    Bind(#[from] BindError),
    /// A model that is to be preloaded cannot be served.
    #[error("model {name}: {message}")]
    Preload {
        /// The name as configured.
        name: String,
        /// What happened.
        message: String,
    },
    /// A preloaded model gives wrong answers on this machine. Do not serve it; report it with the processor's name.
    #[error("model {name} fails its self-test: {message}")]
    SelfTest {
        /// The name as configured.
        name: String,
        /// Which property does not hold.
        message: String,
    },
}
