//! What can go wrong with models on disk.

use std::path::PathBuf;

use crate::config::ConfigError;

/// A model cannot be found or read. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No entry, alias or directory has this name.
    #[error("no model is called {name:?}; known: {}. A directory in Hugging Face layout can be given by its path", known.join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The catalogue knows it, but its files are not here.
    #[error("model {name} is not installed; fetch it with `shoal pull {name}` ({})", sources.join(", then "))]
    NotInstalled {
        /// Canonical name.
        name: String,
        /// Where its files may come from.
        sources: Vec<String>,
    },
    /// A catalogue entry is unreadable or wrong.
    #[error(transparent)]
    Catalogue(#[from] ConfigError),
    /// A catalogue entry breaks a rule.
    #[error("catalogue entry {}: {message}", file.display())]
    Entry {
        /// The entry's file.
        file: PathBuf,
        /// Which rule, and what is allowed.
        message: String,
    },
}
