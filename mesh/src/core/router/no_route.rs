//! Dead ends, each with its name.

use shoal_protocol::ErrorCode;

/// Why no device can be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoute {
    /// Nobody is there.
    #[error("no node is known")]
    NoNode,
    /// No node lists the model: pull it somewhere, or mend the name.
    #[error("no node has the model")]
    UnknownModel,
    /// The model is there, but nowhere in the precision that was asked for.
    #[error("no node runs the model in the numerics that were asked for")]
    Numerics,
    /// No device has so much memory.
    #[error("the model fits nowhere: it needs {bytes} bytes, the largest budget has {budget_bytes}")]
    FitsNowhere {
        /// What the model needs, the least that any node says.
        bytes: u64,
        /// The largest budget of a device that has the model on disk.
        budget_bytes: u64,
    },
    /// Every node that has the model was tried.
    #[error("every node that has the model was tried")]
    Excluded,
    /// Every node that has the model is leaving.
    #[error("every node that has the model is leaving")]
    AllDraining,
    /// Every node that has the model is suspected to be dead.
    #[error("no node that has the model answers")]
    NoneAlive,
}

impl NoRoute {
    /// Whether waiting may mend it.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::NoNode | Self::Excluded | Self::AllDraining | Self::NoneAlive => true,
            Self::UnknownModel | Self::Numerics | Self::FitsNowhere { .. } => false,
        }
    }

    /// The code under which it is reported.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::UnknownModel => ErrorCode::ModelNotFound,
            Self::Numerics | Self::FitsNowhere { .. } => ErrorCode::ModelUnsupported,
            Self::AllDraining => ErrorCode::Draining,
            Self::NoNode | Self::Excluded | Self::NoneAlive => ErrorCode::Unavailable,
        }
    }
}
