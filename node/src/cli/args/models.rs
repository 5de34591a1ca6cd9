//! `shoal models` and `shoal verify`.

use clap::{Args, Subcommand};

use super::{DeviceArgs, MeshArgs};

/// `shoal models`
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(in crate::cli) struct ModelsArgs {
    #[command(subcommand)]
    pub(in crate::cli) command: Option<ModelsCommand>,
    #[command(flatten)]
    pub(in crate::cli) mesh: MeshArgs,
    /// Print one JSON object.
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

/// What to do with one model.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ModelsCommand {
    /// Print what a model's files describe and how this machine would run it, or which property is not covered.
    Explain(ModelsExplainArgs),
}

/// `shoal models explain`
#[derive(Args, Debug)]
pub(in crate::cli) struct ModelsExplainArgs {
    /// A directory in Hugging Face layout, or the name of an installed model.
    #[arg(value_name = "NAME|DIR")]
    pub(in crate::cli) model: String,
    #[command(flatten)]
    pub(in crate::cli) device: DeviceArgs,
}

/// `shoal verify`
#[derive(Args, Debug)]
pub(in crate::cli) struct VerifyArgs {
    /// A directory in Hugging Face layout, or the name of an installed model.
    #[arg(value_name = "NAME|DIR")]
    pub(in crate::cli) model: String,
    #[command(flatten)]
    pub(in crate::cli) device: DeviceArgs,
    /// Print one JSON object.
    #[arg(long)]
    pub(in crate::cli) json: bool,
}
