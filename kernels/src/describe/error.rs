//! Why a directory is not a model that can be run.

use std::{io, path::PathBuf};

use crate::{families::FamilyError, weights::WeightsError};

/// The directory cannot be used as a model. Nothing was loaded, and no file was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DescribeError {
    /// The operating system refused, or the file is too large to be what its name says.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Its reason.
        source: io::Error,
    },
    /// The file is not the JSON that its name promises.
    #[error("{path}: {reason}")]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser says, with line and column.
        reason: String,
    },
    /// The file asks for something that is not covered.
    #[error("{path}: {found} is not covered; covered: {covered}")]
    NotCovered {
        /// The file.
        path: PathBuf,
        /// What it asks for.
        found: String,
        /// What is covered.
        covered: &'static str,
    },
    /// The file contradicts itself or another one.
    #[error("{path}: {reason}")]
    Contradiction {
        /// The file.
        path: PathBuf,
        /// What does not fit what.
        reason: String,
    },
    /// The configuration, alone or together with the tensors, is not a covered model.
    #[error("{path}: {source}")]
    Family {
        /// The configuration.
        path: PathBuf,
        /// What is wrong with it.
        source: FamilyError,
    },
    /// The weights cannot be used.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}
